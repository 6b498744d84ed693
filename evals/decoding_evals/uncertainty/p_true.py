"""P(True): what a model says when it is asked whether its answer is true."""

from __future__ import annotations

from collections.abc import Iterable

from decoding.generation.prompts import prompt_ids
from decoding.models.caches import Reader
from decoding.models.loading import LanguageModel
from decoding.scoring.windows import Windows
from decoding.texts.chats import Chat, Conversation, Prompt, last_of, worded
from decoding_evals.judging.correctness import continuing
from decoding_evals.score.evaluation import score_choices

QUESTION = (
    "Question: {question}\n Possible answer: {answer}\n Is the possible answer:\n (A) True\n "
    "(B) False\n The possible answer is:"
)
TRUE = "True"


def p_true(
    language_model: LanguageModel,
    answered: Iterable[tuple[Prompt, str]],
    *,
    chat: bool | Chat = False,
    reader: Reader | None = None,
) -> list[float | None]:
    """-log p("True" | is this answer to this prompt true?), nats, of each answer; 0 is sure of it.

    The question takes the place of the prompt, or of the last message of a conversation. Among all
    that may follow it counts "True" alone, so what a model says in other words counts against it.

    Args:
        language_model: from `load_model`.
        answered: prompts with an answer to each.
        chat: put text prompts into the chat template.
        reader: keeps what questions begin with from call to call.

    Returns:
        One number for each, >= 0; None where the question does not fit the model's context.

    Source: Kadavath et al. 2022, arXiv:2207.05221, with the question of LM-Polygraph's `PTrue`.
    """
    questions = [_question(prompt, answer) for prompt, answer in answered]
    lengths = {asked: _length(language_model, asked, chat) for asked in questions}
    fitting = {asked: length for asked, length in lengths.items() if length is not None}
    if not fitting:
        return [None] * len(questions)
    rows = [(asked, [continuing(asked, TRUE, chat=chat)]) for asked in fitting]
    windows = Windows(context=max(fitting.values()))
    scores = score_choices(language_model, rows, chat=chat, windows=windows, reader=reader)
    found = {
        asked: 0.0 - of_one.log_probs_nats()[0]
        for asked, of_one in zip(fitting, scores, strict=True)
    }
    return [found.get(asked) for asked in questions]


def _question(prompt: Prompt, answer: str) -> Prompt:
    """Whether an answer is true, asked where the prompt stood."""
    if isinstance(prompt, Conversation) and prompt.messages[-1]["role"] == "assistant":
        # What the assistant has begun belongs to its answer.
        before = prompt.messages[:-1] or ({"role": "user", "content": ""},)
        prompt, answer = Conversation(before), f"{prompt.last}{answer}"
    return worded(prompt, QUESTION.format(question=last_of(prompt), answer=answer))


def _length(language_model: LanguageModel, question: Prompt, chat: bool | Chat) -> int | None:
    """Tokens that a question and what follows it have at most; None where they do not fit."""
    most = len(f" {TRUE}")
    try:
        return len(prompt_ids(language_model, question, most, chat=chat)) + most
    except ValueError:
        return None
