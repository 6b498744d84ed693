"""`--human FILE`: the texts of people that a threshold is fitted on."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from decoding_evals.reading.texts import Inputs
from decoding_evals.shell.options import Between, option, stacked

human_options = stacked(
    option(
        "--human FILE",
        "Texts that people wrote, of the same kind and length: texts are flagged beyond a "
        "threshold that is fitted on them.",
    ),
    option(
        "--false-positives RATE",
        "At most this share of texts of such people is flagged, with 95 % confidence.",
        type=Between(0, 1, min_open=True, max_open=True),
        default=0.05,
    ),
)


def read_human(options: dict[str, Any]) -> Inputs | None:
    """The texts of `--human`, read as those in FILES are; None where there are none.

    Raises:
        click.UsageError: `--false-positives` without them.
    """
    source = click.get_current_context().get_parameter_source("false_positives")
    if options["human"] is None:
        if source is ParameterSource.COMMANDLINE:
            raise click.UsageError("--false-positives needs --human")
        return None
    return Inputs(
        [options["human"]],
        column=options["column"],
        records=True,
        skip_bad_rows=options["skip_bad_rows"],
    )
