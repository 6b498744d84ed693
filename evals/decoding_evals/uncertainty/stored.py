"""How sure a model was of answers that were drawn elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from decoding.generation.result import Generation
from decoding.inference.intervals import ratio_of_sums
from decoding.inference.sequences import SequenceEntropy
from decoding.models.limits import positions
from decoding.models.loading import LanguageModel
from decoding.scoring.answers import EncodedDocument, answered
from decoding.scoring.teacher_forcing import AnyDocument, TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.policy import Setting
from decoding.texts.chats import Chat, Conversation, last_of
from decoding.tracing.trace import Trace
from decoding_evals.engines.drawn import Drawn, DrawnAnswer
from decoding_evals.engines.stored import StoredPrompt
from decoding_evals.judging.correctness import THRESHOLDS, continuing, judged, usual_rule
from decoding_evals.judging.entailment import EntailmentModel
from decoding_evals.judging.extent import cut, extent_end
from decoding_evals.judging.similarity import likeness
from decoding_evals.reading.records import Recorded
from decoding_evals.score.evaluation import score
from decoding_evals.showing.result import finite
from decoding_evals.showing.terminal import counted
from decoding_evals.uncertainty.estimators import probabilities as estimating
from decoding_evals.uncertainty.estimators.similarities import graph_estimates
from decoding_evals.uncertainty.pages import answer_pages
from decoding_evals.uncertainty.result import PromptRow, PromptUncertainty
from decoding_evals.uncertainty.votes import votes


def stored_uncertainty(
    prompts: Sequence[StoredPrompt],
    *,
    answer: str = "whole",
    entailment: EntailmentModel | None = None,
    correctness: str | None = None,
    language_model: LanguageModel | None = None,
    page: int | None = None,
) -> Iterator[PromptUncertainty]:
    """Measure how sure a model was of its answers, from what was written down of them.

    There is no greedy answer, and no estimator that takes one. What the log-probabilities of all
    answers to a prompt are needed for is None where they are not known, as is what their entropies
    are needed for; so are comparisons and errors where there is one answer alone. With references,
    the most common answer is judged.

    Args:
        prompts: from `decoding_evals.engines.stored.read_stored`.
        answer: as for `uncertainty`.
        entailment: as for `uncertainty`.
        correctness: as for `uncertainty`, but for `likelihood`.
        language_model: that scored the answers, see `rescored`: it makes the rows of a page.
        page: put what a page needs into the records, in this detail; as for `uncertainty`.

    Returns:
        One result per prompt, in their order.

    Raises:
        ValueError: an argument is out of its range.
    """
    if correctness is not None and correctness not in THRESHOLDS:
        rules = ", ".join(THRESHOLDS)
        raise ValueError(f"correctness must be one of {rules} of stored answers, got {correctness}")
    rule = correctness or usual_rule(
        text for one in prompts for text in one.known.get("references", ())
    )
    for index, stored in enumerate(prompts):
        result = _result(index, stored, answer, entailment, rule)
        if page is not None:
            pages = answer_pages(result.samples, language_model, page)
            result = replace(result, pages=pages)
        yield result


def check_known(prompts: Sequence[StoredPrompt]) -> list[str]:
    """What to say of answers of which too little is known.

    Raises:
        ValueError: nothing is known of any: no log-probabilities, and no two answers to one prompt.
    """
    of_prompt = [[answer.surprisal_nats for answer in one.drawn.answers] for one in prompts]
    silent = sum(not known for answers in of_prompt for known in answers)
    alone = sum(len(answers) == 1 for answers in of_prompt)
    total = counted(sum(map(len, of_prompt)), "answer")
    if not any(len(answers) > 1 or answers[0] for answers in of_prompt):
        raise ValueError(
            "the answers have no log-probabilities, and no prompt has two: nothing says how sure "
            "the model was"
        )
    lines = []
    if silent:
        lines.append(
            f"{silent:,} of {total} have no log-probabilities: what needs those of all answers to "
            "a prompt is null there"
        )
    if alone:
        lines.append(
            f"{alone:,} of {counted(len(prompts), 'prompt')} with a single answer: what compares "
            "answers is null there"
        )
    return lines


def rescored(
    language_model: LanguageModel,
    prompts: Sequence[StoredPrompt],
    setting: Setting,
    *,
    chat: bool | Chat = False,
    batch_size: int = 8,
) -> list[StoredPrompt]:
    """The same answers with a model's own log-probabilities and entropies of them.

    By their token ids behind those of the prompt where both were written down, and else as texts
    that follow the prompt, all answers to it over the same event; see `decoding.scoring.answers`.
    Nothing is known then of a text that is empty.

    Args:
        language_model: from `load_model`.
        prompts: from `read_stored`.
        setting: whose distribution q is meant.
        chat: put text prompts into the chat template, where texts are scored.
        batch_size: answers that are read together.

    Raises:
        ValueError: a prompt that no row says, ids of another vocabulary, or a row that does not fit
            into the model's positions.
    """
    limit = positions(language_model.model)
    windows = Windows(context=limit or 1 << 30, batch_size=batch_size)
    documents = [[*_documents(language_model, one, chat, limit)] for one in prompts]
    every = chain.from_iterable(documents)
    scores = score(language_model, every, windows=windows, setting=setting)
    found = []
    for one, scored_ones in zip(prompts, documents, strict=True):
        answers = []
        for answer in one.drawn.answers:
            if not (answer.text or _has_ids(one)):
                answers.append(answer._replace(surprisal_nats=None, entropy_nats=None))
                continue
            scored = next(scores)
            q = scored.under_setting
            assert q is not None
            texts = answer.texts if answer.ids is not None else scored.texts()
            answers.append(
                answer._replace(
                    texts=None if texts is None else tuple(texts),
                    ids=tuple(scored.ids.tolist()),
                    surprisal_nats=tuple(q.surprisal_nats.tolist()),
                    entropy_nats=tuple(q.entropy_nats.tolist()),
                )
            )
        drawn = Drawn(
            tuple(answers), _read_before(scored_ones) or one.drawn.prompt_ids,
            language_model.name, str(setting), one.drawn.seed, one.drawn.chat,
        )  # fmt: skip
        found.append(replace(one, drawn=drawn))
    return found


def _has_ids(stored: StoredPrompt) -> bool:
    """Whether the ids of a prompt and of all answers to it were written down."""
    return stored.drawn.prompt_ids is not None and all(one.ids for one in stored.drawn.answers)


def _documents(
    language_model: LanguageModel, stored: StoredPrompt, chat: bool | Chat, limit: int | None
) -> Iterator[AnyDocument]:
    """What to score of each answer to a prompt, but of empty texts."""
    answers, before, name = stored.drawn.answers, stored.drawn.prompt_ids, stored.place
    if _has_ids(stored):
        for answer in answers:
            assert answer.ids is not None and before is not None
            yield Recorded(name, answer.ids, "", before).document(language_model)
            _check_fit(len(before) + len(answer.ids), limit, name)
        return
    if stored.prompt is None:
        raise ValueError(f"{name}: the model needs the prompt, and no row says it")
    texts = [answer.text for answer in answers if answer.text]
    if not isinstance(stored.prompt, Conversation):
        texts = [continuing(stored.prompt, text, chat=chat) for text in texts]
    for document in answered(
        language_model.tokenizer, stored.prompt, texts, chat=chat, name=f"the prompt of {name}"
    ):
        _check_fit(len(document.front) + len(document.segment.ids), limit, name)
        yield document


def _read_before(documents: Sequence[AnyDocument]) -> tuple[int, ...]:
    """The ids that the model reads before what is scored of answers to one prompt."""
    for document in documents:
        if isinstance(document, TokenDocument):
            return tuple(document.context)
        if isinstance(document, EncodedDocument):
            first = int(document.scored.argmax())
            return (*document.front, *document.segment.ids[:first].tolist())
    return ()


def _check_fit(tokens: int, limit: int | None, name: str) -> None:
    if limit is not None and tokens > limit:
        raise ValueError(
            f"{name}: prompt and answer have {tokens:,} tokens, and the model {limit:,} positions"
        )


def _result(
    index: int,
    stored: StoredPrompt,
    extent: str,
    entailment: EntailmentModel | None,
    rule: str,
) -> PromptUncertainty:
    samples = tuple(_generation(stored, at, extent) for at in range(len(stored.drawn.answers)))
    texts = [estimating.answer(sample) for sample in samples]
    alike = likeness(texts, None, entailment=entailment)
    labels = alike.labels
    surprisals = estimating.surprisals(samples)
    ones = np.ones(len(samples))
    entropies = [sample.trace.entropy_nats.sum() for sample in samples]
    entropy = SequenceEntropy(ratio_of_sums(surprisals, ones), ratio_of_sums(entropies, ones))
    estimates = estimating.sample_estimates(samples, entropy)
    clusters = estimating.cluster_estimates(labels, surprisals)
    estimates |= clusters if len(samples) > 1 else dict.fromkeys(clusters)
    estimates |= graph_estimates(alike.samples)
    references = stored.known.get("references", ())
    common, _ = estimating.most_common(samples, labels)
    return PromptUncertainty(
        index=index if stored.index is None else stored.index,
        row=PromptRow(**{"prompt": stored.prompt, **stored.known}),
        greedy=None,
        samples=samples,
        entropy=entropy,
        labels=labels,
        clustering=alike.clustering,
        similarity=alike.by,
        estimators=dict.fromkeys((*estimating.OF_MODEL, *estimating.OF_BOTH))
        | {name: finite(value) for name, value in estimates.items()},
        epistemic={},
        gain=None,
        judgement=judged(common, references, rule),
        votes=votes(samples, labels, references, rule),
        extent=extent,
    )


def _generation(stored: StoredPrompt, at: int, extent: str) -> Generation:
    """A stored answer as one that is cut where it ends."""
    drawn, answer, prompt = stored.drawn, stored.drawn.answers[at], stored.prompt
    trace = _trace(answer)
    held: dict[str, Any] = {
        "prompt": "" if prompt is None else last_of(prompt),
        "prompt_ids": drawn.prompt_ids or (),
        "index": stored.index,
        "sample": at,
        "text": answer.text,
        "model": drawn.model,
        "settings": drawn.settings,
        "num_beams": 1,
        "seed": drawn.seed,
        "finish_reason": answer.finish_reason,
        "trace": trace,
        "chat": drawn.chat,
    }
    generation = Generation(**held)
    end = extent_end(answer.text, extent)
    if end is None or trace.texts is not None:
        return cut(generation, extent)
    # Which of its tokens are the answer's cannot be told.
    unknown = _trace(DrawnAnswer(answer.text, "stop"))
    return replace(generation, text=answer.text[:end], finish_reason="stop", trace=unknown)


def _trace(answer: DrawnAnswer) -> Trace:
    """What is known of an answer's tokens, NaN being what is not; of none, one unknown token."""
    tokens = len(answer.surprisal_nats or answer.ids or ()) or 1
    unknown = np.full(tokens, math.nan)
    known = {name: getattr(answer, name) or unknown for name in ("surprisal_nats", "entropy_nats")}
    held: dict[str, Any] = {
        **dict.fromkeys(("raw_surprisal_nats", "raw_entropy_nats", "kept", "kept_mass"), unknown),
        **dict.fromkeys(("rank", "kl_nats"), unknown),
        **{name: np.asarray(values, dtype=np.float64) for name, values in known.items()},
    }
    texts = answer.texts
    fits = texts is not None and len(texts) == tokens and "".join(texts).startswith(answer.text)
    ids = np.array(answer.ids if answer.ids else [-1] * tokens)
    return Trace(ids=ids, texts=texts if fits else None, **held)
