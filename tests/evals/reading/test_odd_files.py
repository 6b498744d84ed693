"""Files that nobody meant: each is one line of refusal, or is read within little memory."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pyarrow as pa
import pytest
from pyarrow import parquet

from decoding_evals.reading import rows
from decoding_evals.reading.prompts import read_prompts
from sources import read, refusal, write

pytestmark = pytest.mark.usefixtures("elsewhere")

MEASURED = """
import resource, sys
from pathlib import Path
from decoding_evals.reading.texts import Inputs
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sizes = [len("".join(item.pieces)) for item in Inputs([Path(sys.argv[1])])]
print(len(sizes), sum(sizes), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("dictionary", [True, False], ids=["dictionary", "plain"])
def test_a_small_parquet_file_that_unpacks_to_much_is_read_row_by_row(dictionary):
    """The same large cell in every row: a few kilobytes on the disk, 1.2 GB of text."""
    count, size = 300, 4_000_000
    row = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["x" * size]))
    column = pa.concat_arrays([row] * count)
    schema = pa.schema([("text", column.type if dictionary else pa.string())])
    options = {"compression": "zstd", "store_schema": False, "use_dictionary": dictionary}
    with parquet.ParquetWriter("a.parquet", schema, **options) as writer:
        step = count if dictionary else 1
        for start in range(0, count, step):
            part = column[start : start + step]
            writer.write_table(pa.table([part.cast(schema.field(0).type)], schema))
    assert Path("a.parquet").stat().st_size < 200_000
    assert parquet.read_schema("a.parquet").field("text").type == pa.string()
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, "a.parquet"], capture_output=True, text=True, check=True
    )
    texts, characters, kilobytes = map(int, result.stdout.split())
    assert (texts, characters) == (count, count * size)
    assert kilobytes < 150_000


@pytest.fixture
def short_lines(monkeypatch):
    monkeypatch.setattr(rows, "LONGEST", 100)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", '{"text": "a"}\n' + json.dumps({"text": "x" * 200}), 2),
        ("a.jsonl", "x" * 101, 1),
        ("a.csv", "text\na\n" + "x" * 200 + "\n", 3),
        ("a.csv", "x" * 200 + "\n", 1),
    ],
)
def test_a_line_that_no_memory_should_hold_is_refused(short_lines, name, content, line):
    write(name, content)
    assert refusal(name) == (1, f"{name!r}: line {line} is longer than 100 characters")


def test_an_open_quotation_mark_does_not_swallow_a_file(short_lines):
    write("a.csv", 'text\n"' + "word\n" * 50)
    code, says = refusal("a.csv")
    assert code == 1 and says.startswith("'a.csv', line 2: broken CSV (field larger than")


def test_a_prompt_that_no_memory_should_hold_is_refused(short_lines):
    write("p.txt", "fine\n" + "x" * 99 + "\n" + "x" * 101)
    with pytest.raises(click.ClickException, match=r"'p.txt': line 3 is longer than 100"):
        read_prompts((), Path("p.txt"))


def test_lines_as_long_as_may_be_are_read(short_lines):
    write("a.jsonl", json.dumps({"text": "x" * 88}) + "\n")
    assert read("a.jsonl") == [("a.jsonl:1", "x" * 88)]
    write("p.txt", "x" * 100)
    assert read_prompts((), Path("p.txt")) == ["x" * 100]


def test_one_line_of_a_hundred_megabytes_costs_little_on_standard_input(run):
    """It is no record, so nothing waits for the end of its line."""
    script = (
        "import resource, sys; from decoding_evals.reading.texts import Inputs\n"
        "[text] = Inputs([], records=True)\n"
        "print(sum(map(len, text.pieces)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    feed = f"head -c 100000000 /dev/zero | tr '\\0' x | {sys.executable} -c '{script}'"
    result = subprocess.run(["bash", "-c", feed], capture_output=True, text=True, check=True)
    characters, kilobytes = map(int, result.stdout.split())
    assert characters == 100_000_000 and kilobytes < 150_000


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.parquet", "a"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, "text\nOnce".encode("utf-16"), b"\xff\xfe", b"\xef\xbb\xbf", b"\x80" * 99],
    ids=["empty", "NUL", "UTF-16", "mark of UTF-16", "mark alone", "no UTF-8"],
)
def test_what_is_no_text_is_one_line(name, content):
    write(name, content)
    code, says = refusal(name)
    assert code == 1 and repr(name) in says and "\n" not in says and len(says) < 200


@pytest.mark.parametrize("content", [b"\0" * 99, "Once".encode("utf-16"), b"", b"\n\n"])
@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.json", "p.csv", "p.parquet"])
@pytest.mark.parametrize("command", ["generate", "uncertainty"])
def test_so_it_is_for_prompts(run, command, name, content):
    write(name, content)
    code, out, err = run(command, "--prompts-file", name, "--model", "./nowhere")
    assert (code, out, err.count("\n")) == (1, "", 1) and name in err


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ends_of_lines_and_a_byte_order_mark_are_no_text(end, mark):
    write("p.txt", mark + f"One{end}two {end}")
    assert read_prompts((), Path("p.txt")) == ["One", "two "]
    for suffix, lines in (
        ("jsonl", ['{"text": "a"}', '{"text": "b"}']),
        ("csv", ["text", "a", "b"]),
    ):
        write(f"a.{suffix}", mark + end.join(lines) + end)
        assert [text for _, text in read(f"a.{suffix}")] == ["a", "b"]
