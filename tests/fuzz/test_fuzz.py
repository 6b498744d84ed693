"""A small part of `make fuzz`, and whether it sees what is wrong."""

import json
import random

import click
import numpy as np
import pytest

from decoding.rules import TopP
from decoding_cli.app import COMMANDS, cli
from fuzz import rows
from fuzz.grammar import Case, Grammar, Line
from fuzz.running import RECORDED, run, warmed
from fuzz.verdict import faults


@pytest.fixture(scope="module")
def recorded():
    with warmed(RECORDED) as found:
        yield found


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_rows():
    check_rows(1, 200)


@pytest.mark.parametrize("case", [(21, 11804)])
def test_rows_that_were_found(case):
    rows.check(np.random.default_rng(case))


def check_rows(seed, count):
    done = number = 0
    while done < count:
        done += rows.check(np.random.default_rng([seed, number]))
        number += 1


def test_a_planted_fault_of_a_rule_is_found(monkeypatch):
    monkeypatch.setattr(TopP, "keep", lambda self, rows, p: rows.with_mass(p * 0.9))
    with pytest.raises(rows.Finding, match="top_p"):
        check_rows(2, 3000)


def test_command_lines(recorded):
    grammar = Grammar(recorded)
    for number in range(40):
        case = grammar.case(1, number)
        assert faults(case, run(case)) == [], (number, case.arguments)


def test_a_case_is_the_same_again(recorded):
    assert (
        Grammar(recorded).case(3, 7) == Grammar(recorded).case(3, 7) != Grammar(recorded).case(3, 8)
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_given_sometimes(name):
    command = cli.get_command(click.Context(cli), name)
    line = Line(Grammar([b"{}"]), random.Random(name), hostility=0.1, name=name)
    given = {flag for _ in range(1000) for part in line.options(command) for flag in part}
    given = {flag.partition("=")[0] for flag in given}
    flags = {one.opts[0] for one in command.params if isinstance(one, click.Option)}
    assert flags and flags <= given


FOUND = {"a.txt": b"a"}
PLANTED = {
    "print('Traceback (most recent call last):', file=sys.stderr)": "noise",
    "warnings.warn('x')": "noise",
    "print('{\"a\": NaN}')": "'NaN' in output",
    "open('o.jsonl.part', 'w')": "left behind: 'o.jsonl.part'",
    "open(os.path.join(os.environ['TMPDIR'], 'x'), 'w')": "left for temporary files: x",
    "open('a.txt', 'a').write('x')": "'a.txt' is gone, or changed",
    "open('o.jsonl', 'w').write('{\"a\":')": "'o.jsonl': broken JSON",
    "os._exit(3)": "exit code 3",
    "time.sleep(60)": "it hangs",
    "raise ValueError(\"'NoneType' object is not iterable\")": "unforeseen",
    "raise ValueError('a\\nb'); ": None,
    "note('Error: x'); raise ValueError('y is not z')": "2 lines of error",
}


@pytest.mark.parametrize("statement", PLANTED)
def test_a_planted_fault_of_a_command_is_found(statement, monkeypatch):
    def planted(*args, **kwargs):
        exec(
            "import os, sys, time, warnings\nfrom decoding_evals.showing.lines import note\n"
            + statement
        )

    monkeypatch.setattr("decoding_cli.settings._explain", planted)
    case = Case(
        ["settings", "raw", *["--revision=o.jsonl"] * ("o.jsonl'" in statement)], b"", FOUND
    )
    found = faults(case, run(case, seconds=1))
    want = PLANTED[statement]
    assert [one for one in found if want and want in one] if want else not found, found


def test_records_of_every_command_are_there_to_be_shown(recorded):
    assert all(isinstance(json.loads(line), dict) for line in recorded)
