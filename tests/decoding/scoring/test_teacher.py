"""Settings along a given text, against plain loops over the text."""

import json
import math

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, TeacherForcing
from decoding.rows.distribution import Distribution
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.policy import EntropyPolicy, parse_setting
from decoding_evals.compare.evaluation import compare
from decoding_evals.identify.evaluation import identify
from decoding_evals.score.evaluation import score
from oracle import log_softmax, plogp

TEXT = (
    "Once upon a time there was a big dog. The big dog was happy. The big dog was very happy. "
    "The big dog saw a red ball and the big dog was happy."
)


def rows_of(language_model, context=None):
    """Of each scored token of the text: float64 logits, what the model read, and the token."""
    forcing = TeacherForcing(language_model, Windows(context=context))
    ids = language_model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    rows = []
    for window in forcing.windows([TokenDocument(ids)]):
        with torch.no_grad():
            logits = language_model.model(torch.from_numpy(window.inputs)[None]).logits[0]
        scored = len(window.targets)
        begin = len(window.inputs) - scored
        for place in range(scored):
            read = window.inputs[: begin + place + 1].tolist()
            row = logits[begin + place].double().numpy()
            rows.append((row, read, int(window.targets[place]), place == 0))
    return rows


def dry(z, read, multiplier, base, allowed):
    """The definition, with two loops."""
    z = z.copy()
    longest = {}
    for place in range(1, len(read)):
        length = 0
        while length < place and read[place - 1 - length] == read[-1 - length]:
            length += 1
        longest[read[place]] = max(longest.get(read[place], 0), min(length, 50))
    for token, length in longest.items():
        if length >= allowed:
            z[token] -= multiplier * base ** (length - allowed)
    return z


def only(z, kept):
    return np.where(kept, z, -math.inf)


def mirostat(rows, tau, eta):
    """log q of each row, by the recursion; it begins anew in each window."""
    found, most = [], 0.0
    for z, _, token, begins in rows:
        if begins:
            most = 2 * tau
        log_p = log_softmax(z)
        kept = -log_p <= most
        kept[log_p.argmax()] = True
        log_q = log_softmax(only(z, kept))
        surprisal = -log_q[token] if kept[token] else -log_p[token]
        most = most - eta * (surprisal - tau)
        found.append(log_q)
    return found


def handed_over(z, bound):
    log_p = log_softmax(z)
    return log_p if plogp(log_p, -log_p) <= bound else log_softmax(z / 0.5)


def expected(rows, spec):
    """log q of each row under one of the settings below."""
    if spec.startswith("mirostat"):
        return mirostat(rows, 1.5, 0.3)
    if spec.startswith("dry"):
        return [log_softmax(dry(z, read, 1.5, 1.75, 2) / 0.8) for z, read, _, _ in rows]
    return [handed_over(z, 1.5) for z, *_ in rows]


SPECS = [
    "mirostat_tau=1.5,mirostat_eta=0.3",
    "dry_multiplier=1.5,temperature=0.8",
    "raw while entropy<=1.5 else temperature=0.5",
]


@pytest.mark.parametrize("context", [None, 24])
@pytest.mark.parametrize("spec", SPECS)
def test_rows_are_those_of_a_plain_loop(stories, spec, context):
    rows = rows_of(stories, context)
    forcing = TeacherForcing(stories, Windows(context=context))
    ids = stories.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    follower = Follower([parse_setting(spec)])
    found = []
    for block in forcing.blocks(forcing.windows([TokenDocument(ids)])):
        for row in range(len(block.targets)):
            [applied] = follower.row(block, row)
            log_q = applied.final.logits[0].double().log_softmax(-1).numpy()
            found.append((int(block.targets[row]), log_q))
    assert sorted(token for token, _ in found) == sorted(ids)
    # Blocks are ordered by their windows' lengths, so tokens and rows are matched by content.
    wanted = expected(rows, spec)
    assert len(found) == len(wanted)
    for (_, _, token, _), want in zip(rows, wanted, strict=True):
        assert any(
            token == other and np.array_equal(np.isfinite(want), np.isfinite(got))
            and np.allclose(np.exp(want), np.exp(got), atol=1e-5)
            for other, got in found
        )  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_score_and_identify_follow_the_text(stories, spec):
    rows = rows_of(stories)
    wanted = np.array(
        [-q[token] for (_, _, token, _), q in zip(rows, expected(rows, spec), strict=True)]
    )
    [document] = score(stories, [TEXT], setting=parse_setting(spec))
    assert document.under_setting.surprisal_nats == pytest.approx(wanted, abs=1e-4)
    [found] = identify(stories, [TEXT], [DecodingSettings(), parse_setting(spec)])
    log_likelihood = found.candidates[1].log_likelihood_nats
    assert log_likelihood == pytest.approx(-wanted.sum(), abs=1e-3, rel=0)


def test_compare_measures_every_kind_of_setting_on_the_same_text(stories):
    specs = ["raw", *SPECS, "temperature=0.8,top_p=0.9", "xtc_probability=0.5"]
    rows = rows_of(stories)
    result = compare(stories, [TEXT], [parse_setting(spec) for spec in specs])
    record = result.record()
    json.dumps(record, allow_nan=False)
    assert record["settings"] == specs
    raw = [log_softmax(z) for z, *_ in rows]
    for index, spec in enumerate(specs[1:4], 1):
        log_q = expected(rows, spec)
        entropy = np.mean([plogp(one, -one) for one in log_q])
        assert record["entropy_nats"][index] == pytest.approx(entropy, abs=1e-5)
        covered = np.mean(
            [one[token] > -math.inf for (_, _, token, _), one in zip(rows, log_q, strict=True)]
        )
        assert record["coverage"][index] == pytest.approx(covered)
        kl = np.mean([plogp(q, q - np.where(np.isneginf(q), 0, p)) for q, p in zip(log_q, raw)])  # noqa: B905
        assert record["kl_nats"][index][0] == pytest.approx(kl, abs=1e-5)
        distance = np.mean(
            [np.abs(np.exp(q) - np.exp(p)).sum() / 2 for q, p in zip(log_q, raw, strict=True)]
        )
        assert record["total_variation"][0][index] == pytest.approx(distance, abs=1e-5)


def test_a_setting_that_looks_back_needs_a_history():
    logits = torch.randn(2, 9)
    with pytest.raises(ValueError, match="history"):
        DecodingSettings(dry_multiplier=1).log_probs(logits)
    with pytest.raises(ValueError, match="history"):
        EntropyPolicy(
            settings=DecodingSettings(dry_multiplier=1), entropy_above=1, then=DecodingSettings()
        ).apply(Distribution(logits))
