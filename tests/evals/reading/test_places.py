"""Files at addresses are read as those on this machine, and refused as those."""

import json
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from decoding_evals.reading.texts import Inputs
from sources import TEXTS, text_of, write

pytestmark = pytest.mark.usefixtures("elsewhere")
ROWS = [{"text": f"Once upon a time there was a {animal}."} for animal in ("dog", "cat", "bird")]


@pytest.fixture
def store(monkeypatch):
    """Puts files of this folder into a store in memory, and gives their addresses."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])

    def put(name):
        address = f"memory://bucket/{name}"
        with fsspec.open(address, "wb") as file:
            file.write(Path(name).read_bytes())
        return address

    return put


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.txt"])
def test_records_are_those_of_a_file_here(run, store, name):
    write(name, ROWS[0]["text"]) if name == "a.txt" else write(name, rows=ROWS)
    address = store(name)
    found = []
    path = str(Path(name).absolute())
    for place, called in ((name, name), (address, address), (f"file://{path}", path)):
        code, out, err = run("score", place, "--json")
        assert (code, err) == (0, "")
        found.append([json.loads(line) for line in out.splitlines()])
        assert all(record.pop("name").startswith(called) for record in found[-1])
    here, *elsewhere = found
    assert len(here) == (1 if name == "a.txt" else 3) and elsewhere == [here, here]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_every_text_arrives_as_it_was(store, name):
    write(name, rows=[{"text": text} for text in TEXTS])
    items = [*Inputs([UPath(store(name))])]
    assert [text_of(item) for item in items] == TEXTS


def test_a_folder_stands_for_the_files_below_it(run, store):
    for name in ("f/a.jsonl", "f/g/b.csv", "f/.hidden.jsonl", "f/c.bin"):
        write(name, rows=ROWS)
        store(name)
    code, out, err = run("perplexity", "memory://bucket/f", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["documents"] == 6
    code, _, err = run("perplexity", "memory://bucket/f/g/nothing")
    assert code == 1 and err == (
        "Error: cannot read 'memory://bucket/f/g/nothing': No such file or directory\n"
    )


def test_broken_rows_are_counted_there_too(run, store):
    write("a.jsonl", '{"text": "Once upon"}\n{"text": \n{"text": "The cat sat"}\n')
    address = store("a.jsonl")
    code, out, err = run("score", address)
    assert code == 1 and err.count("\n") == 1 and f"{address!r}, line 2: broken JSON" in err
    code, out, err = run("score", address, "--skip-bad-rows", "--json")
    assert code == 0 and len(out.splitlines()) == 2 and err == "1 broken row skipped\n"


def test_prompts_lie_at_addresses_too(run, store):
    write("p.txt", "dog\ncat\n")
    write("p.jsonl", rows=[{"prompt": "dog"}, {"prompt": "cat"}])
    flags = ["--seed", 3, "--max-new-tokens", 3]
    outs = {
        run("generate", "--prompts-file", place, *flags)
        for place in ("p.txt", store("p.txt"), store("p.jsonl"))
    }
    [(code, out, err)] = outs
    assert (code, err) == (0, "") and len(out.splitlines()) >= 2


def test_a_run_goes_on_with_an_address(run, store):
    write("a.jsonl", rows=ROWS)
    address = store("a.jsonl")
    assert run("score", address, "--output", "o.jsonl")[0] == 0
    code, _, err = run("score", address, "--output", "o.jsonl", "--resume")
    assert code == 0 and "is finished" in err


def test_what_a_store_says_is_one_line(run, store, monkeypatch):
    def no_answer(*_, **__):
        raise RuntimeError("no credentials\nand many lines more")

    write("a.jsonl", rows=ROWS)
    address = store("a.jsonl")
    for method in ("_open", "info"):
        monkeypatch.setattr(MemoryFileSystem, method, no_answer)
        for command in ("score", "generate --prompts-file"):
            code, out, err = run(*command.split(), address)
            assert (code, out) == (1, "")
            assert err == f"Error: cannot read {address!r}: no credentials\n"


def test_an_address_that_cannot_be_read_is_a_wrong_argument(run, monkeypatch):
    code, _, err = run("score", "nowhere://bucket/a.jsonl")
    assert code == 2 and "cannot read 'nowhere://bucket/a.jsonl': Unsupported" in err
    monkeypatch.setitem(sys.modules, "upath", None)
    code, _, err = run("score", "s3://bucket/a.jsonl")
    assert code == 2 and "pip install 'decoding-toolkit[remote]'" in err


def test_nothing_is_written_to_an_address(run):
    write("a.jsonl", rows=ROWS)
    code, _, err = run("score", "a.jsonl", "--output", "s3://bucket/o.jsonl")
    assert code == 2 and "'s3://bucket/o.jsonl' is an address" in err


def test_a_file_is_not_written_over_itself_under_its_address(run):
    before = write("a b.jsonl", rows=ROWS).read_bytes()
    address = Path("a b.jsonl").absolute().as_uri()
    code, _, err = run("score", address, "--output", "a b.jsonl")
    assert code == 2 and "is one of the files that are read" in err
    assert Path("a b.jsonl").read_bytes() == before
