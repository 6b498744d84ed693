"""Train the embedded story model, `builtin:stories`, on a CPU.

Contract: `--data` is a folder with `stories.txt` and `synthetic.txt` (stories separated by
`<|endoftext|>` lines). The last 100 stories of `stories.txt` are held out: neither the
tokenizer nor the model sees them. The run is a function of (data, arguments); it writes

    WORK/tokenizer.json   byte-level BPE, trained on the training stories alone
    WORK/log.jsonl        one line per evaluation: step, tokens, loss, held-out bits per character
    WORK/checkpoint.pt    weights and optimizer state, for `--resume`
    OUT/                  the finished model in Hugging Face form, float16 safetensors

Every training row is one story, `<|endoftext|> story <|endoftext|>`, so a token's position is its
position in the story, as it is at inference. One row in eight goes without the leading token, since
the tokenizer does not add it to a prompt. Rows of similar length share a batch.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

END = "<|endoftext|>"
HELD_OUT = 100
CONTEXT = 512


def read_stories(path: Path) -> list[str]:
    """The stories of one file, without the separator lines and surrounding newlines."""
    texts = (story.strip("\n") for story in path.read_text(encoding="utf-8").split(END))
    return [text for text in texts if text]


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE whose base alphabet is all 256 bytes, so any UTF-8 text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str], end: int) -> list[torch.Tensor]:
    """One row per story, `end story end`, cut to CONTEXT + 1 ids."""
    return [
        torch.tensor([end, *encoding.ids, end][: CONTEXT + 1], dtype=torch.int32)
        for encoding in tokenizer.encode_batch(texts)
    ]


def batches(rows: list[torch.Tensor], tokens: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless `(batch, seq)` id batches of about `tokens` positions, padded with -1.

    Each epoch shuffles the rows, sorts pools of them by length and shuffles the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        epoch: list[list[int]] = []
        for start in range(0, len(order), 4096):
            pool = sorted(order[start : start + 4096], key=lambda i: len(rows[i]))
            while pool:
                count = max(1, tokens // (-(-len(rows[pool[-1]]) // 16) * 16))
                epoch.append(pool[-count:])
                del pool[-count:]
        for i in torch.randperm(len(epoch), generator=generator).tolist():
            length = max(len(rows[j]) for j in epoch[i])
            length = -(-(length - 1) // 16) * 16 + 1
            batch = torch.full((len(epoch[i]), length), -1, dtype=torch.long)
            for row, j in enumerate(epoch[i]):
                bare = int(torch.rand((), generator=generator) < 1 / 8)
                batch[row, : len(rows[j]) - bare] = rows[j][bare:]
            yield batch


def mean_loss(model: GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats over the real targets of a padded batch."""
    hidden = model.transformer(input_ids=ids[:, :-1].clamp(min=0), use_cache=False)[0]
    logits = model.lm_head(hidden).float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=-1)


@torch.no_grad()
def bits_per_character(model: GPT2LMHeadModel, rows: list[torch.Tensor], characters: int) -> float:
    """-log2 p(story text | end), summed over the stories, per character; without the final end."""
    nats = 0.0
    for row in rows:
        ids = row.long()[None]
        logits = model(input_ids=ids[:, :-2], attention_mask=torch.ones_like(ids[:, :-2])).logits
        nats += F.cross_entropy(logits[0], ids[0, 1:-1], reduction="sum").item()
    return nats / math.log(2) / characters


def export(model: GPT2LMHeadModel, tokenizer: Tokenizer, out: Path) -> None:
    """Write the Hugging Face folder: float16 safetensors, configuration, fast tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    half = GPT2LMHeadModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    special = {f"{kind}_token": END for kind in ("bos", "eos", "pad")}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Transformers 4 would add token types, to whose embeddings GPT-2 gives a meaning.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for file in out.iterdir():
        file.chmod(0o644)


def optimizers_of(model: GPT2LMHeadModel, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    chosen = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def descend(
    model: GPT2LMHeadModel, loss: torch.Tensor, optimizers: list[torch.optim.Optimizer]
) -> None:
    """One step down the loss."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def save(
    work: Path,
    step: int,
    minutes: float,
    model: GPT2LMHeadModel,
    optimizers: list[torch.optim.Optimizer],
) -> None:
    """Write a checkpoint in the place of the one before."""
    state = {
        "step": step,
        "minutes": minutes,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(state, work / "checkpoint.tmp")
    os.replace(work / "checkpoint.tmp", work / "checkpoint.pt")


def restored(
    work: Path, model: GPT2LMHeadModel, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    """Load the checkpoint; steps and minutes until then."""
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["minutes"]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Log, checkpoint.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Finished model.")
@click.option("--repeat", default=3, show_default=True, help="Weight of the real stories.")
@click.option("--sharp", default=0, show_default=True, help="Weight of synthetic_sharp.txt.")
@click.option("--vocab", default=2048, show_default=True)
@click.option("--layers", default=4, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--heads", default=4, show_default=True)
@click.option("--steps", default=3400, show_default=True)
@click.option("--tokens", default=8192, show_default=True, help="Positions per step.")
@click.option("--rate", default=3e-3, show_default=True, help="Peak learning rate.")
@click.option("--flat", default=0.35, show_default=True, help="Share of steps before the decay.")
@click.option("--seed", default=20261122, show_default=True)
@click.option("--every", default=100, show_default=True, help="Steps between evaluations.")
@click.option("--resume", is_flag=True, help="Go on from WORK/checkpoint.pt.")
def main(
    data: Path, work: Path, out: Path, repeat: int, sharp: int, vocab: int, layers: int,
    width: int, heads: int, steps: int, tokens: int, rate: float, flat: float, seed: int,
    every: int, resume: bool,
) -> None:  # fmt: skip
    """Train the story model and write it in Hugging Face form."""
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    real = read_stories(data / "stories.txt")
    real, held_out = real[:-HELD_OUT], real[-HELD_OUT:]
    synthetic = read_stories(data / "synthetic.txt")
    texts = real * repeat + synthetic
    if sharp:
        texts += read_stories(data / "synthetic_sharp.txt") * sharp
    tokenizer = train_tokenizer(real * repeat + synthetic[:8000], vocab)
    tokenizer.save(str(work / "tokenizer.json"), pretty=False)
    end = tokenizer.token_to_id(END)
    rows, test = encode(tokenizer, texts, end), encode(tokenizer, held_out, end)
    characters = sum(map(len, held_out))
    # A held-out story cut at the context would flatter the figure.
    assert [tokenizer.decode(row[1:-1].tolist()) for row in test] == held_out

    config = GPT2Config(
        vocab_size=vocab, n_positions=CONTEXT, n_embd=width, n_layer=layers, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimizers = optimizers_of(model, rate)
    first, before = restored(work, model, optimizers) if resume else (0, 0.0)
    size = sum(p.numel() for p in model.parameters())
    epoch = sum(len(row) - 1 for row in rows)
    print(f"{size:,} parameters; {len(rows):,} stories, {epoch:,} tokens an epoch", flush=True)

    step_loss = torch.compile(mean_loss, dynamic=True)
    stream = batches(rows, tokens, seed)
    seen, started, recent = 0, time.monotonic(), []
    for step in range(steps):
        ids = next(stream)
        seen += int((ids[:, 1:] >= 0).sum())
        if step < first:
            continue
        decay = min(1.0, (steps - step) / (steps * (1 - flat)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 100) * decay
        with torch.autocast("cpu", torch.bfloat16):
            loss = step_loss(model, ids)
        descend(model, loss, optimizers)
        recent.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            line = {
                "step": step + 1,
                "tokens": seen,
                "minutes": round(before + (time.monotonic() - started) / 60, 2),
                "train_nats_per_token": round(sum(recent) / len(recent), 4),
                "held_out_bits_per_character": round(
                    bits_per_character(model, test, characters), 4
                ),
            }
            recent.clear()
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            save(work, step + 1, line["minutes"], model, optimizers)
    export(model, tokenizer, out)


if __name__ == "__main__":
    main()
