"""A whole run of `uncertainty` beside LM-Polygraph's: questions, samples, estimators.

Both stay loaded in a process of their own, with one thread, and take turns: a chunk of questions
each. LM-Polygraph answers from an environment of its own (`lm_polygraph_speed_tool.py`).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from prompts import ROOT
from results import write_section
from truncation import ratios, spread

EXAMPLES, CHUNK = 8, 20
SIZES = (1, 10, 20)
GIVEN = {"samples": 5, "max_new_tokens": 12, "stop": ["\n"], "seed": 1}
SAME = 1e-3  # of greedy answers' -log p, nats
PROTOCOL = """\
The questions of NQ-Open with {examples} others and their answers in front, as plain text ({tokens}
tokens on average); to each a greedy answer and {samples} samples of at most {most} tokens, up to
the end of a line, under the model's own distribution. {model}, float32, one thread. Each tool is a
process that stays loaded; they take turns, {chunk} questions each; CPU time without loading.
LM-Polygraph {version}: `UEManager` with its own calculators of greedy answers (without attentions
and hidden states), of samples, and of P(True); estimators that need no other model, and that both
have: `MaximumSequenceProbability`, `Perplexity`, `MeanTokenEntropy`, `SelfCertainty`, `RenyiNeg`,
`PTrue`, `MonteCarloSequenceEntropy`, `MonteCarloNormalizedSequenceEntropy`,
`LexicalSimilarity_rougeL`, and `DegMat`, `EigValLaplacian`, `Eccentricity`, there of Jaccard's
similarity and here of ROUGE-L. Ours is `uncertainty` with its defaults and `record()`: the others
that it always has, next tokens' candidates and traces of all samples come on top."""


def prompts_of(path: Path, questions: int) -> list[str]:
    """Questions, each behind the same examples."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, EXAMPLES + questions)]
    asked = [f"Question: {row['question']}?\nAnswer:" for row in rows]
    shown = [f"{q} {row['answer'][0]}\n" for q, row in zip(asked, rows[:EXAMPLES], strict=False)]
    return ["".join(shown) + question for question in asked[EXAMPLES:]]


def work() -> None:
    """Our side: the run over all prompts, a chunk at a time."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import nltk.stem.porter  # noqa: F401  part of loading
    import torch

    from decoding import load_model
    from decoding_evals.shell.running import keep_freed_memory
    from decoding_evals.uncertainty.evaluation import uncertainty

    torch.set_num_threads(1)
    keep_freed_memory()
    given = json.loads(sys.stdin.readline())
    language_model = load_model(given["model"])
    ids = [language_model.tokenizer(prompt)["input_ids"] for prompt in given["prompts"]]
    results = uncertainty(
        language_model, given["prompts"], num_samples=given["samples"], stop=given["stop"],
        max_new_tokens=given["max_new_tokens"], seed=given["seed"],
        batch_size=given["batch_size"],
    )  # fmt: skip
    for line in sys.stdin:
        begin = time.process_time()
        done = [result.record() for result in islice(results, len(json.loads(line)["prompts"]))]
        seconds = time.process_time() - begin
        found = {name: [one["estimators"][name] for one in done] for name in done[0]["estimators"]}
        told = {"seconds": seconds, "estimates": found, "read": fmean(map(len, ids))}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


class Tool:
    """A process that answers chunks."""

    def __init__(self, command: Sequence[object], given: dict[str, Any]) -> None:
        settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | settings | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        self._write(given)

    def __call__(self, prompts: list[str], **options: Any) -> dict[str, Any]:
        self._write({"prompts": prompts, **options})
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise click.ClickException("a worker ended; what it says stands above")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _write(self, told: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()


def chunks(prompts: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(prompts), CHUNK):
        yield prompts[begin : begin + CHUNK]


def joined(found: list[dict[str, Any]], name: str) -> list[float]:
    """An estimator's values over all chunks."""
    return [value for one in found for value in one["estimates"][name]]


def installed(python: str) -> str:
    code = "from importlib.metadata import version; print(version('lm-polygraph'))"
    found = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return found.stdout.strip()


@click.command()
@click.option("--model", required=True, help="A model's folder, as safetensors.")
@click.option(
    "--questions-file", type=click.Path(path_type=Path),
    default=ROOT / "../shared/data/prompts/nq_open.dev.jsonl",
)  # fmt: skip
@click.option("--questions", default=60, show_default=True)
@click.option("--batch-size", default=32, show_default=True, help="Of ours, sequences.")
@click.option("--peer-python", default=".venv-lm-polygraph/bin/python", show_default=True)
@click.option(
    "--peer-batch-size", "sizes", multiple=True, default=SIZES, show_default=True,
    help="Of theirs, prompts; each is tried on the first chunk, and the fastest goes on.",
)  # fmt: skip
@click.option("--worker", is_flag=True, hidden=True)
def main(
    model: str, questions_file: Path, questions: int, batch_size: int, peer_python: str,
    sizes: tuple[int, ...], worker: bool,
) -> None:  # fmt: skip
    """Measure, and write the section "LM-Polygraph: a whole run" into RESULTS.md."""
    if worker:
        work()
        return
    if not Path(peer_python).exists():
        raise click.UsageError(f"no {peer_python}: make lm-polygraph sets up its environment")
    prompts = prompts_of(questions_file, questions)
    given = {"model": model, **GIVEN}
    ours = Tool(
        [sys.executable, __file__, "--worker", "--model", model],
        {**given, "prompts": prompts, "batch_size": batch_size},
    )
    tool = Path(__file__).with_name("lm_polygraph_speed_tool.py")
    theirs = Tool([peer_python, "-P", tool], given)
    mine: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    tried: dict[int, float] = {}
    for chunk in chunks(prompts):
        mine.append(ours(chunk))
        if not tried:
            first = {size: theirs(chunk, batch_size=size) for size in sizes}
            tried = {size: found["seconds"] / len(chunk) for size, found in first.items()}
            fastest = min(sizes, key=tried.__getitem__)
            others.append(first[fastest])
        else:
            others.append(theirs(chunk, batch_size=fastest))
        seconds = ", ".join(f"{found[-1]['seconds']:.1f} s" for found in (mine, others))
        click.echo(f"{len(mine) * CHUNK} questions: {seconds}", err=True)
    ours.close()
    theirs.close()
    of_both = [[one["seconds"] for one in found] for found in (mine, others)]
    per_prompt = [sum(seconds) / len(prompts) for seconds in of_both]
    name = "MaximumSequenceProbability"
    pairs = zip(joined(mine, name), joined(others, name), strict=True)
    same = sum(abs(a - b) < SAME for a, b in pairs)
    protocol = PROTOCOL.format(
        examples=EXAMPLES, chunk=CHUNK, samples=GIVEN["samples"], most=GIVEN["max_new_tokens"],
        tokens=f"{mine[0]['read']:.0f}", model=Path(model).name, version=installed(peer_python),
    )  # fmt: skip
    sizes_tried = ", ".join(f"{size}: {seconds:.2f}" for size, seconds in tried.items())
    body = f"""\
{protocol}

| questions | theirs, CPU s a question | ours | times the CPU time of ours | bar |
|---|---|---|---|---|
| {len(prompts)} | {per_prompt[1]:.2f} | {per_prompt[0]:.2f} \
| {spread(ratios(of_both[1], of_both[0]))} | ≥ 3 |

Median and range over {len(mine)} turns; the first one of ours holds its probes of the model.
LM-Polygraph ran with {fastest} prompts together, the fastest on the first {CHUNK} questions (CPU s
a question by prompts together: {sizes_tried}); ours with {batch_size} sequences, its default being
32. -log p of the greedy answer is the same to {SAME} nats in {same} of {len(prompts)}. What sets
the others apart was not taken apart: by its code it masks EOS at the first steps, and with several
prompts together it counts what stands behind an answer that has ended. Equal tokens give equal
estimates (see "LM-Polygraph").
"""
    command = "python benchmarks/lm_polygraph_speed.py --model FOLDER"
    if sizes != SIZES:
        command += "".join(f" --peer-batch-size {size}" for size in sizes)
    write_section("LM-Polygraph: a whole run", command, body)
    click.echo(body)


if __name__ == "__main__":
    main()
