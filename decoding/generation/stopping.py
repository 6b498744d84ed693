"""Where a sequence ends: at the model's EOS, or where a stop string appears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from decoding.texts.chats import control_pattern
from decoding.texts.detokenizing import text_of

_MARGIN = 16
"""More tokens than a character has, and more characters than one that is incomplete is shown as."""


class Finished(StoppingCriteria):  # type: ignore[misc]
    """Stops rows at EOS or a stop string and remembers at which length each one stopped.

    Beam search moves sequences between rows, so each step looks at the ids alone; lengths mean
    nothing there.
    """

    def __init__(
        self,
        end: Tensor,
        stop: StopStrings | None,
        texts_begin: list[int],
    ) -> None:
        self.end = end
        self.stop = stop
        self.texts_begin = texts_begin
        self.steps = 0
        self.ended_at: Tensor | None = None  # (rows), tokens generated; 0 while it goes on
        self.ids: Tensor | None = None  # (rows, seq), all until now

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """`(rows)`, bool: which rows end with their last token."""
        self.steps += 1
        over: Tensor = torch.isin(input_ids[:, -1], self.end)
        if self.stop is not None:
            per_job = len(input_ids) // len(self.texts_begin)
            begins = (begin for begin in self.texts_begin for _ in range(per_job))
            stopped = [
                self.stop.end(ids, begin)
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


class StopStrings:
    """Finds texts that end a sequence.

    A stop string that spells a special token is looked for in the text with special tokens spelled
    out, any other in the text without them.

    Args:
        tokenizer: of the model.
        strings: none of them empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        controls = control_pattern(tokenizer)
        self._strings: dict[bool, list[str]] = {False: [], True: []}
        for one in strings:
            self._strings[controls is not None and bool(controls.search(one))].append(one)
        self._longest = max(map(len, strings), default=0)

    def end(self, ids: list[int], begin: int) -> bool:
        """Whether the last token completes one in the text from id `begin` on."""
        return any(
            strings and any(one in text for one in strings)
            for special, strings in self._strings.items()
            if strings and (text := self._tail(ids, begin, special))
        )

    def _tail(self, ids: list[int], begin: int, special: bool) -> str:
        """The end of the text, long enough to hold whatever the last token completes."""
        size = self._longest + _MARGIN
        while True:
            start = max(begin, len(ids) - size)
            context = ids[max(0, start - _MARGIN) : start]
            before, text = (
                text_of(self._tokenizer, some, context, special=special)
                for some in (ids[start:-1], ids[start:])
            )
            # Tokens may have no text: special ones, or parts of a character.
            if start == begin or len(before) >= self._longest + _MARGIN:
                return text
            size *= 2
