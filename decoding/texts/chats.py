"""Messages into the text that a chat template makes of them, and what of it the user wrote."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from decoding.models.faults import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Where a stretch of a text begins, and where it ends."""


@dataclass(frozen=True)
class Chat:
    """How a tokenizer's chat template is used."""

    system: str | None = None
    """A message that stands before all others, in the role `system`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the template, such as `enable_thinking`."""
    control_tokens: bool = False
    """Whether control tokens that are spelled out in a message count as such. They are plain text
    unless this is set: a user's text cannot end its own turn."""

    def record(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """What records say of it; `template` is the beginning of the template's SHA-256."""
        used = self.options.get("chat_template", tokenizer.chat_template)
        template = json.dumps(used, sort_keys=True).encode()
        return {
            "system": self.system,
            "options": dict(self.options),
            "control_tokens": self.control_tokens,
            "template": hashlib.sha256(template).hexdigest()[:16],
        }


def as_chat(chat: bool | Chat) -> Chat | None:
    """A chat, or None where no template is used."""
    return (Chat() if chat else None) if isinstance(chat, bool) else chat


@dataclass(frozen=True)
class Conversation:
    """Messages in their order, each with its `role`, its `content`, and what else a template asks.

    Raises:
        ValueError: no messages, or one without a role or a content that is text.
    """

    messages: tuple[Mapping[str, Any], ...]

    def __init__(self, messages: Iterable[Mapping[str, Any]]) -> None:
        object.__setattr__(self, "messages", tuple(messages))
        if not self.messages:
            raise ValueError("a conversation must have at least one message, got none")
        for number, message in enumerate(self.messages, 1):
            texts = isinstance(message, Mapping) and [message.get("role"), message.get("content")]
            if not texts or not all(isinstance(text, str) for text in texts):
                raise ValueError(
                    f"message {number} must have a text as 'role' and one as 'content'"
                )
        try:
            json.dumps(self.messages, allow_nan=False, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a message is not valid UTF-8") from None
        except (TypeError, ValueError, RecursionError):
            raise ValueError("a message holds a value that JSON does not know") from None

    @cached_property
    def _text(self) -> str:
        return json.dumps(self.messages, sort_keys=True, ensure_ascii=False)

    def __str__(self) -> str:
        """The messages as JSON."""
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @property
    def last(self) -> str:
        """What the last message says."""
        return str(self.messages[-1]["content"])

    def saying(self, text: str) -> Conversation:
        """The same with another last message."""
        return Conversation([*self.messages[:-1], {**self.messages[-1], "content": text}])


Prompt = str | Conversation
"""A text to continue, or the messages before an answer."""


def listed_prompts(prompts: Any) -> list[Prompt]:
    """Prompts as a list, of one where there is one; messages become a `Conversation`."""
    if isinstance(prompts, str | Conversation):
        return [prompts]
    if isinstance(prompts, Mapping):
        raise TypeError("a message alone is no prompt: give a list of messages")
    items = list(prompts)
    if items and all(isinstance(item, Mapping) for item in items):
        return [Conversation(items)]
    return [item if isinstance(item, str | Conversation) else Conversation(item) for item in items]


def last_of(prompt: Prompt) -> str:
    """The text itself, or what the last message says."""
    return prompt if isinstance(prompt, str) else prompt.last


def worded(prompt: Prompt, text: str) -> Prompt:
    """The text instead of the prompt, or of its last message."""
    return text if isinstance(prompt, str) else prompt.saying(text)


class Rendered(NamedTuple):
    """What a template made of messages."""

    text: str
    contents: tuple[Span, ...] | None
    """Where each message's content stands in it; None where the template changed one of them."""


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], chat: Chat, *,
    answering: bool,
) -> Rendered:  # fmt: skip
    """The text of a conversation.

    Args:
        tokenizer: has a chat template.
        messages: in their order; `chat.system` comes before them.
        chat: how the template is used.
        answering: open the assistant's turn at the end; where the last message is the assistant's
            own, the text ends with that message and can be continued.

    Raises:
        ValueError: no template, the template refuses the messages, a system message is given
            twice, or a message that is to be continued was changed by the template.
    """
    if not tokenizer.chat_template:
        raise ValueError("chat needs a tokenizer with a chat template, and this one has none")
    if chat.system is not None:
        if messages[0]["role"] == "system":
            raise ValueError("the conversation has a system message already: leave out system")
        messages = [{"role": "system", "content": chat.system}, *messages]
    goes_on = answering and messages[-1]["role"] == "assistant"

    def filled(messages: Sequence[Mapping[str, Any]]) -> str:
        try:
            text: str = tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=answering and not goes_on,
                **chat.options,
            )
        except Exception as error:  # whatever a template does
            raise ValueError(
                f"the chat template refuses the messages: {first_line(error)}"
            ) from error
        return text

    text = filled(messages)
    marked = [
        message | {"content": _MARK.format(number)}
        for number, message in enumerate(map(dict, messages))
    ]
    contents = _located(filled(marked), [str(message["content"]) for message in messages], text)
    if goes_on:
        if contents is None:
            raise ValueError("the chat template changes the assistant's message: it cannot go on")
        text = text[: contents[-1][1]]
    if contents is not None and chat.system is not None:
        contents = contents[1:]
    return Rendered(text, contents)


_MARK, _MARKED = "\x02{}\x03", re.compile("\x02([0-9]+)\x03")


def _located(frame: str, contents: Sequence[str], text: str) -> tuple[Span, ...] | None:
    """Where contents stand in a text, given the same with marks in their place."""
    places: dict[int, Span] = {}
    parts = _MARKED.split(frame)
    position = 0
    for number, part in enumerate(parts):
        if number % 2 == 0:
            if not text.startswith(part, position):
                return None
            position += len(part)
            continue
        content, behind = contents[int(part)], parts[number + 1]
        # Templates may strip what they are given.
        for form in (content, content.strip(), content.lstrip(), content.rstrip()):
            if text.startswith(form + behind, position):
                places[int(part)] = (position, position + len(form))
                position += len(form)
                break
        else:
            return None
    if position != len(text) or len(places) != len(contents):
        return None
    return tuple(places[number] for number in range(len(contents)))


def control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Finds what is spelled as one of a tokenizer's control tokens; None where it has none."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {*map(str, tokenizer.all_special_tokens)}
    special.discard("")
    longest_first = sorted(special, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if special else None


def turn_end(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> int | None:
    """The id of the control token that a template puts behind an assistant's message, or None."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    controls = control_pattern(tokenizer)
    try:
        text, contents = rendered(tokenizer, said, chat, answering=False)
    except ValueError:  # a template that wants other messages
        return None
    if contents is None or controls is None:
        return None
    behind = text[contents[-1][1] :].lstrip()
    found = controls.match(behind)
    return None if found is None else int(tokenizer.convert_tokens_to_ids(found[0]))
