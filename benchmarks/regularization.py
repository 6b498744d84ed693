"""What the training losses of `decoding.information.regularization` do to calibration, over seeds.

`builtin:stories` is fine-tuned on a little Shakespeare for several epochs, so that it becomes too
sure. A seed picks the training rows and their order; every loss sees the same ones. Read are the
last tenth of the text (the figures) and the tenth before it (for fitting one temperature to the
model that was trained plainly, which is what regularization competes with).

Each run's figures go into WORK/runs.jsonl when it ends, and runs found there are not run again.
"""

import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from results import write_section
from scipy.optimize import minimize_scalar
from torch import Tensor
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from decoding import load_model, row_statistics
from decoding.information.regularization import entropy_regularized_loss

SHAKESPEARE = Path(__file__).resolve().parents[2] / "shared/data/shakespeare/tinyshakespeare.txt"
CONTEXT = 128
BATCH = 4
BINS = 15
# Chosen by `--pilot` with seed 99, which reads no row of the figures: after plain training the mean
# entropy fell 0.9 nats short of the NLL, 4.1 after fitting a temperature, and β = 0.1 halved that.
LOSSES: dict[str, dict[str, float]] = {
    "cross-entropy": {},
    "confidence penalty, β = 0.2": {"beta": 0.2},
    "target entropy 4.1 nats, β = 0.1": {"beta": 0.1, "target_entropy_nats": 4.1},
    "label smoothing, ε = 0.1": {"label_smoothing": 0.1},
}
TEMPERATURE = "cross-entropy, then one temperature"
COLUMNS = ("nll_nats", "ece", "overconfidence", "accuracy", "entropy_nats", "train_nll_nats")


def rows_of(text: str, tokenizer: Any) -> Tensor:
    """The text's ids in rows of `CONTEXT`, `(rows, CONTEXT)`; the rest is dropped."""
    ids = tokenizer(text, verbose=False)["input_ids"]
    return torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).reshape(-1, CONTEXT)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Σ n_b/n·|mean confidence - accuracy| over bins of equal mass."""
    order = np.argsort(confidence, kind="stable")
    gaps = [
        len(part) * abs(confidence[part].mean() - correct[part].mean())
        for part in np.array_split(order, BINS)
    ]
    return float(sum(gaps) / len(order))


@torch.no_grad()
def figures(model: GPT2LMHeadModel, rows: Tensor, temperature: float = 1.0) -> dict[str, float]:
    """Negative log-likelihood, calibration of the favourite token, and entropy on held-out rows."""
    model.eval()
    columns = []
    for ids in rows.split(16):
        logits = model(input_ids=ids).logits[:, :-1] / temperature
        read = row_statistics(logits, ids[:, 1:])
        confidence = (logits.amax(-1) - read.log_partition).exp()
        columns.append([read.target_log_prob, confidence, read.rank == 0, read.entropy])
    log_prob, confidence, correct, entropy = (
        torch.cat([part.flatten() for part in column]).double().numpy()
        for column in zip(*columns, strict=True)
    )
    return {
        "nll_nats": float(-log_prob.mean()),
        "ece": expected_calibration_error(confidence, correct),
        "overconfidence": float(confidence.mean() - correct.mean()),
        "accuracy": float(correct.mean()),
        "entropy_nats": float(entropy.mean()),
    }


def fine_tuned(
    rows: Tensor, loss: dict[str, float], seed: int, steps: int, rate: float, work: Path
) -> GPT2LMHeadModel:
    """The embedded model after `steps` of AdamW on these rows."""
    model = load_model(device="cpu").model
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=rate,
        warmup_steps=20,
        seed=seed,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        logging_steps=steps,
        disable_tqdm=not sys.stderr.isatty(),
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        compute_loss_func=entropy_regularized_loss(**loss),
    ).train()
    return model


@torch.no_grad()
def fitted_temperature(model: GPT2LMHeadModel, rows: Tensor) -> float:
    """The temperature that makes these rows most likely."""
    logits, targets = model(input_ids=rows).logits[:, :-1], rows[:, 1:]

    def nll(temperature: float) -> float:
        log_prob = row_statistics(logits / temperature, targets).target_log_prob
        return -log_prob.double().mean().item()

    return float(minimize_scalar(nll, bounds=(0.5, 3), options={"xatol": 1e-3}).x)


def cell(values: list[float], form: str = ".3f") -> str:
    """Mean ± standard deviation over the seeds."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{spread}"


def table(runs: dict[tuple[str, int], dict[str, Any]], seeds: list[int]) -> str:
    """A line for each loss; the seeds see different rows, so losses are compared seed by seed."""
    lines = []
    for name in ("cross-entropy", TEMPERATURE, *list(LOSSES)[1:]):
        by_column = {column: [runs[name, seed][column] for seed in seeds] for column in COLUMNS}
        plain = [runs["cross-entropy", seed]["nll_nats"] for seed in seeds]
        gains = [ours - theirs for ours, theirs in zip(by_column["nll_nats"], plain, strict=True)]
        cells = [name, *map(cell, by_column.values())]
        cells.insert(2, "" if name == "cross-entropy" else cell(gains, "+.3f"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            "| loss | NLL, nats | beside cross-entropy | ECE | overconfidence | accuracy "
            "| mean entropy, nats | NLL of trained rows |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
        ]
    )


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For runs.jsonl.")
@click.option("--rows", "count", default=200, show_default=True, help=f"Rows of {CONTEXT} tokens.")
@click.option("--steps", default=150, show_default=True, help=f"Of {BATCH} rows each.")
@click.option("--rate", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--seeds", default="1,2,3", show_default=True)
@click.option("--pilot", is_flag=True, help="Read the tenth before the last; no RESULTS.md.")
def main(work: Path, count: int, steps: int, rate: float, seeds: str, pilot: bool) -> None:
    """Fine-tune with every loss and seed, and write the table into RESULTS.md."""
    if not SHAKESPEARE.exists():
        raise click.ClickException(f"needs {SHAKESPEARE}, which is not there")
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    start = load_model(device="cpu")
    text = SHAKESPEARE.read_text(encoding="utf-8")
    cuts = [len(text) * tenths // 10 for tenths in (0, 8, 9, 10)]
    train, fit, test = (rows_of(text[a:b], start.tokenizer) for a, b in pairwise(cuts))
    read = fit if pilot else test
    log = work / "runs.jsonl"
    settings = {"rows": count, "steps": steps, "rate": rate, "pilot": pilot}
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    done = {(r["loss"], r["seed"]): r for r in map(json.loads, lines) if r["settings"] == settings}

    def note(loss: str, seed: int, **measured: float) -> None:
        run = {"loss": loss, "seed": seed, "settings": settings, **measured}
        done[loss, seed] = run
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run, ensure_ascii=False) + "\n")
        click.echo(f"{loss}, seed {seed}: {measured}", err=True)

    chosen = list(map(int, seeds.split(",")))
    for seed in chosen:
        generator = torch.Generator().manual_seed(seed)
        rows = train[torch.randperm(len(train), generator=generator)[:count]]
        for name, loss in LOSSES.items():
            if (name, seed) in done:
                continue
            begin = time.monotonic()
            model = fine_tuned(rows, loss, seed, steps, rate, work)
            minutes = round((time.monotonic() - begin) / 60, 2)
            # First the second reading: who goes on later takes a noted loss for finished.
            if not loss:
                t = fitted_temperature(model, fit[:64])
                on_train = figures(model, rows, t)["nll_nats"]
                measured = figures(model, read, t)
                note(TEMPERATURE, seed, **measured, train_nll_nats=on_train, temperature=t)
            on_train = figures(model, rows)["nll_nats"]
            note(name, seed, **figures(model, read), train_nll_nats=on_train, minutes=minutes)
    before = figures(start.model, read)
    temperatures = [done[TEMPERATURE, seed]["temperature"] for seed in chosen]
    body = (
        f"`Trainer(compute_loss_func=entropy_regularized_loss(…))` on `builtin:stories`: {steps} "
        f"steps of AdamW, {BATCH}\nrows of {CONTEXT} tokens each, peak rate {rate:g}, over {count} "
        f"rows of Shakespeare ({steps * BATCH / count:g} epochs). Read are\n"
        f"{len(read) * (CONTEXT - 1):,} held-out tokens; before fine-tuning their NLL was "
        f"{before['nll_nats']:.3f} nats and the ECE {before['ece']:.3f}.\n"
        f"Mean ± standard deviation over seeds {seeds}, which pick the rows and their order. ECE "
        f"is of the\nfavourite token, in {BINS} bins of equal mass; overconfidence is its mean "
        f"probability less the accuracy.\nThe one temperature was fitted to other held-out rows: "
        f"{', '.join(f'{t:.2f}' for t in temperatures)}.\n\n" + table(done, chosen)
    )
    click.echo(body)
    if not pilot:
        command = "python benchmarks/regularization.py --work WORK"
        write_section("Calibration after regularized fine-tuning", command, body)


if __name__ == "__main__":
    main()
