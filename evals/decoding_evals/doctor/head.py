"""The doctor's check of the head: logits are what its weights and the configuration make of the
hidden states."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from decoding.models.devices import input_device
from decoding.passes.head import configured_shapes
from decoding.passes.probing import distance
from decoding_evals.doctor.patient import NOT_NUMBERS, Finding, Patient, is_number, skipped


def head(patient: Patient) -> Finding:
    """Logits are the head's weights times the hidden states, scaled and capped as configured."""
    model = patient.model
    layer = model.get_output_embeddings()
    if model.base_model is model or layer is None:
        return skipped("the model has no separate head")
    hidden = _read_by(model, layer, torch.tensor([patient.probe], device=input_device(model)))
    with torch.inference_mode():
        weight, bias = _linear(layer, (patient.alone.shape[-1], hidden.shape[-1]))
        if weight is not None:
            # Not by the module, which may do more than its weights say.
            parts = torch.split(weight, 4096)  # in float64 only a few rows at a time
            plain = torch.cat([hidden.double() @ rows.double().T for rows in parts], -1)
            plain = plain if bias is None else plain + bias.double()
        else:
            plain = layer(hidden).double()
    got = patient.alone
    if not is_number(got):
        return skipped(NOT_NUMBERS)
    # What a model masks, such as rows that fill up its vocabulary, is no product of its weights.
    masked = got <= torch.finfo(got.dtype).min / 2
    got = got.double().masked_fill(masked, 0)
    config = model.config.get_text_config()
    wants = [shape(plain).masked_fill(masked, 0) for shape in configured_shapes(config)]
    want = min(wants, key=lambda want: float(distance(got, want).max()))
    gap, limit = float(distance(got, want).max()), patient.limit(patient.alone)
    if gap > limit:
        return Finding("fail", gap, limit, _explained(patient, got, want, limit))
    inputs = model.get_input_embeddings().weight
    tied = getattr(config, "tie_word_embeddings", False) and weight is not inputs
    if tied and not inputs.is_meta and weight is not None and weight.shape == inputs.shape:
        some = slice(None, None, -(-len(weight) // 1024))
        mine, theirs = weight[some].detach(), inputs[some].detach()
        factor = _factor(mine, theirs)
        off = float(distance(mine, factor * theirs).max())
        if abs(factor - 1) > 1e-3 and off <= patient.limit(mine):
            message = (
                f"the head's weights are {factor:.4g} times the embedding's, to which the "
                f"configuration ties them: a temperature of {1 / factor:.4g} baked into the head"
            )
            return Finding("fail", abs(factor - 1), 1e-3, message)
    return Finding("pass", gap, limit, "logits are head(hidden) with the configured scale and cap")


@torch.inference_mode()
def _read_by(model: PreTrainedModel, layer: nn.Module, ids: Tensor) -> Tensor:
    """What the head reads in a pass, `(seq, width)`: some models transform what the body gives."""
    read: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda module, args: read.append(args[0])):
        model(ids, attention_mask=torch.ones_like(ids), use_cache=False)
    if len(read) == 1 and read[0].ndim == 3:
        return read[0][0, -ids.shape[1] :]
    return model.base_model(ids, attention_mask=torch.ones_like(ids), use_cache=False)[0][0]  # type: ignore[no-any-return]


def _linear(layer: nn.Module, shape: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a module that holds one product and nothing else that is learnt, in
    memory."""
    parameters = [weights for weights in layer.parameters() if weights.numel() > 1]
    products = [weights for weights in parameters if weights.shape == shape]
    biases = [weights for weights in parameters if weights.shape == shape[:1]]
    here = not any(weights.is_meta for weights in parameters)
    if here and len(products) == 1 and len(biases) <= 1 and len(parameters) == 1 + len(biases):
        return products[0], next(iter(biases), None)
    return None, None


def _explained(patient: Patient, got: Tensor, want: Tensor, limit: float) -> str:
    """How the logits differ from those of the head."""
    for rows, others, way in (
        (slice(1, None), slice(None, -1), "late"),
        (slice(None, -1), slice(1, None), "early"),
    ):
        if float(distance(got[rows], want[others]).max()) <= limit:
            return f"logits are the head's of a neighbour: shifted, one position {way}"
    factor = _factor(got, want)
    if float(distance(got, factor * want).max()) > limit or factor <= 0:
        return "logits are not head(hidden): the model does more than its configuration says"
    for name, value in patient.model.config.get_text_config().to_dict().items():
        if isinstance(value, float) and any(
            math.isclose(factor, known, rel_tol=1e-4) for known in (value, 1 / (value or 1))
        ):
            return f"logits are the head's times {factor:.4g}, perhaps the configuration's {name}"
    return (
        f"logits are the head's times {factor:.4g}: a temperature of {1 / factor:.4g} that the "
        "configuration does not name"
    )


def _factor(got: Tensor, want: Tensor) -> float:
    """The factor c that minimises the squares of got - c · want."""
    finite = got.isfinite() & want.isfinite()
    a, b = got[finite].double(), want[finite].double()
    return float(a @ b / (b @ b).clamp(min=1e-300))
