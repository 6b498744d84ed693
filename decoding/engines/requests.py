"""`Request`: what a request to an engine says of how its tokens are drawn.

It travels as plain values beside the engine's own parameters (of vLLM, in `extra_args`), and is
read again by what draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from decoding.sampling.seeds import check_seed
from decoding.scoring.windows import check_whole
from decoding.settings.policy import EntropyPolicy, Setting, as_setting
from decoding.settings.settings import DecodingSettings

PREFIX = "decoding_"


class Kind(NamedTuple):
    """What rows have in common that one step serves."""

    settings: Setting
    traced: bool
    alternatives: int
    certainty: bool


@dataclass(frozen=True, kw_only=True)
class Request:
    """How the tokens of one request are drawn.

    A sequence is a function of the seed, its prompt and its sample: that of `decoding.generate`
    where `prompt` is the prompt's text, and that of a `Sampler` where it is left out.

    Args:
        settings: a setting, or a policy whose `then` is another one, or the text form of either;
            of rules that are built in, which name tokens by ids.
        seed: 0 <= seed < 2^64.
        sample: which sample of its prompt it is, >= 0.
        prompt: what the draws are keyed by besides; default the ids of the prompt.
        trace: the name under which the engine keeps a trace until it is asked for it; none is kept
            without one.
        alternatives: K >= 0, runners-up to record at each step.
        certainty: record the trace's `certainty`.

    Raises:
        ValueError: an argument is out of its range, or a setting cannot act inside an engine.
    """

    settings: Setting | str
    seed: int
    sample: int = 0
    prompt: str | None = None
    trace: str | None = None
    alternatives: int = 0
    certainty: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", as_setting(self.settings))
        check_honoured(self.kind.settings)
        check_seed(self.seed)
        for name in ("sample", "alternatives"):
            check_whole(name, getattr(self, name))
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("prompt", "trace"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be a text, got {getattr(self, name)!r}")
        # On its way through a server a truth value becomes a number.
        if self.certainty not in (False, True):
            raise ValueError(f"certainty must be true or false, got {self.certainty!r}")
        object.__setattr__(self, "certainty", bool(self.certainty))

    @property
    def kind(self) -> Kind:
        """What it has in common with requests that one step serves together."""
        assert not isinstance(self.settings, str)
        return Kind(self.settings, self.trace is not None, self.alternatives, self.certainty)

    def extra_args(self) -> dict[str, Any]:
        """Plain values by names that begin with `decoding_`, without those that are defaults."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        known = {field.name: field.default for field in fields(self)}
        said = {name: value for name, value in given.items() if value != known[name]}
        return {f"{PREFIX}{name}": value for name, value in said.items()} | {
            f"{PREFIX}settings": str(self.settings)
        }

    @classmethod
    def read(cls, extra_args: Mapping[str, Any] | None) -> Request | None:
        """The request that `extra_args` holds; None where it says nothing of how to draw.

        Raises:
            ValueError: a name is unknown, a value is wrong, or the setting or the seed is missing.
        """
        given = {
            name.removeprefix(PREFIX): value
            for name, value in (extra_args or {}).items()
            if name.startswith(PREFIX)
        }
        if not given:
            return None
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                listed = ", ".join(f"{PREFIX}{one}" for one in known)
                raise ValueError(f"unknown argument {PREFIX}{name}; known are {listed}")
        for name in ("settings", "seed"):
            if name not in given:
                raise ValueError(f"{PREFIX}{name} must be given beside {PREFIX}{min(given)}")
        return cls(**given)


NEUTRAL: dict[str, Any] = {
    "n": 1,
    "temperature": 0,
    "seed": None,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "min_tokens": 0,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": None,
    "structured_outputs": None,
    "thinking_token_budget": None,
    "trace_decode_token_ids": None,
}
"""What of vLLM's sampling parameters would change the distribution or the draw, and the value at
which it does not. At temperature 0 vLLM itself puts top-k, top-p and min-p aside."""


def check_parameters(parameters: Any) -> Request | None:
    """The request that vLLM's sampling parameters hold, if any.

    Raises:
        ValueError: it cannot be read, or other parameters would change what it says.
    """
    request = Request.read(parameters.extra_args)
    if request is None:
        return None
    for name, neutral in NEUTRAL.items():
        value = getattr(parameters, name, neutral)
        if value not in (neutral, []):
            instead = "give each sample a request of its own" if name == "n" else "leave it out"
            if name == "seed":
                instead = f"say {PREFIX}seed"
            raise ValueError(
                f"{name} must be {neutral} beside {PREFIX}settings, which alone says how tokens "
                f"are drawn, got {value!r}: {instead if neutral != 0 else f'set {name}=0'}"
            )
    return request


def check_honoured(settings: Setting) -> None:
    """Refuse, by a ValueError, a setting that cannot act inside another engine."""
    parts: list[Any] = [settings]
    if isinstance(settings, EntropyPolicy):
        if not isinstance(settings.then, DecodingSettings):
            raise ValueError(
                f"'{settings}' ends a sequence or asks a function, which no engine does for it: "
                "give a policy another setting as its `then`"
            )
        parts = [settings.settings, settings.then]
    for part in parts:
        for rule in part.extra:
            raise ValueError(
                f"{rule.field} is a rule of your own, which the engine's processes do not know: "
                "leave it out"
            )
        for rule in part.rules:
            for name, value in rule.given.items():
                texts = [one for one in value if isinstance(one, str)] if _listed(value) else []
                if texts:
                    raise ValueError(
                        f"{name} names tokens by texts, which an engine does not look up: give ids "
                        f"instead of {texts[0]!r}, as settings.for_tokenizer(tokenizer) does"
                    )


def _listed(value: Hashable) -> bool:
    return isinstance(value, tuple)
