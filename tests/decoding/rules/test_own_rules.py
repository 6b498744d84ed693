"""A rule of one's own, in ten lines: drawn from, traced, compared, identified, read and refused."""

import math

import numpy as np
import pytest
import torch

from cuts_oracle import entropy, log_softmax, softmax
from decoding import DecodingSettings, EntropyMonitor, EntropyPolicy, Sampler, TokenDocument
from decoding import generate as generate_texts
from decoding.information.comparison import compare_rows, is_dense
from decoding.rules import CUT, POSITIVE, RULES, Cut, Field, Mixture, TopP
from decoding.texts.prompts import encode_prompt
from decoding_evals.identify.evaluation import identify
from drawing import assert_follows, assert_inverse_cdf_of, points_for, sample
from oracle import TEXTS, TOLERANCE, TOY_PROMPTS, left_padded, reference_log_q, teacher_forced


class RenyiFloor(Cut):
    """Keep tokens with probability at least c·exp(-H_α), H_α being Rényi's entropy."""

    field, neutral, range, example = "renyi_floor", 0.0, CUT, "0.3"
    parameters = (Field("renyi_order", 1.0, POSITIVE, "2"),)

    def keep(self, rows, c):
        return rows.within_surprisal(rows.renyi_entropy(self.renyi_order) - rows.log(c))


class Smoothed(Mixture):
    """Mix with what is uniform on the tokens that are left: (1 - λ)·p + λ/n."""

    field, neutral, range, example = "smoothed", 0.0, CUT, "0.1"

    def apply(self, rows, past):
        p = rows.logits.double().softmax(-1)
        uniform = torch.as_tensor(rows.support) / torch.as_tensor(rows.kept)[..., None]
        return rows.reweighted(((1 - self.value) * p + self.value * uniform).log())


OWN = [
    DecodingSettings(temperature=0.7, extra=(RenyiFloor(0.3),)),
    DecodingSettings(temperature=0.7, extra=(RenyiFloor(0.3, renyi_order=2.5),)),
    DecodingSettings(top_k=9, extra=[RenyiFloor(0.2), Smoothed(0.25)]),
]


def own_log_q(z, settings):
    """log q by the definitions of this page."""
    without = DecodingSettings.parse(str(settings).split(",")[0])
    log_q = reference_log_q(z, without)
    for rule in settings.extra:
        p = softmax(log_q)
        if isinstance(rule, RenyiFloor):
            a = rule.renyi_order
            of_order = entropy(p) if a == 1 else np.log((p[p > 0] ** a).sum()) / (1 - a)
            kept = p >= rule.value * np.exp(-of_order)
            log_q = log_softmax(np.where(kept, log_q, -np.inf))
        else:
            with np.errstate(divide="ignore"):
                log_q = np.log((1 - rule.value) * p + rule.value * (p > 0) / (p > 0).sum())
    return log_q


own = pytest.mark.parametrize("settings", OWN, ids=str)


# What it does.


@own
def test_log_probs_are_the_definition(settings):
    logits = 2 * torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).double()
    for z, got in zip(logits.numpy(), settings.log_probs(logits).numpy(), strict=True):
        want = own_log_q(z, settings)
        assert (np.isneginf(got) == np.isneginf(want)).all()
        np.testing.assert_allclose(got, want, atol=1e-9)


@own
def test_drawn_tokens_follow_the_definition(toy_gpt2, settings):
    inputs = {"input_ids": torch.tensor([[3, 7, 10]])}
    drawn = sample(
        toy_gpt2, inputs, Sampler(settings, seed=1), new_tokens=1, num_return_sequences=3000
    )
    q = np.exp(own_log_q(teacher_forced(toy_gpt2, [3, 7, 10], [0])[0], settings))
    assert 2 < (q > 0).sum() < 17
    assert_follows(drawn[:, -1].numpy(), q)


def assert_traced(model, prompt, trace, settings):
    for z, record in zip(
        teacher_forced(model, prompt, trace.ids.tolist()), trace.records(), strict=True
    ):
        log_q = own_log_q(z, settings)
        assert record["surprisal_nats"] == pytest.approx(-log_q[record["id"]], abs=TOLERANCE)
        assert record["entropy_nats"] == pytest.approx(entropy(np.exp(log_q)), abs=TOLERANCE)
        assert record["kept"] == np.isfinite(log_q).sum()


@own
def test_a_sampler_traces_it(toy_llama, settings):
    monitor, points = EntropyMonitor(), points_for(3, 12)
    sampler = Sampler(settings, points=points, monitor=monitor)
    outputs = sample(toy_llama, left_padded(TOY_PROMPTS, 0), sampler)
    traces = monitor.traces(outputs, eos_token_id=None)
    for prompt, trace, row in zip(TOY_PROMPTS, traces, points.tolist(), strict=True):
        assert_traced(toy_llama, prompt, trace, settings)
        rows = teacher_forced(toy_llama, prompt, trace.ids.tolist())
        log_qs = [own_log_q(z, settings) for z in rows]
        assert_inverse_cdf_of(log_qs, trace.ids, row)


@own
def test_models_generate_with_it_too(toy_llama, settings):
    monitor = EntropyMonitor()
    torch.manual_seed(0)
    outputs = toy_llama.generate(
        **left_padded(TOY_PROMPTS, 0), max_new_tokens=12, eos_token_id=None, pad_token_id=0,
        **settings.generate_kwargs(monitor=monitor),
    )  # fmt: skip
    traces = monitor.traces(outputs, eos_token_id=None)
    for prompt, trace in zip(TOY_PROMPTS, traces, strict=True):
        assert_traced(toy_llama, prompt, trace, settings)


@own
def test_texts_are_generated_and_their_writer_is_identified(stories, settings):
    [text] = generate_texts(stories, TEXTS[0], settings, max_new_tokens=40, seed=5)
    assert text.record()["settings"] == str(settings)
    assert_traced(stories.model, list(text.prompt_ids), text.trace, settings)
    ids, context = text.trace.ids.tolist(), encode_prompt(stories.tokenizer, TEXTS[0])
    candidates = [DecodingSettings(), settings, DecodingSettings(temperature=0)]
    [found] = identify(stories, [TokenDocument(ids, context)], candidates)
    rows = teacher_forced(stories.model, context, ids)
    record = found.record()
    want = sum(own_log_q(z, settings)[token] for z, token in zip(rows, ids, strict=True))
    assert record["log_likelihood_nats"][1] == pytest.approx(want, abs=1e-3)
    assert record["settings"][1] == str(settings) and record["best"] == 1


@own
def test_its_divergence_from_top_p_is_that_of_a_plain_loop(settings):
    rng, top_p = np.random.default_rng(2), DecodingSettings(top_p=0.9)
    logits = torch.from_numpy(2 * rng.standard_normal((12, 50)))
    targets = torch.from_numpy(rng.integers(50, size=12))
    assert is_dense(settings) == any(isinstance(rule, Smoothed) for rule in settings.extra)
    compared = compare_rows(logits, targets, [settings, top_p])
    finite = 0
    for row, z in enumerate(logits.numpy()):
        both = [own_log_q(z, settings), reference_log_q(z, top_p)]
        for i, j in ((0, 1), (1, 0)):
            total = 0.0
            for log_p, log_q in zip(both[i], both[j], strict=True):
                if log_p > -math.inf:
                    total += math.exp(log_p) * (log_p - log_q)
            assert compared.kl[row, i, j] == pytest.approx(total, abs=1e-8)
            finite += total < math.inf
        assert compared.kept[row, 0] == np.isfinite(both[0]).sum()
        own_surprisal = -both[0][targets[row]]
        assert compared.surprisal[row, 0] == pytest.approx(own_surprisal, abs=1e-8)
    assert finite > 6


def test_it_stands_in_a_policy():
    policy = EntropyPolicy.parse("raw while entropy<=1.5 else temperature=0.5,renyi_floor=0.4")
    assert policy.then.extra[0].value == 0.4
    assert EntropyPolicy.parse(str(policy)) == policy


# As a value.


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (OWN[0], "temperature=0.7,renyi_floor=0.3"),
        (OWN[1], "temperature=0.7,renyi_floor=0.3,renyi_order=2.5"),
        (OWN[2], "top_k=9,renyi_floor=0.2,smoothed=0.25"),
    ],
    ids=str,
)
def test_its_text_reads_back(settings, text):
    assert str(settings) == text
    again = DecodingSettings.parse(text)
    assert again == settings and hash(again) == hash(settings)
    assert [type(rule) for rule in again.rules] == [type(rule) for rule in settings.rules]
    assert eval(repr(settings), {"DecodingSettings": DecodingSettings.parse}) == settings


def test_equality_and_hash_are_those_of_what_it_does():
    one, other = (DecodingSettings(extra=(RenyiFloor(0.3),)) for _ in range(2))
    assert one == other and len({one, other}) == 1
    different = [
        DecodingSettings(),
        DecodingSettings(extra=(RenyiFloor(0.4),)),
        DecodingSettings(extra=(RenyiFloor(0.3, renyi_order=2),)),
        DecodingSettings(extra=(Smoothed(0.3),)),
        DecodingSettings(extra=(Smoothed(0.3), RenyiFloor(0.3))),
        DecodingSettings(extra=(RenyiFloor(0.3), Smoothed(0.3))),
    ]
    assert len({one, *different}) == 7


def test_a_neutral_one_is_left_out():
    assert DecodingSettings(extra=(RenyiFloor(0), Smoothed(0.2))) == DecodingSettings(
        extra=(Smoothed(0.2),)
    )
    assert DecodingSettings(extra=(RenyiFloor(0),)) == DecodingSettings()


# Refusals.


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([TopP(0.9)], "top_p has a field of its own: leave it out of extra"),
        ([RenyiFloor(0.3), RenyiFloor(0.2)], "renyi_floor is given twice in extra"),
        (["renyi_floor"], "extra must hold rules, got 'renyi_floor'"),
        ([RenyiFloor], "extra must hold rules, got <class"),
    ],
)
def test_what_is_no_rule_of_ones_own_is_refused(extra, message):
    with pytest.raises(ValueError, match=message):
        DecodingSettings(extra=extra)


def test_bad_numbers_are_refused_by_name():
    with pytest.raises(ValueError, match=r"renyi_floor must be in \[0, 1\), got 1"):
        RenyiFloor(1)
    with pytest.raises(ValueError, match="renyi_order must be a finite number > 0, got 0"):
        RenyiFloor(0.3, renyi_order=0)
    with pytest.raises(ValueError, match="RenyiFloor has no parameter 'renyi_oder'"):
        RenyiFloor(0.3, renyi_oder=2)
    with pytest.raises(ValueError, match="renyi_order is a parameter of renyi_floor, which is not"):
        DecodingSettings.parse("renyi_order=2")
    with pytest.raises(ValueError, match="did you mean 'renyi_floor'"):
        DecodingSettings.parse("renyi_flor=0.3")
    with pytest.raises(ValueError, match="'renyi_floor' is given twice"):
        DecodingSettings.parse("renyi_floor=0.3,renyi_floor=0.2")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"field": "top_p"}, "top_p is a field of TopP already"),
        ({"field": "dry_base"}, "dry_base is a field of Dry already"),
        ({"field": "mine", "parameters": (Field("top_k", 0.5, CUT, "0.5"),)}, "top_k is a field"),
        ({"field": "mine", "neutral": None}, "lacks 'neutral'"),
    ],
)
def test_a_field_that_is_taken_and_a_rule_that_lacks_something_are_refused(fields, message):
    given = {"neutral": 0.0, "range": CUT, "example": "0.1"} | fields
    given = {name: value for name, value in given.items() if value is not None}
    before = dict(RULES)
    with pytest.raises(TypeError, match=message):
        type("Mine", (Cut,), given)
    assert before == RULES


def test_a_class_may_be_defined_anew():
    """As by running a cell of a notebook again."""
    before = dict(RULES)

    def define(neutral):
        given = {"field": "anew", "neutral": neutral, "range": CUT, "example": "0.1"}
        return type("Anew", (Cut,), given)

    try:
        define(0.0)
        again = define(0.5)
        assert RULES["anew"] is again
    finally:
        RULES.clear()
        RULES.update(before)
