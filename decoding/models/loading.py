"""Load a causal language model with its tokenizer: embedded, local folder, GGUF, or hub name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_accelerate_available, is_gguf_available

from decoding.models.adapters import adapted, base_of
from decoding.models.devices import chosen_device, chosen_dtype, input_device
from decoding.models.faults import ModelLoadError, first_line
from decoding.models.sources import BUILTIN, Source, located
from decoding.models.trust import ALLOW, check_files, read_tokenizer


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer.

    Args:
        model: a Hugging Face causal language model.
        tokenizer: its tokenizer; one that was loaded here pads on the left, as `model.generate`
            needs it.
        name: what to call it in records; default the name or folder that it was loaded from, or
            its class where there is none.
        unused_weights: names of weights in its files for which the model has no place, as where
            its configuration says fewer layers than there are.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = ""
    unused_weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            name = self.model.name_or_path or type(self.model).__name__
            object.__setattr__(self, "name", name)

    def ends(self) -> list[int]:
        """The ids that end a text: those of the generation configuration and of the model's own,
        else the tokenizer's EOS."""
        own = self.model.config.get_text_config()
        return end_ids(self.tokenizer, self.model.generation_config, own)

    def __repr__(self) -> str:
        size = _shortened(self.model.num_parameters())
        dtype = str(self.model.dtype).removeprefix("torch.")
        return (
            f"LanguageModel({self.name!r}, {size} parameters, {dtype}, {input_device(self.model)})"
        )


def end_ids(tokenizer: PreTrainedTokenizerBase, *configurations: Any) -> list[int]:
    """The ids that configurations of a model name as EOS, else the tokenizer's."""
    known = [getattr(one, "eos_token_id", None) for one in configurations]
    ends = {i for end in known for i in ([end] if isinstance(end, int) else end or ())}
    last = tokenizer.eos_token_id
    return sorted(ends or ({last} if last is not None else ()))


def load_model(
    name_or_path: str | PathLike[str] = BUILTIN,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    subfolder: str | PathLike[str] = "",
    base: str | PathLike[str] | None = None,
) -> LanguageModel:
    """Load a causal language model in evaluation mode.

    Args:
        name_or_path: `builtin:stories`, a local folder in Hugging Face form, a GGUF file or a
            folder with one (extra `gguf`), a folder with a LoRA adapter (extra `peft`), or the name
            of any of these folders on the hub. Of a vision-language model, the text alone is read.
        device: a torch device, or `auto` for all that there are, and the disk where they are not
            enough (extra `accelerate`); default `cuda` where there is one, else `cpu`.
        dtype: `float32`, `bfloat16`, `float16`; default float32 on a CPU and the checkpoint's own
            on an accelerator.
        trust_remote_code: run Python code that comes with the model, or that its configuration
            names. Off unless you ask.
        revision: a branch, tag or commit, for a name on the hub.
        subfolder: the folder inside that holds the model.
        base: the model that an adapter changes; default the one that its configuration names.

    Raises:
        ModelLoadError: no such folder, no safetensors weights, no network, an unknown device or
            dtype, a package that is missing, or code without permission.
        TypeError: a name is neither text nor a path.
    """
    target = chosen_device(device)
    wanted = chosen_dtype(dtype, target)
    source = located(name_or_path, revision=revision, subfolder=subfolder)
    with explained(source):
        foundation = base_of(source, base)
        model, tokenizer, unused = load_pair(
            foundation or source,
            trust_remote_code=trust_remote_code,
            dtype=wanted,
            **({} if target else {"device_map": "auto"}),
        )
        if foundation is not None:
            model, tokenizer = adapted(
                model, tokenizer, source, trust_remote_code=trust_remote_code
            )
    try:
        model = (model.to(target) if target else model).eval()
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device {str(target)!r}: {first_line(error)}") from error
    tokenizer.padding_side = "left"
    # What records call it; for the embedded model this would be where it happens to be installed.
    model.name_or_path = source.name
    return LanguageModel(model, tokenizer, source.name, unused)


def load_generation_config(
    name_or_path: str | PathLike[str] = BUILTIN,
    *,
    trust_remote_code: bool = False,
    revision: str | None = None,
    subfolder: str | PathLike[str] = "",
    base: str | PathLike[str] | None = None,
) -> GenerationConfig:
    """The generation configuration that a model comes with, without loading its weights.

    It is transformers' defaults where the model has none of its own. Arguments as for `load_model`.

    Raises:
        ModelLoadError: there is no such model, or it cannot be reached.
    """
    source = located(name_or_path, revision=revision, subfolder=subfolder)
    with explained(source):
        source = base_of(source, base) or source
        config = read_config(source, trust_remote_code=trust_remote_code)
        if source.file("generation_config.json") is None:
            return GenerationConfig.from_model_config(config)
        return GenerationConfig.from_pretrained(source.location, **source.options)


def load_pair(
    source: Source, kind: Any = None, *, trust_remote_code: bool, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, tuple[str, ...]]:
    """A model and its tokenizer, and the names of the weights for which the model has no place.

    Args:
        source: where they lie.
        kind: the auto class of transformers; default that of a causal language model.
        trust_remote_code: run code that comes with the model.
        **options: further ones of `from_pretrained`.

    Raises:
        ModelLoadError: they ask for what they may not, or weights are missing.
    """
    config = read_config(source, trust_remote_code=trust_remote_code)
    tokenizer = read_tokenizer(source, trust_remote_code=trust_remote_code)
    if source.gguf is not None and hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model, report = (kind or _kind(source, config)).from_pretrained(
        source.location,
        config=config,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        output_loading_info=True,
        **source.options,
        **options,
    )
    _check(source.name, model, tokenizer, report)
    return model, tokenizer, tuple(sorted(map(str, report["unexpected_keys"])))


def read_config(source: Source, *, trust_remote_code: bool) -> Any:
    """A model's configuration, of files that ask for nothing that they may not."""
    if source.gguf is not None and not (is_gguf_available() and is_accelerate_available()):
        raise ModelLoadError(
            f"GGUF file {source.gguf!r} needs gguf: pip install 'decoding-toolkit[gguf]'"
        )
    check_files(source, trust_remote_code=trust_remote_code)
    config = AutoConfig.from_pretrained(
        source.location, trust_remote_code=trust_remote_code, **source.options
    )
    if not trust_remote_code:
        _forget_code(config)
    config.return_dict = True  # a checkpoint that says otherwise gives nameless outputs
    return config


def _forget_code(config: Any) -> None:
    """Take the code that parts of a configuration name out of them: about that, transformers asks
    on standard input, where prompts may come from."""
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if hasattr(part, "sub_configs"):
            vars(part).pop("auto_map", None)
            _forget_code(part)


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turn whatever a loader makes of a broken file into a ModelLoadError of one line."""
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(_explain(source, error)) from error


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
    """Refuse a model that transformers completed with random weights, or that knows no ends."""
    absent = [*report["missing_keys"], *report["mismatched_keys"]]
    if absent:
        raise ModelLoadError(
            f"model {name!r} lacks {len(absent)} of its weights, among them {min(map(str, absent))}"
        )
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        for configuration in (model.config, getattr(model, "generation_config", None)):
            given = getattr(configuration, key, None)
            ids = given if isinstance(given, list | tuple) else [given]
            # -1 is how some say that there is none.
            if not all(i is None or (isinstance(i, int) and -1 <= i < 2**31) for i in ids):
                raise ModelLoadError(f"model {name!r} has {key} = {given!r}, which is no id")
    if not tokenizer("a")["input_ids"]:
        raise ModelLoadError(f"model {name!r} has no tokenizer that can be loaded")


def _kind(source: Source, config: Any) -> Any:
    """The auto class that reads a configuration's model for text."""
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return AutoModelForCausalLM
    text = config.get_text_config()
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not text.is_encoder_decoder:
        return AutoModelForImageTextToText
    raise ModelLoadError(
        f"model {source.name!r} is of type {config.model_type!r}, which is no causal language model"
    )


def _explain(source: Source, error: Exception) -> str:
    name, text = source.name, str(error)
    if "trust_remote_code" in text:
        return f"model {name!r} needs Python code of its own; {ALLOW}"
    if Path(source.location).is_dir():
        if "safetensors" in text or "no file named" in text:
            return f"model {name!r} has no safetensors weights"
        if "ignore_mismatched_sizes" in text or "size mismatch" in text:
            return f"model {name!r}: its weights have other shapes than its configuration says"
        if "backend tokenizer" in text:
            return f"model {name!r} has no tokenizer that can be loaded"
        return f"model {name!r} could not be loaded: {first_line(error)}"
    return (
        f"model {name!r} is no local folder and could not be fetched from the hub "
        f"({first_line(error)}); use a local folder"
    )
