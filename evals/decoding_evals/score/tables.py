"""Scores in tables: the tokens of a text, or the choices that follow a prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from decoding_evals.showing.lines import in_a_line
from decoding_evals.showing.result import title_of
from decoding_evals.showing.terminal import counted, number, shaded, titled


def token_tables(record: dict[str, Any]) -> Iterator[Table]:
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
