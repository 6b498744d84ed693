"""Where a model lies: the embedded one, a local folder, a GGUF file, or a name on the hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import constants, get_session, try_to_load_from_cache
from transformers.utils import cached_file

from decoding.models.faults import ModelLoadError

BUILTIN = "builtin:stories"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"

HUB_SECONDS = 5
"""How long the hub may take to answer before a model is looked for in the cache alone."""


@dataclass(frozen=True)
class Source:
    """What to give `from_pretrained`, and the files there."""

    name: str
    """As the user wrote it."""
    location: str
    """A folder, or a name on the hub."""
    revision: str | None = None
    subfolder: str = ""
    gguf: str | None = None
    """The name of a GGUF file that holds configuration, tokenizer and weights."""

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained` that say where to look."""
        options = {"revision": self.revision, "subfolder": self.subfolder}
        return options | ({"gguf_file": self.gguf} if self.gguf else {})

    def file(self, name: str) -> Path | None:
        """The path of a file, fetched from the hub where need be; None where there is none."""
        found = cached_file(
            self.location,
            name,
            revision=self.revision,
            subfolder=self.subfolder,
            _raise_exceptions_for_missing_entries=False,
        )
        return None if found is None else Path(found)

    def json(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file, or None where there is no such file.

        Raises:
            ModelLoadError: the file holds something else.
        """
        path = self.file(name)
        if path is None:
            return None
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelLoadError(f"model {self.name!r}: {name} is not JSON ({error})") from error
        if not isinstance(value, dict):
            kind = "null" if value is None else type(value).__name__
            raise ModelLoadError(f"model {self.name!r}: {name} must hold an object, got {kind}")
        return value


def located(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | os.PathLike[str] = "",
) -> Source:
    """Where a model lies.

    Args:
        name: `builtin:stories`, a folder, a GGUF file, or a name on the hub.
        revision: a branch, tag or commit, of a name on the hub only.
        subfolder: the folder inside that holds the model.

    Raises:
        ModelLoadError: there is no such folder or file, or no model in it.
        TypeError: a name is neither text nor a path.
    """
    name, subfolder = as_text(name, "name_or_path"), as_text(subfolder, "subfolder")
    if name.startswith("builtin:") and name != BUILTIN:
        raise ModelLoadError(f"no model {name!r}: the embedded one is {BUILTIN!r}")
    path = Path(str(files("decoding") / "stories") if name == BUILTIN else name)
    # A name that can only mean a path: it exists, or no hub name looks like that.
    is_path = name.startswith(("./", "../", "~")) or name.count("/") > 1 or path.suffix == ".gguf"
    # Where a name is too long for a file, os.path says that there is none, and pathlib raises.
    if not (os.path.exists(path) or path.is_absolute() or is_path):
        return (
            _cached(name, revision, subfolder)
            if _hub_is_silent()
            else Source(name, name, revision, subfolder)
        )
    if revision is not None:
        raise ModelLoadError(
            f"model {name!r} is not on the hub, so it has no revision, got {revision!r}"
        )
    if os.path.isfile(path):
        return _file(name, path)
    inside, shown = path / subfolder, f"{name}/{subfolder}" if subfolder else name
    if not os.path.isdir(inside):
        kind = "file" if path.suffix == ".gguf" else "folder"
        missing = "is no folder" if os.path.exists(inside) else "does not exist"
        raise ModelLoadError(f"model {kind} {shown!r} {missing}")
    packed = sorted(inside.glob("*.gguf"))
    if packed and not any(inside.glob("*.safetensors*")):
        if len(packed) > 1:
            names = ", ".join(repr(file.name) for file in packed[:3])
            raise ModelLoadError(
                f"model folder {name!r} has {len(packed)} GGUF files ({names}"
                f"{', …' if len(packed) > 3 else ''}); give the path of one"
            )
        return Source(name, str(inside), gguf=packed[0].name)
    if not any((inside / config).is_file() for config in (CONFIG, ADAPTER_CONFIG)):
        raise ModelLoadError(f"model folder {shown!r} has no {CONFIG}")
    return Source(name, str(path), subfolder=subfolder)


def as_text(name: str | os.PathLike[str], argument: str) -> str:
    """A name or path as text; a TypeError that names the argument where it is neither."""
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be a name or a path, got {type(name).__name__}")
    return text


def _file(name: str, path: Path) -> Source:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelLoadError(
                f"model {name!r} is a file, and no GGUF; give the folder that it lies in"
            )
    return Source(name, str(path.parent), gguf=path.name)


def _cached(name: str, revision: str | None, subfolder: str) -> Source:
    """The folder of the hub's cache that holds a model."""
    for config in (PurePosixPath(subfolder, file) for file in (CONFIG, ADAPTER_CONFIG)):
        try:
            found = try_to_load_from_cache(name, str(config), revision=revision)
        except ValueError:  # no name that the hub could have
            break
        if isinstance(found, str):
            folder = Path(found).parents[len(config.parts) - 1]
            return Source(name, str(folder), subfolder=subfolder)
    raise ModelLoadError(
        f"model {name!r} is no local folder and not in the cache, and could not be fetched from "
        f"the hub, which does not answer; use a local folder"
    )


def _hub_is_silent() -> bool:
    """Whether the hub cannot be reached. Asked once: without a network, each file that is looked
    for there costs half a minute."""
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # whatever a network, or the wish for none, raises
        return True
    return False
