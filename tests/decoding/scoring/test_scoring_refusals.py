"""What teacher forcing refuses: limits, models, and logits that are no numbers."""

import copy
import dataclasses
import math

import pytest

from decoding import NonFiniteLogitsError
from decoding.models.loading import LanguageModel
from decoding.scoring.teacher_forcing import Document, TeacherForcing
from decoding.scoring.windows import Windows
from forcing import SHORT, WORDS, assert_same, measure, scan, words


@pytest.fixture(scope="module")
def toy(toy_llama):
    return LanguageModel(toy_llama, words(bos_token="<eos>", eos_token="<eos>"), "toy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 65}, "context must be at least 1 .*64 positions, got 65"),
        ({"context": 0}, "context must be at least 1 .*64 positions, got 0"),
        ({"context": 10, "stride": 11}, "from 1 to the context of 10, got 11"),
        ({"stride": 65}, "from 1 to the context of 64, got 65"),
        ({"stride": 0}, "from 1 to the context of 64, got 0"),
        ({"stride": -1}, "from 1 to the context of 64, got -1"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"bos": "sometimes"}, "auto, always or never, got 'sometimes'"),
    ],
)
def test_refusals_name_the_limit(toy, options, message):
    with pytest.raises(ValueError, match=message):
        TeacherForcing(toy, Windows(**options))


def test_defaults_are_all_positions_and_half_of_them(toy, stories260k):
    assert (TeacherForcing(toy).context, TeacherForcing(toy).stride) == (64, 32)
    assert TeacherForcing(stories260k).context == 512
    assert TeacherForcing(toy, Windows(context=1)).stride == 1


def test_a_model_in_training_mode_is_refused(toy):
    model = copy.deepcopy(toy.model).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        scan(TeacherForcing(dataclasses.replace(toy, model=model)), [Document("a b")])


def failing(model, token, value):
    """The same weights; where a token is read, one logit is not a number."""
    twin = copy.copy(model)

    def forward(input_ids, **kwargs):
        output = model.forward(input_ids, **kwargs)
        output.logits = output.logits + 1.0  # so that body and head are not the model
        output.logits[..., 3] = output.logits[..., 3].masked_fill(input_ids == token, value)
        return output

    twin.forward = forward
    return twin


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_logits_that_are_no_numbers_are_refused_where_they_stand(toy, value, batch_size):
    broken = dataclasses.replace(toy, model=failing(toy.model, WORDS.index("k"), value))
    forcing = TeacherForcing(broken, Windows(context=4, stride=2, batch_size=batch_size))
    texts = ["a b", "c d", "a b c d e f k k g", "k a"]
    windows = []

    def read():
        for window, _ in forcing.scan([Document(text) for text in texts], measure):
            windows.append((window.document, window.end))

    with pytest.raises(NonFiniteLogitsError, match=r"^document 2, token 7: "):
        read()
    assert windows[:2] == [(0, 2), (1, 2)]  # those before it are given
    assert all(document < 2 or end <= 7 for document, end in windows)
    assert "body and head differ" in forcing.full_logits


def test_a_model_whose_head_is_unknown_is_scored_all_the_same(toy, toy_llama):
    broken = dataclasses.replace(toy, model=failing(toy_llama, 99, math.nan))
    documents = [Document(text) for text in SHORT]
    assert_same(scan(TeacherForcing(broken), documents), scan(TeacherForcing(toy), documents))
