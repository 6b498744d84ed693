"""On a CUDA device: cuts beside transformers' warpers, the step, whole generations, waits.

The models, rows and ways are those of `truncation.py` and `sampling.py`, in the device's memory.
Every call is waited for, so that its time is that of launching its kernels and running them.
"""

import statistics
import warnings
from collections.abc import Callable

import click
import torch
from results import write_section
from sampling import percent
from steps import (
    BATCHES,
    PROMPT,
    SAMPLERS,
    SETTING,
    SHAPES,
    distil_model,
    generations,
    rate_seconds,
    step_seconds,
)
from truncation import BATCHES as CUT_BATCHES
from truncation import RULES, SCALES, VOCABS, interleaved, ratios, rows_of, spread


def waited(call: Callable[[], object]) -> Callable[[], None]:
    """The call, until the device is done."""

    def until_done() -> None:
        call()
        torch.cuda.synchronize()

    return until_done


def waits(call: Callable[[], object]) -> int:
    """How often the host waits for the device in a call."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def cuts(repeats: int) -> str:
    """Each rule beside its peer."""
    lines = [
        "| rule | vocabulary | rows | " + " | ".join(f"batch {b}" for b in CUT_BATCHES) + " |",
        "|---|---|---|" + "---|" * len(CUT_BATCHES),
    ]
    for name, rule in RULES.items():
        for vocab in VOCABS:
            for shape in SCALES:
                line = f"| {name} | {vocab:,} | {shape} |"
                for batch in CUT_BATCHES:
                    logits = rows_of(vocab, batch, shape).cuda()
                    ways: dict[str, Callable[[], object]] = {
                        "ours": waited(lambda: rule.ours(logits, rule.value)),  # noqa: B023
                        "theirs": waited(lambda: rule.theirs(None, logits)),  # noqa: B023
                    }
                    seconds = interleaved(ways, repeats)
                    ours, theirs = (1e3 * statistics.median(seconds[way]) for way in ways)
                    faster = spread(ratios(seconds["theirs"], seconds["ours"]))
                    line += f" {ours:.2f} ms, theirs {theirs:.2f}: {faster} |"
                lines.append(line)
    return (
        f"Milliseconds a call, and theirs over ours; medians and ranges of {repeats} interleaved "
        "repeats.\n\n" + "\n".join(lines)
    )


def steps(repeats: int, tokens: int) -> str:
    """The step beside the forward pass."""
    lines = [
        "| rows | batch | forward, ms | step, ms: draw | with both entropies | with the trace "
        "| theirs | step with the trace, % of forward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, seconds in step_seconds(repeats, tokens).items():
        shape, batch = cell.split()
        figures = [f"{1e3 * statistics.median(values):.2f}" for values in seconds.values()]
        share = percent(seconds["trace"], seconds["forward"])
        lines.append(f"| {shape} | {batch} | {' | '.join(figures)} | {share} |")
    return (
        f"An untrained model of distilgpt2's shape in float32, `{SETTING}`, one token after "
        f"{PROMPT} in the cache; means over {tokens} tokens, medians of {repeats} repeats.\n\n"
        + "\n".join(lines)
    )


def whole(repeats: int, tokens: int) -> str:
    """Whole generations, how often the host waits in them, and every sampler."""
    rates = [
        "| rows | batch | tokens/s: greedy | theirs | ours, untraced | ours, traced "
        "| traced over theirs | traced over greedy | waits a token: greedy | theirs | ours |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    samplers: dict[str, list[str]] = {name: [] for name in SAMPLERS}
    for shape in SHAPES:
        model = distil_model(shape)
        for batch in BATCHES:
            calls = generations(model, batch, tokens)
            seconds = rate_seconds(calls, repeats)
            names = ("greedy", "theirs", "untraced", "ours")
            figures = [f"{batch * tokens / statistics.median(seconds[name]):.0f}" for name in names]
            figures.append(spread(ratios(seconds["theirs"], seconds["ours"])))
            figures.append(spread(ratios(seconds["greedy"], seconds["ours"])))
            longer = generations(model, batch, 2 * tokens)
            for name in ("greedy", "theirs", "ours"):
                once, twice = (waits(of[name]) for of in (calls, longer))
                figures.append(f"{(twice - once) / tokens:.2f}")
            rates.append(f"| {shape} | {batch} | {' | '.join(figures)} |")
            for name in SAMPLERS:
                samplers[name].append(spread(ratios(seconds[name], seconds["greedy"])))
    columns = [f" {shape}, batch {batch} |" for shape in SHAPES for batch in BATCHES]
    table = ["| setting |" + "".join(columns), "|---|" + "---|" * len(columns)]
    table += [f"| `{name}` | {' | '.join(values)} |" for name, values in samplers.items()]
    return (
        f"`model.generate` of {tokens} tokens after {PROMPT}, the same model; medians and ranges "
        f"of {repeats} interleaved repeats. A wait is a call after which the host stands still "
        "until the device is done, counted by torch, each token that is added to a call; greedy "
        "search asks at every token whether all rows have ended.\n\n"
        + "\n".join(rates)
        + "\n\nEvery sampler, traced: its time over that of greedy search.\n\n"
        + "\n".join(table)
    )


@click.command()
@click.option("--repeats", default=5, show_default=True)
@click.option("--tokens", default=32, show_default=True)
@torch.no_grad()
def main(repeats: int, tokens: int) -> None:
    """Measure on the first CUDA device and write the tables into RESULTS.md."""
    name = torch.cuda.get_device_name()
    parts = [cuts(repeats)]
    torch.set_default_device("cuda")
    parts += [steps(repeats, tokens), whole(repeats, tokens)]
    body = f"{name}.\n\n" + "\n\n".join(parts)
    write_section("On a GPU", "python benchmarks/gpu.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
