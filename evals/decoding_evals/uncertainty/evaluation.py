"""How sure a model is of its answers: by its probabilities, its samples, and other models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple

from decoding.generation.jobs import MOST_TOGETHER
from decoding.generation.prompts import prompt_ids
from decoding.generation.result import Generation
from decoding.generation.run import Run
from decoding.inference.sequences import sequence_entropy
from decoding.models.loading import LanguageModel
from decoding.passes.caches import Reader
from decoding.passes.journal import Journal, all_of
from decoding.sampling.seeds import chosen_seed
from decoding.scoring.teacher_forcing import listed
from decoding.settings.settings import DecodingSettings
from decoding.texts.chats import Chat, Conversation, Prompt, as_chat, last_of
from decoding_evals.judging.correctness import (
    CORRECTNESS,
    Judgement,
    continuing,
    judged,
    preferred,
    usual_rule,
)
from decoding_evals.judging.entailment import EntailmentModel
from decoding_evals.judging.extent import EXTENTS, cut
from decoding_evals.judging.similarity import SimilarityModel, likeness
from decoding_evals.mapping.engine import IN_PROCESS, Engine, OnProgress
from decoding_evals.mapping.units import Unit, in_units
from decoding_evals.uncertainty.estimators import probabilities as estimating
from decoding_evals.uncertainty.estimators.context_gain import ContextGain, ContextRow, context_gain
from decoding_evals.uncertainty.estimators.epistemic import (
    EpistemicUncertainty,
    Member,
    ensemble_uncertainty,
    paraphrase_uncertainty,
)
from decoding_evals.uncertainty.estimators.p_true import p_true
from decoding_evals.uncertainty.estimators.similarities import likeness_estimates
from decoding_evals.uncertainty.pages import answer_pages
from decoding_evals.uncertainty.result import PromptRow, PromptUncertainty
from decoding_evals.uncertainty.votes import votes

CANDIDATES = 5
BATCHES = 8
"""Of a unit; what its prompts begin with is read once."""


def uncertainty(
    language_model: LanguageModel,
    prompts: Iterable[Prompt | PromptRow],
    settings: DecodingSettings | str | None = None,
    *,
    num_samples: int = 10,
    max_new_tokens: int = 50,
    seed: int | None = None,
    stop: Sequence[str] = (),
    answer: str = "whole",
    chat: bool | Chat = False,
    batch_size: int = 32,
    members: Sequence[Member] = (),
    dropout: Sequence[Member] = (),
    entailment: EntailmentModel | None = None,
    similarity: SimilarityModel | None = None,
    correctness: str | None = None,
    page: int | None = None,
    engine: Engine = IN_PROCESS,
) -> Iterator[PromptUncertainty]:
    """Answer prompts, greedily and by sampling, and measure how sure the model is.

    A result depends on the seed and its row alone: a prompt that occurs again gets the same
    answers.

    Args:
        language_model: from `load_model`.
        prompts: texts, conversations, or rows that know more; all are held.
        settings: what the samples are drawn under, or its text form; default `raw`.
        num_samples: N >= 2 samples of each prompt.
        max_new_tokens: of each answer, >= 1.
        seed: as for `generate`.
        stop: strings that end an answer.
        answer: how far an answer goes: `whole`, or the first `line` or `sentence` of what is
            written (see `judging.extent.extent_end`). What is compared and judged is the answer,
            and of the tokens only its own count.
        chat: put each text into the tokenizer's chat template; as for `generate`.
        batch_size: sequences that run together; results come a batch at a time.
        members: of an ensemble, at least two if any; see `checkpoint_members`.
        dropout: passes with dropout, at least two if any; see `dropout_members`.
        entailment: sorts samples by meaning; without it, by their normalised text.
        similarity: says how alike answers are, unless `entailment` does, and which tokens matter
            (`TokenSAR`, `SentenceSAR`, `SAR`); without both, their ROUGE-L says it.
        correctness: of the greedy answer; default `contains` where all references are short (see
            `judging.correctness.usual_rule`), else `rouge-l`. `contains`: one of the references
            stands in it, both normalised, on word borders; `exact`: it equals one, both normalised;
            `f1`: at least 0.5 with one of them; `rouge-l`: at least 0.3; `likelihood`: the
            likeliest reference is likelier than every incorrect answer (its quality is the
            references' share of the probability of all).
        page: put what a page needs into the records, in this detail; see `PackedRows`. Each answer
            is read once more for it.
        engine: what answers the prompts.

    Returns:
        One result per prompt, in their order.

    Raises:
        ValueError: an argument is out of its range, or a prompt does not fit; before any work.
    """
    if isinstance(settings, str):
        settings = DecodingSettings.parse(settings)
    settings = settings or DecodingSettings()
    if num_samples < 2:
        raise ValueError(f"num_samples must be >= 2, got {num_samples}")
    if settings.greedy:
        raise ValueError("samples of a greedy setting are all the same: use temperature > 0")
    if correctness is not None and correctness not in CORRECTNESS:
        raise ValueError(f"correctness must be one of {', '.join(CORRECTNESS)}, got {correctness}")
    if answer not in EXTENTS:
        raise ValueError(f"answer must be one of {', '.join(EXTENTS)}, got {answer}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    rows = [
        PromptRow(row) if isinstance(row, str | Conversation) else row for row in listed(prompts)
    ]
    rule = correctness or usual_rule(text for row in rows for text in row.references)
    for index, row in enumerate(rows):
        for number, phrasing in enumerate(row.phrasings()):
            name = f"prompt {index + 1}" + (f", paraphrase {number}" if number else "")
            prompt_ids(language_model, phrasing, max_new_tokens, chat=chat, name=name)
    work = Answering(
        settings=settings,
        num_samples=num_samples,
        options={
            "max_new_tokens": max_new_tokens,
            "stop": tuple(stop),
            "chat": chat,
            "seed": chosen_seed(seed),
            "batch_size": batch_size,
        },
        correctness=rule,
        extent=answer,
        page=page,
    )
    answerers = Answerers(language_model, members, dropout, entailment, similarity)
    yield from engine.map(answerers, work, in_units(rows, BATCHES * work.together), None)


class Answerers(NamedTuple):
    """The models that answer and judge; see `uncertainty`."""

    language_model: LanguageModel
    members: Sequence[Member] = ()
    dropout: Sequence[Member] = ()
    entailment: EntailmentModel | None = None
    similarity: SimilarityModel | None = None


@dataclass(frozen=True, kw_only=True)
class Answering:
    """Answers the prompts of a unit."""

    settings: DecodingSettings
    num_samples: int
    options: dict[str, Any]
    """Of the `Run` that writes answers."""
    correctness: str
    extent: str
    page: int | None

    @property
    def together(self) -> int:
        """Prompts of a batch."""
        most: int = self.options["batch_size"] // (self.num_samples + 1)
        return min(max(1, most), MOST_TOGETHER)

    def parts(
        self, models: Answerers, unit: Unit, journal: Journal, on_progress: OnProgress
    ) -> Iterator[PromptUncertainty]:
        """The results of a unit, in the order of its prompts."""
        run = _Run(**vars(self), **models._asdict())
        numbered = enumerate(unit.documents, unit.first)
        while some := list(islice(numbered, self.together)):
            yield from run.batch(some, journal)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What all prompts of a unit share."""

    language_model: LanguageModel
    settings: DecodingSettings
    num_samples: int
    options: dict[str, Any]
    """Of the `Run` that writes answers."""
    members: Sequence[Member]
    dropout: Sequence[Member]
    entailment: EntailmentModel | None
    similarity: SimilarityModel | None
    correctness: str
    extent: str
    page: int | None

    @cached_property
    def answering(self) -> Run:
        """What writes answers: to each prompt a greedy one, then the samples."""
        return Run(
            language_model=self.language_model,
            settings=self.settings,
            reader=Reader(self.language_model.model),
            num_return_sequences=self.num_samples,
            alternatives=CANDIDATES - 1,
            certainty=True,
            greedy_too=True,
            max_new_tokens=self.options["max_new_tokens"],
            seed=self.options["seed"],
            stop=list(self.options["stop"]),
            chat=as_chat(self.options["chat"]),
        )

    @cached_property
    def asking(self) -> Reader:
        """What reads the questions whether answers are true."""
        return Reader(self.language_model.model)

    def batch(
        self, rows: list[tuple[int, PromptRow]], journal: Journal
    ) -> Iterator[PromptUncertainty]:
        """Results for a few prompts, also those that came before an error or an interruption."""
        done: list[PromptUncertainty] = []
        compute = partial(all_of, self.results(rows), done)
        try:
            found = journal.step(rows, compute, self.answering.reader, self.asking)
        except BaseException:
            yield from done
            raise
        yield from found

    def results(self, rows: list[tuple[int, PromptRow]]) -> Iterator[PromptUncertainty]:
        """Results for a few prompts."""
        # Equal prompts once: their samples would be counted on.
        texts = list(dict.fromkeys(row.asked() for _, row in rows))
        sequences = self.answering.sequences(texts, self.options["batch_size"])
        written = [cut(one, self.extent) for one in sequences]
        answers = {}
        for place, text in enumerate(texts):
            greedy, *drawn = written[(self.num_samples + 1) * place :][: self.num_samples + 1]
            answers[text] = greedy, tuple(drawn)
        asked = [(text, estimating.answer(best)) for text, (best, _) in answers.items()]
        said = p_true(self.language_model, asked, chat=self.options["chat"], reader=self.asking)
        truths = dict(zip(texts, said, strict=True))
        for index, row in rows:
            text = row.asked()
            yield _named(index, partial(self.result, index, row, *answers[text], truths[text]))

    def result(
        self,
        index: int,
        row: PromptRow,
        greedy: Generation,
        samples: tuple[Generation, ...],
        truth: float | None,
    ) -> PromptUncertainty:
        traces = [sample.trace for sample in samples]
        entropy = sequence_entropy(
            [trace.surprisal_nats for trace in traces], [trace.entropy_nats for trace in traces]
        )
        alike = likeness(
            [estimating.answer(sample) for sample in samples], estimating.answer(greedy),
            entailment=self.entailment, similarity=self.similarity,
        )  # fmt: skip
        epistemic = self.epistemic(row, greedy)
        return PromptUncertainty(
            index=index,
            row=row,
            greedy=greedy,
            samples=samples,
            entropy=entropy,
            labels=alike.labels,
            clustering=alike.clustering,
            similarity=alike.by,
            estimators=estimating.greedy_estimates(greedy)
            | {"PTrue": truth}
            | estimating.sample_estimates(samples, entropy)
            | estimating.cluster_estimates(alike.labels, estimating.surprisals(samples))
            | likeness_estimates(
                alike,
                greedy,
                samples,
                asked=last_of(row.asked()),
                tokenizer=self.language_model.tokenizer,
                similarity=self.similarity,
            )
            | {
                f"MutualInformation_{name}": float(value.mutual_information_nats.mean())
                for name, value in epistemic.items()
            },
            epistemic=epistemic,
            gain=self.gain(row, estimating.answer(greedy)),
            judgement=self.judged(row, estimating.answer(greedy)),
            votes=votes(samples, alike.labels, row.references, self.correctness),
            extent=self.extent,
            pages=self.pages([greedy, *samples]),
        )

    def pages(self, answers: Sequence[Generation]) -> tuple[dict[str, Any], ...] | None:
        """What the page of answers to one prompt needs, where there is to be one."""
        if self.page is None:
            return None
        reader = self.answering.reader
        return answer_pages(answers, self.language_model, self.page, reader=reader)

    def epistemic(self, row: PromptRow, greedy: Generation) -> dict[str, EpistemicUncertainty]:
        """What phrasings, members and dropout passes disagree about along the greedy answer."""
        ids = greedy.trace.ids.tolist()
        found = {}
        if row.paraphrases:
            most, chat = self.options["max_new_tokens"], self.options["chat"]
            model = self.language_model
            contexts = [prompt_ids(model, text, most, chat=chat) for text in row.phrasings()]
            found["phrasing"] = paraphrase_uncertainty(model, contexts, ids)
        for name, members in (("members", self.members), ("dropout", self.dropout)):
            if members:
                found[name] = ensemble_uncertainty(members, greedy.prompt_ids, ids)
        return found

    def gain(self, row: PromptRow, text: str) -> ContextGain | None:
        """What its context does for the first reference, or for the greedy answer."""
        known = (*row.references, text)[0]
        if row.context is None or not known.strip():
            return None
        chat = self.options["chat"]
        following = continuing(row.prompt, known, chat=chat)
        asked = ContextRow(row.prompt, row.context, following)
        try:
            [found] = context_gain(self.language_model, [asked], chat=chat)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("row 1: ")) from None
        return found

    def judged(self, row: PromptRow, text: str) -> Judgement | None:
        """The greedy answer by the row's references, or None without any to compare it with."""
        if self.correctness == "likelihood":
            if not (row.references and row.incorrect):
                return None
            return preferred(
                self.language_model, row.asked(), row.references, row.incorrect,
                chat=self.options["chat"],
            )  # fmt: skip
        return judged(text, row.references, self.correctness)


def _named(index: int, work: Callable[[], Any]) -> Any:
    """What comes of work on a prompt, or its ValueError with the prompt's number."""
    try:
        return work()
    except ValueError as error:
        raise ValueError(f"prompt {index + 1}: {error}") from None
