"""Perplexity and surprisals beside other tools: the same figures, what they do otherwise, speed.

The tools answer from an environment of their own (`peer_tools.py`). Runs of ours and of theirs take
turns, each timed in its own process with its model loaded.
"""

import json
import math
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import click
from peer_tools import BATCH, CONTEXT
from results import write_section

Surprisals = list[list[float]]


class Worker:
    def __init__(self, python: Path, errors: IO[str]) -> None:
        self._errors = errors
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("peer_tools.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def ask(self, what: str, **request: Any) -> Any:
        return self.timed(what, **request)[0]

    def timed(self, what: str, **request: Any) -> tuple[Any, float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # where it has died, reading says so
            self._process.stdin.write(json.dumps({"ask": what, **request}) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            raise click.ClickException(f"{what}: {self._errors.read()[-2000:]}")
        result = json.loads(answer)
        return result["value"], result["seconds"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def ours(
    language_model: Any,
    documents: list[str],
    protocol: str = "default",
    stride: int | None = None,
    batch_size: int = BATCH,
) -> dict[str, Any]:
    from decoding import Windows
    from decoding_evals.perplexity.evaluation import perplexity

    windows = Windows(context=CONTEXT, stride=stride, batch_size=batch_size)
    return perplexity(language_model, documents, protocol=protocol, windows=windows).record()


def our_surprisals(language_model: Any, documents: list[str]) -> Surprisals:
    from decoding import Windows
    from decoding_evals.score.evaluation import score

    scored = score(language_model, documents, windows=Windows(context=CONTEXT, batch_size=BATCH))
    return [document.surprisal_nats.tolist() for document in scored]


def sum_of(surprisals: Surprisals) -> float:
    return math.fsum(value for document in surprisals for value in document)


def largest(first: Surprisals, second: Surprisals) -> float:
    """The largest difference of two surprisals of the same token."""
    return max(
        abs(a - b)
        for mine, other in zip(first, second, strict=True)
        for a, b in zip(mine, other, strict=True)
    )


class Bench:
    """One model: its figures under each protocol, what each tool does otherwise, and the speed."""

    def __init__(
        self, worker: Worker, name: str, folder: Path, wiki: str, stories: list[str]
    ) -> None:
        from decoding import load_model

        self.worker, self.name, self.folder = worker, name, str(folder.resolve())
        self.loaded = load_model(self.folder)
        counted = self.ask("counts", documents=stories)
        self.adds_bos: bool = counted["adds_bos"]
        # Tools without windows read what fits the context, BOS included.
        self.stories = [
            story
            for story, tokens in zip(stories, counted["tokens"], strict=True)
            if tokens < CONTEXT
        ]
        self.wiki = wiki
        self.documents = [wiki, *self.stories]
        self.agreement: list[str] = []
        self.otherwise: list[str] = []

    def ask(self, what: str, **request: Any) -> Any:
        return self.worker.ask(what, folder=self.folder, **request)

    def agree(self, protocol: str, figure: str, theirs: float, mine: float) -> None:
        difference = mine / theirs - 1
        self.agreement.append(
            f"| {self.name} | {protocol} | {figure} | {theirs:.6g} | {mine:.6g} "
            f"| {difference:+.1e} |"
        )

    def differ(self, what: str, size: str) -> None:
        self.otherwise.append(f"| {self.name} | {what} | {size} |")

    def corpus(self) -> None:
        """lm-eval on all documents."""
        theirs = self.ask("lm_eval", documents=self.documents)
        mine = ours(self.loaded, self.documents, protocol="lm-eval")
        for figure in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
            self.agree("lm-eval", f"`{figure}`", theirs[figure], mine[figure])
        truth = self.ask("lm_eval_rule", documents=self.stories)["bits_per_byte"]
        if self.adds_bos:
            bits = self.ask("lm_eval", documents=self.stories, add_bos_token=None)["bits_per_byte"]
            self.differ(
                "lm-eval, `add_bos_token` at its default: the tokenizer puts a BOS in front, "
                "lm-eval another one, and the second one is scored",
                f"stories: {truth:.4f} bits per byte become {bits:.4f} ({bits / truth - 1:+.1%})",
            )

    def long_text(self) -> None:
        """The guide, llama.cpp and the GPT-2 paper, on one text longer than the context."""
        text = [self.wiki]
        for stride in (CONTEXT, CONTEXT // 2, CONTEXT // 16):
            theirs = self.ask("guide", documents=text, stride=stride)
            truth = self.ask("guide_rule", text=self.wiki, stride=stride)
            mine = ours(self.loaded, text, protocol="huggingface", stride=stride)
            figure = f"perplexity, stride {stride}"
            self.agree("huggingface (guide)", figure, theirs["present"], mine["perplexity"])
            today, formerly = (
                theirs[name] / truth["perplexity"] - 1 for name in ("present", "former")
            )
            self.differ(
                f"guide, stride {stride}: window means weighted by new tokens - 1, formerly by new "
                "tokens, where all predictions should weigh the same",
                f"{today:+.1e}, formerly {formerly:+.1e} in the perplexity",
            )
        odd = self.ask("guide", documents=text, stride=CONTEXT, tokens=2 * CONTEXT + 1)
        self.differ(
            f"guide, stride {CONTEXT}, the first {2 * CONTEXT + 1:,} tokens: the last window "
            "predicts nothing, and its mean is not a number",
            f"{odd['present']}, formerly {odd['former']}",
        )
        theirs = self.ask("llama_cpp_rule", text=self.wiki)
        mine = ours(self.loaded, text, protocol="llama.cpp")
        self.agree("llama.cpp (rule)", "perplexity", theirs["perplexity"], mine["perplexity"])
        self.agree(
            "llama.cpp (rule)",
            "its ±, of the log",
            theirs["standard_error"],
            mine["naive_standard_error"],
        )
        self.differ(
            "llama.cpp (rule): half of every chunk is scored, the rest of the text dropped",
            f"{theirs['tokens_scored']:,} of {theirs['tokens']:,} tokens count; its ± takes them "
            f"as independent: {theirs['standard_error']:.3f} nats, over blocks "
            f"{mine['standard_error']:.3f}",
        )
        theirs = self.ask("megatron_rule", text=self.wiki, stride=32)
        mine = ours(self.loaded, text, protocol="gpt2-paper")
        for figure in ("perplexity", "word_perplexity"):
            self.agree("gpt2-paper (rule)", f"`{figure}`", theirs[figure], mine[figure])

    def surprisals(self) -> None:
        """minicons, surprisal and evaluate on texts that fit the context."""
        mine = our_surprisals(self.loaded, self.stories)
        truth = self.ask("surprisals_by_rule", documents=self.stories)
        exactly = [document["surprisals"] for document in truth]
        self._surprisals_agree("float64 loop", exactly, mine)
        self._minicons(mine, exactly)
        self._surprisal(mine, exactly, [document["without_eos"] for document in truth])
        self._evaluate(mine, exactly)

    def _minicons(self, mine: Surprisals, exactly: Surprisals) -> None:
        # As it must be called for each kind of tokenizer: the first entry is a placeholder.
        minicons = self.ask("minicons", documents=self.stories, bos_token=not self.adds_bos)
        self._surprisals_agree("minicons", [scores[1:] for scores in minicons], mine)
        if self.adds_bos:
            doubled = self.ask("minicons", documents=self.stories, bos_token=True)
            self.differ(
                "minicons, `bos_token=True`: two BOS, the second one scored",
                f"stories: {sum_of(doubled) / sum_of(exactly) - 1:+.2%} in the sum",
            )
        else:
            plain = self.ask("minicons", documents=self.stories, bos_token=False)
            rest = [scores[1:] for scores in plain]
            first = sum_of([scores[:1] for scores in exactly])
            self.differ(
                "minicons, `bos_token` at its default False: no BOS, and each text's first token "
                "is listed with surprisal 0",
                f"stories: {first / sum_of(exactly):.1%} of the nats left out, the others "
                f"{sum_of(rest) / (sum_of(exactly) - first) - 1:+.2%}",
            )

    def _surprisal(self, mine: Surprisals, exactly: Surprisals, without_eos: Surprisals) -> None:
        theirs = self.ask("surprisal", documents=self.stories, use_bos_token=not self.adds_bos)
        begin = int(self.adds_bos)
        cut = [
            scores[begin : begin + len(document)]
            for scores, document in zip(theirs, exactly, strict=True)
        ]
        self._surprisals_agree("surprisal", cut, mine)
        rule, effect = largest(cut, without_eos), largest(cut, exactly)
        if effect > 1e-3:
            self.differ(
                "surprisal: the logit of EOS, taken for padding, is -inf at every position, so "
                f"every token gets ln(1 - p(EOS)) too little (confirmed to {rule:.0e} nats)",
                f"stories: up to {effect:.2g} nats on a token, "
                f"{sum_of(cut) / sum_of(exactly) - 1:+.1e} in the sum",
            )
        if begin == 0:
            separator = self.loaded.tokenizer.eos_token
            joined = separator.join(self.stories[:2])
            [scores] = self.ask("surprisal", documents=[joined], use_bos_token=True)
            [right] = our_surprisals(self.loaded, [joined])
            place = scores.index(math.inf)
            self.differ(
                f"surprisal, two stories with `{separator}` between them",
                f"its surprisal is {scores[place]} instead of {right[place]:.2f} nats",
            )
        padded = sum(math.inf in scores for scores in theirs)
        self.differ(
            f"surprisal, batches of {BATCH}: arrays are as long as the longest text, padding has "
            "surprisal inf",
            f"{padded} of {len(theirs)} texts have an infinite sum",
        )

    def _evaluate(self, mine: Surprisals, exactly: Surprisals) -> None:
        theirs = self.ask("evaluate_metric", documents=self.stories)
        mean = statistics.fmean(math.exp(statistics.fmean(scores)) for scores in mine)
        self.agree("evaluate (rule)", "`mean_perplexity`", theirs["mean_perplexity"], mean)
        total = math.exp(sum_of(exactly) / sum(map(len, exactly)))
        everything = self.ask("evaluate_metric", documents=self.documents)
        tokens = sum(self.ask("counts", documents=self.documents)["tokens"])
        self.differ(
            "evaluate (rule): the mean of the texts' perplexities, each text cut to the context",
            f"stories: {theirs['mean_perplexity']:.4f} where all their tokens have "
            f"{total:.4f} ({theirs['mean_perplexity'] / total - 1:+.1%}); with the long text "
            f"{1 - everything['tokens_scored'] / tokens:.0%} of the tokens are dropped",
        )

    def _surprisals_agree(self, tool: str, theirs: Surprisals, mine: Surprisals) -> None:
        figure = f"sum of surprisals (a token: {largest(theirs, mine):.0e} nats at most)"
        self.agree(tool, figure, sum_of(theirs), sum_of(mine))

    def speed(self, repeats: int) -> list[str]:
        """CPU seconds of theirs and ours in turn, after each has run once.

        One thread and its own time, because the machine may have other work.
        """
        import torch

        torch.set_num_threads(1)
        bos = not self.adds_bos
        texts = {"all": self.documents, "stories": self.stories, "long": [self.wiki]}
        contests: list[tuple[str, str, str, dict[str, Any], Callable[..., Any], dict[str, Any]]] = [
            ("lm-eval", "all", "lm_eval", {}, ours, {"protocol": "lm-eval"}),
            ("minicons", "stories", "minicons", {"bos_token": bos}, our_surprisals, {}),
            ("surprisal", "stories", "surprisal", {"use_bos_token": bos}, our_surprisals, {}),
            ("evaluate (rule)", "stories", "evaluate_metric", {}, ours, {}),
            (
                f"guide, stride {CONTEXT // 2}",
                "long",
                "guide",
                {"stride": CONTEXT // 2},
                ours,
                {
                    "protocol": "huggingface",
                    "stride": CONTEXT // 2,
                    "batch_size": 1,
                },
            ),
        ]
        rows = []
        for tool, text, question, request, function, arguments in contests:
            documents = texts[text]
            tokens = sum(self.ask("counts", documents=documents)["tokens"])
            seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
            for repeat in range(repeats + 1):
                _, theirs = self.worker.timed(
                    question, folder=self.folder, documents=documents, **request
                )
                started = time.process_time()
                function(self.loaded, documents, **arguments)
                mine = time.process_time() - started
                if repeat:
                    seconds["theirs"].append(theirs)
                    seconds["ours"].append(mine)
            theirs, mine = (statistics.median(seconds[name]) for name in ("theirs", "ours"))
            ratios = sorted(a / b for a, b in zip(*seconds.values(), strict=True))
            rows.append(
                f"| {self.name} | {tool} | {tokens:,} | {tokens / theirs:,.0f} "
                f"| {tokens / mine:,.0f} | {theirs / mine:.2f} "
                f"| {ratios[0]:.2f} – {ratios[-1]:.2f} |"
            )
            click.echo(rows[-1], err=True)
        return rows


def read_texts(data: Path, characters: int, stories: int) -> tuple[str, list[str]]:
    """The beginning of WikiText-2's test text, up to a line's end, and the first stories."""
    wiki = (data / "data/wikitext2/wiki.test.raw").read_text(encoding="utf-8")[:characters]
    tales = (data / "data/tinystories/stories.txt").read_text(encoding="utf-8")
    pieces = re.split(r"\n?<\|endoftext\|>\n?", tales)
    return wiki[: wiki.rindex("\n") + 1], pieces[:stories]


@click.command()
@click.option("--data", default="../shared", show_default=True, type=click.Path(path_type=Path))
@click.option("--peers-python", default=".venv-peers/bin/python", show_default=True)
@click.option("--characters", default=6000, show_default=True, help="Of WikiText-2.")
@click.option("--stories", default=32, show_default=True, help="Of TinyStories.")
@click.option("--repeats", default=5, show_default=True)
def main(data: Path, peers_python: str, characters: int, stories: int, repeats: int) -> None:
    """Compare with other tools, and write the tables into RESULTS.md."""
    if not Path(peers_python).exists():
        raise click.UsageError(f"no {peers_python}: make peers sets up the tools' environment")
    wiki, tales = read_texts(data, characters, stories)
    root = Path(__file__).parent.parent
    models = {
        "stories260K": data / "models/stories260K",
        "builtin:stories": root / "decoding/stories",
    }
    agreement: list[str] = []
    otherwise: list[str] = []
    speed: list[str] = []
    with tempfile.TemporaryFile("w+") as errors:
        server = Worker(Path(peers_python), errors)
        installed = server.ask("versions")
        for name, folder in models.items():
            bench = Bench(server, name, folder, wiki, tales)
            for part in (bench.corpus, bench.long_text, bench.surprisals):
                part()
            agreement += bench.agreement
            otherwise += bench.otherwise
            speed += bench.speed(repeats)
        server.close()
    body = f"""\
Beside {", ".join(f"{tool} {number}" for tool, number in installed.items())},
in an environment of their own. Texts: the first {len(wiki):,} characters of WikiText-2's test text
as one document, and those of the first {len(tales)} TinyStories that fit a context of {CONTEXT}.
float32 on a CPU. Where it says *rule*, the tool was not run: the figure is that of a plain float64
loop after its rule, or for `evaluate` of its formula written anew; the guide of Hugging Face is its
recipe.

| model | protocol | figure | theirs | ours | difference |
|---|---|---|---|---|---|
{chr(10).join(agreement)}

What they do otherwise, measured against float64 loops without that:

| model | what | size |
|---|---|---|
{chr(10).join(otherwise)}

Tokens of text per CPU second on one thread, batches of {BATCH} (beside the guide 1, as it has
none), the model loaded; medians of {repeats} runs in turn, and the range of the ratio. Ours also
takes entropies at every token; surprisals of ours come with entropy, varentropy and rank.

| model | tool | tokens | theirs | ours | ratio | range |
|---|---|---|---|---|---|---|
{chr(10).join(speed)}
"""
    write_section("Peers", "python benchmarks/peers.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
