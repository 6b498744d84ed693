"""Where an answer ends."""

import dataclasses

import numpy as np
import pytest

from decoding import generate
from decoding_evals.judging.extent import cut, extent_end


@pytest.mark.parametrize(
    "text",
    [
        "It was Dr. Smith.| He said so.",
        "About 3.5 million, or approx. 4.| Next",
        "In the U.S. Army, since 9 a.m. on Monday!| Yes",
        "It is in the U.S.| The country is large.",
        "J. R. R. Tolkien wrote it.| In 1954.",
        'He asked "Why?" and left.| Then',
        '"It is Paris."| She nodded.',
        "Washington, D.C.| It is a city",
        "1. Paris is it.| 2. London",
        "No. 5 is alive.| Yes",
        "The answer is no.| Nobody knows.",
        "Is it so?!| Yes",
        "Wait... what is it?| It",
        "東京です。|はい。",
        " \n\n Paris.| Really.",
        "Paris.|",
        "The Gospel of St. John.|\nMore",
        "Paris\n|is it. No.",
        "Version 2.0.1 works (see p. 7).| So",
        "World War I.| It began in 1914.",
    ],
)
def test_a_sentence_ends_where_people_end_it(text):
    assert extent_end(text.replace("|", ""), "sentence") == text.index("|")


@pytest.mark.parametrize(
    ("text", "end"),
    [("Paris\nLondon", 6), ("\n \nParis\r\nLondon", 9), ("Paris. Yes", None), (" \n", None)],
)
def test_a_line_is_the_first_that_is_not_blank(text, end):
    assert extent_end(text, "line") == end
    assert extent_end(text, "whole") is None


def test_what_has_no_end_has_none():
    for text in ("", "  ", "Paris and", "e.g. the"):
        assert extent_end(text, "sentence") is None
    with pytest.raises(ValueError, match="answer must be one of whole, line, sentence, got page"):
        extent_end("", "page")


@pytest.mark.parametrize("extent", ["line", "sentence"])
def test_tokens_up_to_the_cut_count(stories, extent):
    """And no further ones, in every column."""
    prompt, longest = "Tom said:\n", {"max_new_tokens": 60, "seed": 3, "alternatives": 1}
    found = [cut(one, extent) for one in generate(stories, [prompt] * 3, **longest)]
    assert {one.finish_reason for one in found} & {"stop"}
    for one in found:
        if one.finish_reason == "stop":
            text = "".join(one.trace.texts)
            assert text.startswith(one.text)
            assert len("".join(one.trace.texts[:-1])) < len(one.text)
            columns = [one.trace.columns(), dataclasses.asdict(one.trace.alternatives)]
            assert {len(c) for some in columns for c in some.values()} == {len(one.trace)}
            assert len(one.record()["tokens"]) == len(one.trace)
            assert one.trace.summary()["tokens"] == len(one.trace)


def test_a_line_is_what_a_stop_at_line_breaks_leaves(stories):
    options = {"max_new_tokens": 16, "seed": 5, "num_return_sequences": 4}
    prompt = "They all lived happily ever after."
    whole = generate(stories, prompt, **options)
    stopped = generate(stories, prompt, stop="\n", **options)
    assert [one.finish_reason for one in stopped] == ["stop", "stop", "length", "eos"]
    for one, want in zip((cut(one, "line") for one in whole), stopped, strict=True):
        assert one.trace.ids.tolist() == want.trace.ids.tolist()
        assert one.text.strip() == want.text.strip()
        np.testing.assert_allclose(one.trace.surprisal_nats, want.trace.surprisal_nats, atol=1e-5)
        assert one.finish_reason == want.finish_reason
