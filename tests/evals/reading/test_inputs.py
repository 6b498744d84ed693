"""Where texts come from: what is read, and how what cannot be read is refused."""

import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from decoding_evals.reading.items import Prompted
from decoding_evals.reading.rows import PIECE_BYTES
from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.running import run
from sources import TEXTS, inputs, read, refusal, text_of, write

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("name", ["a.txt", "a.raw", "a.tokens", "a.md", "a", "a.py", "a.TXT"])
def test_a_text_file_is_one_document_as_it_stands(name):
    text = "\n  first\r\nsecond\rthird \u2028\x0b\x1c naïve 🦊\n\n"
    write(name, text)
    assert read(name) == [(name, text)]
    write(name, b"\xef\xbb\xbf" + text.encode())
    assert read(name) == [(name, text)]


@pytest.mark.parametrize("shift", range(4))
def test_characters_across_pieces_stay_whole(shift):
    text = "x" * shift + "🦊" * (PIECE_BYTES // 2)
    write("a.txt", text)
    [document] = inputs("a.txt")
    pieces = list(document.pieces)
    assert len(pieces) > 1 and "".join(pieces) == text


def test_a_large_text_is_read_piece_by_piece():
    with open("huge.txt", "wb") as file:
        file.write(b"a" * (3 * PIECE_BYTES))
        file.truncate(8 << 30)  # sparse: NUL bytes that are refused where they begin
    [document] = inputs("huge.txt")
    pieces = iter(document.pieces)
    assert [len(piece) for piece in itertools.islice(pieces, 3)] == [PIECE_BYTES] * 3
    with pytest.raises(click.ClickException, match=r"line 1 holds a NUL byte"):
        next(pieces)


@pytest.mark.parametrize("names", [(), ("-",)])
def test_standard_input_is_one_document_read_on_demand(names, monkeypatch):
    class Endless(io.RawIOBase):
        given = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            self.given += len(buffer)
            buffer[:] = b"b" * len(buffer)
            return len(buffer)

    endless = Endless()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(endless)))
    [document] = inputs(*names)
    assert (document.name, endless.given) == ("-", 0)
    assert next(iter(document.pieces)) == "b" * PIECE_BYTES
    assert endless.given < 3 * PIECE_BYTES


def test_a_pipe_is_read_once():
    script = "import sys, pathlib; from decoding_evals.reading.texts import Inputs\n"
    script += "[d] = Inputs([pathlib.Path(sys.argv[1])]); print(''.join(d.pieces))"
    result = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" <(echo piped)', sys.executable, script],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout == "piped\n\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_rows_are_documents(suffix):
    rows = [{"n": str(n), "text": text, "body": text[::-1]} for n, text in enumerate(TEXTS)]
    name = f"rows{suffix}"
    write(name, rows=rows)
    got = read(name)
    assert [text for _, text in got] == TEXTS
    if suffix != ".csv":
        assert [name for name, _ in got] == [f"rows{suffix}:{n}" for n in range(1, 8)]
    assert [text for _, text in read(name, column="body")] == [text[::-1] for text in TEXTS]


def test_a_byte_order_mark_empty_lines_and_windows_lines_are_no_rows():
    write("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert read("a.jsonl") == [("a.jsonl:1", "a"), ("a.jsonl:4", "b")]
    write("a.csv", b'\xef\xbb\xbftext,n\r\n\r\na,1\r\n"b",2')
    assert read("a.csv") == [("a.csv:3", "a"), ("a.csv:4", "b")]


def test_a_csv_row_is_named_by_the_line_it_begins_on():
    write("a.csv", 'n,text\n1,a\n2,"b\n\nb"\n3,c\n')
    assert read("a.csv") == [("a.csv:2", "a"), ("a.csv:3", "b\n\nb"), ("a.csv:6", "c")]


def test_parquet_is_read_in_part_and_whatever_its_string_type():
    texts = ["eins", "zwei", "eins"]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        column = pa.array(texts).cast(kind)
        table = pa.table({"a.b": column, "other": [b"\xff"] * 3})
        parquet.write_table(table, "a.parquet", row_group_size=2)
        assert [text for _, text in read("a.parquet", column="a.b")] == texts


def test_rows_are_read_one_by_one():
    """A broken last row is met only after the rows in front of it."""
    write("a.jsonl", '{"text": "a"}\n' * 5 + "{")
    write("a.csv", "text\n" + "a\n" * 5 + '"')
    for name in ("a.jsonl", "a.csv"):
        items = iter(inputs(name))
        assert list(map(text_of, itertools.islice(items, 5))) == ["a"] * 5
        with pytest.raises(click.ClickException, match="broken"):
            next(items)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_prompts_with_choices(suffix):
    write(f"q{suffix}", rows=[{"q": "2+2=", "text": ["4", "5"]}, {"q": "a", "text": ["b"]}])
    assert list(inputs(f"q{suffix}", prompt_column="q")) == [
        Prompted(f"q{suffix}:1", "2+2=", ("4", "5")),
        Prompted(f"q{suffix}:2", "a", ("b",)),
    ]


def test_prompts_with_one_text():
    write("q.csv", rows=[{"q": "2+2=", "a": "4"}])
    assert list(inputs("q.csv", prompt_column="q", column="a")) == [
        Prompted("q.csv:2", "2+2=", ("4",))
    ]


def test_a_folder_is_its_files_in_order():
    for name in (
        "b.txt",
        "a/z.md",
        "a/.hidden.txt",
        ".git/x.txt",
        "c.TOKENS",
        "d.bin",
        "e.json",
        "f.raw",
    ):
        write(f"corpus/{name}", name)
    write("corpus/a/k.jsonl", rows=[{"text": "one"}, {"text": "two"}])
    write("corpus/k.csv", rows=[{"text": "three"}])
    write("corpus/k.parquet", rows=[{"text": "four"}])
    assert read("corpus", "corpus/d.bin") == [
        ("corpus/a/k.jsonl:1", "one"), ("corpus/a/k.jsonl:2", "two"), ("corpus/a/z.md", "a/z.md"),
        ("corpus/b.txt", "b.txt"), ("corpus/c.TOKENS", "c.TOKENS"), ("corpus/f.raw", "f.raw"),
        ("corpus/k.csv:2", "three"), ("corpus/k.parquet:1", "four"), ("corpus/d.bin", "d.bin"),
    ]  # fmt: skip


ROWS = ".jsonl, .json, .csv, .parquet"
BAD = [
    # files, options, exit code, line
    ({}, {}, 1, "cannot read 'a.txt': No such file or directory"),
    ({"a.txt": b""}, {}, 1, "'a.txt' is empty"),
    ({"a.txt": b"\xef\xbb\xbf"}, {}, 1, "'a.txt' is empty"),
    ({"a.txt": b"one\ntw\xffo"}, {}, 1, "'a.txt' is not UTF-8 (line 2)"),
    ({"a.txt": b"one\ntwo \xf0\x9f"}, {}, 1, "'a.txt' is not UTF-8 (line 2)"),
    ({"a.txt": "\ufeffé".encode("utf-16")}, {}, 1, "'a.txt' is not UTF-8 (line 1)"),
    ({"a.txt": b"x" * PIECE_BYTES + b"\n" * PIECE_BYTES + b"\xff"}, {}, 1,
     f"'a.txt' is not UTF-8 (line {PIECE_BYTES + 1})"),
    ({"a.txt": b"\n" * PIECE_BYTES + b"\n\0"}, {}, 1,
     f"'a.txt' is not text (line {PIECE_BYTES + 2} holds a NUL byte)"),
    ({"a/b.bin": b"x"}, {}, 1, "no file below 'a' ends in .txt, .raw, .tokens, .md, .jsonl, .csv, "
                               ".parquet"),
    ({"a.txt": b"x"}, {"prompt_column": "q"}, 2,
     f"--prompt-column needs rows ({ROWS}); 'a.txt' is one text"),
    ({"a.txt": b"x"}, {"column": "q"}, 2, f"--column needs rows ({ROWS}); 'a.txt' is one text"),
    ({"a.txt": b"x"}, {"dataset": "x"}, 2, "give FILES or --dataset, not both"),
    ({"a.jsonl": b"x"}, {"prompt_column": "text"}, 2,
     "--column and --prompt-column are both 'text'"),
    ({"a.jsonl": b""}, {}, 1, "no rows in 'a.jsonl'"),
    ({"a.jsonl": b"\n \n"}, {}, 1, "no rows in 'a.jsonl'"),
    ({"a.jsonl": b'{"text": "a"}\n{"text": \n'}, {}, 1,
     "'a.jsonl', line 2: broken JSON (Expecting value: line 2 column 1 (char 10))"),
    ({"a.jsonl": b"[" * 100_000}, {}, 1, "'a.jsonl', line 1: broken JSON ("),
    ({"a.jsonl": b'["text"]'}, {}, 1, "'a.jsonl', line 1: expected an object, got list"),
    ({"a.jsonl": b'{"text": "a"}\n\n{"Text": "a", "n": 1}'}, {}, 1,
     "'a.jsonl', line 3: no column 'text'; it has 'Text', 'n'"),
    ({"a.jsonl": b'{"text": null}'}, {}, 1, "'a.jsonl', line 1: 'text' is null, not a string"),
    ({"a.jsonl": b'{"text": 5}'}, {}, 1, "'a.jsonl', line 1: 'text' is int, not a string"),
    ({"a.jsonl": b'{"text": ["5"]}'}, {}, 1, "'a.jsonl', line 1: 'text' is list, not a string"),
    ({"a.jsonl": b'{"text": "\\ud800"}'}, {}, 1, "'a.jsonl', line 1: 'text' is not valid UTF-8"),
    ({"a.jsonl": b'{"text": "a"}\n{"text": "\xff"}'}, {}, 1, "'a.jsonl', line 2: not UTF-8"),
    ({"a.jsonl": b'{"text": ["a", 1], "q": "b"}'}, {"prompt_column": "q"}, 1,
     "'a.jsonl', line 1: 'text' is int, not a string or a list of strings"),
    ({"a.jsonl": b'{"text": [], "q": "b"}'}, {"prompt_column": "q"}, 1,
     "'a.jsonl', line 1: 'text' is an empty list"),
    ({"a.jsonl": b'{"text": "a", "q": ["b"]}'}, {"prompt_column": "q"}, 1,
     "'a.jsonl', line 1: 'q' is list, not a string"),
    ({"a.jsonl": b'{"text": "a"}'}, {"prompt_column": "q"}, 1,
     "'a.jsonl', line 1: no column 'q'; it has 'text'"),
    ({"a.jsonl": json.dumps(dict.fromkeys(map(str, range(30)))).encode()}, {}, 1,
     "it has " + ", ".join(f"'{n}'" for n in range(20)) + ", …"),
    ({"a.json": b'[{"text": "a"}'}, {}, 1, "'a.json': broken JSON (Expecting ',' delimiter"),
    ({"a.json": b'{"text": "a"}'}, {}, 1, "'a.json': expected a list of objects, got dict"),
    ({"a.json": b"[]"}, {}, 1, "no rows in 'a.json'"),
    ({"a.json": b'[{"text": "a"}, 5]'}, {}, 1, "'a.json', row 2: expected an object, got int"),
    ({"a.csv": b""}, {}, 1, "no rows in 'a.csv'"),
    ({"a.csv": b"text\n"}, {}, 1, "no rows in 'a.csv'"),
    ({"a.csv": b"id,body\n1,b\n"}, {}, 1, "'a.csv' has no column 'text'; it has 'id', 'body'"),
    ({"a.csv": b"text,text\n1,b\n"}, {}, 1, "'a.csv' has more than one column 'text'"),
    ({"a.csv": b't\xffxt\na\n'}, {}, 1, "'a.csv' is not UTF-8 (line 1)"),
    ({"a.csv": b'"text\na\n'}, {}, 1, "'a.csv', line 1: broken CSV (unexpected end of data)"),
    ({"a.csv": b'text,n\na,1\n"b\nc"\n'}, {}, 1,
     "'a.csv', line 3: broken CSV (1 cells under 2 columns)"),
    ({"a.csv": b'text\na\n"b"c\n'}, {}, 1, "'a.csv', line 3: broken CSV (',' expected after '\"')"),
    ({"a.csv": b'text\na\n"b\n\n'}, {}, 1, "'a.csv', line 3: broken CSV (unexpected end of data)"),
    ({"a.csv": b"text\na\n\xff\n"}, {}, 1, "'a.csv', line 3: not UTF-8"),
    ({"a.parquet": b""}, {}, 1, "'a.parquet': broken parquet (Parquet file size is 0 bytes)"),
    ({"a.parquet": b"PAR1" * 9}, {}, 1, "'a.parquet'"),
    ({"a.parquet": [{"body": "a"}]}, {}, 1, "'a.parquet' has no column 'text'; it has 'body'"),
    ({"a.parquet": [{"text": {"b": "a"}}]}, {"column": "text.b"}, 1,
     "'a.parquet' has no column 'text.b'; it has 'text'"),
    ({"a.parquet": [{"text": "a"}, {"text": None}]}, {}, 1,
     "'a.parquet', row 2: 'text' is null, not a string"),
    ({"a.parquet": [{"text": b"a"}]}, {}, 1, "'a.parquet', row 1: 'text' is bytes, not a string"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "options", "code", "says"), [pytest.param(*case, id=case[3][:60]) for case in BAD]
)
def test_what_cannot_be_read_is_one_line(files, options, code, says):
    for name, content in files.items():
        write(name, content) if isinstance(content, bytes) else write(name, rows=content)
    name = next(iter(files), "a.txt").split("/")[0]
    got, line = refusal(name, **options)
    assert (got, says in line) == (code, True), line


def test_parquet_strings_that_are_not_utf8():
    column = pa.array([b"good", b"\xff"]).view(pa.string())
    parquet.write_table(pa.table({"text": column}), "a.parquet")
    assert refusal("a.parquet") == (1, "'a.parquet', row 2: not UTF-8")
    assert read("a.parquet", skip_bad_rows=True) == [("a.parquet:1", "good")]


def test_standard_input_is_named_and_read_once(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert refusal() == (1, "standard input is empty")
    assert refusal("-", "-")[0] == 2
    assert refusal(column="x")[0] == 2


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_what_the_operating_system_refuses(name, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    write(name, "x")
    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(name) == (1, f"cannot read {name!r}: Permission denied")


def test_a_named_pipe_gives_no_rows():
    os.mkfifo("a.jsonl")
    assert refusal("a.jsonl") == (
        1, "'a.jsonl' is no regular file: rows cannot be read from it",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", None),
        ("a.txt", b""),
        ("a.jsonl", b'{"body": "a"}'),
        ("a.csv", b"text\n"),
        ("a.csv", b"body\na\n"),
        ("a.parquet", b"x"),
    ],
)
def test_all_paths_are_looked_at_before_the_first_is_read(name, content):
    write("fine.txt", "fine")
    if content is not None:
        write(name, content)
    with pytest.raises(click.ClickException, match=name):
        inputs("fine.txt", name)


BROKEN = {
    "a.jsonl": '{"text": "a"}\n{"text": 1}\n{\n[]\n{"n": "x"}\n{"text": "\\ud800"}\n{"text": "b"}',
    "a.json": '[{"text": "a"}, {"text": 1}, 5, [], {"other": "x"}, {"text": null}, {"text": "b"}]',
    "a.csv": b'n,text\n1,a\n1\n1,"x"x\n1,\xff\n1,x,y\n1,"\xff"\n2,b\n',
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rows_are_counted_on_request(name):
    content = BROKEN[name]
    write(name, content)
    source = inputs(name, skip_bad_rows=True)
    assert source.skipped_rows == 0
    assert list(map(text_of, source)) == ["a", "b"]
    assert source.skipped_rows == 5


def test_a_file_without_any_good_row_is_refused_all_the_same():
    write("a.jsonl", '{"body": "a"}\n{"body": "b"}\n')
    assert refusal("a.jsonl", skip_bad_rows=True) == (
        1, "every row is broken; the first: 'a.jsonl', line 1: no column 'text'; it has 'body'",
    )  # fmt: skip


@click.command()
@input_options
@click.option("--prompt-column")
def lengths(**options):
    """Print the length of every text."""
    source = Inputs.from_options(options)
    for item in source:
        click.echo(f"{item.name} {len(text_of(item))}")
    click.echo(f"skipped {source.skipped_rows}")


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["a.txt", "b.jsonl", "--skip-bad-rows"], 0, "a.txt 3\nb.jsonl:1 2\nskipped 1\n", ""),
        (["b.jsonl", "--column", "q", "--prompt-column", "text", "--skip-bad-rows"],
         0, "b.jsonl:1 1\nskipped 1\n", ""),
        ([], 0, "- 5\nskipped 0\n", ""),
        (["--dataset", "saved"], 0, "saved:1 4\nskipped 0\n", ""),
        (["b.jsonl"], 1, "b.jsonl:1 2\n",
         "Error: 'b.jsonl', line 2: expected an object, got int\n"),
        (["a.txt", "--dataset", "x"], 2, "", "Error: give FILES or --dataset, not both\n"),
    ],
)  # fmt: skip
def test_the_options_feed_inputs(arguments, code, out, err, monkeypatch, capfd):
    write("a.txt", "abc")
    write("b.jsonl", '{"text": "ab", "q": "c"}\n5\n')
    datasets.Dataset.from_dict({"text": ["data"]}).save_to_disk("saved")
    capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["lengths", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"stdin")))
    with pytest.raises(SystemExit) as exit_:
        run(lengths, "lengths")
    assert (exit_.value.code or 0, *capfd.readouterr()) == (code, out, err)


def test_nothing_heavy_is_imported_before_it_is_needed():
    script = (
        "import sys, decoding_evals.reading.texts, decoding_evals.shell.output\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'datasets', 'rich'}\n"
        "print(heavy & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a", "text": "b"}',
        '{"text": "b", "id": {"text": 1, "text": 1}}',
        '{"id": [{"text": 1}, {"text": 1, "text": 2}], "text": "b"}',
    ],
)
def test_an_object_with_a_key_twice_is_broken(line):
    """Nobody knows which one is meant."""
    twice = "broken JSON (an object has more than one key 'text')"
    write("a.jsonl", f'{{"text": "x", "n": 1}}\n{line}\n')
    assert refusal("a.jsonl") == (1, f"'a.jsonl', line 2: {twice}")
    assert read("a.jsonl", skip_bad_rows=True) == [("a.jsonl:1", "x")]
    write("a.json", f"[{line}]")
    assert refusal("a.json") == (1, f"'a.json': {twice}")


def test_a_number_that_nothing_holds_is_broken():
    """Of command lines of seed 23: 932."""
    write("a.jsonl", f'{{"text": "a", "n": {"9" * 300}}}\n{{"text": "b", "n": 1{"0" * 300}}}\n')
    broken = "'a.jsonl', line 2: broken JSON (a whole number of 301 digits)"
    assert refusal("a.jsonl") == (1, broken)
    assert read("a.jsonl", skip_bad_rows=True) == [("a.jsonl:1", "a")]
