"""Policies against float64 entropies: who draws where the model hesitates, and what ends there."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor

from decoding import DecodingSettings, EntropyMonitor, EntropyPolicy, Sampler, generate
from decoding.information.comparison import compare_rows
from decoding.rows.distribution import Distribution
from decoding.settings.policy import Crossing, parse_setting
from oracle import (
    CUT,
    TEXTS,
    TOLERANCE,
    TOY_PROMPTS,
    editing,
    entropy_at,
    left_padded,
    log_softmax,
    reference_log_q,
    reference_row,
    teacher_forced,
    with_config,
)

RAW = DecodingSettings()
SHARP = DecodingSettings(temperature=0.5)


def varentropy(z):
    log_p = log_softmax(z)
    p = np.exp(log_p)
    surprisal = np.where(p > 0, -log_p, 0.0)
    return float((p * surprisal**2).sum() - (p * surprisal).sum() ** 2)


def crosses(z, policy):
    """Whether a float64 row lies above the bounds; a row within rounding of one is not usable."""
    measured = [(entropy_at(z, 1), policy.entropy_above)]
    if policy.varentropy_above:
        measured.append((varentropy(z), policy.varentropy_above))
    assert all(abs(value - bound) > CUT for value, bound in measured)
    return all(value > bound for value, bound in measured)


def sample(model, prompts, policy, *, seed=0, eos=None, new_tokens=12, monitor=None, **kwargs):
    """Sampler and outputs of one call over a left-padded batch of prompts."""
    sampler = Sampler(policy, seed=seed, monitor=monitor)
    outputs = model.generate(
        **left_padded(prompts, 0),
        custom_generate=sampler,
        max_new_tokens=new_tokens,
        eos_token_id=eos,
        pad_token_id=0,
        **policy.generate_kwargs(),
        **kwargs,
    )
    return sampler, outputs


def rows_of_all_kinds():
    """`(40, 17)` logits from nearly certain to flat."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 17, generator=generator) * torch.linspace(0.1, 6, 40)[:, None]


def tell(crossing):
    """A policy's function that goes on."""


# Handing over.


HANDOVERS = [
    "raw while entropy<=1.5 else temperature=0.5",
    "temperature=1.3,top_p=0.9 while entropy<=1.6 else greedy",
    "greedy while entropy<=1 else typical_p=0.9",
    "top_k=5 while entropy<=1.2 or varentropy<=0.8 else target_entropy=0.7",
    "xtc_probability=0.5 while entropy<=1.5 else temperature=0.7,min_p=0.1",
    "raw while entropy<=1.5 else xtc_probability=0.7",
]


@pytest.mark.parametrize("text", HANDOVERS)
def test_rows_above_the_bound_are_exactly_the_other_settings(text):
    policy, rows = EntropyPolicy.parse(text), rows_of_all_kinds()
    got = policy.apply(Distribution(rows)).final.logits.double().log_softmax(-1).numpy()
    above = [crosses(z, policy) for z in rows.double().numpy()]
    assert 5 < sum(above) < 35
    for z, log_q, crossed in zip(rows.double().numpy(), got, above, strict=True):
        want = reference_log_q(z, policy.then if crossed else policy.settings)
        assert (np.isneginf(log_q) == np.isneginf(want)).all()
        np.testing.assert_allclose(np.exp(log_q), np.exp(want), atol=1e-6)
    np.testing.assert_array_equal(policy.crossed(Distribution(rows)), above)


@pytest.mark.parametrize("text", [*HANDOVERS, "dry_multiplier=1 while entropy<=1.5 else top_p=0.5"])
@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
def test_each_token_is_traced_under_the_setting_that_drew_it(name, text, request):
    model, policy, monitor = request.getfixturevalue(name), parse_setting(text), EntropyMonitor()
    _, outputs = sample(model, TOY_PROMPTS, policy, monitor=monitor, new_tokens=20)
    crossed = []
    for prompt, trace in zip(TOY_PROMPTS, monitor.traces(outputs, eos_token_id=None), strict=True):
        before = list(prompt)
        assert trace.temperature is None
        for z, record in zip(
            teacher_forced(model, prompt, trace.ids.tolist()), trace.records(), strict=True
        ):
            crossed.append(crosses(z, policy))
            settings = policy.then if crossed[-1] else policy.settings
            want = reference_row(z, record["id"], settings, ids=before)
            want.pop("temperature", None)
            for key, value in want.items():
                assert record[key] == pytest.approx(value, abs=TOLERANCE), key
            before.append(record["id"])
    assert 5 < sum(crossed) < 55


@pytest.mark.parametrize("outcome", [SHARP, lambda crossing: SHARP])
def test_other_processors_do_not_move_the_bound(toy_gpt2, outcome):
    """What crosses is the model's own distribution, not what processors have made of it."""

    class Flatten(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores / 3

    policy = EntropyPolicy(settings=RAW, entropy_above=1.5, then=outcome)
    monitor = EntropyMonitor()
    _, outputs = sample(
        toy_gpt2, TOY_PROMPTS, policy, monitor=monitor, logits_processor=[Flatten()]
    )
    crossed = []
    for prompt, trace in zip(TOY_PROMPTS, monitor.traces(outputs, eos_token_id=None), strict=True):
        rows = teacher_forced(toy_gpt2, prompt, trace.ids.tolist())
        for z, record in zip(rows, trace.records(), strict=True):
            crossed.append(crosses(z, policy))
            flat = entropy_at(z / 3, 0.5 if crossed[-1] else 1)
            assert record["entropy_nats"] == pytest.approx(flat, abs=TOLERANCE)
            assert record["raw_entropy_nats"] == pytest.approx(entropy_at(z, 1), abs=TOLERANCE)
    assert 5 < sum(crossed) < 31


def test_a_policy_that_nothing_crosses_is_its_setting(stories):
    policy = EntropyPolicy(settings=SHARP, entropy_above=100, then="stop")
    with_policy, plain = (
        generate(stories, TEXTS, s, max_new_tokens=10, seed=3) for s in (policy, SHARP)
    )
    for one, other in zip(with_policy, plain, strict=True):
        assert one.record() == other.record() | {"settings": str(policy)}


# Ending.


REASONS = {"stop": "entropy", "abstain": "abstain", "branch": "branch"}


@pytest.mark.parametrize("ending", REASONS)
@pytest.mark.parametrize("bound", ["entropy<=3", "entropy<=2 or varentropy<=5"])
def test_a_row_ends_before_the_first_token_above_the_bound(stories, ending, bound):
    """The others go on, and each is what it is alone."""
    model = stories.model
    policy, kwargs = parse_setting(f"raw while {bound} else {ending}"), {"seed": 4}
    prompts = [*TEXTS, "Once upon a time, there was a little boy named", "A"]
    free = generate(stories, prompts, RAW, max_new_tokens=20, **kwargs)
    ended = generate(stories, prompts, policy, max_new_tokens=20, **kwargs)
    lengths = []
    for whole, part in zip(free, ended, strict=True):
        rows = teacher_forced(model, list(whole.prompt_ids), whole.trace.ids.tolist())
        above = [crosses(z, policy) for z in rows]
        lengths.append(above.index(True) if any(above) else None)
        assert part.trace.ids.tolist() == whole.trace.ids[: lengths[-1]].tolist()
        wanted = whole.finish_reason if lengths[-1] is None else REASONS[ending]
        assert part.finish_reason == wanted
        assert whole.text.startswith(part.text)
        [alone] = generate(stories, part.prompt, policy, max_new_tokens=20, **kwargs)
        assert alone.trace.ids.tolist() == part.trace.ids.tolist()
        assert alone.finish_reason == part.finish_reason
    assert len(set(lengths)) > 2


@pytest.mark.parametrize(("ending", "reason"), REASONS.items())
@pytest.mark.parametrize("alternatives", [0, 2])
def test_a_row_may_end_at_the_very_first_token(stories, ending, reason, alternatives):
    policy = EntropyPolicy(entropy_above=0, then=ending)
    (generation,) = generate(
        stories, TEXTS[0], policy, max_new_tokens=5, seed=0,
        alternatives=alternatives,
    )  # fmt: skip
    assert (generation.text, generation.finish_reason, len(generation.trace)) == ("", reason, 0)
    record = generation.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["tokens"], record["summary"]["tokens"]) == ([], 0)
    assert record["summary"]["mean_entropy_nats"] is None


def test_a_sampler_tells_how_and_where_rows_ended(toy_gpt2):
    policy, monitor = EntropyPolicy(entropy_above=2, then="abstain"), EntropyMonitor()
    sampler, outputs = sample(toy_gpt2, TOY_PROMPTS, policy, monitor=monitor, new_tokens=20)
    traces = monitor.traces(outputs, eos_token_id=None)
    seen = set()
    for prompt, trace, ending, at in zip(
        TOY_PROMPTS, traces, sampler.endings, sampler.ended_at, strict=True
    ):
        rows = teacher_forced(toy_gpt2, prompt, trace.ids.tolist())
        above = [crosses(z, policy) for z in rows]
        if ending is None:
            assert (any(above), at) == (False, 0)
        else:
            assert (ending, at) == ("abstain", above.index(True))
        seen.add(ending)
    assert "abstain" in seen
    if None not in seen:
        assert outputs.shape[1] == 8 + 1 + max(sampler.ended_at)


def hesitating_after(model, ids, *, row=0):
    """A model sure of `ids` in one row, and flat behind them; sure of id 4 in all other rows."""

    def edit(step, logits):
        logits = torch.zeros_like(logits)
        for other in range(len(logits)):
            if other != row:
                logits[other, -1, 4] = 30.0
            elif step < len(ids):
                logits[other, -1, ids[step]] = 30.0
        return logits

    return editing(model, edit)


@pytest.mark.parametrize("ids", [[0], [5, 0], [5, 6, 0]])
@pytest.mark.parametrize("ending", ["stop", lambda crossing: "stop"])
def test_a_row_behind_its_end_is_not_asked(toy_gpt2, ids, ending):
    """It is fed with pads while others go on, and the model may hesitate there."""
    policy = EntropyPolicy(entropy_above=1, then=ending)
    model = hesitating_after(toy_gpt2, ids)
    sampler, outputs = sample(model, [[5], [3, 7]], policy, eos=0, new_tokens=8)
    assert sampler.endings == [None, None]
    assert outputs[:, 2:].tolist() == [(ids + [0] * 8)[:8], [4] * 8]


def test_a_text_that_has_ended_keeps_its_reason(stories):
    tokenizer = stories.tokenizer
    policy = EntropyPolicy(settings=DecodingSettings(temperature=0), entropy_above=1, then="stop")
    said = tokenizer(" the cat.")["input_ids"]
    for kwargs, eos, reason in [({"stop": ["cat"]}, [], "stop"), ({}, [0], "eos")]:
        model = with_config(hesitating_after(stories.model, [*said, *eos]), eos_token_id=0)
        first, second = generate(
            replace(stories, model=model),
            ["One", "Two three"],
            policy,
            max_new_tokens=12,
            seed=0,
            **kwargs,
        )
        assert (first.finish_reason, second.finish_reason) == (reason, "length")
        assert first.text == (" the cat" if kwargs else " the cat.")
    model = hesitating_after(stories.model, said)
    first, _ = generate(
        replace(stories, model=model), ["One", "Two three"], policy, max_new_tokens=12, seed=0
    )
    assert (first.text, first.finish_reason) == (" the cat.", "entropy")


def test_the_token_that_a_row_ends_at_is_not_streamed(stories):
    tokens, policy = [], EntropyPolicy(entropy_above=3, then="stop")
    generations = generate(
        stories, TEXTS, policy, max_new_tokens=12, seed=4,
        on_token=tokens.append,
    )  # fmt: skip
    assert "entropy" in {g.finish_reason for g in generations}
    for g in generations:
        assert [t.id for t in tokens if t.index == g.index] == g.trace.ids.tolist()


# Varentropy.


def test_a_row_of_equals_does_not_cross_a_bound_on_varentropy():
    flat, torn = torch.zeros(17), torch.full((17,), -2.0)
    torn[0] = 2.0
    sure = torch.full((17,), -20.0)
    sure[3] = 0.0
    rows = Distribution(torch.stack([flat, torn, sure]))
    assert varentropy(torn.double().numpy()) > 1
    for bounds, want in [
        ({"entropy_above": 0.5}, [True, True, False]),
        ({"entropy_above": 0.5, "varentropy_above": 1}, [False, True, False]),
        ({"entropy_above": 2.5, "varentropy_above": 1}, [False, False, False]),
    ]:
        policy = EntropyPolicy(then="stop", **bounds)
        assert policy.crossed(rows).tolist() == want
        assert policy.decide(rows, 0) == ["stop" if yes else None for yes in want]


# Functions.


def test_a_function_is_told_of_each_crossing(toy_gpt2):
    told, monitor = [], EntropyMonitor()
    policy = EntropyPolicy(settings=RAW, entropy_above=1.8, then=told.append)
    _, outputs = sample(toy_gpt2, TOY_PROMPTS, policy, monitor=monitor, new_tokens=20)
    want = []
    for row, (prompt, trace) in enumerate(
        zip(TOY_PROMPTS, monitor.traces(outputs, eos_token_id=None), strict=True)
    ):
        rows = teacher_forced(toy_gpt2, prompt, trace.ids.tolist())
        want += [
            Crossing(row, step, entropy_at(z, 1), varentropy(z))
            for step, z in enumerate(rows)
            if crosses(z, policy)
        ]
    want.sort(key=lambda crossing: (crossing.step, crossing.row))
    assert 5 < len(want) < 55
    assert [(c.row, c.step) for c in told] == [(c.row, c.step) for c in want]
    np.testing.assert_allclose(told, want, atol=TOLERANCE)


def test_a_function_that_goes_on_changes_nothing(toy_gpt2):
    policy = EntropyPolicy(settings=SHARP, entropy_above=1, then=tell)
    assert torch.equal(
        sample(toy_gpt2, TOY_PROMPTS, policy)[1], sample(toy_gpt2, TOY_PROMPTS, SHARP)[1]
    )


@pytest.mark.parametrize("settings", [RAW, DecodingSettings(target_entropy=1)])
def test_a_function_takes_a_setting_for_a_row(toy_gpt2, settings):
    """Another one for each row, and none at odd steps."""
    choices = [SHARP, DecodingSettings(top_k=2), DecodingSettings(target_entropy=0.3)]

    def choose(crossing):
        return None if crossing.step % 2 else choices[crossing.row]

    policy = EntropyPolicy(settings=settings, entropy_above=1.5, then=choose)
    monitor = EntropyMonitor()
    _, outputs = sample(toy_gpt2, TOY_PROMPTS, policy, monitor=monitor, new_tokens=20)
    changed = 0
    for row, (prompt, trace) in enumerate(
        zip(TOY_PROMPTS, monitor.traces(outputs, eos_token_id=None), strict=True)
    ):
        rows = teacher_forced(toy_gpt2, prompt, trace.ids.tolist())
        for step, (z, record) in enumerate(zip(rows, trace.records(), strict=True)):
            chosen = crosses(z, policy) and step % 2 == 0
            changed += chosen
            want = reference_row(z, record["id"], choices[row] if chosen else settings)
            for key in ("surprisal_nats", "entropy_nats", "kept", "kl_nats"):
                assert record[key] == pytest.approx(want[key], abs=TOLERANCE), key
    assert changed > 5


def test_a_function_ends_a_row(toy_gpt2):
    def end(crossing):
        return "abstain" if crossing.step >= 3 else None

    policy, monitor = EntropyPolicy(entropy_above=1.5, then=end), EntropyMonitor()
    sampler, outputs = sample(toy_gpt2, TOY_PROMPTS, policy, monitor=monitor, new_tokens=20)
    traces = monitor.traces(outputs, eos_token_id=None)
    for prompt, trace, ending, at in zip(
        TOY_PROMPTS, traces, sampler.endings, sampler.ended_at, strict=True
    ):
        rows = teacher_forced(toy_gpt2, prompt, trace.ids.tolist())
        above = [step for step, z in enumerate(rows) if step >= 3 and crosses(z, policy)]
        assert (ending, at) == ("abstain", above[0])


@pytest.mark.parametrize("nonsense", ["halt", 3, "", True])
def test_a_function_that_returns_nonsense_is_refused(toy_gpt2, nonsense):
    policy = EntropyPolicy(entropy_above=0, then=lambda crossing: nonsense)
    with pytest.raises(ValueError, match=rf"returns a setting, None, or .* got {nonsense!r}"):
        sample(toy_gpt2, TOY_PROMPTS, policy)


def test_a_function_cannot_take_mirostat(toy_gpt2):
    policy = EntropyPolicy(entropy_above=0, then=lambda c: DecodingSettings(mirostat_tau=2))
    with pytest.raises(ValueError, match="mirostat_tau follows one setting alone"):
        sample(toy_gpt2, TOY_PROMPTS, policy)


# The text form.


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (
            EntropyPolicy(entropy_above=2.5, then=SHARP),
            "raw while entropy<=2.5 else temperature=0.5",
        ),
        (
            EntropyPolicy(settings=SHARP, entropy_above=0, varentropy_above=1.25, then="abstain"),
            "temperature=0.5 while entropy<=0 or varentropy<=1.25 else abstain",
        ),
        (
            EntropyPolicy(entropy_above=np.float64(1e-7), then="stop"),
            "raw while entropy<=1e-07 else stop",
        ),
        (
            EntropyPolicy(
                settings=DecodingSettings.parse("dry_multiplier=1,dry_breakers=3/5,top_p=0.9"),
                entropy_above=1 / 3,
                then=DecodingSettings(temperature=0),
            ),
            "dry_multiplier=1,dry_breakers=3/5,top_p=0.9 "
            "while entropy<=0.3333333333333333 else greedy",
        ),
        (EntropyPolicy(entropy_above=3, then="branch"), "raw while entropy<=3 else branch"),
    ],
)
def test_text_form(policy, text):
    assert str(policy) == text
    assert EntropyPolicy.parse(text) == parse_setting(text) == policy


def test_bounds_may_be_given_in_bits_and_spaces_do_not_matter():
    policy = EntropyPolicy.parse(
        "  raw  while entropy <= 2bits  or varentropy <=3bits  else  temperature = 0.5 "
    )
    assert policy.entropy_above == pytest.approx(2 * np.log(2))
    assert policy.varentropy_above == pytest.approx(3 * np.log(2) ** 2)
    assert (policy.settings, policy.then) == (RAW, SHARP)


def test_a_function_shows_its_name():
    assert str(EntropyPolicy(entropy_above=1, then=tell)) == "raw while entropy<=1 else tell"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raw while entropy<=2", r"a policy is like .*, got 'raw while entropy<=2'"),
        ("raw while entropy<2 else stop", r"a policy is like"),
        ("raw while varentropy<=2 else stop", r"a policy is like"),
        (" while entropy<=2 else stop", r"a policy is like"),
        ("raw while entropy<=2 else ", r"a policy is like"),
        ("raw while entropy<=two else stop", r"a bound on entropy must be a number, got 'two'"),
        ("raw while entropy<=2 or varentropy<=x else stop", r"must be a number, got 'x'"),
        ("raw while entropy<=-1 else stop", r"entropy_above must be a finite number >= 0, got -1"),
        ("raw while entropy<=nan else stop", r"entropy_above must be a finite number .* got nan"),
        ("raw while entropy<=inf else stop", r"entropy_above must be a finite number .* got inf"),
        ("raw while entropy<=1 or varentropy<=-2 else stop", r"varentropy_above must be .* -2"),
        ("raw while entropy<=2 else halt", r"unknown setting 'halt'"),
        ("tmperature=1 while entropy<=2 else stop", r"did you mean 'temperature'"),
        ("raw while entropy<=1 else raw while entropy<=2 else stop", "cannot hold another"),
        ("raw while entropy<=2 else mirostat_tau=3", r"mirostat_tau .* not in a policy"),
        ("mirostat_tau=3 while entropy<=2 else stop", r"mirostat_tau .* not in a policy"),
    ],
)
def test_other_forms_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_setting(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"entropy_above": "2"}, r"entropy_above must be a finite number >= 0, got '2'"),
        ({"entropy_above": None}, r"entropy_above must be a finite number >= 0, got None"),
        ({"entropy_above": 10**400}, r"entropy_above must be a finite number"),
        ({"entropy_above": True}, r"entropy_above must be .* got True"),
        ({"then": DecodingSettings}, "then must be a setting, a function"),
        ({"varentropy_above": float("nan")}, r"varentropy_above must be .* got nan"),
        ({"settings": "raw"}, r"settings must be a DecodingSettings, got 'raw'"),
        ({"then": "halt"}, r"then must be a setting, a function, or one of .* got 'halt'"),
        ({"then": None}, r"then must be a setting, a function, or one of .* got None"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        EntropyPolicy(**{"entropy_above": 1, "then": "stop"} | kwargs)


def test_beams_are_refused(stories):
    policy = EntropyPolicy(entropy_above=1, then="stop")
    with pytest.raises(ValueError, match="a policy follows single sequences"):
        policy.generate_kwargs(num_beams=2)
    with pytest.raises(ValueError, match="a policy follows single sequences"):
        generate(stories, "a", policy, num_beams=2)
    assert policy.generate_kwargs() == RAW.generate_kwargs()


@pytest.mark.parametrize("then", [RAW, lambda crossing: RAW])
def test_a_greedy_setting_that_may_hand_over_draws_several_sequences(stories, then):
    policy = EntropyPolicy(settings=DecodingSettings(temperature=0), entropy_above=0.5, then=then)
    assert not policy.greedy
    inputs = stories.tokenizer("Once upon a", return_tensors="pt")
    outputs = stories.model.generate(
        **inputs, custom_generate=Sampler(policy, seed=1), num_return_sequences=8,
        max_new_tokens=12, **policy.generate_kwargs(),
    )  # fmt: skip
    assert len({tuple(row) for row in outputs.tolist()}) > 1


@pytest.mark.parametrize("then", ["stop", "abstain", "branch", lambda crossing: None])
def test_what_a_policy_decides_is_not_left_out_in_silence(then):
    policy = EntropyPolicy(entropy_above=0.5, then=then)
    rows = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="decides while text is generated"):
        compare_rows(rows, torch.zeros(2).long(), [DecodingSettings(), policy])
