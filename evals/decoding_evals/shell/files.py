"""Where files go that are finished: whole into their place, or into a pipe or device."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import BinaryIO

import click

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LONGEST_NAME = 255
_MOST_LINKS = 40
"""How many links a path may lead through, as on Linux."""


def check_target(option: str, path: Path, suffixes: Collection[str]) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        click.UsageError: another suffix, or a folder.
        click.ClickException: no such folder, or a link that leads to itself.
    """
    if path.suffix.lower() not in suffixes:
        *most, last = suffixes
        raise click.UsageError(f"{option} takes {', '.join(most)} or {last}, got {str(path)!r}")
    if path.is_dir():
        raise click.UsageError(f"{option} {str(path)!r} is a folder")
    place = Path(os.path.realpath(path))
    if place.is_symlink():  # it leads to itself
        raise click.ClickException(f"cannot write {str(path)!r}: {os.strerror(errno.ELOOP)}")
    if not place.parent.is_dir():
        raise click.ClickException(f"the folder of {str(path)!r} does not exist")


def is_stream(path: Path) -> bool:
    """Whether a path leads to what is written into, not replaced: a pipe, a device, a socket, or a
    file that is open already, as `/dev/stdout` is."""
    try:
        if _descriptor(path) is not None:
            return True
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    except OSError:
        return False


class Target(ExitStack):
    """Where a file goes: links are followed and stay, and a file that is replaced hands on its
    permissions.

    A pipe or a device is opened at once, as a shell does it. Within this context there are
    temporary files; they may be published, and are gone at its end. They are named after the file,
    and begin empty, whatever an earlier process that was killed left there.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.place = Path(os.path.realpath(path))
        """Where the file itself is."""
        self._parts = count()
        self._stream: BinaryIO | None = None
        if is_stream(path):
            number = _descriptor(path)
            opened = os.dup(number) if number is not None else path
            self._stream = self.enter_context(open(opened, "wb"))  # noqa: SIM115

    def temporary(self) -> Path:
        """A new empty file, beside the one that it may become, which nobody else writes meanwhile.

        Raises:
            click.ClickException: another process does.
        """
        number = next(self._parts)
        if self._stream is None:
            path = beside(self.place, f".part{number or ''}")
            self.enter_context(alone(path, self.place)).truncate()
        else:
            import tempfile

            handle, name = tempfile.mkstemp(prefix="decoding.")
            os.close(handle)
            path = Path(name)
        self.callback(path.unlink, missing_ok=True)
        return path

    def publish(self, temporary: Path) -> None:
        """Put a finished temporary file into its place."""
        if self._stream is not None:
            with temporary.open("rb") as finished:
                shutil.copyfileobj(finished, self._stream)
            self._stream.flush()
        else:
            temporary.chmod(_mode(self.place))
            temporary.replace(self.place)


def beside(place: Path, ending: str) -> Path:
    """The path of a file that belongs to another; where the name would be too long, shortened."""
    name = os.fsencode(place.name)
    if len(name) + len(ending) > _LONGEST_NAME:
        digest = blake2b(name, digest_size=8).hexdigest()
        name = name[: _LONGEST_NAME - len(ending) - len(digest) - 1] + f"-{digest}".encode()
        name = name.decode(errors="ignore").encode()
    return place.with_name(os.fsdecode(name) + ending)


def alone(path: Path, place: Path) -> BinaryIO:
    """Open a file for reading and writing, which is made where there is none, and keep other
    processes from doing so until it is closed. Where the system has no such locks, nothing does.

    Args:
        path: the file.
        place: whose it is, for the error.

    Raises:
        click.ClickException: another process has it.
        OSError: it cannot be opened.
    """
    while True:
        file = open(path, "r+b", opener=_made)  # noqa: SIM115
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise click.ClickException(f"{str(place)!r} is being written by another run") from None
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # it was removed before it was locked


def _made(path: str, _: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a file into one line."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(
            f"cannot write {str(path)!r}: {error.strerror or error}"
        ) from error


def _mode(path: Path) -> int:
    """The permissions of a file, or those of a new one."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _descriptor(path: Path) -> int | None:
    """The number of the descriptor of this process that a path leads to, if it leads to one."""
    name = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        match = re.fullmatch(rf"/(?:dev|proc/(?:self|{os.getpid()}))/fd/(\d+)", name)
        if match is not None:
            return int(match[1])
        if not os.path.islink(name):
            break
        name = os.path.normpath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return None
