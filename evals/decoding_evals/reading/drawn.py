"""What the readers of other tools' answers give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

from decoding_evals.reading.rows import is_utf8, kind_name

SLACK_NATS = 1e-3
"""By how much rounding may lift a log-probability above 0."""
MOST_NATS = 1e30
"""No surprisal or entropy reaches this; sums of more might overflow."""


class DrawnAnswer(NamedTuple):
    """An answer, and what was written down of its tokens; what was not is None."""

    text: str
    finish_reason: str
    """`eos` (where the token for it is the last one), `stop`, `length`, or as it was recorded."""
    texts: tuple[str, ...] | None = None
    """Of the tokens."""
    ids: tuple[int, ...] | None = None
    surprisal_nats: tuple[float, ...] | None = None
    """-log q of the tokens, as it was recorded, >= 0."""
    entropy_nats: tuple[float, ...] | None = None
    """H(q) at their steps."""


class Drawn(NamedTuple):
    """Answers of one row, and how they were drawn; what a row does not say is None."""

    answers: tuple[DrawnAnswer, ...]
    prompt_ids: tuple[int, ...] | None = None
    model: str | None = None
    settings: str | None = None
    seed: int | None = None
    chat: Mapping[str, Any] | None = None


def text_in(values: Any, key: str, what: str) -> str:
    """A text of an object; a TypeError where there is none."""
    text = values.get(key) if isinstance(values, dict) else None
    if not isinstance(text, str):
        raise TypeError(f"{what} has {kind_name(text)} as {key!r}, not a text")
    if not is_utf8(text):
        raise TypeError(f"{what} has a text as {key!r} that is not valid UTF-8")
    return text


def list_in(values: Any, key: str, what: str) -> list[Any]:
    """A list of an object; a TypeError where there is none."""
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, list):
        raise TypeError(f"{what} has {kind_name(found)} as {key!r}, not a list")
    return found


def ids_in(values: Any, key: str, what: str) -> tuple[int, ...]:
    """Token ids of an object; a TypeError where there are none."""
    ids = list_in(values, key, what)
    if not all(type(one) is int and 0 <= one < 2**31 for one in ids):
        raise TypeError(f"{what} has something else than token ids in {key!r}")
    return tuple(ids)


def surprisal_of(log_prob: object, what: str) -> float:
    """The surprisal, nats, of a log-probability; a TypeError where it is none."""
    if not (_is_number(log_prob) and -MOST_NATS < log_prob <= SLACK_NATS):
        raise TypeError(f"{what} has {_shown(log_prob)} as its log-probability")
    return max(0.0, -float(log_prob))


def nats_in(values: Any, key: str, what: str) -> float:
    """A surprisal or an entropy of an object, nats; a TypeError where there is none."""
    found = values.get(key) if isinstance(values, dict) else None
    if not (_is_number(found) and 0 <= found < MOST_NATS):
        raise TypeError(f"{what} has {_shown(found)} as {key!r}")
    return float(found)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value of a file in an error message: a number as it is, if it is no longer than usual."""
    said = repr(value) if value is not None else kind_name(value)
    return said if len(said) <= 40 else f"{said[:39]}…"
