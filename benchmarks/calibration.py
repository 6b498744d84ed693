"""Temperatures recovered from sampled text, and what the prior is good for with little of it.

Text is sampled at a known temperature and fitted from its token ids. Every repeat has a seed of its
own. Finished fits stand in a file of the working folder, so that a run can be taken up again.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import click
import torch
from results import write_section

from decoding import DecodingSettings, LanguageModel, generate, load_model
from decoding.scoring.teacher_forcing import TokenDocument
from decoding_evals.calibrate.evaluation import calibrate

TEMPERATURES = (0.5, 0.7, 1.0, 1.5)
MODELS = {
    "builtin:stories": "builtin:stories",
    "stories260K": Path(__file__).resolve().parents[2] / "shared/models/stories260K",
}


def sampled(
    language_model: LanguageModel, temperature: float, tokens: int, seed: int
) -> list[TokenDocument]:
    """Samples of the empty prompt, with so many tokens in all."""
    bos = language_model.tokenizer.bos_token_id
    length = min(tokens, 250)
    text: list[TokenDocument] = []
    while tokens:
        generations = generate(
            language_model, "",
            DecodingSettings(temperature=temperature), max_new_tokens=length,
            num_return_sequences=tokens * 5 // length // 4 + 1, batch_size=64, seed=seed,
        )  # fmt: skip
        seed += 1_000_003
        for generation in generations:
            ids = generation.trace.ids.tolist()[:tokens]
            text += [TokenDocument(ids, [bos])] if ids else []
            tokens -= len(ids)
    return text


def fitted(
    language_model: LanguageModel, name: str, temperature: float, tokens: int, repeat: int
) -> dict[str, Any]:
    """One repeat."""
    place = [*MODELS].index(name) * len(TEMPERATURES) + TEMPERATURES.index(temperature)
    seed = (tokens * 1000 + repeat) * 10 + place
    text = sampled(language_model, temperature, tokens, seed)
    record = calibrate(language_model, text, held_out=0).record()
    kept = (
        "temperature", "confidence_interval", "bootstrap_interval", "map_temperature",
        "map_interval", "steps", "passes", "tokens", "documents",
    )  # fmt: skip
    return {"model": name, "true": temperature, "repeat": repeat} | {
        key: record[key] for key in kept
    }


def holds(interval: list[float | None] | None, truth: float) -> bool:
    """Whether an interval holds the truth."""
    if interval is None:
        return False
    low, high = interval
    return low is not None and low <= truth and (high is None or truth <= high)


def recovery(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the long texts."""
    table = [
        "| model | T | repeats | mean estimate | holds T: Fisher | bootstrap | widest, of T |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for truth in TEMPERATURES:
            some = [row for row in rows if row["model"] == model and row["true"] == truth]
            mean = statistics.mean(row["temperature"] for row in some)
            fisher, bootstrap = (
                sum(holds(row[name], truth) for row in some)
                for name in ("confidence_interval", "bootstrap_interval")
            )
            widest = max(
                row["confidence_interval"][1] - row["confidence_interval"][0] for row in some
            )
            table.append(
                f"| {model} | {truth} | {len(some)} | {mean:.4f} | {fisher} | {bootstrap} "
                f"| {widest / truth:.3f} |"
            )
    inside = sum(holds(row["confidence_interval"], row["true"]) for row in rows)
    other = sum(holds(row["bootstrap_interval"], row["true"]) for row in rows)
    steps = [row["steps"] for row in rows]
    table += [
        "",
        f"In all, the true T lies in the interval of {inside} of {len(rows)} "
        f"({inside / len(rows):.1%}); in that of the document bootstrap {other} "
        f"({other / len(rows):.1%}). Newton steps over the whole text: {min(steps)} to "
        f"{max(steps)}, after those on its beginning.",
    ]
    return table


def small(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the short texts: both estimates beside each other."""
    table = [
        "| estimate | smallest | largest | inside [0.2, 5] | exactly 0 "
        "| root mean square of ln(estimate / T), where above 0 | 95 % interval holds T |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, key, interval in (
        ("maximum likelihood", "temperature", "confidence_interval"),
        ("MAP, median 1, scale 0.5", "map_temperature", "map_interval"),
    ):
        values = [row[key] for row in rows]
        errors = [math.log(row[key] / row["true"]) for row in rows if row[key]]
        spread = math.sqrt(statistics.mean(error**2 for error in errors))
        inside = sum(0.2 <= value <= 5 for value in values)
        covered = sum(holds(row[interval], row["true"]) for row in rows)
        table.append(
            f"| {name} | {min(values):.3f} | {max(values):.3f} | {inside} of {len(rows)} "
            f"| {values.count(0)} | {spread:.3f} | {covered} |"
        )
    return table


@click.command()
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Folder of the finished fits."
)
@click.option("--repeats", default=20, show_default=True, help="Of 5,000 tokens, each cell.")
@click.option("--small-repeats", default=25, show_default=True, help="Of 20 tokens, each cell.")
def main(work: Path, repeats: int, small_repeats: int) -> None:
    """Fit what is not fitted yet, and write the tables into RESULTS.md."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "calibration.jsonl"
    rows = [json.loads(line) for line in path.open()] if path.exists() else []
    done = {(row["model"], row["true"], row["tokens"], row["repeat"]) for row in rows}
    models = {name: load_model(str(place)) for name, place in MODELS.items()}
    jobs = [
        (name, truth, tokens, repeat)
        for tokens, count in ((20, small_repeats), (5000, repeats))
        for repeat in range(count)
        for name in MODELS
        for truth in TEMPERATURES
    ]
    with path.open("a") as file:
        for name, truth, tokens, repeat in jobs:
            if (name, truth, tokens, repeat) in done:
                continue
            rows.append(fitted(models[name], name, truth, tokens, repeat))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            click.echo(f"{name} T={truth} {tokens} {repeat}: {rows[-1]['temperature']}", err=True)
    wanted = set(jobs)
    rows = [
        row for row in rows
        if (row["model"], row["true"], row["tokens"], row["repeat"]) in wanted
    ]  # fmt: skip
    long = [row for row in rows if row["tokens"] == 5000]
    short = [row for row in rows if row["tokens"] == 20]
    body = "\n".join(
        [
            "Text sampled from the model itself after an empty prompt, in sequences of up to 250 "
            "tokens, fitted from its token ids; every repeat has a seed of its own.",
            "",
            f"5,000 tokens, {repeats} repeats of each:",
            "",
            *recovery(long),
            "",
            f"20 tokens, {len(short)} repeats over the same models and temperatures:",
            "",
            *small(short),
        ]
    )
    write_section("Temperature recovered", "python benchmarks/calibration.py --work FOLDER", body)
    click.echo(body)


if __name__ == "__main__":
    main()
