"""What the README and the pages in docs/ show runs, and their links lead somewhere."""

import json
import re
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import transformers

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    text: str
    line: int


def blocks(page):
    text = (ROOT / page).read_text()
    for match in re.finditer(r"^```(\S+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(*match.groups(), text.count("\n", 0, match.start(2)))


def run_command(line, run):
    """Run a line as a shell would; `decoding` runs in this process, which saves its start."""
    if line.startswith("make "):
        assert line.split()[1] in targets()
        return
    before = set(Path.cwd().rglob("*"))
    out = ""
    for stage in line.split(" | "):
        words = shlex.split(stage)
        if words[0] == "decoding":
            assert ">" not in words
            code, out, err = run(*words[1:], stdin=out.encode())
        else:
            bash = ["bash", "-euo", "pipefail", "-c", stage]
            result = subprocess.run(bash, capture_output=True, text=True)
            code, out, err = result.returncode, result.stdout, result.stderr
        # In a pipe, a run without --seed says which one it took.
        assert (code, re.sub(r"seed \d+\n", "", err)) == (0, ""), stage
    assert out or set(Path.cwd().rglob("*")) - before, line


def targets():
    return re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page))])
def test_a_page_runs_from_its_top(page, run, capsys):
    """The blocks of a page share a folder and, in Python, their names."""
    if page == "docs/engines.md" and not hasattr(transformers, "ContinuousBatchingConfig"):
        pytest.skip("needs the running batches of a newer transformers")
    names = {}
    for block in blocks(page):
        if block.kind == "sh":
            for line in block.text.splitlines():
                run_command(line, run)
        elif block.kind == "python":
            exec(compile("\n" * block.line + block.text, page, "exec"), names)
            capsys.readouterr()  # what a command says is looked at by itself


def test_the_table_of_samplers_is_that_of_the_rules():
    """`python docs/rules.py` writes it."""
    script = runpy.run_path(str(ROOT / "docs/rules.py"))
    assert script["page"]() == (ROOT / "docs/settings-and-samplers.md").read_text()


def test_make_targets_exist():
    for page in [*PAGES, "CONTRIBUTING.md"]:
        mentioned = re.findall(r"(?:`|^ {4})make ([\w-]+)", (ROOT / page).read_text(), re.MULTILINE)
        assert set(mentioned) <= set(targets()), page


def anchors(path):
    """Of the headings of a page, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        if file.startswith("api/"):  # written when the site is built
            continue
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target


def test_every_page_is_in_a_list():
    """The README names every page about the toolkit, and the site's index all of them."""
    readme, index = (ROOT / "README.md").read_text(), (ROOT / "docs/index.md").read_text()
    own = {Path(page).stem for page in PAGES if "{include}" not in (ROOT / page).read_text()}
    assert set(re.findall(r"\(docs/([\w-]+)\.md\)", readme)) == own - {"README", "index"}
    listed = set(re.findall(r"^[\w-]+$", index, re.MULTILINE))
    assert listed == {Path(page).stem for page in PAGES} - {"README", "index"}


RECORDED = {
    "generate": ["generate dog --alternatives 1 --max-new-tokens 3 --setting edt_theta=1"],
    "branches": ["generate dog --branch-at-entropy 1 --max-new-tokens 4"],
    "score": ["score story.txt --setting top_k=5", "score rows.jsonl --prompt-column prompt"],
    "perplexity": ["perplexity story.txt"],
    "compare": ["compare story.txt", "compare story.txt --models builtin:stories builtin:stories"],
    "uncertainty": [
        "uncertainty --prompts-file asked.jsonl --num-samples 2 --max-new-tokens 3 "
        "--evaluation evaluation.jsonl"
    ],
    "calibrate": ["calibrate rows.jsonl --column prompt --coverage 0.9"],
    "identify": ["identify story.txt"],
    "attention": ["attention story.txt"],
    "doctor": ["doctor"],
}
# Their keys are percentiles, or names of models.
FREE = {"kl_percentiles_nats", "delta_p_percentiles", "model_posterior"}


def keys(value):
    """All keys in a record."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(inner) for key, inner in value.items() if key not in FREE))


@pytest.mark.parametrize("name", RECORDED)
def test_every_key_of_a_record_is_explained(name, run):
    Path("story.txt").write_text("Once upon a time there was a dog.")
    row = {"prompt": "Her name was", "text": [" Sue", " Tom"], "context": "Sue had a dog."}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row))
    asked = {"references": ["Sue"], "paraphrases": ["She was called"]}
    Path("asked.jsonl").write_text(json.dumps(row | asked))
    found = set()
    for command in RECORDED[name]:
        code, out, _ = run(*command.split(), "--json")
        assert code == 0
        found |= keys([json.loads(line) for line in out.splitlines()])
    if name == "uncertainty":
        found |= keys(json.loads(Path("evaluation.jsonl").read_text()))
    code = set(re.findall(r"`([^`]+)`", (ROOT / "docs/records.md").read_text()))
    endings = tuple(word.removeprefix("…") for word in code if word.startswith("…"))
    assert not {key for key in found - code if not key.endswith(endings)}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_the_readme_shows_every_command():
    from decoding_cli.app import COMMANDS

    for name in COMMANDS:
        assert f"\ndecoding {name}" in (ROOT / "README.md").read_text()


def test_every_benchmark_has_its_section():
    """The pages and the docstrings refer to figures that are there."""
    folder = ROOT / "benchmarks"
    scripts = "".join(path.read_text() for path in folder.glob("*.py"))
    titles = re.findall(r'write_section\(\s*"([^"]+)"', scripts)
    titles += re.findall(r'"(Sampling: [^"]+)"', scripts)
    sections = re.findall(r"^## (.+)$", (folder / "RESULTS.md").read_text(), re.MULTILINE)
    assert len(titles) > 15 and sorted(titles) == sorted(sections)
