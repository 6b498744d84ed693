"""Writes the results of a command where the user wants them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from decoding_evals.shell.output import Interrupted, to_json, uninterrupted, write_line
from decoding_evals.shell.plots import check_plot, write_plot
from decoding_evals.shell.resuming import begun, record_file, settled_seed
from decoding_evals.showing.lines import note

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding.passes.journal import Journal
    from decoding_evals.mapping.engine import Engine
    from decoding_evals.shell.progress import ScoringProgress
    from decoding_evals.showing.terminal import Shown


class Destination(ExitStack):
    """Where results go: into a file, to standard output as JSON, or onto the terminal as tables.

    Args:
        options: of the command: `output`, `resume`, `as_json`, `page_data` and `plot`, as far as it
            has them.

    Raises:
        click.ClickException: the file, the picture or standard output could not be written.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options
        self.plot = options.get("plot")
        check_plot(self.plot)
        self.file = self.enter_context(record_file(options))
        self.as_json = options["as_json"]
        self.for_pages = bool(options.get("page_data") or (self.file and self.file.is_page))

    def begun(self, *models: LanguageModel) -> Journal:
        """What keeps the steps of the command; see `decoding_evals.shell.resuming`."""
        return begun(self.file, *models)

    def engine(self, language_model: LanguageModel) -> Engine:
        """What works on the units of the command's input."""
        from decoding_evals.shell.engines import read_engine

        return read_engine(self.options, self.begun(language_model))

    def seed(self, given: int | None) -> int:
        """The seed of the command, whose models are loaded."""
        return settled_seed(self.file, given)

    @property
    def on_screen(self) -> bool:
        """Whether tables are printed."""
        return self.file is None and not self.as_json

    @property
    def shows_progress(self) -> bool:
        """Whether to show a bar: not where tables are written to the same terminal."""
        return not (self.on_screen and sys.stdout.isatty())

    def scoring(self, *, entropy: bool = False, lazily: bool = False) -> ScoringProgress:
        """Shows how far scoring has come; `lazily` says that results are delivered meanwhile."""
        from decoding_evals.shell.progress import ScoringProgress

        return ScoringProgress(self.shows_progress or not lazily, entropy=entropy)

    def deliver(
        self,
        results: Iterable[Any],
        *,
        inputs: Any = None,
        models: Collection[str] = (),
        unit: str = "text",
        done: str = "scored",
        notes: Iterable[str] = (),
        together: Callable[[list[dict[str, Any]]], Iterable[Shown]] | None = None,
        rows: Callable[[Any], list[dict[str, Any]]] | None = None,
    ) -> None:
        """Write each result as it comes, and a picture of the first.

        Args:
            results: each a `Result`; taken lazily.
            inputs: the `Inputs` that texts come from, which name the results of single texts.
            models: names of those that records are scored with.
            unit: what a result is of.
            done: what happened to those that are finished, said after their number.
            notes: lines for standard error, after those of the inputs.
            together: makes tables of all records at the end, in place of each one's own.
            rows: the records that are written of a result in place of its own, and are the lines
                of its table.

        Raises:
            Interrupted: on Ctrl-C; what is finished stays.
        """
        from decoding_evals.showing.terminal import counted, print_table, table_of_rows
        from decoding_evals.showing.view import subject_of

        count = 0
        kept: list[dict[str, Any]] = []
        record: dict[str, Any] = {}
        ended = None
        try:
            for result in results:
                with uninterrupted():
                    record, result = self._written(result, inputs, rows)
                    if self.on_screen and rows is not None:
                        print_table(table_of_rows(subject_of(record), rows(result)))
                    elif self.on_screen and together is None:
                        print_table(*result.tables())
                    elif self.on_screen:
                        kept.append(record)
                    if self.plot is not None and not count and (figure := result.plot()):
                        write_plot(figure, self.plot)
                    count += 1
        except KeyboardInterrupt:
            raise Interrupted(f"{counted(count, unit)} {done}") from None
        except Interrupted as interrupted:
            ended = interrupted
        if together is not None and kept:
            print_table(*together(kept))
        if self.plot is not None and count > 1:
            note(f"{str(self.plot)!r} shows the first of {counted(count, unit)}")
        for line in [*(inputs.notes(models) if inputs is not None else ()), *notes]:
            note(line)
        if record.get("full_logits"):
            note(f"logits computed in full: {record['full_logits']}")
        if ended is None and not record.get("complete", True):
            ended = Interrupted(result.interruption())
        if ended is not None:
            raise ended

    def _written(
        self, result: Any, inputs: Any, rows: Callable[[Any], list[dict[str, Any]]] | None
    ) -> tuple[dict[str, Any], Any]:
        """Write the record, or its rows, unless tables are shown; return it and the result under
        its name."""
        from decoding_evals.showing.result import TextResult
        from decoding_evals.showing.view import ROWS, subject_of

        if isinstance(result, TextResult) and inputs is not None:
            result = replace(result, name=inputs.names[result.index])
        record = result.page_record() if self.for_pages else result.record()
        if not isinstance(result, TextResult) and inputs is not None:
            record |= {"skipped_rows": inputs.skipped_rows}
        written = [] if self.on_screen else [record] if rows is None else rows(result)
        if self.file is not None and rows is not None and self.file.is_page:
            self.file.write({"subject": subject_of(record), "rows": written}, ROWS)
        elif self.file is not None:
            for row in written:
                self.file.write(row, result.view)
        elif written:
            write_line("\n".join(map(to_json, written)))
        return record, result
