"""Sequences that `decoding generate` recorded, read again to be scored by their token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from decoding_evals.reading.drawn import Drawn, DrawnAnswer, ids_in, list_in, nats_in, text_in
from decoding_evals.reading.rows import parsed, string_problem

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding.scoring.teacher_forcing import TokenDocument


class Recorded(NamedTuple):
    """A sequence that `decoding generate` recorded."""

    name: str
    ids: tuple[int, ...]
    prompt: str
    prompt_ids: tuple[int, ...] | None
    """What the model read of the prompt; None where the record does not say."""
    model: str | None = None
    num_beams: int = 1
    """Above 1 where no setting drew it."""

    def document(self, language_model: LanguageModel) -> TokenDocument:
        """What to score, with the prompt as context.

        Raises:
            ValueError: an id outside the model's vocabulary, or an empty prompt where the tokenizer
                has no BOS.
        """
        from decoding.scoring.teacher_forcing import TokenDocument
        from decoding.texts.prompts import encode_prompt

        context = self.prompt_ids
        if context is None:
            name = f"the prompt of {self.name!r}"
            context = tuple(encode_prompt(language_model.tokenizer, self.prompt, name=name))
        vocab = language_model.model.config.get_text_config().vocab_size
        largest = max((*self.ids, *context), default=0)
        if largest >= vocab:
            raise ValueError(
                f"{self.name!r} has token {largest}, and {language_model.name!r} has {vocab} "
                "tokens: another model wrote it"
            )
        return TokenDocument(self.ids, context)


def is_record(row: dict[str, Any] | str) -> bool:
    """Whether a row is a record of `decoding generate`; other data may have `tokens` too."""
    known = not isinstance(row, str) and "tokens" in row
    return known and ("prompt" in row or "prompt_ids" in row)


def recorded(name: str, row: dict[str, Any]) -> Recorded | str:
    """The sequence of a record of `decoding generate`, or what is wrong with it."""
    tokens, prompt, prompt_ids = row["tokens"], row.get("prompt"), row.get("prompt_ids")
    if isinstance(tokens, str):  # a cell of a CSV file
        try:
            tokens, prompt_ids = parsed(tokens), parsed(prompt_ids or "null")
        except (TypeError, ValueError, RecursionError):
            return "'tokens' or 'prompt_ids' is broken JSON"
    try:
        ids = tuple(_token_id(token["id"]) for token in tokens)
    except (TypeError, KeyError, IndexError):
        return "'tokens' is no list of objects with token ids as 'id'"
    try:
        context = None if prompt_ids is None else tuple(map(_token_id, prompt_ids))
    except TypeError:
        return "'prompt_ids' is no list of token ids"
    model, beams = row.get("model"), row.get("num_beams")
    if isinstance(beams, str) and beams.isdecimal() and len(beams) < 10:
        beams = int(beams)
    return string_problem("prompt", prompt) or Recorded(
        name,
        ids,
        str(prompt),
        context,
        model if isinstance(model, str) else None,
        beams if isinstance(beams, int) and 1 <= beams < 2**31 else 1,
    )


def _token_id(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise TypeError
    return value


def drawn(row: dict[str, Any]) -> Drawn:
    """The answer of a record of `decoding generate`, and how it was drawn.

    Raises:
        TypeError: it is no such record, or of beams or a greedy setting, which draw nothing.
    """
    what = "a record of generate"
    tokens, settings, chat = list_in(row, "tokens", what), row.get("settings"), row.get("chat")
    if row.get("num_beams", 1) != 1 or str(settings).startswith(("greedy", "temperature=0,")):
        raise TypeError("beam search and greedy settings draw no answers")
    named = [(token, f"{what}, token {number},") for number, token in enumerate(tokens, 1)]
    surprisals, entropies = (
        tuple(nats_in(token, name, at) for token, at in named)
        for name in ("surprisal_nats", "entropy_nats")
    )
    seed, known = row.get("seed"), row.get("prompt_ids") is not None
    answer = DrawnAnswer(
        text_in(row, "text", what),
        text_in(row, "finish_reason", what),
        texts=tuple(str(token.get("text")) for token in tokens),
        ids=ids_in({"id": [token.get("id") for token in tokens]}, "id", what),
        surprisal_nats=surprisals,
        entropy_nats=entropies,
    )
    return Drawn(
        (answer,),
        prompt_ids=ids_in(row, "prompt_ids", what) if known else None,
        model=text_in(row, "model", what),
        settings=text_in(row, "settings", what),
        seed=seed if isinstance(seed, int) else None,
        chat=chat if isinstance(chat, dict) else None,
    )
