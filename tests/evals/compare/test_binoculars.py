"""Two models on each text: entropies, Binoculars and curvature, against float64 rows."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from decoding.information.measures import cross_varentropy, varentropy
from decoding.scoring.teacher_forcing import TokenDocument
from decoding.scoring.windows import Windows
from decoding_evals.compare.models import compare_models
from decoding_evals.score.evaluation import score
from oracle import log_softmax

NATS = 2e-5
TEXTS = ["Once upon a time, Lily saw a dog.", "", "Tom and the dog ran to the park. They played."]


@pytest.fixture(scope="module")
def other(stories):
    twin = copy.deepcopy(stories.model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return dataclasses.replace(stories, model=twin, name="other")


@torch.no_grad()
def rows(a, b, ids):
    """log p of both models at each token, float64, BOS in front."""
    sequence = [a.tokenizer.bos_token_id, *ids]
    for logits in zip(*(m.model(torch.tensor([sequence])).logits[0] for m in (a, b)), strict=True):
        yield [log_softmax(z.double().numpy()) for z in logits]


def by_hand(a, b, ids):
    """Sums over the tokens of a text, one after the other."""
    names = ("nll", "entropy", "cross", "other_cross", "other_entropy", "spread")
    found = dict.fromkeys(names, 0.0)
    for token, (log_a, log_b) in zip(ids, rows(a, b, ids), strict=False):
        p_a, p_b = np.exp(log_a), np.exp(log_b)
        cross = -(p_a * log_b).sum()
        found["nll"] -= log_b[token]
        found["entropy"] -= (p_a * log_a).sum()
        found["other_entropy"] -= (p_b * log_b).sum()
        found["cross"] += cross
        found["other_cross"] -= (p_b * log_a).sum()
        found["spread"] += (p_a * (-log_b - cross) ** 2).sum()
    return found


def test_each_text_has_its_figures_and_their_sums_are_the_total(stories, other):
    result = compare_models(stories, other, TEXTS, windows=Windows(batch_size=2))
    found = result.per_document([f"t{i}" for i in range(3)])
    total = dict.fromkeys(("nll", "entropy", "cross", "other_cross", "other_entropy", "n"), 0.0)
    for row, text in zip(found, TEXTS, strict=True):
        ids = stories.tokenizer(text)["input_ids"]
        assert row["tokens_scored"] == len(ids)
        if not ids:
            assert row["binoculars"] is row["curvature"] is None
            assert row["cross_entropy_nats"] == [None, None]
            continue
        want = by_hand(stories, other, ids)
        n = len(ids)
        mean = {name: want[name] / n for name in want}
        assert_allclose(row["entropy_nats"], [mean["entropy"], mean["other_entropy"]], atol=NATS)
        assert_allclose(row["cross_entropy_nats"], [mean["cross"], mean["other_cross"]], atol=NATS)
        assert row["binoculars"] == pytest.approx(want["nll"] / want["cross"], abs=NATS)
        curvature = (want["cross"] - want["nll"]) / math.sqrt(want["spread"])
        assert row["curvature"] == pytest.approx(curvature, abs=1e-4)
        total = {name: total[name] + want.get(name, n) for name in total}
    record = result.record()
    n = total["n"]
    assert record["entropy_nats"] == pytest.approx(
        [total["entropy"] / n, total["other_entropy"] / n], abs=NATS
    )
    assert record["cross_entropy_nats"] == pytest.approx(
        [total["cross"] / n, total["other_cross"] / n], abs=NATS
    )
    assert record["binoculars"] == pytest.approx(total["nll"] / total["cross"], abs=NATS)
    assert [row["name"] for row in found] == ["t0", "t1", "t2"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_of_one_model_twice_the_curvature_is_minus_z(stories):
    [row, _, _] = compare_models(stories, stories, TEXTS).per_document()
    [scores] = score(stories, TEXTS[:1])
    assert row["curvature"] == pytest.approx(-scores.z(), abs=1e-4)
    assert row["curvature"] == pytest.approx(scores.curvature(), abs=1e-4)
    want = scores.surprisal_nats.mean() / scores.entropy_nats.mean()
    assert row["binoculars"] == pytest.approx(want, abs=NATS)


def test_ids_are_read_behind_their_context(stories, other):
    bos, ids = stories.tokenizer.bos_token_id, stories.tokenizer(TEXTS[0])["input_ids"]
    document = TokenDocument(ids[2:], [bos, *ids[:2]])
    [row] = compare_models(stories, other, [document]).per_document()
    logs = [log_b[token] for token, (_, log_b) in zip(ids, rows(stories, other, ids), strict=False)]
    assert row["tokens_scored"] == len(ids) - 2
    assert row["nll_nats"][1] == pytest.approx(-np.mean(logs[2:]), abs=NATS)


def test_variance_of_a_surprisal_under_another_model():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn((2, 5, 40), generator=generator).double().log_softmax(-1)
    cross = -(p.exp() * q).sum(-1, keepdim=True)
    assert_allclose(cross_varentropy(p, q), (p.exp() * (-q - cross) ** 2).sum(-1), rtol=1e-12)
    assert_allclose(cross_varentropy(p, p), varentropy(p), rtol=1e-10)
    nothing = -math.inf
    half = torch.tensor([math.log(0.5), math.log(0.5), nothing]).double()
    third = torch.full((3,), -math.log(3)).double()
    assert cross_varentropy(half, third) == pytest.approx(0)  # q of what p rules out is no matter
    assert cross_varentropy(third, half) == math.inf


def test_a_threshold_is_fitted_on_texts_of_people_and_flags_what_is_below(stories, other):
    ids = stories.tokenizer("Once upon a time there was a big red dog and a cat")["input_ids"]
    people = [stories.tokenizer.decode(ids[: 3 + i % 10]) + "." * (i // 10) for i in range(20)]
    human = compare_models(stories, other, people)
    threshold = human.fit_threshold(0.15)  # (1 - 0.15)^19 = 0.046
    scores = sorted(row["binoculars"] for row in human.per_document())
    assert threshold.value == scores[0] and not threshold.above
    assert threshold.flags(scores[0] - 1e-9) and not threshold.flags(scores[0])
    result = dataclasses.replace(compare_models(stories, other, TEXTS), human=threshold)
    for row in result.per_document():
        known = row["binoculars"]
        assert row["flagged"] == (None if known is None else known < threshold.value)
        assert row["threshold"]["human_texts"] == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--per", "document"], "--per document needs --models"),
        (["--human", "h.txt"], "--human needs --models and --per document"),
        (["--models", "builtin:stories", "builtin:stories", "--human", "h.txt"],
         "--human needs --models and --per document"),
        (["--false-positives", "0.1"], "--false-positives needs --human"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_wrong_usage(run, tmp_path, arguments, says):
    (tmp_path / "a.txt").write_text(TEXTS[0])
    code, out, err = run("compare", "a.txt", *arguments)
    assert (code, out) == (2, "") and says in err and "Traceback" not in err


def test_the_command_gives_a_record_for_each_text(run, tmp_path):
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    models = ["--models", "builtin:stories", "builtin:stories", "--per", "document"]
    code, out, err = run("compare", "a.jsonl", *models, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["name"] for row in found] == [f"a.jsonl:{i}" for i in (1, 2, 3)]
    assert found[0]["cross_entropy_nats"] == found[0]["entropy_nats"]
    code, out, _ = run("compare", "a.jsonl", *models)
    assert code == 0 and "binoculars" in out and "a.jsonl:3" in out
    few = ["--human", "a.jsonl", "--false-positives", "0.8"]
    code, out, err = run("compare", "a.jsonl", *models, *few)
    assert code == 0 and "flagged" in out
    assert "Binoculars: below the threshold of " in err and "of 2 human texts" in err
    code, out, err = run("compare", "a.jsonl", *models, "--human", "a.jsonl")
    assert (code, out) == (1, "")
    assert err == (
        "Error: a false-positive rate of 0.05 takes at least 59 human texts, got 2 with a score\n"
    )
