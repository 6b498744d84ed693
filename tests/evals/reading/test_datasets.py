"""Texts of data sets, from folders and from what `datasets` saved."""

import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from huggingface_hub import constants
from pyarrow import parquet

from decoding_evals.reading.items import Prompted
from sources import TEXTS, inputs, read, refusal, write

datasets.disable_progress_bars()


pytestmark = pytest.mark.usefixtures("elsewhere")


def test_a_data_set_folder_of_files():
    write("data/train.jsonl", rows=[{"text": text, "n": 1} for text in TEXTS])
    write("data/test.jsonl", rows=[{"text": "t", "n": 1}])
    assert read(dataset="data") == [("data:1", "t")]
    assert read(dataset="./data:train") == [
        (f"./data:train:{n}", text) for n, text in enumerate(TEXTS, 1)
    ]
    assert read(dataset="data::train")[0] == ("data::train:1", TEXTS[0])
    assert read(dataset="data:default:train")[0] == ("data:default:train:1", TEXTS[0])
    assert refusal(dataset="data:dev") == (
        1, "data set 'data' has no split 'dev'; choose from 'train', 'test', as in 'data::train'",
    )  # fmt: skip
    assert refusal(dataset="data", column="body") == (
        1, "'data' has no column 'body'; it has 'text', 'n'",
    )  # fmt: skip


def test_a_data_set_with_configurations():
    write("data/README.md", "---\nconfigs:\n- config_name: one\n  data_files: a.csv\n"
          "- config_name: two\n  data_files:\n  - {split: dev, path: b.csv}\n"
          "  - {split: one, path: c.csv}\n---\n")  # fmt: skip
    for name in "abc":
        write(f"data/{name}.csv", rows=[{"text": name}])
    assert read(dataset="data:one") == [("data:one:1", "a")]
    assert read(dataset="data:one:train") == [("data:one:train:1", "a")]
    assert read(dataset="data:two:one") == [("data:two:one:1", "c")]
    assert refusal(dataset="data:two")[1] == (
        "data set 'data' has no split 'test'; choose from 'dev', 'one', as in 'data:two:dev'"
    )
    code, line = refusal(dataset="data")
    assert code == 1 and "cannot load data set 'data'" in line and "['one', 'two']" in line


def test_data_sets_saved_to_disk(capfd):
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "q": ["1", "2"]})
    rows.save_to_disk("plain")
    datasets.DatasetDict({"train": rows, "dev": rows.select([1])}).save_to_disk("both")
    capfd.readouterr()
    assert read(dataset="plain") == [("plain:1", "a"), ("plain:2", "b")]
    assert list(inputs(dataset="both:dev", prompt_column="q")) == [
        Prompted("both:dev:1", "2", ("b",))
    ]
    assert refusal(dataset="both")[1] == (
        "data set 'both' has no split 'test'; choose from 'train', 'dev', as in 'both::train'"
    )
    assert "saved without configurations" in refusal(dataset="both:one:dev")[1]
    assert (
        refusal(dataset="plain", column="c")[1] == "'plain' has no column 'c'; it has 'text', 'q'"
    )
    assert capfd.readouterr() == ("", "")


def test_a_path_with_colons_is_a_folder_where_it_exists():
    write("a:b/c:d/train.jsonl", rows=[{"text": "x"}])
    assert read(dataset="a:b/c:d") == [("a:b/c:d:1", "x")]
    assert read(dataset=f"{Path('a:b/c:d').resolve()}:train")[0][1] == "x"


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ("", 2, "--dataset takes NAME[:CONFIG][:SPLIT], got ''"),
        (":x", 2, "--dataset takes NAME[:CONFIG][:SPLIT], got ':x'"),
        ("a:b:c:d", 2, "--dataset takes NAME[:CONFIG][:SPLIT], got 'a:b:c:d'"),
        ("rows.jsonl", 2, "--dataset takes no file; give 'rows.jsonl' as FILES instead"),
        ("./nowhere:test", 1, "data set folder './nowhere' does not exist"),
        ("/nowhere", 1, "data set folder '/nowhere' does not exist"),
        ("empty", 1, "cannot load data set 'empty': "),
        ("no/such-data", 1, "cannot load data set 'no/such-data': Couldn't reach"),
        ("broken", 1, "cannot read data set 'broken': JSON parse error"),
    ],
)
def test_data_sets_that_cannot_be_read(spec, code, says, capfd):
    Path("empty").mkdir()
    write("broken/a.jsonl", '{"text": "a"}\n{"text":\n')
    write("rows.jsonl", rows=[{"text": "a"}])
    got, line = refusal(dataset=spec)
    assert (got, line[: len(says)]) == (code, says)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def asked(monkeypatch):
    """The hosts that were asked for; nobody answers, and nothing is offline by agreement."""
    hosts = []

    def unreachable(host, *_, **__):
        hosts.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    return hosts


@pytest.mark.parametrize("name", ["data", "csv", "json", "text", "parquet"])
def test_a_folder_is_a_folder_whatever_its_name_and_asks_nobody(name, asked):
    write(f"{name}/train.jsonl", rows=[{"text": text} for text in TEXTS])
    assert [text for _, text in read(dataset=name)] == TEXTS
    assert [text for _, text in read(dataset=f"{name}:train")] == TEXTS
    assert asked == []


@pytest.mark.parametrize(
    "files",
    [
        '"https://example.org/x.jsonl"',
        "hf://datasets/a/b/x.jsonl",
        "[a.jsonl, 'HTTP://example.org/x.jsonl']",
        "{train: 'zip://x.jsonl::https://example.org/x.zip'}",
        "[{split: train, path: 's3://bucket/x.jsonl'}]",
    ],
)
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_card_that_names_files_elsewhere_is_refused_and_asks_nobody(card, files, asked):
    write("data/a.jsonl", rows=[{"text": "a"}])
    text = f"configs:\n- config_name: default\n  data_files: {files}\n"
    write(f"data/{card}", f"---\n{text}---\n" if card == "README.md" else text)
    assert "its card names files that do not lie in 'data' (" in refusal(dataset="data")[1]
    assert asked == []


def test_a_card_may_speak_of_addresses_outside_its_configurations(asked):
    write("data/a.jsonl", rows=[{"text": "a"}])
    write("data/README.md", "---\nsource: https://example.org\n---\nhttps://example.org\n")
    assert read(dataset="data") == [("data:1", "a")]
    assert asked == []


def test_without_the_library_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(dataset="x") == (
        1, "--dataset needs the datasets library: pip install 'decoding-toolkit[datasets]'",
    )  # fmt: skip


def test_a_data_set_left_half_way_leaves_the_exit_code_alone():
    """Arrow's threads, reading ahead, used to abort the process in most of such runs."""
    Path("data").mkdir()
    table = pa.table({"text": [f"{n} " * 200 for n in range(20_000)]})
    parquet.write_table(table, "data/a.parquet", compression="none", use_dictionary=False)
    script = (
        "import sys\nfrom decoding_evals.reading.texts import Inputs\n"
        "print(next(iter(Inputs([], dataset='data'))).name)\nsys.exit(3)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (3, "data:1\n", "")
