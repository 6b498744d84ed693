"""Adapters (LoRA and its kin): small weights that change another model, their base."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import is_peft_available

from decoding.models.faults import ModelLoadError
from decoding.models.sources import ADAPTER_CONFIG, CONFIG, Source, as_text, located
from decoding.models.trust import ALLOW, read_tokenizer

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def base_of(source: Source, base: str | PathLike[str] | None) -> Source | None:
    """Where the model lies that an adapter changes; None where there is no adapter.

    Args:
        source: what was asked for.
        base: the base that the user names; default the one that the adapter's configuration names.

    Raises:
        ModelLoadError: a base is named, and there is no adapter; or it names none that can be had.
    """
    config = None if source.gguf else source.json(ADAPTER_CONFIG)
    if config is None:
        if base is not None:
            raise ModelLoadError(
                f"model {source.name!r} is no adapter, so it takes no base (--base)"
            )
        return None
    if base is None and source.file(CONFIG) is not None:
        raise ModelLoadError(
            f"model {source.name!r} holds a whole model and an adapter; to use the adapter, name "
            "its base (--base)"
        )
    named = as_text(base, "base") if base else config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ModelLoadError(f"adapter {source.name!r} names no base; name one (--base)")
    revision = None if base or Path(named).exists() else config.get("revision")
    try:
        found = located(named, revision=revision)
    except ModelLoadError as error:
        raise ModelLoadError(
            f"the base of adapter {source.name!r}: {error}; name another (--base)"
        ) from error
    if not found.gguf and found.file(ADAPTER_CONFIG) is not None:
        raise ModelLoadError(
            f"the base of adapter {source.name!r} must be no adapter, got {named!r}"
        )
    return found


def adapted(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Source,
    *,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with an adapter's layers put into it, and the tokenizer that goes with it.

    The layers stay apart from the weights that they change: merged in half precision, they would be
    rounded.

    Raises:
        ModelLoadError: peft is missing, the weights are no safetensors or belong to another base,
            or the adapter is one of virtual tokens.
    """
    if not is_peft_available():
        raise ModelLoadError(
            f"adapter {source.name!r} needs peft: pip install 'decoding-toolkit[peft]'"
        )
    from peft import PeftConfig, PeftModel

    weights = source.file(ADAPTER_WEIGHTS)
    if weights is None:
        raise ModelLoadError(f"adapter {source.name!r} has no {ADAPTER_WEIGHTS}")
    folder = str(weights.parent)
    config = PeftConfig.from_pretrained(folder)
    if config.is_prompt_learning:
        raise ModelLoadError(
            f"adapter {source.name!r} puts virtual tokens in front ({config.peft_type.value}), "
            "which is not supported; one that changes layers, such as LoRA, is"
        )
    if getattr(config, "megatron_config", None) is not None and not trust_remote_code:
        raise ModelLoadError(f"adapter {source.name!r} asks for code of Megatron; {ALLOW}")
    with warnings.catch_warnings():
        # peft leaves out what does not fit, and says so at most in a warning.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        wrapper = PeftModel.from_pretrained(model, folder, torch_device="cpu")
        beyond = wrapper.load_adapter(folder, "default", torch_device="cpu").unexpected_keys
    if beyond:
        raise ModelLoadError(
            f"adapter {source.name!r} belongs to another base: this one has no place for "
            f"{len(beyond)} of its weights, among them {min(beyond)}"
        )
    if source.file("tokenizer_config.json") is not None:
        tokenizer = read_tokenizer(source, trust_remote_code=trust_remote_code)
    return wrapper.get_base_model(), tokenizer
