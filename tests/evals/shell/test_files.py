"""Files that are written through links, into pipes and devices, and over others."""

import errno
import json
import os
import stat
import subprocess
import threading
from pathlib import Path

import click
import pytest
from pyarrow import parquet

from commands import forked
from decoding_evals.score.figure import plot_scores
from decoding_evals.shell.files import is_stream
from decoding_evals.shell.output import Interrupted, RecordFile
from decoding_evals.shell.plots import check_plot, write_plot
from pictures import scores

RECORDS = [{"a": "1"}, {"a": "=2+2"}]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def write(name, records=RECORDS):
    with RecordFile(Path(name)) as file:
        for record in records:
            file.write(record)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("target", ["data.txt", "data.csv", "folder/data", "new.bin"])
def test_a_link_stays_and_its_name_gives_the_format(target):
    """The file that it names is written whole, whatever its own name."""
    Path("folder").mkdir()
    if target != "new.bin":
        Path(target).write_text("old")
    Path("out.jsonl").symlink_to(target)
    write("out.jsonl")
    assert os.readlink("out.jsonl") == target
    assert lines(Path(target).read_text()) == RECORDS
    assert not [name for name in os.listdir("folder") if name.startswith(".")]


def test_a_link_to_a_link_and_an_error():
    Path("data").write_text("old")
    Path("middle").symlink_to("data")
    Path("out.csv").symlink_to(Path("middle").absolute())
    with pytest.raises(ValueError, match="x"), RecordFile(Path("out.csv")) as file:  # noqa: PT012
        file.write({"a": 1})
        raise ValueError("x")
    assert Path("data").read_text() == "old"
    write("out.csv")
    assert Path("data").read_text() == "a\n1\n=2+2\n"
    assert Path("out.csv").is_symlink() and Path("middle").is_symlink()
    assert sorted(os.listdir()) == ["data", "middle", "out.csv"]


def test_a_link_in_a_circle_is_refused():
    Path("a.csv").symlink_to("b.csv")
    Path("b.csv").symlink_to("a.csv")
    with pytest.raises(click.ClickException, match=r"cannot write 'a.csv': .*symbolic links"):
        write("a.csv")
    assert sorted(os.listdir()) == ["a.csv", "b.csv"]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755, 0o444])
@pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.svg"])
def test_a_file_that_is_replaced_hands_on_its_mode(mode, name):
    Path(name).write_text("old")
    Path(name).chmod(mode)
    Path("link" + Path(name).suffix).symlink_to(name)
    for path in (name, "link" + Path(name).suffix):
        write_plot(plot_scores(scores("a")), Path(path)) if name == "o.svg" else write(path)
        assert stat.S_IMODE(os.stat(name).st_mode) == mode
    assert Path(name).read_text() != "old"


@pytest.mark.parametrize("name", ["o.jsonl", "o.json", "o.csv", "o.parquet", "pipe"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_to_and_stays(name, linked):
    path = name
    if linked:
        path = f"real{Path(name).suffix}" if name != "pipe" else "real"
        Path(name).symlink_to(path)
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(Path(path).read_bytes()))
    reader.start()
    write(name)
    reader.join()
    assert stat.S_ISFIFO(os.stat(name).st_mode)
    if name == "o.parquet":
        Path("copy.parquet").write_bytes(got[0])
        assert parquet.read_table("copy.parquet").to_pylist() == RECORDS
    elif name == "o.csv":
        assert got[0] == b"a\r\n1\r\n=2+2\r\n"
    else:
        text = got[0].decode()
        assert (json.loads(text) if name == "o.json" else lines(text)) == RECORDS


def test_a_pipe_gets_what_was_finished_or_nothing():
    os.mkfifo("o.jsonl")
    for end, want in ((Interrupted("x"), RECORDS[:1]), (ValueError("x"), [])):
        got = []
        reader = threading.Thread(target=lambda got=got: got.append(Path("o.jsonl").read_text()))
        reader.start()
        with pytest.raises(type(end)), RecordFile(Path("o.jsonl")) as file:  # noqa: PT012
            file.write(RECORDS[0])
            raise end
        reader.join()
        assert lines(got[0]) == want
    assert os.listdir() == ["o.jsonl"]


@pytest.mark.parametrize("name", ["/dev/null", "null.csv", "null.jsonl"])
def test_the_device_that_keeps_nothing_stays_what_it_is(name):
    if not name.startswith("/"):
        Path(name).symlink_to("/dev/null")
    before = os.stat("/dev/null")
    write(name)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.stat("/dev/null").st_ino == before.st_ino


def test_a_full_device_is_one_line():
    with pytest.raises(click.ClickException) as caught:
        write("/dev/full")
    assert caught.value.format_message() == f"cannot write '/dev/full': {os.strerror(errno.ENOSPC)}"


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link.jsonl"])
@pytest.mark.parametrize("redirection", [">>", "|"])
def test_standard_output_by_its_name(path, redirection):
    """It is appended to where the shell appends, and does not become another file."""
    Path("link.jsonl").symlink_to("/dev/stdout")
    Path("o").write_text("first\n")
    arguments = ["generate", "Once", "--max-new-tokens", "1", "--output", path]
    with open("o", "ab") as file:
        process = forked(*arguments, stdout=file if redirection == ">>" else subprocess.PIPE)
        out, _ = process.communicate()
        file.write(out or b"")
    assert process.returncode == 0
    first, line = Path("o").read_text().splitlines()
    assert first == "first" and json.loads(line)["prompt"] == "Once"
    assert sorted(os.listdir()) == ["link.jsonl", "o"]


def test_a_descriptor_of_ones_own():
    with open("o", "w") as file:
        file.write("first\n")
        file.flush()
        Path("o.csv").symlink_to(f"/dev/fd/{file.fileno()}")
        assert is_stream(Path("o.csv"))
        write("o.csv")
    assert Path("o").read_text() == "first\na\n1\n=2+2\n"
    with pytest.raises(click.ClickException, match="cannot write '/dev/fd/99': Bad file desc"):
        write("/dev/fd/99")


def test_a_picture_goes_into_a_pipe_too():
    os.mkfifo("o.svg")
    check_plot(Path("o.svg"))
    got = []
    reader = threading.Thread(target=lambda: got.append(Path("o.svg").read_bytes()))
    reader.start()
    write_plot(plot_scores(scores("a")), Path("o.svg"))
    reader.join()
    assert got[0].startswith(b"<?xml") and got[0].endswith(b"</svg>\n")
    assert os.listdir() == ["o.svg"]
    with pytest.raises(click.UsageError, match="--plot takes"):
        check_plot(Path("/dev/stdout"))


@pytest.mark.parametrize(
    "command",
    [
        "uncertainty dog --output loop.json",
        "uncertainty --answers loop.json --output loop.json",
        "score dog.txt --output loop.json",
        "score dog.txt --plot loop.svg",
        "score --dataset loop",
        "score loop.json",
        "generate --prompts-file loop.json",
    ],
)
def test_a_link_to_itself_is_refused_in_one_line(run, command):
    """Of command lines of seed 23: 333."""
    Path("dog.txt").write_text("Once upon a time there was a dog.")
    for name in ("loop.json", "loop.svg", "loop"):
        Path(name).symlink_to(name)
    code, out, err = run(*command.split())
    assert code in (1, 2) and out == ""
    assert [line.startswith("Error: ") for line in err.splitlines()].count(True) == 1
    assert err.splitlines()[-1].startswith("Error: ")
