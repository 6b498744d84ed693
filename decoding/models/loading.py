"""Load a causal language model with its tokenizer: embedded, local folder, or hub name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

BUILTIN = "builtin:stories"


class ModelLoadError(ValueError):
    """A model could not be loaded; the message says why and what to try."""


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer.

    Args:
        model: a Hugging Face causal language model.
        tokenizer: its tokenizer; one that was loaded here pads on the left, as `model.generate`
            needs it.
        name: what to call it in records; default the name or folder that it was loaded from, or
            its class where there is none.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            name = self.model.name_or_path or type(self.model).__name__
            object.__setattr__(self, "name", name)

    def ends(self) -> list[int]:
        """The ids that end a text: those of the generation configuration and of the model's own,
        else the tokenizer's EOS."""
        configurations = (self.model.generation_config, self.model.config.get_text_config())
        known = [getattr(one, "eos_token_id", None) for one in configurations]
        ends = {i for end in known for i in ([end] if isinstance(end, int) else end or ())}
        last = self.tokenizer.eos_token_id
        return sorted(ends or ({last} if last is not None else ()))

    def __repr__(self) -> str:
        size = _shortened(self.model.num_parameters())
        dtype = str(self.model.dtype).removeprefix("torch.")
        return f"LanguageModel({self.name!r}, {size} parameters, {dtype}, {self.model.device})"


def load_model(
    name_or_path: str = BUILTIN,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a causal language model in evaluation mode.

    Args:
        name_or_path: `builtin:stories`, a local folder in Hugging Face form, or a hub name.
        device: a torch device; default `cuda` where there is one, else `cpu`.
        dtype: `float32`, `bfloat16`, `float16`; default float32 on a CPU and the checkpoint's own
            on an accelerator.
        trust_remote_code: run Python code that comes with the model. Off unless you ask.

    Raises:
        ModelLoadError: no such folder, no safetensors weights, no network, an unknown device or
            dtype, or remote code without permission.
    """
    target = _device(device)
    wanted = _dtype(dtype, target)
    source = _source(name_or_path)
    try:
        # First and alone: without a network, each file that is looked for costs half a minute.
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=trust_remote_code, padding_side="left"
        )
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=wanted,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a loader makes of a broken file
        raise ModelLoadError(_explain(name_or_path, error)) from error
    _check(name_or_path, model, tokenizer, report)
    try:
        model = model.to(target).eval()
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device {str(target)!r}: {_first_line(error)}") from error
    # What records call it; for the embedded model this would be where it happens to be installed.
    model.name_or_path = name_or_path
    return LanguageModel(model, tokenizer, name_or_path)


def load_generation_config(
    name_or_path: str = BUILTIN, *, trust_remote_code: bool = False
) -> GenerationConfig:
    """The generation configuration that a model comes with, without loading its weights.

    It is transformers' defaults where the model has none of its own. Arguments as for `load_model`.

    Raises:
        ModelLoadError: there is no such model, or it cannot be reached.
    """
    source = _source(name_or_path)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        try:
            return GenerationConfig.from_pretrained(source)
        except OSError:
            return GenerationConfig.from_model_config(config)
    except Exception as error:  # whatever a loader makes of a broken file
        raise ModelLoadError(_explain(name_or_path, error)) from error


def check_language_model(value: object) -> None:
    """Refuse with a TypeError what is no `LanguageModel`, such as a bare model or a name."""
    if not isinstance(value, LanguageModel):
        raise TypeError(
            f"language_model must be a LanguageModel, got {type(value).__name__}; take that of "
            "load_model(name), or wrap a pair of your own as LanguageModel(model, tokenizer)"
        )


def check_vocabularies(a: LanguageModel, b: LanguageModel) -> None:
    """Refuse two models whose ids do not mean the same, by a ValueError that names the first."""
    check_language_model(a)
    check_language_model(b)
    of_a, of_b = (
        {index: token for token, index in model.tokenizer.get_vocab().items()} for model in (a, b)
    )
    different = sorted(i for i in of_a.keys() | of_b.keys() if of_a.get(i) != of_b.get(i))
    if different:
        shown = ", ".join(
            f"{i} ({of_a.get(i, 'none')!r}, {of_b.get(i, 'none')!r})" for i in different[:3]
        )
        raise ValueError(
            f"the vocabularies of {a.name!r} and {b.name!r} differ at {len(different):,} ids: "
            f"{shown}{', …' if len(different) > 3 else ''}"
        )
    sizes = [model.model.config.get_text_config().vocab_size for model in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{a.name!r} has logits for ids 0 to {sizes[0] - 1}, {b.name!r} for 0 to {sizes[1] - 1}"
        )


def _shortened(count: int) -> str:
    """A number to two digits or more, as in 1.1M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f}{unit}"
    return str(count)


def _check(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, report: dict[str, Any]
) -> None:
    """Refuse a model that transformers completed with random weights, or a foreign tokenizer."""
    absent = [*report["missing_keys"], *report["mismatched_keys"]]
    if absent:
        raise ModelLoadError(
            f"model {name!r} lacks {len(absent)} of its weights, among them {min(map(str, absent))}"
        )
    rows = model.get_input_embeddings().num_embeddings
    if not tokenizer("a")["input_ids"] or len(tokenizer) > rows:
        raise ModelLoadError(
            f"model {name!r} has {rows} tokens and its tokenizer {len(tokenizer)}: "
            "the tokenizer is missing or belongs to another model"
        )


def _source(name: str) -> str:
    """What to give `from_pretrained`; a name that cannot exist is refused."""
    if name == BUILTIN:
        return str(files("decoding") / "stories")
    if name.startswith("builtin:"):
        raise ModelLoadError(f"no model {name!r}: the embedded one is {BUILTIN!r}")
    path = Path(name)
    # A name that can only mean a folder: it exists, or no hub name looks like that.
    is_path = name.startswith(("./", "../", "~")) or name.count("/") > 1
    if (path.exists() or path.is_absolute() or is_path) and not (path / "config.json").is_file():
        missing = "has no config.json" if path.is_dir() else "does not exist"
        raise ModelLoadError(f"model folder {name!r} {missing}")
    return name


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        target = torch.device("meta")
    if target.type == "meta":
        raise ModelLoadError(f"unknown device {str(device)!r}; try cpu, cuda or cuda:0")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(f"device {str(device)!r}: torch finds no CUDA device here; try cpu")
    return target


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> Any:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    named = getattr(torch, dtype, None)
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ModelLoadError(f"unknown dtype {dtype!r}; try float32, bfloat16 or float16")
    return named


def _explain(name: str, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"model {name!r} needs Python code of its own; if you trust it, allow it with "
            "trust_remote_code=True (--trust-remote-code)"
        )
    if Path(name).is_dir():
        if "safetensors" in text or "no file named" in text:
            return f"model folder {name!r} has no safetensors weights"
        if "ignore_mismatched_sizes" in text:
            return f"model folder {name!r}: its weights have other shapes than its config.json says"
        if "backend tokenizer" in text:
            return f"model folder {name!r} has no tokenizer that can be loaded"
        return f"model folder {name!r} could not be loaded: {_first_line(error)}"
    return (
        f"model {name!r} is no local folder and could not be fetched from the hub "
        f"({_first_line(error)}); use a local folder, or {BUILTIN!r}"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
