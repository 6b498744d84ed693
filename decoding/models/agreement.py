"""Whether two computations of the same logits agree: how far apart they are, and how far rounding
may set them apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Two orders of the same sums differ by a unit or two of their last place, and layers multiply that:
# by hundreds in a deep model with wide random weights. Half precision sums in float32 and rounds
# what comes out, so there the same layers make fewer units of it.
ROUNDING, ROUNDING_HALF = 1024, 32


def distance(got: Tensor, want: Tensor) -> Tensor:
    """Root mean square over the vocabulary of the difference; what is NaN in both is equal."""
    same = (got == want) | (got.isnan() & want.isnan())
    difference = torch.where(same, 0.0, got.double() - want.double())
    return difference.square().mean(-1).sqrt().nan_to_num(nan=math.inf, posinf=math.inf)


def rounding(logits: Tensor, dtype: torch.dtype) -> float:
    """How far rounding may set logits of a model in this dtype apart, as a `distance`."""
    # transformers computes norms and rotations in float32, also in a model in float64.
    eps = max(torch.finfo(each).eps for each in (logits.dtype, dtype, torch.float32))
    units = ROUNDING if eps <= torch.finfo(torch.float32).eps else ROUNDING_HALF
    finite = logits.double()[logits.isfinite()]
    return units * eps * (float(finite.square().mean().sqrt()) if len(finite) else 0.0)
