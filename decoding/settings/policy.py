"""`EntropyPolicy`: what to do where the model hesitates.

A policy wraps a setting. Where the entropy of the model's own distribution crosses a bound, it
hands the step over to another setting, or ends the sequence before the uncertain token is drawn.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from decoding.rules.rule import Rule, format_value
from decoding.settings.settings import DecodingSettings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from decoding.rows.distribution import Distribution
    from decoding.settings.applying import Applied, History

RAW = DecodingSettings()
GREEDY = DecodingSettings(temperature=0)
ENDINGS = ("stop", "abstain", "branch")

_FORM = re.compile(
    r"(?P<settings>.+?)\s+while\s+entropy\s*<=\s*(?P<entropy>[^\s]+)"
    r"(\s+or\s+varentropy\s*<=\s*(?P<varentropy>[^\s]+))?\s+else\s+(?P<then>.+)"
)


class Crossing(NamedTuple):
    """A step at which a row's entropy lies above the bound."""

    row: int
    """Its place in the batch, from 0."""
    step: int
    """Tokens generated so far."""
    entropy_nats: float
    """H(p) of the model's own distribution, before any setting."""
    varentropy_nats2: float
    """Var of the surprisal under p."""


Then = str | DecodingSettings
Decide = Callable[[Crossing], Then | None]


@dataclass(frozen=True, kw_only=True)
class EntropyPolicy:
    """A setting, and what happens where `H(p)` is above a bound.

    p is the model's own distribution. The text form is `SETTING while entropy<=H else THEN`, or
    `SETTING while entropy<=H or varentropy<=V else THEN`.

    Args:
        settings: what is applied elsewhere; it must not follow what is drawn, as mirostat does. A
            setting, here as below, may be given by its text form.
        entropy_above: nats; the bound that H(p) must exceed.
        varentropy_above: nats²; a bound that Var(-log p) must exceed as well. Above 0, a row of
            many tokens that are all alike does not cross.
        then: another `DecodingSettings` for that step; "stop" or "abstain", which end the sequence
            before the token is drawn and differ in the finish reason; "branch", for
            `decoding.generation.branching`; or a function of the `Crossing` that returns one of
            these, or None to go on.

    Raises:
        ValueError: a bound is not a finite number >= 0, or `then` is none of these.
    """

    settings: DecodingSettings = RAW
    entropy_above: float
    varentropy_above: float = 0.0
    then: Then | Decide

    def __post_init__(self) -> None:
        for name in ("entropy_above", "varentropy_above"):
            value = getattr(self, name)
            # A whole number may be too large for a float.
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not 0 <= value <= sys.float_info.max:
                raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
            object.__setattr__(self, name, float(value))
        object.__setattr__(self, "settings", _read(self.settings))
        if not isinstance(self.settings, DecodingSettings):
            raise ValueError(f"settings must be a DecodingSettings, got {self.settings!r}")
        object.__setattr__(self, "then", _read(self.then))
        function = callable(self.then) and not isinstance(self.then, type)
        if not (function or isinstance(self.then, DecodingSettings) or self.then in ENDINGS):
            raise ValueError(
                f"then must be a setting, a function, or one of {', '.join(ENDINGS)}, "
                f"got {self.then!r}"
            )
        for settings in (self.settings, self.then):
            _refuse_memory(settings)

    @classmethod
    def parse(cls, text: str) -> EntropyPolicy:
        """Read the text form; bounds may be given in bits (`entropy<=2bits`).

        Raises:
            ValueError: the text has another form, or a part of it is wrong.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"a policy is like 'raw while entropy<=2.5 else temperature=0.5', got {text!r}"
            )
        then = match["then"].strip()
        if " while " in then:
            raise ValueError(f"a policy cannot hold another one, got {text!r}")
        return cls(
            settings=DecodingSettings.parse(match["settings"]),
            entropy_above=_bound(match["entropy"], 1),
            varentropy_above=_bound(match["varentropy"] or "0", 2),
            then=then if then in ENDINGS else DecodingSettings.parse(then),
        )

    def __str__(self) -> str:
        bounds = f"entropy<={format_value(self.entropy_above)}"
        if self.varentropy_above:
            bounds += f" or varentropy<={format_value(self.varentropy_above)}"
        then = getattr(self.then, "__name__", "function") if callable(self.then) else self.then
        return f"{self.settings} while {bounds} else {then}"

    @property
    def greedy(self) -> bool:
        """Whether every step is sure to be greedy."""
        other = self.then if isinstance(self.then, DecodingSettings) else self.settings
        return self.settings.greedy and other.greedy and not callable(self.then)

    @property
    def looks_back(self) -> bool:
        """Whether a step depends on earlier tokens."""
        return any(rule.looks_back for rule in self.rules)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of both settings."""
        then = self.then.rules if isinstance(self.then, DecodingSettings) else ()
        return (*self.settings.rules, *then)

    def for_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> EntropyPolicy:
        """As `DecodingSettings.for_tokenizer`, of both settings."""
        then = self.then
        if isinstance(then, DecodingSettings):
            then = then.for_tokenizer(tokenizer)
        return replace(self, settings=self.settings.for_tokenizer(tokenizer), then=then)

    def generate_kwargs(
        self, num_beams: int = 1, *, cache_implementation: str | None = None
    ) -> dict[str, Any]:
        """As `DecodingSettings.generate_kwargs`; with beams a ValueError."""
        if num_beams > 1:
            raise ValueError("a policy follows single sequences, and beams change places")
        alike = DecodingSettings(temperature=0 if self.greedy else 1)
        return alike.generate_kwargs(cache_implementation=cache_implementation)

    def crossed(self, raw: Distribution) -> Tensor:
        """`(…)`, bool, which of the model's own rows lie above the bounds."""
        from decoding.rows.arrays import as_tensor

        crossed = raw.entropy > self.entropy_above
        if self.varentropy_above:
            crossed = crossed & (raw.varentropy > self.varentropy_above)
        return as_tensor(crossed)

    def apply(
        self,
        rows: Distribution,
        history: History | None = None,
        decisions: list[Then | None] | None = None,
        *,
        raw: Distribution | None = None,
    ) -> Applied:
        """What is drawn from: of rows above the bound, what the other setting makes of them.

        Rows that a policy would end are those of the wrapped setting.

        Args:
            rows: the model's own rows, or what other processors made of them.
            history: what came before each row, for a setting that looks back.
            decisions: what `decide` said of each row, where `then` is a function.
            raw: the model's own rows, where `rows` are not.

        Raises:
            ValueError: `then` is no setting and there are no decisions, so that what the policy
                does would be left out.
        """
        import torch

        if decisions is None and not isinstance(self.then, DecodingSettings):
            raise ValueError(f"'{self}' decides while text is generated, and has nothing decided")
        applied = self.settings.apply(rows, history)
        if isinstance(self.then, DecodingSettings):
            crossed = self.crossed(rows if raw is None else raw)
            return _merged(applied, self.then.apply(rows, history), crossed)
        if callable(self.then):
            # Another setting may take over at any step, and then there is none to report.
            applied = applied._replace(temperature=None)
        handed_over = {then for then in decisions or () if isinstance(then, DecodingSettings)}
        for settings in sorted(handed_over, key=str):
            chosen = torch.tensor([then == settings for then in decisions or ()])
            chosen = chosen.to(rows.logits.device)
            applied = _merged(applied, settings.apply(rows, history), chosen)
        return applied

    def decide(self, raw: Distribution, step: int, over: Tensor | None = None) -> list[Then | None]:
        """What becomes of each row at this step; None where it goes on under the wrapped setting.

        Args:
            raw: the model's own rows, `(rows, vocab)`.
            step: tokens generated so far.
            over: `(rows)`, bool, which have ended and are left alone.

        Raises:
            ValueError: a function returned something else than a setting, an ending or None.
        """
        crosses = self.crossed(raw)
        crossed = (crosses if over is None else crosses & ~over).tolist()
        if not callable(self.then):
            return [self.then if yes else None for yes in crossed]
        decisions: list[Then | None] = [None] * len(crossed)
        for row, yes in enumerate(crossed):
            if yes:
                spread = raw.entropy[row].item(), raw.varentropy[row].item()
                then = _read(self.then(Crossing(row, step, *spread)))
                if not (then is None or isinstance(then, DecodingSettings) or then in ENDINGS):
                    raise ValueError(
                        f"a policy's function returns a setting, None, or one of "
                        f"{', '.join(ENDINGS)}, got {then!r}"
                    )
                _refuse_memory(then)
                decisions[row] = then
        return decisions


def _read(given: Any) -> Any:
    """A setting that is given by its text form; anything else, an ending too, as it is."""
    text = isinstance(given, str) and (given in ("raw", "greedy") or "=" in given)
    return DecodingSettings.parse(given) if text else given


def _refuse_memory(settings: object) -> None:
    if isinstance(settings, DecodingSettings) and settings.remembers:
        raise ValueError(f"{settings.remembers} follows one setting alone: not in a policy")


def _merged(one: Applied, other: Applied, rows: Tensor) -> Applied:
    """The second in the given rows, and the first elsewhere."""
    import torch

    from decoding.rows.distribution import Distribution
    from decoding.settings.applying import Applied

    def merged(first: Distribution, second: Distribution) -> Distribution:
        return Distribution(torch.where(rows.unsqueeze(-1), second.logits, first.logits))

    scaled, final = merged(one.scaled, other.scaled), merged(one.final, other.final)
    return Applied(scaled, final, None, one.mixed or other.mixed)


Setting = DecodingSettings | EntropyPolicy
"""What maps the model's distribution p to another one, q."""


def parse_setting(text: str) -> Setting:
    """Read the text form of a setting or of a policy; see the `parse` of either."""
    return EntropyPolicy.parse(text) if " while " in text else DecodingSettings.parse(text)


def as_setting(given: Setting | str) -> Setting:
    """A setting or a policy as it is, or read from its text form.

    Raises:
        ValueError: it is neither, or a text that cannot be read.
    """
    if isinstance(given, str):
        return parse_setting(given)
    if not isinstance(given, Setting):
        raise ValueError(
            "settings must be a DecodingSettings or an EntropyPolicy, or the text form of one, as "
            f"in 'top_p=0.9', got {given!r}"
        )
    return given


def _bound(text: str, power: int) -> float:
    try:
        if text.endswith("bits"):
            return float(text.removesuffix("bits")) * math.log(2) ** power
        return float(text)
    except ValueError:
        raise ValueError(f"a bound on entropy must be a number, got {text!r}") from None
