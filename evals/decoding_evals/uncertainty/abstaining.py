"""Thresholds of uncertainty in files: found on judged prompts, applied to others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.judging.abstention import abstention_threshold
from decoding_evals.reading.rows import FORMATS, file_rows, parsed
from decoding_evals.shell.output import check_source

if TYPE_CHECKING:
    from decoding_evals.uncertainty.result import PromptUncertainty

SHARED = ("model", "settings", "chat", "answer", "clustering", "similarity")
"""Keys of records in which a run must equal the one that a threshold is of."""


def conditions(record: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What the uncertainties of a run depend on besides its prompts."""
    drawn = {name: options[name] for name in ("max_new_tokens", "stop")}
    if record["greedy"] is None:
        drawn = dict.fromkeys(drawn)
    samples = {"num_samples": len(record["samples"])}
    return {name: record[name] for name in SHARED} | samples | drawn


def abstention(
    records: Sequence[Mapping[str, Any]], *, estimator: str, risk: float, confidence: float
) -> dict[str, Any]:
    """The record of the threshold that judged records give; see `abstention_threshold`."""
    judged = [record for record in records if record["correct"] is not None]
    found = abstention_threshold(
        [record["estimators"].get(estimator) for record in judged],
        [record["correct"] for record in judged],
        risk=risk,
        confidence=confidence,
    )
    return {"estimator": estimator, **found.record()}


def read_threshold(file: Path, estimator: str | None) -> dict[str, Any]:
    """The `abstention` of a file that `--evaluation` wrote.

    Raises:
        click.UsageError: another kind of file, or another estimator than is asked for.
        click.ClickException: it holds none.
    """
    if file.suffix.lower() not in FORMATS:
        raise click.UsageError(f"--abstain-by takes {', '.join(FORMATS)}, got {str(file)!r}")
    check_source(file)
    rows = [row for _, row in islice(file_rows(file).read(None), 2)]
    if len(rows) > 1:
        raise click.ClickException(f"{str(file)!r} has several rows; --evaluation writes one")
    held: Any = rows[0].get("evaluation") if rows and isinstance(rows[0], dict) else None
    try:
        held = parsed(held) if isinstance(held, str) else held  # a cell of CSV
        found: dict[str, Any] = held["abstention"]
        value = found["threshold"]
        name, _ = found["estimator"], found["conditions"].items()
        known = isinstance(name, str) and (value is None or math.isfinite(value))
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError, OverflowError):
        known = False
    if not known:
        raise click.ClickException(
            f"{str(file)!r} holds no threshold: --evaluation writes one where --risk is given"
        )
    if estimator not in (None, name):
        raise click.UsageError(f"--abstain-by: {str(file)!r} is of {name}, not of {estimator}")
    return found


def checked(
    results: Iterator[PromptUncertainty],
    estimator: str | None,
    threshold: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Iterator[PromptUncertainty]:
    """Results of which an estimator is asked for, and which say whether a threshold abstains.

    Raises:
        click.UsageError: there is no such estimator.
        click.ClickException: the threshold is of another run.
    """
    needed = estimator if threshold is None else threshold["estimator"]
    asked_by = "--estimator" if threshold is None else "--abstain-by"
    for place, result in enumerate(results):
        # Later rows may lack what only some have, such as paraphrases: it is undefined there.
        if place == 0 and needed is not None and needed not in result.estimators:
            raise click.UsageError(
                f"{asked_by}: there is no {needed!r}; there are {', '.join(result.estimators)}"
            )
        if threshold is None:
            yield result
            continue
        own = conditions(result.record(), options)
        for name in own | threshold["conditions"]:
            if own.get(name) != (wanted := threshold["conditions"].get(name)):
                raise click.ClickException(
                    f"--abstain-by: its threshold is of {name} {_said(wanted)}, "
                    f"and this run is of {_said(own.get(name))}"
                )
        value, most = result.estimators.get(threshold["estimator"]), threshold["threshold"]
        yield replace(result, abstained=value is None or most is None or not value < most)


def _said(value: Any) -> str:
    return "none" if value is None else repr(value)
