"""How sure a model is of its answers: by its probabilities, its samples, and other models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple

from decoding.generation.jobs import MOST_TOGETHER
from decoding.generation.prompts import prompt_ids
from decoding.generation.result import Generation
from decoding.generation.run import Run
from decoding.generation.seeds import chosen_seed
from decoding.inference.sequences import SequenceEntropy, sequence_entropy
from decoding.models.caches import Reader
from decoding.models.loading import LanguageModel
from decoding.scoring.teacher_forcing import listed
from decoding.settings.settings import DecodingSettings
from decoding.texts.chats import Chat, Conversation, Prompt, as_chat, last_of, worded
from decoding_evals.judging.answers import distinct
from decoding_evals.judging.correctness import (
    CORRECTNESS,
    THRESHOLDS,
    Judgement,
    continuing,
    judged,
    preferred,
    usual_rule,
)
from decoding_evals.judging.entailment import EntailmentModel, entailment_clusters
from decoding_evals.showing.result import TextResult, quoted
from decoding_evals.uncertainty import estimators as estimating
from decoding_evals.uncertainty.context_gain import ContextGain, ContextRow, context_gain
from decoding_evals.uncertainty.epistemic import (
    EpistemicUncertainty,
    Member,
    ensemble_uncertainty,
    paraphrase_uncertainty,
)
from decoding_evals.uncertainty.tables import prompt_lines

CANDIDATES = 5


class PromptRow(NamedTuple):
    """A prompt and what is known about it."""

    prompt: Prompt
    references: tuple[str, ...] = ()
    """Correct answers."""
    incorrect: tuple[str, ...] = ()
    """Incorrect answers, for `likelihood`."""
    paraphrases: tuple[str, ...] = ()
    """The prompt in other words."""
    context: str | None = None
    """What stands before the prompt, on lines of its own."""

    def asked(self) -> Prompt:
        """What the model continues."""
        if self.context is None:
            return self.prompt
        return worded(self.prompt, f"{self.context}\n{last_of(self.prompt)}")

    def phrasings(self) -> list[Prompt]:
        """The prompt and its paraphrases, each as the model would be given it."""
        others = [worded(self.prompt, text) for text in self.paraphrases]
        return [self._replace(prompt=prompt).asked() for prompt in (self.prompt, *others)]


@dataclass(frozen=True)
class PromptUncertainty(TextResult):
    """What is known about the answer to one prompt."""

    _tables = staticmethod(prompt_lines)

    row: PromptRow
    greedy: Generation
    samples: tuple[Generation, ...]
    entropy: SequenceEntropy
    """Of the whole answer, estimated from the samples."""
    labels: list[int]
    """The cluster of each sample."""
    clustering: str
    """What the samples were sorted by."""
    estimators: estimating.Estimates
    """A larger value is less certain; None where undefined."""
    epistemic: dict[str, EpistemicUncertainty]
    """Along the greedy answer, by what differs: `phrasing`, `members`, `dropout`."""
    gain: ContextGain | None
    judgement: Judgement | None
    """Of the greedy answer; None without references."""

    @property
    def quality(self) -> float | None:
        """Of the greedy answer, in [0, 1]; None without references."""
        return None if self.judgement is None else self.judgement.quality

    @property
    def correct(self) -> bool | None:
        """Whether the greedy answer counts as correct; None without references."""
        return None if self.judgement is None else self.judgement.correct

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        answer = quoted(estimating.answer(self.greedy))
        surprisal = math.fsum(self.greedy.trace.raw_surprisal_nats)
        return f"{quoted(last_of(self.row.prompt))} → {answer}", f"-log p {surprisal:.4f} nats"

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        trace = self.greedy.trace
        first = self.greedy.record()["tokens"][0]
        first["raw_probability"] = math.exp(-first["raw_surprisal_nats"])
        names = {"id": "id", "text": "text", "probability": "raw_probability"}
        entropies = {
            "MonteCarloSequenceEntropy": self.entropy.monte_carlo,
            "RaoBlackwellSequenceEntropy": self.entropy.rao_blackwellised,
        }
        text, share = estimating.most_common(self.samples, self.labels)
        asked, how = self.row.prompt, self.greedy.chat
        messages = {} if isinstance(asked, str) else {"messages": [*map(dict, asked.messages)]}
        chat = None if how is None else dict(how)
        return {
            **self.heading(),
            "prompt": last_of(self.row.prompt),
            **messages,
            "context": self.row.context,
            "model": self.greedy.model,
            "settings": str(self.samples[0].settings),
            "seed": self.greedy.seed,
            "chat": chat,
            "greedy": estimating.answer(self.greedy),
            "samples": [estimating.answer(sample) for sample in self.samples],
            "next_token_entropy_nats": float(trace.raw_entropy_nats[0]),
            "next_token_candidates": [
                {name: token[key] for name, key in names.items()}
                for token in (first, *first["alternatives"])
            ],
            "estimators": self.estimators,
            "standard_errors": {
                name: float(entropy.standard_error) for name, entropy in entropies.items()
            },
            "better_sequence_entropy": next(
                name for name, entropy in entropies.items() if entropy is self.entropy.better
            ),
            "samples_cut_off": sum(sample.finish_reason == "length" for sample in self.samples),
            "sample_tokens": [len(sample.trace) for sample in self.samples],
            "sample_surprisal_nats": estimating.surprisals(self.samples),
            "sample_entropy_nats": [
                math.fsum(sample.trace.entropy_nats) for sample in self.samples
            ],
            "clusters": self.labels,
            "clustering": self.clustering,
            "most_common_answer": {"text": text, "share": share},
            "epistemic": {name: value.record() for name, value in self.epistemic.items()},
            "context_gain": None if self.gain is None else self.gain.record(),
            "references": list(self.row.references),
            "quality": self.quality,
            "correct": self.correct,
            "compared": None if self.judgement is None else self.judgement.record(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row: the prompt, its greedy answer, and each estimator."""
        record = self.record()
        names = ("index", "prompt", "greedy", "next_token_entropy_nats", "quality", "correct")
        return [{name: record[name] for name in names} | self.estimators]


def uncertainty(
    language_model: LanguageModel,
    prompts: Iterable[Prompt | PromptRow],
    settings: DecodingSettings | str | None = None,
    *,
    num_samples: int = 10,
    max_new_tokens: int = 50,
    seed: int | None = None,
    stop: Sequence[str] = (),
    chat: bool | Chat = False,
    batch_size: int = 32,
    members: Sequence[Member] = (),
    dropout: Sequence[Member] = (),
    entailment: EntailmentModel | None = None,
    correctness: str | None = None,
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
        chat: put each text into the tokenizer's chat template; as for `generate`.
        batch_size: sequences that run together; results come a batch at a time.
        members: of an ensemble, at least two if any; see `checkpoint_members`.
        dropout: passes with dropout, at least two if any; see `dropout_members`.
        entailment: sorts samples by meaning; without it, by their normalised text.
        correctness: of the greedy answer; default `contains` where all references are short (see
            `judging.correctness.usual_rule`), else `rouge-l`. `contains`: one of the references
            stands in it, both normalised, on word borders; `exact`: it equals one, both normalised;
            `f1`: at least 0.5 with one of them; `rouge-l`: at least 0.3; `likelihood`: the
            likeliest reference is likelier than every incorrect answer (its quality is the
            references' share of the probability of all).

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
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    rows = [
        PromptRow(row) if isinstance(row, str | Conversation) else row for row in listed(prompts)
    ]
    rule = correctness or usual_rule(text for row in rows for text in row.references)
    for index, row in enumerate(rows):
        if row.references and rule in THRESHOLDS:  # a bad reference is refused before any work
            _named(index, partial(judged, "", row.references, rule))
        for number, phrasing in enumerate(row.phrasings()):
            name = f"prompt {index + 1}" + (f", paraphrase {number}" if number else "")
            prompt_ids(language_model, phrasing, max_new_tokens, chat=chat, name=name)
    run = _Run(
        language_model=language_model,
        settings=settings,
        num_samples=num_samples,
        options={
            "max_new_tokens": max_new_tokens,
            "stop": stop,
            "chat": chat,
            "seed": chosen_seed(seed),
            "batch_size": batch_size,
        },
        members=members,
        dropout=dropout,
        entailment=entailment,
        correctness=rule,
    )
    numbered = iter(enumerate(rows))
    together = min(max(1, batch_size // (num_samples + 1)), MOST_TOGETHER)
    while some := list(islice(numbered, together)):
        yield from run.batch(some)


@dataclass(frozen=True)
class _Run:
    """What all prompts of one call share."""

    language_model: LanguageModel
    settings: DecodingSettings
    num_samples: int
    options: dict[str, Any]
    """Of the `Run` that writes answers."""
    members: Sequence[Member]
    dropout: Sequence[Member]
    entailment: EntailmentModel | None
    correctness: str

    @cached_property
    def answering(self) -> Run:
        """What writes answers: to each prompt a greedy one, then the samples."""
        return Run(
            language_model=self.language_model,
            settings=self.settings,
            reader=Reader(self.language_model.model),
            num_return_sequences=self.num_samples,
            alternatives=CANDIDATES - 1,
            greedy_too=True,
            max_new_tokens=self.options["max_new_tokens"],
            seed=self.options["seed"],
            stop=list(self.options["stop"]),
            chat=as_chat(self.options["chat"]),
        )

    def batch(self, rows: list[tuple[int, PromptRow]]) -> Iterator[PromptUncertainty]:
        """Results for a few prompts."""
        # Equal prompts once: their samples would be counted on.
        texts = list(dict.fromkeys(row.asked() for _, row in rows))
        written = [*self.answering.sequences(texts, self.options["batch_size"])]
        answers = {}
        for place, text in enumerate(texts):
            greedy, *drawn = written[(self.num_samples + 1) * place :][: self.num_samples + 1]
            answers[text] = greedy, tuple(drawn)
        for index, row in rows:
            yield _named(index, partial(self.result, index, row, *answers[row.asked()]))

    def result(
        self, index: int, row: PromptRow, greedy: Generation, samples: tuple[Generation, ...]
    ) -> PromptUncertainty:
        traces = [sample.trace for sample in samples]
        entropy = sequence_entropy(
            [trace.surprisal_nats for trace in traces], [trace.entropy_nats for trace in traces]
        )
        labels, clustering = self.clusters([estimating.answer(sample) for sample in samples])
        epistemic = self.epistemic(row, greedy)
        return PromptUncertainty(
            index=index,
            row=row,
            greedy=greedy,
            samples=samples,
            entropy=entropy,
            labels=labels,
            clustering=clustering,
            estimators=estimating.greedy_estimates(greedy)
            | estimating.sample_estimates(samples, entropy)
            | estimating.cluster_estimates(labels, estimating.surprisals(samples))
            | {
                f"MutualInformation_{name}": float(value.mutual_information_nats.mean())
                for name, value in epistemic.items()
            },
            epistemic=epistemic,
            gain=self.gain(row, estimating.answer(greedy)),
            judgement=self.judged(row, estimating.answer(greedy)),
        )

    def clusters(self, texts: list[str]) -> tuple[list[int], str]:
        """The cluster of each answer, and what decided."""
        if self.entailment is None:
            return distinct(texts), "normalised text"
        return entailment_clusters(texts, self.entailment), f"entailment by {self.entailment.name}"

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
        """The greedy answer by the row's references, or None without any."""
        if not row.references or (self.correctness == "likelihood" and not row.incorrect):
            return None
        if self.correctness == "likelihood":
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
