"""Where the tokens of documents went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Account:
    """Where every token went. BOS is counted apart, every other token in exactly one place."""

    documents: int = 0
    documents_skipped: int = 0
    """Documents of which nothing can be scored, such as empty ones."""
    windows: int = 0
    bos_tokens: int = 0
    tokens: int = 0
    tokens_scored: int = 0
    tokens_context_only: int = 0
    tokens_skipped: int = 0
    """Tokens that no window reads."""

    def add(self, other: Account) -> None:
        """Take in the account of further documents."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def stop(self, scored: int) -> None:
        """Count as skipped what an interruption leaves unscored; `scored` tokens are kept."""
        self.tokens_scored = scored
        self.tokens_skipped = self.tokens - scored - self.tokens_context_only

    def check(self) -> None:
        """Fail, by a RuntimeError, unless the places add up to the tokens that were encoded."""
        placed = self.tokens_scored + self.tokens_context_only + self.tokens_skipped
        if placed != self.tokens:
            raise RuntimeError(
                f"{self.tokens_scored} scored + {self.tokens_context_only} context-only + "
                f"{self.tokens_skipped} skipped tokens are not the {self.tokens} encoded"
            )
