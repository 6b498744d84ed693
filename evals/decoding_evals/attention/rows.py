"""Rows of attention for a page: the largest weights of each query, head by head."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

KEPT = 12
"""Weights of a row, the largest ones."""
MOST_BYTES = 4 << 20
"""Of all rows together; later queries have none."""
MOST_QUERIES = 1 << 16
STEPS = (1 << 16) - 1
"""Weights are stored as so many parts of 1."""


class HeadRows:
    """Keeps the largest weights of the first queries of a text, window by window.

    Args:
        heads: in all layers together, at least 1; it says how many queries there is room for.
    """

    def __init__(self, heads: int) -> None:
        self.room = max(1, min(MOST_QUERIES, MOST_BYTES // (4 * KEPT * heads)))
        self.read = 0
        """Queries of earlier windows."""
        self._layers: list[list[NDArray[np.uint16]]] = []
        """Of each layer, window by window `(2, heads, queries, KEPT)`: keys, and weights."""
        self._at = 0

    def add(self, weights: Tensor) -> None:
        """Take a layer's weights in a window, `(1, heads, query, key)`; layers come in order."""
        rows = weights[0, :, : max(0, self.room - self.read)].cpu().numpy()
        order = np.argsort(-rows, axis=-1, kind="stable")[..., :KEPT]
        found = np.zeros((2, *rows.shape[:2], KEPT), dtype=np.uint16)
        count = order.shape[-1]
        found[0, ..., :count] = order + self.read
        found[1, ..., :count] = np.rint(np.take_along_axis(rows, order, -1) * STEPS)
        if self._at == len(self._layers):
            self._layers.append([])
        self._layers[self._at].append(found)
        self._at += 1

    def end_window(self, queries: int) -> None:
        """Go on to the next window, which sees nothing of this one."""
        self.read, self._at = self.read + queries, 0

    def record(self) -> dict[str, Any]:
        """What the page needs: `kept`, `queries` that have rows, `heads` of each layer, and of each
        layer, head and query `keys` (positions in the text) and `weights` (parts of `STEPS`), as
        16-bit numbers in base64, low bytes first."""
        layers = [np.concatenate(windows, axis=2) for windows in self._layers]
        keys, weights = (
            base64.b64encode(b"".join(layer[part].astype("<u2").tobytes() for layer in layers))
            for part in (0, 1)
        )
        return {
            "kept": KEPT,
            "queries": layers[0].shape[2] if layers else 0,
            "heads": [layer.shape[1] for layer in layers],
            "keys": keys.decode(),
            "weights": weights.decode(),
        }
