"""`decoding mismatch`: its figures against a float64 loop, and planted causes."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from decoding.generation.run import generate
from decoding.models.loading import LanguageModel
from decoding.settings.policy import parse_setting
from decoding_evals.engines.rollouts import Rollout, rollouts
from decoding_evals.mismatch.evaluation import bounds_of, mismatch

PROMPTS = ["Once upon a time", "One day a dog", "Lily and Tom", "The sun"]


def drawn(stories, setting, tokens=40):
    found = generate(stories, PROMPTS, parse_setting(setting), max_new_tokens=tokens, seed=2)
    return [rollouts(one.record()) for one in found]


def of(stories, setting):
    return [one for rows in drawn(stories, setting) for one in rows]


def log_q(model, rollout, temperature=1.0, top_p=1.0):
    """log q of each token: one pass over the sequence alone, and a loop in float64."""
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.ids]])
    with torch.no_grad():
        logits = model(ids).logits[0].double().numpy()
    values = []
    for place, token in enumerate(rollout.ids, len(rollout.prompt_ids)):
        p = np.exp((logits[place - 1] - logits[place - 1].max()) / temperature)
        p /= p.sum()
        order = np.argsort(-p, kind="stable")
        kept = order[: int(np.searchsorted(p[order].cumsum(), top_p)) + 1] if top_p < 1 else order
        mass = p[kept].sum()
        values.append((math.log(p[token] / mass) if token in kept else -math.inf, math.log(mass)))
    return np.array(values)


def test_figures_are_those_of_a_loop(stories):
    found = of(stories, "temperature=1.3")
    result = mismatch(stories, found, "temperature=0.9,top_p=0.98").record()
    both = np.concatenate([log_q(stories.model, one, 0.9, 0.98) for one in found])
    engine = np.concatenate([np.array(one.log_probs) for one in found])
    inside = np.isfinite(both[:, 0])
    delta = (engine - both[:, 0])[inside]
    assert 0 < result["tokens_outside"] == (~inside).sum()
    assert result["tokens"] == len(delta)
    weights = [math.exp(-one) for one in delta]
    total = math.fsum(weights)
    squares = math.fsum(weight**2 for weight in weights)
    expected = {
        "mean_log_ratio_nats": math.fsum(delta) / len(delta),
        "k1_nats": math.fsum(delta) / len(delta),
        "k3_nats": math.fsum(w - 1 + d for w, d in zip(weights, delta, strict=True)) / len(delta),
        "max_abs_log_ratio_nats": max(abs(delta)),
        "effective_sample_share": total**2 / (len(delta) * squares),
        "chi2": squares / len(delta) - 1,
        "log_kept_mass_nats": math.fsum(both[inside, 1]) / len(delta),
    }
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("setting", ["raw", "temperature=0.7", "temperature=1.2,top_p=0.9"])
def test_what_was_said_rightly_has_no_cause(stories, setting):
    result = mismatch(stories, of(stories, setting), setting)
    assert result.agrees and result.cause.name == "none"
    off = abs(result.log_ratio_nats)
    # Only where rounding decides a cut may a token be further off.
    assert (off > 1e-4).sum() <= result.tokens_at_edge <= 2


@pytest.mark.parametrize(
    ("drawn_by", "said", "cause", "explained_by"),
    [
        ("temperature=0.7", "raw", "temperature", "temperature=0.7"),
        ("raw", "temperature=0.7", "processed", "raw"),
        ("top_p=0.9", "raw", "processed", "top_p=0.9"),
        ("temperature=0.8,top_k=20", "raw", "processed", "temperature=0.8,top_k=20"),
        ("raw", "temperature=0.7,top_p=0.9", "processed", "raw"),
    ],
)
def test_another_setting_is_found(stories, drawn_by, said, cause, explained_by):
    result = mismatch(stories, of(stories, drawn_by), said)
    assert not result.agrees
    assert result.cause.name == cause
    found, expected = parse_setting(result.cause.explained_by), parse_setting(explained_by)
    assert found.temperature == pytest.approx(expected.temperature, abs=2e-3)
    assert (found.top_p, found.top_k) == (expected.top_p, expected.top_k)
    assert result.cause.share > 0.99


@pytest.mark.parametrize(("by", "words"), [(1, "late"), (-1, "early")])
def test_a_shift_is_found(stories, by, words):
    moved = [
        one._replace(log_probs=tuple(np.roll(one.log_probs, by))) for one in of(stories, "raw")
    ]
    cause = mismatch(stories, moved).cause
    assert cause.name == "shift" and words in cause.explained_by


def with_log_probs(stories, found, front):
    """What an engine records that reads `front` in front of each prompt."""
    recorded = []
    for one in found:
        read = one._replace(prompt_ids=(*front, *one.prompt_ids))
        recorded.append(one._replace(log_probs=tuple(log_q(stories.model, read)[:, 0])))
    return recorded


def test_bos_is_found(stories):
    front = stories.tokenizer.bos_token_id
    found = [one._replace(prompt_ids=one.prompt_ids[:2]) for one in of(stories, "raw")]
    cause = mismatch(stories, with_log_probs(stories, found, [front])).cause
    assert (cause.name, cause.explained_by) == ("bos", "with BOS in front")
    begun = [one._replace(prompt_ids=(front, *one.prompt_ids)) for one in found]
    without = with_log_probs(stories, found, [])
    said = [a._replace(log_probs=b.log_probs) for a, b in zip(begun, without, strict=True)]
    cause = mismatch(stories, said).cause
    assert (cause.name, cause.explained_by) == ("bos", "without BOS")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_dtype_is_found(stories, dtype):
    half = LanguageModel(copy.deepcopy(stories.model).to(dtype), stories.tokenizer)
    result = mismatch(stories, of(half, "raw"))
    name = str(dtype).removeprefix("torch.")
    assert (result.cause.name, result.cause.explained_by) == ("dtype", name)


def test_noise_that_nothing_explains_is_unknown(stories):
    noise = np.random.default_rng(1)
    found = [
        one._replace(
            log_probs=tuple(-abs(np.array(one.log_probs) + noise.normal(0, 1, len(one.ids))))
        )
        for one in of(stories, "raw")
    ]
    assert mismatch(stories, found).cause.name == "unknown"


def test_bounds_hold_and_are_reached():
    random = np.random.default_rng(3)
    for _ in range(200):
        p = np.sort(random.dirichlet(np.full(30, random.choice([0.05, 0.5, 5]))))[::-1]
        p = p[p > 0]
        known = int(random.integers(1, len(p) + 1))
        low, high = bounds_of(p[:known], 30)
        assert low - 1e-9 <= -(p * np.log(p)).sum() <= high + 1e-9
    # Four tokens that are known and two to share the rest, or one to have as much as it may.
    low, high = bounds_of(np.array([0.4, 0.2, 0.1, 0.1]), 6)
    own = -(0.4 * math.log(0.4) + 0.2 * math.log(0.2) + 0.2 * math.log(0.1))
    assert (low, high) == pytest.approx((own - 0.2 * math.log(0.1), own - 0.2 * math.log(0.1)))


PLAIN = {"prompt_token_ids": [421], "token_ids": [429, 259], "logprobs": [-0.1, -0.2]}
VLLM = {
    "prompt_token_ids": [421],
    "outputs": [
        {
            "text": " upon a",
            "token_ids": [429, 259],
            "finish_reason": "length",
            "logprobs": [
                {"429": {"logprob": -0.1}, "7": {"logprob": -3.0}},
                {"259": {"logprob": -0.2}, "8": {"logprob": -2.0}},
            ],
        }
    ],
}


def token(text, *log_probs):
    tops = [{"logprob": one} for one in log_probs]
    return {"token": text, "logprob": log_probs[0], "top_logprobs": tops}


OPENAI = {
    "prompt_token_ids": [421],
    "choices": [
        {
            "text": " upon a",
            "token_ids": [429, 259],
            "finish_reason": "length",
            "logprobs": {"content": [token(" upon", -0.1, -3.0), token(" a", -0.2, -2.0)]},
        }
    ],
}
TRL = {"prompt_ids": [421], "completion_ids": [429, 259], "logprobs": [-0.1, -0.2]}
VERL = {"prompts": [421], "responses": [429, 259], "rollout_log_probs": [-0.1, -0.2]}


@pytest.mark.parametrize("row", [PLAIN, VLLM, OPENAI, TRL, VERL])
def test_forms_that_engines_write(row):
    [found] = rollouts(row)
    assert found[:2] == ((421,), (429, 259))
    assert found.log_probs == pytest.approx((-0.1, -0.2))
    tops = ((-0.1, -3.0), (-0.2, -2.0)) if row in (VLLM, OPENAI) else None
    assert found.others == tops


def test_what_was_masked_out_is_not_scored(stories):
    [found] = rollouts({**TRL, "logprobs": [0, -0.2], "completion_mask": [0, 1]})
    assert found.log_probs == (None, -0.2)
    result = mismatch(stories, [found]).record()
    assert (result["tokens"], result["tokens_left_out"]) == (1, 1)


def test_what_cannot_be_used_is_counted(stories):
    bare = {**OPENAI, "choices": [{"text": "a", "finish_reason": "stop"}]}
    rows = [row for one in (PLAIN, bare) for row in rollouts(one)]
    result = mismatch(stories, rows)
    assert result.record()["sequences_skipped"] == {"no token ids": 1}
    with pytest.raises(ValueError, match="no sequence can be used"):
        mismatch(stories, rows[1:])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"a": 1}, "no sequence with log-probabilities"),
        ({**PLAIN, "logprobs": [-1]}, "2 token_ids and 1 logprobs"),
        ({**PLAIN, "logprobs": [-1, 0.5]}, "token 2 has 0.5"),
        ({**PLAIN, "logprobs": [-1, None]}, "token 2 has"),
        ({**PLAIN, "token_ids": [1, -1]}, "something else than token ids"),
        ({**TRL, "completion_mask": [1]}, "1 of completion_mask"),
    ],
)
def test_a_broken_row_says_what_is_wrong(run, row, says):
    Path("r.jsonl").write_text(json.dumps(row))
    code, out, err = run("mismatch", "r.jsonl")
    assert (code, out) == (1, "") and says in " ".join(err.split())


def test_the_exit_code_says_whether_they_agree(run):
    assert run("generate", "Once", "--max-new-tokens", "5", "--output", "r.jsonl")[0] == 0
    code, out, err = run("mismatch", "r.jsonl", "--json")
    assert (code, err) == (0, "") and json.loads(out)["cause"] == "none"
    code, out, _ = run("mismatch", "r.jsonl", "--setting", "temperature=0.5")
    assert code == 1 and "processed" in out
    assert run("mismatch", "r.jsonl", "--setting", "temperature=0.5", "--tolerance", "99")[0] == 0
    assert run("mismatch", "r.jsonl", "--tolerance", "nan")[0] == 2
    assert isinstance(next(rollouts(json.loads(Path("r.jsonl").read_text()))), Rollout)


@pytest.mark.parametrize(
    "none", [Rollout((1,), (), ()), Rollout((), (5,), (-1.0,)), Rollout((), (), ())]
)
def test_a_sequence_without_a_token_behind_another_is_skipped(stories, none):
    beside = Rollout((1,), (5, 6), (-1.0, -2.0))
    result = mismatch(stories, [none, beside]).record()
    assert result["sequences_skipped"] == {"no token behind another": 1}
    alone = mismatch(stories, [beside]).record()
    assert result == alone | {"sequences_skipped": result["sequences_skipped"]}
    with pytest.raises(ValueError, match=r"no sequence can be used \(1: no token behind another\)"):
        mismatch(stories, [none])
