"""DecodingSettings as a value: what it is, and what it refuses."""

import dataclasses
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from decoding.rules.rule import format_value
from decoding.settings.settings import RULES_IN_ORDER, DecodingSettings
from some_settings import NEUTRAL, OWNERS

# --- the value


def steps(setting):
    return [(rule.field, rule.value) for rule in setting.rules]


def parameters(setting, name):
    (rule,) = [rule for rule in setting.rules if rule.field == name]
    return {field.name: getattr(rule, field.name) for field in rule.parameters}


def test_the_default_is_neutral_and_the_order_is_that_of_the_rules():
    default = dataclasses.asdict(DecodingSettings())
    assert default == NEUTRAL | {"extra": ()}
    assert list(default) == [*NEUTRAL, "extra"]
    assert DecodingSettings().rules == ()
    changed = {"eta_cutoff": 0.1, "top_k": 5, "temperature": 0.5}
    setting = DecodingSettings(**changed)
    assert steps(setting) == [("temperature", 0.5), ("top_k", 5), ("eta_cutoff", 0.1)]


def test_parameters_are_no_steps_of_their_own():
    owners = {field.name: rule.field for rule in RULES_IN_ORDER for field in rule.parameters}
    assert owners == OWNERS
    setting = DecodingSettings(
        xtc_probability=0.5, xtc_threshold=0.2, dry_multiplier=0.8, dry_breakers=(13,), top_k=5
    )
    assert steps(setting) == [("dry_multiplier", 0.8), ("top_k", 5), ("xtc_probability", 0.5)]
    assert parameters(setting, "xtc_probability") == {"xtc_threshold": 0.2, "xtc_spared": ()}
    assert parameters(setting, "dry_multiplier") == {
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_breakers": (13,),
    }
    assert parameters(setting, "top_k") == {}


@pytest.mark.parametrize("name", [name for name in NEUTRAL if name not in OWNERS])
def test_what_looks_back(name):
    setting = DecodingSettings(**{name: 1 if name == "top_k" else 0.5})
    assert setting.looks_back == (name in ("dry_multiplier", "mirostat_tau", "adaptive_p"))


def test_frozen_hashable_and_keyword_only():
    setting = DecodingSettings(top_k=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setting.top_k = 6
    with pytest.raises(TypeError):
        DecodingSettings(0.7)
    assert {setting: "found"}[DecodingSettings(top_k=5)] == "found"
    assert setting != DecodingSettings(top_k=6)


def test_numbers_of_other_types_become_plain_ones():
    setting = DecodingSettings(temperature=2, top_k=np.int64(7), top_p=np.float32(0.5))
    assert setting == DecodingSettings(temperature=2.0, top_k=7, top_p=0.5)
    values = {name: getattr(setting, name) for name in NEUTRAL}
    assert {name: type(value) for name, value in values.items()} == {
        name: type(value) for name, value in NEUTRAL.items()
    }


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0])
def test_temperature_zero_is_greedy(temperature):
    assert DecodingSettings(temperature=temperature).greedy
    assert not DecodingSettings(temperature=5e-324).greedy
    assert not DecodingSettings().greedy


# --- refusals


NEVER = [math.inf, math.nan]
NOT_NEGATIVE = ("a finite number >= 0", [-0.1, -5e-324, -math.inf, *NEVER])
SHARE = ("in (0, 1]", [0, 0.0, -0.1, 1.0000001, 2, *NEVER])
SHARE_OR_NONE = ("in [0, 1]", [-0.1, 1.0000001, *NEVER])
CUT = ("in [0, 1)", [-0.1, 1, 1.0, *NEVER])
TOKENS = (
    "ids in [0, 2^63), texts not ''",
    [(-1,), [3, -2], (2**63,), ("",), ["a", -1]],
)
NOT_IN_RANGE = {
    "dry_multiplier": NOT_NEGATIVE,
    "dry_base": ("a finite number >= 1", [0.999, 0, -2, *NEVER]),
    "dry_allowed_length": (">= 1", [0, -1]),
    "dry_breakers": TOKENS,
    "temperature": NOT_NEGATIVE,
    "edt_theta": NOT_NEGATIVE,
    "edt_base": ("in (0, 1)", [0, 1, 1.5, -0.1, *NEVER]),
    "dynatemp_range": NOT_NEGATIVE,
    "dynatemp_exponent": ("a finite number > 0", [0, -1, *NEVER]),
    "target_entropy": NOT_NEGATIVE,
    "top_n_sigma": NOT_NEGATIVE,
    "min_k": NOT_NEGATIVE,
    "top_h": SHARE,
    "top_k": (">= 0", [-1]),
    "top_p": SHARE,
    "min_p": SHARE_OR_NONE,
    "typical_p": SHARE,
    "epsilon_cutoff": CUT,
    "eta_cutoff": CUT,
    "p_less": SHARE_OR_NONE,
    "kl_budget": NOT_NEGATIVE,
    "mirostat_tau": NOT_NEGATIVE,
    "mirostat_eta": SHARE,
    "temperature_last": ("a finite number > 0", [0, -1, *NEVER]),
    "xtc_probability": SHARE_OR_NONE,
    "xtc_threshold": SHARE,
    "xtc_spared": TOKENS,
    "adaptive_p": SHARE_OR_NONE,
    "adaptive_p_decay": ("in [0, 0.99]", [-0.1, 0.991, 1, *NEVER]),
}
NOT_A_NUMBER = ["0.7", None, True, False, 1j, [1]]
NOT_WHOLE = [2.5, 2.0, math.inf, math.nan]
NOT_TOKENS = [None, 13, [True], [1.5], [b"1"], {1}]
KINDS = {
    float: ("a number", NOT_A_NUMBER),
    int: ("a whole number", NOT_A_NUMBER + NOT_WHOLE),
    tuple: (r'ids or texts, as in 13/"\n"', NOT_TOKENS),
}

BAD = [
    (name, rule, value)
    for name, neutral in NEUTRAL.items()
    for rule, values in (NOT_IN_RANGE[name], KINDS[type(neutral)])
    for value in values
]


@pytest.mark.parametrize(("name", "rule", "value"), BAD)
def test_a_bad_value_is_refused_with_field_rule_and_value(name, rule, value):
    with pytest.raises(ValueError, match=name) as refusal:
        DecodingSettings(**{name: value})
    assert str(refusal.value) == f"{name} must be {rule}, got {value!r}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("temperature", 10**400, id="too-large"),
        pytest.param("top_p", Fraction(1, 10**400), id="too-small"),
    ],
)
def test_a_value_that_no_float_can_hold_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        DecodingSettings(**{name: value})


@pytest.mark.parametrize(("name", "owner"), OWNERS.items())
def test_a_parameter_without_its_owner_is_refused_by_name(name, owner):
    others = {"dry_allowed_length": 3, "dry_breakers": (13,), "dry_base": 2, "xtc_spared": (2,)}
    value = others.get(name, 0.5)
    with pytest.raises(ValueError, match=name) as refusal:
        DecodingSettings(**{name: value})
    assert str(refusal.value) == f"{name} is a parameter of {owner}, which is not set"
    with pytest.raises(ValueError, match=f"{name} is a parameter of {owner}, which is not set"):
        DecodingSettings(**{name: value, owner: 0})
    given = DecodingSettings(**{name: value, owner: 0.5})
    assert getattr(given, name) == value
    # At its default it says nothing, unless it is written.
    assert DecodingSettings(**{name: NEUTRAL[name]}) == DecodingSettings()
    with pytest.raises(ValueError, match=f"{name} is a parameter of {owner}, which is not set"):
        DecodingSettings.parse(f"top_p=0.9,{name}={format_value(NEUTRAL[name]) or 7}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("edt_theta=1,dynatemp_range=0.5", "edt_theta and dynatemp_range both set the temp"),
        ("edt_theta=1,target_entropy=2", "edt_theta and target_entropy both set the temp"),
        ("target_entropy=2,dynatemp_range=1", "dynatemp_range and target_entropy both set"),
        ("greedy,edt_theta=1", "edt_theta sets the temperature, which temperature=0 has fixed"),
        ("greedy,dynatemp_range=1", "dynatemp_range sets the temperature, which temperature=0"),
        ("greedy,target_entropy=1", "target_entropy sets the temperature, which temperature=0"),
        ("temperature=0.7,target_entropy=1", "leave out temperature=0.7"),
        ("mirostat_tau=3,adaptive_p=0.5", "mirostat_tau follows what its own cut leaves"),
        ("mirostat_tau=3,xtc_probability=0.5", "mirostat_tau follows what its own cut leaves"),
        ("mirostat_tau=3,temperature_last=2", "mirostat_tau follows what its own cut leaves"),
    ],
)
def test_contradictions_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        DecodingSettings.parse(text)


@pytest.mark.parametrize("text", ["temperature=0.7,edt_theta=1", "temperature=2,dynatemp_range=3"])
def test_steering_around_a_temperature_is_no_contradiction(text):
    assert str(DecodingSettings.parse(text)) == text


@pytest.mark.parametrize("setting", ["mirostat_tau=3", "temperature=0.7,mirostat_tau=1"])
def test_mirostat_cannot_score_beams(setting):
    settings = DecodingSettings.parse(setting)
    assert settings.generate_kwargs()["do_sample"] is True
    with pytest.raises(ValueError, match="mirostat_tau follows what is drawn"):
        settings.generate_kwargs(num_beams=2)


@pytest.mark.parametrize("setting", ["mirostat_tau=3", "dry_multiplier=0.8"])
def test_a_setting_that_looks_back_refuses_rows_without_history(setting):
    with pytest.raises(ValueError, match=f"{setting} looks back at earlier tokens"):
        DecodingSettings.parse(setting).log_probs(torch.zeros(1, 4))


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0},
        {"dry_multiplier": 1e308, "dry_base": 1, "dry_allowed_length": 1, "dry_breakers": (0,)},
        {"edt_theta": 5e-324, "edt_base": math.nextafter(1, 0)},
        {"dynatemp_range": 1.7976931348623157e308, "dynatemp_exponent": 5e-324},
        {"top_h": 5e-324, "p_less": 1, "kl_budget": 5e-324, "top_n_sigma": 5e-324},
        {"mirostat_tau": 5e-324, "mirostat_eta": 1},
        {"xtc_probability": 1, "xtc_threshold": 1},
        {"temperature": 1.7976931348623157e308},
        {"top_k": 0, "top_p": 5e-324, "typical_p": 5e-324},
        {"top_p": 1, "min_p": 1, "typical_p": 1},
        {"epsilon_cutoff": math.nextafter(1, 0), "eta_cutoff": math.nextafter(1, 0)},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(values):
    setting = DecodingSettings(**values)
    assert {name: getattr(setting, name) for name in values} == values


# --- independence of torch


def test_importing_the_module_and_reading_a_text_imports_no_torch():
    script = (
        "import sys; from decoding.settings.settings import DecodingSettings;"
        "DecodingSettings.parse('temperature=0.7');"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
