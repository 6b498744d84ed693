"""Comparisons in tables."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from rich.table import Table

from decoding_evals.showing.result import taken_over
from decoding_evals.showing.terminal import counted, number, titled

MOST_PAIRED = 12
"""Settings of which a table shows every pair."""


def setting_tables(record: dict[str, Any]) -> Iterator[Table]:
    """What each setting does to the model, how it fits the text, and each pair of few settings."""
    own = titled(
        f"{record['model']} · {_scored(record)}", ">", "setting", ">entropy\n(nats)",
        ">effective\nchoices", ">kept\ntokens", ">kept\nmass",
    )  # fmt: skip
    of_text = titled(
        "\nthe text's tokens", ">", ">covered", ">cross-entropy\n(nats)",
        ">of those covered\n(nats)",
    )  # fmt: skip
    for index, setting in enumerate(record["settings"]):
        of = {name: values[index] for name, values in record.items() if isinstance(values, list)}
        exact = of["cross_entropy_nats"]
        own.add_row(
            f"[{index + 1}]",
            setting,
            _four_decimals(of["entropy_nats"], of["entropy_standard_error"]),
            number(of["effective_choices"]),
            number(of["kept"]),
            number(of["kept_mass"]),
        )
        of_text.add_row(
            f"[{index + 1}]",
            _four_decimals(of["coverage"], of["coverage_standard_error"]),
            "infinite" if exact is None else number(exact),
            number(of["covered_cross_entropy_nats"]),
        )
    yield own
    yield of_text
    count = len(record["settings"])
    if not 1 < count <= MOST_PAIRED:
        return
    title = "\npairs: KL both ways and Jensen-Shannon divergence in nats, total variation"
    pairs = titled(title, ">i", ">j", ">KL(i‖j)", ">KL(j‖i)", ">JS", ">TV")
    kl, js, variation = (record[name] for name in ("kl_nats", "js_nats", "total_variation"))
    for i, j in combinations(range(count), 2):
        ways = ("infinite" if value is None else number(value) for value in (kl[i][j], kl[j][i]))
        pairs.add_row(f"[{i + 1}]", f"[{j + 1}]", *ways, number(js[i][j]), number(variation[i][j]))
    yield pairs


def _scored(record: dict[str, Any]) -> str:
    sign = "± from " if record["units"] > 1 else ""
    return f"{counted(record['tokens_scored'], 'token')} scored · {sign}{taken_over(record)}"


def model_tables(record: dict[str, Any]) -> Iterator[Table]:
    """One line per measure."""
    a, b = record["models"]
    table = titled(f"A {a} · B {b} · {_scored(record)}", show_header=False)

    def figure(value: Any, error: Any, place: int | None = None) -> str:
        value, error = record[value], record[error]
        if place is not None:
            value, error = value[place], error[place]
        return number(value) if error is None else f"{number(value)} ± {number(error)}"

    for place, name in enumerate("AB"):
        table.add_row(f"perplexity {name}", number(record["perplexity"][place]))
        table.add_row(f"nats per token {name}", figure("nll_nats", "nll_standard_error", place))
    ratio, interval = number(record["perplexity_ratio"]), ""
    if record["perplexity_ratio_confidence_interval"] is not None:
        low, high = map(number, record["perplexity_ratio_confidence_interval"])
        interval = f" (95 %: {low} to {high})"
    table.add_row("perplexity B / A", ratio + interval)
    for place, name in enumerate(("KL(A‖B), nats", "KL(B‖A), nats")):
        table.add_row(name, figure("kl_nats", "kl_standard_error", place))
    percentiles = {"KL(A‖B)": "kl_percentiles_nats", "Δp of the true token": "delta_p_percentiles"}
    for name, key in percentiles.items():
        shown = [f"{q} % {number(record[key][q])}" for q in ("1", "10", "50", "90", "99", "99.9")]
        table.add_row(name, " · ".join([*shown, f"max {number(record[key]['max'])}"]))
    table.add_row("mean Δp, B - A", figure("delta_p", "delta_p_standard_error"))
    table.add_row("root mean square Δp", number(record["delta_p_rms"]))
    table.add_row("same favourite token", figure("same_top_share", "same_top_standard_error"))
    for place, name in enumerate(("entropy A, nats", "entropy B, nats")):
        table.add_row(name, figure("entropy_nats", "entropy_standard_error", place))
    for place, name in enumerate(("H(A, B), nats", "H(B, A), nats")):
        table.add_row(name, figure("cross_entropy_nats", "cross_entropy_standard_error", place))
    table.add_row("Binoculars", figure("binoculars", "binoculars_standard_error"))
    yield table


def _four_decimals(value: float, error: float | None) -> str:
    return number(value) if error is None else f"{value:.4f} ± {error:.4f}"
