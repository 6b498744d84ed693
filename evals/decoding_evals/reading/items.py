"""What an input is made of: texts, conversations, prompts with what may follow them, records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from decoding.texts.chats import Chat, Conversation, Prompt
from decoding_evals.reading.records import Recorded

if TYPE_CHECKING:
    from decoding.scoring.teacher_forcing import Document


class Text(NamedTuple):
    """A text."""

    name: str
    """`wiki.txt`, `rows.jsonl:12` (line of the file, or row where there are no lines, counted from
    1); a data set as it was given, `NAME:SPLIT:12`; or `-`."""
    pieces: Iterable[str]
    """Concatenate to the text; to be read once. A file comes in many, a row in one."""

    def document(self, language_model: object = None) -> Document:
        """What to score; the model does not matter."""
        from decoding.scoring.teacher_forcing import Document

        return Document(self.pieces)


class Spoken(NamedTuple):
    """A conversation, of one row."""

    name: str
    conversation: Conversation


class Prompted(NamedTuple):
    """A prompt and the texts that may follow it, of one row."""

    name: str
    prompt: Prompt
    choices: tuple[str, ...]


class Talk(NamedTuple):
    """How conversations are read."""

    roles: tuple[str, ...] = ()
    """Whose messages are scored; the assistant's where nothing is said."""
    chat: bool | Chat = False
    """How the chat template is used; False where nothing asks for it."""
    opened: bool = False
    """Whether the template begins the answer to conversations that end without one."""


Item = Text | Spoken | Prompted | Recorded
