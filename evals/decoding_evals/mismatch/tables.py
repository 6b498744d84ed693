"""A mismatch in a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from decoding_evals.showing.terminal import Shown, counted, number, titled

WORDS = {
    "none": "none: the engine and the model agree",
    "shift": "shift: the log-probabilities are of other places",
    "bos": "bos: the prompt began otherwise",
    "temperature": "temperature: the engine's is another",
    "processed": "processed: of a distribution before or behind cuts that --setting does not say",
    "dtype": "dtype: the engine computed in another",
    "unknown": "unknown: nothing that was tried explains it",
}


def tables(record: dict[str, Any]) -> Iterator[Shown]:
    """One line per figure, the cause first."""
    sequences = counted(record["sequences"], "sequence")
    title = f"{record['model']} under {record['setting']} · {sequences}, "
    table = titled(title + counted(record["tokens"], "token"), show_header=False)
    said = WORDS[record["cause"]]
    if record["explained_by"] is not None:
        said += f" ({record['explained_by']}"
        share = record["explained_share"]
        said += ")" if share is None else f", which explains {100 * share:.1f} %)"
    table.add_row("cause", said)
    largest = _small(record["max_abs_log_ratio_nats"])
    verdict = "within" if record["agrees"] else "above"
    table.add_row("largest |δ|", f"{largest} nats, {verdict} {record['tolerance_nats']:.2g}")
    shown = record["abs_log_ratio_percentiles_nats"].items()
    table.add_row("|δ|", " · ".join(f"{q} % {_small(value)}" for q, value in shown))
    table.add_row("noise floor", f"{_small(record['noise_floor_nats'])} nats")
    table.add_row("mean δ (k1)", f"{_small(record['k1_nats'])} nats")
    table.add_row("k3", f"{_small(record['k3_nats'])} nats")
    table.add_row("χ²", _small(record["chi2"]))
    table.add_row("effective sample share", number(record["effective_sample_share"]))
    table.add_row("log kept mass", f"{_small(record['log_kept_mass_nats'])} nats")
    if record["entropy_bounds_nats"] is not None:
        low, high = map(number, record["entropy_bounds_nats"])
        table.add_row("engine's entropy", f"{low} to {high} nats, by its likeliest tokens")
    yield table
    if record["tokens_at_edge"]:
        at_edge = counted(record["tokens_at_edge"], "token")
        yield f"{at_edge} whose cut rounding decides, which agree on its other side"
    if record["tokens_outside"]:
        outside = counted(record["tokens_outside"], "token")
        yield f"{outside} that the setting cuts off: δ is infinite"
    if record["tokens_left_out"]:
        left_out = counted(record["tokens_left_out"], "token")
        yield f"{left_out} left out: masked, or the first of all"
    for reason, count in record["sequences_skipped"].items():
        yield f"{counted(count, 'sequence')} left out: {reason}"


def _small(value: float | None) -> str:
    """A figure that may be rounding alone."""
    return number(value) if value is None or value == 0 or abs(value) >= 0.001 else f"{value:.1e}"
