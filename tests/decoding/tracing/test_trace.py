"""What a `Trace` says about a sequence: columns, records, summary and table."""

import json
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from rich.console import Console

from decoding import Trace

MEASURES = [
    "surprisal_nats",
    "entropy_nats",
    "raw_surprisal_nats",
    "raw_entropy_nats",
    "kept",
    "kept_mass",
    "rank",
    "kl_nats",
]


@pytest.fixture
def trace():
    return Trace(
        ids=np.array([7, 11, 2]),
        surprisal_nats=np.array([0.5, 0.0, 1.75]),
        entropy_nats=np.array([1.0, 0.0, 0.5]),
        raw_surprisal_nats=np.array([1.0, 0.25, 2.5]),
        raw_entropy_nats=np.array([2.0, 0.5, 1.25]),
        kept=np.array([3, 1, 40]),
        kept_mass=np.array([0.9, 1.0, 0.96875]),
        rank=np.array([1, 0, 12]),
        kl_nats=np.array([0.5, 0.25, 0.125]),
        texts=("Once", " upon", "\n"),
    )


def empty():
    floats, integers = np.empty(0), np.empty(0, dtype=np.int64)
    return Trace(integers, floats, floats, floats, floats, integers, floats, integers, floats, ())


def test_columns_are_the_records_keys_in_order(trace):
    assert list(trace.columns()) == ["id", "text", *MEASURES]
    assert trace.columns()["id"] is trace.ids
    assert trace.columns()["text"] == trace.texts
    for name in MEASURES:
        assert trace.columns()[name] is getattr(trace, name)


def test_records_are_plain_rows(trace):
    records = trace.records()
    assert len(trace) == len(records) == 3
    assert records[2] == {
        "id": 2,
        "text": "\n",
        "surprisal_nats": 1.75,
        "entropy_nats": 0.5,
        "raw_surprisal_nats": 2.5,
        "raw_entropy_nats": 1.25,
        "kept": 40,
        "kept_mass": 0.96875,
        "rank": 12,
        "kl_nats": 0.125,
    }
    assert all(list(record) == ["id", "text", *MEASURES] for record in records)
    for record in records:
        integers = {name for name, value in record.items() if type(value) is int}
        assert integers == {"id", "kept", "rank"}
        assert {type(record[name]) for name in set(MEASURES) - integers} == {float}
    assert json.loads(json.dumps(records, allow_nan=False)) == records


def test_text_is_left_out_where_it_is_unknown(trace):
    bare = replace(trace, texts=None)
    assert list(bare.columns()) == ["id", *MEASURES]
    assert all(list(record) == ["id", *MEASURES] for record in bare.records())
    assert "text" not in str(bare)


def test_summary(trace):
    assert trace.summary() == {
        "tokens": 3,
        "mean_entropy_nats": 0.5,
        "mean_raw_entropy_nats": 1.25,
        "mean_kl_nats": pytest.approx(0.875 / 3, rel=1e-15),
        "effective_choices": pytest.approx(math.sqrt(math.e), rel=1e-15),
        "surprisal_nats": 2.25,
        "raw_surprisal_nats": 3.75,
        "raw_perplexity": pytest.approx(math.exp(1.25), rel=1e-15),
    }


def test_summary_of_a_uniform_model_has_its_vocabulary_as_perplexity(trace):
    nats = np.full(3, math.log(17))
    uniform = replace(trace, raw_surprisal_nats=nats, entropy_nats=nats).summary()
    assert uniform["raw_perplexity"] == pytest.approx(17)
    assert uniform["effective_choices"] == pytest.approx(17)


def test_long_sums_do_not_drift(trace):
    many = replace(trace, surprisal_nats=np.array([1e16, 1.0, -1e16]))
    assert many.summary()["surprisal_nats"] == 1.0


def test_empty_trace():
    summary = empty().summary()
    assert (len(empty()), empty().records()) == (0, [])
    assert (summary["tokens"], summary["surprisal_nats"], summary["raw_surprisal_nats"]) == (
        0,
        0,
        0,
    )
    others = set(summary) - {"tokens", "surprisal_nats", "raw_surprisal_nats"}
    assert {summary[name] for name in others} == {None}
    assert len(str(empty()).splitlines()) == 1


def test_perplexity_beyond_floating_point_is_no_number(trace):
    unlikely = replace(trace, raw_surprisal_nats=np.full(3, 800.0)).summary()
    assert unlikely["raw_perplexity"] is None
    assert unlikely["raw_surprisal_nats"] == 2400
    json.dumps(unlikely, allow_nan=False)


def test_trace_is_frozen(trace):
    with pytest.raises(FrozenInstanceError):
        trace.ids = np.array([1])


def test_str_is_a_table_with_one_line_per_token(trace):
    header, *lines = str(trace).splitlines()
    for name in MEASURES:
        assert name.removesuffix("_nats").replace("_", " ") in header
    assert len(lines) == len(trace)
    # Splitting at two spaces leaves a quoted text, which may begin with one, in one piece.
    assert lines[0].split() == [
        "7", "'Once'", "0.5000", "1.0000", "1.0000", "2.0000", "3", "0.9000", "1", "0.5000",
    ]  # fmt: skip
    assert "' upon'" in lines[1]
    assert r"'\n'" in lines[2]


@pytest.mark.parametrize(
    "text", ["[bold]x[/bold]", "日本語", "👩‍👩‍👧", "x" * 300, "\t\r\x1b[31m", "\u2028"]
)
def test_no_text_breaks_the_table(trace, text):
    odd = replace(trace, texts=("a", text, "b"))
    lines = str(odd).splitlines()
    assert len(lines) == 1 + len(odd)
    assert lines[2].endswith("0.2500")
    if len(text) < 20:
        assert repr(text) in lines[2]


def test_rich_prints_the_same_table(trace):
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(trace)
    assert [line.rstrip() for line in captured.get().splitlines()] == str(trace).splitlines()
