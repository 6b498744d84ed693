"""What a model's files may not ask for: code from the hub, weights that are no safetensors, chance.

A model folder is somebody else's. All this is refused before anything of it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from decoding.models.faults import ModelLoadError
from decoding.models.sources import CONFIG, Source

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
LAYERS = re.compile(r"(?!max_window_|.*every_n_)(.*_)?(n_layer|layers)")
"""What counts layers that have weights, not where something begins or how often it comes."""
COUNTED = re.compile(r"(.*_)?(layers?|labels|experts|heads)")
MOST = 100_000
"""More of what is counted than any model has."""

ALLOW = "if you trust it, allow it with trust_remote_code=True (--trust-remote-code)"


def check_files(source: Source, *, trust_remote_code: bool) -> None:
    """Refuse a folder or repository whose files ask for what they may not.

    Code that comes with a model (`auto_map`) is left to transformers, which has its own classes for
    many of the models that name some and never runs it unasked.

    Raises:
        ModelLoadError: a configuration names code from the hub, which is not trusted; weights that
            are no safetensors; or numbers of parts that no model has, such as more
            layers than there are weights.
    """
    if source.gguf is not None:
        return
    config = source.json(CONFIG)
    if config is None:
        raise ModelLoadError(f"model {source.name!r} has no {CONFIG}")
    if not trust_remote_code:
        for key, value in _entries(config):
            if IMPLEMENTATION.fullmatch(key) and isinstance(value, str) and "/" in value:
                raise ModelLoadError(
                    f"model {source.name!r}: its {CONFIG} asks for code from the hub "
                    f"({key} = {value!r}); {ALLOW}"
                )
    source.json("generation_config.json")  # which transformers leaves out where it is broken
    weights = _weights(source, config)
    for key, value in _entries(config):
        if not COUNTED.fullmatch(key) or not isinstance(value, int):
            continue
        # They are built one by one before their weights are missed, and some numbers never end.
        most = MOST if weights is None or not LAYERS.fullmatch(key) else weights
        if value > most:
            raise ModelLoadError(
                f"model {source.name!r}: its {CONFIG} has {key} = {value}, and "
                + (f"it has {weights} weights" if most == weights else f"{most} is a lot")
            )


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All entries of an object and of those inside it, each with its name; an entry without a name
    of its own (in a list, or one of several implementations) has that of what it stands in."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _entries(inner, key if IMPLEMENTATION.fullmatch(key) else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, key)
    else:
        yield key, value


def _weights(source: Source, config: dict[str, Any]) -> int | None:
    """How many weights there are, or None where there are no safetensors."""
    named = config.get("transformers_weights") or WEIGHTS
    _check_name(source, named, CONFIG)
    if not named.endswith(".json"):
        path = source.file(named)
        if path is not None:
            with safe_open(path, framework="pt") as file:
                return len(file.keys())
        named = INDEX
    index = source.json(named)
    if index is None:
        return None
    files = index.get("weight_map")
    if not isinstance(files, dict):
        raise ModelLoadError(f"model {source.name!r}: {named} has no weight_map")
    for file in files.values():
        _check_name(source, file, named)
    return len(files)


def _check_name(source: Source, file: Any, where: str) -> None:
    """Refuse a file of weights that is no safetensors, or lies elsewhere."""
    if not isinstance(file, str) or not file.endswith((".safetensors", ".safetensors.index.json")):
        raise ModelLoadError(
            f"model {source.name!r}: {where} names weights that are no safetensors ({file!r})"
        )
    if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
        raise ModelLoadError(
            f"model {source.name!r}: {where} names weights outside its folder ({file!r})"
        )


def read_tokenizer(source: Source, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """A model's tokenizer, without the dropout that some BPE has to train a model on.

    Args:
        source: where it lies.
        trust_remote_code: run code that comes with it.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source.location, trust_remote_code=trust_remote_code, **source.options
    )
    pieces: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if hasattr(pieces, "dropout"):
        pieces.dropout = None
    return tokenizer
