"""`generate` inside vLLM: its scheduler and kernels, this library's draws and traces.

A sequence is that of `decoding.generate` with the same model, seed and prompt, in float32 and
unless a point is within rounding of where two tokens meet.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from decoding.engines.batch import Packed, unpacked
from decoding.engines.requests import Request, check_honoured
from decoding.generation.jobs import MOST_TOGETHER, Job
from decoding.generation.plan import Plan
from decoding.generation.prompts import check_room
from decoding.generation.result import Generation
from decoding.models.loading import end_ids
from decoding.rows.faults import refuse_faults
from decoding.sampling.seeds import chosen_seed
from decoding.settings.policy import GREEDY, RAW, Setting, as_setting
from decoding.texts.chats import Chat, Prompt, as_chat, control_pattern, listed_prompts
from decoding.texts.prompts import encode_prompt
from decoding.tracing.step import trace_of
from decoding.tracing.trace import Trace

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

PROCESSOR = "decoding.engines.vllm_worker:SettingProcessor"
EXTENSION = "decoding.engines.vllm_worker.TraceExtension"
ENGINE: dict[str, Any] = {"logits_processors": [PROCESSOR], "worker_extension_cls": EXTENSION}
"""Arguments of an engine that draws and traces here: `LLM(model, **ENGINE)`."""


def generate(
    llm: LLM,
    prompts: Prompt | Iterable[Prompt],
    settings: Setting | str | None = None,
    *,
    max_new_tokens: int = 200,
    num_return_sequences: int = 1,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    alternatives: int = 0,
    certainty: bool = False,
    chat: bool | Chat = False,
    on_generation: Callable[[Generation], None] | None = None,
) -> list[Generation]:
    """Continue prompts inside vLLM under a decoding setting, and trace every token.

    Args:
        llm: `vllm.LLM(model, **ENGINE)`.
        prompts: as for `decoding.generate`, and so is what follows.
        settings: the setting, or a policy whose `then` is another one, or the text form of either;
            default `raw`.
        max_new_tokens: >= 1; prompt and new tokens together must fit the engine's `max_model_len`.
        num_return_sequences: sequences per prompt, >= 1.
        seed: 0 <= seed < 2^64; None picks one, which every `Generation` reports.
        stop: strings that end a sequence when they appear in it.
        alternatives: K >= 0, runners-up to record at each step.
        certainty: record each trace's `certainty`.
        chat: put each text into the tokenizer's chat template as the user's message.
        on_generation: called with every generation, in the order of the result.

    Returns:
        The generations, ordered by prompt, then sample.

    Raises:
        ValueError: the engine was made without `ENGINE`, an argument is out of its range, a prompt
            does not fit, or a setting cannot act inside an engine: it ends sequences, asks a
            function, or holds rules of one's own.
        NonFiniteLogitsError: the model returned NaN.
    """
    run = VllmRun(
        llm=llm,
        settings=RAW if settings is None else as_setting(settings),
        max_new_tokens=max_new_tokens,
        num_return_sequences=num_return_sequences,
        seed=chosen_seed(seed),
        stop=[stop] if isinstance(stop, str) else list(stop or ()),
        alternatives=alternatives,
        certainty=certainty,
        chat=as_chat(chat),
    )
    generations = []
    for generation in run.sequences(listed_prompts(prompts), MOST_TOGETHER):
        generations.append(generation)
        if on_generation is not None:
            on_generation(generation)
    return generations


@dataclass(frozen=True, kw_only=True)
class VllmRun(Plan):
    """Sequences that a model inside vLLM writes."""

    llm: LLM

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The engine's tokenizer."""
        tokenizer: PreTrainedTokenizerBase = self.llm.get_tokenizer()
        return tokenizer

    @property
    def name(self) -> str:
        """What records call the model."""
        return str(self.llm.model_config.model)

    def ends(self) -> list[int]:
        """The ids that end a text of the model."""
        config = self.llm.model_config
        generation = SimpleNamespace(**config.try_get_generation_config())
        return end_ids(self.tokenizer, generation, config.hf_text_config)

    def check(self) -> None:
        """Refuse what cannot work before any work is done."""
        super().check()
        check_engine(self.llm)
        check_honoured(self.acting)
        for rule in self.acting.rules:
            rule.check_vocabulary(self.llm.model_config.get_vocab_size())

    def encode(self, prompt: Prompt, index: int) -> list[int]:
        """What the model reads of a prompt."""
        name = f"prompt {index + 1}"
        ids = encode_prompt(self.tokenizer, prompt, chat=self.chat or False, name=name)
        check_room(ids, self.max_new_tokens, self.llm.model_config.max_model_len, name)
        return ids

    def batches(self, jobs: list[Job], size: int) -> Iterator[list[Job]]:
        """All jobs at once: what runs together is the engine's choice."""
        yield jobs

    def batch(self, jobs: list[Job]) -> Iterator[Generation]:
        """Run one batch: one generation per job. On Ctrl-C none of it is left."""
        names = [uuid.uuid4().hex for _ in jobs]
        requests = [self.request(job, name) for job, name in zip(jobs, names, strict=True)]
        parameters = [self.parameters(request) for request in requests]
        prompts: list[Any] = [{"prompt_token_ids": job.ids} for job in jobs]
        ids = self.llm.enqueue(prompts, parameters, use_tqdm=False)
        try:
            outputs: list[RequestOutput] = self.llm.wait_for_completion(use_tqdm=False)
        except BaseException:
            with suppress(Exception):  # the engine may be gone
                self.llm.llm_engine.abort_request(ids, internal=True)
                self.llm.collective_rpc("decoding_traces", args=(names,))
            raise
        drawn = [[*output.outputs[0].token_ids] for output in outputs]
        found = traces(self.llm.collective_rpc("decoding_traces", args=(names,)), drawn)
        for job, output, trace in zip(jobs, outputs, found, strict=True):
            yield self.generation(job, 0, trace, reason_of(output))

    @cached_property
    def spells_special_tokens(self) -> bool:
        """Whether stop strings are looked for in a text that spells special tokens out."""
        controls = control_pattern(self.tokenizer)
        return controls is not None and any(map(controls.search, self.stop))

    def request(self, job: Job, name: str) -> Request:
        """What the engine is asked for one sequence."""
        return Request(
            settings=GREEDY if job.greedy else self.acting,
            seed=self.seed,
            prompt=str(job.prompt),
            sample=max(job.sample, 0),
            trace=name,
            alternatives=self.alternatives if job.greedy or not self.greedy_too else 0,
            certainty=self.certainty,
        )

    def parameters(self, request: Request) -> SamplingParams:
        """The engine's parameters for a request."""
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0,
            max_tokens=self.max_new_tokens,
            stop=self.stop,
            skip_special_tokens=not self.spells_special_tokens,
            detokenize=bool(self.stop),
            stop_token_ids=self.end,
            ignore_eos=True,  # which the engine knows by the tokenizer; `end` has them all
            extra_args=request.extra_args(),
        )


def check_engine(llm: Any) -> None:
    """Refuse, by a ValueError, an engine that does not draw here."""
    if not hasattr(llm, "llm_engine"):
        raise ValueError(
            f"llm must be a vllm.LLM, got {type(llm).__name__}: an asynchronous engine takes "
            "`Request(…).extra_args()` in its sampling parameters"
        )
    config = llm.llm_engine.vllm_config
    given = config.model_config.logits_processors or ()
    names = [f"{one.__module__}:{one.__name__}" if isinstance(one, type) else one for one in given]
    if PROCESSOR not in names or config.parallel_config.worker_extension_cls != EXTENSION:
        raise ValueError(
            "llm must be made with this library's processor: "
            "LLM(model, **decoding.engines.vllm.ENGINE)"
        )


def traces(answers: Sequence[Packed], drawn: Sequence[Sequence[int]]) -> list[Trace]:
    """Traces of finished requests.

    Args:
        answers: what the workers said to `collective_rpc("decoding_traces", args=(names,))`. Those
            that draw, draw the same; others hold a part of the model.
        drawn: the ids of each request, in the order of the names.

    Raises:
        ValueError: the engine kept no trace of a request, or one of other ids.
        NonFiniteLogitsError: the model returned NaN, on an accelerator.
    """
    found = []
    by_request = zip(*map(unpacked, answers), strict=True)
    for number, (columns, ids) in enumerate(zip(by_request, drawn, strict=True), 1):
        own: dict[str, Any] = next(filter(None, columns), {})
        known = {name: values[: len(ids)] for name, values in own.items()}
        if "columns" not in known or known["ids"].tolist() != [*ids]:
            raise ValueError(f"the engine has no trace of request {number} with its {len(ids)} ids")
        refuse_faults(torch.from_numpy(known["fault"])[:, None])
        found.append(trace_of(known, known["ids"]))
    return found


def reason_of(output: Any) -> str:
    """Why a sequence ended, from vLLM's request output; see `Generation.finish_reason`."""
    [one] = output.outputs
    if one.finish_reason == "stop":
        return "stop" if isinstance(one.stop_reason, str) else "eos"
    return str(one.finish_reason)
