"""Logits processors for `model.generate`, and the chain that a setting makes of them.

Each processor is one rule of `decoding.truncation`. They compare by identity, because `generate`
drops a custom processor that equals another. A chain ends with `NormalizeProcessor`, so what leaves
it is log q: beam search adds it up as it is, and sampling draws from exactly q.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from decoding.information import as_float
from decoding.settings import DecodingSettings
from decoding.truncation import RULES

if TYPE_CHECKING:
    from decoding.monitor import EntropyMonitor


class RuleProcessor(LogitsProcessor):  # type: ignore[misc]
    """One truncation rule as a logits processor.

    Args:
        value: the rule's parameter, checked as the field of `DecodingSettings` is.

    Raises:
        ValueError: the value is outside the field's range.
    """

    rule: ClassVar[str]

    def __init__(self, value: float) -> None:
        settings = DecodingSettings(**{self.rule: value})  # type: ignore[arg-type]
        self.value = getattr(settings, self.rule)
        self._neutral = self.value == getattr(DecodingSettings(), self.rule)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Filter `(batch, vocab)` scores; see the rule in `decoding.truncation`."""
        return as_float(scores) if self._neutral else RULES[self.rule](scores, self.value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"


class TemperatureProcessor(RuleProcessor):
    """Divide logits by T; 0 is greedy."""

    rule = "temperature"


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


class NormalizeProcessor(LogitsProcessor):  # type: ignore[misc]
    """Turn scores into log-probabilities."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Normalise `(batch, vocab)` scores: nats, float32 or better."""
        return as_float(scores).log_softmax(-1)


_PROCESSORS = {
    processor.rule: processor
    for processor in (
        TemperatureProcessor,
        TopKProcessor,
        TopPProcessor,
        MinPProcessor,
        TypicalPProcessor,
        EpsilonCutoffProcessor,
        EtaCutoffProcessor,
    )
}


def chain(settings: DecodingSettings, monitor: EntropyMonitor | None = None) -> LogitsProcessorList:
    """The processors of a setting, in order; see `DecodingSettings.processors`."""
    rules = [_PROCESSORS[name](value) for name, value in settings.steps()]
    processors = [*rules, NormalizeProcessor()]
    if monitor is not None:
        processors = [monitor.first_processor(), *processors, monitor.last_processor(settings)]
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


def applied_before_chain(config: GenerationConfig) -> dict[str, Any]:
    """What a generation configuration applies besides the fields of `DecodingSettings`.

    Returns:
        Each parameter with its value, where it differs from the neutral one.
    """
    fields = vars(DecodingSettings())
    return {
        name: getattr(config, name)
        for name, neutral in neutral_generate_kwargs(do_sample=True).items()
        if name not in fields and getattr(config, name, None) not in (None, neutral)
    }
