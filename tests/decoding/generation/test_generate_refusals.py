"""What `generate` refuses, and the ends of what it takes."""

import copy
from dataclasses import replace

import pytest

from decoding import generate
from decoding.models.loading import LanguageModel
from oracle import (
    GREEDY,
    with_config,
)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_new_tokens": 0}, r"max_new_tokens must be >= 1, got 0"),
        ({"batch_size": 0}, r"batch_size must be >= 1, got 0"),
        ({"num_return_sequences": 0}, r"num_return_sequences must be >= 1, got 0"),
        ({"num_beams": 0}, r"num_beams must be >= 1, got 0"),
        ({"alternatives": -1}, r"alternatives must be >= 0, got -1"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
        ({"seed": 2**64}, rf"seed must be in \[0, 2\^64\), got {2**64}"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"seed": 1.0}, r"seed must be a whole number, got 1\.0"),
        ({"stop": ["a", ""]}, r"stop string must not be empty"),
        ({"num_beams": 2, "num_return_sequences": 3}, r"num_return_sequences .* 3 > 2"),
        ({"num_beams": 2, "settings": GREEDY}, r"temperature=0 .* num_beams=2"),
        ({"num_beams": 2, "on_token": print}, r"on_token cannot follow beam search"),
        ({"chat": True}, r"chat needs a tokenizer with a chat template"),
        ({"max_new_tokens": 62}, r"prompt 1 has 3 tokens.*max_new_tokens=62.*64.*at most 61"),
    ],
)
def test_arguments_out_of_range_are_refused(toy, kwargs, message):
    with pytest.raises(ValueError, match=message):
        generate(toy, "a b c", **{"max_new_tokens": 5} | kwargs)


def test_the_whole_context_can_be_used(toy):
    assert len(generate(toy, "a b c", max_new_tokens=61, seed=0)[0].trace) >= 1


def test_a_prompt_that_fills_the_context_must_be_shortened(toy):
    with pytest.raises(ValueError, match=r"prompt 2 has 64 tokens.*context of 64: shorten"):
        generate(toy, ["a", " ".join("ab" * 32)], max_new_tokens=1)


def test_an_empty_prompt_without_bos_is_refused(toy):
    model, tokenizer = toy.model, copy.deepcopy(toy.tokenizer)
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="prompt 2 is empty and the tokenizer has no BOS"):
        generate(LanguageModel(model, tokenizer), ["a", ""], max_new_tokens=5)


@pytest.mark.parametrize(
    ("name", "value"), [("prompt_lookup_num_tokens", 3), ("cache_implementation", "paged")]
)
def test_configurations_that_cannot_be_traced_are_refused(toy, name, value):
    model = toy.model
    with pytest.raises(ValueError, match=r"assisted decoding|paged"):
        generate(replace(toy, model=with_config(model, **{name: value})), "a b", max_new_tokens=5)


def test_a_pair_of_ones_own_is_wrapped(stories, toy):
    wrapped = LanguageModel(stories.model, stories.tokenizer)
    assert wrapped == stories
    assert LanguageModel(toy.model, toy.tokenizer).name == "GPT2LMHeadModel"
    [mine], [theirs] = (generate(pair, "Once", seed=1) for pair in (wrapped, stories))
    assert mine.text == theirs.text
    with pytest.raises(TypeError, match=r"got GPT2LMHeadModel; take .*LanguageModel\(model, tok"):
        generate(toy.model, toy.tokenizer, "Once")
