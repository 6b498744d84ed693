"""Cutting rows of logits: our rules beside transformers' warpers, and whether they keep the same.

Both get the same float32 rows in one process, one for each number of threads. Importing `decoding`
makes the C library keep freed memory (see `decoding.rows.distribution`), which is good for both.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import click
import torch
from results import write_section
from torch import Tensor
from transformers import MinPLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper

from decoding.rules import truncation
from decoding_evals.shell.running import keep_freed_memory

VOCABS = (50_257, 151_936, 262_144)
BATCHES = (1, 8, 32)
SCALES = {"peaked": 4.0, "flat": 0.5}
THREADS = (1, 2)
SECONDS_A_SAMPLE = 0.03


class Rule(NamedTuple):
    value: float
    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]
    bars: dict[int, float]
    """By batch size, the ratio that is asked for."""


RULES = {
    "top_p": Rule(0.9, truncation.top_p, TopPLogitsWarper(0.9), {1: 4.0, 8: 4.0, 32: 1.0}),
    "min_p": Rule(0.05, truncation.min_p, MinPLogitsWarper(0.05), dict.fromkeys(BATCHES, 1.0)),
    "typical_p": Rule(
        0.9, truncation.typical_p, TypicalLogitsWarper(0.9), dict.fromkeys(BATCHES, 1.0)
    ),
}


def rows_of(vocab: int, batch: int, shape: str) -> Tensor:
    """Normal logits of one standard deviation, `(batch, vocab)`."""
    generator = torch.Generator().manual_seed(vocab + batch)
    return torch.randn(batch, vocab, generator=generator).mul_(SCALES[shape])


def interleaved(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds a call of each way in each repeat, one after the other within the repeat.

    Where a call is short, a repeat's figure is the mean of several.
    """
    calls = {}
    for name, call in ways.items():
        call()
        start = time.perf_counter()
        call()
        calls[name] = max(1, round(SECONDS_A_SAMPLE / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        # Who comes first changes, so that a drift of the machine favours nobody.
        for name in list(ways) if repeat % 2 == 0 else reversed(ways):
            start = time.perf_counter()
            for _ in range(calls[name]):
                ways[name]()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return seconds


def ratios(over: list[float], under: list[float]) -> list[float]:
    """The ratio within each repeat."""
    return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: list[float], digits: int = 2) -> str:
    """Median, and in parentheses the range."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def exact(rule: str, logits: Tensor) -> Tensor:
    """Mask of what the rule keeps, in float64 and by sorting."""
    z = logits.double()
    value = RULES[rule].value
    if rule == "min_p":
        return z >= z.amax(-1, keepdim=True) + math.log(value)
    log_probs = z.log_softmax(-1)
    order = z.argsort(dim=-1, descending=True, stable=True)
    if rule == "typical_p":
        entropy = -(log_probs.exp() * log_probs).sum(-1, keepdim=True)
        distance = (-log_probs - entropy).abs()
        order = order.gather(-1, distance.gather(-1, order).argsort(dim=-1, stable=True))
    probs = log_probs.exp().gather(-1, order)
    kept = probs.cumsum(-1) - probs < value
    return torch.zeros_like(kept).scatter_(-1, order, kept)


def measure(threads: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of both, by the cell's name."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    cells = {}
    for name, rule in RULES.items():
        for vocab, batch, shape in all_rows():
            logits = rows_of(vocab, batch, shape)
            ways: dict[str, Callable[[], object]] = {
                "ours": lambda rule=rule, logits=logits: rule.ours(logits, rule.value),
                "theirs": lambda rule=rule, logits=logits: rule.theirs(None, logits),
            }
            cells[f"{name} {vocab} {batch} {shape}"] = interleaved(ways, repeats)
            click.echo(".", err=True, nl=False)
    click.echo(err=True)
    return cells


def all_rows() -> list[tuple[int, int, str]]:
    return [(vocab, batch, shape) for vocab in VOCABS for shape in SCALES for batch in BATCHES]


def time_table(name: str, measured: dict[int, dict[str, dict[str, list[float]]]]) -> str:
    """A rule's table, and how many cells lie below the bar."""
    head = "| vocabulary | rows | batch | bar |"
    for threads in measured:
        noun = "thread" if threads == 1 else "threads"
        head += f" {threads} {noun}: ours, ms | theirs, ms | ratio (range) |"
    lines = [head, "|---|---|---|---|" + "---|---|---|" * len(measured)]
    below = cells = 0
    for vocab, batch, shape in all_rows():
        bar = RULES[name].bars[batch]
        line = f"| {vocab:,} | {shape} | {batch} | {bar:g} |"
        for of_threads in measured.values():
            seconds = of_threads[f"{name} {vocab} {batch} {shape}"]
            ours, theirs = (1e3 * statistics.median(seconds[way]) for way in ("ours", "theirs"))
            faster = ratios(seconds["theirs"], seconds["ours"])
            missed = statistics.median(faster) < bar
            below, cells = below + missed, cells + 1
            mark = " **below**" if missed else ""
            line += f" {ours:.2f} | {theirs:.2f} | {spread(faster)}{mark} |"
        lines.append(line)
    value = RULES[name].value
    lines += ["", f"`{name}={value:g}`: {below} of {cells} cells below the bar."]
    return "\n".join(lines)


def set_table() -> str:
    """How the kept sets differ from each other, and each from the one in float64."""
    lines = [
        "| rule | vocabulary | rows | entropy, nats | kept a row | differ | "
        "ours from float64 | theirs from float64 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rule in RULES.items():
        for vocab in VOCABS:
            for shape in SCALES:
                logits = rows_of(vocab, max(BATCHES), shape)
                log_probs = logits.double().log_softmax(-1)
                entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
                ours = rule.ours(logits, rule.value) > -math.inf
                theirs = rule.theirs(None, logits) > -math.inf
                true = exact(name, logits)
                differences = [int((a != b).sum()) for a, b in
                               ((ours, theirs), (ours, true), (theirs, true))]  # fmt: skip
                counts = " | ".join(f"{number:,}" for number in differences)
                kept = ours.sum(-1).double().mean()
                lines.append(
                    f"| {name} | {vocab:,} | {shape} | {entropy:.2f} | {kept:,.0f} | {counts} |"
                )
    return "\n".join(lines)


@click.command()
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", type=int, hidden=True)
@torch.no_grad()
def main(repeats: int, threads: int | None) -> None:
    """Time every rule beside its peer, interleaved, and write the tables into RESULTS.md."""
    if threads is not None:
        print(json.dumps(measure(threads, repeats)))
        return
    measured = {}
    for count in THREADS:
        command = [sys.executable, __file__, "--threads", str(count), "--repeats", str(repeats)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured[count] = json.loads(result.stdout)
    shapes = " and ".join(f"{shape} (`randn * {scale:g}`)" for shape, scale in SCALES.items())
    body = (
        f"Rows of float32 logits, {shapes}. Ratio: the time of transformers' warper over ours, "
        f"median and range of {repeats} interleaved repeats; what is below the bar is marked.\n\n"
        + "\n\n".join(time_table(name, measured) for name in RULES)
        + f"\n\nThe same rows, {max(BATCHES)} of each: their mean entropy, the mean number of "
        "tokens that ours keeps, and over all rows the number of tokens that one keeps and the "
        "other does not. float64 is a stable sort and sums in double precision. Theirs adds up "
        "float32 probabilities and, of tied tokens, keeps any.\n\n" + set_table()
    )
    write_section("Truncation", "python benchmarks/truncation.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
