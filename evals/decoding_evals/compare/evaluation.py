"""Comparison of decoding settings on the same text, from one forward pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from decoding.inference.intervals import BlockSums, MeanError, ratio_of_sums
from decoding.information.comparison import sum_rows
from decoding.models.loading import LanguageModel
from decoding.passes.journal import Journal
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import AnyDocument, TeacherForcing, as_document
from decoding.scoring.windows import Windows
from decoding.settings.applying import Applied
from decoding.settings.grids import MOST_SETTINGS
from decoding.settings.policy import Setting, as_setting
from decoding_evals.compare.figure import plot_comparison
from decoding_evals.compare.view import SETTINGS
from decoding_evals.mapping.engine import IN_PROCESS, Engine, OnProgress
from decoding_evals.mapping.units import Unit, units_of
from decoding_evals.reading.interruptible import (
    Interruptible,
    ReadPart,
    ReadResult,
    blocks_of,
    joined_parts,
)
from decoding_evals.showing.result import Floats, by_key, finite, with_errors
from decoding_evals.showing.terminal import counted, number

# What is summed: by setting, and by pair of settings.
_DIMENSIONS = dict.fromkeys(("entropy", "kept", "kept_mass", "surprisal", "covered"), 1)
_DIMENSIONS |= dict.fromkeys(("kl", "kl_finite", "js", "total_variation"), 2)


@dataclass(frozen=True, kw_only=True)
class SettingsComparison(ReadResult):
    """S settings on one text: means over its scored tokens, each with its standard error.

    Standard errors are computed over blocks of tokens in reading order: consecutive tokens of one
    document; of several documents, those of similar length are read together. Errors of a pair of
    settings are paired, since both see the same tokens.
    """

    view = SETTINGS
    _picture = staticmethod(plot_comparison)

    model: str
    settings: tuple[Setting, ...]
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
    full_logits: str | None

    def cross_entropy(self) -> Floats:
        """`(S,)`, mean -log q of the true tokens, nats; infinite where one of them is cut off."""
        return np.where(self.coverage.mean == 1, self.covered_cross_entropy.mean, math.inf)

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        scored = counted(self.account.tokens_scored, "token")
        low, high = number(self.entropy.mean.min()), number(self.entropy.mean.max())
        entropy = f"mean entropy {low} to {high} nats"
        return repr(self.model), counted(len(self.settings), "setting"), entropy, scored

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is infinite or unknown is None."""
        kl = np.where(self.kl_finite_share == 1, self.kl.mean, math.nan)
        return {
            "model": self.model,
            "settings": [str(setting) for setting in self.settings],
            "effective_choices": finite(np.exp(self.entropy.mean)),
            "kept": finite(self.kept.mean),
            "cross_entropy_nats": finite(self.cross_entropy()),
            "kl_nats": finite(kl),
            "kl_finite_share": finite(self.kl_finite_share),
            **with_errors(
                {
                    "entropy_nats": self.entropy,
                    "kept_mass": self.kept_mass,
                    "coverage": self.coverage,
                    "covered_cross_entropy_nats": self.covered_cross_entropy,
                    "kl_where_finite_nats": self.kl,
                    "js_nats": self.js,
                    "total_variation": self.total_variation,
                    "cross_entropy_difference_nats": self.cross_entropy_difference,
                }
            ),
            "error_unit": "blocks",
            "units": self.blocks,
            "block_length": self.block_length,
            "full_logits": self.full_logits,
            **self.how(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per setting."""
        record = self.record()
        names = [name for name, values in record.items() if isinstance(values, list)]
        flat = {name: record[name] for name in names if not isinstance(record[name][0], list)}
        return by_key({"setting": flat.pop("settings"), **flat})


def compare(
    language_model: LanguageModel,
    documents: Iterable[str | AnyDocument],
    settings: Sequence[Setting | str],
    *,
    windows: Windows = Windows(),
    engine: Engine = IN_PROCESS,
    on_progress: Callable[[int, float], None] | None = None,
) -> SettingsComparison:
    """Compare any number of settings on the same text.

    Memory holds about `4000·S²` bytes for the errors of the pairs of S settings.

    Args:
        language_model: from `load_model`.
        documents: texts, or `Document`s, or ids; taken lazily.
        settings: 1 to 1,000 settings or their text forms, no two equal.
        windows: how the texts are read.
        engine: what scores the documents.
        on_progress: is given the number of scored tokens and the mean entropy of the first
            setting so far, nats.

    Where Ctrl-C ends it early, the comparison is of what was scored until then.

    Raises:
        ValueError: an argument is outside its range, or there is no token to score.
    """
    chosen = tuple(as_setting(setting) for setting in settings)
    if not 1 <= len(chosen) <= MOST_SETTINGS:
        raise ValueError(f"settings must be 1 to {MOST_SETTINGS}, got {len(chosen)}")
    [(most, times)] = Counter(chosen).most_common(1)
    if times > 1:
        raise ValueError(f"settings must differ, got {str(most)!r} twice")
    units = units_of(documents, windows.batch_size)
    work = Comparing(chosen, windows)
    part = joined_parts(engine.map(language_model, work, units, on_progress))
    assert part is not None
    how, blocks = part.how(), part.blocks
    flat, counts = blocks.sums()
    sums = _named(flat, len(chosen))
    surprisal, covered = sums["surprisal"], sums["covered"]
    all_covered = covered.sum(0) == blocks.count
    difference = ratio_of_sums(surprisal[:, :, None] - surprisal[:, None, :], counts)
    unknown = ~(all_covered[:, None] & all_covered[None, :])
    for values in (difference.mean, difference.standard_error):
        values[unknown] = math.nan
    plain = ("entropy", "kept", "kept_mass", "js", "total_variation")
    means: dict[str, Any] = {name: ratio_of_sums(sums[name], counts) for name in plain}
    return SettingsComparison(
        model=language_model.name,
        settings=chosen,
        **means,
        coverage=ratio_of_sums(covered, counts),
        covered_cross_entropy=ratio_of_sums(surprisal, covered),
        cross_entropy_difference=difference,
        kl=ratio_of_sums(sums["kl"], sums["kl_finite"]),
        kl_finite_share=sums["kl_finite"].sum(0) / blocks.count,
        block_length=blocks.length,
        blocks=len(counts),
        full_logits=part.run["full_logits"],
        **how,
    )


@dataclass(frozen=True)
class Comparing:
    """Compares settings on the documents of a unit."""

    settings: tuple[Setting, ...]
    windows: Windows

    def parts(
        self, models: LanguageModel, unit: Unit, journal: Journal, on_progress: OnProgress
    ) -> Iterator[ReadPart]:
        """The sums over a unit."""
        run = TeacherForcing(models, self.windows, journal=journal, first=unit.first)
        blocks = blocks_of(unit)
        follower = Follower([setting.for_tokenizer(run.tokenizer) for setting in self.settings])
        measure = partial(_sums, follower, blocks)
        with Interruptible(run, blocks, on_progress) as reading:
            for _, sums in run.measured(run.windows(map(as_document, unit.documents)), measure):
                for total, count in sums:
                    blocks.add_sum(total, count)
                reading.counted(sum(float(total[0]) for total, _ in sums))
            run.account.check()
        yield ReadPart(**reading.part())
        if not reading.complete:
            raise KeyboardInterrupt


def _sums(
    follower: Follower, into: BlockSums, blocks: Iterable[LogitBlock]
) -> list[tuple[Floats, int]]:
    """Sums over the rows of a batch, and how many rows each is of: as they fit into a series."""
    found: list[tuple[Floats, int]] = []
    pieces: Iterator[int] = iter(())
    left = 0  # of the present piece
    for block in blocks:
        begin = 0
        if not found:
            pieces = into.pieces(sum(len(window.targets) for window in block.windows))
        while begin < len(block.targets):
            left = left or next(pieces)
            rows = slice(begin, min(begin + left, len(block.targets)))
            apply_row = partial(_applied, follower, block, begin)
            targets = block.targets[rows]
            sums = sum_rows(block.logits[rows], targets, follower.settings, apply_row)
            parts = [np.ravel(getattr(sums, name)) for name in _DIMENSIONS]
            found.append((np.concatenate(parts).astype(np.float64), len(targets)))
            begin, left = begin + len(targets), left - len(targets)
        del block  # before the next one is made
    return found


def _applied(follower: Follower, block: LogitBlock, begin: int, row: int) -> list[Applied]:
    return follower.row(block, begin + row)


def _named(flat: Floats, size: int) -> dict[str, Floats]:
    """The sums of several blocks by name, `(blocks, S)` and `(blocks, S, S)`."""
    ends = np.cumsum([size**dimensions for dimensions in _DIMENSIONS.values()])[:-1]
    parts = zip(_DIMENSIONS.items(), np.split(flat, ends, axis=1), strict=True)
    return {name: part.reshape(-1, *(size,) * dimensions) for (name, dimensions), part in parts}
