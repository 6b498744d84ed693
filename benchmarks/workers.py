"""Perplexity of many documents on one and on two workers of Ray, each with one thread, in turns.

A turn is the whole call: actors start, load the model, and work; the cluster runs already. The
numbers are held against those of this process, which has one thread as well.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import time
from pathlib import Path

import click
import torch

from decoding import load_model
from decoding.scoring.windows import Windows
from decoding_evals.mapping.engine import IN_PROCESS
from decoding_evals.mapping.ray import RayData
from decoding_evals.perplexity.evaluation import perplexity


def documents(source: Path, count: int, characters: int) -> list[str]:
    """Pieces of a text, each of so many characters."""
    text = source.read_text(encoding="utf-8")
    size = min(count, len(text) // characters)
    return [text[i * characters : (i + 1) * characters] for i in range(size)]


@click.command()
@click.option("--source", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--count", default=20_000, show_default=True)
@click.option("--characters", default=200, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(source: Path, count: int, characters: int, repeats: int) -> None:
    torch.set_num_threads(1)
    language_model, texts = load_model(), documents(source, count, characters)
    engines = {workers: RayData(load_model, workers=workers) for workers in (2, 1)}
    seconds: dict[int, list[float]] = {0: [], 1: [], 2: []}
    records = {}
    for _ in range(repeats):
        for workers in seconds:
            engine = engines.get(workers, IN_PROCESS)
            start = time.perf_counter()
            result = perplexity(
                language_model, texts, windows=Windows(batch_size=32), engine=engine
            )
            seconds[workers].append(time.perf_counter() - start)
            records[workers] = result.record()
    differ = [
        abs(records[workers][name] - value)
        for workers in engines
        for name, value in records[0].items()
        if isinstance(value, float)
    ]
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    own = statistics.median(zero / one for zero, one in zip(seconds[0], seconds[1], strict=True))
    tokens = records[0]["tokens_scored"]
    body = (
        f"{len(texts):,} documents, {tokens:,} tokens, medians of {repeats} turns.\n\n"
        f"Two workers take 1/{statistics.median(ratios):.2f} of the time of one "
        f"({min(ratios):.2f} to {max(ratios):.2f}); this process, whose model is loaded, "
        f"{own:.2f} of the time of one worker. One worker scores "
        f"{tokens / statistics.median(seconds[1]):,.0f} tokens a second, its start included. "
        f"Largest difference of any figure from this process's: {max(differ):.1g}.\n"
    )
    click.echo(body)


if __name__ == "__main__":
    main()
