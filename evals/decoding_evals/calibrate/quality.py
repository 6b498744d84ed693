"""How good predictions are: surprisal, Brier score, and how far their probabilities are from what
happens (reliability, ECE)."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from decoding.inference.temperature import resampled_sums
from decoding.information.statistics import row_statistics
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import Columns
from decoding.settings.applying import apply_settings
from decoding.settings.settings import DecodingSettings
from decoding_evals.showing.result import Floats, Integers, by_key, finite

BINS = 15
FEW_UNITS = 20
BLOCKS = 32


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in bins of about equal mass, the least confident first."""

    confidence: Floats
    """`(bins,)`, mean stated probability, in [0, 1]."""
    accuracy: Floats
    """`(bins,)`, share of the stated that came true, in [0, 1]."""
    counts: Integers
    """`(bins,)`, >= 1."""
    ece: float
    """Σ count·|accuracy - confidence| / Σ count, in [0, 1]."""
    ece_interval: tuple[float, float] | None
    """Of 95 %, for the ECE of endless data: the bias of few observations is taken off, so that it
    may lie below `ece`. None where there are fewer than two units."""
    ece_if_calibrated: float
    """What to expect of `ece` on as many observations where the stated probabilities are true."""
    ece_unit: str
    """What the interval is taken over: `documents` or `blocks` of consecutive observations."""
    units: int

    def bins(self) -> list[dict[str, Any]]:
        """One object per bin, ready for JSON."""
        columns = {"confidence": self.confidence, "accuracy": self.accuracy, "count": self.counts}
        return by_key({name: column.tolist() for name, column in columns.items()})


def reliability(
    confidence: ArrayLike,
    correct: ArrayLike,
    documents: ArrayLike | None = None,
    *,
    bins: int = BINS,
    seed: int = 0,
) -> Reliability:
    """Expected calibration error in bins of about equal mass, with a bootstrap interval.

    Observations are ordered by confidence and cut into bins of one size, the first ones larger by
    one where the number does not divide. Those of equal confidence stay together, in the bin where
    their middle lies, so that their order plays no part; bins that get none are left out. The
    interval draws documents anew where there are at least 20, else
    up to 32 blocks of consecutive observations, with the bins as they are. It is the basic one,
    `2·ECE - quantiles`, because a replicate is about as much above the ECE as that is above the
    truth; and it begins at 0 where noise alone, the replicates about the observed excesses, reaches
    the ECE in 2.5 % of them. It is approximate: of simulated intervals 83 to 98 % held the true
    ECE, fewest for an ECE of 0.05 from 1,500 observations.

    Args:
        confidence: `(n,)`, stated probabilities, in [0, 1].
        correct: `(n,)`, whether the stated came true.
        documents: `(n,)`, index of the document of each; default all of one.
        bins: at most; fewer where there are fewer observations, or many of equal confidence.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no observation, or `bins` is not positive.

    Source: Naeini et al. 2015 (ECE); Nixon et al. 2019, arXiv:1904.01685 (bins of equal mass);
        Bröcker & Smith 2007 (what a calibrated forecast would show), in closed form: the sum of the
        mean sizes of normal deviations.
    """
    stated = np.asarray(confidence, dtype=np.float64)
    came = np.asarray(correct, dtype=np.float64)
    n = len(stated)
    if n == 0 or bins < 1:
        raise ValueError(f"reliability needs observations and bins, got {n} and {bins}")
    count = min(bins, n)
    sizes = np.full(count, n // count)
    sizes[: n % count] += 1
    _, of_value, equal = np.unique(stated, return_inverse=True, return_counts=True)
    middle = equal.cumsum() - equal // 2 - 1
    bin_of_value = np.searchsorted(sizes.cumsum(), middle, side="right")
    place = np.unique(bin_of_value[of_value], return_inverse=True)[1]
    counts = np.bincount(place)
    count = len(counts)
    units, unit, of_unit = _units(n, documents)
    cells = of_unit * count + place
    # (units, bins, 2): the excess of accuracy over confidence, and the number.
    table = np.empty((units, count, 2))
    for column, weights in enumerate((came - stated, np.ones(n))):
        table[..., column] = np.bincount(cells, weights, units * count).reshape(units, count)
    ece = float(_ece(table.sum(0)))
    interval = None
    if units > 1:
        drawn = resampled_sums(table, seed=seed)
        low, high = (2 * ece - np.quantile(_ece(drawn), [0.975, 0.025])).clip(min=0).tolist()
        total = table.sum(0)
        drawn[..., 0] -= drawn[..., 1] * (total[:, 0] / total[:, 1])
        interval = (0.0 if ece <= np.quantile(_ece(drawn), 0.975) else low, high)
    spread = np.sqrt(np.bincount(place, stated * (1 - stated), count))
    return Reliability(
        confidence=np.bincount(place, stated, count) / counts,
        accuracy=np.bincount(place, came, count) / counts,
        counts=counts,
        ece=ece,
        ece_interval=interval,
        ece_if_calibrated=math.sqrt(2 / math.pi) * float(spread.sum()) / n,
        ece_unit=unit,
        units=units,
    )


def _ece(table: Floats) -> Floats:
    """`(…)` from `(…, bins, 2)`."""
    excess, size = np.abs(table[..., 0]).sum(-1), table[..., 1].sum(-1)
    return np.asarray(excess / size)


def _units(n: int, documents: ArrayLike | None) -> tuple[int, str, Integers]:
    """How many units, which, and the unit of each observation."""
    if documents is not None:
        names, of_unit = np.unique(np.asarray(documents), return_inverse=True)
        if len(names) >= FEW_UNITS:
            return len(names), "documents", of_unit
    blocks = min(BLOCKS, n)
    return blocks, "blocks", np.arange(n) * blocks // n


@dataclass(frozen=True)
class Quality:
    """How good a distribution's predictions of some tokens are."""

    nll_nats: float
    """Mean surprisal; infinite where a token has probability 0."""
    brier: float
    """Mean of Σ_i (q_i - [i is the token])² = 1 - 2·q(token) + Σ q², in [0, 2]."""
    accuracy: float
    """Share of tokens that were the favourite."""
    reliability: Reliability
    """Of the favourite's probability."""


def quality_record(quality: Quality | None, when: str) -> dict[str, Any]:
    """The keys of a record that tell how good predictions were `when`, `before` or `after`; what is
    infinite is None, and every value where there is no quality."""
    bins = None if quality is None else quality.reliability
    return {
        f"nll_{when}_nats": None if quality is None else finite(quality.nll_nats),
        f"brier_{when}": None if quality is None else quality.brier,
        f"accuracy_{when}": None if quality is None else quality.accuracy,
        f"ece_{when}": None if bins is None else bins.ece,
        f"ece_{when}_interval": None if bins is None else finite(bins.ece_interval),
        f"ece_{when}_if_calibrated": None if bins is None else bins.ece_if_calibrated,
        f"reliability_{when}": None if bins is None else bins.bins(),
    }


class Predictions:
    """Collects the columns of `prediction_columns`, window by window."""

    def __init__(self) -> None:
        self.columns: list[Columns] = []
        self._documents = array("q")

    def add(self, document: int, columns: Columns) -> None:
        """Add the columns of a window of a document."""
        self.columns.append(columns)
        self._documents.extend([document] * len(columns["surprisal"]))

    def documents(self) -> Integers:
        """Index of the document of each token."""
        return np.array(self._documents)

    def coverage(self) -> float | None:
        """Share of the tokens that are kept; None where it was not measured."""
        if not self.columns or "covered" not in self.columns[0]:
            return None
        return float(self._column("covered").mean())

    def quality(self, prefix: str) -> Quality | None:
        """Quality by the columns whose names begin with `prefix`."""
        if not self.columns:
            return None
        correct = self._column(f"{prefix}correct")
        confidence = self._column(f"{prefix}confidence")
        return Quality(
            nll_nats=float(self._column(f"{prefix}surprisal").mean()),
            brier=float(self._column(f"{prefix}brier").mean()),
            accuracy=float(correct.mean()),
            reliability=reliability(confidence, correct, self.documents()),
        )

    def _column(self, name: str) -> Floats:
        return np.concatenate([columns[name] for columns in self.columns])


def prediction_columns(
    tempered: DecodingSettings, covering: DecodingSettings | None, block: LogitBlock
) -> dict[str, Tensor]:
    """What to measure of each token: surprisal, Brier score, confidence in the favourite, and
    whether it came; of the model as it is and, as `fitted_…`, under `tempered`; and, as `covered`,
    whether `covering` keeps it."""
    logits, targets = block.logits, block.targets
    columns: dict[str, Tensor] = {}
    for prefix, setting in (("", DecodingSettings()), ("fitted_", tempered)):
        z = apply_settings(setting, logits)
        z = z - z.amax(-1, keepdim=True)
        favourite = z.argmax(-1)
        q = row_statistics(z, targets)
        assert q.target_log_prob is not None
        # Σ q² = exp(A(2z) - 2·A(z)); z is ours, and large.
        squares = (row_statistics(z.mul_(2)).log_partition - 2 * q.log_partition).exp()
        columns |= {
            f"{prefix}surprisal": -q.target_log_prob,
            f"{prefix}brier": 1 - 2 * q.target_log_prob.exp() + squares,
            f"{prefix}confidence": (-q.log_partition).exp(),
            # One of several favourites alike comes first: its rank is 0, as is the others'.
            f"{prefix}correct": favourite == targets,
        }
    if covering is not None:
        q = row_statistics(apply_settings(covering, logits), targets)
        assert q.target_log_prob is not None
        columns["covered"] = q.target_log_prob > -math.inf
    return columns
