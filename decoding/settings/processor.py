"""Logits processors for `model.generate`, and the chain that a setting makes of them.

Each processor is one step of a setting. They compare by identity, because `generate`
drops a custom processor that equals another. A chain ends with `NormalizeProcessor`, so what leaves
it is log q: beam search adds it up as it is, and sampling draws from exactly q.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from decoding.information.measures import as_float
from decoding.rows.distribution import Distribution
from decoding.rules.history import History, Memory
from decoding.rules.steering import steered_temperature
from decoding.rules.truncation import temperature
from decoding.settings.applying import apply_settings
from decoding.settings.settings import SHARED, STEERING, DecodingSettings

if TYPE_CHECKING:
    from decoding.tracing.monitor import EntropyMonitor


class RuleProcessor(LogitsProcessor):  # type: ignore[misc]
    """One step of a setting as a logits processor.

    Args:
        value: the step's parameter, checked as the field of `DecodingSettings` is.
        parameters: its further parameters, by the names of their fields.

    Raises:
        ValueError: a value is outside its field's range.
    """

    rule: ClassVar[str]

    def __init__(self, value: float, **parameters: Any) -> None:
        given: dict[str, Any] = {self.rule: value, **parameters}
        self.settings = DecodingSettings(**given)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change `(batch, vocab)` scores as the step says; see the field's documentation."""
        return apply_settings(self.settings, scores, History(input_ids))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings})"


class DryProcessor(RuleProcessor):
    """Lower the logits of tokens that would go on repeating; left padding counts as history."""

    rule = "dry_multiplier"


class TemperatureProcessor(RuleProcessor):
    """Divide logits by T; 0 is greedy."""

    rule = "temperature"


class SteeringProcessor(LogitsProcessor):  # type: ignore[misc]
    """Divide each row's logits by the temperature that its entropy calls for.

    Args:
        settings: with `edt_theta`, `dynatemp_range` or `target_entropy`.
    """

    def __init__(self, settings: DecodingSettings) -> None:
        self.settings = settings
        self.temperature: Tensor | None = None  # (batch, 1), of the latest step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scale `(batch, vocab)` scores."""
        rows = Distribution(scores)
        self.temperature = steered_temperature(self.settings, rows)
        return rows.logits if self.temperature is None else temperature(rows, self.temperature)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings})"


class TopNSigmaProcessor(RuleProcessor):
    """Keep tokens at most n standard deviations below the largest logit."""

    rule = "top_n_sigma"


class TopHProcessor(RuleProcessor):
    """Keep the longest prefix whose entropy is at most a times the whole's."""

    rule = "top_h"


class TopKProcessor(RuleProcessor):
    """Keep exactly the k first tokens."""

    rule = "top_k"


class TopPProcessor(RuleProcessor):
    """Keep the shortest prefix with mass at least p."""

    rule = "top_p"


class MinPProcessor(RuleProcessor):
    """Keep tokens with at least m times the largest probability."""

    rule = "min_p"


class TypicalPProcessor(RuleProcessor):
    """Keep the tokens whose surprisal is nearest to the entropy, up to mass p."""

    rule = "typical_p"


class EpsilonCutoffProcessor(RuleProcessor):
    """Keep tokens with probability at least ε."""

    rule = "epsilon_cutoff"


class EtaCutoffProcessor(RuleProcessor):
    """Keep tokens with probability at least min(ε, √ε·exp(-H))."""

    rule = "eta_cutoff"


class PLessProcessor(RuleProcessor):
    """Keep tokens with probability at least c·Σ p²."""

    rule = "p_less"


class KlBudgetProcessor(RuleProcessor):
    """Keep the shortest prefix that costs at most ε nats."""

    rule = "kl_budget"


class MirostatProcessor(RuleProcessor):
    """Keep tokens whose surprisal is at most μ, which follows what is drawn; one call alone."""

    rule = "mirostat_tau"

    def __init__(self, value: float, **parameters: Any) -> None:
        super().__init__(value, **parameters)
        self._memory = Memory(self.settings)
        self._last: Distribution | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Cut `(batch, vocab)` scores, after a look at the token that the last ones led to."""
        if self._last is not None:
            self._memory.observe(self._last, input_ids[:, -1])
        history = self._memory.history(input_ids)
        self._last = Distribution(apply_settings(self.settings, scores, history))
        return self._last.logits


class XtcProcessor(RuleProcessor):
    """Exclude top choices with probability P; the mixture, as log-probabilities."""

    rule = "xtc_probability"


class NormalizeProcessor(LogitsProcessor):  # type: ignore[misc]
    """Turn scores into log-probabilities."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Normalise `(batch, vocab)` scores: nats, float32 or better."""
        return as_float(scores).log_softmax(-1)


_PROCESSORS: dict[str, type[RuleProcessor]] = {
    processor.rule: processor
    for processor in (
        DryProcessor,
        TemperatureProcessor,
        TopNSigmaProcessor,
        TopHProcessor,
        TopKProcessor,
        TopPProcessor,
        MinPProcessor,
        TypicalPProcessor,
        EpsilonCutoffProcessor,
        EtaCutoffProcessor,
        PLessProcessor,
        KlBudgetProcessor,
        MirostatProcessor,
        XtcProcessor,
    )
}


def chain(settings: DecodingSettings, monitor: EntropyMonitor | None = None) -> LogitsProcessorList:
    """The processors of a setting, in order; see `DecodingSettings.processors`."""
    steering = None
    if any(getattr(settings, name) for name in STEERING):
        steering = SteeringProcessor(settings)
    scaling: list[LogitsProcessor] = [] if steering is None else [steering]
    cutting: list[LogitsProcessor] = []
    for name, value in settings.steps():
        if name in STEERING or (name == "temperature" and steering is not None):
            continue
        processor = _PROCESSORS[name](value, **settings.parameters(name))
        if name == "dry_multiplier":
            scaling.insert(0, processor)
        elif name == "temperature" and not settings.greedy:
            scaling.append(processor)
        else:
            cutting.append(processor)
        if name == "temperature" and settings.greedy:
            break  # what follows has one token to choose from
    processors = [*scaling, *cutting, NormalizeProcessor()]
    if monitor is not None:
        mixed = settings.xtc_probability > 0
        processors.insert(len(scaling), monitor.scaled_processor(steering, mixed=mixed))
        processors = [monitor.first_processor(), *processors, monitor.last_processor()]
    return LogitsProcessorList(processors)


# What would change the distribution before or after the chain, and the value that does not.
_NEUTRAL_GENERATION: dict[str, Any] = {
    "temperature": 1.0,
    "top_h": None,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
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


def neutral_generate_kwargs(do_sample: bool) -> dict[str, Any]:
    """Neutral values of all the generation parameters that the installed transformers knows."""
    known = vars(GenerationConfig())
    values = {name: value for name, value in _NEUTRAL_GENERATION.items() if name in known}
    if not do_sample:
        # Has no effect there, and transformers warns about the number.
        values["top_k"] = None
    return values


def not_neutral(config: GenerationConfig) -> dict[str, Any]:
    """What a generation configuration would apply of its own, beside any setting.

    Returns:
        Each parameter with its value, where it differs from the neutral one. Warpers have an effect
        only where the configuration draws.
    """
    neutral = neutral_generate_kwargs(do_sample=True)
    if not config.do_sample:
        warpers = (*SHARED, "top_h")
        neutral = {name: value for name, value in neutral.items() if name not in warpers}
    given = {name: getattr(config, name, None) for name in neutral}
    return {name: value for name, value in given.items() if value not in (None, neutral[name])}


def applied_before_chain(config: GenerationConfig) -> dict[str, Any]:
    """What a generation configuration applies besides the fields of `DecodingSettings`.

    Returns:
        Each parameter with its value, where it differs from the neutral one.
    """
    given = not_neutral(config)
    return {name: value for name, value in given.items() if name not in SHARED}
