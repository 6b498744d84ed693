"""What the readers of other tools' answers give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from decoding_evals.reading.rows import is_utf8, kind_name

SLACK_NATS = 1e-3
"""By how much rounding may lift a log-probability above 0."""


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
    if not isinstance(text, str) or not is_utf8(text):
        raise TypeError(f"{what} has {kind_name(text)} as {key!r}, not a text")
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
    number = isinstance(log_prob, int | float) and not isinstance(log_prob, bool)
    if not (number and -1e30 < log_prob <= SLACK_NATS):  # type: ignore[operator]
        raise TypeError(f"{what} has {log_prob!r} as its log-probability")
    return max(0.0, -float(log_prob))  # type: ignore[arg-type]
