"""Our estimators beside LM-Polygraph's: the same models, prompts and samples.

LM-Polygraph answers from an environment of its own (`lm_polygraph_tool.py`).
"""

import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

import click
from lm_polygraph_ours import SAMPLES, our_answers, prompts_of
from peers import read_texts
from results import write_section

from decoding_evals.judging.answers import rouge_l
from decoding_evals.judging.selective import aurc, auroc, prediction_rejection_ratio

# Ours by LM-Polygraph's names. Where it has none for a sequence, its name for a claim.
GREEDY = {
    "MaximumSequenceProbability": "MaximumSequenceProbability",
    "Perplexity": "Perplexity",
    "MeanTokenEntropy": "MeanTokenEntropy",
    "MaxTokenEntropyClaim": "MaxTokenEntropy",
    "SelfCertainty": "SelfCertainty",
    "RenyiNeg": "RenyiNeg as there",
}
SAMPLED = (
    "MonteCarloSequenceEntropy",
    "MonteCarloNormalizedSequenceEntropy",
    "SemanticEntropyEmpirical",
    "LabelProb",
    "LexicalSimilarity_rougeL",
)
LIKENESS = {
    f"{name}{their_ending}": name
    for their_ending, names in {
        "_NLI_score_entail": ("DegMat", "EigValLaplacian", "Eccentricity"),
        "": ("CocoaMSP", "CocoaPPL", "CocoaMTE", "TokenSAR", "SentenceSAR", "SAR"),
    }.items()
    for name in names
}
DIFFERENCES = """\
- It always asks for two new tokens, so EOS is masked and the rest renormalised at the first two
  steps: its own run differs by what EOS would have had there. With the same tokens and no mask it
  agrees.
- With the same tokens, sums over 40 tokens of a model of 135M parameters differ by up to 4e-4, or
  1e-5 a token: in float32, passes with a cache and without round differently.
- It decodes samples with special tokens spelt out: the BOS that stories260K puts between two
  stories becomes the word `s`, which counts in its ROUGE-L. Without them it agrees.
- `NumSemSets` is the number of connected components where entailment is likelier than
  contradiction; our number of distinct answers counts the classes of `SemanticEntropy`.
- Its `SemanticEntropy` adds up the probabilities of a cluster's samples without normalising them;
  so it has no upper bound and may be negative. Ours is the entropy of the clusters' shares.
- It drops samples without a token before EOS; ours keep them as empty answers.
- It weighs samples under p whatever the setting that drew them (by default `top_k=50`); ours under
  q. Under `raw`, as here, they are one.
- Its `RenyiNeg` is -H - ln V, H being the Rényi entropy of order 1/2 at temperature 2: it grows
  with certainty, though a larger value is to mean less of it, and a divergence from even would be
  ln V - H. Ours is minus that divergence. In the table, ours is put into its form.
- It takes `PTrue` from the token `True` right behind "The possible answer is:", where a text goes
  on with a space, so with another token. Ours scores " True", or `True` where an assistant's turn
  begins under `--chat`; the table has both. Where "True" is several tokens, it fails, and ours
  takes all of them. It masks EOS there, too.
- Where no token is relevant (the text without it is wholly alike), its `TokenSAR` and `SAR` are
  NaN; ours weigh all tokens the same. Where a sample's probability is below e^-745, its
  `SentenceSAR` and `SAR` are infinite; ours add logarithms.
- Where a sample is like none, not even itself, its `EigValLaplacian` and `Eccentricity` fail; to
  ours it is a meaning of its own.
- It has no `GroupConfidence` and no `Margin`."""
ENOUGH = 0.3  # ROUGE-L from which an answer counts as right


def ask(
    python: Path, requests: list[tuple[str, dict[str, Any]]]
) -> tuple[list[Any], dict[str, str]]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    tool = Path(__file__).with_name("lm_polygraph_tool.py")
    # -P, or this file would stand before the package of its name.
    result = subprocess.run(
        [str(python), "-P", str(tool)], input=json.dumps(requests), capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    if result.returncode:
        raise click.ClickException(result.stderr[-2000:])
    answer = json.loads(result.stdout)
    return answer["value"], answer["versions"]


class Bench:
    """One model: the estimators on its answers, and the metrics on the estimates."""

    theirs: list[Any]
    """What LM-Polygraph says of each prompt."""
    rouge: list[float]
    metrics: list[dict[str, float]]

    def __init__(self, name: str, folder: Path, stories: list[str]) -> None:
        self.name, self.folder = name, folder
        self.ours = our_answers(folder, prompts_of(stories, ending=40, middle=2))
        self.values = [answers.estimates() for answers in self.ours]
        endings = [index for index, mine in enumerate(self.ours) if mine.max_new_tokens > 2]
        self.pairs = [[self.ours[i].greedy.text, self.ours[i].reference] for i in endings]
        self.quality = [rouge_l(*pair) for pair in self.pairs]
        self.correct = [value >= ENOUGH for value in self.quality]
        names = [name for name in self.values[0] if not name.endswith("as there")]
        columns = {name: [self.values[i][name] for i in endings] for name in names}
        self.columns = {name: column for name, column in columns.items() if None not in column}

    def requests(self) -> list[tuple[str, dict[str, Any]]]:
        prompts = [answers.request() for answers in self.ours]
        return [
            ("answer", {"folder": str(self.folder.resolve()), "prompts": prompts}),
            ("rouge", {"pairs": self.pairs}),
            *(
                ("metrics", {"uncertainty": c, "quality": self.quality, "correct": self.correct})
                for c in self.columns.values()
            ),
        ]

    def take(self, replies: Iterator[Any]) -> None:
        self.theirs, self.rouge = next(replies), next(replies)
        self.metrics = [next(replies) for _ in self.columns]

    def agreement(self) -> list[str]:
        """A row per estimator: the largest difference over prompts."""
        same = [
            mine.greedy.trace.ids.tolist() == other["tokens"]
            for mine, other in zip(self.ours, self.theirs, strict=True)
        ]
        # It drops a sample that has no token before EOS; an estimate of the others is another one.
        whole = [
            all(len(sample.trace) > (sample.finish_reason == "eos") for sample in mine.samples)
            for mine in self.ours
        ]
        rows = []
        for theirs, mine in GREEDY.items():
            rows.append(self._row(theirs, mine, "greedy", "its own run", same))
            rows.append(self._row(theirs, mine, "unmasked", "its tokens, EOS not masked", same))
        for name in SAMPLED:
            rows.append(self._row(name, name, "sampled", "our samples", whole))
        name = "LexicalSimilarity_rougeL"
        rows.append(self._row(name, name, "bare", "our samples, no special tokens", whole))
        both = [a and b for a, b in zip(same, whole, strict=True)]
        for theirs, mine in LIKENESS.items():
            rows.append(self._row(theirs, mine, "alike", "our answers, its likenesses", both))
        if "true" in self.theirs[0]:
            every, name = [True] * len(whole), "PTrue as there"
            rows.append(self._row("PTrue", name, "true", "our answers", every))
            what = "our answers, EOS not masked"
            rows.append(self._row("PTrue", name, "plainly true", what, every))
            rows.append(self._row("PTrue", "PTrue", "plainly true", what, every))
        return rows

    def _row(self, theirs: str, mine: str, kind: str, what: str, fit: list[bool]) -> str:
        pairs = [
            (other[kind][theirs], values[mine])
            for other, values, fits in zip(self.theirs, self.values, fit, strict=True)
            if fits
        ]
        largest = max(abs(a - b) for a, b in pairs)
        name = f"`{theirs}`" if theirs == mine else f"`{theirs}` (ours: `{mine}`)"
        return (
            f"| {self.name} | {name} | {what} | {len(pairs)} "
            f"| {fmean(a for a, _ in pairs):.4f} | {largest:.1e} |"
        )

    def facts(self) -> str:
        ended = [s.finish_reason == "eos" for mine in self.ours for s in mine.samples]
        texts = [{s.text for s in mine.samples} for mine in self.ours]
        same = sum(
            other["sampled"]["NumSemSets"] == values["NumberOfDistinctAnswers"]
            for other, values in zip(self.theirs, self.values, strict=True)
        )
        entropies = [
            (other["sampled"]["SemanticEntropy"], values["SemanticEntropy"])
            for other, values in zip(self.theirs, self.values, strict=True)
        ]
        spans = [f"{min(one):.2f} to {max(one):.2f}" for one in zip(*entropies, strict=True)]
        classes = [values["NumberOfDistinctAnswers"] for values in self.values]
        return (
            f"{self.name}: {fmean(ended):.0%} of the samples end in EOS, "
            f"{sum(len(t) < SAMPLES for t in texts)} of {len(texts)} prompts have equal samples, "
            f"{min(classes):.0f} to {max(classes):.0f} classes a prompt; `NumSemSets` equals our "
            f"number of distinct answers on {same} of them. Its `SemanticEntropy` goes from "
            f"{spans[0]} nats, ours from {spans[1]}, of at most ln {SAMPLES} = "
            f"{math.log(SAMPLES):.2f}."
        )

    def judged(self) -> list[str]:
        """AUROC, AURC and PRR of every estimator, given the same uncertainties."""
        worst = max(abs(a - b) for a, b in zip(self.rouge, self.quality, strict=True))
        rows = [
            f"| {self.name} | `Rouge_rougeL` of {len(self.pairs)} answers "
            f"| {fmean(self.rouge):.4f} | {fmean(self.quality):.4f} | {worst:.1e} |"
        ]
        for metric, ours in {
            "roc-auc": lambda c: auroc(c, self.correct),
            "rcc-auc": lambda c: aurc(c, self.correct),
            "prr_normalized": lambda c: prediction_rejection_ratio(c, self.quality),
            "prr_0.5_normalized": lambda c: prediction_rejection_ratio(
                c, self.quality, max_rejection=0.5
            ),
        }.items():
            for tied, what in ((False, "without"), (True, "with")):
                values = [
                    (theirs[metric], mine)
                    for column, theirs in zip(self.columns.values(), self.metrics, strict=True)
                    if (len(set(column)) < len(column)) == tied
                    and (mine := ours(column)) is not None  # as where every answer is wrong
                ]
                if values:
                    worst = max(abs(a - b) for a, b in values)
                    rows.append(
                        f"| {self.name} | `{metric}`, {len(values)} estimators {what} ties "
                        f"| {fmean(a for a, _ in values):.4f} "
                        f"| {fmean(b for _, b in values):.4f} | {worst:.1e} |"
                    )
        return rows


@click.command()
@click.option("--data", default="../shared", show_default=True, type=click.Path(path_type=Path))
@click.option("--peer-python", default=".venv-lm-polygraph/bin/python", show_default=True)
@click.option("--stories", default=24, show_default=True, help="Of TinyStories.")
@click.option(
    "--instruct",
    type=click.Path(path_type=Path),
    help='A third model, whose vocabulary holds "True", on a sixth of the stories.',
)
def main(data: Path, peer_python: str, stories: int, instruct: Path | None) -> None:
    """Compare with LM-Polygraph, and write the tables into RESULTS.md."""
    if not Path(peer_python).exists():
        raise click.UsageError(f"no {peer_python}: make lm-polygraph sets up its environment")
    _, tales = read_texts(data, 6000, 4 * stories)
    # Those that fit the models' contexts with their answers.
    tales = [tale for tale in tales if 60 <= len(tale.split()) <= 180][:stories]
    models = {
        "builtin:stories": Path(__file__).parent.parent / "decoding/stories",
        "stories260K": data / "models/stories260K",
    }
    benches = [Bench(name, path, tales) for name, path in models.items()]
    if instruct is not None:
        benches.append(Bench(instruct.name, instruct, tales[: len(tales) // 6]))
    requests = [request for bench in benches for request in bench.requests()]
    values, versions = ask(Path(peer_python), requests)
    replies = iter(values)
    for bench in benches:
        bench.take(replies)
    agreement = [row for bench in benches for row in bench.agreement()]
    metrics = [row for bench in benches for row in bench.judged()]
    facts = [fill(f"- {bench.facts()}", 100, subsequent_indent="  ") for bench in benches]
    installed = ", ".join(f"{name} {number}" for name, number in versions.items())
    body = f"""\
{installed}, in an environment of their own.
{len(tales)} TinyStories, each once without its last 12 words (up to 40 new tokens) and once as its
first half (2 new tokens): {2 * len(tales)} prompts, each with a greedy answer and {SAMPLES} samples
under the setting `raw`, float32 on a CPU. Greedy answers and their log-probabilities are
LM-Polygraph's own; of our samples it is given the tokens, and their log-probabilities come from
transformers. Entailment is scripted: a text entails another where it holds the other's first word.
So is likeness: a checksum of the pair, in that order.
A third model, where there is one, answers a sixth of the stories; `PTrue` needs one that has "True"
as a single token.

| model | estimator | on | prompts | mean | largest difference |
|---|---|---|---|---|---|
{chr(10).join(agreement)}

What it defines otherwise:

{DIFFERENCES}

{chr(10).join(facts)}

The metrics on the endings, of the same uncertainties; quality is ROUGE-L with the story's own
ending, an answer from {ENOUGH} on is right, `roc-auc` has wrong answers as its target. Estimators
of equal values are in an arbitrary order there, and in ours count as the mean of all their orders;
its PRR compares with the mean of 1,000 random orders, ours with their expectation.

| model | metric | theirs | ours | largest difference |
|---|---|---|---|---|
{chr(10).join(metrics)}
"""
    command = f"python benchmarks/lm_polygraph.py{'' if instruct is None else ' --instruct FOLDER'}"
    write_section("LM-Polygraph", command, body)
    click.echo(body)


if __name__ == "__main__":
    main()
