"""Reading that Ctrl-C may end early, with what was scored until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decoding.inference.intervals import BlockSums
    from decoding.scoring.teacher_forcing import Account


class Interruptible:
    """Within it, Ctrl-C ends the reading; before the first token is scored it is not caught.

    Args:
        account: of the tokens that are read.
        blocks: sums over those that are scored.
    """

    complete = True
    """False where it was interrupted."""

    def __init__(self, account: Account, blocks: BlockSums) -> None:
        self.account = account
        self.blocks = blocks

    def __enter__(self) -> Interruptible:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is not KeyboardInterrupt or not self.blocks.count:
            return False
        self.complete = False
        self.account.stop(self.blocks.count)
        return True

    def check_scored(self) -> None:
        """Raise ValueError where no token was scored."""
        if not self.blocks.count:
            raise ValueError(
                f"nothing to score: {self.account.documents} documents with "
                f"{self.account.tokens} tokens"
            )
