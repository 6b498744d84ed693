"""`decoding score`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.reading.items import Prompted
from decoding_evals.reading.texts import Inputs, input_options, read_talk, talk_options
from decoding_evals.score.human import human_options, read_human
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.engines import check_engine, engine_options
from decoding_evals.shell.options import (
    Command,
    of_text,
    option,
    read_model,
    read_setting,
    read_windows,
    reading_options,
)
from decoding_evals.shell.paging import page_options, read_detail
from decoding_evals.shell.plots import plot_option

if TYPE_CHECKING:
    from decoding_evals.score.document import DocumentScores
    from decoding_evals.score.words import Words


@click.command(cls=Command)
@input_options
@option(
    "--prompt-column NAME",
    "Column of prompts that the texts continue; a text may be a list of choices.",
)
@reading_options
@talk_options
@option("--setting SPEC", 'Score also under this setting, as in "temperature=0.7,top_p=0.9".')
@option("--per [document|token|word]", "What a record is of.", default="document")
@option(
    "--tokens TEXT/TEXT/…",
    'Also the probability of these tokens behind each text, as in " Yes/ No"; \\/ is a slash.',
)
@human_options
@engine_options
@page_options
@plot_option("Draw entropy and surprisal along the first text.")
def score(per: str, tokens: str | None, **options: Any) -> None:
    """Score every token of the texts in FILES (or standard input).

    A text file is one document; each row of a .jsonl, .csv or .parquet file is one. With
    --prompt-column, texts are scored as continuations of their prompts, as generate reads them, and
    the choices of a row are ranked by probability. Of a column of messages, what the assistant says
    is scored. Records of "decoding generate --json" are scored by the tokens that were drawn, after
    their prompts.

    The residual is (surprisal - entropy) / √varentropy: large where the model confidently expected
    something else. With --per word, words are what white space separates, and their corrected
    surprisal gives the probability that a word ends to that word.
    """
    spec = options["setting"]
    asked = None if spec is None else of_text(read_setting(spec, {}))
    _check(options, per, tokens)
    check_engine(options)
    page = read_detail(options)
    windows = read_windows(options)
    with Destination(options) as destination:
        talk = read_talk(options)._replace(opened=tokens is not None)
        inputs = Inputs.from_options(options, records=True, talk=talk)
        human = read_human(options)
        language_model = read_model(options)
        from decoding_evals.score import evaluation
        from decoding_evals.score.threshold import fit_threshold

        how: dict[str, Any] = {"windows": windows, "engine": destination.engine(language_model)}
        threshold = None
        if human is not None:
            with destination.scoring() as progress:
                scored = evaluation.score(
                    language_model, human.documents(language_model), on_progress=progress, **how
                )
                threshold = fit_threshold(
                    (text.curvature() for text in scored), options["false_positives"]
                )
        how |= {"setting": asked, "tokens": () if tokens is None else _texts(tokens)}
        how |= {"words": per == "word", "page": page if per == "document" else None}
        evaluate: Any = evaluation.score
        texts: Any = inputs.documents(language_model)
        if inputs.prompt_column is not None:
            evaluate = partial(evaluation.score_choices, chat=talk.chat, names=inputs.names)
            texts = ((row.prompt, row.choices) for row in inputs if isinstance(row, Prompted))
        found: list[Words] = []
        with destination.scoring(lazily=True) as progress:
            results = evaluate(language_model, texts, on_progress=progress, **how)
            if threshold is not None:
                results = (replace(result, human=threshold) for result in results)
            if per == "word":
                results = _with_words(results, found)
            destination.deliver(
                results, inputs=inputs, models=[language_model.name], rows=_ROWS[per],
                notes=_left_out(found),
            )  # fmt: skip


_ROWS: dict[str, Callable[[DocumentScores], list[dict[str, Any]]] | None] = {
    "document": None,
    "token": lambda scores: scores.per_token(),
    "word": lambda scores: scores.per_word(),
}


def _check(options: dict[str, Any], per: str, tokens: str | None) -> None:
    """Refuse options that do not go together."""
    if options["prompt_column"] is not None:
        if options["plot"] is not None:
            raise click.UsageError("--plot draws a text; it cannot be used with --prompt-column")
        if per != "document" or options["human"] is not None:
            asked = "--human" if per == "document" else f"--per {per}"
            raise click.UsageError(f"{asked} is of texts; it cannot be used with --prompt-column")
    if per != "document" and options["page_data"]:
        raise click.UsageError(f"--page-data is of documents; it cannot be used with --per {per}")
    if per == "word" and options["setting"] is not None:
        raise click.UsageError("--setting is of tokens; it cannot be used with --per word")
    if per != "document" and (tokens is not None or options["human"] is not None):
        asked = "--human" if tokens is None else "--tokens"
        raise click.UsageError(f"{asked} is of documents; it cannot be used with --per {per}")


def _texts(tokens: str) -> list[str]:
    """The texts that slashes part."""
    return [text.replace("\\/", "/") for text in re.split(r"(?<!\\)/", tokens)]


def _with_words(results: Iterator[DocumentScores], found: list[Words]) -> Iterator[DocumentScores]:
    """The results, whose words are remembered."""
    for result in results:
        found += [] if result.words is None else [result.words]
        yield result


def _left_out(found: list[Words]) -> Iterator[str]:
    """What to say of what has no row, once all words are known."""
    from decoding_evals.showing.lines import quoted
    from decoding_evals.showing.terminal import counted

    in_part = sum(words.in_part for words in found)
    if in_part:
        yield f"left out, because a part of them is not scored: {counted(in_part, 'word')}"
    unspaced = [stretch for words in found for stretch in words.unspaced]
    if unspaced:
        yield (
            f"left out, in scripts without spaces between words: {len(unspaced):,}, the first "
            f"{quoted(unspaced[0], 20)}"
        )
