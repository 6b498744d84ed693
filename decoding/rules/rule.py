"""What a rule is: one step of a decoding setting, with everything that anybody asks of it.

A rule is a class: its field, neutral value, range and example, what it says in words, and what it
makes of rows. Its instances are the steps of a setting, `TopP(0.9)`, and logits processors as they
are. What a rule keeps is written in a few words that two kinds of rows understand: `Distribution`
(rows as they come) and `SortedRows` (many settings at once).

Modules of this folder import neither torch nor NumPy, so that a setting can be read, checked and
explained without them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from decoding.rules.tokens import Tokens, format_tokens, read_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.rows.arrays import Array
    from decoding.rows.distribution import Distribution

Value = float | int | Tokens


class Range(NamedTuple):
    """The values that a field may have."""

    text: str
    """As in "must be in (0, 1]"."""
    holds: Callable[[Any], bool]


NOT_NEGATIVE = Range("a finite number >= 0", lambda v: 0 <= v < math.inf)
POSITIVE = Range("a finite number > 0", lambda v: 0 < v < math.inf)
SHARE = Range("in (0, 1]", lambda v: 0 < v <= 1)
SHARE_OR_NONE = Range("in [0, 1]", lambda v: 0 <= v <= 1)
CUT = Range("in [0, 1)", lambda v: 0 <= v < 1)
TOKENS = Range(
    "ids in [0, 2^63), texts not ''",
    lambda v: all(token != "" if isinstance(token, str) else 0 <= token < 2**63 for token in v),
)

_KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    tuple: r'ids or texts, as in 13/"\n"',
}


class Field(NamedTuple):
    """A number of a rule: what a setting and its text form call it, and what it may be."""

    name: str
    default: Value
    range: Range
    example: str
    unit: str = ""
    """"nats", where the number is an amount of information."""

    def checked(self, value: Any) -> Value:
        """The value in the field's type; a ValueError, if it is of another, or out of range."""
        kind: Any = type(self.default)
        if kind is tuple and isinstance(value, str):
            value = (value,)
        if not _is_of(value, kind):
            raise ValueError(f"{self.name} must be {_KINDS[kind]}, got {value!r}")
        try:
            converted = tuple(map(_token, value)) if kind is tuple else kind(value)
        except OverflowError:
            converted = math.inf
        if not self.range.holds(converted):
            raise ValueError(f"{self.name} must be {self.range.text}, got {value!r}")
        return converted

    def read(self, text: str) -> Any:
        """The value that a text form gives, or a ValueError; nats may be given in bits."""
        kind: Any = type(self.default)
        try:
            if kind is tuple:
                return read_tokens(text)
            if self.unit and text.endswith("bits"):
                return float(text.removesuffix("bits")) * math.log(2)
            return kind(text)
        except ValueError:
            raise ValueError(f"{self.name} must be {_KINDS[kind]}, got {text!r}") from None


def format_value(value: Value) -> str:
    """The text form of a field's value, from which it is read back unchanged."""
    return format_tokens(value) if isinstance(value, tuple) else repr(value).removesuffix(".0")


def _is_of(value: object, kind: type) -> bool:
    if kind is tuple:
        return isinstance(value, tuple | list) and all(
            isinstance(item, str) or _is_of(item, int) for item in value
        )
    return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)


def _token(value: Any) -> int | str:
    return value if isinstance(value, str) else int(value)


class Past(NamedTuple):
    """What came before rows, for a rule that looks back."""

    ids: Tensor | None = None
    """`(rows, seq)`, the ids so far."""
    starts: Tensor | None = None
    """`(rows)`, where each row's ids begin behind its left padding; None where none is padded."""
    state: Array = None
    """`(rows, len(rule.start))`, float64, what the rule remembers of each row."""


class InTransformers(NamedTuple):
    """A field of Hugging Face's generation configuration of the same name."""

    neutral: Any
    """The value that switches it off."""
    default: Any = None
    """The value that it has where a configuration is silent and tokens are drawn."""
    differs: str = ""
    """In what its meaning differs, where it does."""


RULES: dict[str, type[Rule]] = {}
"""The class of each field, in the order in which they were defined."""


class Rule(ABC):
    """A step of a decoding setting.

    Subclass `Cut`, `Tempering`, `Penalty`, `Mixture` or `Reweighting`. An instance is a logits
    processor for `model.generate`; one that remembers serves one call.

    Args:
        value: the number of its field.
        parameters: further numbers, by the names of their fields.

    Raises:
        ValueError: a value is outside its field's range.
    """

    kind: ClassVar[str]
    field: ClassVar[str]
    neutral: ClassVar[Value]
    """The value at which the rule does nothing, and the type of all its values."""
    range: ClassVar[Range]
    example: ClassVar[str]
    unit: ClassVar[str] = ""
    says: ClassVar[str] = ""
    """What the rule does, with `{value}`, `{bits}` and `{name}` of a parameter."""
    source: ClassVar[str] = ""
    parameters: ClassVar[tuple[Field, ...]] = ()
    looks_back: ClassVar[str] = ""
    """"ids", where it depends on the ids so far; "draws", where it remembers what was drawn."""
    in_transformers: ClassVar[InTransformers | None] = None
    is_fixed: ClassVar[bool] = False
    """Whether it is a temperature that is the same for every row."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "field" not in vars(cls):
            return
        for name in ("neutral", "range", "example", "kind"):
            if not hasattr(cls, name):
                raise TypeError(f"the rule {cls.__name__} lacks {name!r}")
        if cls.looks_back == "draws" and (cls.observe is Rule.observe or cls.start is Rule.start):
            raise TypeError(f"the rule {cls.__name__} remembers draws: it needs start and observe")
        for known in list(RULES.values()):
            # A cell of a notebook that is run again defines the class anew.
            again = (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)
            shared = {one.name for one in known.fields()} & {one.name for one in cls.fields()}
            if shared and not again:
                raise TypeError(f"{min(shared)} is a field of {known.__name__} already")
        RULES[cls.field] = cls

    @classmethod
    def fields(cls) -> tuple[Field, ...]:
        """Its own field, and those of its parameters."""
        own = Field(cls.field, cls.neutral, cls.range, cls.example, cls.unit)
        return (own, *cls.parameters)

    @classmethod
    def summary(cls) -> str:
        """What it does, in the first sentence of its docstring."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())

    def __init__(self, value: Any, **parameters: Any) -> None:
        own, *further = self.fields()
        self.value: Any = own.checked(value)
        self.given = {own.name: self.value}
        """The fields that are not at their defaults."""
        for field in further:
            number = field.checked(parameters.pop(field.name, field.default))
            setattr(self, field.name, number)
            if number != field.default:
                self.given[field.name] = number
        if parameters:
            raise ValueError(f"{type(self).__name__} has no parameter {min(parameters)!r}")
        self._state: Any = None
        self._shape: tuple[int, ...] | None = None
        self._last: tuple[Distribution, Distribution] | None = None

    @property
    def start(self) -> tuple[float, ...]:
        """The state before the first token, of a rule that remembers draws."""
        return ()

    def check_beside(self, others: Sequence[Rule]) -> None:  # noqa: B027
        """Refuse, by a ValueError, to stand in one setting with rules that it contradicts."""

    def check_vocabulary(self, size: int) -> None:  # noqa: B027
        """Refuse, by a ValueError, a vocabulary on which the rule cannot do what it says."""

    @abstractmethod
    def apply(self, rows: Distribution, past: Past) -> Distribution:
        """What the rule makes of rows.

        Args:
            rows: `(…, vocab)`, what the rule before left, renormalised.
            past: what came before, where the rule looks back.
        """

    def observe(
        self, state: Array, tokens: Array, given: Distribution, final: Distribution,
        uncut: Distribution,
    ) -> tuple[Array, ...]:  # fmt: skip
        """The state after a step, of a rule that remembers draws.

        Args:
            state: `(rows, len(start))`, the state before.
            tokens: `(rows)`, what was drawn, or what a given text has there.
            given: the rows that the rule was given.
            final: the rows that were drawn from.
            uncut: the rows before the first cut of the setting.

        Returns:
            As many arrays `(rows)` as `start` has numbers.
        """
        raise NotImplementedError

    def looser(self, slack: float) -> Any:
        """A value that keeps what rounding may have cut off, `slack` being its relative size.

        `identify` asks for it, so that rounding rules no candidate out.

        Here it is one that is nearer to the neutral value.
        """
        if self.kind != "cut" or isinstance(self.value, int):
            return self.value
        return min(1.0, self.value + slack) if self.neutral == 1 else self.value * (1 - slack)

    def replaced(self, **values: Any) -> Rule:
        """The same rule with other values of some of its fields."""
        given = self.given | values
        return type(self)(given.pop(self.field), **given)

    def with_ids(self, ids_of: Callable[[Tokens], Tokens]) -> Rule:
        """The same rule, with what a function makes of each of its fields that names tokens."""
        tokens = {name: value for name, value in self.given.items() if isinstance(value, tuple)}
        changed = {name: ids_of(value) for name, value in tokens.items()}
        return self.replaced(**changed) if changed else self

    def words(self, base: float = 1.0, **numbers: Any) -> str:
        """What the rule does, in a setting of that temperature; `says` may name further numbers."""
        numbers |= {"value": self.value, "base": base}
        if self.unit:
            numbers["bits"] = self.value / math.log(2)
        numbers |= {field.name: getattr(self, field.name) for field in self.parameters}
        return self.says.format(**{name: _short(number) for name, number in numbers.items()})

    def __str__(self) -> str:
        return ",".join(f"{name}={format_value(value)}" for name, value in self.given.items())

    def __repr__(self) -> str:
        further = [f", {name}={value!r}" for name, value in [*self.given.items()][1:]]
        return f"{type(self).__name__}({self.value!r}{''.join(further)})"

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """As a logits processor: change `(batch, vocab)` scores; left padding counts as history."""
        from decoding.rows.arrays import as_array, library
        from decoding.rows.distribution import Distribution

        rows = Distribution(scores)
        if self.value == self.neutral:
            return rows.logits
        if self.start:
            self._shape = next_shape(self, self._shape, input_ids)
            if self._last is None:
                numbers = tuple(library(rows.z).full_like(rows.log_total, x) for x in self.start)
            else:
                given, final = self._last
                tokens = as_array(input_ids[:, -1])
                numbers = self.observe(self._state, tokens, given, final, given)
            self._state = library(rows.z).stack(numbers, -1)
        final = self.apply(rows, Past(input_ids, None, self._state))
        self._last = (rows, final) if self.start else None
        return final.logits


def next_shape(what: object, before: tuple[int, ...] | None, ids: Tensor) -> tuple[int, ...]:
    """The shape of the ids at a step of what remembers draws; they go on where the last ones ended.

    Raises:
        ValueError: they are of another call.
    """
    if before is not None and tuple(ids.shape) != (before[0], before[1] + 1):
        raise ValueError(f"{what!r} remembers what was drawn: make a new one for each call")
    return tuple(ids.shape)


def _short(number: Value) -> str:
    return format_value(number) if isinstance(number, tuple) else f"{number:.6g}"


class Penalty(Rule):
    """A rule that lowers logits; override `apply`."""

    kind = "penalty"


class Tempering(Rule):
    """A rule that sets the temperature of each row."""

    kind = "temperature"

    @abstractmethod
    def temperature(self, rows: Distribution, base: float) -> float | Array:
        """The temperature, or `(…)` that of each row, float64.

        Args:
            rows: the logits as they are, at temperature 1.
            base: the temperature that the rules before set.
        """

    def apply(self, rows: Distribution, past: Past) -> Distribution:
        """The rows at their temperature."""
        return rows.tempered(self.temperature(rows, 1.0))

    def check_beside(self, others: Sequence[Rule]) -> None:
        """One rule sets the temperature by the entropy, and not where it is 0."""
        tempering = [other for other in others if isinstance(other, Tempering)]
        for other in tempering:
            if other.is_fixed and other.value == 0:
                raise ValueError(f"{self.field} sets the temperature, which {other} has fixed")
        follow = [other.field for other in tempering if not other.is_fixed]
        if follow and not self.is_fixed:
            raise ValueError(f"{self.field} and {follow[0]} both set the temperature: take one")


class Cut(Rule):
    """A rule that keeps some tokens, renormalised."""

    kind = "cut"

    @abstractmethod
    def keep(self, rows: Any, value: Any) -> Any:
        """What is kept of rows, in words of `Distribution` and `SortedRows`.

        Args:
            rows: of either kind.
            value: the number of the rule's field; of sorted rows `(S,)`, one for each set.
        """

    def apply(self, rows: Distribution, past: Past) -> Distribution:
        """What is kept of the rows."""
        import numpy as np

        with np.errstate(over="ignore"):  # a threshold beyond any number keeps all
            return self.keep(rows, self.value)  # type: ignore[no-any-return]


class Mixture(Rule):
    """A rule whose result is no power of p on a kept set; override `apply`."""

    kind = "mixture"


class Reweighting(Rule):
    """A rule that changes the weights of the tokens that are left; override `apply`."""

    kind = "reweighting"
