"""Speed and memory of scoring: the statistics kernel, one document, and a corpus.

Every peak is Linux's figure for a process of its own, beyond what the process held before the
measured call. Times are medians of interleaved repeats within one process.
"""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
from results import write_section

ROWS, VOCAB = 1024, 151_936
TOKENS = 1024


def resident(name: str) -> float:
    """`VmRSS` of this process, or `VmHWM`, its largest since `forget_peak`, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1]) / 1024


def forget_peak() -> float:
    """Begin a new peak at the present resident memory, and return that, MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def kernel_ways():
    """Entropy, surprisal and rank of a block of logits, by the kernel and in whole-block steps."""
    import torch

    from decoding.information.statistics import row_statistics

    torch.manual_seed(0)
    logits = torch.randn(ROWS, VOCAB).mul_(3)
    targets = torch.randint(VOCAB, (ROWS,))

    def ours():
        return row_statistics(logits, targets)

    def whole_block():
        log_probs = logits.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        chosen = log_probs.gather(-1, targets.unsqueeze(-1))
        return entropy, -chosen.squeeze(-1), (log_probs > chosen).sum(-1)

    return {"one-pass kernel": ours, "log_softmax, then each": whole_block}


def document_ways():
    """One document on an untrained model of distilgpt2's shape: scored, and the bare forward."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from decoding.information.statistics import row_statistics
    from decoding.scoring.blocks import logit_batches
    from decoding.scoring.windows import Window

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=6)).eval()
    ids = torch.randint(50_257, (1, TOKENS + 1))
    window = Window(0, 0, ids[0, :-1].numpy(), ids[0, 1:].numpy())
    model(ids[:, :16])

    def ours():
        entropies = []
        [batch] = logit_batches(model, [window])
        for block in batch.blocks():
            entropies.append(row_statistics(block.logits, block.targets).entropy)
            del block
        return torch.cat(entropies)

    def forward():
        with torch.inference_mode():
            return model(ids[:, :-1], use_cache=False).logits

    return {"scoring": ours, "bare forward pass": forward}


WAYS = {"kernel": kernel_ways, "document": document_ways}


def corpus(megabytes: int) -> tuple[float, float, int]:
    """Peak beyond the start, MiB, seconds and tokens of a text file of that size."""
    import tempfile

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from decoding.models.loading import LanguageModel, load_model
    from decoding.scoring.windows import Windows
    from decoding_evals.perplexity.evaluation import perplexity
    from decoding_evals.reading.texts import Inputs

    tokenizer = load_model().tokenizer
    config = GPT2Config(
        vocab_size=2048, n_positions=512, n_embd=16, n_layer=1, n_head=1,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LanguageModel(GPT2LMHeadModel(config).eval(), tokenizer, "tiny")
    perplexity(model, ["warm up " * 2000], windows=Windows(stride=512))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.txt"
        with path.open("w") as file:
            generator = torch.Generator().manual_seed(0)
            for _ in range(megabytes * 64):
                ids = torch.randint(1, 2048, (8192,), generator=generator).tolist()
                text = tokenizer.decode(ids).replace("\0", " ").encode("ascii", "replace")
                file.write(text[: 1 << 14].decode())
        before, start = forget_peak(), time.perf_counter()
        documents = Inputs([path]).documents()
        result = perplexity(model, documents, windows=Windows(stride=512))
        return resident("VmHWM") - before, time.perf_counter() - start, result.account.tokens_scored


def times(name: str, repeats: int) -> dict[str, float]:
    """Median seconds of each way, interleaved."""
    ways = WAYS[name]()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, call in ways.items():
            start = time.perf_counter()
            call()
            seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(values[1:]) for way, values in seconds.items()}


def child(*arguments: str) -> list:
    """What a process of its own measures."""
    command = [sys.executable, __file__, "--measure", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@click.command()
@click.option("--repeats", default=5, show_default=True)
@click.option("--megabytes", default=50, show_default=True, help="Size of the larger text file.")
@click.option("--measure", nargs=2, hidden=True)
def main(repeats: int, megabytes: int, measure: tuple[str, str] | None) -> None:
    """Measure, and write the tables into RESULTS.md."""
    if measure is not None:
        kind, what = measure
        if kind == "corpus":
            print(json.dumps(corpus(int(what))))
            return
        call = WAYS[kind]()[what]
        before = forget_peak()
        call()
        print(json.dumps([resident("VmHWM") - before]))
        return
    lines = ["| | seconds | ratio | peak beyond its inputs, MiB |", "|---|---|---|---|"]
    titles = {
        "kernel": f"entropy, surprisal, rank of [{ROWS}, {VOCAB:,}] logits",
        "document": f"one document of {TOKENS:,} tokens, distilgpt2's shape",
    }
    for name, title in titles.items():
        lines.append(f"| **{title}** | | | |")
        medians = times(name, repeats)
        reference = list(medians.values())[-1]
        for way, seconds in medians.items():
            [memory] = child(name, way)
            lines.append(f"| {way} | {seconds:.3f} | {seconds / reference:.3f} | {memory:.0f} |")
    lines.append("| **perplexity of a text file, tiny model, vocabulary 2,048** | | | |")
    for size in (megabytes // 10, megabytes):
        memory, seconds, tokens = child("corpus", str(size))
        lines.append(f"| {size} MB, {tokens:,} tokens | {seconds:.0f} | | {memory:.0f} |")
    body = f"Medians of {repeats} interleaved repeats on two threads.\n\n" + "\n".join(lines)
    write_section("Scoring", "python benchmarks/scoring.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
