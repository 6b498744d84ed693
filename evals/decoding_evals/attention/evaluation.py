"""Attention: where the heads of a model look in a text, and how broadly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from decoding.models.devices import input_device
from decoding.models.limits import check_ids
from decoding.models.loading import LanguageModel
from decoding.passes.attention import LayerAttention, attention_implementation, head_entropies
from decoding.passes.journal import NO_JOURNAL, Journal
from decoding.scoring.teacher_forcing import Document, TeacherForcing, as_document, listed
from decoding.scoring.windows import Windows
from decoding.texts.encoding import encode
from decoding_evals.attention.figure import plot_attention
from decoding_evals.attention.rows import HeadRows
from decoding_evals.attention.view import VIEW
from decoding_evals.reading.scanned import joined, whole
from decoding_evals.showing.result import Floats, TextResult, by_key, finite
from decoding_evals.showing.terminal import counted

# At 100 visible keys this is 0.23 nats, as of a head with 97 % of its weight on one of two keys.
COLLAPSED = 0.05


@dataclass(frozen=True)
class DocumentAttention(TextResult):
    """The heads' attention over one document.

    Means are over the tokens that have a choice: those that see at least two keys, or, without the
    sink, at least two other keys. They are NaN where no token has one.
    """

    view = VIEW
    _picture = staticmethod(plot_attention)

    model: str
    implementation: str
    """The attention that the model was set to; where it is not `eager`, it was for this call."""
    texts: tuple[str, ...]
    """The text of each token."""
    windows: int
    positions: int
    """What the model read: tokens, and BOS where there is one."""
    entropy_nats: list[Floats]
    """Mean entropy of each layer's heads, `(heads,)`, in [0, ln context]."""
    normalized_entropy: list[Floats]
    """Mean of entropy / ln(visible keys), in [0, 1]."""
    without_sink_entropy_nats: list[Floats]
    """The same without the weight on the window's first token, the rest normalised to 1."""
    without_sink_normalized_entropy: list[Floats]
    sink_weight: list[Floats]
    """Mean share of the weight on the window's first token, in [0, 1]."""
    excluded_positions: int
    """Positions that see fewer than two keys."""
    excluded_positions_without_sink: int
    """Positions that see fewer than two keys beside the first token."""
    token_entropy_nats: Floats
    """Mean over layers and heads, `(tokens,)`; NaN for a token that sees itself alone."""
    token_normalized_entropy: Floats
    token_sink_weight: Floats
    page: dict[str, Any] | None = None
    """What its page needs, where that was asked for: `front`, the names of what stands before the
    tokens, and the rows of the heads; see `decoding_evals.attention.rows`."""

    def collapsed_heads(self) -> list[tuple[int, int]]:
        """Layer and head, from 0, where the mean normalised entropy is below `COLLAPSED`."""
        return [
            (layer, head)
            for layer, heads in enumerate(self.normalized_entropy)
            for head, value in enumerate(heads)
            if value < COLLAPSED
        ]

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        collapsed = counted(len(self.collapsed_heads()), "collapsed head")
        return repr(self.model), counted(len(self.texts), "token"), collapsed

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        measured = sum(int((~np.isnan(heads)).sum()) for heads in self.normalized_entropy)
        collapsed = self.collapsed_heads()
        names = ("entropy_nats", "normalized_entropy", "sink_weight")
        tokens = {name: finite(getattr(self, f"token_{name}")) for name in names}
        counts = (
            "windows", "positions", "excluded_positions", "excluded_positions_without_sink",
        )  # fmt: skip
        return {
            **self.heading(),
            "model": self.model,
            "layers": len(self.normalized_entropy),
            "heads": max(map(len, self.normalized_entropy), default=0),
            "tokens": len(self.texts),
            **{name: getattr(self, name) for name in counts},
            **{name: finite(getattr(self, name)) for name in _Sums.NAMES},
            "collapse_threshold": COLLAPSED,
            "collapsed_share": len(collapsed) / measured if measured else None,
            "collapsed_heads": [list(head) for head in collapsed],
            "notes": [
                f"the model was switched to eager attention for this, and back: its own, "
                f"{self.implementation!r}, gives the same up to rounding, but no weights"
            ]
            if self.implementation != "eager"
            else [],
            "per_token": by_key({"text": self.texts, **tokens}),
            **({} if self.page is None else {"page": self.page}),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per head."""
        record = self.record()
        places = [
            {"layer": layer, "head": head}
            for layer, heads in enumerate(self.normalized_entropy)
            for head in range(len(heads))
        ]
        return [
            place | {name: record[name][place["layer"]][place["head"]] for name in _Sums.NAMES}
            for place in places
        ]


def attention(
    language_model: LanguageModel,
    texts: Iterable[str],
    *,
    windows: Windows = Windows(),
    page: bool = False,
    journal: Journal = NO_JOURNAL,
    on_progress: Callable[[int, float], None] | None = None,
) -> Iterator[DocumentAttention]:
    """Entropy of every head's attention over every document; see `decoding.passes.attention`.

    A long document is read in consecutive windows of `context` tokens, and a token sees only its
    own window. One window runs at a time, and only one layer's attention map is in memory.

    Args:
        language_model: from `load_model`.
        texts: taken lazily.
        windows: how the texts are read; `stride` and `batch_size` play no part.
        page: put the heads' rows into the records, for a page.
        journal: keeps what is measured of each document.
        on_progress: is given the number of tokens and their mean entropy so far, nats.

    Returns:
        One result per document, in their order.

    Raises:
        ValueError: an argument is outside its range, or the model's attention does not return
            weights.
    """
    if windows.stride is not None:
        raise ValueError("stride cannot be chosen: windows of attention follow each other")
    if windows.bos == "every":
        raise ValueError("bos must be auto, always or never for attention, got 'every'")
    forcing = TeacherForcing(language_model, windows)
    tokens = 0
    total = 0.0

    def count(entropies: Floats) -> None:
        nonlocal tokens, total
        tokens += len(entropies)
        total += float(np.nansum(entropies))
        if on_progress is not None:
            on_progress(tokens, total / tokens)

    for index, document in enumerate(listed(texts)):
        if not isinstance(document, str | Document) or as_document(document).prompt is not None:
            raise ValueError("attention reads texts, without prompts and not as token ids")
        text = str(whole(document).text)
        measure = partial(_measured, language_model, forcing, index, text, page, count)
        yield journal.step((text,), measure)


def _measured(
    language_model: LanguageModel,
    forcing: TeacherForcing,
    index: int,
    text: str,
    page: bool,
    count: Callable[[Floats], None],
) -> DocumentAttention:
    """What one document gives; `count` is told the entropies of each window's tokens."""
    model, length = language_model.model, forcing.context
    ids, ends, _ = joined(encode(language_model.tokenizer, text))
    needed = len(ids) and not forcing.begins_with_front(ids)
    front = forcing.front if needed else []
    sequence = np.concatenate([np.array(front, dtype=np.int64), ids])
    check_ids(model, language_model.tokenizer, sequence, f"document {index + 1}")
    sums = _Sums()
    rows = HeadRows(_heads(model)) if page else None
    for begin in range(0, len(sequence), length):
        window = torch.from_numpy(sequence[begin : begin + length]).to(input_device(model))
        on_layer = None if rows is None else rows.add
        sums.add(head_entropies(model, window.unsqueeze(0), on_layer=on_layer))
        if rows is not None:
            rows.end_window(len(window))
        count(sums.rows[-1][0])
    names = [str(name) for name in language_model.tokenizer.convert_ids_to_tokens(front)]
    columns = np.concatenate([np.empty((4, 0)), *sums.rows], axis=1)
    entropy, normalized, without, weight = columns
    return DocumentAttention(
        index=index,
        model=language_model.name,
        implementation=attention_implementation(model),
        texts=tuple(text[begin:end] for begin, end in pairwise([0, *ends])),
        windows=len(sums.rows),
        positions=len(sequence),
        **sums.means(),
        excluded_positions=int(np.isnan(normalized).sum()),
        excluded_positions_without_sink=int(np.isnan(without).sum()),
        token_entropy_nats=entropy[len(front) :],
        token_normalized_entropy=normalized[len(front) :],
        token_sink_weight=weight[len(front) :],
        page=None if rows is None else {"front": names, **rows.record()},
    )


def _heads(model: PreTrainedModel) -> int:
    """How many heads its layers have together, as far as its configuration says."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 1)
    return int(getattr(config, "num_hidden_layers", 1)) * int(
        max(heads) if isinstance(heads, list) else heads
    )


class _Sums:
    """Sums over the positions for each head, means over the heads for each position."""

    NAMES = (
        "entropy_nats",
        "normalized_entropy",
        "without_sink_entropy_nats",
        "without_sink_normalized_entropy",
        "sink_weight",
    )

    def __init__(self) -> None:
        self.rows: list[Floats] = []
        """Of each window `(4, positions)`: both entropies, that without the sink, sink weight."""
        self.heads: list[Floats] = []
        """Of each layer `(2, measures, heads)`: sums, and how many they are of."""

    def add(self, layers: list[LayerAttention]) -> None:
        """Add a window."""
        # Of each layer (measures, heads, positions).
        values = [torch.cat(tuple(layer)).double().cpu().numpy() for layer in layers]
        for measures in values:
            # Where there is no choice, all of the weight on the first token means nothing.
            measures[4][np.isnan(measures[1])] = np.nan
        new = [np.stack([np.nansum(v, -1), (~np.isnan(v)).sum(-1)]) for v in values]
        before = self.heads or [np.zeros_like(sums) for sums in new]
        self.heads = [old + more for old, more in zip(before, new, strict=True)]
        every = np.concatenate(values, axis=1)[[0, 1, 3, 4]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing are NaN
            self.rows.append(np.nanmean(every, axis=1))

    def means(self) -> dict[str, Any]:
        """The mean of each measure for each layer's heads; NaN where nothing was measured."""
        with np.errstate(invalid="ignore"):
            layers = [sums / counts for sums, counts in self.heads]
        return {name: [layer[i] for layer in layers] for i, name in enumerate(self.NAMES)}
