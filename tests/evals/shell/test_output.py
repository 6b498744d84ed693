"""Files of records: what they hold, and that they are whole or not there."""

import csv
import json
import os
import resource
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import click
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from decoding_evals.reading.texts import Inputs
from decoding_evals.shell import output
from decoding_evals.shell.output import Interrupted, RecordFile

SUFFIXES = [".jsonl", ".json", ".csv", ".parquet"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def write(path, records):
    with RecordFile(Path(path)) as file:
        for record in records:
            file.write(record)


def read(path):
    """The records of a file, by other means than ours."""
    path = Path(path)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


STRINGS = [
    "", " ", "=1+1", "+1", "-1", "@SUM(A1)", "2020-01-01", "NaN", "null", "1e5", "007", "true",
    "[]", 'a "quoted", cell', "line\nline", "lone\rreturn", "both\r\n", "\0", "\x1b[31m", "\x7f",
    "\x85\u2028\ufeff", "naïve 🦊", "\\ud800", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_strings_come_back_as_they_were(suffix):
    records = [{"text": text, "n": str(n)} for n, text in enumerate(STRINGS)]
    write(f"o{suffix}", records)
    assert read(f"o{suffix}") == records
    assert ["".join(item.pieces) for item in Inputs([Path(f"o{suffix}")])] == STRINGS


RECORDS = [
    {"name": "a", "n": 1, "x": 1, "flag": True, "none": None, "tokens": [{"id": 5, "p": None}]},
    {"name": "b", "n": -2, "x": 0.5, "later": ["é"], "tokens": []},
    {
        "name": None,
        "tokens": [{"id": 6, "p": 0.25, "alternatives": [{"id": 1}]}],
        "seed": 2**64 - 1,
    },
]


def test_parquet_has_a_column_per_key_and_native_values():
    write("o.parquet", RECORDS)
    table = parquet.read_table("o.parquet")
    token = pa.struct(
        {
            "id": pa.int64(),
            "p": pa.float64(),
            "alternatives": pa.list_(pa.struct({"id": pa.int64()})),
        }
    )
    expected = {
        "name": pa.string(), "n": pa.int64(), "x": pa.float64(), "flag": pa.bool_(),
        "none": pa.null(), "tokens": pa.list_(token), "later": pa.list_(pa.string()),
        "seed": pa.uint64(),
    }  # fmt: skip
    assert table.schema.names == list(expected)
    for name, kind in expected.items():
        assert str(table.schema.field(name).type).replace("element", "item") == str(kind)
    assert table.column("seed").to_pylist() == [None, None, 2**64 - 1]
    assert table.column("x").to_pylist() == [1.0, 0.5, None]
    assert table.column("tokens").to_pylist() == [
        [{"id": 5, "p": None, "alternatives": None}],
        [],
        [{"id": 6, "p": 0.25, "alternatives": [{"id": 1}]}],
    ]


def test_csv_has_a_column_per_key_and_json_text():
    write("o.csv", RECORDS)
    assert Path("o.csv").read_bytes().splitlines()[0] == (b"name,n,x,flag,none,tokens,later,seed")
    got = read("o.csv")
    assert [row["name"] for row in got] == ["a", "b", ""]
    assert [row["n"] for row in got] == ["1", "-2", ""]
    assert [row["flag"] for row in got] == ["true", "", ""]
    assert [json.loads(row["tokens"]) for row in got] == [row["tokens"] for row in RECORDS]
    assert got[1]["later"] == '["é"]' and got[2]["seed"] == str(2**64 - 1)


@pytest.mark.parametrize(
    "values",
    [
        [1, "1"], [True, 1], [2**63, -1], [2**80], [{}], [{"a": 1}, {"a": "b"}], [[1], 1],
        [[[1], ["a"]]], [2**60, 0.5],
    ],
    ids=repr,
)  # fmt: skip
def test_values_without_a_common_type_are_text_in_parquet(values):
    write("o.parquet", [{"v": value, "n": 1} for value in [*values, None]])
    table = parquet.read_table("o.parquet")
    assert table.schema.field("v").type == pa.string()
    assert table.schema.field("n").type == pa.int64()
    got = table.column("v").to_pylist()
    assert got.pop() is None
    expected = [value if isinstance(value, str) else json.dumps(value) for value in values]
    assert got == expected


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def without_nulls(value):
    """A value without the keys that hold null: parquet has every key in every row."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(TEXT, VALUES, min_size=1, max_size=4), min_size=1, max_size=5))
def test_any_json_becomes_parquet(records):
    write("o.parquet", records)
    got = read("o.parquet")
    assert len(got) == len(records)
    for row, record in zip(got, records, strict=True):
        for name, value in record.items():
            if isinstance(row[name], str) and not isinstance(value, str):
                row[name] = json.loads(row[name])
            assert without_nulls(row[name]) == without_nulls(value)


def test_text_that_is_not_unicode_costs_a_character_not_the_file():
    for suffix in SUFFIXES:
        write(f"o{suffix}", [{"name": "caf\udce9 🦊"}])
    assert [read(f"o{suffix}")[0]["name"] for suffix in SUFFIXES] == [
        "caf\udce9 🦊", "caf\udce9 🦊", "caf? 🦊", "caf? 🦊",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_records_are_a_file_all_the_same(suffix):
    write(f"o{suffix}", [])
    assert read(f"o{suffix}") == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
@pytest.mark.parametrize("end", [None, Interrupted("1 of 2 done")])
def test_the_finished_records_become_the_file(suffix, end):
    path = Path(f"o{suffix}")
    path.write_text("old")
    with pytest.raises(Interrupted) if end else nullcontext(), RecordFile(path) as file:
        file.write({"a": "1"})
        assert path.read_text() == "old"
        if end:
            raise end
    path = path.rename(path.name.lower())
    assert read(path) == [{"a": "1"}]
    assert os.listdir() == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("error", "count"), [(ValueError("x"), 1), (Interrupted("none"), 0)])
def test_an_error_leaves_the_old_file(suffix, error, count):
    path = Path(f"o{suffix}")
    path.write_text("old")
    with pytest.raises(type(error)), RecordFile(path) as file:  # noqa: PT012
        for _ in range(count):
            file.write({"a": 1})
        raise error
    assert os.listdir() == [path.name] and path.read_text() == "old"


def one_key_each(count):
    return [{f"key {number}": number} for number in range(count)]


@pytest.mark.parametrize(
    ("suffix", "fits"),
    [(".jsonl", 100), (".json", 100), (".csv", 100), (".parquet", 100), (".json", 300),
     (".csv", 300), (".parquet", 300)],
)  # fmt: skip
def test_a_full_disk_leaves_the_old_file(suffix, fits):
    """The disk holds so many of the 300 records as JSON Lines, but never the finished file."""
    path = Path(f"o{suffix}")
    path.write_text("old")
    room = sum(len(json.dumps(record)) + 1 for record in one_key_each(fits))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(click.ClickException) as caught:
            write(path, one_key_each(300))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    line = caught.value.format_message()
    assert line.startswith(f"cannot write '{path}': ") and "File too large" in line
    assert os.listdir() == [path.name] and path.read_text() == "old"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_holds_a_batch_not_the_file(suffix, monkeypatch):
    monkeypatch.setattr(output, "BATCH_CHARACTERS", 1 << 17)
    records = ({"n": n, "text": f"{n} " * 2000} for n in range(1500))
    write(f"warm{suffix}", [])
    tracemalloc.start()
    write(f"o{suffix}", records)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert Path(f"warm{suffix}").exists()
    assert peak < 2 << 20  # of 14 MB
    csv.field_size_limit(1 << 20)
    assert [int(record["n"]) for record in read(f"o{suffix}")] == list(range(1500))


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        (
            "o.txt",
            2,
            "--output takes .jsonl, .json, .csv, .parquet or an empty folder, got 'o.txt'",
        ),
        ("o", 2, "--output takes .jsonl, .json, .csv, .parquet or an empty folder, got 'o'"),
        ("folder.csv", 2, "--output 'folder.csv' is a folder that is not empty"),
        ("nowhere/o.csv", 1, "the folder of 'nowhere/o.csv' does not exist"),
    ],
)
def test_where_nothing_can_be_written(path, code, says):
    Path("folder.csv").mkdir()
    Path("folder.csv/x").touch()
    with pytest.raises(click.ClickException) as caught:
        RecordFile(Path(path))
    assert (caught.value.exit_code, caught.value.format_message()) == (code, says)
    assert os.listdir() == ["folder.csv"]


@pytest.mark.parametrize("count", [0, 1, 8, 9])
def test_files_of_a_folder_are_the_lines_of_one_file(count, monkeypatch):
    records = [{"n": number, "text": "x" * 50} for number in range(count)]
    write("o.jsonl", records)
    monkeypatch.setattr(output, "PART_CHARACTERS", 4 * len(Path("o.jsonl").read_bytes()) // 9)
    Path("o").mkdir()
    write("o", records)
    names = sorted(os.listdir("o"))
    assert names == [f"part-{number:06}.jsonl" for number in range(max(1, len(names)))]
    assert len(names) > 1 or count < 8
    parts = [Path("o", name).read_bytes() for name in names]
    assert b"".join(parts) == Path("o.jsonl").read_bytes()
    assert all(part.endswith(b"\n") for part in parts) or not count


def test_an_error_leaves_the_full_files_of_a_folder(monkeypatch):
    monkeypatch.setattr(output, "PART_CHARACTERS", 10)
    Path("o").mkdir()
    records = [{"text": "Once upon a time"}] * 2 + [{"text": float("nan")}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write("o", records)
    assert sorted(os.listdir("o")) == ["part-000000.jsonl"]
