"""The text form of a policy, and what a policy refuses."""

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, EntropyPolicy, Sampler, generate
from decoding.information.comparison import compare_rows
from decoding.settings.policy import parse_setting

RAW = DecodingSettings()
SHARP = DecodingSettings(temperature=0.5)


def tell(crossing):
    """A policy's function that goes on."""


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
        ({"settings": "stop"}, r"settings must be a DecodingSettings, got 'stop'"),
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
