"""Every command and snippet of the README runs."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
SCRIPTS = [block for kind, block in BLOCKS if kind == "sh" and not block.startswith("make ")]
SNIPPETS = [block for kind, block in BLOCKS if kind == "python"]


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}
    assert SCRIPTS and SNIPPETS


def test_make_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    mentioned = [line.split()[1] for line in LINES if line.startswith("make ")]
    mentioned += re.findall(r"`make ([\w-]+)`", (ROOT / "README.md").read_text())
    mentioned += re.findall(r"(?:`|    )make ([\w-]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert mentioned and set(mentioned) <= set(targets)


def piped(command, run):
    """Standard output of a command line; `decoding` runs in this process, which saves its start."""
    out = ""
    for stage in command.split(" | "):
        words = shlex.split(stage)
        if words[0] == "decoding":
            assert ">" not in words
            code, out, err = run(*words[1:], stdin=out.encode())
        else:
            bash = ["bash", "-euo", "pipefail", "-c", stage]
            result = subprocess.run(bash, capture_output=True, text=True)
            code, out, err = result.returncode, result.stdout, result.stderr
        assert (code, err) == (0, ""), stage
    return out


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_of_a_block_in_their_order(script, run, tmp_path):
    for command in script.splitlines():
        before = set(tmp_path.iterdir())
        assert piped(command, run) or set(tmp_path.iterdir()) - before, command


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / target).is_file(), target


def test_every_benchmark_has_its_section():
    """The README and the docstrings refer to figures that are there."""
    folder = ROOT / "benchmarks"
    scripts = "".join(path.read_text() for path in folder.glob("*.py"))
    titles = re.findall(r'write_section\(\s*"([^"]+)"', scripts)
    titles += re.findall(r'"(Sampling: [^"]+)"', scripts)
    sections = re.findall(r"^## (.+)$", (folder / "RESULTS.md").read_text(), re.MULTILINE)
    assert len(titles) > 15 and sorted(titles) == sorted(sections)
