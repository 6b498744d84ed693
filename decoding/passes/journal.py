"""What the steps of a run gave, kept in a file, so that a run that was ended goes on from there.

A run is a series of steps that its arguments and input determine: batches that a model reads or
writes. What a step gave is written behind those before it. When the run is begun again, the same
steps come in the same order, and those that are in the file are not computed.

The file is a line that names its format, then records: length and CRC-32 of what follows, 4 bytes
each, and a pickle. It is read with a pickle reader that makes plain values, arrays, and the data
classes of this project, and calls nothing else. A record that was cut off by the end is left out.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import os
import pickle
import struct
import time
import zlib
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, BinaryIO, TypeVar

from decoding.passes.caches import Reader
from decoding.rules.rule import Rule

Value = TypeVar("Value")

FORMAT = b"decoding journal 1\n"
SYNC_SECONDS = 2.0
"""What is older than this when a step ends is on the disk."""
OWN = ("decoding", "decoding_evals")
_HEAD = struct.Struct("<II")
_ARRAYS = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "slice"),
    ("builtins", "range"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    ("array", "array"),
    ("array", "_array_reconstructor"),
}


class OtherInput(ValueError):
    """What a step is to be made of is not what the recorded step was made of."""


class Journal:
    """Computes the steps of a run; this one keeps nothing."""

    def step(self, of: Iterable[object], compute: Callable[[], Value], *readers: Reader) -> Value:
        """What a step gives.

        Args:
            of: what it is made of; its `repr` or bytes tell it from other steps.
            compute: makes it: plain values, arrays, and data classes of this project.
            readers: what it may change besides.
        """
        return compute()

    def recalls(self) -> bool:
        """Whether the next step is known."""
        return False


NO_JOURNAL = Journal()


def all_of(items: Iterable[Value], rescued: list[Value]) -> list[Value]:
    """All items, for a step; where an error or Ctrl-C ends them, `rescued` gets those before."""
    found: list[Value] = []
    try:
        found.extend(items)
    except BaseException:
        rescued += found
        raise
    return found


class FileJournal(Journal):
    """Computes the steps that a file does not hold, and adds them to it.

    Args:
        file: open for reading and writing in binary; empty, or as an earlier run left it.

    Raises:
        ValueError: it is no journal.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.recalled = 0
        """Steps that the file held."""
        self.computed = 0
        """Steps that it did not."""
        self._synced = time.monotonic()
        file.seek(0)
        begun = file.read(len(FORMAT))
        self.fresh = not FORMAT.startswith(begun) or len(begun) < len(FORMAT)
        """Whether it holds nothing yet."""
        if not FORMAT.startswith(begun):
            raise self._foreign()
        if self.fresh:
            file.seek(0)
            file.truncate()
            file.write(FORMAT)
        self._recalling = not self.fresh
        self._held: Any = None

    def step(self, of: Iterable[object], compute: Callable[[], Value], *readers: Reader) -> Value:
        """What a step gives, from the file where that holds it.

        Raises:
            OtherInput: the file holds a step that was made of something else.
            OSError: it cannot be written.
        """
        name = _name(of)
        if self.recalls():
            (named, value, states), self._held = self._held, None
            if named != name:
                raise OtherInput("the input is not that of the run that was begun")
            for reader, state in zip(readers, states, strict=True):
                reader.recall(state)
            self.recalled += 1
            return value  # type: ignore[no-any-return]
        value = compute()
        self.keep((name, value, tuple(reader.state() for reader in readers)))
        self.computed += 1
        return value

    def recalls(self) -> bool:
        """Whether the file holds the next step."""
        if self._held is None:
            self._held = self._next()
        return self._held is not None

    def sync(self) -> None:
        """Have all of it on the disk."""
        os.fsync(self.file.fileno())
        self._synced = time.monotonic()

    def _next(self) -> Any:
        """The next record; None behind the last whole one, where what is left is cut off."""
        if not self._recalling:
            return None
        place = self.file.tell()
        head = self.file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            size, checksum = _HEAD.unpack(head)
            record = self.file.read(size)
            if len(record) == size and zlib.crc32(record) == checksum:
                return self._read(record)
        self._recalling = False
        self.file.seek(place)
        self.file.truncate()
        return None

    def _read(self, record: bytes) -> tuple[bytes, Any, tuple[Any, ...]]:
        """Name, value and states of a step."""
        try:
            name, value, states = _Reading(io.BytesIO(record)).load()
        except Exception as error:  # a pickle of somebody else raises whatever it likes
            raise self._foreign() from error
        if not isinstance(name, bytes) or not isinstance(states, tuple):
            raise self._foreign()
        return name, value, states

    def _foreign(self) -> ValueError:
        return ValueError(f"{self.file.name!r} was not left by an unfinished run")

    def keep(self, record: object) -> None:
        """Write a record behind the others."""
        data = pickle.dumps(record, protocol=5)
        # In one call, so that nothing but the end of the machine cuts it.
        self.file.write(_HEAD.pack(len(data), zlib.crc32(data)) + data)
        self.file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()


def _name(of: Iterable[object]) -> bytes:
    """Tells what a step is made of."""
    digest = blake2b(digest_size=16)
    for part in of:
        data = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


class _Reading(pickle.Unpickler):
    """Reads records, and makes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A class or function that a record may name."""
        if (module, name) in _ARRAYS:
            return super().find_class(module, name)
        if module.partition(".")[0] in OWN and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and _is_data(found):
                return found
        raise pickle.UnpicklingError(f"a journal may not name {module}.{name}")


def _is_data(kind: type) -> bool:
    """Whether making one of a class does nothing else."""
    return dataclasses.is_dataclass(kind) or hasattr(kind, "_fields") or issubclass(kind, Rule)
