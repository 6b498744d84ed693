"""`decoding identify`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from decoding.settings.grids import MOST_SETTINGS
from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.options import (
    Between,
    Command,
    candidate_options,
    option,
    read_candidates,
    read_model,
    read_windows,
    reading_options,
)
from decoding_evals.shell.paging import asks_for_page, page_data_options
from decoding_evals.shell.plots import plot_option


@click.command(cls=Command)
@input_options
@candidate_options
@option(
    "--models A B",
    "Models instead of one; each setting of each is a candidate. Repeatable for more.",
    "pairs",
    nargs=2,
    multiple=True,
)
@option(
    "--prior P,P,…",
    "Weights of the candidates in their order, those of the first model first.  "
    "[default: all alike]",
)
@option(
    "--min-odds ODDS",
    "Name a candidate only if its odds against all others together reach this.",
    type=Between(min=1),
    default=10.0,
)
@reading_options
@page_data_options
@plot_option("Draw the odds of every candidate along the first text.")
def identify(
    specs: tuple[str, ...],
    grid: str | None,
    pairs: tuple[tuple[str, str], ...],
    prior: str | None,
    min_odds: float,
    **options: Any,
) -> None:
    """Find out which setting, or which model, wrote the texts in FILES (or standard input).

    Every text is scored under every candidate, and Bayes' rule turns the likelihoods into a
    posterior. A token outside a candidate's kept set rules it out. No candidate is named where the
    odds are weak, or where the text is not about as surprising as the best candidate's own texts
    are (|z| > 4).

    Records of "decoding generate --json" are scored by the tokens that were drawn, after their
    prompts. A plain text may have been written with other tokens than the tokenizer cuts it into;
    where that alone may rule a candidate out, the output says so.

    Without --setting and --grid, the candidates are "raw", "greedy" and some usual settings.
    """
    settings = read_candidates(specs, grid)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    source = click.get_current_context().get_parameter_source("model")
    if names and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --model or --models, not both")
    size = len(settings) * max(1, len(names))
    if not 2 <= size <= MOST_SETTINGS:
        raise click.UsageError(f"2 to {MOST_SETTINGS} candidates are needed, got {size}")
    weights = None if prior is None else _weights(prior, size)
    asks_for_page(options)
    windows = read_windows(options)
    with Destination(options) as destination:
        inputs = Inputs.from_options(options, records=True)
        models = [read_model(options, name) for name in names or (None,)]
        from decoding_evals.identify.evaluation import identify as evaluate

        with destination.scoring(entropy=True, lazily=True) as progress:
            results = evaluate(
                models,
                inputs.documents(models[0]),
                settings,
                prior=weights,
                min_odds=min_odds,
                windows=windows,
                journal=destination.begun(*models),
                on_progress=progress,
            )
            names = [model.name for model in models]
            destination.deliver(results, inputs=inputs, models=names, done="identified")


def _weights(text: str, size: int) -> list[float]:
    from decoding.inference.posterior import normalised_prior

    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--prior takes numbers, as in 0.5,0.3,0.2, got {text!r}") from None
    normalised_prior(size, weights)
    return weights
