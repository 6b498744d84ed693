"""Records of `decoding generate`, read back as the ids that they hold."""

import io
import json
import sys
from pathlib import Path

import click
import pytest

from decoding.scoring.teacher_forcing import TokenDocument
from decoding_evals.reading.items import Text
from decoding_evals.reading.records import Recorded
from decoding_evals.reading.texts import Inputs
from decoding_evals.shell.output import RecordFile

pytestmark = pytest.mark.usefixtures("elsewhere")


RECORD = {"prompt": "Tom", "prompt_ids": [5, 6], "text": " was", "tokens": [{"id": 7}, {"id": 8}]}


def recorded(path, **options):
    return list(Inputs([Path(path)], records=True, **options))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_written_record_is_read_as_its_ids(suffix, tmp_path, stories):
    path = tmp_path / f"out{suffix}"
    with RecordFile(path) as file:
        file.write(RECORD | {"model": "m", "num_beams": 4})
        file.write(RECORD | {"prompt": "", "prompt_ids": [1], "model": "m", "num_beams": 1})
    first, second = recorded(path)
    assert first[1:] == ((7, 8), "Tom", (5, 6), "m", 4)
    assert second[1:] == ((7, 8), "", (1,), "m", 1)
    assert first.document(stories) == TokenDocument((7, 8), (5, 6))


def test_a_record_on_standard_input(monkeypatch):
    lines = f"{json.dumps(RECORD)}\n\n{json.dumps(RECORD)}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert [item.name for item in Inputs([], records=True)] == ["-:1", "-:3"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"\n{lines}".encode())))
    assert [item.name for item in Inputs([], records=True)] == ["-:2", "-:4"]


@pytest.mark.parametrize("text", ["Once upon", '{"a": 1}\nmore', "[1]\n", "\n{"])
def test_other_standard_input_is_one_text(monkeypatch, text, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    [item] = Inputs([], records=True)
    assert "".join(item.pieces) == text
    assert ("looks like JSON" in capsys.readouterr().err) == (text != "Once upon")


def test_what_records_say_of_themselves_is_told(tmp_path, stories):
    path = tmp_path / "rows.jsonl"
    other = RECORD | {"model": "gpt2", "num_beams": 4}
    path.write_text("\n".join(map(json.dumps, [RECORD, other, RECORD | {"model": "mine"}])))
    inputs = Inputs([path], records=True)
    items = list(inputs)
    assert inputs.notes(["mine"]) == [
        "records by another model, 'gpt2': 1",
        "records of beam search, not drawn: 1",
    ]
    foreign = items[0]._replace(ids=(5, 2048))
    with pytest.raises(ValueError, match=r"rows.jsonl:1' has token 2048, and .* has 2048 tokens"):
        foreign.document(stories)


def test_without_prompt_ids_the_prompt_is_encoded(tmp_path, stories):
    path = tmp_path / "rows.jsonl"
    record = {name: value for name, value in RECORD.items() if name != "prompt_ids"}
    path.write_text(json.dumps(record) + "\n" + json.dumps(record | {"prompt": ""}))
    first, second = recorded(path)
    assert isinstance(first, Recorded)
    assert first.document(stories).context == tuple(stories.tokenizer("Tom")["input_ids"])
    assert second.document(stories).context == (stories.tokenizer.bos_token_id,)


def test_records_beside_rows_of_text_and_a_column_that_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "plain"}) + "\n" + json.dumps(RECORD))
    assert [type(item) for item in recorded(path)] == [Text, Recorded]
    assert [type(item) for item in recorded(path, column="text")] == [Text, Text]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tokens": [{"id": 1.5}]}, "'tokens' is no list"),
        ({"tokens": [{"id": 2**70}]}, "'tokens' is no list"),
        ({"tokens": [{"id": -1}]}, "'tokens' is no list"),
        ({"tokens": [{"text": "a"}]}, "'tokens' is no list"),
        ({"tokens": 3}, "'tokens' is no list"),
        ({"tokens": "[" * 100_000}, "broken JSON"),
        ({"tokens": "["}, "broken JSON"),
        ({"prompt": None}, "'prompt' is null"),
        ({"prompt_ids": [None]}, "'prompt_ids' is no list"),
        ({"prompt_ids": [2**70]}, "'prompt_ids' is no list"),
    ],
)
def test_a_broken_record_is_refused_or_skipped(tmp_path, change, problem):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(RECORD | change) + "\n" + json.dumps(RECORD))
    with pytest.raises(click.ClickException, match=problem):
        recorded(path)
    inputs = Inputs([path], records=True, skip_bad_rows=True)
    assert len(list(inputs)) == 1 and inputs.skipped_rows == 1
