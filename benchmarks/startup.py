"""The command's start: what `--help` costs, and what stands before a first token.

Times are the processor's, user and system, of child processes, as the operating system counts them
when they have ended; also the clock's until the first byte of the answer.
"""

import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import click
from results import write_section

import decoding

BAR_HELP, BAR_IMPORTS = 0.2, 0.9
PEERS = ("torch", "transformers")
OURS = ("decoding", "decoding_cli", "decoding_evals")
GENERATE = ["generate", "Once upon a time", "--max-new-tokens", "1", "--seed", "1"]
RUN = "import sys; sys.argv[0] = 'decoding'; from decoding_cli.app import main; main()"
# Which of their modules a first token takes, in the order in which they came.
LIST = f"""
import atexit, json, sys
def show():
    names = [name for name in sys.modules if name.partition(".")[0] in {PEERS}]
    print(json.dumps(names), file=sys.stderr)
atexit.register(show)
{RUN}
"""
# Modules whose names come as JSON in the first argument, as far as they can be imported by name.
IMPORT = """
import contextlib, importlib, json, sys
for name in json.loads(sys.argv.pop(1)):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
"""
END = "\nprint(flush=True)"
# As the command imports them: without looking for garbage.
UNCOLLECTED = "import gc; gc.disable()\n{}\ngc.freeze()" + END
# A first token in stages; the argument is JSON: the sources' imports, and further modules.
STAGES = """
import gc, json, sys, time
gc.disable()
of_names, of_modules = json.loads(sys.argv.pop(1))
def stage(name):
    print(json.dumps([name, time.process_time()]), file=sys.stderr)
stage("Python")
import decoding_cli.app
stage("the command line")
import torch
stage("`torch`")
exec(of_names)
stage("what we name of `transformers`")
import contextlib, importlib
for name in of_modules:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
stage("what they import later")
import decoding.models.loading, decoding.generation.run
stage("the rest of `decoding`")
language_model = decoding.models.loading.load_model()
stage("loading the model")
decoding.generation.run.generate(language_model, "Once upon a time", max_new_tokens=1, seed=1)
stage("a token")
"""


class Cost(NamedTuple):
    cpu: float
    """User and system time, s."""
    first: float
    """Until the first byte of its output, or its end where there is none, s."""
    stderr: str


def run(*arguments: str) -> Cost:
    """What a child process costs."""
    command = [sys.executable, *arguments]
    # What goes to stderr may be more than fits into a pipe.
    with tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        )
        assert process.stdout is not None
        process.stdout.read(1)
        first = time.perf_counter() - start
        process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        text = stderr.read().decode()
    if process.returncode:
        raise RuntimeError(f"{command} failed: {text}")
    return Cost(usage.ru_utime + usage.ru_stime, first, text)


def named_imports() -> str:
    """The import statements for transformers in the modules of `decoding` that generate."""
    show = "import decoding.models.loading, decoding.generation.run, json, sys; "
    show += "print(json.dumps([m.__file__ "
    show += "for n, m in sys.modules.items() if n.startswith('decoding.')]), file=sys.stderr)"
    statements = []
    for file in json.loads(run("-c", show).stderr):
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
                statements.append(ast.unparse(node))
    return "\n".join(dict.fromkeys(statements))


def imported_seconds(trace: str) -> Counter[str]:
    """Of `-X importtime`: seconds by package, with what torch and transformers import as theirs."""
    seconds: Counter[str] = Counter()
    above: list[tuple[int, str]] = []  # depth, and to whom the imports below it count
    # A module is written down after those that it imports, so they are read from the end.
    for line in reversed(trace.splitlines()):
        found = re.match(r"import time:\s+(\d+) \|\s+\d+ \| ( *)(\S+)", line)
        if found is None:
            continue
        depth, package = len(found[2]), found[3].partition(".")[0]
        while above and above[-1][0] >= depth:
            above.pop()
        owner = above[-1][1] if above and above[-1][1] in PEERS else package
        if package in PEERS:
            owner = package
        above.append((depth, owner))
        seconds[owner] += int(found[1]) / 1e6
    return seconds


def stage_table(runs: list[list[tuple[str, float]]], whole: float) -> str:
    """Processor time of each stage, medians, and its share of a first token's."""
    lines = ["| stage | processor, s | share |", "|---|---|---|"]
    before = [0.0] * len(runs)
    for i, (name, _) in enumerate(runs[0]):
        now = [stages[i][1] for stages in runs]
        median = statistics.median(b - a for a, b in zip(before, now, strict=True))
        lines.append(f"| {name} | {median:.3f} | {median / whole:.1%} |")
        before = now
    return "\n".join(lines)


def spread(values: list[float], form: str) -> str:
    """Median, and in parentheses the range."""
    shown = [format(x, form) for x in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]}–{shown[2]})"


def shares(parts: list[Cost], wholes: list[Cost], bare: list[Cost], measure: str) -> list[float]:
    """In each repeat, the part of a first token's time that a child with imports alone takes.

    Python's own start is taken off both.
    """
    values = [[getattr(cost, measure) for cost in costs] for costs in (parts, wholes, bare)]
    return [(part - none) / (whole - none) for part, whole, none in zip(*values, strict=True)]


def ways_of(script: str, statements: str, modules: list[str]) -> dict[str, list[str]]:
    """The arguments of each process that is started."""
    return {
        "bare Python": ["-c", END],
        "`decoding --help`": [script, "--help"],
        "`import torch`": ["-c", UNCOLLECTED.format("import torch")],
        "`torch`, and what we name of `transformers`": [
            "-c",
            UNCOLLECTED.format("import torch\n" + statements),
        ],
        "all modules of theirs that a first token takes": [
            "-c",
            UNCOLLECTED.format(IMPORT),
            json.dumps(modules),
        ],
        "`decoding generate`, one token": [script, *GENERATE],
        "all modules of theirs, with the garbage collector on": [
            "-c",
            IMPORT + END,
            json.dumps(modules),
        ],
    }


def cost_table(costs: dict[str, list[Cost]]) -> list[str]:
    """Medians and ranges of each process; the first repeat only fills the caches."""
    lines = ["| | processor, s | until the first byte, s |", "|---|---|---|"]
    for name, values in costs.items():
        cpu, first = ([getattr(c, field) for c in values[1:]] for field in ("cpu", "first"))
        lines.append(f"| {name} | {spread(cpu, '.3f')} | {spread(first, '.3f')} |")
    return lines


def bar_table(beyond: list[float], of_imports: dict[str, list[float]]) -> list[str]:
    """What was to be met, and whether it is: seconds of `--help`, and the imports' shares."""
    bars = [
        ("`decoding --help` beyond bare Python, processor", spread(beyond, ".3f") + " s",
         f"< {BAR_HELP} s", statistics.median(beyond) < BAR_HELP)
    ]  # fmt: skip
    for title, values in of_imports.items():
        met = statistics.median(values) >= BAR_IMPORTS
        bars.append((f"importing, of a first token: {title}", spread(values, ".1%"),
                     f"≥ {BAR_IMPORTS:.0%}", met))  # fmt: skip
    table = ["| | | bar | |", "|---|---|---|---|"]
    return table + [
        f"| {a} | {b} | {c} | {'met' if met else '**missed**'} |" for a, b, c, met in bars
    ]


def importtime_line(traced: list[tuple[Counter[str], float, float]]) -> str:
    """What `-X importtime` says, of medians."""
    torch_s, transformers_s = (statistics.median(by[name] for by, *_ in traced) for name in PEERS)
    lazy_s = statistics.median(lazy for _, lazy, _ in traced)
    other_s = statistics.median(
        by.total() - lazy - by["torch"] - by["transformers"] for by, lazy, _ in traced
    )
    traced_s = statistics.median(first for *_, first in traced)
    return (
        f"\n\n`-X importtime`: {torch_s:.2f} s in `torch`, {transformers_s:.2f} s in "
        f"`transformers`, {lazy_s:.2f} s in the latter's lazy modules while ours name them (what "
        "our modules take beyond what they take where all of theirs is there already), "
        f"{other_s:.2f} s in other imports, of {traced_s:.2f} s until the first byte."
    )


@click.command()
@click.option("--repeats", default=9, show_default=True)
def main(repeats: int) -> None:
    """Start every process, interleaved, and write the tables into RESULTS.md."""
    statements = named_imports()
    modules = json.loads(run("-c", LIST, *GENERATE).stderr.splitlines()[-1])
    script = str(Path(sys.executable).with_name("decoding"))
    ways = ways_of(script, statements, modules)
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    traced: list[tuple[Counter[str], float, float]] = []
    staged = []
    for repeat in range(repeats + 1):
        for name, arguments in ways.items():
            costs[name].append(run(*arguments))
        trace = run("-X", "importtime", script, *GENERATE)
        loaded = ["-c", IMPORT + RUN, json.dumps(modules), *GENERATE]
        without = run("-X", "importtime", *loaded).stderr
        stages = run("-c", STAGES, json.dumps([statements, modules])).stderr
        if repeat:  # the first one only fills the caches
            of_packages, own = imported_seconds(trace.stderr), imported_seconds(without)
            # Transformers' lazy modules work while ours name them, and the trace calls that ours.
            lazy = sum(of_packages[name] - own[name] for name in OURS)
            traced.append((of_packages, lazy, trace.first))
            staged.append(
                [json.loads(line) for line in stages.splitlines() if line.startswith("[")]
            )
        click.echo(f"repeat {repeat} of {repeats}", err=True)
    bare, help_, _, named, all_theirs, whole, _ = (values[1:] for values in costs.values())
    lines = cost_table(costs)
    beyond = [cost.cpu - none.cpu for cost, none in zip(help_, bare, strict=True)]
    by_trace = [
        (by["torch"] + by["transformers"] + lazy) / (first - none.first)
        for (by, lazy, first), none in zip(traced, bare, strict=True)
    ]
    by_stage = [(stages[4][1] - stages[1][1]) / (stages[-1][1] - stages[0][1]) for stages in staged]
    table = bar_table(
        beyond,
        {
            "their modules alone, processor": shares(all_theirs, whole, bare, "cpu"),
            "their modules alone, clock": shares(all_theirs, whole, bare, "first"),
            "only those that we name, processor": shares(named, whole, bare, "cpu"),
            "the stages below, processor": by_stage,
            "`-X importtime`, clock": by_trace,
        },
    )
    whole_cpu = statistics.median(cost.cpu for cost in whole)
    body = (
        f"Medians and ranges of {repeats} interleaved repeats, files in the system's cache. "
        f"`decoding generate` continues `Once upon a time` on the embedded model (`decoding` "
        f"{decoding.__version__}). Shares are of what comes after Python's own start. Their "
        "modules are those of `torch` and `transformers`, with all that these import; some are "
        "imported only when a model is loaded. As in the command, the garbage collector is off "
        "while they are imported, except in the last line.\n\n"
        + "\n".join(lines)
        + "\n\n"
        + "\n".join(table)
        + importtime_line(traced)
        + "\n\nA first token in stages, each with what the ones before it have not imported; the "
        "end of the process is left out:\n\n" + stage_table(staged, whole_cpu)
    )
    write_section("Start", "python benchmarks/startup.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
