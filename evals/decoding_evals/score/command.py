"""`decoding score`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from decoding_evals.reading.items import Prompted
from decoding_evals.reading.texts import Inputs, input_options, read_talk, talk_options
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.options import (
    Command,
    of_text,
    option,
    page_options,
    read_detail,
    read_model,
    read_setting,
    read_windows,
    reading_options,
)
from decoding_evals.shell.plots import plot_option


@click.command(cls=Command)
@input_options
@option(
    "--prompt-column NAME",
    "Column of prompts that the texts continue; a text may be a list of choices.",
)
@reading_options
@talk_options
@option("--setting SPEC", 'Score also under this setting, as in "temperature=0.7,top_p=0.9".')
@page_options
@plot_option("Draw entropy and surprisal along the first text.")
def score(setting: str | None, detail: int | None, **options: Any) -> None:
    """Score every token of the texts in FILES (or standard input).

    A text file is one document; each row of a .jsonl, .csv or .parquet file is one. With
    --prompt-column, texts are scored as continuations of their prompts, as generate reads them, and
    the choices of a row are ranked by probability. Of a column of messages, what the assistant says
    is scored.

    The residual is (surprisal - entropy) / √varentropy: large where the model confidently expected
    something else.
    """
    asked = None if setting is None else of_text(read_setting(setting, {}))
    if options["plot"] is not None and options["prompt_column"] is not None:
        raise click.UsageError("--plot draws a text; it cannot be used with --prompt-column")
    windows = read_windows(options)
    page = read_detail(options["output"], detail)
    with Destination({**options, "detail": page}) as destination:
        talk = read_talk(options)
        inputs = Inputs.from_options(options, talk=talk)
        language_model = read_model(options)
        from decoding_evals.score import evaluation

        evaluate: Any = evaluation.score
        texts: Any = inputs.documents(language_model)
        if inputs.prompt_column is not None:
            evaluate = partial(evaluation.score_choices, chat=talk.chat, names=inputs.names)
            texts = ((row.prompt, row.choices) for row in inputs if isinstance(row, Prompted))
        with destination.scoring(lazily=True) as progress:
            results = evaluate(
                language_model, texts, windows=windows, setting=asked, page=page,
                on_progress=progress,
            )  # fmt: skip
            destination.deliver(results, inputs=inputs)
