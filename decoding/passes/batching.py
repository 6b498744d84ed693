"""Which rows may run together, so that what a model says of one does not depend on the others.

Most models leave padding out and count positions from a row's first token. Some ignore the mask
(RWKV), some count the padding (decoders of encoder-decoder models), and some choose their rotary
factors by the longest row (longrope). A short probe, once for each model, finds out the first two;
the last is read from the configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from decoding.models.faults import first_line
from decoding.passes.probing import WRONG, distance, probe_ids, rounding

WIDTH, SPARED = 12, 4  # tokens of the probe, and positions left for steps behind them

Rows = Literal["padded", "equal", "single", "none"]
Row = TypeVar("Row")
Key = Callable[[int], Hashable]
# Ids and mask, `(rows, seq)`, to the last row's logits at its own tokens, or behind them.
Pass = Callable[[Tensor, Tensor], Tensor]


class Together(NamedTuple):
    """Which rows of a model may share a batch."""

    rows: Rows
    """Rows of any lengths; of one length; each alone; or not even that: a row in `model.generate`
    is not what it is in a whole pass."""
    limit: int | None
    """A row of more positions changes how those beside it are read; None: there is no such."""
    reason: str
    """Why not all rows may."""

    def key(self, length: int, growth: int = 0) -> Hashable:
        """Rows with equal keys may run together; a row whose key is None runs alone.

        Args:
            length: tokens of the row.
            growth: tokens that it may get.
        """
        if self.rows in ("single", "none"):
            return None
        grows_beyond = self.limit is not None and length + growth > self.limit
        return length if grows_beyond or self.rows == "equal" else "any length"


def batches(
    rows: Sequence[Row],
    size: int,
    length: Callable[[Row], int],
    key: Callable[[], Key],
    *,
    tokens: float = math.inf,
    before: int = 0,
) -> Iterator[list[Row]]:
    """Cut rows, which are sorted by length, into batches of those that may run together.

    Args:
        rows: in the order of their lengths.
        size: the most rows of a batch.
        length: of a row, tokens.
        key: gives the key of a length, as in `Together`; asked only where it matters.
        tokens: the most that a batch reads, padding counted, unless a single row has more.
        before: tokens at the beginning of each row that are not read again.
    """
    if size == 1 or len(rows) == 1:
        yield from ([row] for row in rows)
        return
    key_of = key()
    for shared, alike in groupby(rows, lambda row: key_of(length(row))):
        batch: list[Row] = []
        longest = 0
        for row in alike:
            longest = max(longest, length(row) - before)
            full = len(batch) == (1 if shared is None else size)
            if batch and (full or longest * (len(batch) + 1) > tokens):
                yield batch
                batch, longest = [], length(row) - before
            batch.append(row)
        yield batch


# Of each model, by the side of the padding and its id.
_found: WeakKeyDictionary[PreTrainedModel, dict[tuple[str, int], Together]] = WeakKeyDictionary()


def scored_together(model: PreTrainedModel, run: Pass) -> Together:
    """Which rows may be scored together, padded on the right.

    Args:
        model: a causal language model in evaluation mode.
        run: the pass that scores; gives the last row's logits, `(seq, vocab)`.
    """

    def last(ids: Tensor, mask: Tensor) -> Tensor:
        return run(ids, mask)[: int(mask[-1].sum())]

    return compared_once(
        model, "right", 0, last, lambda ids: last(ids[None], torch.ones_like(ids)[None])
    )


def compared_once(
    model: PreTrainedModel,
    side: Literal["left", "right"],
    pad: int,
    run: Pass,
    alone: Callable[[Tensor], Tensor],
) -> Together:
    """Which rows may run together, found by comparing a short row in company with itself alone.

    Args:
        model: what runs; each is asked once about each side and padding.
        side: where shorter rows are padded.
        pad: the id of padding.
        run: a pass over rows, `(rows, seq)` ids and mask; gives the last row's logits.
        alone: what they should be, of that row's ids, `(seq,)`.
    """
    known = _found.setdefault(model, {})
    if (side, pad) not in known:
        with torch.inference_mode():
            rows, reason = _company(model, side, pad, run, alone)
        limit = rotary_limit(model)
        if rows == "padded" and limit is not None:
            reason = f"its rotary factors change where a row has more than {limit} positions"
        known[side, pad] = Together(rows, limit, reason)
    return known[side, pad]


def _company(
    model: PreTrainedModel, side: str, pad: int, run: Pass, alone: Callable[[Tensor], Tensor]
) -> tuple[Rows, str]:
    """In which company a row is what it is alone; and why not in all."""
    ids = probe_ids(model, WIDTH + SPARED)[:-SPARED]
    if len(ids) < 2:
        return "single", f"{type(model).__name__} has too few positions to try it with several rows"
    start = getattr(model.generation_config, "decoder_start_token_id", None)
    if model.config.is_encoder_decoder and start is not None:
        ids[0] = start  # else `model.generate` would put it there
    short, width = ids[: max(1, len(ids) // 2 - 1)], len(ids)

    def batch(*rows: Tensor, size: int) -> Tensor:
        def padded(of: Tensor, value: int) -> Tensor:
            fill = (size - len(of), 0) if side == "left" else (0, size - len(of))
            return torch.nn.functional.pad(of, fill, value=value)

        return run(
            torch.stack([padded(row, pad) for row in rows]),
            torch.stack([padded(torch.ones_like(row), 0) for row in rows]),
        )

    want = alone(short)
    limit = rounding(want, model.dtype)
    companies: list[tuple[Rows, Callable[[], Tensor], str]] = [
        ("padded", lambda: batch(ids, short, size=width), "does not leave padding out"),
        (
            "equal",
            lambda: batch(ids.flip(0)[: len(short)], short, size=len(short)),
            "mixes the rows of a batch",
        ),
        (
            "single",
            lambda: batch(short, size=len(short)),
            "reads text otherwise in steps than in one pass",
        ),
    ]
    gap, reason = math.inf, ""
    for rows, company, otherwise in companies:
        try:
            gap = float(distance(company(), want).max())
            off = f"logits off by {gap:.2g}"
        except Exception as error:  # whatever a model makes of padding, or of several rows
            gap = math.inf
            off = first_line(error)
        if gap <= limit:
            return rows, reason
        reason = f"{type(model).__name__} {otherwise} ({off})"
    return "none" if gap > WRONG * limit else "single", reason


def rotary_limit(model: PreTrainedModel) -> int | None:
    """The positions beyond which a model's rotary factors follow the longest row, or None."""
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    limits = []
    for one in (given, *(of for of in given.values() if isinstance(of, dict))):
        kind = str(one.get("rope_type", one.get("type")))
        if kind in ("longrope", "su"):
            limits.append(
                getattr(config, "original_max_position_embeddings", None)
                or one.get("original_max_position_embeddings")
            )
        elif "dynamic" in kind:
            limits.append(config.max_position_embeddings)
    return min((limit for limit in limits if limit), default=None)
