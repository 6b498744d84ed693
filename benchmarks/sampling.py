"""`Sampler` inside `model.generate`: its step, whole generations, memory, and growth.

What is measured stands in `steps`. Each number of threads has a process of its own, and so has each
peak of memory.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import torch
from results import write_section
from steps import (
    BATCHES,
    GROWTH_BATCHES,
    GROWTH_VOCABS,
    MEMORY_BATCH,
    MEMORY_TOKENS,
    MEMORY_VOCAB,
    NEW,
    PROMPT,
    SETTING,
    SHAPES,
    end_seconds,
    growth_seconds,
    peak,
    sampler_seconds,
    step_seconds,
)
from truncation import ratios, spread

from decoding_evals.shell.running import keep_freed_memory

THREADS = (1, 2)
BAR_STEP, BAR_TRACE = 0.05, 0.02
BAR_SPEED = {1: 1.2, 8: 1.4}
MEMORY = {
    "theirs": "Hugging Face's sampling",
    "ours": "`Sampler` with `EntropyMonitor`",
    "scores": "Hugging Face's, `output_scores=True, output_logits=True`",
}


MEASURES = {
    "step": step_seconds,
    "end": end_seconds,
    "samplers": sampler_seconds,
    "growth": growth_seconds,
}


def child(*arguments: object) -> Any:
    """What a process of its own measures."""
    command = [sys.executable, __file__, *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def of_threads(measure: str, counts: tuple[int, ...], repeats: int, tokens: int) -> dict[int, Any]:
    """The measure at each number of threads."""
    return {
        count: child("--measure", measure, count, "--repeats", repeats, "--tokens", tokens)
        for count in counts
    }


def cells_of(measured: dict[int, Any]) -> list[tuple[str, int, int, dict[str, list[float]]]]:
    """Shape, batch, threads and what was measured there."""
    return [
        (shape, batch, threads, measured[threads][f"{shape} {batch}"])
        for shape in SHAPES
        for batch in BATCHES
        for threads in measured
    ]


def percent(parts: list[float], wholes: list[float]) -> str:
    """Median and range of a share."""
    return spread([100 * share for share in ratios(parts, wholes)], 1)


def step_section(repeats: int, tokens: int) -> str:
    """The step beside the forward pass."""
    lines = [
        "| rows | batch | threads | forward, ms | step, ms: draw | with both entropies "
        "| with the trace | theirs | step, % of forward | trace adds, % of forward |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    missed = {"step": 0, "trace": 0}
    cells = cells_of(of_threads("step", THREADS, repeats, tokens))
    for shape, batch, threads, seconds in cells:
        names = ("forward", "draw", "entropies", "trace", "theirs")
        ms = " | ".join(f"{1e3 * statistics.median(seconds[name]):.2f}" for name in names)
        both, forward = seconds["entropies"], seconds["forward"]
        added = [a - b for a, b in zip(seconds["trace"], both, strict=True)]
        marks = {}
        for name, part, bar in (("step", both, BAR_STEP), ("trace", added, BAR_TRACE)):
            over = statistics.median(ratios(part, forward)) > bar
            missed[name] += over
            marks[name] = " **above**" if over else ""
        lines.append(
            f"| {shape} | {batch} | {threads} | {ms} | {percent(both, forward)}{marks['step']} "
            f"| {percent(added, forward)}{marks['trace']} |"
        )
    return (
        f"An untrained model of distilgpt2's shape, `{SETTING}`, one token after {PROMPT} in the "
        f"cache; means over {tokens} tokens, medians and ranges of {repeats} repeats in which a "
        "forward pass comes before every step. The step scales, cuts, draws, and takes the entropy "
        "of both distributions; the greedy choice that ends it in `generate` is counted too. The "
        "trace is all that `EntropyMonitor` writes down. Theirs: Hugging Face's warpers and draw, "
        f"with no entropy. Flat rows are `randn * {SHAPES['flat']:g}`, peaked ones `randn * "
        f"{SHAPES['peaked']:g}`, about.\n\n" + "\n".join(lines) + "\n\n"
        f"Above the bar of {BAR_STEP:.0%} for the step: {missed['step']} of {len(cells)} cells; "
        f"above that of {BAR_TRACE:.0%} for the trace: {missed['trace']}."
    )


def end_section(repeats: int, tokens: int) -> str:
    """Tokens per second of whole generations."""
    lines = [
        "| rows | batch | threads | tokens/s: greedy | theirs | ours, untraced | ours, traced "
        "| traced over theirs | bar | greedy over theirs | traced over greedy |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    missed = 0
    cells = cells_of(of_threads("end", THREADS, repeats, tokens))
    for shape, batch, threads, seconds in cells:
        names = ("greedy", "theirs", "untraced", "ours")
        rates = (batch * tokens / statistics.median(seconds[name]) for name in names)
        faster = ratios(seconds["theirs"], seconds["ours"])
        below = statistics.median(faster) < BAR_SPEED[batch]
        missed += below
        lines.append(
            f"| {shape} | {batch} | {threads} | {' | '.join(f'{rate:.1f}' for rate in rates)} "
            f"| {spread(faster)}{' **below**' if below else ''} | {BAR_SPEED[batch]} "
            f"| {spread(ratios(seconds['theirs'], seconds['greedy']))} "
            f"| {spread(ratios(seconds['greedy'], seconds['ours']))} |"
        )
    return (
        f"`model.generate` of {tokens} tokens after {PROMPT}, the same model. Ours: "
        f"`custom_generate=Sampler(…)` with `{SETTING}`, traced by `EntropyMonitor`; theirs: "
        "`do_sample=True, temperature=0.8, top_p=0.9, top_k=0`, with nothing traced; greedy search "
        "is the floor, so greedy over theirs is the most that a sampler could reach. Medians and "
        f"ranges of {repeats} interleaved repeats. Both run in one process, where importing "
        "`decoding` made the C library keep freed memory.\n\n"
        + "\n".join(lines)
        + f"\n\n{missed} of {len(cells)} cells below the bar."
    )


def sampler_section(repeats: int, tokens: int) -> str:
    """Every sampler beside greedy search."""
    cells = cells_of(of_threads("samplers", (2,), repeats, tokens))
    columns = [f" {shape}, batch {batch} |" for shape, batch, _, _ in cells]
    lines = ["| setting |" + "".join(columns), "|---|" + "---|" * len(cells)]
    for name in [name for name in cells[0][3] if name != "greedy"]:
        title = f"Hugging Face's `{SETTING}`, untraced" if name == "theirs" else f"`{name}`"
        values = [spread(ratios(seconds[name], seconds["greedy"])) for *_, seconds in cells]
        lines.append(f"| {title} | {' | '.join(values)} |")
    return (
        f"The time of `model.generate` with a `Sampler` and its trace over that of Hugging Face's "
        f"greedy search, {tokens} tokens after {PROMPT}, the same model, two threads. Medians and "
        f"ranges of {repeats} interleaved repeats.\n\n" + "\n".join(lines)
    )


def memory_section(repeats: int, tokens: int) -> str:
    """Peaks of whole processes."""
    peaks: dict[str, list[float]] = {name: [] for name in MEMORY}
    for _ in range(repeats):
        for name in MEMORY:
            peaks[name].append(child("--mode", name, "--tokens", tokens))
            click.echo(f"{name}: {peaks[name][-1]:.0f} MiB", err=True)
    lines = ["| `model.generate` | peak, MiB | beyond sampling alone, MiB |", "|---|---|---|"]
    for name, title in MEMORY.items():
        beyond = [a - b for a, b in zip(peaks[name], peaks["theirs"], strict=True)]
        lines.append(f"| {title} | {spread(peaks[name], 0)} | {spread(beyond, 0)} |")
    return (
        f"{tokens} tokens, vocabulary {MEMORY_VOCAB:,}, batch {MEMORY_BATCH}, `{SETTING}`, a tiny "
        "untrained GPT-2; the operating system's peak of a process of its own, medians and ranges "
        f"of {repeats} interleaved runs.\n\n" + "\n".join(lines)
    )


def growth_section(repeats: int, tokens: int) -> str:
    """The step as vocabulary and batch double."""
    measured = of_threads("growth", THREADS, repeats, tokens)
    parts, steepest = [], []
    for threads in THREADS:
        for shape in SHAPES:
            seconds = measured[threads][shape]
            noun = "thread" if threads == 1 else "threads"
            lines = [
                f"| {shape}, {threads} {noun} |" + "".join(f" {b} |" for b in GROWTH_BATCHES),
                "|---|" + "---|" * len(GROWTH_BATCHES),
            ]
            for i, vocab in enumerate(GROWTH_VOCABS):
                line = f"| {vocab:,} |"
                for j, batch in enumerate(GROWTH_BATCHES):
                    here = seconds[f"{vocab} {batch}"]
                    line += f" {1e3 * statistics.median(here):.2f}"
                    smaller = []
                    if i:
                        smaller.append(("V", f"{GROWTH_VOCABS[i - 1]} {batch}"))
                    if j:
                        smaller.append(("B", f"{vocab} {GROWTH_BATCHES[j - 1]}"))
                    for mark, name in smaller:
                        growth = ratios(here, seconds[name])
                        median = statistics.median(growth)
                        steepest.append(
                            (median, spread(growth), mark, shape, threads, vocab, batch)
                        )
                        line += f"; {mark} {median:.2f}"
                    line += " |"
                lines.append(line)
            parts.append("\n".join(lines))
    _, shown, mark, shape, threads, vocab, batch = max(steepest)
    doubled = "the vocabulary" if mark == "V" else "the batch"
    beyond = sum(median > 2.2 for median, *_ in steepest)
    return (
        f"Milliseconds of a traced step apart from the forward pass, `{SETTING}`, by vocabulary "
        "(down) and batch (across), then the ratio to half the vocabulary (V) and half the batch "
        f"(B); 2 is linear. Means over {tokens} steps, medians of {repeats} interleaved "
        "repeats.\n\n" + "\n\n".join(parts) + "\n\n"
        f"The steepest doubling is that of {doubled} to {vocab:,} × {batch}, {shape}, at "
        f"{threads} thread{'s' if threads > 1 else ''}: {shown}. Above 2.2: {beyond} of "
        f"{len(steepest)}."
    )


SECTIONS: dict[str, tuple[str, Callable[[int, int], str], int]] = {
    "step": ("Sampling: the step", step_section, 16),
    "end": ("Sampling: end to end", end_section, NEW),
    "samplers": ("Sampling: every sampler", sampler_section, 32),
    "memory": ("Sampling: memory", memory_section, MEMORY_TOKENS),
    "growth": ("Sampling: growth", growth_section, 4),
}


@click.command()
@click.option("--repeats", default=5, show_default=True)
@click.option("--tokens", type=int, help="Tokens of each repeat instead of each part's own number.")
@click.option("--part", "parts", type=click.Choice(list(SECTIONS)), multiple=True)
@click.option("--measure", type=(click.Choice(list(MEASURES)), int), hidden=True)
@click.option("--mode", type=click.Choice(list(MEMORY)), hidden=True)
@torch.no_grad()
def main(
    repeats: int,
    tokens: int | None,
    parts: tuple[str, ...],
    measure: tuple[str, int] | None,
    mode: str | None,
) -> None:
    """Measure every part, or those named, and write the tables into RESULTS.md."""
    keep_freed_memory()
    if mode is not None:
        print(json.dumps(peak(mode, tokens or MEMORY_TOKENS)))
        return
    if measure is not None:
        name, threads = measure
        torch.set_num_threads(threads)
        print(json.dumps(MEASURES[name](repeats, tokens or NEW)))
        return
    for name in parts or SECTIONS:
        title, section, its_tokens = SECTIONS[name]
        body = section(repeats, tokens or its_tokens)
        write_section(title, "python benchmarks/sampling.py", body)
        click.echo(f"{title}\n\n{body}\n")


if __name__ == "__main__":
    main()
