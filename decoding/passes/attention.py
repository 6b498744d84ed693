"""Entropy of attention: how broadly each head looks, and how much of it at the first token.

The maps of weights, heads × length × length numbers a layer, are reduced as soon as a layer has
made its own, so one of them at a time is alive, whatever the depth of the model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from decoding.passes.probing import check_causal
from decoding.rows.arrays import as_float


class AttentionEntropy(NamedTuple):
    """Entropy of each query's attention; see `attention_entropy`."""

    entropy: Tensor
    """`(batch, heads, query)`, nats, in [0, ln keys]; 0 where there is nothing to divide."""
    normalized: Tensor
    """`(batch, heads, query)`, entropy / ln keys, in [0, 1]; NaN where it is undefined."""
    mass: Tensor
    """`(batch, heads, query)`, the sum of the weights on the visible keys."""


def attention_entropy(weights: Tensor, visible: Tensor) -> AttentionEntropy:
    """Entropy of attention over the visible keys, in nats and as a share of the largest possible.

    `p = w / Σ w` over the visible keys, `H = -Σ p ln p`, `normalized = H / ln(visible keys)`. A
    query that sees fewer than two keys has no choice, and one without any weight on its keys says
    nothing: there H is 0 and `normalized` is NaN.

    Args:
        weights: `(batch, heads, query, key)`, >= 0, any floating dtype.
        visible: `(batch or 1, heads or 1, query, key)`, boolean; what a query may look at.

    Returns:
        `(batch, heads, query)`; float32, or float64 for float64 weights.

    Source: Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy
    Collapse" (σReparam), ICML 2023, for the entropy; they do not normalise it.
    """
    probs = torch.where(visible, as_float(weights), 0.0)
    mass = probs.sum(-1)
    keys = visible.sum(-1).expand(mass.shape)
    probs /= torch.where(mass > 0, mass, 1.0).unsqueeze(-1)
    entropy = torch.special.entr(probs).sum(-1).clamp(min=0)
    undefined = (keys < 2) | (mass == 0)
    normalized = (entropy / keys.clamp(min=2).log()).clamp(max=1)
    return AttentionEntropy(
        entropy.masked_fill(undefined, 0.0), normalized.masked_fill(undefined, math.nan), mass
    )


class LayerAttention(NamedTuple):
    """What the heads of one layer do at each query; every tensor is `(batch, heads, seq)`.

    NaN marks what is undefined: everything at padding, and the entropies of a query that sees
    fewer than two keys, or fewer than two beside the first token.
    """

    entropy: Tensor
    """Nats, in [0, ln keys]."""
    normalized: Tensor
    """Entropy / ln(visible keys), in [0, 1]."""
    without_sink: Tensor
    """Entropy of the weights on all keys but the row's first token, normalised to 1; nats."""
    without_sink_normalized: Tensor
    """The same / ln(visible keys beside the first token), in [0, 1]."""
    sink_weight: Tensor
    """Share of the weight on the row's first token, in [0, 1]; 0 where a window hides it."""


def head_entropies(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    on_layer: Callable[[Tensor], None] | None = None,
) -> list[LayerAttention]:
    """Entropy of every head's attention at every token, from one pass over the model.

    The model runs with eager attention, the one implementation that computes the weights; another
    one is set back afterwards. Visible to a query are the tokens of its row up to itself that are
    no padding and, where the layer's mask has a sliding window, lie within it; a window that a
    layer keeps to itself (GPT-Neo) does not count. Positions count from the first token of each
    row, as in `generate`, so padding changes nothing.

    Args:
        model: a causal language model in evaluation mode.
        input_ids: `(batch, seq)`, at least one token each.
        attention_mask: `(batch, seq)`, 1 for tokens and 0 for padding on either side; default all
            tokens.
        on_layer: is given the weights of each layer on what its queries see, `(batch, heads, query,
            key)`, each row with the sum 1 or 0; they are gone once it returns.

    Returns:
        One entry for each layer that attends, in the order in which they run.

    Raises:
        ValueError: the model is in training mode, is not causal, or reads more than the text; or
            its attention does not return weights or holds NaN.

    Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, for
    the first token as a sink.
    """
    if model.training:
        raise ValueError("model must be in evaluation mode: call model.eval() first")
    if own := check_causal(model):
        raise ValueError(
            f"model must read the text alone, and this one reads {own} tokens of its own before it"
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    tokens = mask.bool()
    causal = torch.ones(2 * input_ids.shape[1:], dtype=torch.bool, device=tokens.device).tril()
    # (batch, 1, query, key)
    visible = (causal & tokens[:, None, :] & tokens[:, :, None]).unsqueeze(1)
    first = (tokens & (tokens.cumsum(-1) == 1))[:, None, None, :]
    layers: list[LayerAttention] = []

    def reduce(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        if not isinstance(output, tuple):
            return None
        shape = (len(input_ids), *2 * input_ids.shape[1:])
        for place, weights in enumerate(output):
            is_map = isinstance(weights, Tensor) and weights.ndim == 4
            if is_map and (len(weights), *weights.shape[2:]) == shape:
                seen = visible & _allowed(module, args, kwargs)
                layers.append(_reduced(weights, seen, first))
                if on_layer is not None:
                    on_layer(_normalized(weights, seen))
                # Without the map, so that nothing collects it.
                return (*output[:place], None, *output[place + 1 :])
        return None

    inputs: dict[str, Any] = {"attention_mask": mask, "use_cache": False}
    parameters = inspect.signature(type(model.base_model).forward).parameters
    if "position_ids" in parameters and not tokens[:, 0].all():
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    implementation = attention_implementation(model)
    with ExitStack() as stack:
        stack.enter_context(_eager(model))
        for module in model.base_model.modules():
            hook = module.register_forward_hook(reduce, with_kwargs=True)
            stack.callback(hook.remove)
        with torch.inference_mode():
            model.base_model(input_ids, **inputs)
            if not layers and "output_attentions" in parameters:
                # Some return weights only when asked. Those that return them anyway must not be
                # asked: transformers 4 would keep all maps before a hook can take them.
                model.base_model(input_ids, output_attentions=True, **inputs)
    if not layers:
        raise ValueError(
            f"model must return attention weights: {type(model).__name__} with its "
            f"{implementation!r} attention does not, even when asked for eager attention"
        )
    return layers


def attention_implementation(model: PreTrainedModel) -> str:
    """The name of the attention that a model is set to, such as `sdpa` or `eager`."""
    return str(getattr(model.config, "_attn_implementation", None) or "eager")


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Eager attention for the time of a call."""
    before = attention_implementation(model)
    if before == "eager":
        yield
        return
    try:
        model.set_attn_implementation("eager")
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(
            f"model must return attention weights: {type(model).__name__} with its {before!r} "
            f"attention cannot be switched to eager attention ({error})"
        ) from error
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _allowed(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What the mask given to an attention module lets through, `(batch or 1, 1, query, key)`.

    Eager attention adds its mask to the scores: a huge negative number forbids.
    """
    tensors = (one for one in (kwargs.get("attention_mask"), *args) if isinstance(one, Tensor))
    for value in tensors:
        if value.is_floating_point() and value.ndim == 4 and value.shape[1] == 1:
            return value > torch.finfo(value.dtype).min / 2
    return torch.ones((), dtype=torch.bool, device=next(module.parameters()).device)


def _normalized(weights: Tensor, visible: Tensor) -> Tensor:
    probs = torch.where(visible, as_float(weights), 0.0)
    mass = probs.sum(-1, keepdim=True)
    return probs / torch.where(mass > 0, mass, 1.0)


def _reduced(weights: Tensor, visible: Tensor, first: Tensor) -> LayerAttention:
    whole = attention_entropy(weights, visible)
    if bool(whole.mass.isnan().any()):
        raise ValueError("model must give finite attention weights, got NaN")
    rest = attention_entropy(weights, visible & ~first)
    # No entropy where the queries cannot choose, and nothing of a padded query.
    sink = torch.where(visible & first, as_float(weights), 0.0).sum(-1) / whole.mass
    return LayerAttention(
        entropy=whole.entropy.masked_fill(whole.normalized.isnan(), math.nan),
        normalized=whole.normalized,
        without_sink=rest.entropy.masked_fill(rest.normalized.isnan(), math.nan),
        without_sink_normalized=rest.normalized,
        sink_weight=sink.masked_fill(whole.mass == 0, math.nan),
    )
