"""Context gain: how much more likely a context makes an answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from decoding.information.statistics import row_statistics
from decoding.models.limits import positions
from decoding.models.loading import LanguageModel, check_language_model
from decoding.scoring.answers import EncodedDocument, answered
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding.texts.chats import Chat, Prompt, last_of, worded
from decoding.texts.detokenizing import token_texts
from decoding.texts.prompts import encode_prompt
from decoding_evals.showing.result import Floats, by_key, finite


class ContextRow(NamedTuple):
    """A question, a context that may help, and an answer."""

    prompt: Prompt
    context: str
    answer: str


@dataclass(frozen=True)
class ContextGain:
    """How much more likely a context makes an answer; columns have one row a token of it."""

    row: ContextRow
    ids: tuple[int, ...]
    texts: tuple[str, ...]
    log_prob_nats: Floats
    """log p(token | prompt), <= 0."""
    context_log_prob_nats: Floats
    """log p(token | context, prompt), <= 0."""

    @property
    def gain_nats(self) -> Floats:
        """log p(token | context, prompt) - log p(token | prompt); negative where the context
        misleads, NaN where the token is impossible both ways."""
        with np.errstate(invalid="ignore"):
            return self.context_log_prob_nats - self.log_prob_nats

    def record(self) -> dict[str, Any]:
        """Totals, and one object per token, ready for JSON; what is not finite is None."""
        names = ("log_prob_nats", "context_log_prob_nats", "gain_nats")
        columns = {name: getattr(self, name) for name in names}
        figures = {name: finite(column) for name, column in columns.items()}
        return {
            "context": self.row.context,
            "answer": self.row.answer,
            **{name: finite(column.sum()) for name, column in columns.items()},
            "tokens": by_key({"id": self.ids, "text": self.texts, **figures}),
        }


def context_gain(
    language_model: LanguageModel,
    rows: Iterable[ContextRow],
    *,
    batch_size: int = 8,
    chat: bool | Chat = False,
) -> Iterator[ContextGain]:
    """How much a context before a prompt raises the log-probability of an answer.

    `log p(answer | context, prompt) - log p(answer | prompt)`, where context and prompt are joined
    by a newline, and read as `generate` reads a prompt. The answer's tokens are those of the
    running text of prompt and answer, and the same both ways; see `decoding.scoring.answers`. In
    the mean over contexts and answers it is their mutual information, given the prompt.

    Args:
        language_model: from `load_model`.
        rows: taken lazily.
        batch_size: readings that run together, >= 1; a row takes two.
        chat: put what stands before the answer into the tokenizer's chat template.

    Returns:
        One result per row, in their order.

    Raises:
        ValueError: an answer without tokens, a prompt that cannot be read, or a row that does not
            fit into the model's positions; the message says which row.
    """
    check_language_model(language_model)
    tokenizer = language_model.tokenizer
    limit = positions(language_model.model)
    run = TeacherForcing(language_model, Windows(context=limit or 1 << 30, batch_size=batch_size))
    waiting: list[tuple[ContextRow, TokenDocument]] = []

    def documents() -> Iterator[TokenDocument]:
        for number, row in enumerate(rows):
            try:
                plain, informed = _readings(tokenizer, row, chat)
                length = len(informed.context) + len(informed.ids) - 1
                if limit is not None and length > limit:
                    raise ValueError(
                        f"context, prompt and answer must fit the model's {limit} positions, got "
                        f"{length} tokens to read"
                    )
            except ValueError as error:
                raise ValueError(f"row {number + 1}: {error}") from None
            waiting.append((row, plain))
            yield from (plain, informed)

    plain_log_prob: Floats | None = None
    for _, columns in run.scan(documents(), _log_prob):
        if plain_log_prob is None:
            plain_log_prob = columns["log_prob"]
            continue
        row, document = waiting.pop(0)
        ids = tuple(document.ids)
        texts = token_texts(tokenizer, ids, document.context)
        yield ContextGain(row, ids, texts, plain_log_prob, columns["log_prob"])
        plain_log_prob = None


def _readings(
    tokenizer: PreTrainedTokenizerBase, row: ContextRow, chat: bool | Chat
) -> tuple[TokenDocument, TokenDocument]:
    """The answer after the prompt, and after context and prompt: the same tokens both ways."""
    asked = (row.prompt, worded(row.prompt, f"{row.context}\n{last_of(row.prompt)}"))
    [plain], [informed] = (answered(tokenizer, prompt, [row.answer], chat=chat) for prompt in asked)
    # From where both readings have the answer's first token.
    count = max(int(reading.scored.sum()) for reading in (plain, informed))
    if not count:
        raise ValueError("answer must have at least one token, got an empty one")
    first, second = (_ids(reading) for reading in (plain, informed))
    if first[-count:] != second[-count:] or count in (len(first), len(second)):
        # As after an empty prompt, where a text may begin otherwise: its tokens there count.
        count = int(plain.scored.sum())
        second = [*encode_prompt(tokenizer, asked[1], chat=chat), *first[-count:]]
    return (
        TokenDocument(first[-count:], first[:-count]),
        TokenDocument(second[-count:], second[:-count]),
    )


def _ids(document: EncodedDocument) -> list[int]:
    return [*document.front, *document.segment.ids.tolist()]


def _log_prob(block: LogitBlock) -> dict[str, Tensor]:
    log_prob = row_statistics(block.logits, block.targets).target_log_prob
    assert log_prob is not None
    return {"log_prob": log_prob}
