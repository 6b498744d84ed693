"""`Plan`: the sequences of one call, whichever engine draws them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

from transformers import PreTrainedTokenizerBase

from decoding.generation.jobs import Job, chunks, jobs_of, told
from decoding.generation.result import Generation
from decoding.generation.stopping import StopStrings
from decoding.passes.caches import Reader
from decoding.passes.journal import NO_JOURNAL, Journal, all_of
from decoding.sampling.seeds import check_seed
from decoding.scoring.windows import check_whole
from decoding.settings.policy import GREEDY, Setting
from decoding.texts.chats import Chat, Conversation, Prompt, last_of
from decoding.texts.detokenizing import token_texts
from decoding.texts.prompts import turn_ends
from decoding.tracing.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """What is common to all sequences of one call; arguments of `generate`."""

    settings: Setting
    max_new_tokens: int
    num_return_sequences: int = 1
    num_beams: int = 1
    seed: int
    stop: list[str]
    alternatives: int = 0
    certainty: bool = False
    chat: Chat | None = None
    greedy_too: bool = False
    """Whether each prompt is continued greedily besides, before its samples."""
    journal: Journal = NO_JOURNAL
    """Keeps what each batch gives."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What records call the model."""

    @abstractmethod
    def ends(self) -> list[int]:
        """The ids that end a text of the model."""

    @abstractmethod
    def encode(self, prompt: Prompt, index: int) -> list[int]:
        """What the model reads of a prompt."""

    @abstractmethod
    def batches(self, jobs: list[Job], size: int) -> Iterator[list[Job]]:
        """Cut jobs, which are sorted by length, into batches that the engine can bear."""

    @abstractmethod
    def batch(self, jobs: list[Job]) -> Iterator[Generation]:
        """Run one batch: one generation per job, with beams `num_return_sequences` of them.

        On Ctrl-C it gives those that have ended, and raises `KeyboardInterrupt` after them.
        """

    @property
    def readers(self) -> tuple[Reader, ...]:
        """What keeps something from batch to batch."""
        return ()

    @property
    def batches_together(self) -> int:
        """Within so many batches rows are sorted by length; behind them, results come in order."""
        return 8

    @cached_property
    def end(self) -> list[int]:
        """The ids that end a sequence."""
        return sorted({*self.ends(), *(turn_ends(self.tokenizer, self.chat) if self.chat else ())})

    @cached_property
    def stops(self) -> StopStrings | None:
        """What finds the stop strings; None where there are none."""
        return StopStrings(self.tokenizer, self.stop) if self.stop else None

    @cached_property
    def acting(self) -> Setting:
        """The setting, with ids where it names tokens by texts."""
        return self.settings.for_tokenizer(self.tokenizer)

    def check(self) -> None:
        """Refuse what cannot work before any work is done."""
        check_whole("alternatives", self.alternatives)
        for name in ("max_new_tokens", "num_return_sequences", "num_beams"):
            check_whole(name, getattr(self, name))
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        check_seed(self.seed)
        for one in self.stop:
            if not isinstance(one, str):
                raise ValueError(f"a stop string must be a text, got {one!r}")
        if "" in self.stop:
            raise ValueError("a stop string must not be empty")
        if self.chat is not None and not self.tokenizer.chat_template:
            raise ValueError("chat needs a tokenizer with a chat template, and this one has none")

    def sequences(self, prompts: list[Prompt], batch_size: int) -> Iterator[Generation]:
        """The generations, ordered by prompt, then sample; none is held once it is handed on.

        Where there is a conversation, `chat` is on. On Ctrl-C it gives those that are finished, and
        raises `KeyboardInterrupt` after them.
        """
        if self.chat is None and any(isinstance(prompt, Conversation) for prompt in prompts):
            yield from replace(self, chat=Chat()).sequences(prompts, batch_size)
            return
        check_whole("batch_size", batch_size)
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        self.check()
        per_batch = max(1, batch_size // self.num_beams)
        # All prompts are encoded first, so that a bad one is refused before any work is done.
        encoded = [(prompt, self.encode(prompt, i)) for i, prompt in enumerate(prompts)]
        all_jobs = jobs_of(
            encoded, self.num_return_sequences, beams=self.num_beams > 1, greedy_too=self.greedy_too
        )
        for together in chunks(all_jobs, per_batch * self.batches_together):
            by_length = sorted(together, key=lambda job: len(job.ids))
            done: list[Generation] = []
            try:
                for batch in self.batches(by_length, per_batch):
                    finished = partial(all_of, self.batch(batch), done)
                    done += self.journal.step(told(batch), finished, *self.readers)
            finally:
                done.sort(key=lambda generation: (generation.index, generation.sample))
                yield from done

    def generation(self, job: Job, beam: int, trace: Trace, reason: str) -> Generation:
        """A finished sequence; see `Generation.finish_reason`."""
        ids = trace.ids.tolist()
        texts = token_texts(self.tokenizer, ids, job.ids)
        runners_up = None
        if trace.alternatives is not None:
            steps = enumerate(trace.alternatives.ids.tolist())
            runners_up = tuple(
                tuple(token_texts(self.tokenizer, [one], [*job.ids, *ids[:i]])[0] for one in others)
                for i, others in steps
            )
        return Generation(
            prompt=last_of(job.prompt),
            messages=job.prompt.messages if isinstance(job.prompt, Conversation) else None,
            chat=None if self.chat is None else self.chat.record(self.tokenizer),
            prompt_ids=tuple(job.ids),
            index=job.index,
            sample=job.sample + beam,
            text="".join(texts),
            model=self.name,
            settings=GREEDY if job.greedy else self.settings,
            num_beams=self.num_beams,
            seed=self.seed,
            finish_reason=reason,
            trace=replace(trace, texts=texts),
            alternative_texts=runners_up,
        )
