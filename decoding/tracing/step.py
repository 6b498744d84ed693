"""What is written down of a step: numbers of each row, all of them functions of its logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoding.rows.arrays import Array, as_array, as_tensor, double, library, side_by_side, total
from decoding.rows.distribution import Distribution
from decoding.rows.prefix import first
from decoding.settings.applying import Applied, kept_mass
from decoding.tracing.trace import Alternatives, Certainty, Trace

# Columns. Counts and ids stay below 2^24, so float32 holds them exactly.
ENTROPY, RAW_ENTROPY, KEPT, KEPT_MASS, KL = range(5)
LOG_Q = 5
TOKEN = slice(LOG_Q, 8)
"""log q(token), log p(token), rank."""
CONFIDENT = 20
"""How many of the first tokens of p a step's confidence is the mean of."""


class Measures(NamedTuple):
    """What a monitor writes down of a step."""

    columns: Array
    """`(rows, 5)`: entropy, raw entropy, kept, kept mass, KL; and where the tokens are known
    `(rows, 8)`, with log q, log p and rank of each; float32."""
    temperature: Tensor | None
    """`(rows)`, where the entropy of each row sets it."""
    best: Tensor | None
    """`(rows, alternatives + 1, 3)`: id, log q and log p of the first tokens of p."""
    candidates: Tensor | None
    """`(rows, candidates, 4)`, for beams: id, log q, log p and rank of the first tokens of q."""
    certainty: Tensor | None
    """`(rows, 4)`: the columns of a `Certainty`, in their order."""


def measured(
    raw: Distribution,
    applied: Applied,
    tokens: Tensor | None = None,
    *,
    alternatives: int = 0,
    candidates: int = 0,
    certainty: bool = False,
) -> Measures:
    """Measure a step.

    Args:
        raw: the model's own rows, `(rows, vocab)`, without those that are no distribution.
        applied: what the setting made of them.
        tokens: `(rows)`, what was drawn, where that is known already.
        alternatives: how many runner-up tokens to name.
        candidates: how many of the best tokens of q to name.
        certainty: measure what a `Certainty` holds.
    """
    final = applied.final
    if final is raw:
        kl = library(raw.log_total).zeros_like(raw.log_total)
    else:
        kl = (raw.log_total - final.mean_log_weight_of(raw) - final.entropy).clip(0)
    columns = [final.entropy, raw.entropy, final.kept, kept_mass(applied), kl]
    if tokens is not None:
        columns += of_tokens(raw, final, tokens)
    temperature = None if applied.temperature is None else applied.temperature.squeeze(-1)
    best = _best(raw, final, raw, alternatives + 1) if alternatives else None
    best_of_q = None
    if candidates:
        best_of_q = _best(raw, final, final, candidates)
        ranks = _ranks(raw.logits, best_of_q[..., 0].long()).float().unsqueeze(-1)
        best_of_q = torch.cat([best_of_q, ranks], dim=-1)
    certain = _certainty(raw) if certainty else None
    return Measures(side_by_side(columns), temperature, best, best_of_q, certain)


def of_tokens(raw: Distribution, final: Distribution, tokens: Tensor | Array) -> list[Array]:
    """The columns `TOKEN` of one token per row, each `(rows)`, from rows of p and of q."""
    return [final.log_prob(tokens), raw.log_prob(tokens), raw.rank(tokens)]


def _certainty(raw: Distribution) -> Tensor:
    """The columns of a `Certainty`, `(rows, 4)`."""
    depths = as_array(raw.logits.topk(min(CONFIDENT, raw.vocab)).values) - raw.top
    known, xp = depths > -torch.inf, library(depths)
    mean = total(xp.where(known, depths, 0.0)) / known.sum(-1)
    second = total(xp.exp(depths[..., 1:2]))
    root = xp.sqrt(raw.weights)  # the weights at temperature 2
    renyi_entropy = 2 * xp.log(total(xp.sqrt(root))) - xp.log(total(root))
    columns = [
        raw.self_certainty,
        (raw.log(double(raw.kept)) - renyi_entropy).clip(0),
        raw.log_total - mean,
        (1 - second) / raw.total,
    ]
    return as_tensor(side_by_side(columns))


def _best(raw: Distribution, final: Distribution, ranking: Distribution, count: int) -> Tensor:
    """Id, log q and log p of the `count` first tokens of `ranking`, `(rows, count, 3)`."""
    ids = _first_ids(ranking, count)
    log_q, log_p = (
        of.logits.gather(-1, ids) - as_tensor(of.top) - as_tensor(of.log_total).unsqueeze(-1)
        for of in (final, raw)
    )
    return torch.stack([ids.double(), log_q, log_p], dim=-1).float()


def _first_ids(rows: Distribution, count: int) -> Tensor:
    """The first tokens in their order, `(rows, count)`; `topk` takes any of those that are tied."""
    count = min(count, rows.vocab)
    scores = rows.logits.clamp(min=torch.finfo(rows.logits.dtype).min)
    kept = as_tensor(first(rows.z, count))
    ids = scores.masked_fill(~kept, -torch.inf).topk(count, dim=-1).indices.sort(-1).values
    return ids.gather(-1, scores.gather(-1, ids).argsort(dim=-1, descending=True, stable=True))


def _ranks(logits: Tensor, ids: Tensor) -> Tensor:
    """Number of tokens with a larger logit, for several tokens of each row at once."""
    ascending = logits.sort(-1).values
    return logits.shape[-1] - torch.searchsorted(ascending, logits.gather(-1, ids), right=True)


def trace_of(held: Mapping[str, np.ndarray], ids: np.ndarray) -> Trace:
    """The trace of one sequence.

    Args:
        held: of each field of `Measures` that was measured, the sequence's row at each step,
            `(tokens, …)`; NaN stands for what a row lacks.
        ids: `(tokens)`.
    """
    row = held["columns"].astype(np.float64)
    # Adding zero turns -0.0, which would print as such, into 0.0.
    log_q, log_p, rank = (row[:, TOKEN] + 0.0).T
    best = _known(held.get("best"))
    certainty = held.get("certainty")
    return Trace(
        ids=ids.astype(np.int64),
        surprisal_nats=0.0 - log_q,
        entropy_nats=row[:, ENTROPY],
        raw_surprisal_nats=0.0 - log_p,
        raw_entropy_nats=row[:, RAW_ENTROPY],
        kept=row[:, KEPT].astype(np.int64),
        kept_mass=row[:, KEPT_MASS],
        rank=rank.astype(np.int64),
        kl_nats=row[:, KL],
        temperature=_known(held.get("temperature")),
        alternatives=None if best is None else _runners_up(best, ids),
        certainty=None if certainty is None else Certainty(*certainty.astype(np.float64).T),
    )


def _known(values: np.ndarray | None) -> np.ndarray | None:
    """Numbers of one sequence, float64, or None where it has none."""
    if values is None or (len(values) and np.isnan(values).all()):
        return None
    return values.astype(np.float64)


def _runners_up(best: np.ndarray, ids: np.ndarray) -> Alternatives:
    """Drop the chosen token, or else the last one, from each step's best tokens."""
    chosen = best[:, :, 0] == ids[:, None]
    chosen[~chosen.any(-1), -1] = True
    others = best[~chosen].reshape(len(best), best.shape[1] - 1, 3)
    return Alternatives(
        ids=others[:, :, 0].astype(np.int64),
        probability=np.exp(others[:, :, 1]),
        raw_probability=np.exp(others[:, :, 2]),
    )
