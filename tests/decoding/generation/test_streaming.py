"""Tokens as they are drawn: the pieces join to the text, whatever ends it."""

from dataclasses import replace

import numpy as np
import pytest

from decoding import DecodingSettings, generate
from oracle import (
    GREEDY,
    TEXTS,
    TOY_TEXTS,
    saying,
    spoken,
    with_config,
)


@pytest.mark.parametrize("name", ["stories", "stories260k"])
def test_streamed_pieces_join_to_the_text(name, request):
    language_model = request.getfixturevalue(name)
    tokens = []
    generations = generate(
        language_model, TEXTS, DecodingSettings(top_k=20), max_new_tokens=12, stop=["."], seed=2,
        num_return_sequences=2, batch_size=4, on_token=tokens.append,
    )  # fmt: skip
    for g in generations:
        mine = [t for t in tokens if (t.index, t.sample) == (g.index, g.sample)]
        assert "".join(t.text for t in mine) == g.text
        assert [t.id for t in mine] == g.trace.ids.tolist()
        np.testing.assert_array_equal([t.entropy_nats for t in mine], g.trace.entropy_nats)
    assert len(tokens) == sum(len(g.trace) for g in generations)


def test_streaming_changes_nothing_and_ends_with_eos(toy):
    tokens, kwargs = [], {"max_new_tokens": 20, "seed": 3}
    toy = replace(toy, model=with_config(toy.model, eos_token_id=[0, 3, 9]))
    silent = generate(toy, TOY_TEXTS, **kwargs)
    streamed = generate(toy, TOY_TEXTS, **kwargs, on_token=tokens.append)
    assert [g.record() for g in streamed] == [g.record() for g in silent]
    assert {g.finish_reason for g in streamed} >= {"eos"}
    for g in streamed:
        assert [t.id for t in tokens if t.index == g.index] == g.trace.ids.tolist()


@pytest.mark.parametrize("name", ["stories", "stories260k"])
def test_streamed_pieces_join_where_the_text_ends_within_a_character(name, request):
    language_model = request.getfixturevalue(name)
    pieces = []
    ids, generation = spoken(
        language_model, "Once", " 😀", max_new_tokens=3, on_token=lambda t: pieces.append(t.text)
    )
    assert len(ids) > 3
    assert generation.text.endswith("\ufffd")
    assert "".join(pieces) == generation.text


def test_streamed_pieces_join_where_eos_comes_within_a_character(stories260k):
    tokenizer = stories260k.tokenizer
    cut_off = tokenizer(" 😀", add_special_tokens=False)["input_ids"][:-1]
    pieces = []
    (generation,) = generate(
        saying(stories260k, [*cut_off, tokenizer.eos_token_id]), "Once", GREEDY, seed=0,
        max_new_tokens=20, on_token=lambda token: pieces.append(token.text),
    )  # fmt: skip
    assert generation.finish_reason == "eos" and generation.text.endswith("\ufffd")
    assert "".join(pieces) == generation.text
