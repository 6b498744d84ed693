"""Scores in tables: the tokens of a text, or the choices that follow a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from decoding_evals.showing.lines import in_a_line, quoted
from decoding_evals.showing.terminal import Shown, counted, number, shaded, titled
from decoding_evals.showing.view import title_of


def token_tables(record: dict[str, Any]) -> Iterator[Shown]:
    """One line per token."""
    title = f"{title_of(record)}: {counted(record['tokens_scored'], 'token')} scored"
    if record["tokens_not_scored"]:
        title += f", {record['tokens_not_scored']:,} not"
    if record["perplexity"] is not None:
        title += (
            f" · perplexity {number(record['perplexity'])} · mean entropy "
            f"{record['mean_entropy_nats']:.3f} nats"
        )
    if record["z"] is not None:
        title += f" · z {record['z']:+.2f}"
    table = titled(title, "token")
    measures = ["surprisal_nats", "entropy_nats", "varentropy_nats2", "residual", "rank"]
    if "setting" in record:
        measures += ["q_surprisal_nats", "q_entropy_nats", "kept"]
    for name in measures:
        label = name.replace("_nats2", "\n(nats²)").replace("_nats", "\n(nats)").replace("_", "\n")
        label = label.replace("q\nsurp", "q surp").replace("surp", "sur-\np")
        label = label.replace("varent", "var-\nent")
        table.add_column(label, justify="right")
    for token in record["tokens"]:
        cells = [number(token[name]) for name in measures]
        if token.get("covered") is False:
            cells[measures.index("q_surprisal_nats")] = "cut off"
        surprisal = token["surprisal_nats"]
        shade = math.inf if surprisal is None else surprisal
        table.add_row(shaded(in_a_line(token["text"]), shade), *cells)
    yield table
    if record.get("next_tokens"):
        yield _next_table("\nbehind the text", record["next_tokens"])
    if "threshold" in record:
        said = {True: "flagged", False: "not flagged", None: "undefined"}[record["flagged"]]
        figure = f"curvature {number(record['curvature'])}, {said}"
        yield f"\n{figure}; {threshold_line(record['threshold'])}"


def threshold_line(fitted: dict[str, Any]) -> str:
    """What was fitted, and how far it can be trusted."""
    texts = counted(fitted["human_texts"], "human text")
    rate, confidence = (100 * fitted[name] for name in ("false_positive_rate", "confidence"))
    return (
        f"{'above' if fitted['above'] else 'below'} the threshold of {number(fitted['value'])} lie "
        f"{fitted['human_texts_beyond']:,} of {texts}, and with {confidence:g} % confidence at "
        f"most {rate:g} % of all texts like these"
    )


def choice_tables(record: dict[str, Any]) -> Iterator[Table]:
    """One line per choice, best first."""
    heads = (">rank", ">by byte", ">log p (nats)", ">per byte", ">tokens", "choice")
    table = titled(f"{title_of(record)}: {record['prompt']}", *heads)
    for place, index in enumerate(record["ranking"], 1):
        choice = record["choices"][index]
        places = (str(place), str(record["ranking_per_byte"].index(index) + 1))
        figures = (number(choice[f"log_prob_nats{per}"]) for per in ("", "_per_byte"))
        scored, text = str(choice["tokens_scored"]), choice["text"]
        table.add_row(*places, *figures, scored, text)
    yield table
    for choice in record["choices"]:
        if choice.get("next_tokens"):
            title = f"\nbehind {quoted(choice['text'], 40)}"
            yield _next_table(title, choice["next_tokens"])


def _next_table(title: str, tokens: Sequence[dict[str, Any]]) -> Table:
    """The named tokens that may follow."""
    table = titled(title, "token", ">log p (nats)", ">p among these")
    for token in tokens:
        among = token["normalized_log_prob_nats"]
        share = number(None if among is None else math.exp(among))
        table.add_row(in_a_line(token["text"]), number(token["log_prob_nats"]), share)
    return table
