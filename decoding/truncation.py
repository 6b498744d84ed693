"""Truncation rules as pure functions from logits to logits, `-inf` outside the kept set.

One order rules them all: tokens by logit descending, then id ascending. So every kept set is
unique, has at least one token, and ties never depend on a sorting algorithm. Hugging Face's
warpers keep the same sets except at exact ties, where theirs are arbitrary (top_p) or keep every
tied token (top_k), and where a threshold falls within float32 rounding of a probability.

Every function takes `(…, vocab)` logits of any floating dtype, each row with one finite logit and
without NaN, and returns a new float32 tensor (float64 for float64) of the same shape. Probabilities
are those of the row it is given, so a chain of rules renormalises at each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from decoding.information import as_float, entropy

if TYPE_CHECKING:
    from decoding.settings import DecodingSettings


def apply_settings(settings: DecodingSettings, logits: Tensor) -> Tensor:
    """All steps of a setting in their order; the result is not normalised.

    Args:
        settings: the steps and their parameters.
        logits: `(…, vocab)`.

    Returns:
        `(…, vocab)` logits of q.
    """
    logits = as_float(logits)
    for name, value in settings.steps():
        logits = RULES[name](logits, value)
    return logits


def temperature(logits: Tensor, value: float) -> Tensor:
    """Divide logits by the temperature: `q ∝ p^(1/T)`; 0 keeps the first token alone.

    Args:
        logits: `(…, vocab)`.
        value: T >= 0; below 1 sharpens, above 1 flattens.

    Returns:
        `(…, vocab)` logits.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    if value == 0:
        return top_k(logits, 1)
    logits = as_float(logits)
    # Beyond these bounds the result is the limit already, and float32 would overflow.
    return logits / min(max(value, 1e-30), torch.finfo(logits.dtype).max)


def top_k(logits: Tensor, value: int) -> Tensor:
    """Keep exactly the k first tokens.

    Args:
        logits: `(…, vocab)`.
        value: k >= 1; all are kept where the vocabulary is smaller.

    Returns:
        `(…, vocab)` logits.

    Source: Fan et al. 2018, arXiv:1805.04833. Of tokens tied at the k-th place the lowest ids are
        kept; Hugging Face keeps all of them.
    """
    logits = as_float(logits)
    count = min(int(value), logits.shape[-1])
    if count == 1:
        return _keep(logits, _one_hot(logits.argmax(-1), logits))
    largest = logits.topk(count, dim=-1).values
    return _keep(
        logits, _prefix(logits, largest, torch.full_like(largest[..., :1], count - 1).long())
    )


def top_p(logits: Tensor, value: float) -> Tensor:
    """Keep the shortest prefix of the order whose mass is at least p (nucleus sampling).

    Args:
        logits: `(…, vocab)`.
        value: 0 < p <= 1.

    Returns:
        `(…, vocab)` logits.

    Source: Holtzman et al. 2020, arXiv:1904.09751. The token that reaches p is kept.
    """
    logits = as_float(logits)
    # Large logits leave no bits for their log-partition, so the maximum goes first.
    top = logits.amax(-1, keepdim=True)
    log_partition = (logits - top).logsumexp(-1, keepdim=True)
    vocab = logits.shape[-1]
    # Most nuclei are small. On an accelerator, finding out would make the host wait.
    window = min(64, vocab) if logits.device.type == "cpu" else vocab
    while True:
        largest = logits.topk(window, dim=-1).values
        mass = (largest - top - log_partition).exp().cumsum(-1, dtype=torch.float64)
        if window == vocab or bool((mass[..., -1] >= value).all()):
            break
        window = min(window * 8, vocab)
    last = (mass < value).sum(-1, keepdim=True).clamp(max=window - 1)
    return _keep(logits, _prefix(logits, largest, last))


def min_p(logits: Tensor, value: float) -> Tensor:
    """Keep tokens with `p_i >= m · max p`; the first token always qualifies.

    Args:
        logits: `(…, vocab)`.
        value: 0 < m <= 1.

    Returns:
        `(…, vocab)` logits.

    Source: Nguyen et al. 2024, arXiv:2407.01082.
    """
    logits = as_float(logits)
    return _keep(logits, logits - logits.amax(-1, keepdim=True) >= math.log(value))


def typical_p(logits: Tensor, value: float) -> Tensor:
    """Keep the tokens whose surprisal is nearest to the entropy, up to mass p.

    Tokens are ordered by `|-log p - H|` ascending, then by the common order; the shortest prefix
    whose mass is at least p is kept.

    Args:
        logits: `(…, vocab)`.
        value: 0 < p <= 1.

    Returns:
        `(…, vocab)` logits.

    Source: Meister et al. 2023, arXiv:2202.00666 (locally typical sampling).
    """
    # The distances of a large flat vocabulary differ by less than float32 rounding of its entropy.
    log_probs = logits.double().log_softmax(-1)
    distance = (log_probs + entropy(log_probs).unsqueeze(-1)).abs()
    by_logit = log_probs.argsort(dim=-1, descending=True, stable=True)
    order = by_logit.gather(-1, distance.gather(-1, by_logit).argsort(dim=-1, stable=True))
    mass = log_probs.gather(-1, order).exp().cumsum(-1, dtype=torch.float64)
    # A token is in the shortest prefix when the tokens before it have not reached p.
    before = torch.cat([torch.zeros_like(mass[..., :1]), mass[..., :-1]], dim=-1)
    return _keep(
        logits, torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before < value)
    )


def epsilon_cutoff(logits: Tensor, value: float) -> Tensor:
    """Keep tokens with `p_i >= ε`, or the first token where none has.

    Args:
        logits: `(…, vocab)`.
        value: 0 < ε < 1.

    Returns:
        `(…, vocab)` logits.

    Source: Hewitt et al. 2022, arXiv:2210.15191.
    """
    log_probs = as_float(logits).log_softmax(-1)
    return _keep(logits, _or_first(log_probs, log_probs >= math.log(value)))


def eta_cutoff(logits: Tensor, value: float) -> Tensor:
    """Keep tokens with `p_i >= min(ε, √ε·exp(-H))`, or the first token where none has.

    Args:
        logits: `(…, vocab)`.
        value: 0 < ε < 1.

    Returns:
        `(…, vocab)` logits.

    Source: Hewitt et al. 2022, arXiv:2210.15191 (η-sampling).
    """
    log_probs = as_float(logits).log_softmax(-1)
    threshold = (math.log(value) / 2 - entropy(log_probs).unsqueeze(-1)).clamp(max=math.log(value))
    return _keep(logits, _or_first(log_probs, log_probs >= threshold))


RULES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
    "typical_p": typical_p,
    "epsilon_cutoff": epsilon_cutoff,
    "eta_cutoff": eta_cutoff,
}


def _keep(logits: Tensor, kept: Tensor) -> Tensor:
    return as_float(logits).masked_fill(~kept, -math.inf)


def _prefix(logits: Tensor, largest: Tensor, last: Tensor) -> Tensor:
    """Mask of the `last + 1` first tokens, given the row's largest logits, descending.

    `last` is `(…, 1)`. Working from values alone, ties need no stable sort: all tokens above the
    boundary value are in, and of those equal to it the lowest ids fill what is left.
    """
    boundary = largest.gather(-1, last)
    places = (last + 1) - (largest > boundary).sum(-1, keepdim=True)
    tied = logits == boundary
    return (logits > boundary) | (tied & (tied.cumsum(-1) <= places))


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.bool).scatter(-1, index.unsqueeze(-1), True)


def _or_first(log_probs: Tensor, kept: Tensor) -> Tensor:
    return kept | _one_hot(log_probs.argmax(-1), log_probs)
