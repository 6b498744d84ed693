"""Decoding settings against each other on the same text, from one forward pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.inference.intervals import BlockSums, MeanError, ratio_of_sums
from decoding.information.comparison import ApplyRow, sum_rows
from decoding.models.loading import LanguageModel
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import (
    Account,
    Document,
    LogitBlock,
    TeacherForcing,
    as_document,
)
from decoding.scoring.windows import Windows
from decoding.settings.applying import Applied
from decoding.settings.grids import MOST_SETTINGS
from decoding.settings.policy import Setting
from decoding_evals.compare.figure import plot_comparison
from decoding_evals.compare.tables import setting_tables
from decoding_evals.reading.interruptible import Interruptible
from decoding_evals.showing.result import Result, by_key, finite

Floats = NDArray[np.float64]

FIRST_BLOCK = 16

# What is summed: by setting, and by pair of settings.
_BY_SETTING = ("entropy", "kept", "kept_mass", "surprisal", "covered")
_BY_PAIR = ("kl", "kl_finite", "js", "total_variation")


@dataclass(frozen=True)
class SettingsComparison(Result):
    """S settings on one text: means over its scored tokens, each with its standard error.

    Errors come from blocks of tokens in the order in which they are read: of one document,
    consecutive ones; of several, those of documents of like length stand together. Errors of a pair
    are paired, since both settings see the same tokens.
    """

    _tables = staticmethod(setting_tables)
    _picture = staticmethod(plot_comparison)

    model: str
    settings: tuple[Setting, ...]
    context: int
    stride: int
    bos: str | None
    entropy: MeanError
    """`(S,)`, H(q), nats."""
    kept: MeanError
    """`(S,)`, tokens in the support of q."""
    kept_mass: MeanError
    """`(S,)`, mass of the support before truncation, in (0, 1]."""
    coverage: MeanError
    """`(S,)`, share of the true tokens inside the support."""
    covered_cross_entropy: MeanError
    """`(S,)`, mean -log q of the covered true tokens, nats; NaN where none is covered."""
    cross_entropy_difference: MeanError
    """`(S, S)`, `[i, j]` is the cross-entropy of i minus that of j, nats; NaN unless both cover
    every true token."""
    kl: MeanError
    """`(S, S)`, `[i, j]` is the mean of KL(q_i‖q_j) over the positions where it is finite, nats."""
    kl_finite_share: Floats
    """`(S, S)`, share of those positions."""
    js: MeanError
    """`(S, S)`, Jensen–Shannon divergence, nats."""
    total_variation: MeanError
    """`(S, S)`, in [0, 1]."""
    block_length: int
    blocks: int
    account: Account
    full_logits: str | None
    complete: bool
    """False where it was interrupted: the figures are of what was scored until then."""

    def cross_entropy(self) -> Floats:
        """`(S,)`, mean -log q of the true tokens, nats; infinite where one of them is cut off."""
        return np.where(self.coverage.mean == 1, self.covered_cross_entropy.mean, math.inf)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is infinite or unknown is None."""
        everywhere = self.kl_finite_share == 1
        return {
            "model": self.model,
            "settings": [str(setting) for setting in self.settings],
            "entropy_nats": finite(self.entropy.mean),
            "effective_choices": finite(np.exp(self.entropy.mean)),
            "kept": finite(self.kept.mean),
            "kept_mass": finite(self.kept_mass.mean),
            "coverage": finite(self.coverage.mean),
            "cross_entropy_nats": finite(self.cross_entropy()),
            "covered_cross_entropy_nats": finite(self.covered_cross_entropy.mean),
            "entropy_standard_error": finite(self.entropy.standard_error),
            "kept_mass_standard_error": finite(self.kept_mass.standard_error),
            "coverage_standard_error": finite(self.coverage.standard_error),
            "covered_cross_entropy_standard_error": finite(
                self.covered_cross_entropy.standard_error
            ),
            "kl_nats": finite(np.where(everywhere, self.kl.mean, math.nan)),
            "kl_finite_share": finite(self.kl_finite_share),
            "kl_where_finite_nats": finite(self.kl.mean),
            "kl_where_finite_standard_error": finite(self.kl.standard_error),
            "js_nats": finite(self.js.mean),
            "js_standard_error": finite(self.js.standard_error),
            "total_variation": finite(self.total_variation.mean),
            "total_variation_standard_error": finite(self.total_variation.standard_error),
            "cross_entropy_difference_nats": finite(self.cross_entropy_difference.mean),
            "cross_entropy_difference_standard_error": finite(
                self.cross_entropy_difference.standard_error
            ),
            "error_unit": "blocks",
            "units": self.blocks,
            "block_length": self.block_length,
            "context": self.context,
            "stride": self.stride,
            "bos": self.bos,
            "full_logits": self.full_logits,
            "complete": self.complete,
            **asdict(self.account),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per setting."""
        record = self.record()
        names = [name for name, values in record.items() if isinstance(values, list)]
        flat = {name: record[name] for name in names if not isinstance(record[name][0], list)}
        return by_key({"setting": flat.pop("settings"), **flat})


def compare(
    language_model: LanguageModel,
    documents: Iterable[str | Document],
    settings: Sequence[Setting],
    *,
    windows: Windows = Windows(),
    on_progress: Callable[[int, float], None] | None = None,
) -> SettingsComparison:
    """Compare any number of settings on the same text.

    Memory holds about `2000·S²` bytes for the errors of the pairs of S settings.

    Args:
        language_model: from `load_model`.
        documents: texts, or `Document`s; taken lazily.
        settings: 1 to 1,000, no two equal.
        windows: how the texts are read.
        on_progress: is given the number of scored tokens and the mean entropy of the first
            setting so far, nats.

    Returns:
        The comparison; of what was scored until then where Ctrl-C ends it early.

    Raises:
        ValueError: an argument is outside its range, or there is no token to score.
    """
    chosen = tuple(settings)
    if not 1 <= len(chosen) <= MOST_SETTINGS:
        raise ValueError(f"settings must be 1 to {MOST_SETTINGS}, got {len(chosen)}")
    [(most, times)] = Counter(chosen).most_common(1)
    if times > 1:
        raise ValueError(f"settings must differ, got {str(most)!r} twice")
    run = TeacherForcing(language_model, windows)
    blocks = BlockSums(FIRST_BLOCK)
    with Interruptible(run.account, blocks) as reading:
        _scan(run, documents, chosen, blocks, on_progress)
        run.account.check()
    reading.check_scored()
    flat, counts = blocks.sums()
    by_name = _named(flat, len(chosen))
    surprisal, covered = by_name["surprisal"], by_name["covered"]
    all_covered = covered.sum(0) == blocks.count
    difference = ratio_of_sums(surprisal[:, :, None] - surprisal[:, None, :], counts)
    unknown = ~(all_covered[:, None] & all_covered[None, :])
    for values in (difference.mean, difference.standard_error):
        values[unknown] = math.nan
    return SettingsComparison(
        model=language_model.name,
        settings=chosen,
        context=run.context,
        stride=run.stride,
        bos=run.bos_token,
        entropy=ratio_of_sums(by_name["entropy"], counts),
        kept=ratio_of_sums(by_name["kept"], counts),
        kept_mass=ratio_of_sums(by_name["kept_mass"], counts),
        coverage=ratio_of_sums(covered, counts),
        covered_cross_entropy=ratio_of_sums(surprisal, covered),
        cross_entropy_difference=difference,
        kl=ratio_of_sums(by_name["kl"], by_name["kl_finite"]),
        kl_finite_share=by_name["kl_finite"].sum(0) / blocks.count,
        js=ratio_of_sums(by_name["js"], counts),
        total_variation=ratio_of_sums(by_name["total_variation"], counts),
        block_length=blocks.length,
        blocks=len(counts),
        account=run.account,
        full_logits=run.full_logits,
        complete=reading.complete,
    )


def _scan(
    run: TeacherForcing,
    documents: Iterable[str | Document],
    settings: Sequence[Setting],
    blocks: BlockSums,
    on_progress: Callable[[int, float], None] | None,
) -> None:
    follower = Follower(settings)
    entropy = 0.0
    for block in run.blocks(run.windows(map(as_document, documents))):
        begin = 0
        while begin < len(block.targets):
            rows = slice(begin, begin + blocks.room)
            targets = block.targets[rows]
            apply_row = partial(_applied, follower, block, begin)
            sums = _sums(block.logits[rows], targets, settings, apply_row)
            blocks.add_sum(sums, len(targets))
            entropy += sums[0]
            begin += len(targets)
        del block  # before the next one is made
        if on_progress is not None:
            on_progress(blocks.count, entropy / blocks.count)


def _applied(follower: Follower, block: LogitBlock, begin: int, row: int) -> list[Applied]:
    return follower.row(block, begin + row)


def _sums(
    logits: Any,
    targets: Any,
    settings: Sequence[Setting],
    apply_row: ApplyRow,
) -> Floats:
    """All sums over the rows, one after the other; the first is the first setting's entropy."""
    sums = sum_rows(logits, targets, settings, apply_row)
    parts = [np.ravel(getattr(sums, name)) for name in (*_BY_SETTING, *_BY_PAIR)]
    return np.concatenate(parts).astype(np.float64)


def _named(flat: Floats, size: int) -> dict[str, Floats]:
    """`_sums` of several blocks by name, `(blocks, S)` and `(blocks, S, S)`."""
    shapes = [(size,)] * len(_BY_SETTING) + [(size, size)] * len(_BY_PAIR)
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = zip((*_BY_SETTING, *_BY_PAIR), np.split(flat, ends, axis=1), shapes, strict=True)
    return {name: part.reshape(-1, *shape) for name, part, shape in parts}
