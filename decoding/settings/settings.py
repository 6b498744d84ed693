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
from functools import cached_property
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, LogitsProcessorList

    from decoding.rows.distribution import Distribution
    from decoding.rules.history import History
    from decoding.settings.applying import Applied
    from decoding.tracing.monitor import EntropyMonitor


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """A decoding setting: each field is one step, applied in the order of the fields.

    Every step works on the renormalised result of the one before it. A field at its neutral value
    (the default) is a step that is not taken. Tokens are ordered by logit descending, then id
    ascending, so each kept set is unique; see `decoding.rules.truncation` for the rules. Fields
    that say "of" another are its parameters and mean nothing without it.

    Args:
        dry_multiplier: m >= 0. Lower the logit of a token that would repeat the last n >= L tokens
            and go on as they did before, by `m·b^(n - L)`; 0 lowers none. Looks at the ids so far;
            see `decoding.rules.history`.
        dry_base: b >= 1, of dry_multiplier.
        dry_allowed_length: L >= 1, of dry_multiplier.
        dry_breakers: ids that no repetition reaches across, of dry_multiplier.
        temperature: T >= 0. Logits are divided by T; 0 means greedy, a point mass on the largest
            logit (lowest id on ties).
        edt_theta: θ >= 0. The temperature becomes `T·N^(θ/H)`, H being the entropy of the logits
            as they are; 0 leaves it. See `decoding.rules.steering` for this one and the next two.
        edt_base: 0 < N < 1, of edt_theta.
        dynatemp_range: r >= 0. The temperature becomes one between T - r (no entropy) and T + r
            (the largest possible entropy); 0 leaves it.
        dynatemp_exponent: a > 0, of dynatemp_range.
        target_entropy: h >= 0, nats. The temperature becomes the one at which the entropy is h; 0
            leaves it.
        top_n_sigma: n >= 0. Keep tokens whose logit is at most n standard deviations below the
            largest; 0 keeps all.
        top_h: 0 < a <= 1. Keep the longest prefix whose entropy is at most a times the whole's; 1
            keeps all.
        top_k: k >= 0. Keep exactly the k first tokens; 0 keeps all.
        top_p: 0 < p <= 1. Keep the shortest prefix whose mass is at least p; 1 keeps all.
        min_p: 0 <= m <= 1. Keep tokens with probability at least m times the largest; 0 keeps all.
        typical_p: 0 < p <= 1. Keep the tokens whose surprisal is nearest to the entropy, up to
            mass p; 1 keeps all.
        epsilon_cutoff: 0 <= e < 1. Keep tokens with probability at least e; 0 keeps all.
        eta_cutoff: 0 <= e < 1. Keep tokens with probability at least min(e, sqrt(e)·exp(-H));
            0 keeps all.
        p_less: 0 <= c <= 1. Keep tokens with probability at least c·Σ p²; 0 keeps all.
        kl_budget: e >= 0, nats. Keep the shortest prefix whose cost KL(q‖p) is at most e; 0 keeps
            all.
        mirostat_tau: τ >= 0, nats. Keep tokens whose surprisal is at most μ, which starts at 2τ and
            is moved after each token so that surprisals come to τ on average; 0 keeps all. Looks
            at the tokens drawn so far; see `decoding.rules.history`.
        mirostat_eta: 0 < η <= 1, of mirostat_tau.
        xtc_probability: 0 <= P <= 1. With probability P, exclude all tokens that reach the
            threshold but the last of them; 0 excludes none.
        xtc_threshold: 0 < t <= 1, of xtc_probability.

    Raises:
        ValueError: a field is outside its range, is the parameter of one that is not set, or
            contradicts another; the message names field, rule and value.
    """

    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_breakers: tuple[int, ...] = ()
    temperature: float = 1.0
    edt_theta: float = 0.0
    edt_base: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    target_entropy: float = 0.0
    top_n_sigma: float = 0.0
    top_h: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    p_less: float = 0.0
    kl_budget: float = 0.0
    mirostat_tau: float = 0.0
    mirostat_eta: float = 0.1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1

    def __post_init__(self) -> None:
        for name, default in NEUTRAL.items():
            kind = type(default)
            value = getattr(self, name)
            if not _is_of(value, kind):
                raise ValueError(f"{name} must be {_KINDS[kind]}, got {value!r}")
            rule, allowed = RULES[name]
            converted = _convert(value, kind)
            if not allowed(converted):
                raise ValueError(f"{name} must be {rule}, got {value!r}")
            object.__setattr__(self, name, converted)
        for name, owner in PARAMETERS.items():
            if name in self._given() and not getattr(self, owner):
                raise ValueError(f"{name} is a parameter of {owner}, which is not set")
        steering = [name for name in STEERING if getattr(self, name)]
        if self.greedy and steering:
            raise ValueError(f"{steering[0]} sets the temperature, which temperature=0 has fixed")
        if len(steering) > 1:
            raise ValueError(f"{steering[0]} and {steering[1]} both set the temperature: take one")
        if self.mirostat_tau and self.xtc_probability:
            raise ValueError("mirostat_tau follows what its own cut leaves: leave out xtc")
        if self.target_entropy and self.temperature != 1:
            raise ValueError(
                "target_entropy sets the temperature itself: leave out "
                f"temperature={format_value(self.temperature)}"
            )

    @property
    def greedy(self) -> bool:
        """Whether the setting is a point mass on the model's favourite token."""
        return self.temperature == 0

    @classmethod
    def parse(cls, text: str) -> DecodingSettings:
        """Read the text form: `raw`, `greedy`, or `temperature=0.7,top_p=0.9`.

        A name may stand first and fields may follow it (`greedy,top_p=0.9`); a field may be given
        once. Fields in nats may be given in bits (`target_entropy=2bits`), and several ids are
        separated by slashes (`dry_breakers=13/198`). `DecodingSettings.parse(str(s)) == s` for
        every setting.

        Raises:
            ValueError: an unknown or repeated name (the nearest known one is suggested), or a
                value that is no number or outside its range.
        """
        values: dict[str, Any] = {}
        for position, part in enumerate(text.split(",")):
            name, separator, number = (piece.strip() for piece in part.partition("="))
            if not separator and position == 0 and name in ("raw", "greedy"):
                if name == "greedy":
                    values["temperature"] = 0.0
                continue
            if name in ("raw", "greedy"):
                raise ValueError(f"{name!r} stands alone or first, got {text!r}")
            if name not in NEUTRAL:
                raise ValueError(f"unknown setting {name!r}{_nearest(name)}")
            if not separator:
                raise ValueError(f"setting {name!r} needs a value, as in {name}={_EXAMPLES[name]}")
            if name in values:
                raise ValueError(f"setting {name!r} is given twice in {text!r}")
            kind = type(NEUTRAL[name])
            try:
                values[name] = _read(name, number, kind)
            except ValueError:
                raise ValueError(f"{name} must be {_KINDS[kind]}, got {number!r}") from None
        return cls(**values)

    def __str__(self) -> str:
        if self == DecodingSettings():
            return "raw"
        if self == DecodingSettings(temperature=0):
            return "greedy"
        return ",".join(f"{name}={format_value(value)}" for name, value in self._given().items())

    def steps(self) -> tuple[tuple[str, Any], ...]:
        """The steps that are taken, `(name, value)`, in the order they are applied."""
        return self._steps

    @cached_property
    def _steps(self) -> tuple[tuple[str, Any], ...]:
        given = self._given().items()
        return tuple((name, value) for name, value in given if name not in PARAMETERS)

    def parameters(self, step: str) -> dict[str, Any]:
        """The further parameters of a step, by field, such as `mirostat_eta` of `mirostat_tau`."""
        return {name: getattr(self, name) for name, owner in PARAMETERS.items() if owner == step}

    @property
    def looks_back(self) -> bool:
        """Whether the distribution depends on earlier tokens, and not on the logits alone."""
        return self.dry_multiplier > 0 or self.mirostat_tau > 0

    def _given(self) -> dict[str, Any]:
        """The fields that are not at their defaults, in their order."""
        values = {name: getattr(self, name) for name in NEUTRAL}
        return {name: value for name, value in values.items() if value != NEUTRAL[name]}

    @classmethod
    def from_generation_config(cls, config: GenerationConfig) -> DecodingSettings:
        """The setting that `model.generate` would use under a generation configuration.

        Includes what Hugging Face fills in where the configuration is silent, such as `top_k=50`
        when sampling. Without sampling the other fields have no effect and the result is greedy.

        Raises:
            ValueError: the configuration uses a step that is no field here (contrastive search,
                …) or differs from the field of its name (`top_h`), or a value outside a field's
                range.
        """
        for name in ("penalty_alpha", "dola_layers"):
            if getattr(config, name, None):
                raise ValueError(f"transformers' {name}={getattr(config, name)!r} is no field here")
        if not config.do_sample:
            return cls(temperature=0)
        if getattr(config, "top_h", None):
            raise ValueError(
                f"transformers' top_h={config.top_h!r} keeps other sets than the field"
            )
        values: dict[str, Any] = {"top_k": 50}
        for name in SHARED:
            value = getattr(config, name, None)
            if value is not None:
                values[name] = value
        return cls(**values)

    def apply(self, raw: Distribution, history: History | None = None) -> Applied:
        """What the setting makes of the model's own rows; see `decoding.settings.applying`."""
        from decoding.settings.applying import apply

        return apply(self, raw, history)

    def log_probs(self, logits: Tensor, history: History | None = None) -> Tensor:
        """log q for rows of logits.

        Args:
            logits: `(…, vocab)`, any floating dtype; `-inf` marks tokens that are ruled out.
            history: what came before each row, for a setting that `looks_back`.

        Returns:
            `(…, vocab)`, nats, normalised, `-inf` outside the kept set; float32, or float64 for
            float64 input.

        Raises:
            ValueError: the setting looks back and there is no history.
        """
        from decoding.settings.applying import apply_settings

        return apply_settings(self, logits, history).log_softmax(-1)

    def processors(self, monitor: EntropyMonitor | None = None) -> LogitsProcessorList:
        """The chain that turns a model's logits into log q, for `model.generate`.

        Use it with `generate_kwargs()`, which switches off Hugging Face's own steps:
        `model.generate(**inputs, logits_processor=s.processors(), **s.generate_kwargs())`.

        Args:
            monitor: records each step's statistics; one monitor serves one call of `generate`.
        """
        from decoding.settings.processor import chain

        return chain(self, monitor)

    def generate_kwargs(self, num_beams: int = 1) -> dict[str, Any]:
        """Keyword arguments that make `model.generate` draw from the chain's output as it is.

        They neutralise Hugging Face's own warpers and whatever a model's generation configuration
        would apply before the chain: penalties, suppressed or forced tokens, n-gram and word bans,
        guidance, watermarks, minimum lengths, assisted decoding.

        Args:
            num_beams: above 1, arguments for beam search under this setting.

        Raises:
            ValueError: greedy or mirostat with beams; beam search needs a distribution to score
                by that does not depend on what was drawn.
        """
        from decoding.settings.processor import neutral_generate_kwargs

        if num_beams > 1 and self.greedy:
            raise ValueError(
                f"temperature=0 cannot score beams: use temperature > 0 with num_beams={num_beams}"
            )
        if num_beams > 1 and self.mirostat_tau:
            raise ValueError("mirostat_tau follows what is drawn, and beam search draws nothing")
        do_sample = num_beams == 1 and not self.greedy
        return neutral_generate_kwargs(do_sample) | {"do_sample": do_sample, "num_beams": num_beams}


NEUTRAL: dict[str, Any] = {field.name: field.default for field in fields(DecodingSettings)}
STEERING = ("edt_theta", "dynatemp_range", "target_entropy")
PARAMETERS = {
    "dry_base": "dry_multiplier",
    "dry_allowed_length": "dry_multiplier",
    "dry_breakers": "dry_multiplier",
    "edt_base": "edt_theta",
    "dynatemp_exponent": "dynatemp_range",
    "mirostat_eta": "mirostat_tau",
    "xtc_threshold": "xtc_probability",
}
IN_NATS = ("target_entropy", "kl_budget", "mirostat_tau")
# Fields that Hugging Face's generation configuration has too, with the same meaning.
SHARED = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", tuple: "ids, as in 13/198"}
_EXAMPLES = {
    "dry_multiplier": "0.8",
    "dry_base": "1.75",
    "dry_allowed_length": "2",
    "dry_breakers": "13/198",
    "temperature": "0.7",
    "edt_theta": "0.5",
    "edt_base": "0.8",
    "dynatemp_range": "0.5",
    "dynatemp_exponent": "1.5",
    "target_entropy": "1.5",
    "top_n_sigma": "1",
    "top_h": "0.4",
    "top_k": "50",
    "top_p": "0.9",
    "min_p": "0.05",
    "typical_p": "0.95",
    "epsilon_cutoff": "0.0003",
    "eta_cutoff": "0.0006",
    "p_less": "1",
    "kl_budget": "0.1",
    "mirostat_tau": "3",
    "mirostat_eta": "0.1",
    "xtc_probability": "0.5",
    "xtc_threshold": "0.1",
}
_Check = tuple[str, Callable[[Any], bool]]
_NOT_NEGATIVE: _Check = ("a finite number >= 0", lambda v: 0 <= v < math.inf)
_POSITIVE: _Check = ("a finite number > 0", lambda v: 0 < v < math.inf)
_SHARE: _Check = ("in (0, 1]", lambda v: 0 < v <= 1)
_SHARE_OR_NONE: _Check = ("in [0, 1]", lambda v: 0 <= v <= 1)
_CUT: _Check = ("in [0, 1)", lambda v: 0 <= v < 1)
RULES: dict[str, _Check] = {
    "dry_multiplier": _NOT_NEGATIVE,
    "dry_base": ("a finite number >= 1", lambda v: 1 <= v < math.inf),
    "dry_allowed_length": (">= 1", lambda v: v >= 1),
    "dry_breakers": ("ids in [0, 2^63)", lambda v: all(0 <= id_ < 2**63 for id_ in v)),
    "temperature": _NOT_NEGATIVE,
    "edt_theta": _NOT_NEGATIVE,
    "edt_base": ("in (0, 1)", lambda v: 0 < v < 1),
    "dynatemp_range": _NOT_NEGATIVE,
    "dynatemp_exponent": _POSITIVE,
    "target_entropy": _NOT_NEGATIVE,
    "top_n_sigma": _NOT_NEGATIVE,
    "top_h": _SHARE,
    "top_k": (">= 0", lambda v: v >= 0),
    "top_p": _SHARE,
    "min_p": _SHARE_OR_NONE,
    "typical_p": _SHARE,
    "epsilon_cutoff": _CUT,
    "eta_cutoff": _CUT,
    "p_less": _SHARE_OR_NONE,
    "kl_budget": _NOT_NEGATIVE,
    "mirostat_tau": _NOT_NEGATIVE,
    "mirostat_eta": _SHARE,
    "xtc_probability": _SHARE_OR_NONE,
    "xtc_threshold": _SHARE,
}


def _is_of(value: object, kind: type) -> bool:
    if kind is tuple:
        return isinstance(value, tuple | list) and all(_is_of(item, int) for item in value)
    return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)


def _convert(value: Any, kind: type) -> Any:
    try:
        return tuple(int(item) for item in value) if kind is tuple else kind(value)
    except OverflowError:
        return math.inf


def _read(name: str, text: str, kind: type) -> Any:
    if kind is tuple:
        return tuple(int(item) for item in text.split("/"))
    if name in IN_NATS and text.endswith("bits"):
        return float(text.removesuffix("bits")) * math.log(2)
    return kind(text)


def _nearest(name: str) -> str:
    known = ["raw", "greedy", *NEUTRAL]
    asked = name.lower().replace("-", "_")
    close = difflib.get_close_matches(asked, known, n=1)
    # A family's name, as in xtc=0.5, is short of its fields' names.
    close = close or [one for one in known if one.partition("_")[0] == asked]
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def format_value(value: float | tuple[int, ...]) -> str:
    """The text form of a field's value, from which it is read back unchanged."""
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return repr(value).removesuffix(".0")
