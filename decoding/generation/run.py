"""`generate`: prompts in, text and a `Trace` for each sequence out.

Every sequence is a row of its own, with its own uniforms, so its text does not depend on the rows
beside it. A `Sampler` draws the tokens inside `model.generate`; beam search runs the
setting's processor instead.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from decoding.generation.jobs import Job
from decoding.generation.plan import Plan
from decoding.generation.prompts import prompt_ids
from decoding.generation.result import Generation, StreamedToken
from decoding.generation.stopping import Finished
from decoding.models.devices import input_device
from decoding.models.limits import vocabulary
from decoding.models.loading import LanguageModel, check_language_model
from decoding.passes.batching import batches
from decoding.passes.caches import Reader
from decoding.sampling.prefill import read_once
from decoding.sampling.sampler import Sampler
from decoding.sampling.seeds import chosen_seed, uniforms
from decoding.sampling.stepping import (
    check_configuration,
    check_generation,
    check_together,
    evaluating,
    generate_of,
    generated_together,
)
from decoding.settings.policy import RAW, Setting, as_setting
from decoding.settings.settings import DecodingSettings
from decoding.texts.chats import Chat, Prompt, as_chat, listed_prompts
from decoding.texts.detokenizing import Detokenizer
from decoding.tracing.monitor import EntropyMonitor
from decoding.tracing.trace import Trace


def generate(
    language_model: LanguageModel,
    prompts: Prompt | Iterable[Prompt],
    settings: Setting | str | None = None,
    *,
    max_new_tokens: int = 200,
    num_return_sequences: int = 1,
    num_beams: int = 1,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    batch_size: int = 8,
    alternatives: int = 0,
    certainty: bool = False,
    chat: bool | Chat = False,
    on_token: Callable[[StreamedToken], None] | None = None,
    on_generation: Callable[[Generation], None] | None = None,
) -> list[Generation]:
    """Continue prompts with a model under a decoding setting, and trace every token.

    Args:
        language_model: from `load_model`, or `LanguageModel(model, tokenizer)` around a pair of
            your own, on any device, in any floating dtype.
        prompts: one prompt or many, of any lengths: texts, or conversations (lists of messages).
            What the tokenizer puts in front of a text stands there, once, and nothing behind it; an
            empty prompt becomes BOS. Where there is a conversation, `chat` is on; one that ends
            with the assistant's message is continued there.
        settings: the decoding setting, or a policy that wraps one, or the text form of either,
            as in `"top_p=0.9"`; default `raw`. With beams, the setting that scores them.
        max_new_tokens: >= 1; prompt and new tokens together must fit the model's context.
        num_return_sequences: sequences per prompt, >= 1; with beams, at most `num_beams`.
        num_beams: 1 draws; above 1 is beam search.
        seed: 0 <= seed < 2^64; None picks one, which every `Generation` reports. A sequence is a
            function of (seed, prompt, sample): the same alone, in a batch, and in any order
            (promised for float32 on a CPU). A prompt that recurs goes on counting its samples.
        stop: strings that end a sequence when they appear in it.
        batch_size: sequences (with beams: beams) that run together, >= 1.
        alternatives: K >= 0, runners-up to record at each step.
        certainty: record each trace's `certainty`.
        chat: put each text into the tokenizer's chat template as the user's message; a `Chat` says
            how. A sequence then ends where the assistant's turn does, too.
        on_token: called with every token as it is drawn; not with beams.
        on_generation: called with every generation as it is finished, in the order of the result;
            on Ctrl-C, with those that are finished, before `KeyboardInterrupt` is raised.

    Returns:
        The generations, ordered by prompt, then sample.

    Raises:
        ValueError: an argument is out of its range, a prompt is empty and the tokenizer has no
            BOS, a prompt does not fit, the tokenizer has no chat template, or the model's
            generation configuration asks for assisted decoding or a paged cache.
        NonFiniteLogitsError: the model returned NaN.
    """
    check_language_model(language_model)
    run = Run(
        language_model=language_model,
        settings=RAW if settings is None else as_setting(settings),
        reader=Reader(language_model.model),
        max_new_tokens=max_new_tokens,
        num_return_sequences=num_return_sequences,
        num_beams=num_beams,
        seed=chosen_seed(seed),
        stop=[stop] if isinstance(stop, str) else list(stop or ()),
        alternatives=alternatives,
        certainty=certainty,
        chat=as_chat(chat),
        on_token=on_token,
    )
    generations = []
    for generation in run.sequences(listed_prompts(prompts), batch_size):
        generations.append(generation)
        if on_generation is not None:
            on_generation(generation)
    return generations


@dataclass(frozen=True, kw_only=True)
class Run(Plan):
    """Sequences that a model of transformers writes, in `model.generate`."""

    language_model: LanguageModel
    reader: Reader
    """Reads the prompts."""
    on_token: Callable[[StreamedToken], None] | None = None

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Of the prompts."""
        return (self.reader,)

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return self.language_model.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return self.language_model.tokenizer

    @property
    def name(self) -> str:
        """What records call it."""
        return self.language_model.name

    def ends(self) -> list[int]:
        """The ids that end a text of the model."""
        return self.language_model.ends()

    def check(self) -> None:
        """Refuse what cannot work before any work is done."""
        super().check()
        self.settings.generate_kwargs(self.num_beams)
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise ValueError(
                "num_return_sequences must be <= num_beams, "
                f"got {self.num_return_sequences} > {self.num_beams}"
            )
        if self.num_beams > 1 and self.on_token is not None:
            raise ValueError("on_token cannot follow beam search: beams change until the end")
        check_configuration(self.model.generation_config)
        with evaluating(self.model), torch.no_grad():
            check_generation(self.model, self.pad)

    @property
    def pad(self) -> int:
        """What stands in front of shorter rows, and behind finished ones."""
        known = range(vocabulary(self.model))
        return next((i for i in (self.tokenizer.pad_token_id, *self.end) if i in known), 0)

    @property
    def batches_together(self) -> int:
        """As for `Plan`; but a listener wants one sequence after the other."""
        return super().batches_together if self.on_token is None else 1

    def batches(self, jobs: list[Job], size: int) -> Iterator[list[Job]]:
        """Cut jobs, which are sorted by length, into batches that the model can bear."""

        def key() -> Callable[[int], Hashable]:
            return partial(generated_together(self.model, self.pad).key, growth=self.max_new_tokens)

        return batches(jobs, size, lambda job: len(job.ids), key)

    def encode(self, prompt: Prompt, index: int) -> list[int]:
        """What the model reads of a prompt."""
        return prompt_ids(
            self.language_model, prompt, self.max_new_tokens,
            chat=self.chat or False, name=f"prompt {index + 1}",
        )  # fmt: skip

    def keep(self, ids: list[int]) -> None:
        """Read a prompt for everything that will go on from it."""
        with evaluating(self.model):
            if len(ids) > 1 and read_once(self.model, self.pad) is None:
                self.reader.read(ids[:-1])

    def batch(self, jobs: list[Job]) -> Iterator[Generation]:
        """Run one batch: one generation per job, with beams `num_return_sequences` of them.

        On Ctrl-C it gives those that have ended, and raises `KeyboardInterrupt` after them.
        """
        device, end, pad = input_device(self.model), self.end, self.pad
        jobs = sorted(jobs, key=lambda job: not job.greedy)
        width = max(len(job.ids) for job in jobs)
        padded = [[pad] * (width - len(job.ids)) + job.ids for job in jobs]
        mask = [[0] * (width - len(job.ids)) + [1] * len(job.ids) for job in jobs]

        monitor = EntropyMonitor(
            alternatives=self.alternatives, num_beams=self.num_beams, certainty=self.certainty
        )
        texts_begin = [width - job.written for job in jobs]
        ends = torch.tensor(end, dtype=torch.long, device=device)
        finished = Finished(ends, self.stops, texts_begin)
        sampler, processors = None, None
        if self.num_beams > 1:
            assert isinstance(self.acting, DecodingSettings)
            processors = self.acting.processors(monitor)
            beams = [len(job.ids) for job in jobs for _ in range(self.num_beams)]
            check_together(self.model, beams, self.max_new_tokens, pad)
        else:
            sampler = self.sampler(jobs, monitor, finished)
        interrupt = None
        try:
            with evaluating(self.model), torch.no_grad():
                outputs = generate_of(self.model)(
                    input_ids=torch.tensor(padded, device=device),
                    attention_mask=torch.tensor(mask, device=device),
                    custom_generate=sampler,
                    logits_processor=processors,
                    stopping_criteria=StoppingCriteriaList([finished]),
                    max_new_tokens=self.max_new_tokens,
                    eos_token_id=end or None,
                    pad_token_id=pad,
                    num_return_sequences=1 if sampler else self.num_return_sequences,
                    return_dict_in_generate=sampler is None,
                    # A sequence ends at EOS, at a stop string of this call, or at its length.
                    stop_strings=None,
                    max_time=None,
                    **self.settings.generate_kwargs(self.num_beams),
                )
        except KeyboardInterrupt as error:
            # Beams have no end before the last step.
            if sampler is None or finished.ids is None or finished.ended_at is None:
                raise
            outputs, interrupt = finished.ids, error
        endings: list[str | None] = [None] * len(jobs)
        lengths = None
        if sampler is not None:
            endings = sampler.endings
            lengths = sampler.shortened(finished.lengths(outputs.shape[1] - width))
        traces = monitor.traces(outputs, eos_token_id=end or None, lengths=lengths)
        per_job = len(traces) // len(jobs)
        for i, trace in enumerate(traces):
            job, ending = jobs[i // per_job], endings[i // per_job]
            if interrupt is None or ending is not None or finished.row(i):
                yield self.generation(job, i % per_job, trace, self.reason(job, trace, ending))
        if interrupt is not None:
            raise interrupt

    def sampler(self, jobs: list[Job], monitor: EntropyMonitor, finished: Finished) -> Sampler:
        """What draws the sequences of a batch, of which the greedy ones come first."""
        steps = self.max_new_tokens
        points = [uniforms(self.seed, str(job.prompt), max(job.sample, 0), steps) for job in jobs]
        sampler = Sampler(
            self.acting, points=torch.stack(points), monitor=monitor, reader=self.reader,
            greedy_rows=sum(job.greedy for job in jobs),
        )  # fmt: skip
        sampler.listener = self.listener(jobs, monitor, finished, sampler)
        return sampler

    def reason(self, job: Job, trace: Trace, ending: str | None) -> str:
        """Why a sequence ended, of which `ending` is how a policy ended it."""
        if ending is not None:
            return "entropy" if ending == "stop" else ending
        # A stop string may begin in what was written before.
        return self.ended([*job.ids, *trace.ids.tolist()], len(job.ids) - job.written) or "length"

    def ended(self, ids: list[int], begin: int) -> str | None:
        """`eos` or `stop`, where the last of a sequence's ids ends the text that begins there."""
        if ids[-1] in self.end:
            return "eos"
        return "stop" if self.stops is not None and self.stops.end(ids, begin) else None

    def listener(
        self, jobs: list[Job], monitor: EntropyMonitor, finished: Finished, sampler: Sampler
    ) -> Callable[[Tensor], None] | None:
        """What passes drawn tokens on to `on_token`, for rows that are not finished yet."""
        on_token, end = self.on_token, self.end
        if on_token is None:
            return None
        detokenizers = [Detokenizer(self.tokenizer, job.ids) for job in jobs]

        def listen(tokens: Tensor) -> None:
            entropies = monitor.entropy_nats.tolist()
            for row, (job, token) in enumerate(zip(jobs, tokens.tolist(), strict=True)):
                if not finished.row(row) and sampler.endings[row] is None:
                    text = detokenizers[row].push(token)
                    if monitor.steps == self.max_new_tokens or token in end:
                        text += detokenizers[row].flush()
                    on_token(StreamedToken(job.index, job.sample, token, text, entropies[row]))

        return listen
