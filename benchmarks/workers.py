"""Perplexity of many documents on one and on two workers of Ray, each with one thread, in turns.

A turn is the whole call: actors start, load the model, and work; the cluster runs already. The
numbers are held against those of this process, which has one thread as well. Then: what this
process can hand on, without a model; and the memory while a million rows stream through.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import click
import torch
from results import write_section
from scoring import resident
from truncation import spread

from decoding import LanguageModel, load_model
from decoding.inference.intervals import BlockSums
from decoding.scoring.account import Account
from decoding.scoring.windows import Windows
from decoding_evals.mapping.engine import IN_PROCESS, Engine
from decoding_evals.mapping.ray import RayData
from decoding_evals.mapping.units import units_of
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.reading.interruptible import ReadPart

WINDOWS = Windows(batch_size=32)
ROW = "The {} sat."
ANIMALS = ("cat", "dog", "bird", "fish", "fox", "bear", "duck", "frog")


def documents(source: Path, count: int, characters: int) -> list[str]:
    """So many pieces of a text, each of so many characters.

    Where it is too short, it is read again, with other beginnings.
    """
    text = source.read_text(encoding="utf-8")
    starts = ((i * characters) % (len(text) - characters) for i in range(count))
    return [text[start : start + characters] for start in starts]


def measured(language_model: LanguageModel, texts: Any, engine: Engine) -> tuple[float, Any]:
    """Seconds, and the record."""
    start = time.perf_counter()
    result = perplexity(language_model, texts, windows=WINDOWS, engine=engine)
    return time.perf_counter() - start, result.record()


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest relative difference of a figure."""
    return max(
        abs(other[name] - value) / max(1, abs(value))
        for name, value in one.items()
        if isinstance(value, float)
    )


def turns(language_model: LanguageModel, texts: list[str], repeats: int) -> str:
    """One worker, two workers, and this process; then two of which one is killed."""
    engines = {
        "2": RayData(load_model, workers=2),
        "1": RayData(load_model, workers=1),
        "0": IN_PROCESS,
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    records: dict[str, Any] = {}
    for turn in range(repeats):
        for name, engine in engines.items():
            if turn and engine is IN_PROCESS:
                continue
            took, records[name] = measured(language_model, texts, engine)
            seconds[name].append(took)
    killer = Timer(seconds["2"][0] / 2, kill)
    killer.start()
    took, killed = measured(language_model, texts, engines["2"])
    killer.join()
    pairs = zip(seconds["1"], seconds["2"], strict=True)
    [own] = seconds["0"]
    tokens = records["0"]["tokens_scored"]
    differ = max(furthest(records["0"], records[name]) for name in ("1", "2"))
    return (
        f"{len(texts):,} documents, {tokens:,} tokens, {repeats} turns.\n\n"
        f"- One worker takes {spread([one / two for one, two in pairs])} times the time of two.\n"
        f"- This process, whose model is loaded, takes {own / seconds['1'][0]:.2f} of the time of "
        "one worker.\n"
        f"- One worker scores {tokens / statistics.median(seconds['1']):,.0f} tokens a second, "
        "its start included.\n"
        f"- Largest relative difference of any figure from this process's: {differ:.1g}; after a "
        f"worker was killed in the middle {furthest(records['0'], killed):.1g} "
        f"({took / statistics.median(seconds['2']):.2f} of the time)."
    )


def kill() -> None:
    """End the newest worker as the system does when memory is short."""
    subprocess.run(["pkill", "--signal", "KILL", "--newest", "--full", "ray::MapWorker"])


class Counting:
    """Counts characters, without a model."""

    def parts(self, models: Any, unit: Any, *_: Any) -> Iterator[ReadPart]:
        """A part for each unit."""
        characters = sum(len(document.text) for document in unit.documents)
        yield ReadPart({}, Account(), BlockSums(), characters, True)


def handed_on(texts: list[str], times: int) -> str:
    """What this process reads, hands on and takes back where workers need no time."""
    engine = RayData(int, workers=2)
    many = (text for _ in range(times) for text in texts)
    units = units_of(many, WINDOWS.batch_size)
    parts = engine.map(0, Counting(), units, None)
    next(parts)
    start = time.perf_counter()
    rate = sum(part.total for part in parts) / (time.perf_counter() - start)
    return (
        f"- Without a model, {rate / 1e6:.1f} million characters a second go through, once the "
        "actors have started."
    )


def streamed(language_model: LanguageModel, rows: int) -> str:
    """Memory while short rows are scored on two workers."""
    texts = (ROW.format(ANIMALS[number % len(ANIMALS)]) for number in range(rows))
    seen: list[tuple[int, float, float]] = []

    def look(tokens: int, _: float) -> None:
        if not seen or tokens >= seen[-1][0] * 1.5:
            seen.append((tokens, resident("VmRSS"), of_workers()))

    start = time.perf_counter()
    engine = RayData(load_model, workers=2)
    result = perplexity(
        language_model, texts, windows=WINDOWS, engine=engine, on_progress=look
    ).record()
    took = time.perf_counter() - start
    tokens = result["tokens_scored"]
    seen.append((tokens, resident("VmRSS"), of_workers()))
    lines = [f"| {at:,} | {here:,.0f} | {there:,.0f} |" for at, here, there in seen[-7:]]
    return (
        f"{rows:,} rows of {tokens / rows:.1f} tokens, {took:,.0f} seconds on two workers: "
        "resident memory, MiB.\n\n| tokens scored | this process | both workers |\n|---|---|---|\n"
        + "\n".join(lines)
    )


def of_workers() -> float:
    """Resident memory of the workers, MiB."""
    found = subprocess.run(["ps", "-eo", "rss,args"], capture_output=True, text=True).stdout
    rows = (line.split(None, 1) for line in found.splitlines())
    return sum(int(size) for size, what in rows if what.startswith("ray::MapWorker")) / 1024


@click.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--count", default=20_000, show_default=True)
@click.option("--characters", default=200, show_default=True)
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(source: Path, count: int, characters: int, rows: int, repeats: int) -> None:
    """Write the sections "Workers" and "A million rows" into RESULTS.md; 0 leaves one out."""
    torch.set_num_threads(1)
    language_model, texts = load_model(), documents(source, count, characters)
    command = f"python benchmarks/workers.py --source {source.name}"
    if repeats:
        body = f"{turns(language_model, texts, repeats)}\n{handed_on(texts, 10)}\n"
        write_section("Workers", f"{command} --rows 0", body)
    if rows:
        body = streamed(language_model, rows)
        write_section("A million rows", f"{command} --repeats 0", body)


if __name__ == "__main__":
    main()
