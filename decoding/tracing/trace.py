"""`Trace`: what is known about each token of one generated sequence."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decoding.showing.inline import inline, static_text
from decoding.tracing.view import TRACE

if TYPE_CHECKING:
    from rich.table import Table

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Alternatives:
    """The runner-up tokens at each step, by the model's own probability; all `(tokens, K)`."""

    ids: Integers
    raw_probability: Floats
    """Probability under the model's own distribution, in [0, 1]."""
    probability: Floats
    """Probability under the distribution that the token was drawn from; 0 where it was cut."""


@dataclass(frozen=True)
class Certainty:
    """How far the model's own distribution p is from even at each step; all `(tokens,)`."""

    self_certainty_nats: Floats
    """KL(U‖p) >= 0, U even over the vocabulary; see `decoding.information.self_certainty`."""
    renyi_divergence_nats: Floats
    """ln vocab less the Rényi entropy of order 1/2, of p at temperature 2: in [0, ln vocab]."""
    confidence_nats: Floats
    """Mean surprisal of the 20 most probable tokens, >= 0: larger where p is more peaked."""
    margin: Floats
    """Probability of the most probable token less that of the second, in [0, 1]."""


@dataclass(frozen=True)
class Trace:
    """Per-token measurements of one sequence, without its prompt; every column has one row a token.

    `raw` is the model's own distribution p; the other columns are of q, which the token was drawn
    from.
    """

    ids: Integers
    surprisal_nats: Floats
    """-log q(token), >= 0."""
    entropy_nats: Floats
    """H(q), in [0, ln vocab]."""
    raw_surprisal_nats: Floats
    """-log p(token), >= 0."""
    raw_entropy_nats: Floats
    """H(p), in [0, ln vocab]."""
    kept: Integers
    """Number of tokens in the support of q, >= 1."""
    kept_mass: Floats
    """Mass of that support after temperature and before truncation, in (0, 1]; for greedy, the
    token's probability before the cut, at temperature 1."""
    rank: Integers
    """Number of tokens that the model prefers to this one; 0 is its favourite."""
    kl_nats: Floats
    """KL(q‖p), >= 0: what the setting changed at this step."""
    temperature: Floats | None = None
    """T > 0 of the step, where the setting takes it from the entropy."""
    texts: tuple[str, ...] | None = None
    """Text of each token; concatenated, the text of the sequence."""
    alternatives: Alternatives | None = None
    certainty: Certainty | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Trace({described(self)})"

    def first(self, tokens: int) -> Trace:
        """The trace of the first tokens alone."""
        shortened: Trace = _first(self, tokens)
        return shortened

    def columns(self) -> dict[str, Any]:
        """Columns by record key, in the order of the records; `text` only where it is known."""
        named: dict[str, Any] = {"id": self.ids}
        if self.texts is not None:
            named["text"] = self.texts
        for name in _MEASURES if self.temperature is None else (*_MEASURES, "temperature"):
            named[name] = getattr(self, name)
        return named

    def records(self) -> list[dict[str, Any]]:
        """One dictionary of plain Python values per token, ready for JSON."""
        columns = {
            name: values.tolist() if isinstance(values, np.ndarray) else values
            for name, values in self.columns().items()
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def summary(self) -> dict[str, Any]:
        """Sums and means over the tokens; means are None for an empty trace.

        Returns:
            `tokens`; `mean_entropy_nats`, `mean_raw_entropy_nats`, `mean_kl_nats`;
            `effective_choices` = exp of the mean entropy; `surprisal_nats` and
            `raw_surprisal_nats`, the sums (the sequence's -log q and -log p); `raw_perplexity` =
            exp(raw_surprisal_nats / tokens).
        """

        def mean(values: Floats) -> float | None:
            return math.fsum(values) / len(values) if len(values) else None

        def exponential(value: float | None) -> float | None:
            # e^709 is the largest double; a perplexity beyond it has no number to print.
            return None if value is None or value > 709 else math.exp(value)

        return {
            "tokens": len(self),
            "mean_entropy_nats": mean(self.entropy_nats),
            "mean_raw_entropy_nats": mean(self.raw_entropy_nats),
            "mean_kl_nats": mean(self.kl_nats),
            "effective_choices": exponential(mean(self.entropy_nats)),
            "surprisal_nats": math.fsum(self.surprisal_nats),
            "raw_surprisal_nats": math.fsum(self.raw_surprisal_nats),
            "raw_perplexity": exponential(mean(self.raw_surprisal_nats)),
        }

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for name in self.columns():
            head = name.replace("_nats", " (nats)").replace("_", " ")
            table.add_column(head, justify="left" if name == "text" else "right")
        for record in self.records():
            cells = [repr(one) if isinstance(one, str) else one for one in record.values()]
            table.add_row(
                *(Text(f"{one:.4f}" if isinstance(one, float) else str(one)) for one in cells)
            )
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=200, color_system=None)
        console.print(self)
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())

    def _repr_html_(self) -> str:
        # A processor behind the monitor may have drawn what has no probability here.
        tokens = [
            {"text": f"{record['id']} "}
            | {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in record.items()
            }
            for record in self.records()
        ]
        return inline(TRACE, [{"tokens": tokens}], static_text(tokens))


def _first(columns: Any, tokens: int) -> Any:
    """The first rows of all columns, whatever they are held in."""
    if is_dataclass(columns) and not isinstance(columns, type):
        held = {field.name: getattr(columns, field.name) for field in fields(columns)}
        return replace(columns, **{name: _first(value, tokens) for name, value in held.items()})
    return None if columns is None else columns[:tokens]


def described(trace: Trace, *facts: str) -> str:
    """How long a trace is and its mean entropy, with further facts in between, on one line."""
    tokens = len(trace)
    parts = [f"{tokens} token{'' if tokens == 1 else 's'}", *facts]
    if tokens:
        parts.append(f"mean entropy {math.fsum(trace.entropy_nats) / tokens:.2f} nats")
    return ", ".join(parts)


_MEASURES = (
    "surprisal_nats",
    "entropy_nats",
    "raw_surprisal_nats",
    "raw_entropy_nats",
    "kept",
    "kept_mass",
    "rank",
    "kl_nats",
)
