"""`decoding attention`."""

from __future__ import annotations

from typing import Any

import click

from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.options import (
    Command,
    bos_option,
    context_option,
    model_options,
    read_model,
    read_windows,
)
from decoding_evals.shell.paging import asks_for_page, page_data_options
from decoding_evals.shell.plots import plot_option


@click.command(cls=Command)
@input_options
@model_options
@context_option
@bos_option
@page_data_options
@plot_option("Draw the first text's entropy by layer and head.")
def attention(**options: Any) -> None:
    """Entropy of each head's attention over the texts in FILES (or standard input).

    Entropy is divided by ln(keys that the token may look at), so 0 means that all weight is on one
    key and 1 that it is spread evenly. "Without the sink" leaves out the first token, on which many
    heads put their weight. A head is collapsed where its mean is below 0.05. --json has every head
    and every token.
    """
    page = asks_for_page(options)
    windows = read_windows(options)
    with Destination(options) as destination:
        inputs = Inputs.from_options(options)
        language_model = read_model(options)
        from decoding_evals.attention.evaluation import attention as evaluate

        with destination.scoring(entropy=True, lazily=True) as progress:
            results = evaluate(
                language_model, inputs.texts(), windows=windows, page=page,
                journal=destination.begun(language_model), on_progress=progress,
            )  # fmt: skip
            destination.deliver(results, inputs=inputs, done="measured")
