"""Texts and conversations into the ids that a model reads, and ids back into text."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__, chats="Chat Conversation", encoding="encode", prompts="encode_prompt open_prompt"
)
