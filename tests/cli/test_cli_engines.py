"""`--engine vllm` of generate and uncertainty, in an engine that stands in for vLLM."""

import json
import sys

import numpy as np
import pytest

from fake_vllm import FakeLLM, installed


@pytest.fixture
def inside(monkeypatch, stories):
    """The engine that the commands find."""
    installed(monkeypatch)
    made = FakeLLM(stories, np.random.default_rng(0), rows=8, max_model_len=512)
    for command in ("decoding_cli.generate", "decoding_evals.uncertainty.command"):
        monkeypatch.setattr(
            f"{command}.read_llm", lambda options: made if options["engine"] == "vllm" else None
        )
    return made


def assert_alike(one, other):
    """The same values, but for rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_alike(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_alike(*pair)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-3)
    else:
        assert one == other


@pytest.mark.parametrize(
    "command",
    [
        "generate dog cat --seed 3 --max-new-tokens 5 --num-samples 2 --alternatives 1",
        "generate dog --seed 3 --max-new-tokens 5 --setting mirostat_tau=2 --stop .",
        "uncertainty dog cat --seed 3 --max-new-tokens 4 --num-samples 3",
    ],
)
def test_records_are_those_of_transformers(run, inside, command):
    found = {}
    for engine in ("process", "vllm"):
        code, out, err = run(*command.split(), "--json", "--engine", engine)
        assert (code, err) == (0, "")
        found[engine] = [json.loads(line) for line in out.splitlines()]
    assert any(inside.events.values())
    assert_alike(found["vllm"], found["process"])


def test_a_page_has_its_rows_from_the_model(run, inside, tmp_path):
    arguments = ["generate", "dog", "--seed", "3", "--max-new-tokens", "3", "--page-data"]
    pages = []
    for engine in ("process", "vllm"):
        code, out, err = run(*arguments, "--json", "--engine", engine)
        assert (code, err) == (0, "")
        pages.append(json.loads(out)["page"])
    ours, theirs = pages
    assert ours.keys() == theirs.keys() and len(str(ours)) == pytest.approx(
        len(str(theirs)), rel=0.01
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--num-beams", "2"], "--num-beams"),
        (["--branch-at-entropy", "1"], "--branch-at-entropy"),
        (["--device", "cpu"], "--device"),
    ],
)
def test_what_transformers_alone_can_do_is_refused(run, inside, option, message):
    code, out, err = run("generate", "dog", "--engine", "vllm", *option)
    assert (code, out) == (2, "")
    assert f"--engine vllm cannot be used with {message}" in err
    code, out, err = run("generate", "dog", "--engine", "vllm", "--setting",
                         "raw while entropy<=1 else stop")  # fmt: skip
    assert (code, out) == (1, "") and "ends a sequence" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["generate", "uncertainty"])
def test_without_vllm_one_line_says_so(run, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "vllm", None)
    code, out, err = run(command, "dog", "--engine", "vllm")
    assert (code, out) == (1, "")
    assert "--engine vllm needs vLLM" in err and err.count("\n") == 1
    code, out, err = run(command, "dog", "--engine", "vllm", "--base", "x")
    assert code == 2 and "--base cannot be used with --engine vllm" in err


def test_a_run_inside_goes_on_with_the_same_weights_alone(run, inside, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    inside.model_config.model = str(folder)
    flags = ["generate", "dog", "--engine", "vllm", "--max-new-tokens", 3]

    def ended(*_):
        raise RuntimeError("ended")

    for path, changed in (("o.jsonl", False), ("p.jsonl", True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("decoding_evals.shell.output.RecordFile.write", ended)
            with pytest.raises(RuntimeError, match="ended"):
                run(*flags, "--output", path)
        if changed:
            (folder / "model.safetensors").write_bytes(bytes(reversed(range(256))) * 64)
        code, _, err = run(*flags, "--output", path, "--resume")
        assert (code, "other weights" in err) == ((1, True) if changed else (0, False)), err
