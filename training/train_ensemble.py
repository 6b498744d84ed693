"""Train small story models that differ in nothing but their seed: an ensemble to measure.

Contract: `--data` is the folder of `train_stories.py`; the members use the embedded tokenizer and
see the same stories, never the last 100 of `stories.txt`. The seed sets the initial weights, the
dropout masks and the order of the stories. Each member is written in Hugging Face form as
`OUT/seed-N`, with its dropout in the configuration, so that it also serves Monte Carlo dropout.
"""

import time
from pathlib import Path

import click
import torch
from train_stories import (
    CONTEXT,
    HELD_OUT,
    batches,
    bits_per_character,
    encode,
    export,
    mean_loss,
    read_stories,
)
from transformers import GPT2Config, GPT2LMHeadModel

from decoding import load_model


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="One folder a member.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(1, 2, 3, 4), show_default=True)
@click.option("--layers", default=3, show_default=True)
@click.option("--width", default=96, show_default=True)
@click.option("--heads", default=3, show_default=True)
@click.option("--dropout", default=0.1, show_default=True)
@click.option("--steps", default=600, show_default=True)
@click.option("--tokens", default=4096, show_default=True, help="Positions per step.")
@click.option("--rate", default=4e-3, show_default=True, help="Peak learning rate.")
def main(
    data: Path, out: Path, seeds: tuple[int, ...], layers: int, width: int, heads: int,
    dropout: float, steps: int, tokens: int, rate: float,
) -> None:  # fmt: skip
    """Train one story model per seed and write each in Hugging Face form."""
    real = read_stories(data / "stories.txt")
    real, held_out = real[:-HELD_OUT], real[-HELD_OUT:]
    tokenizer = load_model(device="cpu").tokenizer
    end = tokenizer.eos_token_id
    texts = real + read_stories(data / "synthetic.txt")
    rows = encode(tokenizer.backend_tokenizer, texts, end)
    test = encode(tokenizer.backend_tokenizer, held_out, end)
    characters = sum(map(len, held_out))
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=width, n_layer=layers,
        n_head=heads, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    for seed in seeds:
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps, pct_start=0.1, anneal_strategy="linear"
        )
        stream = batches(rows, tokens, seed)
        started, recent = time.monotonic(), []
        for step in range(1, steps + 1):
            loss = mean_loss(model, next(stream))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            recent.append(loss.item())
            if step % 50 == 0:
                minutes = (time.monotonic() - started) / 60
                mean = sum(recent) / len(recent)
                print(f"seed {seed} step {step}: {mean:.3f} nats, {minutes:.1f} min", flush=True)
                recent.clear()
        bits = bits_per_character(model.eval(), test, characters)
        print(
            f"seed {seed}: {model.num_parameters():,} parameters, "
            f"{bits:.3f} bits per character held out",
            flush=True,
        )
        export(model, tokenizer.backend_tokenizer, out / f"seed-{seed}")


if __name__ == "__main__":
    main()
