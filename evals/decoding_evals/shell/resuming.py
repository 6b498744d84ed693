"""`--output` and `--resume`: a run that was ended goes on from what it had finished.

Beside the file that a run writes stands, until the run is finished, what its steps gave (see
`decoding.passes.journal`). The same command with `--resume` takes these for its own.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from decoding_evals.shell.files import alone, beside, is_stream, writing
from decoding_evals.shell.options import output_options, stacked
from decoding_evals.shell.output import PART, Interrupted, RecordFile, Unfinished
from decoding_evals.showing.lines import note

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding.passes.journal import FileJournal, Journal

# What `record_file` takes.
resumable_options = stacked(
    output_options,
    click.option(
        "--resume",
        is_flag=True,
        help="Go on with a run of the same command that was ended, from what it left beside FILE.",
    ),
)

ENDING = ".unfinished"
GOES_ON = "; --resume goes on from there"
_FREE = {
    "output", "as_json", "resume", "plot", "evaluation", "color", "workers", "address",
}  # fmt: skip
"""Parameters of commands that may be others when a run goes on."""
_CHUNK = 1 << 20
_LOOK = 1 << 12
"""Bytes in the middle of each file of a folder that tell it from others."""
_PARTS = re.compile(PART.replace("{:06}", r"\d+"))


def record_file(options: dict[str, Any]) -> AbstractContextManager[RecordFile | None]:
    """The file of `--output`; None where results go to standard output, which has to be open.

    Args:
        options: of the command: `output`, and `resume` where it has that.

    Raises:
        click.ClickException: neither can be written.
        click.UsageError: there is no file to resume.
        click.exceptions.Exit: there is nothing left to do.
    """
    path, resume = options["output"], options.get("resume", False)
    if resume and (path is None or is_stream(path)):
        raise click.UsageError("--resume needs --output FILE")
    if path is not None and "resume" in options:
        return ResumableFile(path, resume=resume)
    if path is not None:
        return RecordFile(path, page=True)
    if not sys.stdout.writable():
        raise click.ClickException("standard output is closed")
    return nullcontext()


def begun(file: RecordFile | None, *models: LanguageModel | Path) -> Journal:
    """What keeps the steps of the present command, once its models are loaded.

    Args:
        file: what the command writes.
        *models: what it runs; of those that run elsewhere, where they lie.

    Raises:
        click.ClickException: the journal is of another command, model or input.
    """
    from decoding.passes.journal import NO_JOURNAL

    return file.begun(*models) if isinstance(file, ResumableFile) else NO_JOURNAL


def settled_seed(file: RecordFile | None, given: int | None) -> int:
    """The seed of a run that has begun: the one that is given, or picked, also by a run that this
    one goes on with."""
    from decoding.sampling.seeds import chosen_seed

    return file.seed(given) if isinstance(file, ResumableFile) else chosen_seed(given)


class ResumableFile(RecordFile):
    """A `RecordFile` with a journal beside it until all records are written.

    Args:
        path: see `RecordFile`.
        resume: go on with what the journal holds; else it begins anew.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self._resume = resume
        super().__init__(path, page=True)
        self._left: BinaryIO | None = None
        self._journal: FileJournal | None = None
        self._facts = 0  # steps that are no work
        if is_stream(path):
            return
        self._place = Path(os.path.realpath(path))
        self._beside = beside(self._place, ENDING)
        try:
            self._open()
        except BaseException:
            self.target.close()
            raise

    def _open(self) -> None:
        found = self._beside.exists()
        self._goes_on = self._resume and found
        if self._resume and not found and self._is_written():
            note(f"{str(self.path)!r} is finished: nothing is left to do")
            raise click.exceptions.Exit(0)
        with writing(self.path):
            self._left = alone(self._beside, self.path)
        if found and not self._resume:
            note(f"{str(self._beside)!r}, left by a run that was ended, is replaced")
            self._left.truncate()
        for left in self._place.glob("*.part") if self.is_folder else ():
            if left != self.spool:
                left.unlink()

    def _is_own(self, name: str) -> bool:
        """Whether a run that was ended left it, with which this one goes on."""
        return name.endswith(".part") or (self._resume and bool(_PARTS.fullmatch(name)))

    def _is_written(self) -> bool:
        """Whether there is a result."""
        if self.is_folder:
            return any(map(_PARTS.fullmatch, os.listdir(self._place)))
        return self._place.exists()

    def begun(self, *models: LanguageModel | Path) -> Journal:
        """See `begun`."""
        from decoding.passes.journal import NO_JOURNAL
        from decoding_evals.shell.kept import Kept

        if self._left is None:
            return NO_JOURNAL
        context = click.get_current_context()
        now = {"command": context.command.name, **dict(_arguments(context.params))}
        now["weights"] = [
            _held(model) if isinstance(model, Path) else _weights(model) for model in models
        ]
        with writing(self.path):
            try:
                self._journal = Kept(self._left, self.path)
                then = self._journal.step((), lambda: now)
                self._facts += 1
            except ValueError as error:
                raise click.ClickException(str(error)) from None
        for name in now | then:
            if now.get(name) != then.get(name):
                raise click.ClickException(
                    f"--resume: {str(self.path)!r} was begun with {_said(name, then.get(name))}, "
                    f"and this is {_said(name, now.get(name))}"
                )
        return self._journal

    def seed(self, given: int | None) -> int:
        """See `settled_seed`."""
        from decoding.sampling.seeds import chosen_seed

        if self._journal is None:
            return chosen_seed(given)
        self._facts += 1
        return self._journal.step(("seed",), lambda: chosen_seed(given))

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        finished = False
        try:
            super().__exit__(kind, *rest)
            finished = kind is None
        finally:
            if self._left is not None:
                try:
                    self._leave(finished, rest[0] if rest else None)
                finally:
                    # Closing flushes, which on a full disk fails once more.
                    with suppress(OSError):
                        self._left.close()

    def _leave(self, finished: bool, error: BaseException | None) -> None:
        """Keep the journal where something is left to do and something is done.

        Raises:
            Interrupted: on Ctrl-C before there was a result.
        """
        journal = self._journal
        begun = journal is not None and journal.recalled + journal.computed > self._facts
        if finished or not (begun or self._goes_on):
            self._beside.unlink(missing_ok=True)
            return
        if journal is not None:
            with suppress(OSError):
                journal.sync()
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted("there is no result yet")
            error.behind = GOES_ON
            raise error from None
        if isinstance(error, Unfinished):
            error.behind = GOES_ON


def _arguments(params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parameters of a command that its results depend on; files by what they hold."""
    for name, value in sorted(params.items()):
        if name in _FREE:
            continue
        values = value if isinstance(value, tuple) else (value,)
        yield name, [_held(one) if isinstance(one, Path) else _plain(one) for one in values]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else repr(value)


def _held(path: Path) -> tuple[str, str]:
    """A file or folder, and what tells its content from another."""
    digest = blake2b(digest_size=16)
    if path.is_file():
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    elif path.is_dir():
        for one in sorted(filter(Path.is_file, path.rglob("*"))):
            size = one.stat().st_size
            digest.update(f"{one.relative_to(path)} {size}\n".encode())
            with one.open("rb") as file:
                file.seek(size // 2)
                digest.update(file.read(_LOOK))
    return str(path), digest.hexdigest()


def _weights(language_model: LanguageModel) -> tuple[str, str]:
    """A model, and what tells its weights from others: a few of each parameter."""
    import torch

    digest = blake2b(repr(language_model.model.config.to_dict()).encode(), digest_size=16)
    with torch.inference_mode():
        for name, values in language_model.model.named_parameters():
            digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
            if values.device.type != "meta":  # on a disk
                some = values.flatten()[:: max(1, values.numel() // 16)]
                digest.update(some.float().cpu().numpy().tobytes())
    return language_model.name, digest.hexdigest()


def _said(name: str, value: Any) -> str:
    """A fact of a run in words."""
    if name == "command":
        return f"the command {value!r}"
    if name == "weights":
        return "other weights"
    values = value if isinstance(value, list) else [value]
    if any(isinstance(one, tuple) for one in values):
        return f"other content of {values[0][0]!r}"
    return f"{name}={', '.join(map(str, values))}"
