"""`Sampler`: one step for scaling, cutting, drawing and tracing, inside `model.generate`.

Passed as `custom_generate=`, it runs transformers' own loop with greedy search, and puts itself at
the end of the logits processors. What it draws is the only token that it leaves. So caches,
stopping criteria and processors work as they always do, and softmax, entropies and kept sets are
computed once and shared (see `decoding.rows.distribution`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from decoding.passes.caches import Reader
from decoding.rows.arrays import Array, as_array, joined
from decoding.rows.distribution import Distribution
from decoding.rows.faults import refuse_faults
from decoding.sampling.outcome import Drawn, Outcome, Rows, outcome_of
from decoding.sampling.prefill import filled
from decoding.sampling.replay import Replay
from decoding.sampling.rows import Prompts, prompts_of
from decoding.sampling.seeds import check_seed, uniforms
from decoding.sampling.stepping import check_together
from decoding.settings.policy import GREEDY, EntropyPolicy, Setting, Then, as_setting
from decoding.settings.processor import not_neutral
from decoding.settings.settings import DecodingSettings
from decoding.tracing.monitor import EntropyMonitor


class Sampler:
    """Draws under a setting in one call of `model.generate`.

    `model.generate(**inputs, custom_generate=sampler, **settings.generate_kwargs())`. Tokens follow
    the setting's q exactly.
    Transformers keeps `streamer`, `stop_strings` and `tokenizer` from callables: give the streamer
    to the sampler, and pass `stopping_criteria=[StopStringCriteria(tokenizer, strings)]`.

    Args:
        settings: the setting, or a policy that wraps one, or the text form of either.
        seed: 0 <= seed < 2^64. A row's tokens are a function of the seed, its prompt's ids and how
            many rows with that prompt came before it in the call: the same alone and in a batch
            (promised for float32 on a CPU, unless a point is within rounding of where two tokens
            meet).
        points: `(rows, steps)`, the uniforms in [0, 1) themselves, float64, instead of a seed; at
            least as many steps as the call may take.
        monitor: records each step; ask it for `traces(outputs, …)` afterwards. Where there are
            greedy rows, it names alternatives to their tokens alone.
        listener: told the drawn ids, `(rows)`, at each step.
        streamer: what would be `generate(streamer=…)`, which transformers does not hand to
            callables.
        reader: keeps what prompts begin with from call to call; without it, what the rows of one
            call have in common is read once.
        greedy_rows: so many of the first rows take the token with the largest logit, whatever the
            setting; not under a policy.

    Raises:
        ValueError: neither or both of `seed` and `points`, or an argument is of another type or
            outside its range.
    """

    def __init__(
        self,
        settings: Setting | str,
        *,
        seed: int | None = None,
        points: Tensor | None = None,
        monitor: EntropyMonitor | None = None,
        listener: Callable[[Tensor], None] | None = None,
        streamer: BaseStreamer | None = None,
        reader: Reader | None = None,
        greedy_rows: int = 0,
    ) -> None:
        if seed is None and points is None:
            raise ValueError("a Sampler needs a seed, as in seed=0, or points")
        if seed is not None and points is not None:
            raise ValueError("a Sampler takes a seed or points, and not both")
        if seed is not None:
            check_seed(seed)
        if points is not None:
            _check_points(points)
        self.settings = as_setting(settings)
        if greedy_rows and not isinstance(self.settings, DecodingSettings):
            raise ValueError("greedy_rows go with a setting, and not with a policy")
        self.greedy_rows = greedy_rows
        self.seed = seed
        self.points = points
        self.monitor = monitor
        self.listener = listener
        self.streamer = streamer
        self.reader = reader
        self.endings: list[str | None] = []
        """How a policy ended each row, or None."""
        self.ended_at: list[int] = []
        """Tokens that such a row has."""

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        inputs_tensor: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """What `model.generate` calls.

        It passes as `inputs_tensor` what its caller gave as the prompts, before rows are repeated
        for several samples: ids, embeddings, or what an encoder reads.

        Raises:
            ValueError: the configuration would change the distribution, asks for beams, or the
                points do not fit the call; or no row can have the setting's target entropy.
            NonFiniteLogitsError: the model returned a row that is no distribution.
        """
        if generation_config.num_beams > 1:
            raise ValueError("a Sampler draws single sequences: use num_beams=1")
        if other := not_neutral(generation_config):
            listed = ", ".join(f"{name}={value!r}" for name, value in other.items())
            raise ValueError(
                f"the generation configuration asks for {listed}; pass settings.generate_kwargs() "
                "to model.generate, which leaves the setting alone in charge"
            )
        prompts = prompts_of(model, input_ids, inputs_tensor, kwargs)
        steps = generation_config.max_length - input_ids.shape[1]
        points = self._points(prompts, steps).to(input_ids.device)
        if len(set(prompts.lengths)) > 1 or not model.config.is_encoder_decoder:
            check_together(model, prompts.lengths, steps, generation_config.pad_token_id)
        step = _Step(
            self,
            points,
            prompts.starts,
            keeps_scores=generation_config.output_scores or generation_config.output_logits,
        )
        self.endings, self.ended_at = step.endings, step.ended_at
        # Alone it is called as it is: a list looks up signatures at each step.
        processors: Any = step
        if logits_processor:
            processors = LogitsProcessorList([_Raw(step), *logits_processor, step])
        generation_config.do_sample = False
        policy = self.settings
        if isinstance(policy, EntropyPolicy) and not isinstance(policy.then, DecodingSettings):
            stopping_criteria = step.over = _Over(stopping_criteria, step)
        if self.streamer is not None:
            self.streamer.put(input_ids.cpu())
        # Inference mode spares some bookkeeping. What leaves it cannot be written to elsewhere, so
        # where more than the ids is returned, or the cache is of a kind that is written in place,
        # this is left to the caller.
        inside = not generation_config.return_dict_in_generate and isinstance(
            kwargs.get("past_key_values"), DynamicCache | None
        )
        with torch.inference_mode() if inside else nullcontext():
            if _may_share(model, inputs_tensor, generation_config):
                reader = self.reader or Reader(model)
                pad = generation_config.pad_token_id or 0
                cache = filled(reader, pad, input_ids, prompts.lengths, kwargs)
                kwargs |= {} if cache is None else {"past_key_values": cache}
            outputs = type(model)._sample(
                model,
                input_ids,
                logits_processor=processors,
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                streamer=self.streamer,
                **kwargs,
            )
        step.check()
        return outputs.clone() if inside else outputs

    def shortened(self, lengths: list[int]) -> list[int]:
        """Tokens of each row, up to where a policy ended it."""
        ended = zip(lengths, self.endings, self.ended_at, strict=True)
        return [length if how is None else min(length, at) for length, how, at in ended]

    def _points(self, prompts: Prompts, steps: int) -> Tensor:
        """Uniforms of each row: those given, or by its prompt."""
        points, rows = self.points, len(prompts.lengths)
        if points is None:
            assert self.seed is not None
            if prompts.names is None:
                raise ValueError(
                    "a seed cannot tell the prompts of these rows apart, because their ids do not: "
                    "give what an encoder reads, one row at a time, or points"
                )
            seen: Counter[str] = Counter()
            streams = []
            for name in prompts.names:
                streams.append(uniforms(self.seed, name, seen[name], steps))
                seen[name] += 1
            return torch.stack(streams)
        if len(points) != rows:
            raise ValueError(f"points are for {len(points)} rows, and the call has {rows}")
        if points.shape[1] < steps:
            raise ValueError(
                f"points are for {points.shape[1]} steps, and the call may take {steps}"
            )
        return points


def _may_share(
    model: PreTrainedModel, given: Tensor | None, generation_config: GenerationConfig
) -> bool:
    """Whether rows may begin with what was read before: prompts are ids, the model draws nothing
    itself, and the caller asks for nothing that is made while a prompt is read."""
    embedded = given is not None and given.is_floating_point()
    names = ("output_attentions", "output_hidden_states", "prefill_chunk_size")
    asked = any(getattr(generation_config, name, None) for name in names)
    return not (embedded or asked or model.training or model.config.is_encoder_decoder)


def _check_points(points: object) -> None:
    if not isinstance(points, Tensor):
        raise ValueError(f"points must be a tensor, got {type(points).__name__}")
    if points.ndim != 2 or points.dtype != torch.float64:
        raise ValueError(
            f"points must be (rows, steps) in float64, got {tuple(points.shape)} in {points.dtype}"
        )
    if not ((points >= 0) & (points < 1)).all():
        raise ValueError("points must lie in [0, 1)")


class _Raw(LogitsProcessor):  # type: ignore[misc]
    """Keeps the model's own rows, which stand before every other processor."""

    def __init__(self, step: _Step) -> None:
        self.step = step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.step.before = scores
        # A processor may write into what it is given.
        return scores.clone()


class _Step(LogitsProcessor):  # type: ignore[misc]
    def __init__(
        self, sampler: Sampler, points: Tensor, starts: Tensor | None, *, keeps_scores: bool
    ) -> None:
        self.sampler = sampler
        self.points = as_array(points)
        self.starts = starts
        # Of this call: the same sampler may serve another one at the same time.
        self.endings: list[str | None] = [None] * len(points)
        self.ended_at = [0] * len(points)
        self.step = 0
        self.before: Tensor | None = None
        self.memory: Tensor | None = None
        self.over: _Over | None = None
        self.faults: list[Array] = []
        self.keeps_scores = keeps_scores
        self.replay = None
        if _replays(sampler.settings, points):
            self.replay = Replay(lambda *of: self._outcomes(Rows(*of)))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor | Drawn:
        """Draw; `(rows, vocab)`, 0 at each row's token and -inf elsewhere."""
        sampler, monitor = self.sampler, self.sampler.monitor
        if monitor is not None:
            monitor.begin(input_ids)
        if self.step == 0:
            for rule in sampler.settings.rules:
                rule.check_vocabulary(scores.shape[-1])
        points = self.points[:, self.step]
        rows = Rows(scores, self.before, points, input_ids, self.starts, self.memory)
        outcome: Outcome
        if self.replay is not None:
            outcome = self.replay(*rows._replace(ids=None))
        elif isinstance(sampler.settings, DecodingSettings):
            outcome = self._outcomes(rows)
        else:
            outcome = self._outcome(sampler.settings, rows)
        self.memory = outcome.memory
        # What is replayed writes into the same memory at each step.
        tokens = outcome.tokens if self.replay is None else outcome.tokens.clone()
        if outcome.fault is not None:
            self.faults.append(outcome.fault.clone())
        if outcome.measures is not None and monitor is not None:
            monitor.record(outcome.measures)
        self.step += 1
        if sampler.listener is not None:
            sampler.listener(tokens)
        if not self.keeps_scores:
            return Drawn(tokens)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.unsqueeze(-1), 0.0)

    def check(self) -> None:
        """Complain of rows that an accelerator had to mend."""
        if self.faults:
            refuse_faults(torch.stack(self.faults))

    def _outcomes(self, rows: Rows) -> Outcome:
        """What comes of all rows."""
        settings, greedy = self.sampler.settings, self.sampler.greedy_rows
        drawn = rows.part(slice(greedy, None)) if greedy else rows
        found = [self._outcome(settings, *portion) for portion in drawn.portions(greedy)]
        outcome: Outcome = joined(found)
        if greedy:
            outcome = outcome.after(self._outcome(GREEDY, rows.part(slice(greedy))))
        return outcome

    def _outcome(self, settings: Setting, rows: Rows, first: int = 0) -> Outcome:
        """What comes of rows under a setting, of which the first has that number."""
        monitor, measure = self.sampler.monitor, None
        if monitor is not None:
            named = settings is GREEDY or not self.sampler.greedy_rows
            measure = partial(monitor.measure, alternatives=named)
        decide = None
        if isinstance(settings, EntropyPolicy) and self.over is not None:
            decide = partial(self._decide, settings, self.over.rows)
        return outcome_of(
            settings, rows, step=self.step, first=first, decide=decide, measure=measure
        )

    def _decide(
        self, policy: EntropyPolicy, over: Tensor | None, raw: Distribution
    ) -> list[Then | None]:
        """What becomes of each row, and how a policy ended it."""
        decisions = policy.decide(raw, self.step, over)
        for row, then in enumerate(decisions):
            if isinstance(then, str):
                self.endings[row], self.ended_at[row] = then, self.step
        return decisions


def _replays(settings: Setting, points: Tensor) -> bool:
    """Whether each step is the same computation on a CUDA device."""
    # A policy looks at numbers, and ids grow from step to step.
    plain = isinstance(settings, DecodingSettings) and points.is_cuda
    return plain and not any(rule.looks_back == "ids" for rule in settings.rules)


class _Over(StoppingCriteriaList):  # type: ignore[misc]
    """The criteria of a call and the endings of a policy, which is not asked about rows behind."""

    def __init__(self, criteria: StoppingCriteriaList, step: _Step) -> None:
        super().__init__(criteria)
        self.step = step
        self.rows: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        ended = torch.tensor([ending is not None for ending in self.step.endings])
        over: Tensor = super().__call__(input_ids, scores, **kwargs) | ended.to(input_ids.device)
        self.rows = over if self.rows is None else self.rows | over
        return self.rows
