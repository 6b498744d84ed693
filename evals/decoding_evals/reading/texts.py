"""Where the texts of an evaluation come from: files, folders, data sets, or standard input."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding.texts.chats import Conversation, Prompt
from decoding_evals.reading import rows
from decoding_evals.reading.chats import chat_options, conversation, read_chat
from decoding_evals.reading.datasets import dataset_rows
from decoding_evals.reading.items import Item, Prompted, Spoken, Talk, Text
from decoding_evals.reading.places import SourcePath
from decoding_evals.reading.records import Recorded, is_record, recorded
from decoding_evals.reading.rows import FORMATS, Rows, listed
from decoding_evals.shell.options import option, stacked
from decoding_evals.shell.output import check_source
from decoding_evals.showing.lines import note

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding.scoring.answers import EncodedDocument

STANDARD_INPUT = Path("-")
# What is taken from a folder. Not .json: beside data it mostly holds something else.
IN_FOLDERS = (".txt", ".raw", ".tokens", ".md", ".jsonl", ".csv", ".parquet")


class Inputs:
    """Iterates once over the texts of files, one at a time; long files are never in memory.

    - `.jsonl`, `.json` (a list), `.csv` (with a header) and `.parquet` hold one text per row.
    - Any other file is one text in UTF-8, as it stands but for a byte order mark.
    - `-`, or no path, is standard input: one text.
    - A folder stands for the files below it, in order of their paths, with a suffix of
      `IN_FOLDERS`; hidden files and folders are left out.

    The first rows, or first pieces, of all files are read at once, so that what is missing, empty
    or of another form is found before any work is done.

    Args:
        paths: files, folders, `-`; also as `UPath`s, which lie at an address.
        column: the column of the texts; default `usual`, or `messages` where the first row has no
            such column.
        prompt_column: the column of their prompts. Items are `Prompted` then, else `Text`, or
            `Spoken` where a cell holds a list of messages.
        usual: the column where none is named.
        talk: how conversations are read; None where they are not.
        dataset: instead of paths, `NAME[:CONFIG][:SPLIT]`; see `dataset_rows`.
        records: take the rows that `decoding generate` recorded, those with `tokens` behind a
            prompt, as `Recorded`, unless a column is named. Standard input may then be its JSON
            Lines too.
        skip_bad_rows: count broken rows in `skipped_rows` instead of stopping at the first: bad
            JSON, CSV or UTF-8, no such column, no string. A source without any good row is an
            error all the same.

    Raises:
        click.UsageError: arguments that do not go together.
        click.ClickException: nothing to read, or nothing readable; also while iterating.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        column: str | None = None,
        prompt_column: str | None = None,
        usual: str = "text",
        talk: Talk | None = None,
        dataset: str | None = None,
        records: bool = False,
        skip_bad_rows: bool = False,
    ) -> None:
        self.records = records and column is None and prompt_column is None
        self.column = usual if column is None else column
        self._named = column is not None
        self.talk = talk
        self.prompt_column = prompt_column
        self.skip_bad_rows = skip_bad_rows
        self.skipped_rows = 0
        self.writers: Counter[str | None] = Counter()
        """Models that the records name, None where they name none."""
        self.names: list[str] = []
        """Of the items that were iterated over until now."""
        self.beam_records = 0
        self.silent = 0
        """Conversations without a message in the roles that are scored."""
        if paths and dataset is not None:
            raise click.UsageError("give FILES or --dataset, not both")
        if paths.count(STANDARD_INPUT) > 1:
            raise click.UsageError("standard input ('-') can be read only once")
        if self.column == prompt_column:
            raise click.UsageError(f"--column and --prompt-column are both {prompt_column!r}")
        self.sources: list[Rows | Path] = (
            [_dataset(dataset)]
            if dataset is not None
            else [source for path in paths or [STANDARD_INPUT] for source in _sources(path)]
        )
        texts = [source for source in self.sources if not isinstance(source, Rows)]
        needing = "--prompt-column" if texts and prompt_column is not None else None
        if column is not None and len(texts) == len(self.sources):
            needing = needing or "--column"
        if needing is not None:
            raise click.UsageError(
                f"{needing} needs rows ({', '.join(FORMATS)}); {str(texts[0])!r} is one text"
            )
        for source in self.sources:
            self._look_at(source)
        self.skipped_rows = self.beam_records = 0
        self.writers.clear()

    @classmethod
    def from_options(
        cls, options: dict[str, Any], *, records: bool = False, talk: Talk | None = None
    ) -> Inputs:
        """What `input_options` ask for; `records` and `talk` as for the class."""
        return cls(
            options["files"],
            column=options["column"],
            prompt_column=options.get("prompt_column"),
            dataset=options["dataset"],
            records=records,
            talk=talk,
            skip_bad_rows=options["skip_bad_rows"],
        )

    def __iter__(self) -> Iterator[Item]:
        for place in self.sources:
            piped = place == STANDARD_INPUT and self.records
            source = _standard_input() if piped else place
            if not isinstance(source, Rows | Text):
                source = Text(str(source), _pieces(source))
            for item in self._rows(source) if isinstance(source, Rows) else [source]:
                self.names.append(item.name)
                yield item

    def notes(self, models: Collection[str] = ()) -> list[str]:
        """What to tell the user of what was read until now, for models of these names to score."""
        from decoding_evals.showing.terminal import counted

        skipped = counted(self.skipped_rows, "broken row")
        notes = [f"{skipped} skipped"] if self.skipped_rows else []
        for name, count in self.writers.items():
            if name is not None and name not in models:
                notes.append(f"records by another model, {name!r}: {count:,}")
        if self.silent:
            notes.append(f"conversations without a message to score: {self.silent:,}")
        if self.beam_records:
            notes.append(f"records of beam search, not drawn: {self.beam_records:,}")
        return notes

    def documents(self, language_model: LanguageModel | None = None) -> Iterator[Any]:
        """What to score of each item where there is no prompt column: `Document`s; of records
        `TokenDocument`s, and of conversations encoded ones, which need the model that scores."""
        for item in self:
            if isinstance(item, Spoken):
                assert language_model is not None and self.talk is not None
                try:
                    yield self._said(item.conversation, language_model)
                except ValueError as error:
                    raise ValueError(f"{item.name!r}: {error}") from None
            else:
                yield item.document(language_model)  # type: ignore[arg-type, union-attr]

    def _said(self, conversation: Conversation, language_model: LanguageModel) -> EncodedDocument:
        from decoding.scoring.answers import said_by

        assert self.talk is not None
        tokenizer = language_model.tokenizer
        roles = self.talk.roles or ("assistant",)
        self.silent += not any(message["role"] in roles for message in conversation.messages)
        chat, opened = self.talk.chat or True, self.talk.opened
        return said_by(tokenizer, conversation, roles, chat=chat, opened=opened)

    def texts(self) -> Iterator[str]:
        """The texts where there are neither prompts nor records.

        Raises:
            click.ClickException: a conversation, or a record, of which a part is scored alone.
        """
        for item in self:
            if isinstance(item, Spoken | Recorded):
                kind = "conversation" if isinstance(item, Spoken) else "record of generate"
                raise click.ClickException(f"{item.name!r} is a {kind}, not a text")
            if isinstance(item, Text):
                yield "".join(item.pieces)

    def prompts(self) -> Iterator[Prompt]:
        """The texts and conversations."""
        for item in self:
            if isinstance(item, Spoken):
                yield item.conversation
            elif isinstance(item, Text):
                yield "".join(item.pieces)

    def _look_at(self, source: Rows | Path) -> None:
        """Read the beginning of a source, unless it can be read only once."""
        first = next(self._rows(source)) if isinstance(source, Rows) else None
        if self.talk is not None and self.talk.chat and not isinstance(first, Spoken | Prompted):
            raise click.UsageError("--chat needs a column of messages, or --prompt-column")
        if self.talk is not None and self.talk.roles and not isinstance(first, Spoken):
            raise click.UsageError("--roles needs a column of messages")
        if isinstance(source, Rows):
            return
        if source == STANDARD_INPUT:
            return
        with rows.readable(repr(str(source))):
            if source.is_file() or not source.exists():
                next(_pieces(source))

    def _columns(self, source: Rows) -> tuple[str, list[str] | None]:
        """The column of the texts of a source, by its first row where none was named, and all
        columns that are read of it, None for those that it has."""
        own, talks = self.column, self.talk is not None and not self._named
        columns = [own, *([] if self.prompt_column is None else [self.prompt_column])]
        if source.name == str(STANDARD_INPUT):  # can be read once, and holds records
            return own, None
        row: Any = next(source.read(None), (0, ""))[1] if talks or self.records else ""
        if talks and isinstance(row, dict) and own not in row and "messages" in row:
            own = columns[0] = "messages"
        return own, None if self.records and is_record(row) else columns

    def _rows(self, source: Rows) -> Iterator[Item]:
        own, columns = self._columns(source)
        found = False
        first_problem = None
        for number, row in source.read(columns):
            item = row if isinstance(row, str) else self._item(f"{source.name}:{number}", row, own)
            if not isinstance(item, str):
                found = True
                if isinstance(item, Recorded):
                    self.writers[item.model] += 1
                    self.beam_records += item.num_beams > 1
                yield item
                continue
            problem = f"{source.name!r}, {source.unit} {number}: {item}"
            if not self.skip_bad_rows:
                raise click.ClickException(problem)
            self.skipped_rows += 1
            first_problem = first_problem or problem
        if not found:
            raise click.ClickException(
                f"no rows in {source.name!r}"
                if first_problem is None
                else f"every row is broken; the first: {first_problem}"
            )

    def _item(self, name: str, row: dict[str, Any], own: str) -> Item | str:
        """What a row holds, or what is wrong with it."""
        if self.records and is_record(row):
            return recorded(name, row)
        if own not in row and not self._named and self.talk is not None:
            own = "messages" if "messages" in row else self.column
        for column in (own, self.prompt_column):
            if column is not None and column not in row:
                return f"no column {column!r}; it has {listed(row)}"
        value = row[own]
        if self.prompt_column is None:
            said = None if self.talk is None else _conversation(name, own, value)
            if said is not None:
                return Spoken(name, said) if isinstance(said, Conversation) else f"{own!r}: {said}"
            return rows.string_problem(own, value) or Text(name, (value,))
        asked = _conversation(name, self.prompt_column, row[self.prompt_column])
        prompt = asked if isinstance(asked, Conversation) else row[self.prompt_column]
        choices = value if isinstance(value, list) else [value]
        problems = [asked if isinstance(asked, str) else None]
        if asked is None:
            problems.append(rows.string_problem(self.prompt_column, prompt))
        problems += [rows.string_problem(own, c, " or a list of strings") for c in choices]
        if not choices:
            problems.append(f"{own!r} is an empty list")
        if "" in choices:
            problems.append(f"{own!r} is empty, or holds an empty choice")
        return next(filter(None, problems), None) or Prompted(name, prompt, tuple(choices))


def _conversation(name: str, column: str, value: object) -> Conversation | str | None:
    """What a cell of a named row says; only files that have no lists spell conversations out."""
    return conversation(value, column, spelled=name.rpartition(":")[0].lower().endswith(".csv"))


# What `read_talk` takes.
talk_options = stacked(
    chat_options,
    option(
        "--roles ROLE",
        "Of conversations: score this role's messages; repeatable.  [default: assistant]",
        multiple=True,
    ),
)


def read_talk(options: dict[str, Any]) -> Talk:
    """How `talk_options` say that conversations are read."""
    return Talk(options.pop("roles"), read_chat(options))


# What `Inputs.from_options` takes.
input_options = stacked(
    click.argument("files", nargs=-1, type=SourcePath(), metavar="[FILES]..."),
    option("--column NAME", "Column of the texts.  [default: text]"),
    option(
        "--dataset NAME[:CONFIG][:SPLIT]",
        "A data set instead of FILES: a hub name or a folder.  "
        "[default split: the only one, or test]",
    ),
    click.option("--skip-bad-rows", is_flag=True, help="Count broken rows instead of stopping."),
)


def _dataset(spec: str) -> Rows:
    from decoding_evals.shell.progress import status

    with status(f"loading {spec}"):
        return dataset_rows(spec)


def _sources(path: Path) -> list[Rows | Path]:
    """The files that a path stands for."""
    paths = [path]
    with rows.readable(repr(str(path))):
        if path.is_dir():
            paths = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in IN_FOLDERS
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and file.is_file()
            )
            if not paths:
                raise click.ClickException(
                    f"no file below {str(path)!r} ends in {', '.join(IN_FOLDERS)}"
                )
        return [_source(file) for file in paths]


def _source(file: Path) -> Rows | Path:
    check_source(file)
    if file.suffix.lower() not in FORMATS:
        return file
    if file.exists() and not file.is_file():
        raise click.ClickException(f"{str(file)!r} is no regular file: rows cannot be read from it")
    return rows.file_rows(file)


def _pieces(path: Path) -> Iterator[str]:
    source = "standard input" if path == STANDARD_INPUT else repr(str(path))
    if path == STANDARD_INPUT and sys.stdin.isatty():
        note("Text; end with Ctrl-D:")
    empty = True
    with rows.readable(source):
        stdin = nullcontext(sys.stdin.buffer)
        with stdin if path == STANDARD_INPUT else path.open("rb") as stream:
            for piece in rows.decoded(stream, source):
                empty = False
                yield piece
    if empty:
        raise click.ClickException(f"{source} is empty")


def _standard_input() -> Rows | Text:
    """JSON Lines where the first line is a record, else one text."""
    pieces = _pieces(STANDARD_INPUT)
    first = begins = ""
    for piece in pieces:
        first += piece
        begins = begins or piece.lstrip()[:1]
        ended = "\n" in piece and "\n" in first.lstrip()
        if ended or begins not in ("", "{") or len(first) > rows.LONGEST:
            break
    line = first.lstrip().partition("\n")[0]
    row = rows.json_row(line)
    pieces = chain([first], pieces)
    if not is_record(row):
        if line[:1] in ("{", "["):
            note(
                "standard input looks like JSON, but does not begin with a record of generate: "
                "it is read as one text"
            )
        return Text(str(STANDARD_INPUT), pieces)
    lines = rows.lines_of(pieces, "standard input")
    return Rows(str(STANDARD_INPUT), "line", lambda columns: rows.json_lines(lines))
