"""Texts whose tokens are known before they are scored: answers to a prompt, and conversations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from decoding.texts.chats import Chat, Conversation, Prompt, as_chat, control_pattern, rendered
from decoding.texts.encoding import Segment, encode_whole
from decoding.texts.prompts import document_front, open_prompt


@dataclass(frozen=True)
class EncodedDocument:
    """A text with its tokens, some of which are scored."""

    front: tuple[int, ...]
    """The ids before those of the text, such as BOS."""
    segment: Segment
    """The whole text, prompt included, and its tokens."""
    own: int
    """Index in the whole text where the document itself begins."""
    scored: NDArray[np.bool_]
    """`(tokens,)`, which tokens of the text are scored; the others are context."""
    over: bool = False
    """Whether the end of a turn ends it, so that nothing may follow."""

    @property
    def text(self) -> str:
        """The document, without its prompt."""
        return self.segment.text[self.own - self.segment.start :]


def answered(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    answers: Sequence[str],
    *,
    chat: bool | Chat = False,
    name: str = "the prompt",
) -> list[EncodedDocument]:
    """Answers to one prompt, ready to be scored over the same event.

    Each answer is encoded together with the prompt, behind the ids that `generate` reads first.
    All are scored from the end of the longest beginning of the prompt's own ids that each of them
    shares. So a token that the prompt's end would have had is scored where an answer has it, and
    sums over the answers' tokens can be compared.

    Args:
        tokenizer: of the model.
        prompt: a text, or a conversation.
        answers: what may follow it.
        chat: put a text into the chat template as the user's message; answers are then the
            assistant's.
        name: what to call the prompt in an error.

    Raises:
        ValueError: the prompt cannot be read (see `open_prompt`), or its ids and those of prompt
            and answer have no beginning in common.
    """
    ids, before, text, plain = open_prompt(tokenizer, prompt, chat=chat, name=name)
    front = ids[:before]
    segments = [
        encode_whole(
            tokenizer, text + answer, [*plain, (len(text), len(text + answer))] if plain else ()
        )
        for answer in answers
    ]
    sequences = [ids, *([*front, *segment.ids.tolist()] for segment in segments)]
    alike = (len({*tokens}) == 1 for tokens in zip(*sequences, strict=False))
    shared = sum(takewhile(bool, alike))
    if not shared:
        raise ValueError(
            f"{name} shares no token with prompt and answer read together: end it before a space, "
            "or begin it with BOS"
        )
    return [
        _document(
            tokenizer, front, segment, np.arange(len(segment.ids)) >= shared - before, len(text)
        )
        for segment in segments
    ]


def said_by(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Conversation,
    roles: Collection[str] = ("assistant",),
    *,
    chat: bool | Chat = True,
    opened: bool = False,
) -> EncodedDocument:
    """A conversation of which the messages in some roles are scored, the rest being context.

    A message's tokens are those that hold a part of its content, and the control token behind it
    that ends its turn. With `opened`, the template begins the answer to a conversation that ends
    without one, as for `generate`.

    Raises:
        ValueError: the chat template refuses the messages, or changes one so that it cannot be
            found in the text.
    """
    how = as_chat(chat) or Chat()
    opened = opened and conversation.messages[-1]["role"] != "assistant"
    text, contents = rendered(tokenizer, conversation.messages, how, answering=opened)
    if contents is None:
        raise ValueError("the chat template changes a message: its tokens cannot be told apart")
    segment = encode_whole(tokenizer, text, () if how.control_tokens else contents)
    starts = np.concatenate([[0], segment.ends[:-1]])
    controls = control_pattern(tokenizer)
    scored = np.zeros(len(segment.ids), dtype=bool)
    for message, (begin, end) in zip(conversation.messages, contents, strict=True):
        if message["role"] not in roles:
            continue
        scored |= (starts < end) & (segment.reaches > begin)
        behind = end + len(text[end:]) - len(text[end:].lstrip())
        if controls is not None and (control := controls.match(text, behind)):
            scored |= (segment.reaches == control.end()) & (starts < control.end())
    return replace(_document(tokenizer, [], segment, scored, 0), over=not opened)


def _document(
    tokenizer: PreTrainedTokenizerBase,
    front: list[int],
    segment: Segment,
    scored: NDArray[np.bool_],
    own: int,
) -> EncodedDocument:
    """With what stands in front counted as such, also where the text or the template has it."""
    usual = document_front(tokenizer)
    count = len(usual)
    if not front and count and segment.ids[:count].tolist() == usual:
        ids, ends, _, text, reaches = segment
        front, scored, start = usual, scored[count:], int(ends[count - 1])
        segment = Segment(ids[count:], ends[count:], start, text[start:], reaches[count:])
    return EncodedDocument(tuple(front), segment, max(own, segment.start), scored)
