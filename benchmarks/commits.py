"""The same work in two checkouts, interleaved in one run: is the new one as fast?

    git worktree add ../old COMMIT
    python benchmarks/commits.py ../old .

Each checkout has a worker, a process with that checkout on its path, which does one named piece of
work when asked and tells how long it took. The two take turns, and who comes first changes from one
repeat to the next. Times are the processor's, of one thread, so that others who use the machine
disturb less. Work that only one of the two can do, such as a setting with a new field, is left out.
Workers are started anew several times, because one process may be luckier with its memory than the
next, and keep what they have freed, as the command does with all but the largest blocks.
"""

import fnmatch
import functools
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from click.testing import CliRunner
from results import write_section
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

BAR, ROUNDS, SECONDS_A_SAMPLE = 1.05, 3, 0.05
# Of mallopt(3), bytes.
KEEP_FREED = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
CUTS = [
    "edt_theta=0.5", "dynatemp_range=0.5", "target_entropy=2", "top_n_sigma=1", "top_h=0.4",
    "top_k=50", "top_p=0.9", "min_p=0.05", "typical_p=0.9", "epsilon_cutoff=0.0003",
    "eta_cutoff=0.0006", "p_less=1", "kl_budget=0.1", "xtc_probability=0.5", "min_k=3",
]  # fmt: skip
STEPS = [
    "raw", "greedy", "temperature=0.8,top_p=0.9", "temperature=0.8,top_k=50,min_p=0.05",
    "typical_p=0.9", "target_entropy=2", "mirostat_tau=3", "dry_multiplier=0.8",
]  # fmt: skip
VOCABS, BATCHES = (50_257, 151_936), (1, 8)
SHAPES = {"peaked": 4.0, "flat": 0.5}
WAYS, STEP_VOCAB, STEP_TOKENS = ("Sampler", "processors"), 50_257, 16
COMPARED = [
    f"temperature={temperature}{cut}"
    for temperature in (0.5, 0.75, 1, 1.25, 1.5)
    for cut in ("", ",top_k=50", ",top_p=0.9", ",min_p=0.05")
]
TEXT = " ".join(
    f"Once upon a time there was a {animal} who liked to {verb}. The {animal} saw a {thing}."
    for animal in ("dog", "bird", "cat") for verb in ("play", "sing") for thing in ("ball", "tree")
)  # fmt: skip
COMMANDS = {
    "compare, 20 settings": ["compare", *(x for s in COMPARED for x in ("--setting", s)), "--json"],
    "score": ["score", "--setting", "top_p=0.9", "--json"],
    "perplexity": ["perplexity", "--json"],
}
Work = Callable[[], float]  # does something once, and returns the seconds of it that count


def now() -> float:
    """Processor time of this process and of its children that have ended, s."""
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in of)


def timed(call: Callable[[], object]) -> Work:
    """Work all of which counts."""

    def work() -> float:
        start = now()
        call()
        return now() - start

    return work


def rows_of(vocab: int, batch: int, shape: str) -> Tensor:
    """Normal logits, `(batch, vocab)`."""
    generator = torch.Generator().manual_seed(vocab + batch)
    return torch.randn(batch, vocab, generator=generator).mul_(SHAPES[shape])


class Steps(GPT2LMHeadModel):
    """Generates by the decoding step alone, on rows that it was given in place of its own."""

    rows: Tensor
    seconds: float

    def _sample(self, input_ids: Tensor, logits_processor: Any, *_: Any, **__: Any) -> Tensor:
        for number in range(STEP_TOKENS):
            scores = self.rows.roll(number, -1)
            start = now()
            scores = logits_processor(input_ids, scores)
            self.seconds += now() - start
            tokens = torch.argmax(scores, -1)
            input_ids = torch.cat([input_ids, tokens[:, None]], -1)
        return input_ids


def step(spec: str, batch: int, shape: str, way: str) -> Work:
    """The steps of `model.generate` under a setting, traced: `Sampler`, or `processors`."""
    from decoding import DecodingSettings, EntropyMonitor, Sampler

    settings = DecodingSettings.parse(spec)
    config = GPT2Config(vocab_size=STEP_VOCAB, n_embd=8, n_layer=1, n_head=1)
    model = Steps(config).eval()
    model.generation_config.update(eos_token_id=None, pad_token_id=0, max_new_tokens=STEP_TOKENS)
    model.rows = rows_of(STEP_VOCAB, batch, shape)
    ids = torch.randint(1, 100, (batch, 32), generator=torch.Generator().manual_seed(0))

    def work() -> float:
        monitor = EntropyMonitor()
        ours: dict[str, Any] = {"logits_processor": settings.processors(monitor)}
        if way == "Sampler":
            ours = {"custom_generate": Sampler(settings, seed=1, monitor=monitor)}
        model.seconds = 0.0
        model.generate(ids, **ours, **settings.generate_kwargs())
        return model.seconds

    return work


def cut(spec: str, vocab: int, batch: int, shape: str) -> Work:
    """log q of rows."""
    from decoding import DecodingSettings

    settings, logits = DecodingSettings.parse(spec), rows_of(vocab, batch, shape)
    return timed(functools.partial(settings.log_probs, logits))


def command(arguments: list[str]) -> Work:
    """A command in this process, with the embedded model."""
    from decoding_cli.app import cli

    runner = CliRunner(catch_exceptions=False)
    return timed(lambda: runner.invoke(cli, arguments, TEXT, standalone_mode=False))


def all_work() -> dict[str, Callable[[], Work]]:
    """What makes each piece of work, by its name."""
    show = [sys.executable, "-m", "decoding_cli", "--help"]
    run_help = functools.partial(subprocess.run, show, check=True, capture_output=True)
    work = {"decoding --help": lambda: timed(run_help)}
    for name, arguments in COMMANDS.items():
        work[name] = functools.partial(command, arguments)
    for way, spec, batch, shape in itertools.product(WAYS, STEPS, BATCHES, SHAPES):
        name = f"step, {way}: {spec}, {shape}, batch {batch}"
        work[name] = functools.partial(step, spec, batch, shape, way)
    for spec, vocab, shape, batch in itertools.product(CUTS, VOCABS, SHAPES, BATCHES):
        name = f"log_probs: {spec}, vocabulary {vocab:,}, {shape}, batch {batch}"
        work[name] = functools.partial(cut, spec, vocab, batch, shape)
    return work


@torch.no_grad()
def serve_requests(checkout: Path) -> None:
    """Answer requests, JSON on a line each: `[name, calls]` by seconds, or null for cannot."""
    import decoding

    if not Path(decoding.__file__).is_relative_to(checkout):
        raise RuntimeError(f"{decoding.__file__} is not of {checkout}")
    torch.set_num_threads(1)
    work_of, make = all_work(), functools.lru_cache(1)(lambda name: work_of[name]())
    for line in sys.stdin:
        name, calls = json.loads(line)
        try:
            work = make(name)
            answer = sum(work() for _ in range(calls)) / calls
        except ValueError as error:
            click.echo(f"left out, as {checkout} cannot: {name}: {error}", err=True)
            answer = None
        print(json.dumps(answer), flush=True)


class Worker:
    """The worker of a checkout."""

    def __init__(self, checkout: Path) -> None:
        path = os.pathsep.join(str(checkout / folder) for folder in ("", "cli", "evals"))
        environment = os.environ | KEEP_FREED | {"PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", checkout, checkout], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip

    def __call__(self, name: str, calls: int) -> Any:
        """Mean processor time of some calls, s, or None where it cannot do it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([name, calls]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def measure(name: str, workers: list[Worker], repeats: int, seconds: Any) -> None:
    """Add the seconds of both in each repeat, unless one of them cannot do it."""
    if None in [worker(name, 1) for worker in workers]:  # which warms them up, too
        return
    calls = max(1, round(SECONDS_A_SAMPLE / max(workers[0](name, 1), 1e-6)))
    for repeat in range(repeats):
        for side in (repeat % 2, 1 - repeat % 2):
            seconds[side].append(workers[side](name, calls))


@click.command()
@click.argument("checkouts", nargs=2, type=click.Path(exists=True, path_type=Path))
@click.option("--repeats", default=4, show_default=True, help="Of each round.")
@click.option("--only", default="*", help="Work by name, as 'step*'; not written.")
@click.option("--serve", is_flag=True, hidden=True)
def main(checkouts: tuple[Path, Path], repeats: int, only: str, serve: bool) -> None:
    """Time all work in the checkouts OLD and NEW, and write the table into RESULTS.md."""
    resolved = [checkout.resolve() for checkout in checkouts]
    if serve:
        return serve_requests(resolved[0])
    lines, above = ["| work | old, ms | new, ms | new / old (range) |", "|---|---|---|---|"], 0
    measured: dict[str, Any] = {name: ([], []) for name in fnmatch.filter(all_work(), only)}
    for number in range(ROUNDS):
        workers = [Worker(checkout) for checkout in resolved]
        for name, seconds in measured.items():
            measure(name, workers, repeats, seconds)
            click.echo(f"round {number + 1} of {ROUNDS}: {name}", err=True)
    for name, seconds in filter(lambda item: item[1][0], measured.items()):
        both = [f"{1e3 * statistics.median(values):.3f}" for values in seconds]
        ratios = [after / before for before, after in zip(*seconds, strict=True)]
        median = statistics.median(ratios)
        above += median > BAR
        spread = f"{median:.3f} ({min(ratios):.2f}–{max(ratios):.2f})"
        spread += " **above**" * (median > BAR)
        lines.append(f"| {name} | {' | '.join(both)} | {spread} |")
    git = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    old, new = (subprocess.check_output(git, cwd=of, text=True).strip() for of in resolved)
    body = (
        f"Commits {old} (old) and {new} (new). Medians of {ROUNDS * repeats} interleaved repeats, "
        "processor time of one thread; ratios are within each repeat. Steps are "
        f"{STEP_TOKENS} tokens of `model.generate`, traced, without the model; vocabulary "
        f"{STEP_VOCAB:,}. {above} of {len(lines) - 2} are above {BAR:g}.\n\n" + "\n".join(lines)
    )
    if only == "*":
        write_section("Two commits", "python benchmarks/commits.py OLD NEW", body)
    click.echo(body)


if __name__ == "__main__":
    main()
