"""What a unit holds depends on the input alone, and what is merged is what one pass gives."""

from dataclasses import replace

import numpy as np
import pytest

from decoding.passes.journal import NO_JOURNAL
from decoding.scoring.teacher_forcing import Document, TokenDocument
from decoding.scoring.windows import Windows
from decoding_evals.calibrate.evaluation import calibrate
from decoding_evals.compare.evaluation import compare
from decoding_evals.mapping import units as module
from decoding_evals.mapping.engine import IN_PROCESS, InProcess, Progress
from decoding_evals.mapping.units import CHARACTERS, in_units, units_of
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.score.evaluation import score
from decoding_evals.uncertainty.evaluation import uncertainty

TEXTS = [f"Once there was a {animal}. It ran away." for animal in ("dog", "cat", "", "bird") * 5]
WINDOWS = Windows(batch_size=2)


class OneByOne(InProcess):
    """Works on units backwards, each with nothing kept from another; hands parts on in order."""

    most = 0

    def map(self, models, work, units, on_progress):
        held = list(units)
        OneByOne.most = max(OneByOne.most, len(held))
        done = {}
        for unit in reversed(held):
            done[unit.first] = [*work.parts(models, unit, NO_JOURNAL, lambda *_: None)]
        for unit in held:
            yield from done[unit.first]


@pytest.fixture
def small(monkeypatch):
    """Units of few documents, of which there are several."""
    monkeypatch.setattr(module, "CHARACTERS", 120)
    OneByOne.most = 0
    yield
    assert OneByOne.most > 1


def test_documents_are_cut_where_a_unit_is_full():
    lengths = [10, CHARACTERS, 5, CHARACTERS // 2, CHARACTERS // 2, 1]
    found = [*units_of(["x" * length for length in lengths], 8)]
    assert [(unit.first, len([*unit.documents])) for unit in found] == [(0, 2), (2, 3), (5, 1)]
    many = [*units_of(["a"] * 70, 2)]
    assert [(unit.first, len(unit.documents)) for unit in many] == [(0, 32), (32, 32), (64, 6)]
    assert [*units_of([], 8)] == [(0, [])]


def test_a_long_text_in_pieces_is_not_held():
    taken = []

    def pieces():
        for piece in range(1000):
            taken.append(piece)
            yield "x" * 1000

    [unit] = units_of(Document(pieces()), 8)
    assert len(taken) == 66
    assert sum(map(len, unit.documents[0].text)) == 1_000_000


def test_pieces_of_a_short_text_make_the_same_unit_as_the_text():
    parts = Document(iter(["Once ", "upon"]))
    [unit] = units_of([parts, TokenDocument([1, 2], [3])], 8)
    assert unit.documents == [Document("Once upon"), TokenDocument([1, 2], [3])]


def test_items_in_units():
    assert [*in_units(range(5), 2)] == [(0, [0, 1]), (2, [2, 3]), (4, [4])]
    assert [*in_units([], 2)] == []


def test_one_pass_and_units_apart_give_the_same_perplexity(stories, small):
    for errors in ("documents", "blocks"):
        one, apart = (
            perplexity(stories, TEXTS, windows=WINDOWS, errors=errors, engine=engine)
            for engine in (IN_PROCESS, OneByOne())
        )
        assert one.record() == apart.record()
        assert one.by_document == apart.by_document and one.account.documents == 20
    whole = perplexity(stories, TEXTS, windows=WINDOWS, errors="documents")
    assert whole.nll_nats == pytest.approx(one.nll_nats, abs=1e-12)


def test_units_add_up_to_the_whole(stories, monkeypatch):
    whole = perplexity(stories, TEXTS, windows=WINDOWS).record()
    monkeypatch.setattr(module, "CHARACTERS", 120)
    apart = perplexity(stories, TEXTS, windows=WINDOWS, engine=OneByOne()).record()
    assert apart.keys() == whole.keys()
    for name, value in whole.items():
        same = isinstance(value, str | bool | None)
        assert apart[name] == (value if same else pytest.approx(value, rel=1e-6)), name


@pytest.mark.parametrize("settings", [["raw"], ["raw", "top_p=0.9", "temperature=0.5"]])
def test_one_pass_and_units_apart_give_the_same_comparison(stories, small, settings):
    one, apart = (
        compare(stories, TEXTS, settings, windows=WINDOWS, engine=engine)
        for engine in (IN_PROCESS, OneByOne())
    )
    assert one.record() == apart.record()


def test_one_pass_and_units_apart_give_the_same_scores(stories, small):
    how = {"windows": WINDOWS, "setting": "top_p=0.9", "words": True, "page": 16}
    one, apart = (
        [result.record() for result in score(stories, TEXTS, engine=engine, **how)]
        for engine in (IN_PROCESS, OneByOne())
    )
    assert one == apart and [record["index"] for record in one] == [*range(20)]


def test_one_pass_and_units_apart_give_the_same_calibration(stories, small):
    one, apart = (
        calibrate(stories, TEXTS, windows=WINDOWS, coverage=0.9, engine=engine)
        for engine in (IN_PROCESS, OneByOne())
    )
    assert one.record() == apart.record()


def test_one_pass_and_units_apart_give_the_same_uncertainty(stories):
    shared = "Once upon a time, in a far away land, there was a very little girl who had a "
    prompts = [f"{shared}{animal}. " * 3 for animal in ("dog", "cat", "bird")] * 4
    how = {"num_samples": 2, "max_new_tokens": 4, "seed": 3, "batch_size": 3}
    one, apart = (
        [result.record() for result in uncertainty(stories, prompts, engine=engine, **how)]
        for engine in (IN_PROCESS, OneByOne())
    )
    assert one == apart and [record["index"] for record in one] == [*range(12)]


def test_an_error_names_the_document_of_the_input(stories, monkeypatch):
    monkeypatch.setattr(module, "CHARACTERS", 1)
    with pytest.raises(ValueError, match="document 5"):
        perplexity(stories, [*TEXTS[:4], TokenDocument([10**6])])


def test_words_of_empty_documents_are_counted_once(stories, monkeypatch):
    texts = ["", "", "Once upon", "", "a time", ""]
    whole = perplexity(stories, texts, protocol="lm-eval", windows=replace(WINDOWS, bos="auto"))
    monkeypatch.setattr(module, "CHARACTERS", 1)
    apart = perplexity(stories, texts, protocol="lm-eval", engine=OneByOne())
    # Pieces that white space separates, of which an empty text is one.
    assert whole.words == apart.words == 8


def test_progress_counts_what_came_before():
    told = []

    class Part:
        def counted(self):
            return 10, 25.0

    progress = Progress(lambda *of: told.append(of))
    progress.within(4, 2.0)
    progress.within(10, 2.5)
    progress.add(Part())
    progress.within(12, 2.5)  # the same unit goes on behind its first part
    progress.begin()
    progress.within(5, 1.0)
    progress.add(Part())
    assert told == [(4, 2.0), (10, 2.5), (12, 2.5), (15, 2.0), (20, 2.5)]
    assert np.isfinite(told).all()
