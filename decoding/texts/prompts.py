"""What a model reads before it writes: prompts, conversations, and what stands in front of them."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from decoding.texts.chats import (
    Chat,
    Conversation,
    Prompt,
    Span,
    as_chat,
    control_pattern,
    rendered,
    turn_end,
)
from decoding.texts.encoding import encode_whole


class Opening(NamedTuple):
    """A prompt as the model reads it."""

    ids: list[int]
    """At least one; those of `text`, behind what stands in front of it."""
    front: int
    """How many ids stand in front."""
    text: str
    """The prompt, or what the chat template makes of it."""
    plain: tuple[Span, ...]
    """Where in the text nothing is a control token, whatever is spelled there."""


def own_front(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that a tokenizer itself puts in front of a text."""
    # What texts have in common at their start, less what they have in common by themselves.
    plain, whole = (
        [tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"] for text in "a0"]
        for special in (False, True)
    )
    return list(whole[0][: _alike(*whole) - _alike(*plain)])


def _alike(one: list[int], other: list[int]) -> int:
    """How many ids two lists begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def document_front(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids before a text without a prompt: the tokenizer's own, else BOS, else EOS."""
    return own_front(tokenizer) or bos_or_eos(tokenizer)


def bos_or_eos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """BOS, or EOS where there is no BOS, or nothing."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return [int(token) for token in known if token is not None][:1]


def open_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    *,
    chat: bool | Chat = False,
    name: str = "the prompt",
) -> Opening:
    """What a model reads of a prompt before it continues it.

    Args:
        tokenizer: what it puts in front of a text stands there, unless the text begins with it;
            nothing stands behind, as a prompt is open at its end. An empty prompt becomes BOS.
        prompt: a text, or a conversation, which needs a chat template.
        chat: put a text into the tokenizer's chat template as the user's message.
        name: what to call it in an error.

    Raises:
        ValueError: an empty prompt, and the tokenizer has no BOS; or as for `rendered`.
    """
    how = as_chat(chat)
    if isinstance(prompt, Conversation) or how is not None:
        said = {"role": "user", "content": prompt}
        messages = prompt.messages if isinstance(prompt, Conversation) else [said]
        how = how or Chat()
        try:
            text, contents = rendered(tokenizer, messages, how, answering=True)
            plain = () if how.control_tokens else contents or ()
            controls = control_pattern(tokenizer)
            if contents is None and controls is not None and not how.control_tokens:
                spelled = (controls.search(str(message["content"])) for message in messages)
                if found := next(filter(None, spelled), None):
                    raise ValueError(
                        f"a message holds the control token {found[0]!r}, and the chat template "
                        "changes that message, so it cannot be told from the template's own"
                    )
            ids = encode_whole(tokenizer, text, plain).ids.tolist()
            if not ids:
                raise ValueError("the chat template makes no tokens of the messages")
            return Opening(ids, 0, text, plain)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid UTF-8: it holds a lone surrogate") from None
    ids = list(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
    front = own_front(tokenizer)
    if front and ids[: len(front)] == front:
        front = []
    if not ids and not front:
        if tokenizer.bos_token_id is None:
            raise ValueError(f"{name} is empty and the tokenizer has no BOS token")
        front = [tokenizer.bos_token_id]
    return Opening([*front, *ids], len(front), prompt, ())


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    *,
    chat: bool | Chat = False,
    name: str = "the prompt",
) -> list[int]:
    """The ids, one or more, that a model reads of a prompt; see `open_prompt`."""
    return open_prompt(tokenizer, prompt, chat=chat, name=name).ids


def turn_ends(tokenizer: PreTrainedTokenizerBase, chat: bool | Chat) -> list[int]:
    """The ids that end an assistant's turn under a chat template."""
    how = as_chat(chat)
    if how is None:
        return []
    ends = {tokenizer.eos_token_id, turn_end(tokenizer, how)}
    return sorted(end for end in ends if end is not None)
