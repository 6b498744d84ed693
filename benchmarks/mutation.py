"""Can the tests fail? Operators in product code are changed at random, one at a time.

Everything happens in a clone of the last commit, within the folder of `--work`. First every test
runs once while coverage.py notes, for each line of product code, which tests reach it, those that
start the command as a process included. Then, for each change, the tests that reach the changed
statement run, fastest first, until one fails. What runs when a module is imported has all tests
that reach its file. A change that no test sees is missed, unless `unseen.toml` says why it changes
nothing. What is finished stays in the folder, and the next call continues there.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import cache_from_source
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import click
import pytest
import torch
from coverage import Coverage, CoverageData, process_startup
from mutants import FOLDERS, KINDS, Mutant, draw
from results import write_section

ROOT = Path(__file__).resolve().parents[1]
# What the tests import beside our own code.
IMPORTED = (
    "hypothesis", "pyarrow.parquet", "rich.console", "scipy.stats", "transformers.generation.utils",
    "transformers.models.auto", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)  # fmt: skip
UNSEEN = Path(__file__).with_name("unseen.toml")
# What a test may take, in seconds, and in multiples of what it took while the map was made.
LIMIT, LIMIT_FACTOR = 60, 10
IN_A_PROCESS = """\
[run]
data_file = {data}
parallel = true
source = {source}
context = ${{RUNNING_TEST-}}
patch = _exit
"""


class Mapping:
    """A pytest plugin that tells coverage which test runs, and writes down how long it took.

    What sets up a fixture that several tests share counts to all of them.
    """

    def __init__(self, coverage: Coverage, file: Path, known: set[str]):
        self.coverage, self.file, self.known = coverage, file, known

    def run_as(self, name: str) -> None:
        self.coverage.switch_context(name)
        os.environ["RUNNING_TEST"] = name  # for the processes that it starts

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self.known]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Iterator[None]:
        self.name, self.seconds, self.passed = item.nodeid, 0.0, True
        self.run_as(self.name)
        result = yield
        self.run_as("")
        record = {"test": self.name, "seconds": self.seconds, "passed": self.passed,
                  "fixtures": item.fixturenames}  # fmt: skip
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        shared = fixturedef.scope != "function"
        if shared:
            self.run_as(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            if shared:
                self.run_as(self.name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        self.passed &= report.passed


class Chosen:
    """A pytest plugin: some tests only, fastest first, each within its time."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds, self.failed = seconds, ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self.seconds]
        items[:] = sorted(chosen, key=lambda item: self.seconds[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        signal.alarm(int(LIMIT + LIMIT_FACTOR * self.seconds[nodeid]))  # ends the process

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = report.nodeid


class Work:
    """The folder in which everything happens."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.tree = self.folder / "tree"
        self.data, self.tests = self.folder / "coverage", self.folder / "tests.jsonl"
        self.outcomes = self.folder / "outcomes.jsonl"
        self.paths = [str(self.tree / name) for name in (".", "cli", "evals")]

    def clone(self) -> None:
        """The last commit, beside what its tests read of `../shared`."""
        if not self.tree.exists():
            subprocess.run(["git", "clone", "-q", ROOT, self.tree], check=True)
            with contextlib.suppress(FileExistsError):
                (self.folder / "shared").symlink_to(ROOT.parent / "shared")
        here, there = (
            subprocess.check_output(["git", "-C", tree, "rev-parse", "HEAD"])
            for tree in (ROOT, self.tree)
        )
        if here != there:
            raise click.ClickException(f"{self.folder} holds another commit: remove it first")
        subprocess.run(["git", "-C", self.tree, "checkout", "-q", "."], check=True)

    def in_child(self, function: Callable[[], Any]) -> Any:
        """What a function gives in a fork of this process in the clone; None where that died.

        The fork has torch and transformers, whose import would take longer than most tests.
        """
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=self._serve, args=(function, sender))
        process.start()
        sender.close()
        try:
            return receiver.recv()
        except EOFError:
            return None
        finally:
            process.join()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what its tests have left behind

    def _serve(self, function: Callable[[], Any], sender: Connection) -> None:
        os.setsid()
        log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self.tree)
        sys.path[:0] = self.paths
        os.environ["PYTHONPATH"] = os.pathsep.join(self.paths)
        sender.send(function())

    def measure(self) -> None:
        """Run every test that has not been run yet, and note what it reaches."""
        source = [str(self.tree / folder) for folder in FOLDERS]
        start = self.folder / "start"
        start.mkdir(exist_ok=True)
        (start / "sitecustomize.py").write_text("import coverage\ncoverage.process_startup()\n")
        settings = self.folder / "coveragerc"
        settings.write_text(IN_A_PROCESS.format(data=self.data, source=",".join(source)))

        def run() -> int:
            os.environ["PYTHONPATH"] += f"{os.pathsep}{start}"
            os.environ["COVERAGE_PROCESS_START"] = str(settings)
            coverage = Coverage(data_file=self.data, source=source, config_file=False)
            coverage.load()
            coverage.start()
            # The command in a process that is forked from this one is measured like one of its own.
            os.register_at_fork(after_in_child=partial(process_startup, force=True))
            known = {record["test"] for record in records(self.tests)}
            code = pytest.main(
                ["-q", "-p", "no:cacheprovider"], [Mapping(coverage, self.tests, known)]
            )
            coverage.stop()
            coverage.save()
            coverage.combine([str(self.folder)])
            coverage.save()
            return code

        known_all = pytest.ExitCode.NO_TESTS_COLLECTED
        if self.in_child(run) not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, known_all):
            raise click.ClickException(f"the map is not complete: see {self.folder}/log.txt")


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


class Map:
    """Which tests reach a line, and how long they take."""

    def __init__(self, work: Work):
        self.tree = work.tree
        self.data = CoverageData(str(work.data))
        self.data.read()
        self.seconds: dict[str, float] = {}
        self.users: dict[str, set[str]] = {}
        for record in records(work.tests):
            if record["passed"]:
                self.seconds[record["test"]] = record["seconds"]
                for name in record["fixtures"]:
                    self.users.setdefault(f"fixture {name}", set()).add(record["test"])

    def reaching(self, mutant: Mutant) -> dict[str, float]:
        """The tests that reach a change, and their seconds."""
        contexts = self.data.contexts_by_lineno(str(self.tree / mutant.file))
        found = {name for line in mutant.lines for name in contexts.get(line, ())}
        if mutant.at_import or "" in found:
            found.update(*contexts.values())
        tests = found.union(*(self.users.get(name, ()) for name in found))
        return {test: self.seconds[test] for test in tests & self.seconds.keys()}


def attempt(work: Work, mutant: Mutant, tests: dict[str, float]) -> str | None:
    """The test that sees the change, or what else tells of it; None where nothing does."""
    path = work.tree / mutant.file
    source = path.read_bytes()

    def run() -> tuple[int, str]:
        # Bytecode is known by its source's size and second, which two changes may share.
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
        chosen = Chosen(tests)
        files = sorted({test.partition("::")[0] for test in tests})
        signal.alarm(5 * LIMIT)  # for the imports
        return pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], [chosen]), chosen.failed

    Path(cache_from_source(path)).unlink(missing_ok=True)
    path.write_bytes(mutant.apply(source))
    try:
        found = work.in_child(run)
    finally:
        path.write_bytes(source)
    if found is None:
        return "the time limit"
    code, failed = found
    return failed or (None if code == pytest.ExitCode.OK else "an import")


def outcome_of(record: dict[str, Any], reasons: dict[tuple[str, ...], str]) -> tuple[str, str]:
    """What became of a change, and what is to be said of it."""
    if record["seen_by"]:
        return "seen", ""
    sides = ("\n".join(line.strip() for line in record[side]) for side in ("before", "after"))
    why = reasons.get((record["file"], *sides))
    return (
        ("changes nothing", why) if why else ("missed", f"**Missed** by {record['tests']} tests.")
    )


def report(outcomes: list[dict[str, Any]], seed: int) -> str:
    """The section's text."""
    known = tomllib.loads(UNSEEN.read_text(encoding="utf-8"))["unseen"]
    reasons = {(one["file"], one["before"], one["after"]): one["why"] for one in known}
    counts, listed = Counter[tuple[str, str]](), []
    for record in outcomes:
        outcome, why = outcome_of(record, reasons)
        counts[record["kind"], outcome] += 1
        if outcome != "seen":
            lines = [sign + line for sign, side in (("-", "before"), ("+", "after"))
                     for line in record[side]]  # fmt: skip
            text = "\n".join(["```diff", *lines, "```"])
            listed.append(f"`{record['file']}`, line {record['line']}. {why}\n\n{text}")
    columns = ("seen", "changes nothing", "missed")
    rows = [f"| | changed | {' | '.join(columns)} |", "|---|" + "---|" * (len(columns) + 1)]
    for kind in (*KINDS, "number"):
        numbers = [counts[kind, column] for column in columns]
        rows.append(f"| {kind} | {' | '.join(map(str, [sum(numbers), *numbers]))} |")
    intro = (
        f"{len(outcomes)} places in product code, drawn with seed {seed}, changed one at a time: "
        "an operator became another one, a number one more or one less. *Seen*: a test that "
        "reaches the place failed."
    )
    return "\n\n".join([intro, "\n".join(rows), *listed])


@click.command()
@click.option("--mutants", default=100, show_default=True, help="How many places are changed.")
@click.option("--seed", default=1, show_default=True)
@click.option("--work", default=ROOT / "build/mutation", type=click.Path(path_type=Path))
def main(mutants: int, seed: int, work: Path) -> None:
    """Change the places, run the tests, and write the section into RESULTS.md."""
    torch.set_num_threads(1)
    for name in IMPORTED:
        import_module(name)
    gc.freeze()  # forks share what they do not touch
    place = Work(work)
    place.clone()
    place.measure()
    reached = Map(place)
    for mutant in draw(place.tree, mutants, seed)[len(records(place.outcomes)) :]:
        tests = reached.reaching(mutant)
        seen_by = attempt(place, mutant, tests) if tests else None
        line, before, after = mutant.difference((place.tree / mutant.file).read_bytes())
        record = {"file": mutant.file, "line": line, "kind": mutant.kind, "before": before,
                  "after": after, "tests": len(tests), "seen_by": seen_by}  # fmt: skip
        with place.outcomes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        click.echo(f"{mutant.file}:{line}: {seen_by or '** not seen **'}", err=True)
    body = report(records(place.outcomes), seed)
    write_section("Mutation", "python benchmarks/mutation.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
