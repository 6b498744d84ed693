"""An identification in tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from decoding_evals.showing.lines import quoted
from decoding_evals.showing.terminal import counted, number, titled
from decoding_evals.showing.view import title_of


def tables(record: dict[str, Any]) -> Iterator[Table]:
    """The verdict with one line per candidate, the best first; and the tokens that decided."""
    labels = labels_of(record)
    yield _candidates(record, labels)
    if record["deciding_tokens"]:
        yield _deciding_tokens(record, labels)


def _candidates(record: dict[str, Any], labels: list[str]) -> Table:
    ruled_out = {entry["candidate"]: entry for entry in record["ruled_out"]}

    def places(k: int) -> tuple[float, float]:
        return -(record["posterior"][k] or 0.0), -(record["coverage"][k] or 0.0)

    def cell(name: str, k: int, form: str) -> str:
        value = record[name][k]
        return "-" if value is None else f"{value:{form}}"

    unit = "shared piece" if record["pieces"] else "token"
    title = f"{title_of(record)}: {counted(record['tokens'], unit)} · {verdict(record)}"
    table = titled(
        title, "candidate", ">posterior", ">log q\n(nats)", ">log Bayes\nfactor\n(nats)",
        ">coverage", ">z", "ruled out at token",
    )  # fmt: skip
    for k in sorted(range(len(labels)), key=places):
        entry = ruled_out.get(k)
        infinite = entry is not None and record["best"] is not None
        table.add_row(
            labels[k],
            cell("posterior", k, ".4f"),
            cell("log_likelihood_nats", k, ".2f"),
            "infinite" if infinite else cell("log_bayes_factors_nats", k, ".2f"),
            cell("coverage", k, ".4f"),
            cell("z", k, "+.2f"),
            "" if entry is None else _ruled_out(entry),
        )
    captions = []
    if any(entry["retokenisation"] for entry in record["ruled_out"]):
        captions.append("* unless the text was written with other tokens than it is cut into")
    if record["pieces"]:
        captions.append(
            "The models cut the text differently: a piece ends where all of them end a token. A "
            "token that rules out is counted among those of its own model."
        )
    if captions:
        table.caption, table.caption_justify = "\n".join(captions), "left"
    return table


def _ruled_out(entry: dict[str, Any]) -> str:
    rank, kept = f"rank {entry['rank']:,}", f"{entry['kept']:,} kept"
    place = f"{entry['token'] + 1} {quoted(entry['text'])} ({rank}, {kept})"
    return place + (" *" if entry["retokenisation"] else "")


def _deciding_tokens(record: dict[str, Any], labels: list[str]) -> Table:
    best, runner_up = labels[record["best"]], labels[record["runner_up"]]
    unit = "piece" if record["pieces"] else "token"
    title = f"\nwhat moved the odds of {best} to {runner_up} most"
    table = titled(title, f">{unit}", "text", ">log ratio (nats)")
    for token in record["deciding_tokens"]:
        ratio = token["log_ratio_nats"]
        table.add_row(
            str(token["token"] + 1),
            quoted(token["text"]),
            ("+" if ratio > 0 else "") + number(ratio),
        )
    return table


def labels_of(record: dict[str, Any]) -> list[str]:
    """The names of the candidates."""
    several = len(set(record["models"])) > 1
    return [
        f"{setting} · {model}" if several else setting
        for setting, model in zip(record["settings"], record["models"], strict=True)
    ]


def verdict(record: dict[str, Any]) -> str:
    """Who wrote the text, or why none is named."""
    labels = labels_of(record)
    if record["decided"] is None:
        return f"none is named: {record['abstained_because']}"
    odds = record["log_odds_nats"]
    if odds is None:
        return f"{labels[record['best']]}; every other candidate is ruled out"
    shown = f"{math.exp(odds):,.0f}" if odds < 13 else f"10^{odds / math.log(10):.0f}"
    return f"{labels[record['best']]}, odds {shown} : 1"
