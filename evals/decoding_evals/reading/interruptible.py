"""Reading that Ctrl-C may end early, with what was scored until then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from decoding.inference.intervals import LEAST_BLOCK, BlockSums
from decoding.scoring.account import Account
from decoding.scoring.teacher_forcing import TeacherForcing
from decoding_evals.mapping.units import Unit
from decoding_evals.showing.result import Result
from decoding_evals.showing.terminal import counted

LATER_BLOCK = 2048
"""Length of the first blocks of a unit that is not the first."""


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


@dataclass
class ReadPart:
    """What was scored of a stretch of the input, and how that was read."""

    run: dict[str, Any]
    """`context`, `stride`, `bos` and `full_logits` of it."""
    account: Account
    blocks: BlockSums
    """Sums over the tokens that were scored."""
    total: float
    """Of what is shown as progress."""
    complete: bool

    def counted(self) -> tuple[int, float]:
        """Tokens, and the total."""
        return self.blocks.count, self.total

    def join(self, other: ReadPart) -> None:
        """Append the stretch behind this one."""
        self.run |= {name: value for name, value in other.run.items() if value is not None}
        self.account.add(other.account)
        self.blocks.join(other.blocks)
        self.total += other.total
        self.complete &= other.complete

    def how(self) -> dict[str, Any]:
        """The fields of a `ReadResult`.

        Raises:
            ValueError: no token was scored.
        """
        account = self.account
        if not self.blocks.count:
            documents = counted(account.documents, "document")
            tokens = counted(account.tokens, "token")
            raise ValueError(f"nothing to score: {documents} with {tokens}")
        names = ("context", "stride", "bos")
        how = {name: self.run[name] for name in names}
        return how | {"account": account, "complete": self.complete}


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
        if self.on_progress is not None and self.blocks.count:
            self.on_progress(self.blocks.count, self.total / self.blocks.count)

    def part(self) -> dict[str, Any]:
        """The fields of a `ReadPart`."""
        run = self.run
        how = {"context": run.context, "stride": run.stride, "bos": run.bos_token}
        return {
            "run": how | {"full_logits": run.full_logits},
            "account": run.account,
            "blocks": self.blocks,
            "total": self.total,
            "complete": self.complete,
        }


def blocks_of(unit: Unit) -> BlockSums:
    """What a unit's tokens are summed into: the sums of a first unit may be all that there are."""
    return BlockSums(LATER_BLOCK if unit.first else LEAST_BLOCK)


Stretch = TypeVar("Stretch", bound=ReadPart)


def joined_parts(parts: Iterable[Stretch]) -> Stretch | None:
    """All parts as one, those before Ctrl-C included; None where there is none.

    Raises:
        KeyboardInterrupt: before a token was scored.
    """
    whole: Stretch | None = None
    try:
        for part in parts:
            if whole is None:
                whole = part
            else:
                whole.join(part)
    except KeyboardInterrupt:
        if whole is None or not whole.blocks.count:
            raise
        whole.complete = False
    return whole
