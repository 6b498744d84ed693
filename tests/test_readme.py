"""Every command and snippet of the README runs."""

import re
import subprocess
import sys
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


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_of_a_block_in_their_order(script, tmp_path):
    for command in script.splitlines():
        before = set(tmp_path.iterdir())
        function = f'decoding() {{ "{sys.executable}" -m decoding_cli "$@"; }}\n{command}'
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", function],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stderr) == (0, ""), command
        assert result.stdout or set(tmp_path.iterdir()) - before, command


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / target).is_file(), target
