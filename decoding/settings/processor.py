"""The processor of a setting for `model.generate`, and what has to be switched off beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from decoding.rows.arrays import Array
from decoding.rows.distribution import COLDEST, Distribution
from decoding.rows.faults import without_faults
from decoding.rules import BUILT_IN, Rule
from decoding.rules.rule import next_shape
from decoding.settings.applying import Applicable, Applied, Memory


class Monitor(Protocol):
    """What records the steps, as `decoding.EntropyMonitor` does; see there."""

    steps: int

    def begin(self, input_ids: Tensor, /) -> None: ...  # noqa: D102
    def measure(self, raw: Distribution, applied: Applied, /) -> Any: ...  # noqa: D102
    def record(  # noqa: D102
        self, step: Any, fault: Array | None, last: tuple[Distribution, Distribution], /
    ) -> None: ...


class SettingProcessor(LogitsProcessor):  # type: ignore[misc]
    """Turns a model's logits into log q of a setting, in one call, and shows a monitor each step.

    What leaves it is normalised: beam search adds it up as it is, and sampling draws from exactly
    q. Left padding counts as history. It compares by identity, because `generate` drops a custom
    processor that equals another.
    """

    def __init__(self, settings: Applicable, monitor: Monitor | None = None) -> None:
        self.settings = settings
        self.monitor = monitor
        self._memory = Memory()
        self._last: tuple[Applied, tuple[int, ...]] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """log q, `(batch, vocab)`, nats, of `(batch, vocab)` scores."""
        if self._last is not None:
            applied, before = self._last
            next_shape(self, before, input_ids)
            self._memory.observe(applied, input_ids[:, -1])
        raw, fault = Distribution(scores), None
        if self.monitor is not None:
            self.monitor.begin(input_ids)
            # An accelerator's host would wait if it looked: mend the row now, complain at the end.
            raw, fault = without_faults(raw, self.monitor.steps)
        applied = self.settings.apply(raw, self._memory.history(input_ids))
        log_q = applied.final.logits.log_softmax(-1)
        if self.monitor is not None:
            # What is written down is what leaves, rounding included: beam search adds it up.
            final = Distribution(log_q)
            step = self.monitor.measure(raw, applied._replace(final=final))
            self.monitor.record(step, fault, (raw, final))
        self._last = (applied, tuple(input_ids.shape)) if applied.given else None
        return log_q

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.settings)!r})"


class _Front(LogitsProcessor):  # type: ignore[misc]
    """Stands before a monitored processor, and refuses what stands before both.

    `generate` leaves out a processor that equals one before it, so it compares this one with each
    of those. So it learns of them before the model is run.
    """

    def __init__(self, monitored: SettingProcessor) -> None:
        self._monitored = monitored
        self._placed = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores

    def __eq__(self, other: object) -> bool:
        if other is self._monitored:
            self._placed = True
        elif other is not self and not self._placed:
            name = getattr(other, "__name__", type(other).__name__)
            raise ValueError(
                f"{name} stands before the monitored processor, which would take what it leaves "
                "for the model's own distribution: draw with a Sampler, which sees both"
            )
        return other is self

    __hash__ = object.__hash__


def processors(settings: Applicable, monitor: Monitor | None) -> LogitsProcessorList:
    """The processor of a setting; where it is monitored, nothing may stand before it."""
    processor = SettingProcessor(settings, monitor)
    front = [] if monitor is None else [_Front(processor)]
    return LogitsProcessorList([*front, processor])


_OF_RULES = {
    rule.field: rule.in_transformers
    for rule in BUILT_IN.values()
    if rule.in_transformers is not None
}
_SHARED = {
    rule.field: rule.neutral for rule in BUILT_IN.values()
    if rule.in_transformers is not None and not rule.in_transformers.differs
}  # fmt: skip

# What would change the distribution before or after the processor, and the value that does not.
_NEUTRAL_GENERATION: dict[str, Any] = {
    **{name: theirs.neutral for name, theirs in _OF_RULES.items()},
    "guidance_scale": None,
    "sequence_bias": None,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "min_length": 0,
    "min_new_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "remove_invalid_values": False,
    "watermarking_config": None,
    "renormalize_logits": False,
    "token_healing": False,
    "penalty_alpha": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}


BEAM_SEARCH = {"length_penalty": 1.0, "early_stopping": False}
"""How beam search chooses among beams: as transformers does by default."""


def neutral_generate_kwargs(
    do_sample: bool, num_beams: int, cache_implementation: str | None
) -> dict[str, Any]:
    """Arguments under which the processor alone acts; see `DecodingSettings.generate_kwargs`."""
    if cache_implementation == "paged":
        raise ValueError(
            "cache_implementation='paged' ignores logits processors and samplers, so no setting "
            "acts there: use another cache"
        )
    return {
        **neutral_values(do_sample),
        **BEAM_SEARCH,
        "do_sample": do_sample,
        "num_beams": num_beams,
        "cache_implementation": cache_implementation,
    }


def neutral_values(do_sample: bool) -> dict[str, Any]:
    """Neutral values of all the generation parameters that the installed transformers knows."""
    known = vars(GenerationConfig())
    values = {name: value for name, value in _NEUTRAL_GENERATION.items() if name in known}
    if not do_sample:
        # Has no effect there, and transformers warns about the number.
        values |= {name: None for name, theirs in _OF_RULES.items() if theirs.default is not None}
    return values


def own_fields(config: GenerationConfig) -> dict[str, Any]:
    """The fields of `DecodingSettings` that a generation configuration draws under; see there."""
    values: dict[str, Any] = {}
    for name, theirs in _OF_RULES.items():
        value = getattr(config, name, None)
        if theirs.differs and value:
            raise ValueError(f"transformers' {name}={value!r} {theirs.differs}")
        if value is None:
            value = theirs.default
        if value is not None:
            values[name] = value
    return values


def in_their_words(rules: Sequence[Rule], greedy: bool) -> GenerationConfig:
    """The configuration that says these rules; see `DecodingSettings.to_generation_config`."""
    values = neutral_values(not greedy) | {"do_sample": not greedy, "num_beams": 1}
    values |= {} if greedy else _SHARED
    for rule in rules:
        theirs = _OF_RULES.get(rule.field)
        if theirs is None:
            raise ValueError(f"transformers has no {rule.field}, so no configuration says {rule}")
        if theirs.differs:
            raise ValueError(f"transformers' {rule.field} {theirs.differs}, got {rule}")
        if rule.is_fixed and 0 < rule.value < COLDEST:
            raise ValueError(f"transformers needs 0 or a temperature >= {COLDEST:g}, got {rule}")
        if not greedy:
            values[rule.field] = rule.value
    return GenerationConfig(**values)


def not_neutral(config: GenerationConfig) -> dict[str, Any]:
    """What a generation configuration would apply of its own, beside any setting.

    These are parameters that are not neutral; warpers only where the configuration draws.
    """
    neutral = neutral_values(do_sample=True)
    if not config.do_sample:
        neutral = {name: value for name, value in neutral.items() if name not in _OF_RULES}
    given = {name: getattr(config, name, None) for name in neutral}
    return {name: value for name, value in given.items() if value not in (None, neutral[name])}


def asked_for(config: GenerationConfig, own: GenerationConfig) -> dict[str, Any]:
    """Of `not_neutral`, and of beams, what a model's own configuration does not ask for as well."""
    given = not_neutral(config)
    if (config.num_beams or 1) > 1:
        given["num_beams"] = config.num_beams
    return {name: value for name, value in given.items() if value != getattr(own, name, None)}


def applied_besides(config: GenerationConfig) -> dict[str, Any]:
    """Of `not_neutral`, what no field of `DecodingSettings` says; and how it searches."""
    besides = {name: value for name, value in not_neutral(config).items() if name not in _SHARED}
    numbers = {name: getattr(config, name) or 1 for name in ("num_beams", "num_return_sequences")}
    found = {name: number for name, number in numbers.items() if number > 1}
    return found | (of_beams(config) if "num_beams" in found else {}) | besides


def of_beams(config: GenerationConfig) -> dict[str, Any]:
    """What a generation configuration asks of beam search, whether or not it searches itself."""
    given = {name: getattr(config, name) for name in BEAM_SEARCH}
    return {name: BEAM_SEARCH[name] if value is None else value for name, value in given.items()}
