"""Comparing settings from one block of logits: against pair by pair, and against scoring.

20 settings, all pairs, vocabulary 50,257. The pairwise way takes log q of each setting over the
block and then `kl_divergence` both ways, `js_divergence` and `total_variation` of each pair.
Scoring is the forward pass of an untrained model of distilgpt2's shape and `row_statistics`.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import click
import torch
from results import write_section
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from decoding import DecodingSettings, row_statistics
from decoding.information.comparison import compare_rows
from decoding.information.measures import js_divergence, kl_divergence, total_variation
from decoding_evals.shell.running import keep_freed_memory

VOCAB = 50257
SETTINGS = [
    DecodingSettings(temperature=temperature, **truncation)
    for temperature in (0.5, 0.75, 1.0, 1.25, 1.5)
    for truncation in ({}, {"top_k": 50}, {"top_p": 0.9}, {"min_p": 0.05})
]


def blocks(rows: int) -> dict[str, Tensor]:
    """Blocks of logits `(rows, vocab)` by their names."""
    flat, medium, peaked = torch.randn(3, rows, VOCAB, generator=torch.Generator().manual_seed(0))
    flat, medium, peaked = flat * 0.3, medium * 3, peaked * 3
    peaked[:, ::10_000] += 15
    named = {"flat": flat, "medium": medium, "peaked": peaked}
    return named | {f"{name}, bfloat16": block.bfloat16() for name, block in named.items()}


def pairwise(logits: Tensor) -> None:
    log_q = [setting.log_probs(logits) for setting in SETTINGS]
    for p, q in itertools.combinations(log_q, 2):
        kl_divergence(p, q), kl_divergence(q, p)
        js_divergence(p, q), total_variation(p, q)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@click.command()
@click.option("--rows", default=32, show_default=True, help="Rows of a block.")
@click.option("--pairwise-rows", default=2, show_default=True, help="Rows of them, pair by pair.")
@click.option("--tokens", default=1024, show_default=True, help="Tokens that the model reads.")
@click.option("--repeats", default=5, show_default=True)
@torch.no_grad()
def main(rows: int, pairwise_rows: int, tokens: int, repeats: int) -> None:
    """Time every way, interleaved, and write the tables into RESULTS.md."""
    keep_freed_memory()
    torch.manual_seed(0)
    config = GPT2Config(n_layer=6, n_positions=tokens, vocab_size=VOCAB)
    model = GPT2LMHeadModel(config).eval()
    ids = torch.randint(VOCAB, (1, tokens))

    def score() -> None:
        row_statistics(model(input_ids=ids).logits[0], ids[0])

    def compare() -> None:
        compare_rows(model(input_ids=ids).logits[0], ids[0], SETTINGS)

    targets = torch.zeros(rows, dtype=torch.long)
    ways: dict[tuple[str, str], tuple[Callable[[], object], int]] = {
        ("model", "score"): (score, tokens),
        ("model", "compare"): (compare, tokens),
    }
    for name, block in blocks(rows).items():
        ways[name, "compare"] = (lambda block=block: compare_rows(block, targets, SETTINGS), rows)
        if block.dtype == torch.float32:
            few = block[:pairwise_rows]
            ways[name, "pairwise"] = (lambda few=few: pairwise(few), pairwise_rows)
    times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, (work, size) in ways.items():
            took = 1000 * seconds(work) / size
            if repeat > 0:  # the first round warms up
                times[way].append(took)
                click.echo(f"{' '.join(way)}: {took:.2f} ms", err=True)
    medians = {way: statistics.median(values) for way, values in times.items()}
    table = []
    for name in blocks(1):
        ours, theirs = medians[name, "compare"], medians.get((name, "pairwise"))
        others = " | |" if theirs is None else f"{theirs:.0f} | {theirs / ours:.0f} |"
        table.append(f"| {name} | {ours:.2f} | {others}")
    score_ms, compare_ms = medians["model", "score"], medians["model", "compare"]
    body = (
        f"{len(SETTINGS)} settings, all pairs, vocabulary {VOCAB:,}; medians of {repeats} "
        f"interleaved runs on blocks of {rows} rows ({pairwise_rows} pair by pair), "
        f"{torch.get_num_threads()} threads.\n\n"
        "| logits | `compare_rows`, ms a row | pair by pair, ms a row | ratio |\n"
        "|---|---|---|---|\n"
        + "\n".join(table)
        + f"\n\nWith the forward pass of an untrained model of distilgpt2's shape over {tokens:,} "
        f"tokens: scoring takes {score_ms:.2f} ms a token, comparing {compare_ms:.2f} ms, "
        f"{compare_ms / score_ms:.1f} times as long."
    )
    write_section("Comparing settings", "python benchmarks/comparison.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
