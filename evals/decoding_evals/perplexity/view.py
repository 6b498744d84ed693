"""How a perplexity is shown."""

from __future__ import annotations

from typing import Any

from decoding_evals.perplexity.tables import result_tables
from decoding_evals.showing.terminal import counted, number
from decoding_evals.showing.view import subject_of, table_view


def _subject(record: dict[str, Any]) -> str:
    protocol = record["protocol"]
    return subject_of(record) + (f" · {protocol}" if protocol != "default" else "")


def _headline(record: dict[str, Any]) -> str:
    """What the protocol's tool reports, in a sentence."""
    value, unit = record[record["headline"]], "token"
    if record["headline"] == "word_perplexity":
        unit = "word"
    scored = f"over {counted(record['tokens_scored'], 'token')}"
    if value is None:
        return f"The perplexity per {unit}, {scored}, is beyond the largest number."
    interval = ""
    if unit == "token" and record["confidence_interval"] is not None:
        low, high = map(number, record["confidence_interval"])
        interval = f" (95 %: {low} to {high})"
    return (
        f"Perplexity {number(value)} per {unit}{interval}, {scored}: the model was as unsure of "
        f"each {unit} as of one of {number(value)} that are equally likely."
    )


VIEW = table_view("perplexity", "perplexity headline protocol", result_tables,
                  subject=_subject, about=_headline)  # fmt: skip
VIEWS = (VIEW,)
