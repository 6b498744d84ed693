"""Files of pictures: whole or not there, and refused before any work."""

import io
import sys
from pathlib import Path

import click
import pytest

from decoding_cli.app import main
from decoding_evals.compare.figure import plot_comparison
from decoding_evals.score.figure import plot_scores
from decoding_evals.shell import plots
from decoding_evals.shell.plots import check_plot, write_plot
from pictures import comparison, scores

BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}
ENDS = {".png": b"IEND\xaeB`\x82", ".svg": b"</svg>\n", ".pdf": b"%%EOF\n"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECODING_MODEL", raising=False)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
@pytest.mark.parametrize("kind", ["scores", "comparison"])
def test_files_are_whole_and_alone(suffix, kind):
    figure = plot_scores(scores("abc")) if kind == "scores" else plot_comparison(comparison(3))
    path = Path(f"out{suffix}")
    path.write_bytes(b"old")
    write_plot(figure, path)
    content = path.read_bytes()
    assert content.startswith(BEGINNINGS[suffix.lower()])
    assert content.endswith(ENDS[suffix.lower()])
    assert [file.name for file in Path().iterdir()] == [path.name]


def test_a_file_has_the_rights_of_any_other():
    Path("other").touch()
    write_plot(plot_scores(scores("a")), Path("out.svg"))
    assert Path("out.svg").stat().st_mode == Path("other").stat().st_mode


def test_a_failure_leaves_the_old_file_and_no_other(monkeypatch):
    path = Path("out.png")
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots.os, "replace", full)
    with pytest.raises(click.ClickException, match=r"cannot write 'out.png': No space left"):
        write_plot(plot_scores(scores("a")), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in Path().iterdir()] == ["out.png"]


def test_what_cannot_be_written_is_refused_beforehand(monkeypatch):
    check_plot(None)
    check_plot(Path("out.PDF"))
    for name in ("out.gif", "out", "out.png.txt", ".png"):
        with pytest.raises(click.UsageError, match=r"--plot takes .png, .svg or .pdf, got"):
            check_plot(Path(name))
    with pytest.raises(click.ClickException, match=r"the folder of 'no/out.png' does not exist"):
        check_plot(Path("no/out.png"))
    Path("folder.png").mkdir()
    with pytest.raises(click.UsageError, match=r"--plot 'folder.png' is a folder"):
        check_plot(Path("folder.png"))
    monkeypatch.setattr(plots.os, "access", lambda *_: False)
    with pytest.raises(click.ClickException, match=r"cannot write 'out.png': Permission denied"):
        check_plot(Path("out.png"))


@pytest.mark.parametrize("command", ["score", "compare"])
@pytest.mark.parametrize(
    ("plot", "code", "message"),
    [
        ("out.jpg", 2, "Error: --plot takes .png, .svg or .pdf, got 'out.jpg'"),
        ("no/out.png", 1, "Error: the folder of 'no/out.png' does not exist"),
        (None, 1, "Error: --plot needs matplotlib: pip install 'decoding-toolkit[plot]'"),
    ],
)
def test_refusals_are_one_line_before_any_work(monkeypatch, capsys, command, plot, code, message):
    if plot is None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(f"decoding_evals.{command}.command.read_model", None)
    arguments = [command, "--plot", plot or "out.png", "--output", "out.json"]
    monkeypatch.setattr(sys, "argv", ["decoding", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Once")))
    with pytest.raises(SystemExit) as exit_:
        main()
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (code, "")
    assert err == f"{message}\n"
    assert [*Path().iterdir()] == []
