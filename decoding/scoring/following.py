"""Settings along a given text: what each makes of rows whose history is the text before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from decoding.rows.distribution import Distribution
from decoding.settings.applying import Applied, Memory, apply_settings
from decoding.settings.policy import Setting

if TYPE_CHECKING:
    from decoding.scoring.blocks import LogitBlock


class Follower:
    """Applies settings, policies included, to the rows of blocks in their order.

    What a setting looks back at is what the model read: a rule that looks at ids sees those of the
    row's window up to there, and one that follows what is drawn begins anew at the first scored
    token of each window.
    """

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.settings = tuple(settings)
        self._windows: object = None
        self._memories: dict[int, list[Memory]] = {}
        self._ends = np.empty(0, np.int64)

    def row(self, block: LogitBlock, row: int) -> list[Applied]:
        """What each setting makes of one row, `(1, vocab)`; rows are asked for in their order."""
        raw = Distribution(block.logits[row : row + 1].detach())
        if not any(settings.looks_back for settings in self.settings):
            return [settings.apply(raw) for settings in self.settings]
        if block.windows is not self._windows:
            self._windows = block.windows
            self._ends = np.cumsum([len(window.targets) for window in block.windows])
            self._memories = {}
        index = int(np.searchsorted(self._ends, block.first + row, side="right"))
        window = block.windows[index]
        after = int(self._ends[index]) - (block.first + row)  # targets from this one on
        read = len(window.inputs) - after + 1
        ids = torch.from_numpy(window.inputs[:read]).to(raw.logits.device).unsqueeze(0)
        memories = self._memories.setdefault(index, [Memory() for _ in self.settings])
        target = block.targets[row : row + 1]
        result = []
        for settings, memory in zip(self.settings, memories, strict=True):
            applied = settings.apply(raw, memory.history(ids))
            memory.observe(applied, target)
            result.append(applied)
        return result

    def logits(self, block: LogitBlock) -> Tensor:
        """Logits of q, `(rows, vocab)`, for a single setting."""
        [settings] = self.settings
        if not settings.looks_back:
            return apply_settings(settings, block.logits)
        rows = [self.row(block, row)[0].final.logits for row in range(len(block.targets))]
        return torch.cat(rows)
