"""What an engine recorded of its tokens, held against what a model says of them.

Training with one engine and sampling with another assumes that both mean the same distribution.
Of each token δ = log engine − log model, and w = e^−δ is its weight in importance sampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.settings.policy import Setting, parse_setting
from decoding_evals.engines.rollouts import Rollout
from decoding_evals.mismatch.causes import Cause, cause_of, sample_of
from decoding_evals.mismatch.recomputed import Columns, Recomputing, at_edges, has_edges, under
from decoding_evals.mismatch.view import VIEW
from decoding_evals.showing.result import Floats, Result, finite
from decoding_evals.showing.terminal import counted, number

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel

ROOM = 10
"""How many times the noise floor is no mismatch: engines order their sums in other ways than a
batch of another size does."""
LEAST_NATS = 5e-4
"""What two engines in float32 may differ by."""
FLOOR_ROLLOUTS = 16
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Mismatch(Result):
    """How an engine's log-probabilities differ from a model's."""

    view = VIEW

    model: str
    setting: Setting
    sequences: int
    log_ratio_nats: Floats
    """`(tokens,)`, δ = log engine − log model of each token that both can have drawn."""
    tokens_outside: int
    """Tokens that the setting cuts off, where δ is infinite; they are in no other figure."""
    tokens_at_edge: int
    """Tokens that agree only where a token at the very edge of a cut falls on its other side."""
    tokens_left_out: int
    """Tokens that were masked out, or have nothing before them."""
    log_kept_mass_nats: Floats
    """`(tokens,)`, ln of the mass that the setting keeps, <= 0."""
    noise_floor_nats: float
    """The largest |δ| of the model against itself at another batch size."""
    tolerance_nats: float
    """What |δ| may reach."""
    agrees: bool
    """Whether every token is within the tolerance, those at an edge on either side of it."""
    cause: Cause
    entropy_bounds_nats: tuple[float, float] | None
    """Between which the mean entropy of the engine's distribution lies, by the log-probabilities of
    the likeliest tokens that it recorded; None without them."""
    skipped: dict[str, int]
    """Sequences that were not used, by the reason."""

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        largest = number(self.record()["max_abs_log_ratio_nats"])
        return repr(self.model), counted(len(self.log_ratio_nats), "token"), (
            f"largest |δ| {largest} nats, cause {self.cause.name}"
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is unknown is None."""
        delta = self.log_ratio_nats
        some = len(delta) > 0
        with np.errstate(over="ignore"):
            weight = np.exp(-delta)
            square = weight**2
        mean = math.fsum(delta) / len(delta) if some else None
        quantiles = np.percentile(abs(delta), PERCENTILES) if some else [None] * len(PERCENTILES)
        return {
            "model": self.model,
            "setting": str(self.setting),
            "sequences": self.sequences,
            "sequences_skipped": self.skipped,
            "tokens": len(delta),
            "tokens_outside": self.tokens_outside,
            "tokens_at_edge": self.tokens_at_edge,
            "tokens_left_out": self.tokens_left_out,
            "mean_log_ratio_nats": mean,
            "k1_nats": mean,
            "k3_nats": finite(np.mean(weight - 1 + delta)) if some else None,
            "max_abs_log_ratio_nats": float(abs(delta).max()) if some else None,
            "abs_log_ratio_percentiles_nats": {
                str(q): finite(value) for q, value in zip(PERCENTILES, quantiles, strict=True)
            },
            "effective_sample_share": finite(weight.sum() ** 2 / (len(delta) * square.sum()))
            if some
            else None,
            "chi2": finite(square.mean() - 1) if some else None,
            "log_kept_mass_nats": finite(np.mean(self.log_kept_mass_nats)) if some else None,
            "noise_floor_nats": self.noise_floor_nats,
            "tolerance_nats": self.tolerance_nats,
            "agrees": self.agrees,
            "cause": self.cause.name,
            "explained_by": self.cause.explained_by,
            "explained_share": self.cause.share,
            "entropy_bounds_nats": None
            if self.entropy_bounds_nats is None
            else list(self.entropy_bounds_nats),
        }


def mismatch(
    language_model: LanguageModel,
    rollouts: Iterable[Rollout | str],
    setting: Setting | str = "raw",
    *,
    batch_size: int = 8,
    tolerance: float | None = None,
) -> Mismatch:
    """Hold what an engine recorded against what a model says of the same tokens.

    Args:
        language_model: from `load_model`.
        rollouts: from `decoding_evals.engines.rollouts`; a text in place of one says why it is not
            used.
        setting: that the engine's log-probabilities are said to be of; `raw`: the model's own.
        batch_size: sequences that run together.
        tolerance: what |δ| may reach, nats; by default ten times the noise floor, and at least
            5e-4.

    Raises:
        ValueError: there are no rollouts; one does not fit into the model's positions or has an id
            that it lacks; `tolerance` is negative.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be a finite number >= 0, got {tolerance}")
    setting = parse_setting(setting) if isinstance(setting, str) else setting
    skipped: dict[str, int] = {}
    used = []
    for one in rollouts:
        if not isinstance(one, str) and one.ids and len(one.prompt_ids) + len(one.ids) > 1:
            used.append(one)
        else:
            reason = one if isinstance(one, str) else "no token behind another"
            skipped[reason] = skipped.get(reason, 0) + 1
    if not used:
        reasons = ", ".join(f"{count:,}: {reason}" for reason, count in skipped.items())
        raise ValueError(f"no sequence can be used ({reasons})" if skipped else "no sequences")
    recomputing = Recomputing(language_model, batch_size)
    columns = recomputing.measured(used, under(setting))
    floor = _noise_floor(recomputing, used[:FLOOR_ROLLOUTS], columns, setting)
    allowed = max(ROOM * floor, LEAST_NATS) if tolerance is None else tolerance

    def joined(name: str) -> Floats:
        return np.concatenate([one[name] for one in columns if one] or [np.empty(0)])

    engine = np.concatenate([np.array(one.log_probs, np.float64) for one in used])
    log_q, log_kept_mass = joined("log_q"), joined("log_kept_mass")
    known = ~np.isnan(engine) & ~np.isnan(log_q)
    inside = known & (log_q > -math.inf)
    delta = engine[inside] - log_q[inside]
    off = abs(engine[known] - log_q[known])
    nearest = off
    if has_edges(setting) and (off > allowed).any():
        sides = recomputing.measured(used, at_edges(setting))
        moved = [np.concatenate([one[name] for one in sides]) for name in ("looser", "tighter")]
        nearest = np.min([off, *(abs(engine[known] - side[known]) for side in moved)], axis=0)
    cause = Cause("none")
    if nearest.max(initial=0) > max(ROOM * floor, LEAST_NATS):
        vocab = language_model.model.config.get_text_config().vocab_size
        cause = cause_of(recomputing, sample_of(used, vocab), setting)
    return Mismatch(
        model=language_model.name,
        setting=setting,
        sequences=len(used),
        log_ratio_nats=delta,
        tokens_outside=int((known & ~inside).sum()),
        tokens_at_edge=int(((nearest <= allowed) & (off > allowed)).sum()),
        tokens_left_out=int((~known).sum()),
        log_kept_mass_nats=log_kept_mass[inside],
        noise_floor_nats=floor,
        tolerance_nats=allowed,
        agrees=bool(nearest.max(initial=0) <= allowed),
        cause=cause,
        entropy_bounds_nats=_entropy_bounds(used, language_model),
        skipped=skipped,
    )


def _noise_floor(
    recomputing: Recomputing, rollouts: Sequence[Rollout], columns: Columns, setting: Setting
) -> float:
    """The largest difference of the model from itself where other sequences run beside."""
    other = Recomputing(recomputing.language_model, 8 if recomputing.batch_size == 1 else 1)
    again = other.measured(rollouts, under(setting))
    first = np.concatenate([one["log_q"] for one in columns[: len(rollouts)] if one])
    second = np.concatenate([one["log_q"] for one in again if one])
    both = np.isfinite(first) & np.isfinite(second)
    return float(abs(first[both] - second[both]).max(initial=0))


def _entropy_bounds(
    rollouts: Sequence[Rollout], language_model: LanguageModel
) -> tuple[float, float] | None:
    """Means over the steps of which the likeliest tokens were recorded."""
    vocab = language_model.model.config.get_text_config().vocab_size
    bounds = [bounds_of(np.exp(step), vocab) for one in rollouts for step in one.others or ()]
    if not bounds:
        return None
    low, high = np.mean(bounds, axis=0)
    return float(low), float(high)


def bounds_of(first: Floats, vocab: int) -> tuple[float, float]:
    """Bounds of the entropy of a distribution of which the largest probabilities are known.

    The rest r = 1 − Σ first is at most spread evenly over the other tokens, and at the least stands
    on as few of them as may be, none larger than the smallest known.

    Args:
        first: the largest probabilities, each in (0, 1], in descending order.
        vocab: tokens of the distribution.

    Returns:
        Nats.
    """
    first = np.minimum(np.asarray(first, np.float64), 1)
    own = float(-(first * np.log(first)).sum())
    rest, others = 1 - float(first.sum()), vocab - len(first)
    if rest <= 0 or others <= 0:
        return own, own
    least = float(first[-1])
    full, left = divmod(rest, least)
    low = -full * least * math.log(least) - (left * math.log(left) if left > 0 else 0)
    high = rest * math.log(others / rest)
    return own + min(low, high), own + high
