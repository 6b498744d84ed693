"""Measure the embedded model on the held-out stories and write its model card."""

import json
import math
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from train_stories import HELD_OUT, read_stories

import decoding
from decoding import DecodingSettings, generate, load_model
from decoding.models.loading import BUILTIN

SETTINGS = DecodingSettings(temperature=0.8, top_p=0.95)
SEED = 1

CARD = """\
# {name}

A GPT-2 of {parameters:,} parameters that continues simple English stories. It is the default model
of decoding-toolkit: small enough to ship with it, good enough to show where a model hesitates.

| | |
|---|---|
| architecture | GPT-2: {layers} layers, width {width}, {heads} heads, context {context}, tied embeddings |
| tokenizer | byte-level BPE, {vocab:,} tokens; `<|endoftext|>` is BOS, EOS and padding |
| weights | float16 safetensors, {megabytes:.1f} MB with the tokenizer |
| held-out | **{bits:.3f} bits per character on the held-out {count} stories** ({bits_end:.3f} with the end token) |
| the same as | {nats:.3f} nats a token, perplexity {perplexity:.2f}, {characters:.2f} characters a token |

The figure is -log2 p(story | BOS) over the characters of the last {count} stories of the data file,
each story alone after BOS, in float32 arithmetic on the shipped weights. No held-out story is longer
than the context. It was logged during training but not used to choose anything.

## Data and licence

| | real stories | synthetic stories |
|---|---|---|
| source | an excerpt of TinyStories (Eldan & Li 2023, arXiv:2305.07759), by way of the repository Bellman281/esp32-tinyLLM | drawn for this project from a story model of 3.6M parameters |
| licence | CDLA-Sharing-1.0 | that of the story model is MIT; its name was not written down |
| used | 1,571 of 1,671 stories, {repeat} times | 29,898 stories, 25 MB |

The last {count} real stories are held out: neither the tokenizer nor the model saw them. The synthetic
ones were drawn at temperature 1 and without truncation, so they are an unbiased sample of their
model's distribution. A sharper sample of the same model (temperature 0.85, top-p 0.97) was left out:
it would teach the model to be surer than the text warrants.

The weights are under the licence of this package, Apache-2.0.

## Recipe

`training/train_stories.py`: {steps:,} steps of about {step_tokens:,} positions, {tokens_seen:.1f}M
tokens in all ({epochs:.1f} passes over {epoch_tokens:.2f}M). One story per row, rows of similar
length together; one row in eight without BOS, because the tokenizer adds none to a prompt. Muon on
the matrices (momentum 0.95, weight decay 0.05), AdamW on the rest; peak rate 3e-3 for both, 100
steps of warm-up, then constant, then linear to zero. The run was planned for 4,200 steps, with the
decay from step 1,470 on, and resumed at step 2,300 with the end moved to step 3,400; the script's
defaults are a plain run of that length. Gradients clipped at norm 1, no dropout, bfloat16 autocast
over float32 weights. Seed {seed}.

The log, `training/log.jsonl`, has a line every 100 steps; every third:

| step | million tokens | train, nats a token | held-out, bits per character |
|---|---|---|---|
{log}

It took {minutes:.0f} minutes on two CPU cores that had other work to do at the same time.

## Limits

It knows the small world of these stories: children, animals, toys, a lesson at the end. It loses the
thread after a few sentences, confuses who did what, and is no source of facts. Other languages and
other kinds of text round-trip through the tokenizer, but the model has no idea of them. The stories
reflect what their authors, themselves language models, took for a children's story. Dropout is 0, so
it offers no Monte Carlo dropout.

## Samples

Unedited, from an empty prompt at `{settings}`, seed {sample_seed}, at most 300 tokens.

{samples}
"""


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--log", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--repeat", default=3, show_default=True, help="As in training.")
@click.option("--step-tokens", default=8192, show_default=True, help="As in training.")
@click.option("--seed", default=20261122, show_default=True, help="As in training.")
def main(data: Path, log: Path, repeat: int, step_tokens: int, seed: int) -> None:
    """Write the model card of the embedded model into its folder."""
    loaded = load_model(device="cpu")
    model, tokenizer = loaded.model, loaded.tokenizer
    held_out = read_stories(data / "stories.txt")[-HELD_OUT:]
    nats = end_nats = 0.0
    tokens = 0
    for story in held_out:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(story)["input_ids"]]])
        with torch.no_grad():
            log_probs = model(ids).logits[0].double().log_softmax(-1)
        nats += F.nll_loss(log_probs[:-1], ids[0, 1:], reduction="sum").item()
        end_nats -= log_probs[-1, tokenizer.eos_token_id].item()
        tokens += ids.shape[1] - 1
    characters = sum(map(len, held_out))

    samples = generate(loaded, "", SETTINGS, seed=SEED, num_return_sequences=5, max_new_tokens=300)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    texts = read_stories(data / "stories.txt")[:-HELD_OUT] * repeat
    texts += read_stories(data / "synthetic.txt")
    epoch = sum(len(ids) + 1 for ids in tokenizer(texts)["input_ids"])
    shown = [line for line in lines if line["step"] % 300 == 0 or line is lines[-1]]
    folder = Path(decoding.__file__).parent / "stories"
    files = [file for file in folder.iterdir() if file.suffix != ".md"]
    card = CARD.format(
        name=BUILTIN,
        parameters=model.num_parameters(),
        layers=model.config.n_layer,
        width=model.config.n_embd,
        heads=model.config.n_head,
        context=model.config.n_positions,
        vocab=model.config.vocab_size,
        megabytes=sum(file.stat().st_size for file in files) / 1e6,
        bits=nats / math.log(2) / characters,
        bits_end=(nats + end_nats) / math.log(2) / characters,
        count=HELD_OUT,
        nats=nats / tokens,
        perplexity=math.exp(nats / tokens),
        characters=characters / tokens,
        repeat=repeat,
        steps=lines[-1]["step"],
        step_tokens=step_tokens,
        tokens_seen=lines[-1]["tokens"] / 1e6,
        epochs=lines[-1]["tokens"] / epoch,
        epoch_tokens=epoch / 1e6,
        seed=seed,
        log="\n".join(
            f"| {line['step']:,} | {line['tokens'] / 1e6:.1f} | {line['train_nats_per_token']:.3f} "
            f"| {line['held_out_bits_per_character']:.3f} |"
            for line in shown
        ),
        minutes=lines[-1]["minutes"],
        settings=SETTINGS,
        sample_seed=SEED,
        samples="\n\n".join(
            f"{number}. " + sample.text.strip().replace("\n", "\n   ")
            for number, sample in enumerate(samples, 1)
        ),
    )
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
