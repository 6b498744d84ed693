"""Answers that were drawn elsewhere, by prompt: of `decoding generate`, vLLM, or an OpenAI-style
server."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from decoding.texts.chats import Prompt
from decoding_evals.engines import openai, own, vllm
from decoding_evals.engines.drawn import Drawn
from decoding_evals.reading import rows
from decoding_evals.reading.placed import placed_rows
from decoding_evals.reading.prompts import Row, asked_in, known_in
from decoding_evals.showing.lines import note

READERS = {"outputs": vllm.request_output, "tokens": own.record, "choices": openai.response}
"""By the key that tells a row of theirs."""


@dataclass
class StoredPrompt:
    """A prompt and the answers to it."""

    place: str
    """The first row that it stands in."""
    drawn: Drawn
    """What that row says of how they were drawn, with all answers."""
    prompt: Prompt | None
    """None where no row says it."""
    index: int | None
    known: Row = field(default_factory=dict)
    """References and other columns, as of `read_prompt_rows`."""

    def add(self, drawn: Drawn) -> None:
        """Add the answers of another row; a TypeError where they were drawn in another way."""
        mine, its = (one._replace(answers=(), seed=None) for one in (self.drawn, drawn))
        if mine != its:
            raise TypeError(
                f"an answer to the prompt of {self.place}, but of another model, setting or chat"
            )
        self.drawn = self.drawn._replace(answers=self.drawn.answers + drawn.answers)


def read_stored(
    file: Path, columns: Mapping[str, str | None], separator: str | None
) -> list[StoredPrompt]:
    """The answers in a file of rows, or for `-` in lines of standard input, in order of prompts.

    Rows with the same prompt and the same `index` (where they have any) are of one prompt; a row
    with neither is one of its own.

    Args:
        file: `.jsonl`, `.json` or `.parquet`, each row an object of one of `READERS`, with a prompt
            or `messages` beside what the reader takes.
        columns: as for `read_prompt_rows`.
        separator: as for `read_prompt_rows`.

    Raises:
        click.UsageError: another kind of file.
        click.ClickException: nothing to read, or a row that is none of these; it says which.
    """
    found: dict[Hashable, StoredPrompt] = {}
    for number, place, values in placed_rows(file, "--answers"):
        try:
            drawn = _drawn(values)
            prompt = asked_in(values)
            index = values.get("index")
            if not (index is None or (type(index) is int and index >= 0)):
                raise TypeError(f"'index' is {index!r}, not a whole number from 0")
            known = known_in(values, columns, separator)
            named = prompt is not None or index is not None
            text = None if prompt is None else str(prompt)
            key = (text, index) if named else number
            if key in found:
                found[key].add(drawn)
            else:
                found[key] = StoredPrompt(place, drawn, prompt, index, known)
        except TypeError as error:
            raise click.ClickException(f"{place}: {error}") from None
    return [*found.values()]


def matched(prompts: list[StoredPrompt], rows: list[Row]) -> list[StoredPrompt]:
    """Stored prompts with what the rows of a prompts file know of them.

    By the prompt; where the answers do not say it, by `index`, the number of its row from 0. How
    many of either find no other is said.

    Raises:
        click.ClickException: an answer says neither prompt nor index, or none is matched.
    """
    by_prompt = {str(row["prompt"]): row for row in rows}
    found, missing = [], 0
    for one in prompts:
        if one.prompt is None and one.index is None:
            raise click.ClickException(
                f"{one.place}: neither prompt nor 'index' says which of --prompts-file it answers"
            )
        row = None if one.prompt is None else by_prompt.get(str(one.prompt))
        if one.prompt is None and one.index is not None and one.index < len(rows):
            row = rows[one.index]
        if row is None:
            missing += 1
            found.append(one)
        else:
            known = {name: value for name, value in row.items() if name != "prompt"}
            found.append(replace(one, prompt=row["prompt"], known=known))
    if missing == len(prompts):
        raise click.ClickException("no answer is to a prompt of --prompts-file")
    unanswered = len(by_prompt) - len({str(one.prompt) for one in found} & {*by_prompt})
    if missing:
        note(f"{missing:,} of {len(prompts):,} answered prompts are not in --prompts-file")
    if unanswered:
        note(f"{unanswered:,} of {len(by_prompt):,} prompts of --prompts-file have no answer")
    return found


def _drawn(values: dict[str, Any]) -> Drawn:
    """What a row holds; a TypeError says what is wrong with it."""
    values = openai.unpacked(values)
    for key, read in READERS.items():
        if key in values:
            return read(values)
    raise TypeError(
        "neither a record of generate ('tokens'), nor of vLLM ('outputs'), nor an OpenAI-style "
        f"response ('choices'); it has {rows.listed(values)}"
    )
