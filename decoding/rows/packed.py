"""Rows of logits in about a kilobyte each, from which every temperature and prefix follows.

A temperature keeps the order of tokens, and top_k, top_p and min_p keep its beginning. So all that
these make of a row follows from its depths `x = max z - z` in ascending order: those of the first
tokens one by one, and behind them segments of which the ends and the mean are kept. Within a
segment, tokens are taken to lie as thickly as e^{λx}, λ being what gives their mean; a polynomial
in ln β mends what that leaves, so that a temperature alone comes out exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]

DETAIL = 192
LEAST_DETAIL, MOST_DETAIL = 16, 4096
_NAMED = 16  # depths to a token that is kept by name
_LEAST_NAMED = 12
_GROWTH = 20  # a segment's first place, divided by it, is its length
_TERMS = 16  # of the polynomial
_HOTTEST = 4.0  # 1/4 <= β <= 4, on which it is made
_STEPS = 254  # of the mean's place within a segment
_DEEPEST = 60000.0  # beyond which depths are no longer told apart
_ROWS = 16  # worked on together

_NODES = np.cos(np.pi * (np.arange(_TERMS) + 0.5) / _TERMS)
_BETWEEN = np.cos(np.pi * np.arange(_TERMS + 1) / _TERMS)
_TO_TERMS = np.cos(np.arange(_TERMS)[:, None] * np.arccos(_NODES)) * 2 / _TERMS
_TO_TERMS[0] /= 2
_BETAS, _BETAS_BETWEEN = _HOTTEST**_NODES, _HOTTEST**_BETWEEN
_GROUP, _NARROW = 32, 0.02  # tokens, and nats: a third power of β·0.02 is nothing


@dataclass(frozen=True)
class PackedRows:
    """How rows of one vocabulary are packed, little-endian, every field at a multiple of its size.

    Args:
        vocab: tokens of a row.
        detail: N, how many depths of a row are kept one by one, in [16, 4096], or all that there
            are; one in 16 of them, and at least 12, with the token's id.

    Raises:
        ValueError: `detail` is outside its range.
    """

    vocab: int
    detail: int = DETAIL

    def __post_init__(self) -> None:
        if not LEAST_DETAIL <= self.detail <= MOST_DETAIL:
            raise ValueError(
                f"detail must be from {LEAST_DETAIL} to {MOST_DETAIL}, got {self.detail}"
            )

    @property
    def depths(self) -> int:
        """How many depths are kept one by one."""
        return min(self.detail, self.vocab)

    @property
    def named(self) -> int:
        """How many of them with the token's id, and in float32."""
        return min(max(self.detail // _NAMED, _LEAST_NAMED), self.vocab)

    @cached_property
    def places(self) -> Integers:
        """`(segments + 1,)`, where each segment begins in the order of tokens, and the end."""
        places = [self.depths]
        while places[-1] < self.vocab:
            places.append(min(places[-1] + max(1, places[-1] // _GROWTH), self.vocab))
        return np.array(places, dtype=np.int64)

    @cached_property
    def layout(self) -> np.dtype[Any]:
        """A row.

        `named_depth`; of the token that came: `depth` (infinite where it is excluded), and `place`
        in the order; `count`, the tokens that are not excluded; `named_id`; `ratio_unit`, which
        `ratio` is multiplied with; `gap`, the steps from one depth to the next, in float16; `width`
        of each segment, likewise, the first beginning at the last depth; `residual`, the largest
        error in entropy and log-partition that is left at temperatures from 1/4 to 4, nats;
        `ratio`, the Chebyshev terms over ln β / ln 4 of the logarithm by which the tail weighs more
        than its segments; `mean`, where it stands in its segment, in 254ths.
        """
        segments = len(self.places) - 1
        fields: list[Any] = [
            ("named_depth", "<f4", (self.named,)),
            ("depth", "<f4"),
            ("ratio_unit", "<f4"),
            ("place", "<u4"),
            ("count", "<u4"),
            ("named_id", "<u4", (self.named,)),
            ("gap", "<f2", (self.depths - self.named,)),
            ("width", "<f2", (segments,)),
            ("residual", "<f2"),
            ("ratio", "<i2", (_TERMS,)),
            ("mean", "u1", (segments,)),
        ]
        size = np.dtype(fields).itemsize
        return np.dtype([*fields, ("", "V1", (-size % 4,))] if size % 4 else fields)

    def pack(self, logits: Floats, tokens: Integers) -> NDArray[np.void]:
        """Pack rows.

        Args:
            logits: `(rows, vocab)`, finite or -inf, not all -inf in a row.
            tokens: `(rows,)`, the ids that came.

        Returns:
            `(rows,)` of `layout`.

        Raises:
            ValueError: the rows have another vocabulary.
        """
        if logits.shape[1:] != (self.vocab,):
            raise ValueError(f"logits must be (rows, {self.vocab}), got {logits.shape}")
        packed = np.zeros(len(logits), self.layout)
        for first in range(0, len(logits), _ROWS):
            rows = slice(first, first + _ROWS)
            self._fill(packed[rows], np.asarray(logits[rows], np.float32), tokens[rows])
        return packed

    def _fill(self, packed: NDArray[np.void], z: Floats, tokens: Integers) -> None:
        own = np.take_along_axis(z, tokens[:, None], -1)
        packed["depth"] = z.max(-1) - own[:, 0]
        before = np.arange(self.vocab) < tokens[:, None]
        packed["place"] = ((z > own) | ((z == own) & before)).sum(-1)
        packed["count"] = (z > -np.inf).sum(-1)
        packed["named_id"] = [_first_ids(row, self.named) for row in z]
        x = -np.sort(-z, -1)
        x = np.minimum(x[:, :1] - x, _DEEPEST)
        packed["named_depth"] = x[:, : self.named]
        last = packed["named_depth"][:, -1].astype(np.float64)
        known = [packed["named_depth"].astype(np.float64)]
        for place in range(self.named, self.depths):
            gap = packed["gap"][:, place - self.named]
            gap[:] = (x[:, place] - last).clip(0)
            last = last + gap
            known.append(last[:, None])
        if self.depths < self.vocab:
            self._fill_tail(packed, x, np.concatenate(known, -1))

    def _fill_tail(self, packed: NDArray[np.void], x: Floats, known: Floats) -> None:
        """The segments of rows of sorted depths `(rows, vocab)`, of which the first are known."""
        starts, count = self.places[:-1], packed["count"].astype(np.int64)[:, None]
        size = (np.minimum(self.places[1:], count) - starts).clip(0)
        tail = np.where(np.arange(self.depths, self.vocab) < count, x[:, self.depths :], 0)
        total = np.add.reduceat(tail, starts - self.depths, axis=-1, dtype=np.float64)
        low = known[:, -1]
        lows = np.empty(size.shape)
        for segment, end in enumerate(self.places[1:]):
            lows[:, segment] = low
            deepest = np.take_along_axis(x, (np.minimum(end, count) - 1).clip(0), -1)[:, 0]
            width = packed["width"][:, segment]
            width[:] = np.where(size[:, segment] > 0, deepest - low, 0).clip(0)
            low = low + width
        widths = packed["width"].astype(np.float64)
        mean = (total / size.clip(1) - lows) / np.where(widths > 0, widths, 1)
        packed["mean"] = np.where(widths > 0, mean.clip(0, 1) * _STEPS, 0).round()
        for row in range(len(packed)):
            if size[row].any():
                segments = Segments(size[row], lows[row], widths[row], packed["mean"][row])
                depths = tail[row, : int(size[row].sum())]
                _mend(packed[row : row + 1], segments, depths, known[row])


@dataclass(frozen=True)
class Segments:
    """The tail of a row, as it is known; all `(segments,)`."""

    size: Integers
    low: Floats
    width: Floats
    mean: Floats
    """In 254ths of the width."""

    def sums(self, beta: Floats, origin: float) -> tuple[Floats, Floats]:
        """Σ e^{-β(x - origin)} and Σ x·e^{-β(x - origin)} at each β of `(n,)`."""
        lean = _LEANS[self.mean.astype(np.int64)]
        tilted = lean - beta[:, None] * self.width
        exponent = log_mean_exp(tilted) - log_mean_exp(lean) - beta[:, None] * (self.low - origin)
        mass = self.size * np.exp(exponent)
        return mass.sum(-1), (mass * (self.low + self.width * mean_of(tilted))).sum(-1)


@dataclass(frozen=True)
class _Neighbours:
    """The tail of a row in groups so narrow that sums over it are exact; all `(groups,)`."""

    size: Floats
    mean: Floats
    """Of the depths beyond that of the tail's origin."""
    variance: Floats

    @classmethod
    def of(cls, beyond: Floats) -> _Neighbours:
        """Group depths `(n,)` in ascending order; those that lie wide apart stand alone."""
        starts = np.arange(0, len(beyond), _GROUP)
        size = np.diff(starts, append=len(beyond))
        mean = np.add.reduceat(beyond, starts) / size
        variance = np.add.reduceat((beyond - np.repeat(mean, size)) ** 2, starts) / size
        narrow = beyond[starts + size - 1] - beyond[starts] < _NARROW
        alone = beyond[~np.repeat(narrow, size)]
        groups = (size[narrow], mean[narrow], variance[narrow])
        single = (np.ones(len(alone)), alone, np.zeros(len(alone)))
        return cls(*(np.concatenate(pair) for pair in zip(groups, single, strict=True)))

    def sums(self, beta: Floats, origin: float) -> tuple[Floats, Floats]:
        """As those of `Segments`."""
        beta = beta[:, None]
        weights = self.size * np.exp(-beta * self.mean)
        mass = (weights * (1 + beta**2 * self.variance / 2)).sum(-1)
        moment = weights * (self.mean * (1 + beta**2 * self.variance / 2) - beta * self.variance)
        return mass, origin * mass + moment.sum(-1)


def log_mean_exp(t: Floats) -> Floats:
    """ln ∫₀¹ e^{ty} dy."""
    size = np.maximum(abs(t), 1e-3)
    far = np.log(-np.expm1(-size) / size)
    near = t * t / 24 - abs(t) / 2
    value: Floats = np.where(abs(t) < 1e-3, near, far) + t.clip(0)
    return value


def mean_of(t: Floats) -> Floats:
    """∫₀¹ y·e^{ty} dy / ∫₀¹ e^{ty} dy, in (0, 1)."""
    size = np.maximum(abs(t), 1e-2)
    far = 1 / size - 1 / np.expm1(size.clip(None, 700))
    below = np.where(abs(t) < 1e-2, 0.5 - abs(t) / 12, far)
    mean: Floats = np.where(t > 0, 1 - below, below)
    return mean


def _leans() -> NDArray[np.float64]:
    """The t at which `mean_of` is each number of 254ths; beyond 1e6 all tokens are at one end."""
    goal = np.arange(_STEPS + 1) / _STEPS
    low, high = np.full(len(goal), -1e6), np.full(len(goal), 1e6)
    for _ in range(80):
        middle = (low + high) / 2
        below = mean_of(middle) < goal
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    leans: NDArray[np.float64] = (low + high) / 2
    return leans


_LEANS = _leans()


def _first_ids(row: Floats, count: int) -> Integers:
    """Ids of the largest logits, the lowest first where they are equal."""
    boundary = np.partition(row, len(row) - count)[len(row) - count]
    ids = np.flatnonzero(row >= boundary)
    return ids[np.argsort(-row[ids], kind="stable")[:count]]


def _mend(packed: NDArray[np.void], segments: Segments, depths: Floats, known: Floats) -> None:
    """Write what the segments of one row lack: with it, the sum of the tail is exact at 16 β."""
    origin = float(known[-1])
    exact = _Neighbours.of(depths.astype(np.float64) - origin)
    ratios = np.log(exact.sums(_BETAS, origin)[0] / segments.sums(_BETAS, origin)[0])
    terms = _TO_TERMS @ ratios
    unit = np.float32(max(abs(terms).max() / 32767, 1e-12))
    packed["ratio_unit"], packed["ratio"] = unit, (terms / unit).round()
    polynomial = np.polynomial.Chebyshev(packed["ratio"][0] * np.float64(unit))
    mass, moment = segments.sums(_BETAS_BETWEEN, origin)
    # The moment is -d/dβ of the mass, and a node is ln β / ln 4.
    slope = polynomial.deriv()(_BETWEEN) / (_BETAS_BETWEEN * np.log(_HOTTEST))
    ratio = np.exp(polynomial(_BETWEEN))
    ours = _with_head(known, origin, mass * ratio, (moment - mass * slope) * ratio)
    theirs = _with_head(known, origin, *exact.sums(_BETAS_BETWEEN, origin))
    residual = np.float16(abs(ours - theirs).max())
    packed["residual"] = np.nextafter(residual, np.float16(np.inf))


def _with_head(known: Floats, origin: float, mass: Floats, moment: Floats) -> Floats:
    """Log-partition and entropy of a row with known first depths and these sums of its tail."""
    weights = np.exp(-_BETAS_BETWEEN[:, None] * known)
    scale = np.exp(-_BETAS_BETWEEN * origin)
    whole = weights.sum(-1) + mass * scale
    mean = (weights @ known + moment * scale) / whole
    return np.array([np.log(whole), np.log(whole) + _BETAS_BETWEEN * mean])
