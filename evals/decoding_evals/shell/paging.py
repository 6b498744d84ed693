"""Options of commands whose pages show more than their records."""

from __future__ import annotations

from typing import Any

import click

from decoding_evals.shell.options import option, stacked
from decoding_evals.shell.output import PAGE
from decoding_evals.shell.resuming import resumable_options

# What `asks_for_page` takes.
page_data_options = stacked(
    resumable_options,
    click.option(
        "--page-data",
        is_flag=True,
        help='Add to the records what "decoding show" needs for the whole page.',
    ),
)
# What `read_detail` takes, beside those of a command whose pages recompute.
page_options = stacked(
    page_data_options,
    option(
        "--detail N",
        "Tokens of each position that a page keeps one by one: more make it more exact, and "
        "larger.  [default: 192]",
    ),
)


def asks_for_page(options: dict[str, Any]) -> bool:
    """Whether there is to be a page, or with `page_data` records that one can be made of.

    Raises:
        click.UsageError: `--page-data` has no place to be.
    """
    page_data, output = options["page_data"], options["output"]
    is_page = output is not None and output.suffix.lower() == PAGE
    if page_data and is_page:
        raise click.UsageError("--page-data is for records; a page has it")
    if page_data and output is None and not options["as_json"]:
        raise click.UsageError("--page-data adds to records: give --json or --output too")
    return page_data or is_page


def read_detail(options: dict[str, Any]) -> int | None:
    """How detailed a page is to be; None where no page is asked for.

    Args:
        options: those of `page_options`.

    Raises:
        click.UsageError: there is no page to be detailed, or it cannot be so detailed.
    """
    detail = options["detail"]
    if not asks_for_page(options):
        if detail is not None:
            raise click.UsageError(
                f"--detail is of a page: give --output FILE{PAGE} or --page-data too"
            )
        return None
    from decoding.rows.packed import DETAIL, PackedRows

    try:
        return PackedRows(1, DETAIL if detail is None else detail).detail
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error
