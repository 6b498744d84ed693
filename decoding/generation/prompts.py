"""Prompts into the ids that a model reads before it continues them."""

from __future__ import annotations

from decoding.models.limits import check_ids, positions
from decoding.models.loading import LanguageModel, check_language_model
from decoding.texts.chats import Chat, Prompt
from decoding.texts.prompts import encode_prompt


def prompt_ids(
    language_model: LanguageModel,
    prompt: Prompt,
    max_new_tokens: int,
    *,
    chat: bool | Chat = False,
    name: str = "the prompt",
) -> list[int]:
    """As `encode_prompt`, with room left in the model's context for `max_new_tokens`.

    Raises:
        ValueError: an empty prompt without BOS, one that does not fit, or one with a token that
            the model does not know.
    """
    check_language_model(language_model)
    ids = encode_prompt(language_model.tokenizer, prompt, chat=chat, name=name)
    check_ids(language_model.model, language_model.tokenizer, ids, name)
    check_room(ids, max_new_tokens, positions(language_model.model), name)
    return ids


def check_room(ids: list[int], max_new_tokens: int, context: int | None, name: str) -> None:
    """Refuse, by a ValueError, a prompt that does not fit a context with what is to follow it."""
    if context is not None and len(ids) + max_new_tokens > context:
        room = context - len(ids)
        mend = f"set max_new_tokens to at most {room}" if room > 0 else "shorten the prompt"
        raise ValueError(
            f"{name} has {len(ids)} tokens; with max_new_tokens={max_new_tokens} "
            f"it exceeds the model's context of {context}: {mend}"
        )
