"""Many settings from one block of logits: what each costs, and how far each pair is apart.

Where q is a power of p on one or two intervals of the order of tokens, a row is sorted once for all
settings; see `decoding.information.ordered`. Settings for which it is not (a temperature that
follows each row's entropy, mixtures, those that look back, policies) are compared token by token in
the precision of the logits, which takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from decoding.information.ordered import Plan, RowComparison, compare_row
from decoding.rows.arrays import as_float, as_tensor, double
from decoding.rows.blocks import row_blocks
from decoding.rows.distribution import Distribution
from decoding.rows.sorted import FloatArray, IntArray
from decoding.rules import Cut
from decoding.settings.applying import Applied, kept_mass
from decoding.settings.policy import EntropyPolicy, Setting, as_setting

BLOCK_BYTES = 32 << 20


class RowSums(NamedTuple):
    """Sums of `RowComparison` over rows."""

    entropy: FloatArray
    """`(S,)`, nats."""
    kept: IntArray
    """`(S,)`."""
    kept_mass: FloatArray
    """`(S,)`."""
    surprisal: FloatArray
    """`(S,)`, nats, over the covered rows."""
    covered: IntArray
    """`(S,)`, number of rows whose target is kept."""
    kl: FloatArray
    """`(S, S)`, nats, over the rows where it is finite."""
    kl_finite: IntArray
    """`(S, S)`, number of rows where KL is finite."""
    js: FloatArray
    """`(S, S)`, nats."""
    total_variation: FloatArray
    """`(S, S)`."""


ApplyRow = Callable[[int], Sequence[Applied]]


def is_dense(setting: Setting) -> bool:
    """Whether a setting must be compared token by token."""
    if isinstance(setting, EntropyPolicy) or setting.looks_back:
        return True
    # A fixed temperature comes before the cuts, unless it is that of a rule of one's own.
    return not all(
        isinstance(rule, Cut) or (rule.is_fixed and rule not in setting.extra)
        for rule in setting.rules
    )


def compare_rows(
    logits: Tensor,
    targets: Tensor,
    settings: Sequence[Setting | str],
    apply_row: ApplyRow | None = None,
) -> RowComparison:
    """Compare any number of settings on each row of logits.

    The result takes about `24·S²` bytes a row; `sum_rows` does not keep it. One row at a time is
    worked on, in about `8·vocab` bytes for each distinct temperature, `50·vocab` besides, and
    100 kB for each setting.

    Args:
        logits: `(rows, vocab)`, any floating dtype and device; `-inf` marks excluded tokens. Half
            precision is raised to float32, float64 stays; all arithmetic is float64 but that of
            settings which are compared token by token.
        targets: `(rows,)` integer ids.
        settings: S >= 1 settings, or their text forms.
        apply_row: gives what each setting makes of a row, `(1, vocab)`, where the logits do not say
            it alone; see `decoding.scoring.following`.

    Returns:
        `RowComparison` of arrays `(rows, S)` and `(rows, S, S)`, never NaN.

    Raises:
        ValueError: shapes that do not fit, a target outside the vocabulary, no settings, a row
            with NaN, with `+inf`, or without a finite logit, or a setting that looks back without
            `apply_row`.
    """
    chosen = _checked(logits, targets, settings)
    dense = [i for i, setting in enumerate(chosen) if is_dense(setting)]
    ordered = [i for i in range(len(chosen)) if i not in dense]
    plan = Plan([chosen[i] for i in ordered]) if ordered else None  # type: ignore[misc]
    rows, size = logits.shape[0], len(chosen)
    result: RowComparison = _empty(RowComparison, size, rows)
    # In one thread: a row is many short steps, and a second thread, waiting for the interpreter's
    # lock, gained hardly any time for half as much work again.
    for row, target in enumerate(targets.tolist()):
        z = as_float(logits[row].detach()).cpu().numpy()
        if not math.isfinite(top := z.max()):
            fault = "has no finite value" if top == -math.inf else "holds NaN or +inf"
            raise ValueError(f"row {row} of logits {fault}")
        if plan is not None:
            for column, values in zip(result, compare_row(z, target, plan), strict=True):
                column[row][np.ix_(*[ordered] * values.ndim)] = values
        if dense:
            raw = Distribution(logits[row : row + 1].detach())
            applied = apply_row(row) if apply_row else [one.apply(raw) for one in chosen]
            _compare_densely(result, row, target, applied, dense)
    return result


def _compare_densely(
    result: RowComparison, row: int, target: int, applied: Sequence[Applied], dense: Sequence[int]
) -> None:
    """Enter the dense settings of a row, and all pairs in which one of them stands."""
    log_q = np.stack(
        [
            as_tensor(double(q.z - q.top)).squeeze(0).cpu().numpy() - q.log_total.item()
            for q in (one.final for one in applied)
        ]
    )
    q = np.exp(log_q)
    support = np.isfinite(log_q)
    own = np.where(support, log_q, 0)  # keeps 0·∞ out
    negative_entropy = np.einsum("sv,sv->s", q, own)
    for i in dense:
        result.entropy[row, i] = max(0.0, -negative_entropy[i])
        result.kept[row, i] = support[i].sum()
        result.kept_mass[row, i] = kept_mass(applied[i]).item()
        result.surprisal[row, i] = max(0.0, -log_q[i, target])
        # Both ways at once: i against every j.
        toward = np.maximum(negative_entropy[i] - own @ q[i], 0)
        away = np.maximum(negative_entropy - q @ own[i], 0)
        result.kl[row, i] = np.where((support[i] & ~support).any(1), math.inf, toward)
        result.kl[row, :, i] = np.where((support & ~support[i]).any(1), math.inf, away)
        middle = (q + q[i]) / 2
        with np.errstate(divide="ignore"):
            log_middle = np.where(middle > 0, np.log(middle), 0)
        of_middle = np.einsum("sv,sv->s", middle, log_middle)
        js = np.clip((negative_entropy + negative_entropy[i]) / 2 - of_middle, 0, math.log(2))
        distance = np.minimum(np.abs(q - q[i]).sum(1) / 2, 1)
        for values, to in ((js, result.js), (distance, result.total_variation)):
            values[i] = 0
            to[row, i] = to[row, :, i] = values
        result.kl[row, i, i] = 0


def sum_rows(
    logits: Tensor,
    targets: Tensor,
    settings: Sequence[Setting | str],
    apply_row: ApplyRow | None = None,
) -> RowSums:
    """`compare_rows`, summed over the rows, in blocks of about `BLOCK_BYTES`.

    The result takes about `32·S²` bytes, however many rows there are. Infinite values are counted,
    not summed.
    """
    chosen = _checked(logits, targets, settings)
    size = len(chosen)
    sums: RowSums = _empty(RowSums, size)
    for part in row_blocks((len(targets), size * size), BLOCK_BYTES // 24):
        shifted = None
        if apply_row is not None:
            shifted = partial(lambda start, row: apply_row(start + row), part.start)
        compared = compare_rows(logits[part], targets[part], chosen, shifted)
        sums.covered[:] += np.isfinite(compared.surprisal).sum(0)
        sums.kl_finite[:] += np.isfinite(compared.kl).sum(0)
        for name, values in compared._asdict().items():
            total = getattr(sums, name)
            total += values.sum(0, where=np.isfinite(values))
    return sums


_COUNTS = "kept", "covered", "kl_finite"
_OF_PAIRS = "kl", "kl_finite", "js", "total_variation"


def _empty(kind: type[Any], size: int, *rows: int) -> Any:
    """Zeros for so many settings and, where it is of pairs, for their square."""
    shapes = ((*rows, *[size] * (2 if name in _OF_PAIRS else 1)) for name in kind._fields)
    types = (np.int64 if name in _COUNTS else np.float64 for name in kind._fields)
    return kind(*map(np.zeros, shapes, types))


def _checked(logits: Tensor, targets: Tensor, settings: Sequence[Setting | str]) -> list[Setting]:
    if logits.dim() != 2:
        raise ValueError(f"logits must be (rows, vocab), got shape {tuple(logits.shape)}")
    if targets.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape[:1])}, got {tuple(targets.shape)}"
        raise ValueError(f"targets must have shape {shapes}")
    vocab = logits.shape[1]
    outside = targets[(targets < 0) | (targets >= vocab)]
    if len(outside):
        raise ValueError(f"targets must be in [0, {vocab}), got {int(outside[0])}")
    if not settings:
        raise ValueError("settings must not be empty")
    return [as_setting(setting) for setting in settings]
