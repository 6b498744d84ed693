"""Rows of logits in about a kilobyte each, from which every temperature and prefix follows.

A temperature keeps the order of tokens, and top_k, top_p and min_p keep its beginning. So all that
these make of a row follows from its depths `x = max z - z` in ascending order: those of the first
tokens one by one, and behind them segments of which the ends and the mean are kept. Within a
segment, tokens are taken to lie as thickly as e^{λx}, λ being what gives their mean; a polynomial
in ln β mends what that leaves, so that a temperature alone comes out exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
_Binned = tuple[Integers, Floats]

DETAIL = 192
LEAST_DETAIL, MOST_DETAIL = 16, 4096
_NAMED = 16  # depths to a token that is kept by name
_LEAST_NAMED = 12
_GROWTH = 20  # a segment's first place, divided by it, is its length
_TERMS = 16  # of the polynomial
_TERMS_BEFORE = 8  # of that for what stands before the token that came
_HOTTEST = 4.0  # 1/4 <= β <= 4, on which it is made
_STEPS = 254  # of the mean's place within a segment
_BELOW = 1 - 2.0**-11  # a number times it is rounded in float16 to no more than the number
_DEEPEST = 60000.0  # beyond which depths are no longer told apart
# Temperatures at which what is left is measured. Between them, a polynomial of 16 terms reaches at
# most 1.35 times what it is there: 1/cos(15π/64), Ehlich & Zeller 1964.
_PROBES = 33
_ROWS = 32  # worked on together

_BIN, _DEEPEST_BIN, _POWERS = 1 / 32, 160, 4  # nats; beyond the latter, β = 1/4 leaves e^{-40}
_NOTHING = 1e-12  # of a token

_NODES = np.cos(np.pi * (np.arange(_TERMS) + 0.5) / _TERMS)
_BETWEEN = np.cos(np.pi * np.arange(_PROBES) / (_PROBES - 1))
_BETAS = _HOTTEST ** np.concatenate([_NODES, _BETWEEN])
_TO_TERMS = np.cos(np.arange(_TERMS)[:, None] * np.arccos(_NODES)) * 2 / _TERMS
_TO_TERMS[0] /= 2
_CHEBYSHEV = [np.polynomial.Chebyshev.basis(k) for k in range(_TERMS)]
_AT = np.concatenate([_NODES, _BETWEEN])
_POLYNOMIALS = np.array([term(_AT) for term in _CHEBYSHEV])
_SLOPES = np.array([term.deriv()(_AT) for term in _CHEBYSHEV])


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
        than its segments; `before`, the same of the tail's tokens before the one that came, in
        whose segment they weigh by their number, and `before_residual`, the largest error that is
        left of that; `mean`, where it stands in its segment, in 254ths.
        """
        segments = len(self.places) - 1
        fields: list[Any] = [
            ("named_depth", "<f4", (self.named,)),
            ("depth", "<f4"),
            ("ratio_unit", "<f4"),
            ("before_unit", "<f4"),
            ("place", "<u4"),
            ("count", "<u4"),
            ("named_id", "<u4", (self.named,)),
            ("gap", "<f2", (self.depths - self.named,)),
            ("width", "<f2", (segments,)),
            ("residual", "<f2"),
            ("before_residual", "<f2"),
            ("ratio", "<i2", (_TERMS,)),
            ("before", "<i2", (_TERMS_BEFORE,)),
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
        head = np.empty((len(z), self.depths))
        deepest, total = np.empty((2, len(z), len(self.places) - 1))
        tails, before = [], {}
        for row, (of, token) in enumerate(zip(z, tokens, strict=True)):
            ascending = np.sort(of)
            count = self.vocab - np.searchsorted(ascending, -np.inf, "right")
            larger = self.vocab - np.searchsorted(ascending, of[token], "right")
            packed["count"][row] = count
            packed["depth"][row] = ascending[-1] - of[token]
            packed["place"][row] = larger + np.count_nonzero(of[:token] == of[token])
            ids = np.flatnonzero(of >= ascending[-self.named])
            packed["named_id"][row] = ids[np.argsort(-of[ids], kind="stable")[: self.named]]
            x = np.subtract(ascending[-1], ascending[::-1], dtype=np.float64)
            if x[-1] > _DEEPEST:
                np.minimum(x, _DEEPEST, out=x)
            head[row] = x[: self.depths]
            x[count:] = 0
            deepest[row] = x[np.minimum(self.places[1:], count) - 1]
            total[row] = np.add.reduceat(x, self.places[:-1])
            beyond = x[self.depths : count] - x[self.depths - 1]
            tails.append(_binned(beyond))
            if packed["place"][row] > self.depths:
                before[row] = _binned(beyond[: int(packed["place"][row]) - self.depths])
        packed["named_depth"] = head[:, : self.named]
        known = packed["named_depth"].astype(np.float64)
        known = np.concatenate([known, np.empty(packed["gap"].shape)], -1)
        for place in range(self.named, self.depths):
            gap = packed["gap"][:, place - self.named]
            gap[:] = head[:, place] - known[:, place - 1]
            known[:, place] = known[:, place - 1] + gap
        if self.depths < self.vocab:
            segments = self._fill_segments(packed, known[:, -1], deepest, total)
            _mend(packed, segments, tails, known, head[:, -1])
            if before:
                self._fill_before(packed, segments, before, head[:, -1])

    def _fill_before(
        self,
        packed: NDArray[np.void],
        segments: Segments,
        before: dict[int, _Binned],
        origin: Floats,
    ) -> None:
        """What stands in the tail before the tokens that came, of the rows where any does."""
        rows = list(before)
        some = packed[rows]
        size = (some["place"].astype(np.int64)[:, None] - self.places[:-1]).clip(0)
        size = np.minimum(size, segments.size[rows])
        shorter = Segments(size, segments.low[rows], segments.width[rows], some["mean"])
        _mend_before(some, shorter, list(before.values()), origin[rows])
        packed[rows] = some

    def _fill_segments(
        self, packed: NDArray[np.void], low: Floats, deepest: Floats, total: Floats
    ) -> Segments:
        """Width and mean, from the deepest token of each and the sum of its depths."""
        count = packed["count"].astype(np.int64)[:, None]
        size = (np.minimum(self.places[1:], count) - self.places[:-1]).clip(0)
        deepest = np.where(size > 0, deepest, 0)
        lows = np.empty(size.shape)
        for segment in range(len(self.places) - 1):
            lows[:, segment] = low
            width = packed["width"][:, segment]
            width[:] = np.maximum(deepest[:, segment] - low, 0) * _BELOW
            low = low + width
        widths = packed["width"].astype(np.float64)
        mean = (total / size.clip(1) - lows) / np.where(widths > 0, widths, 1)
        packed["mean"] = np.where(widths > 0, mean.clip(0, 1) * _STEPS, 0).round()
        return Segments(size, lows, widths, packed["mean"])


@dataclass(frozen=True)
class Segments:
    """The tails of rows, as they are known; all `(rows, segments)`."""

    size: Integers
    low: Floats
    width: Floats
    mean: Floats
    """In 254ths of the width."""

    def sums(self, beta: Floats, origin: Floats) -> tuple[Floats, Floats]:
        """`(rows, n)`, Σ e^{-βy} and Σ y·e^{-βy} over y = x - origin, at each β of `(n,)`."""
        lean, beta = _LEANS[self.mean.astype(np.int64)][:, None], beta[:, None]
        low, width = (self.low - origin[:, None])[:, None], self.width[:, None]
        tilted = lean - beta * width
        # ∫₀¹ e^{ty} dy is e^{max(t, 0)}·(1 - e^{-|t|})/|t|; of the same is the mean of y made.
        apart = np.maximum(abs(tilted), 1e-7)
        rest = -np.expm1(-apart)
        further = 1 / rest - 1 / apart
        np.copyto(further, 1 - further, where=tilted < 0)
        exponent = np.maximum(tilted, 0) - log_mean_exp(lean) - beta * low
        mass = self.size[:, None] * (rest / apart) * np.exp(exponent)
        return mass.sum(-1), np.einsum("rbs,rbs->rb", mass, low + width * further)


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


def _binned(y: Floats) -> _Binned:
    """Which bins of equal width depths `(n,)` in ascending order fall into, and Σ dᵏ of each.

    d is a depth less that of its bin's middle, `(bins, 4)`. So narrow are they that these stand for
    all of e^{-βy}. What lies deeper than 160 nats weighs nothing.
    """
    y = y[: np.searchsorted(y, _DEEPEST_BIN)].astype(np.float32) * np.float32(1 / _BIN)
    bin_ = np.rint(y)
    starts = np.flatnonzero(np.concatenate([[True], bin_[1:] != bin_[:-1]])[: len(y)])
    d = y - bin_
    powers = np.empty((len(starts), _POWERS))
    powers[:, 0] = np.diff(starts, append=len(y))
    powers[:, 1] = np.add.reduceat(d, starts) * _BIN
    power = d
    for k in range(2, _POWERS):
        power = power * d
        powers[:, k] = np.add.reduceat(power, starts) * _BIN**k
    return bin_[starts].astype(np.int64), powers


def _sums(tails: list[_Binned]) -> tuple[Floats, Floats]:
    """As those of `Segments`, at all of `_BETAS`, of tails in bins.

    With c a bin's middle, e^{-βy} is e^{-βc}·(1 - βd + β²d²/2 - β³d³/6), to 1e-6 of it at most.
    """
    most = max((int(bins[-1]) + 1 for bins, _ in tails if len(bins)), default=1)
    powers = np.zeros((most, len(tails), _POWERS))
    for row, (bins, of_row) in enumerate(tails):
        powers[bins, row] = of_row
    scale, middle = _scale_of_bins()
    both = np.stack([powers, powers * middle[:most, None, None]], 1).reshape(most, -1)
    a, b = (scale[:, :most] @ both).reshape(-1, 2, len(tails), _POWERS).swapaxes(0, 1)
    factor = np.cumprod([np.ones(len(_BETAS)), *(-_BETAS / k for k in range(1, _POWERS))], 0)
    mass = np.einsum("brk,kb->rb", a, factor)
    moment = np.einsum("brk,kb->rb", b, factor)
    moment += np.einsum("brk,kb->rb", a[..., 1:], factor[:-1])
    return mass, moment


@cache
def _scale_of_bins() -> tuple[Floats, Floats]:
    """`(betas, bins)`, e^{-βc}, and the middles c."""
    middle = np.arange(_DEEPEST_BIN / _BIN + 1) * _BIN
    return np.exp(-_BETAS[:, None] * middle), middle


def _mend(
    packed: NDArray[np.void],
    segments: Segments,
    tails: list[_Binned],
    known: Floats,
    origin: Floats,
) -> None:
    """Write what the segments lack: with it, the sum of a tail is exact at 16 β."""
    exact, exact_moment = _sums(tails)
    mass, moment = segments.sums(_BETAS, origin)
    terms = _fit(packed["ratio"], packed["ratio_unit"], exact, mass)
    ratio = np.exp(terms @ _POLYNOMIALS)
    # The moment is -d/dβ of the mass, and a node is ln β / ln 4.
    slope = terms @ _SLOPES / (_BETAS * np.log(_HOTTEST))
    ours = np.array([mass, moment - mass * slope]) * ratio
    with_head = _with_head(known, origin, np.array([ours, [exact, exact_moment]])[..., _TERMS:])
    residual = abs(with_head[0] - with_head[1]).max((0, 2)).astype(np.float16)
    packed["residual"] = np.nextafter(residual, np.float16(np.inf))


def _mend_before(
    packed: NDArray[np.void],
    segments: Segments,
    tails: list[_Binned],
    origin: Floats,
) -> None:
    """Likewise for the sum of what stands before the token that came."""
    exact, mass = _sums(tails)[0], segments.sums(_BETAS, origin)[0]
    terms = _fit(packed["before"], packed["before_unit"], exact, mass)
    off = terms @ _POLYNOMIALS[:_TERMS_BEFORE] - _log_ratio(exact, mass)
    residual = abs(off).max(-1).astype(np.float16)
    packed["before_residual"] = np.nextafter(residual, np.float16(np.inf))


def _log_ratio(exact: Floats, mass: Floats) -> Floats:
    ratio: Floats = np.log((exact + _NOTHING) / (mass + _NOTHING))
    return ratio


def _fit(field: NDArray[Any], unit: Floats, exact: Floats, mass: Floats) -> Floats:
    """Write the Chebyshev terms of ln(exact/mass), and return them as they will be read."""
    terms = _log_ratio(exact, mass)[:, :_TERMS] @ _TO_TERMS.T[:, : field.shape[-1]]
    unit[:] = np.maximum(abs(terms).max(-1) / 32767, 1e-12)
    field[:] = (terms / unit[:, None]).round()
    read: Floats = field * unit[:, None].astype(np.float64)
    return read


def _with_head(known: Floats, origin: Floats, sums: Floats) -> Floats:
    """`(…, 2, rows, probes)`, log-partition and entropy, of such sums over tails."""
    beta, origin = _BETAS[_TERMS:], origin[:, None]
    weights = np.exp(-beta * known[..., None])
    mass, moment = np.moveaxis(sums, -3, 0) * np.exp(-beta * origin)
    whole = weights.sum(1) + mass
    mean = (np.einsum("rdb,rd->rb", weights, known) + moment + origin * mass) / whole
    return np.stack([np.log(whole), np.log(whole) + beta * mean], -3)
