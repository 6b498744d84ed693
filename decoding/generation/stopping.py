"""Where a sequence ends: at the model's EOS, or where a stop string appears."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from decoding.models.detokenizing import text_of


class Finished(StoppingCriteria):  # type: ignore[misc]
    """Stops rows at EOS or a stop string and remembers at which length each one stopped.

    Beam search moves sequences between rows, so each step looks at the ids alone; lengths mean
    nothing there.
    """

    def __init__(
        self,
        end: Tensor,
        stop: list[str],
        tokenizer: PreTrainedTokenizerBase,
        texts_begin: list[int],
    ) -> None:
        self.end = end
        self.stop = stop
        self.tokenizer = tokenizer
        self.texts_begin = texts_begin
        self.steps = 0
        self.ended_at: Tensor | None = None  # (rows), tokens generated; 0 while it goes on
        self.ids: Tensor | None = None  # (rows, seq), all until now

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """`(rows)`, bool: which rows end with their last token."""
        self.steps += 1
        over: Tensor = torch.isin(input_ids[:, -1], self.end)
        if self.stop:
            per_job = len(input_ids) // len(self.texts_begin)
            begins = (begin for begin in self.texts_begin for _ in range(per_job))
            stopped = [
                stops(self.tokenizer, self.stop, ids, begin)
                for ids, begin in zip(input_ids.tolist(), begins, strict=True)
            ]
            over = over | torch.tensor(stopped, device=over.device)
        ended_at = self.ended_at
        if ended_at is None or len(ended_at) != len(over):
            ended_at = torch.zeros_like(over, dtype=torch.long)
        # In this order: wherever Ctrl-C comes in between, no row ends beyond the ids.
        self.ids = input_ids
        self.ended_at = torch.where(over & (ended_at == 0), self.steps, ended_at)
        return over

    def row(self, row: int) -> bool:
        """Whether a row has stopped."""
        return self.ended_at is not None and bool(self.ended_at[row] > 0)

    def lengths(self, generated: int) -> list[int]:
        """Tokens per row, up to and including the one that stopped it."""
        assert self.ended_at is not None
        return [length or generated for length in self.ended_at.tolist()]


def stops(tokenizer: PreTrainedTokenizerBase, stop: list[str], ids: list[int], begin: int) -> bool:
    """Whether a stop string lies in the text from that id on, and not partly before it."""
    if not stop:
        return False
    # All of it is decoded: part of a character, or special tokens, may lie anywhere.
    text = text_of(tokenizer, ids[begin:], ids[:begin])
    return any(one in text for one in stop)
