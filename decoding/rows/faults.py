"""Rows that are no distribution: NaN, +inf, or no finite logit."""

from __future__ import annotations

import math

from torch import Tensor

from decoding.rows.arrays import Array, on_host
from decoding.rows.distribution import Distribution


class NonFiniteLogitsError(ValueError):
    """A model returned a row of logits that is no distribution."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place}: the model's logits hold NaN or +inf, or are all -inf")
        self.place = place


def without_faults(
    raw: Distribution, step: int, first: int = 0
) -> tuple[Distribution, Array | None]:
    """Rows without those that are no distribution, and of an accelerator which they are.

    Args:
        raw: the model's own rows.
        step: for the error.
        first: for the error, the number of the first row.

    Raises:
        NonFiniteLogitsError: on a CPU, there is such a row.
    """
    if not on_host(raw.top):
        fault = ~raw.top[:, 0].isfinite()
        return Distribution(raw.logits.masked_fill(fault.unsqueeze(-1), 0.0)), fault
    for row, top in enumerate(raw.top.ravel().tolist(), first):
        if not math.isfinite(top):
            raise NonFiniteLogitsError(f"step {step}, row {row}")
    return raw, None


def refuse_faults(faults: Tensor) -> None:
    """Complain of the first of the rows that were no distribution, `(steps, rows)`."""
    found = faults.nonzero()
    if len(found):
        step, row = found[0].tolist()
        raise NonFiniteLogitsError(f"step {step}, row {row}")
