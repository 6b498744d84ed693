"""`DecodingSettings`: a decoding setting as a value.

A setting is a map from the model's next-token distribution p to another distribution q. The same
object filters logits, plugs into `model.generate`, and has a text form for shells and tables.
This module imports neither torch nor transformers; the methods that need them import them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, LogitsProcessorList

    from decoding.monitor import EntropyMonitor


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """A decoding setting: each field is one step, applied in the order of the fields.

    Every step works on the renormalised result of the one before it. A field at its neutral value
    (the default) is a step that is not taken. Tokens are ordered by logit descending, then id
    ascending, so each kept set is unique; see `decoding.truncation` for the rules.

    Args:
        temperature: T >= 0. Logits are divided by T; 0 means greedy, a point mass on the largest
            logit (lowest id on ties).
        top_k: k >= 0. Keep exactly the k first tokens; 0 keeps all.
        top_p: 0 < p <= 1. Keep the shortest prefix whose mass is at least p; 1 keeps all.
        min_p: 0 <= m <= 1. Keep tokens with probability at least m times the largest; 0 keeps all.
        typical_p: 0 < p <= 1. Keep the tokens whose surprisal is nearest to the entropy, up to
            mass p; 1 keeps all.
        epsilon_cutoff: 0 <= e < 1. Keep tokens with probability at least e; 0 keeps all.
        eta_cutoff: 0 <= e < 1. Keep tokens with probability at least min(e, sqrt(e)·exp(-H));
            0 keeps all.

    Raises:
        ValueError: a field is outside its range; the message names field, rule and value.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0

    def __post_init__(self) -> None:
        for name, default in _NEUTRAL.items():
            value = getattr(self, name)
            kind = type(default)
            if not _is_number(value, kind):
                raise ValueError(f"{name} must be {_KINDS[kind]}, got {value!r}")
            rule, allowed = _RULES[name]
            number = _convert(value, kind)
            if not allowed(number):
                raise ValueError(f"{name} must be {rule}, got {value!r}")
            object.__setattr__(self, name, number)

    @property
    def greedy(self) -> bool:
        """Whether the setting is a point mass on the model's favourite token."""
        return self.temperature == 0

    @classmethod
    def parse(cls, text: str) -> DecodingSettings:
        """Read the text form: `raw`, `greedy`, or `temperature=0.7,top_p=0.9`.

        A name may stand first and fields may follow it (`greedy,top_p=0.9`); a field may be given
        once. `DecodingSettings.parse(str(s)) == s` for every setting.

        Raises:
            ValueError: an unknown or repeated name (the nearest known one is suggested), or a
                value that is no number or outside its range.
        """
        values: dict[str, float] = {}
        for position, part in enumerate(text.split(",")):
            name, separator, number = (piece.strip() for piece in part.partition("="))
            if not separator and position == 0 and name in ("raw", "greedy"):
                if name == "greedy":
                    values["temperature"] = 0.0
                continue
            if name in ("raw", "greedy"):
                raise ValueError(f"{name!r} stands alone or first, got {text!r}")
            if name not in _NEUTRAL:
                raise ValueError(f"unknown setting {name!r}{_nearest(name)}")
            if not separator:
                raise ValueError(f"setting {name!r} needs a value, as in {name}={_EXAMPLES[name]}")
            if name in values:
                raise ValueError(f"setting {name!r} is given twice in {text!r}")
            kind = type(_NEUTRAL[name])
            try:
                values[name] = kind(number)
            except ValueError:
                raise ValueError(f"{name} must be {_KINDS[kind]}, got {number!r}") from None
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self == DecodingSettings():
            return "raw"
        if self == DecodingSettings(temperature=0):
            return "greedy"
        return ",".join(f"{name}={_format(value)}" for name, value in self.steps())

    def steps(self) -> list[tuple[str, float]]:
        """The fields that are not neutral, `(name, value)`, in the order they are applied."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [(name, value) for name, value in values if value != _NEUTRAL[name]]

    @classmethod
    def from_generation_config(cls, config: GenerationConfig) -> DecodingSettings:
        """The setting that `model.generate` would use under a generation configuration.

        Includes what Hugging Face fills in where the configuration is silent, such as `top_k=50`
        when sampling. Without sampling the other fields have no effect and the result is greedy.

        Raises:
            ValueError: the configuration uses a step that is no field here (`top_h`, contrastive
                search, …), or a value outside a field's range.
        """
        if not config.do_sample:
            return cls(temperature=0)
        for name in ("top_h", "penalty_alpha", "dola_layers"):
            if getattr(config, name, None):
                raise ValueError(f"{name}={getattr(config, name)!r} has no equivalent here")
        values: dict[str, Any] = {"top_k": 50}
        for name in _NEUTRAL:
            value = getattr(config, name, None)
            if value is not None:
                values[name] = value
        return cls(**values)

    def log_probs(self, logits: Tensor) -> Tensor:
        """log q for rows of logits.

        Args:
            logits: `(…, vocab)`, any floating dtype; `-inf` marks tokens that are ruled out.

        Returns:
            `(…, vocab)`, nats, normalised, `-inf` outside the kept set; float32, or float64 for
            float64 input.
        """
        from decoding.truncation import apply_settings

        return apply_settings(self, logits).log_softmax(-1)

    def processors(self, monitor: EntropyMonitor | None = None) -> LogitsProcessorList:
        """The chain that turns a model's logits into log q, for `model.generate`.

        Use it with `generate_kwargs()`, which switches off Hugging Face's own steps:
        `model.generate(**inputs, logits_processor=s.processors(), **s.generate_kwargs())`.

        Args:
            monitor: records each step's statistics; one monitor serves one call of `generate`.
        """
        from decoding.processors import chain

        return chain(self, monitor)

    def generate_kwargs(self, num_beams: int = 1) -> dict[str, Any]:
        """Keyword arguments that make `model.generate` draw from the chain's output as it is.

        They neutralise Hugging Face's own warpers and whatever a model's generation configuration
        would apply before the chain: penalties, suppressed or forced tokens, n-gram and word bans,
        guidance, watermarks, minimum lengths, assisted decoding.

        Args:
            num_beams: above 1, arguments for beam search under this setting.

        Raises:
            ValueError: greedy with beams; beam search needs a distribution to score by.
        """
        from decoding.processors import neutral_generate_kwargs

        if num_beams > 1 and self.greedy:
            raise ValueError(
                f"temperature=0 cannot score beams: use temperature > 0 with num_beams={num_beams}"
            )
        do_sample = num_beams == 1 and not self.greedy
        return neutral_generate_kwargs(do_sample) | {"do_sample": do_sample, "num_beams": num_beams}


_NEUTRAL: dict[str, float] = {field.name: field.default for field in fields(DecodingSettings)}  # type: ignore[misc]
_KINDS: dict[type, str] = {int: "a whole number", float: "a number"}
_EXAMPLES = {
    "temperature": "0.7",
    "top_k": "50",
    "top_p": "0.9",
    "min_p": "0.05",
    "typical_p": "0.95",
    "epsilon_cutoff": "0.0003",
    "eta_cutoff": "0.0006",
}
_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("a finite number >= 0", lambda v: 0 <= v < math.inf),
    "top_k": (">= 0", lambda v: v >= 0),
    "top_p": ("in (0, 1]", lambda v: 0 < v <= 1),
    "min_p": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "typical_p": ("in (0, 1]", lambda v: 0 < v <= 1),
    "epsilon_cutoff": ("in [0, 1)", lambda v: 0 <= v < 1),
    "eta_cutoff": ("in [0, 1)", lambda v: 0 <= v < 1),
}


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)


def _convert(value: float, kind: type) -> float:
    try:
        return kind(value)  # type: ignore[no-any-return]
    except OverflowError:
        return math.inf


def _nearest(name: str) -> str:
    known = ["raw", "greedy", *_NEUTRAL]
    close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _format(value: float) -> str:
    return repr(value).removesuffix(".0")
