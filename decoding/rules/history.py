"""Settings that look back: repetition control (DRY) and surprisal control (mirostat).

Both are functions of a row of logits and of what came before it, which is a `History`: the ids so
far and, for mirostat, the largest surprisal that is allowed now.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from decoding.information.measures import as_float
from decoding.rows.arrays import as_tensor
from decoding.rows.distribution import Distribution
from decoding.settings.settings import DecodingSettings

if TYPE_CHECKING:
    from decoding.settings.policy import EntropyPolicy

LONGEST_MATCH = 50


class History(NamedTuple):
    """What came before rows of logits."""

    ids: Tensor | None
    """`(rows, seq)`, the ids so far; needed by DRY alone."""
    starts: Tensor | None = None
    """`(rows)`, where each row's ids begin behind its left padding; None where none is padded."""
    most_surprisal: Tensor | None = None
    """`(rows)`, mirostat's μ, nats; None at the beginning, where it is 2τ."""


class Memory:
    """What a setting carries from one step of a generation to the next.

    Args:
        settings: the setting; a policy has no mirostat, so nothing is noted for it.
        starts: `(rows)`, where each row's ids begin behind its left padding.
    """

    def __init__(
        self, settings: DecodingSettings | EntropyPolicy, starts: Tensor | None = None
    ) -> None:
        self.settings = settings
        self.starts = starts
        self.most_surprisal: Tensor | None = None

    def history(self, input_ids: Tensor) -> History:
        """What comes before the next token.

        Args:
            input_ids: `(rows, seq)`.
        """
        return History(input_ids, self.starts, self.most_surprisal)

    def observe(
        self, final: Distribution, tokens: Tensor, uncut: Distribution | None = None
    ) -> None:
        """Take note of what was drawn; see `next_most_surprisal`."""
        before = self.most_surprisal
        self.most_surprisal = next_most_surprisal(self.settings, before, final, tokens, uncut)


def next_most_surprisal(
    settings: DecodingSettings | EntropyPolicy,
    before: Tensor | None,
    final: Distribution,
    tokens: Tensor,
    uncut: Distribution | None = None,
) -> Tensor | None:
    """Mirostat's μ after a step: `μ - η·(surprisal - τ)`; None without mirostat.

    Args:
        settings: `mirostat_tau` τ, `mirostat_eta` η.
        before: `(rows)`, μ at the step; None at the beginning.
        final: the rows of q that the tokens were drawn from.
        tokens: `(rows)`.
        uncut: the rows before the cut, for tokens that were given and not drawn: where q excludes
            one, its surprisal under these counts.

    Returns:
        `(rows)`, nats.

    Source: Basu et al. 2021, arXiv:2007.14966, algorithm 2, with the surprisal under the truncated
        distribution, as in the authors' code and llama.cpp's mirostat v2.
    """
    if not isinstance(settings, DecodingSettings) or not settings.mirostat_tau:
        return None
    tau, eta = settings.mirostat_tau, settings.mirostat_eta
    surprisal = -as_tensor(final.log_prob(tokens))
    if uncut is not None:
        before_cut = -as_tensor(uncut.log_prob(tokens))
        surprisal = torch.where(surprisal.isfinite(), surprisal, before_cut)
    return (2 * tau if before is None else before) - eta * (surprisal - tau)


def dry_penalties(settings: DecodingSettings, history: History, vocab: int) -> Tensor:
    """What DRY takes off each token's logit: `m·b^(n - L)` where n >= L.

    n is the length of the longest run of tokens at the end of the history that stood before an
    earlier occurrence of the token as well. Runs do not reach across breakers, breakers are never
    penalised, and runs of more than 50 tokens count as 50.

    Args:
        settings: `dry_multiplier` m, `dry_base` b, `dry_allowed_length` L, `dry_breakers`.
        history: the ids so far.
        vocab: number of tokens.

    Returns:
        `(rows, vocab)`, >= 0, float32.

    Source: p-e-w 2024, github.com/oobabooga/text-generation-webui/pull/5677 (which has the limit of
        50), and llama.cpp, whose breakers are strings; here they are ids.
    """
    ids = history.ids
    assert ids is not None
    rows, length = ids.shape
    penalties = torch.zeros(rows, vocab, device=ids.device)
    if length < 2:
        return penalties
    barred = torch.zeros_like(ids, dtype=torch.bool)
    for breaker in settings.dry_breakers:
        barred |= ids == breaker
    usable = ~barred
    if history.starts is not None:
        usable = usable & (torch.arange(length, device=ids.device) >= history.starts[:, None])
    # Of each place from 1 on: how many tokens before it are those at the end of the history.
    going_on = torch.ones(rows, length - 1, dtype=torch.bool, device=ids.device)
    matched = torch.zeros(rows, length - 1, dtype=torch.long, device=ids.device)
    for back in range(min(LONGEST_MATCH, length - 1)):
        same = usable[:, : length - 1 - back] & (
            ids[:, : length - 1 - back] == ids[:, length - 1 - back, None]
        )
        going_on[:, back:] &= same
        going_on[:, :back] = False
        # On an accelerator a look would make the host wait.
        if ids.device.type == "cpu" and not bool(going_on.any()):
            break
        matched += going_on
    # Beyond any logit's reach, and within float32's.
    most = math.log(1e30) / math.log(settings.dry_base) if settings.dry_base > 1 else math.inf
    # No match is longer than the longest, so a larger length allows them all.
    beyond = (matched - min(settings.dry_allowed_length, LONGEST_MATCH + 1)).double()
    size = settings.dry_multiplier * settings.dry_base ** beyond.clamp(max=most)
    size = torch.where((beyond >= 0) & ~barred[:, 1:], size.clamp(max=1e30), 0.0).float()
    return penalties.scatter_reduce_(-1, ids[:, 1:], size, "amax")


def penalized(settings: DecodingSettings, logits: Tensor, history: History) -> Tensor:
    """Logits less the penalties of DRY.

    Args:
        settings: with `dry_multiplier` > 0.
        logits: `(rows, vocab)`.
        history: the ids so far, of the same rows.

    Returns:
        `(rows, vocab)` logits.
    """
    z = as_float(logits)
    return z - dry_penalties(settings, history, z.shape[-1])


def most_surprisal(settings: DecodingSettings, history: History, like: Tensor) -> Tensor:
    """Mirostat's μ of each row, nats; 2τ at the beginning.

    Args:
        settings: with `mirostat_tau` > 0.
        history: with what `Memory` has noted.
        like: `(rows)`, for shape and device.
    """
    if history.most_surprisal is not None:
        return history.most_surprisal
    return torch.full_like(like, 2 * settings.mirostat_tau)
