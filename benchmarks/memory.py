"""Peak memory of `model.generate`: alone, with the monitor, and keeping scores as it can itself.

Each mode runs in a process of its own, on an untrained GPT-2 with 50,257 tokens, greedily and
without an end. The peak is the operating system's figure for the whole process.
"""

import json
import statistics
import subprocess
import sys

import click
from results import write_section

MODES = {
    "chain": "the chain alone",
    "monitor": "the chain with `EntropyMonitor`",
    "output_scores": "the chain, `output_scores=True`",
    "output_both": "the chain, `output_scores=True, output_logits=True`",
}


def measure(mode: str, tokens: int) -> None:
    """Run one mode and print its peak memory in MiB and its trace's size in bytes a token."""
    import resource

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from decoding import DecodingSettings, EntropyMonitor
    from decoding_evals.shell.running import keep_freed_memory

    keep_freed_memory()

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=64, n_head=2, n_positions=tokens + 1, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    settings = DecodingSettings(top_k=50)
    monitor = EntropyMonitor() if mode == "monitor" else None
    outputs = model.generate(
        input_ids=torch.tensor([[0]]),
        attention_mask=torch.tensor([[1]]),
        logits_processor=settings.processors(monitor),
        max_new_tokens=tokens,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=mode.startswith("output"),
        output_logits=mode == "output_both",
        **settings.generate_kwargs(),
    )
    assert outputs.sequences.shape[1] == tokens + 1
    if monitor is not None:
        [trace] = monitor.traces(outputs, eos_token_id=None)
        assert len(trace) == tokens
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


@click.command()
@click.option("--tokens", default=2000, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--mode", type=click.Choice(list(MODES)), hidden=True)
def main(tokens: int, repeats: int, mode: str | None) -> None:
    """Measure every mode, interleaved, and write the table into RESULTS.md."""
    if mode is not None:
        measure(mode, tokens)
        return
    peaks: dict[str, list[float]] = {name: [] for name in MODES}
    for _ in range(repeats):
        for name in MODES:
            command = [sys.executable, __file__, "--mode", name, "--tokens", str(tokens)]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[name].append(json.loads(result.stdout))
            click.echo(f"{name}: {peaks[name][-1]:.0f} MiB", err=True)
    medians = {name: statistics.median(values) for name, values in peaks.items()}
    rows = [
        f"| {MODES[name]} | {median:.0f} | {median - medians['chain']:+.1f} |"
        for name, median in medians.items()
    ]
    body = (
        f"{tokens:,} tokens, vocabulary 50,257, batch 1; medians of interleaved runs, "
        f"{repeats} of each.\n\n"
        "| `model.generate` with | peak, MiB | beyond the chain alone, MiB |\n|---|---|---|\n"
        + "\n".join(rows)
    )
    write_section("Memory of the monitor", "python benchmarks/memory.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
