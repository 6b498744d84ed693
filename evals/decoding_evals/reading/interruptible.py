"""Reading that Ctrl-C may end early, with what was scored until then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from decoding.inference.intervals import BlockSums
from decoding.scoring.account import Account
from decoding.scoring.teacher_forcing import TeacherForcing
from decoding_evals.showing.result import Result
from decoding_evals.showing.terminal import counted


@dataclass(frozen=True, kw_only=True)
class ReadResult(Result):
    """A result over all texts, and how they were read."""

    context: int
    stride: int
    bos: str | None
    """The token in front of each document, or None."""
    account: Account
    complete: bool
    """False where it was interrupted: the figures are of what was scored until then."""

    def how(self) -> dict[str, Any]:
        """The last keys of the record."""
        names = ("context", "stride", "bos", "complete")
        return {name: getattr(self, name) for name in names} | asdict(self.account)


class Interruptible:
    """Within it, Ctrl-C ends the reading; before the first token is scored it is not caught.

    Args:
        run: what reads.
        blocks: sums over the tokens that are scored.
        on_progress: is given the number of scored tokens and the mean of what is `counted`.
    """

    complete = True
    """False where it was interrupted."""
    total = 0.0
    """Of what was counted."""

    def __init__(
        self,
        run: TeacherForcing,
        blocks: BlockSums,
        on_progress: Callable[[int, float], None] | None,
    ) -> None:
        self.run = run
        self.blocks = blocks
        self.on_progress = on_progress

    def __enter__(self) -> Interruptible:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is not KeyboardInterrupt or not self.blocks.count:
            return False
        self.complete = False
        self.run.account.stop(self.blocks.count)
        return True

    def counted(self, value: float) -> None:
        """Take in the sum of a figure over the tokens that `blocks` took in."""
        self.total += value
        if self.on_progress is not None:
            self.on_progress(self.blocks.count, self.total / self.blocks.count)

    def how(self) -> dict[str, Any]:
        """The fields of a `ReadResult`.

        Raises:
            ValueError: no token was scored.
        """
        run, account = self.run, self.run.account
        if not self.blocks.count:
            documents = counted(account.documents, "document")
            tokens = counted(account.tokens, "token")
            raise ValueError(f"nothing to score: {documents} with {tokens}")
        return {
            "context": run.context,
            "stride": run.stride,
            "bos": run.bos_token,
            "account": account,
            "complete": self.complete,
        }
