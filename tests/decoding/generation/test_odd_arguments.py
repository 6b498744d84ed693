"""Arguments of another kind are refused by name, not by what breaks on them."""

import pytest
import torch

from decoding import DecodingSettings, Sampler, Windows, generate
from decoding.generation.branching import branch
from decoding_evals.attention.evaluation import attention
from decoding_evals.score.evaluation import score


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, got 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number, got True"),
        ({"num_return_sequences": "3"}, "num_return_sequences must be a whole number, got '3'"),
        ({"num_beams": 2.0}, "num_beams must be a whole number"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"alternatives": 1.5}, "alternatives must be a whole number"),
        ({"stop": [5]}, "a stop string must be a text, got 5"),
    ],
)
def test_numbers_and_texts_of_generate(stories, arguments, problem):
    with pytest.raises(ValueError, match=problem):
        generate(stories, "Once", seed=1, **{"max_new_tokens": 2} | arguments)


def test_a_message_alone_is_no_prompt(stories):
    with pytest.raises(TypeError, match="give a list of messages"):
        generate(stories, {"role": "user", "content": "hi"})


@pytest.mark.parametrize("text", ["\ud800", "a \udfff b"])
def test_lone_surrogates_are_refused(stories, text):
    with pytest.raises(ValueError, match="prompt 1 is not valid UTF-8"):
        generate(stories, text, max_new_tokens=1)
    with pytest.raises(ValueError, match="a text is not valid UTF-8"):
        list(score(stories, text))


@pytest.mark.parametrize("given", [{"context": 2.5}, {"stride": 1.5}, {"batch_size": "a"}])
def test_windows_hold_whole_numbers(given):
    [name] = given
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        Windows(**given)


def test_documents_are_texts(stories):
    with pytest.raises(TypeError, match="a document must be a text, got int"):
        list(score(stories, [5]))


def test_attention_reads_texts_alone(stories):
    from decoding import Document, TokenDocument

    [want] = attention(stories, ["Once upon a time"])
    [got] = attention(stories, [Document("Once upon a time")])
    assert got.texts == want.texts
    for document in (Document(" time", "Once upon a"), TokenDocument([1, 2, 3])):
        with pytest.raises(ValueError, match="attention reads texts, without prompts"):
            list(attention(stories, [document]))


@pytest.mark.parametrize("second", [[1, 1, 0], [1, 0, 1], [0, 0, 0]])
def test_a_sampler_refuses_rows_that_are_not_padded_on_the_left(stories, second):
    sampler = Sampler(DecodingSettings(), seed=1)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with pytest.raises(ValueError, match="padded on the left alone"):
        stories.model.generate(
            ids, attention_mask=torch.tensor([[1, 1, 1], second]), custom_generate=sampler,
            max_new_tokens=2, **DecodingSettings().generate_kwargs(),
        )  # fmt: skip


def test_trees_end_at_a_depth_that_records_can_have(stories, monkeypatch):
    monkeypatch.setattr("decoding.generation.branching.DEEPEST", 3)
    tree = branch(
        stories, "Once", entropy_above=0.0, branches=2, max_leaves=90, max_new_tokens=9, seed=1
    )

    def depth(node):
        return 1 + max(map(depth, node.children)) if node.children else 0

    assert depth(tree.root) == 3
