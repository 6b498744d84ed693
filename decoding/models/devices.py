"""Where a model computes, and in which numbers."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import is_accelerate_available

from decoding.models.faults import ModelLoadError

AUTO = "auto"


def input_device(model: PreTrainedModel) -> torch.device:
    """The device that a model's inputs go to: where it looks up their embeddings.

    The rest of it may lie on other devices; weights that wait on disk or in memory to be brought to
    a device are on none, and accelerate says where they are used.
    """
    table = embeddings(model)
    weights = None if table is None else next(table.parameters(), None)
    if table is None or weights is None:
        return torch.device(model.device)
    hook: Any = getattr(table, "_hf_hook", None)
    return torch.device(hook.execution_device) if weights.is_meta and hook else weights.device


def embeddings(model: PreTrainedModel) -> torch.nn.Module | None:
    """The module in which a model looks up its inputs, or None where it cannot be told."""
    try:
        found: torch.nn.Module | None = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found


def chosen_device(device: str | torch.device | None) -> torch.device | None:
    """A torch device, by default CUDA where there is one, else the CPU; None for `auto`.

    Raises:
        ModelLoadError: an unknown device, CUDA where there is none, or `auto` without accelerate.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == AUTO:
        if not is_accelerate_available():
            raise ModelLoadError(
                "device 'auto' needs accelerate: pip install 'decoding-toolkit[accelerate]'"
            )
        return None
    try:
        target = torch.device(device)
    except RuntimeError:
        target = torch.device("meta")
    if target.type == "meta":
        raise ModelLoadError(f"unknown device {str(device)!r}; try cpu, cuda, cuda:0 or auto")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(f"device {str(device)!r}: torch finds no CUDA device here; try cpu")
    return target


def chosen_dtype(dtype: str | torch.dtype | None, device: torch.device | None) -> Any:
    """A torch dtype, or `auto` for the checkpoint's own.

    Args:
        dtype: its name; by default float32 on a CPU and the checkpoint's own on an accelerator.
        device: where the model will compute; None for all devices that there are.

    Raises:
        ModelLoadError: no such floating dtype.
    """
    if dtype is None:
        kind = device.type if device else ("cuda" if torch.cuda.is_available() else "cpu")
        return torch.float32 if kind == "cpu" else "auto"
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    named = getattr(torch, dtype, None)
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ModelLoadError(f"unknown dtype {dtype!r}; try float32, bfloat16 or float16")
    return named
