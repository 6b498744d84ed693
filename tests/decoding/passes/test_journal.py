"""A journal gives back what was computed, and nothing that was not."""

import io
import math
import os
import pickle
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from kept import LAYERS, model_of

from decoding import DecodingSettings
from decoding.inference.intervals import MeanError
from decoding.passes.caches import Reader
from decoding.passes.journal import FORMAT, NO_JOURNAL, FileJournal, OtherInput

VALUES = [
    1.5, math.inf, "a\ud800", b"\0", None, [1, (2, {"x": True})], np.float64(0.1), np.arange(3),
    np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f2")]), MeanError(1.0, 2.0, 3),
    DecodingSettings(temperature=0.7, mirostat_tau=3.0),
]  # fmt: skip


def journal(path):
    return FileJournal(path.open("r+b" if path.exists() else "w+b"))


def steps(kept, count, computed):
    def compute(number):
        computed.append(number)
        return VALUES[number]

    return [
        kept.step((number, b"x"), lambda number=number: compute(number)) for number in range(count)
    ]


def test_without_a_file_every_step_is_computed():
    assert [NO_JOURNAL.step((), lambda: 1), NO_JOURNAL.step((), lambda: 2)] == [1, 2]


def test_what_was_computed_comes_back_and_the_rest_is_computed(tmp_path):
    path, computed = tmp_path / "j", []
    first = journal(path)
    assert first.fresh
    steps(first, 6, computed)
    second = journal(path)
    found = steps(second, len(VALUES), computed)
    assert computed == [*range(len(VALUES))]
    assert (second.fresh, second.recalled, second.computed) == (False, 6, len(VALUES) - 6)
    again = steps(journal(path), len(VALUES), computed)
    assert len(computed) == len(VALUES)
    for one, other, value in zip(found, again, VALUES, strict=True):
        assert pickle.dumps(one) == pickle.dumps(other) or one == other
        assert type(other) is type(value)
        np.testing.assert_equal(other, value)


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 20])
def test_a_record_that_was_cut_off_is_computed_again(tmp_path, cut):
    path, computed = tmp_path / "j", []
    steps(journal(path), 3, computed)
    os.truncate(path, path.stat().st_size - cut)
    found = steps(journal(path), 4, computed)
    assert computed == [0, 1, 2, 2, 3] and found == VALUES[:4]
    assert steps(journal(path), 4, computed) == VALUES[:4] and len(computed) == 5


def test_a_record_with_a_changed_byte_ends_what_is_known(tmp_path):
    path, computed = tmp_path / "j", []
    steps(journal(path), 3, computed)
    data = bytearray(path.read_bytes())
    data[len(FORMAT) + 12] ^= 1
    path.write_bytes(data)
    assert steps(journal(path), 3, computed) == VALUES[:3]
    assert computed == [0, 1, 2, 0, 1, 2]


def test_another_input_is_refused(tmp_path):
    steps(journal(tmp_path / "j"), 2, [])
    other = journal(tmp_path / "j")
    other.step((0, b"x"), lambda: None)
    with pytest.raises(OtherInput, match="not that of the run that was begun"):
        other.step((1, b"y"), lambda: None)


def test_parts_are_told_apart_by_where_they_end(tmp_path):
    journal(tmp_path / "j").step((b"ab", b"c"), lambda: 1)
    with pytest.raises(OtherInput):
        journal(tmp_path / "j").step((b"a", b"bc"), lambda: 1)


def test_a_step_that_fails_is_not_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        journal(tmp_path / "j").step((), lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert journal(tmp_path / "j").step((), lambda: 5) == 5


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "j"
    path.write_text("not a journal, but notes of somebody")
    with pytest.raises(ValueError, match="was not left by an unfinished run"):
        journal(path)
    assert path.read_text().startswith("not a journal")


@dataclass
class Foreign:
    """No class of the packages."""

    x: int


class Calls:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("value", [Foreign(1), Calls(), io.BytesIO()])
def test_nothing_but_data_is_made_of_a_file(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    journal(tmp_path / "j").step((), lambda: value)
    with pytest.raises(ValueError, match="was not left by an unfinished run") as caught:
        journal(tmp_path / "j").step((), lambda: None)
    assert "a journal may not name" in str(caught.value.__cause__)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("record", [{}, 5, "abc", (b"x", 1), ("x", 1, ()), (b"x", 1, [])])
def test_records_of_another_form_are_refused(tmp_path, record):
    """Of command lines of seed 22: 1010 and 3518."""
    journal(tmp_path / "j").keep(record)
    with pytest.raises(ValueError, match="was not left by an unfinished run"):
        journal(tmp_path / "j").step((), lambda: None)


def test_a_recalled_reader_goes_on_bit_for_bit(tmp_path):
    """Reading in parts rounds otherwise than reading at once: the parts have to be the same."""
    model = model_of(LAYERS["attention"])
    torch.manual_seed(3)
    long = torch.randint(5, 90, (150,)).tolist()
    texts = [long[:60], long[:100], [*long[:100], 7, 8, 9], [*long[:100], 4, 3], long]

    def run(reader, kept):
        found = []
        for text in texts:
            rows = lambda text=text: reader.last_logits(text, 2).numpy()  # noqa: E731
            found.append(kept.step(text, rows, reader))
        pair = [[*long[:140], 1, 2, 3], [*long[:140], 5]]

        def together():
            caches = reader.read_each(pair)
            return [layer.keys.numpy() for cache in caches for layer in cache.layers]

        found += kept.step((), together, reader)
        rows = partial(reader.last_logits, [*pair[0], 9], 1)
        found.append(kept.step((1,), lambda: rows().numpy(), reader))
        return found

    path = tmp_path / "j"
    whole = run(Reader(model), journal(path))
    ends = [len(FORMAT)]
    data = path.read_bytes()
    while ends[-1] < len(data):
        ends.append(ends[-1] + 8 + int.from_bytes(data[ends[-1] :][:4], "little"))
    for end in ends:
        path.write_bytes(data[:end])
        for one, other in zip(run(Reader(model), journal(path)), whole, strict=True):
            assert np.array_equal(one, other)
