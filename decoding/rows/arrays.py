"""Arrays of the library that is fastest where they are: NumPy's on a CPU, torch's elsewhere.

A decoding step is many short operations, which take NumPy a fraction of the time that they take
torch, in the same memory. Both libraries spell what is needed here alike, so that each formula is
written once: `xp = library(values)`, then `xp.log(values)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any
"""A NumPy array on a CPU, and a tensor on an accelerator."""

numpy_sees = attrgetter("is_cpu")  # whether a tensor's memory is a NumPy array's as well

# With AVX-512, NumPy's exponential takes half of the time of torch's. Without, torch's takes two
# thirds of NumPy's, or, on two threads, a third; but it is slow to begin, which a row alone feels.
# So there a row alone and the same row in a batch may differ in the last bit.
_NUMPY_EXP = torch.backends.cpu.get_cpu_capability() == "AVX512"
_FEW = 1 << 16  # values that NumPy's exponential takes on any CPU


def as_float(values: Tensor) -> Tensor:
    """`values` in float32, or as they are where they are float64; half precision is too coarse."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def as_array(values: Tensor | Array) -> Array:
    """The same memory as an array, without gradients."""
    if not isinstance(values, Tensor):
        return values
    if values.requires_grad:
        values = values.detach()
    return values.numpy() if numpy_sees(values) else values


def as_tensor(values: Array) -> Tensor:
    """The same memory as a tensor."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def on_host(values: Array) -> bool:
    """Whether a look at the numbers is free: on an accelerator the host would wait for them."""
    return not isinstance(values, Tensor)


def library(values: Array) -> Any:
    """`numpy` or `torch`."""
    return np if on_host(values) else torch


def largest(values: Array) -> Array:
    """The largest of each row, `(…, 1)` of `(…, vocab)`."""
    if on_host(values):
        return np.maximum.reduce(values, -1, keepdims=True)
    return values.amax(-1, keepdim=True)


def exp(values: Array) -> Array:
    """e^v of each value, in the shape and type of the values."""
    if on_host(values) and (_NUMPY_EXP or values.size <= _FEW):
        return np.exp(values)
    return as_array(as_tensor(values).exp())


def total(values: Array) -> Array:
    """The sum of each row, `(…)` of `(…, vocab)`, float64."""
    if on_host(values):
        return np.add.reduce(values, -1, dtype=np.float64)
    return values.sum(-1, dtype=torch.float64)


def double(values: Array) -> Array:
    """The values in float64."""
    return np.asarray(values, np.float64) if on_host(values) else values.double()


def at(values: Array, tokens: Array) -> Array:
    """Each row's value at its token, `(…)` of `(…, vocab)`."""
    if not on_host(values):
        return values.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    flat = values.reshape(-1, values.shape[-1])
    return flat[np.arange(len(flat)), tokens.reshape(-1)].reshape(tokens.shape)


def count(mask: Array) -> Array:
    """How many of each row are true, `(…)` of `(…, vocab)`, int64."""
    if not on_host(mask):
        return mask.sum(-1)
    # NumPy counts a whole array many times faster than along an axis.
    rows = mask.reshape(-1, mask.shape[-1])
    return np.array([np.count_nonzero(row) for row in rows], np.int64).reshape(mask.shape[:-1])


def side_by_side(columns: list[Array]) -> Array:
    """`(rows, columns)` of so many `(rows)`, float32."""
    if not on_host(columns[0]):
        return torch.stack(columns, -1).float()
    values = np.empty((len(columns[0]), len(columns)), np.float32)
    for place, column in enumerate(columns):
        values[:, place] = column
    return values


def joined(parts: Sequence[Any]) -> Any:
    """The rows of all the parts, in the tuples that hold them; None where there are none."""
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    if isinstance(parts[0], tuple):
        return type(parts[0])(*map(joined, zip(*parts, strict=True)))
    return np.concatenate(parts) if on_host(parts[0]) else torch.cat(list(parts))
