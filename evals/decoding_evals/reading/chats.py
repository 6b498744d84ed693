"""Conversations in rows, and the options that say how a chat template is used."""

from __future__ import annotations

import json
import math
from typing import Any

import click

from decoding.texts.chats import Chat, Conversation
from decoding_evals.reading.rows import is_utf8, parsed
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
            given[name] = json.loads(value, parse_constant=_refused)
        except (ValueError, RecursionError):
            given[name] = value
        if not is_utf8(str(given[name])) or given[name] in (math.inf, -math.inf):
            raise click.UsageError(f"--chat-option {name} has a value that JSON does not know")
    system, control = options.pop("system"), options.pop("control_tokens")
    if system is not None and not is_utf8(system):
        raise click.UsageError("--system is not valid UTF-8")
    if not (options.pop("chat") or given or control or system is not None):
        return False
    return Chat(system=system, options=given, control_tokens=control)


def _refused(name: str) -> Any:
    raise ValueError(name)


def conversation(value: object, column: str, *, spelled: bool) -> Conversation | str | None:
    """The conversation that a cell holds, what is wrong with it, or None where it is none.

    A list of objects is one, and what stands in a column `messages` must be one.

    Args:
        value: the cell's.
        column: its column.
        spelled: the file has no lists of its own, so that a text may be JSON of one.
    """
    if spelled and isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = parsed(value)
        except (ValueError, RecursionError) as error:
            return f"broken JSON ({error})" if column == "messages" else None
    listed = isinstance(value, list) and (
        any(isinstance(item, dict) for item in value) or column == "messages"
    )
    if not listed:
        return "no list of messages" if column == "messages" else None
    try:
        return Conversation(value)  # type: ignore[arg-type]
    except ValueError as error:
        return str(error)
