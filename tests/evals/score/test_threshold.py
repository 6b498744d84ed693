"""The threshold that is fitted on texts of people keeps its word, whatever the scores are."""

import json

import numpy as np
import pytest
from scipy.stats import binom

from decoding_evals.score import fit_threshold, score


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("n", [1, 13, 14, 58, 59, 92, 93, 298, 299, 1000])
def test_the_rank_is_the_largest_that_the_binomial_allows(n, rate):
    allowed = [k for k in range(1, n + 1) if binom.cdf(k - 1, n, rate) <= 0.05]
    scores = [float(i) for i in range(n)]
    if not allowed:
        with pytest.raises(ValueError, match=rf"at least [\d,]+ human texts, got {n:,}"):
            fit_threshold(scores, rate)
        return
    threshold = fit_threshold(scores, rate)
    assert threshold.human_texts_beyond == max(allowed) - 1
    assert threshold.value == n - max(allowed)
    assert fit_threshold(scores, rate, above=False).value == max(allowed) - 1


def test_the_fewest_texts_that_are_asked_for_are_enough():
    for rate in (0.001, 0.03, 0.05, 0.5, 0.9):
        with pytest.raises(ValueError, match="human texts") as refused:
            fit_threshold([], rate)
        least = int(str(refused.value).split("at least ")[1].split()[0].replace(",", ""))
        fit_threshold([0.0] * least, rate)
        with pytest.raises(ValueError, match=f"got {least - 1:,} with"):
            fit_threshold([0.0] * (least - 1), rate)


@pytest.mark.parametrize("above", [True, False])
def test_in_twenty_draws_the_rate_is_exceeded_once(above):
    """Of uniform scores the share beyond is known; 4,000 draws of 150 texts."""
    drawn = np.random.default_rng(5).random((4000, 150))
    values = np.array([fit_threshold(row, 0.05, above=above).value for row in drawn.tolist()])
    exceeded = ((1 - values if above else values) > 0.05).mean()
    k = max(k for k in range(1, 151) if binom.cdf(k - 1, 150, 0.05) <= 0.05)
    expected = binom.cdf(k - 1, 150, 0.05)
    assert exceeded == pytest.approx(expected, abs=4 * np.sqrt(expected / 4000))
    assert exceeded < 0.065


def test_scores_that_repeat_are_not_beyond_themselves():
    threshold = fit_threshold([1.0] * 80 + [0.0] * 20)
    assert threshold.value == 1.0 and not threshold.flags(1.0) and threshold.flags(1.1)
    assert threshold.human_texts_beyond == 0


def test_texts_without_a_score_are_counted_and_never_flagged():
    threshold = fit_threshold([None, float("inf"), float("nan"), *map(float, range(60))])
    assert (threshold.human_texts, threshold.human_texts_left_out) == (60, 3)
    assert threshold.flags(None) is None and threshold.flags(float("nan")) is None
    assert json.loads(json.dumps(threshold.record(), allow_nan=False))["value"] == 59


@pytest.mark.parametrize("rate", [1e-300, 5e-324])
def test_the_tiniest_rates_take_more_texts_than_there_are(rate):
    with pytest.raises(ValueError, match="at least 1,000,000,000,000,000 human texts, got 3 with"):
        fit_threshold([0.0] * 3, rate)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_rates_outside_their_range_are_refused(rate):
    with pytest.raises(ValueError, match=r"false_positive_rate must be in \(0, 1\)"):
        fit_threshold([1.0] * 100, rate)


def test_the_command_flags_by_the_curvature_of_human_texts(run, tmp_path, stories):
    ids = stories.tokenizer("Once upon a time there was a big red dog and a cat")["input_ids"]
    people = [stories.tokenizer.decode(ids[: 3 + i % 10]) + "." * (i // 10) for i in range(20)]
    lines = [json.dumps({"text": text}) for text in people]
    (tmp_path / "people.jsonl").write_text("\n".join(lines))
    arguments = ["--human", "people.jsonl", "--false-positives", "0.15"]
    code, out, _ = run("score", *arguments, "--json", stdin=b"Once upon a time there was a dog.")
    [record] = map(json.loads, out.splitlines())
    assert code == 0
    highest = max(scores.curvature() for scores in score(stories, people))
    threshold = record["threshold"]
    assert threshold["value"] == pytest.approx(highest, abs=1e-4)
    assert (threshold["human_texts"], threshold["false_positive_rate"]) == (20, 0.15)
    assert record["flagged"] == (record["curvature"] > threshold["value"])
    assert record["curvature"] == -record["z"]
    code, out, _ = run("score", *arguments, stdin=b"Once upon a time there was a dog.")
    assert code == 0 and "with 95 % confidence at most 15 % of all texts" in out
