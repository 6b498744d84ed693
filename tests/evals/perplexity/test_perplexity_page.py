"""What a page says of a perplexity."""

import pytest

from decoding_evals.perplexity import perplexity

TEXT = "Once upon a time there was a dog. The dog saw a cat and ran to the park."


@pytest.mark.parametrize(
    ("protocol", "key", "unit"),
    [("default", "perplexity", "token"), ("lm-eval", "word_perplexity", "word")],
)
def test_the_headline_is_a_sentence(stories, protocol, key, unit):
    result = perplexity(stories, [TEXT], protocol=protocol)
    record = result.record()
    entry = result.view.shown(record)
    value = float(entry["about"].split()[1].replace(",", ""))
    assert value == pytest.approx(record[key], rel=1e-3)
    assert f"per {unit}" in entry["about"]
    named = "" if protocol == "default" else f" · {protocol}"
    assert entry["title"] == f"perplexity: builtin:stories{named}"


def test_a_headline_beyond_all_numbers_is_said(stories):
    result = perplexity(stories, [TEXT])
    record = result.record() | {"perplexity": None}
    assert "beyond the largest number" in result.view.shown(record)["about"]
