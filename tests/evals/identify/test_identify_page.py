"""What a page of `identify` is made of: the odds along a text follow from it."""

import json
import math

import numpy as np
import pytest

from decoding.settings.policy import parse_setting
from decoding_evals.identify import identify
from decoding_evals.identify.page import MOST, page_of

TEXT = "Once upon a time there was a dog. The dog saw a cat and ran to the park."


def odds_along(page, prior):
    """Log odds of each shown candidate against all others, by sums of plain probabilities."""
    columns = [*page["log_q_nats"]]
    weights = [prior[k] for k in page["candidates"]]
    if page["others"]:
        columns.append(page["others_log_q_nats"])
        weights.append(page["others_prior"])
    odds = [[w / (sum(weights) - w) for w in weights]]
    for values in zip(*columns, strict=True):
        steps = [0.0 if value is None else math.exp(value) for value in values]
        weights = [w * step for w, step in zip(weights, steps, strict=True)]
        odds.append([w / rest if (rest := sum(weights) - w) > 0 else math.inf for w in weights])
    with np.errstate(divide="ignore"):  # odds of 0
        return np.log(np.array(odds)[:, : len(page["candidates"])])


@pytest.mark.parametrize("size", [4, MOST, MOST + 1, 12])
def test_odds_follow_from_a_page(size):
    generator = np.random.default_rng(size)
    log_q = -generator.exponential(2, (9, size))
    log_q[3, 1] = log_q[5:, 2] = -math.inf
    prior = generator.dirichlet(np.ones(size))
    page = page_of([f"t{t}" for t in range(9)], log_q, prior)
    assert page["others"] == (0 if size <= MOST else size - MOST + 1)
    weights = prior * np.exp(np.concatenate([np.zeros((1, size)), log_q.cumsum(0)]))
    with np.errstate(divide="ignore"):  # odds of 0
        expected = np.log(weights / (weights.sum(1, keepdims=True) - weights))
    found = odds_along(page, prior)
    np.testing.assert_allclose(found, expected[:, page["candidates"]], atol=1e-3)
    totals = weights[-1, page["candidates"]]
    assert (np.diff(totals) <= 0).all() and totals[0] == weights[-1].max()


def test_what_rules_all_others_out_is_null():
    log_q = np.full((3, MOST + 2), -1.0)
    log_q[1, 1:] = -math.inf
    page = page_of("abc", log_q, np.full(MOST + 2, 1 / (MOST + 2)))
    assert page["candidates"][0] == 0 and page["log_q_nats"][0] == [-1.0] * 3
    assert page["others_log_q_nats"] == [-1.0, None, None]
    assert page["log_q_nats"][1] == [-1.0, None, -1.0]


def test_a_page_record_is_the_record_and_the_page(stories):
    settings = [parse_setting(text) for text in ("raw", "temperature=0.7", "top_k=3")]
    [result] = identify(stories, [TEXT], settings)
    page = result.page_record()["page"]
    assert {**result.record(), "page": page} == result.page_record()
    assert "".join(page["tokens"]) == TEXT and result.view.knows(result.page_record())
    shown = result.log_q_nats[:, page["candidates"]].T
    found = np.array(page["log_q_nats"], dtype=float)  # None becomes NaN
    np.testing.assert_allclose(found, np.where(np.isfinite(shown), shown, np.nan), atol=1e-5)


def test_the_command_adds_it_where_it_is_asked_for(run, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    candidates = ["--setting", "raw", "--setting", "temperature=0.7"]
    for options, has in ((["--json"], False), (["--json", "--page-data"], True)):
        code, out, _ = run("identify", tmp_path / "a.txt", *candidates, *options)
        assert code == 0 and ("page" in json.loads(out)) == has
    code, _, err = run("identify", tmp_path / "a.txt", *candidates, "--page-data")
    assert code == 2 and "--page-data adds to records" in " ".join(err.split())
    page = tmp_path / "page.html"
    code, _, _ = run("identify", tmp_path / "a.txt", *candidates, "--output", page)
    assert code == 0 and '"log_q_nats": [[' in page.read_text()
