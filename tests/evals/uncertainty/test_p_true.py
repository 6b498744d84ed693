"""P(True) against the model's own logits, read by transformers."""

import pytest

from decoding.models.loading import LanguageModel
from decoding.texts.chats import Conversation
from decoding_evals.uncertainty.estimators.p_true import p_true
from oracle import log_softmax, teacher_forced

ASKED = (
    "Question: {}\n Possible answer: {}\n Is the possible answer:\n (A) True\n (B) False\n "
    "The possible answer is:"
)
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}<assistant>"


def surprisal(model, before, after):
    rows = teacher_forced(model, before, after)
    return -sum(log_softmax(row)[token] for row, token in zip(rows, after, strict=True))


def test_it_is_the_surprisal_of_true_after_the_question(stories):
    rows = [("What is {this}?", "a dog"), ("Who?", ""), ("What is {this}?", "a dog")]
    found = p_true(stories, rows)
    for (prompt, answer), value in zip(rows, found, strict=True):
        text = ASKED.format(prompt, answer)
        before, whole = (stories.tokenizer(t)["input_ids"] for t in (text, text + " True"))
        assert whole[: len(before)] == before
        assert value == pytest.approx(
            surprisal(stories.model, before, whole[len(before) :]), abs=1e-3
        )
    assert found[0] == found[2] != found[1]


@pytest.fixture(scope="module")
def chatting(stories):
    """The embedded model with a template that changes nothing of what is said."""
    import copy

    tokenizer = copy.deepcopy(stories.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return LanguageModel(stories.model, tokenizer, "chatting")


@pytest.mark.parametrize(
    ("prompt", "answer", "before", "question"),
    [
        ("Who?", "Tom", "", ("Who?", "Tom")),
        (
            [("system", "Be kind."), ("user", "Who?")],
            "Tom", "<system>Be kind.<end>", ("Who?", "Tom"),
        ),
        (
            [("user", "Who?"), ("assistant", "It is")],
            " Tom", "", ("Who?", "It is Tom"),
        ),
        ([("assistant", "It is")], " Tom", "", ("", "It is Tom")),
    ],
)  # fmt: skip
def test_under_chat_the_question_is_the_users_message(chatting, prompt, answer, before, question):
    if not isinstance(prompt, str):
        prompt = Conversation([{"role": role, "content": text} for role, text in prompt])
    [found] = p_true(chatting, [(prompt, answer)], chat=True)
    text = f"{before}<user>{ASKED.format(*question)}<end><assistant>"
    ids, whole = (chatting.tokenizer(t)["input_ids"] for t in (text, text + "True"))
    assert whole[: len(ids)] == ids
    want = surprisal(chatting.model, ids, whole[len(ids) :])
    assert found == pytest.approx(want, abs=1e-3)


def test_a_question_that_does_not_fit_has_none(stories):
    room = stories.model.config.max_position_embeddings
    long = "dog " * (room - 20)
    found = p_true(stories, [(long, "a"), ("Who?", "a")])
    assert found[0] is None and found[1] > 0
    assert p_true(stories, [(long, "a")]) == [None]
