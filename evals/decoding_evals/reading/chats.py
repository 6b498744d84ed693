"""Conversations in rows, and the options that say how a chat template is used."""

from __future__ import annotations

import json
from typing import Any

import click

from decoding.models.chats import Chat, Conversation
from decoding_evals.shell.options import option, stacked

# What `read_chat` takes.
chat_options = stacked(
    click.option(
        "--chat",
        is_flag=True,
        help="Put each prompt into the model's chat template; conversations always are.",
    ),
    option("--system TEXT", "A system message before each prompt; turns --chat on."),
    option(
        "--chat-option NAME=VALUE",
        "An argument of the chat template, as in enable_thinking=false; repeatable; turns --chat "
        "on.",
        "chat_template_options",
        multiple=True,
    ),
    click.option(
        "--control-tokens",
        is_flag=True,
        help="Let control tokens that are spelled out in a message act as such; turns --chat on.",
    ),
)


def read_chat(options: dict[str, Any]) -> bool | Chat:
    """How `chat_options` say that the template is used; False where they do not ask for it.

    Raises:
        click.UsageError: a template option without a value, or given twice.
    """
    given: dict[str, Any] = {}
    for text in options.pop("chat_template_options"):
        name, separator, value = text.partition("=")
        if not (separator and name.isidentifier()):
            raise click.UsageError(f"--chat-option takes NAME=VALUE, got {text!r}")
        if name in given:
            raise click.UsageError(f"--chat-option {name} is given twice")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    system, control = options.pop("system"), options.pop("control_tokens")
    if not (options.pop("chat") or given or control or system is not None):
        return False
    return Chat(system=system, options=given, control_tokens=control)


def conversation(value: object) -> Conversation | str | None:
    """The conversation that a cell holds, what is wrong with it, or None where it is none.

    A list of objects is one; in a file without lists, JSON text of such a list.
    """
    if isinstance(value, str) and value.lstrip()[:2] in ("[{", "[ ", "[\n"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list) or not any(isinstance(item, dict) for item in value):
        return None
    try:
        return Conversation(value)
    except ValueError as error:
        return str(error)
