"""Training losses that keep a model from becoming too sure: cross-entropy with a term in entropy.

With p = softmax(z), u uniform over the vocabulary of size V, and y the label of a position:

    confidence penalty   CE(y, p) - β·H(p)           = CE(y, p) + β·KL(p‖u) - β·ln V
    target entropy       CE(y, p) + β·(H(p) - h)²
    label smoothing      (1 - ε)·CE(y, p) + ε·CE(u, p) = (1 - ε)·CE(y, p) + ε·KL(u‖p) + ε·ln V

The first and the last are twins: a divergence from uniform, with its arguments exchanged. The
confidence penalty hardly cares for tokens that p has all but ruled out; label smoothing charges
most for those.

Logits are taken a block of rows at a time, forward and backward, with the gradient in closed form:
beside the logits and their gradient, which has their dtype, the temporaries stay at a few
blocks in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from decoding.rows.blocks import row_blocks

IGNORED = -100
BLOCK_BYTES = 16 << 20

LossFunction = Callable[..., Tensor]


def entropy_regularized_loss(
    *,
    beta: float = 0.0,
    target_entropy_nats: float | None = None,
    label_smoothing: float = 0.0,
) -> LossFunction:
    """A loss for `transformers.Trainer(compute_loss_func=…)` on causal language models.

    It shifts the labels as the models do, so that a position's logits meet the next position's
    label, takes `regularized_cross_entropy` of each, and leaves out labels of -100. The sum is
    divided by `num_items_in_batch`, which the trainer counts over all the micro-batches of an
    optimizer step, so accumulated gradients equal those of one large batch; without that count, by
    the number of labels that were not left out. With the defaults it is the models' own loss.

    The trainer uses it for `evaluate` too: `eval_loss` is then the regularized loss and no
    cross-entropy. It ignores `TrainingArguments.label_smoothing_factor` beside a loss function of
    the user's; `label_smoothing` here takes its place.

    The arguments are those of `regularized_cross_entropy`.

    Returns:
        `(outputs, labels, num_items_in_batch=None) -> loss`: `outputs` is what the model returned
        (a mapping with `logits`, or a tuple that begins with them) with logits
        `(batch, seq, vocab)`; `labels` is `(batch, seq)`; the loss is a scalar in nats, 0 with zero
        gradient where every label is left out.

    Raises:
        ValueError: an argument is outside its range. The loss itself raises it for absent labels
            and as `regularized_cross_entropy` does.

    Source: Pereyra et al. 2017, *Regularizing Neural Networks by Penalizing Confident Output
    Distributions*, arXiv:1701.06548.
    """
    _check(beta, target_entropy_nats, label_smoothing)
    arguments: dict[str, Any] = {
        "beta": beta,
        "target_entropy_nats": target_entropy_nats,
        "label_smoothing": label_smoothing,
    }

    def loss(
        outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if labels is None:
            raise ValueError(
                "labels must be in the batch, got None; choose a collator that adds them"
            )
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        # Moving the labels, not the logits, leaves the logits uncopied.
        targets = F.pad(labels, (0, 1), value=IGNORED)[..., 1:].to(logits.device)
        losses = regularized_cross_entropy(logits, targets, **arguments)
        if num_items_in_batch is None:
            items = (targets != IGNORED).sum()
        else:
            # Under DataParallel the trainer repeats the count for each device, and multiplies the
            # loss by their number.
            items = torch.as_tensor(num_items_in_batch, device=losses.device).sum()
        return losses.sum() / items.clamp(min=1)

    return loss


def regularized_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    beta: float = 0.0,
    target_entropy_nats: float | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of every row with a term in the entropy of the predicted distribution.

    `(1 - ε)·(-log p(y)) + ε·(-mean_i log p_i) + R`, where R is `-β·H(p)`, or with a target
    `β·(H(p) - h)²`. Its gradient by logit i is
    `p_i·(1 - R'·(log p_i + H)) - ε/V - (1 - ε)·[i = y]` with `R' = dR/dH`.

    Args:
        logits: `(…, vocab)`, any floating dtype.
        targets: `(…)` integer ids; a row whose target is -100 is left out.
        beta: β, finite and >= 0; 0 leaves the entropy free.
        target_entropy_nats: h, in [0, ln vocab]; with None, more is always better.
        label_smoothing: ε, in [0, 1).

    Returns:
        `(…)`, nats; float32, or float64 for float64 logits; 0 with zero gradient in rows left out.
        The gradient has the logits' dtype.

    Raises:
        ValueError: an argument is outside its range, a target entropy comes with `beta` 0, or
            `targets` has not the shape of the rows.

    Source: Pereyra et al. 2017, arXiv:1701.06548 (confidence penalty); Szegedy et al. 2016,
    arXiv:1512.00567 (label smoothing, as `torch.nn.functional.cross_entropy` has it).
    """
    _check(beta, target_entropy_nats, label_smoothing)
    *shape, vocab = logits.shape
    if targets.shape != torch.Size(shape):
        raise ValueError(
            f"targets must have the shape of the rows, {tuple(shape)}, got {tuple(targets.shape)}"
        )
    if target_entropy_nats is not None and target_entropy_nats > math.log(vocab):
        raise ValueError(
            f"target_entropy_nats must be at most ln {vocab} = {math.log(vocab):.4g}, "
            f"got {target_entropy_nats}"
        )
    losses: Tensor = _RegularizedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits.reshape(-1, vocab),
        targets.reshape(-1).long(),
        (beta, target_entropy_nats, label_smoothing),
    )
    return losses.reshape(shape)


def _check(beta: float, target_entropy_nats: float | None, label_smoothing: float) -> None:
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and >= 0, got {beta}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if target_entropy_nats is None:
        return
    if not 0 <= target_entropy_nats < math.inf:
        raise ValueError(f"target_entropy_nats must be finite and >= 0, got {target_entropy_nats}")
    if beta == 0:
        raise ValueError(f"beta must be > 0 where target_entropy_nats is given, got {beta}")


class _RegularizedCrossEntropy(torch.autograd.Function):
    """The losses of rows of logits; the backward pass computes each block of p anew."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, regularizer: tuple[float, float | None, float]
    ) -> Tensor:
        beta, target_entropy, smoothing = ctx.regularizer = regularizer
        dtype = torch.promote_types(logits.dtype, torch.float32)
        losses = logits.new_empty(len(logits), dtype=dtype)
        # Each row's H, without which the backward pass would need another sum over the vocabulary.
        entropies = torch.zeros_like(losses)
        for block in row_blocks(logits.shape, BLOCK_BYTES // 4):
            log_probs = logits[block].log_softmax(-1, dtype=losses.dtype)
            kept = targets[block] != IGNORED
            chosen = targets[block].masked_fill(~kept, 0).unsqueeze(-1)
            loss = log_probs.gather(-1, chosen).squeeze(-1).mul_(smoothing - 1)
            if smoothing:
                loss -= smoothing * log_probs.mean(-1)
            if beta:
                entropy = entropies[block]
                torch.sum(log_probs.exp().mul_(_finite(log_probs)), -1, out=entropy).neg_()
                if target_entropy is None:
                    loss -= beta * entropy
                else:
                    loss += beta * (entropy - target_entropy).square()
            losses[block] = loss.masked_fill_(~kept, 0)
        ctx.save_for_backward(logits, targets, entropies)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, entropies = ctx.saved_tensors
        beta, target_entropy, smoothing = ctx.regularizer
        gradient = torch.empty_like(logits)
        for block in row_blocks(logits.shape, BLOCK_BYTES // 4):
            log_probs = logits[block].log_softmax(-1, dtype=entropies.dtype)
            kept = (targets[block] != IGNORED).unsqueeze(-1)
            chosen = targets[block].unsqueeze(-1).masked_fill(~kept, 0)
            by_logit = log_probs.exp()
            if beta:
                entropy = entropies[block].unsqueeze(-1)
                slope = -beta if target_entropy is None else 2 * beta * (entropy - target_entropy)
                by_logit.mul_(_finite(log_probs).add_(entropy).mul_(-slope).add_(1))
            if smoothing:
                by_logit.sub_(smoothing / logits.shape[-1])
            by_logit.scatter_add_(-1, chosen, by_logit.new_full(chosen.shape, smoothing - 1))
            by_logit.mul_(upstream[block].unsqueeze(-1)).masked_fill_(~kept, 0)
            gradient[block] = by_logit
        return gradient, None, None


def _finite(log_probs: Tensor) -> Tensor:
    """`log_probs`, changed in place where the probability is zero, so that 0·log 0 is 0."""
    # e^-1000 is zero even in float64.
    return log_probs.clamp_(min=-1000)
