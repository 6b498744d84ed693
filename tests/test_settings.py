"""DecodingSettings as a value: validation, text form, and what a generation config means."""

import dataclasses
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from decoding.settings import SHARED, DecodingSettings

checked = settings(derandomize=True, deadline=None, max_examples=300)

NEUTRAL = {
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_breakers": (),
    "temperature": 1.0,
    "edt_theta": 0.0,
    "edt_base": 0.8,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "target_entropy": 0.0,
    "top_n_sigma": 0.0,
    "top_h": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "p_less": 0.0,
    "kl_budget": 0.0,
    "mirostat_tau": 0.0,
    "mirostat_eta": 0.1,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
}

share = st.floats(0, 1, exclude_min=True)
cutoff = st.floats(0, 1, exclude_max=True)
any_setting = st.builds(
    DecodingSettings,
    temperature=st.sampled_from([0.0, 1.0]) | st.floats(0, allow_infinity=False),
    top_k=st.just(0) | st.integers(0, 10**12),
    top_p=st.just(1.0) | share,
    min_p=st.just(0.0) | st.floats(0, 1),
    typical_p=st.just(1.0) | share,
    epsilon_cutoff=st.just(0.0) | cutoff,
    eta_cutoff=st.just(0.0) | cutoff,
)


# --- the value


def test_the_default_is_neutral_and_the_order_is_that_of_the_chain():
    assert dataclasses.asdict(DecodingSettings()) == NEUTRAL
    assert list(dataclasses.asdict(DecodingSettings())) == list(NEUTRAL)
    assert DecodingSettings().steps() == []
    changed = {"eta_cutoff": 0.1, "top_k": 5, "temperature": 0.5}
    steps = DecodingSettings(**changed).steps()
    assert steps == [("temperature", 0.5), ("top_k", 5), ("eta_cutoff", 0.1)]


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
    values = dataclasses.asdict(setting)
    assert {name: type(value) for name, value in values.items()} == {
        name: type(value) for name, value in NEUTRAL.items()
    }


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0])
def test_temperature_zero_is_greedy(temperature):
    assert DecodingSettings(temperature=temperature).greedy
    assert not DecodingSettings(temperature=5e-324).greedy
    assert not DecodingSettings().greedy


# --- refusals


NOT_IN_RANGE = {
    "temperature": ("a finite number >= 0", [-0.1, -5e-324, -math.inf, math.inf, math.nan]),
    "top_k": (">= 0", [-1]),
    "top_p": ("in (0, 1]", [0, 0.0, -0.1, 1.0000001, 2, math.inf, math.nan]),
    "min_p": ("in [0, 1]", [-0.1, 1.0000001, math.inf, math.nan]),
    "typical_p": ("in (0, 1]", [0, -0.1, 1.0000001, math.inf, math.nan]),
    "epsilon_cutoff": ("in [0, 1)", [-0.1, 1, 1.0, math.inf, math.nan]),
    "eta_cutoff": ("in [0, 1)", [-0.1, 1, 1.0, math.inf, math.nan]),
}
NOT_A_NUMBER = ["0.7", None, True, False, 1j, [1]]
NOT_WHOLE = [2.5, 2.0, math.inf, math.nan]

BAD = [
    *((name, rule, value) for name, (rule, values) in NOT_IN_RANGE.items() for value in values),
    *((name, "a number", value) for name in NEUTRAL if name != "top_k" for value in NOT_A_NUMBER),
    *(("top_k", "a whole number", value) for value in NOT_A_NUMBER + NOT_WHOLE),
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


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0},
        {"temperature": 1.7976931348623157e308},
        {"top_k": 0, "top_p": 5e-324, "typical_p": 5e-324},
        {"top_p": 1, "min_p": 1, "typical_p": 1},
        {"epsilon_cutoff": math.nextafter(1, 0), "eta_cutoff": math.nextafter(1, 0)},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(values):
    setting = DecodingSettings(**values)
    assert {name: getattr(setting, name) for name in values} == values


# --- the text form


@checked
@given(setting=any_setting)
def test_parse_reads_what_str_writes(setting):
    assert DecodingSettings.parse(str(setting)) == setting
    assert " " not in str(setting)


@checked
@given(setting=any_setting)
def test_the_text_leaves_out_neutral_fields(setting):
    changed = [name for name, value in NEUTRAL.items() if getattr(setting, name) != value]
    named = {"raw": [], "greedy": ["temperature"]}
    text = str(setting)
    assert named.get(text, [part.split("=")[0] for part in text.split(",")]) == changed


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "raw"),
        ({"temperature": 0}, "greedy"),
        ({"temperature": -0.0}, "greedy"),
        ({"temperature": 0.7, "top_p": 0.9}, "temperature=0.7,top_p=0.9"),
        ({"temperature": 2.0, "top_k": 40}, "temperature=2,top_k=40"),
        ({"epsilon_cutoff": 0.0003}, "epsilon_cutoff=0.0003"),
        ({"min_p": 1}, "min_p=1"),
    ],
)
def test_text_of_some_settings(values, text):
    assert str(DecodingSettings(**values)) == text
    assert DecodingSettings.parse(text) == DecodingSettings(**values)


def test_greedy_with_further_fields_keeps_them():
    setting = DecodingSettings(temperature=0, top_p=0.9)
    assert "top_p=0.9" in str(setting)
    assert DecodingSettings.parse(str(setting)) == setting
    assert DecodingSettings.parse("greedy,top_p=0.9") == setting


@pytest.mark.parametrize(
    "text",
    [
        "top_p=0.9,temperature=0.7",
        " temperature = 0.7 , top_p=0.9",
        "raw,temperature=0.7,top_p=9e-1",
    ],
)
def test_parse_minds_neither_order_nor_spaces(text):
    assert DecodingSettings.parse(text) == DecodingSettings(temperature=0.7, top_p=0.9)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("temprature=0.7", "temperature"),
        ("topp=0.9", "top_p"),
        ("top-k=5", "top_k"),
        ("Min_P=0.1", "min_p"),
        ("typical=0.9", "typical_p"),
        ("epsilon=0.1", "epsilon_cutoff"),
        ("eta_cut=0.1", "eta_cutoff"),
        ("greddy", "greedy"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(text, nearest):
    with pytest.raises(ValueError, match="unknown setting") as refusal:
        DecodingSettings.parse(text)
    assert repr(text.split("=")[0]) in str(refusal.value)
    assert f"did you mean {nearest!r}?" in str(refusal.value)


def test_a_name_that_is_near_to_none_lists_them_all():
    with pytest.raises(ValueError, match="unknown setting 'xyzzy'") as refusal:
        DecodingSettings.parse("xyzzy=3")
    assert all(name in str(refusal.value) for name in ["raw", "greedy", *NEUTRAL])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unknown setting ''"),
        ("top_p=0.9,", "unknown setting ''"),
        ("temperature", "'temperature' needs a value"),
        ("temperature=", "temperature must be a number, got ''"),
        ("temperature=warm", "temperature must be a number, got 'warm'"),
        ("temperature=-1", "temperature must be a finite number >= 0, got -1.0"),
        ("temperature=nan", "temperature must be a finite number >= 0, got nan"),
        ("temperature=1e400", "temperature must be a finite number >= 0, got inf"),
        ("top_k=2.5", "top_k must be a whole number, got '2.5'"),
        ("top_p=0", "top_p must be in (0, 1], got 0.0"),
        ("top_p=0.9,top_p=0.8", "'top_p' is given twice"),
        ("greedy,temperature=0.5", "'temperature' is given twice"),
    ],
)
def test_bad_text_is_refused(text, words):
    with pytest.raises(ValueError, match=r"\w") as refusal:
        DecodingSettings.parse(text)
    assert words in str(refusal.value)


# --- independence of torch


def test_importing_the_module_and_reading_a_text_imports_no_torch():
    script = (
        "import sys; from decoding.settings import DecodingSettings;"
        "DecodingSettings.parse('temperature=0.7');"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- generation configurations


def config(**values):
    """A configuration with attributes set one by one, so that no version validates them."""
    result = GenerationConfig()
    for name, value in values.items():
        setattr(result, name, value)
    return result


def test_sampling_with_a_silent_configuration_means_the_hidden_top_k():
    silent = dict.fromkeys(NEUTRAL)
    setting = DecodingSettings.from_generation_config(config(do_sample=True, **silent))
    assert setting == DecodingSettings(top_k=50)
    default = GenerationConfig(do_sample=True)
    assert DecodingSettings.from_generation_config(default) == DecodingSettings(top_k=50)


@pytest.mark.parametrize("do_sample", [False, None])
def test_without_sampling_the_setting_is_greedy(do_sample):
    generation = config(do_sample=do_sample, temperature=0.7, top_k=5, top_p=0.9)
    assert str(DecodingSettings.from_generation_config(generation)) == "greedy"


@checked
@given(setting=any_setting.filter(lambda setting: not setting.greedy))
def test_values_come_from_the_configuration(setting):
    values = dataclasses.asdict(setting)
    generation = config(do_sample=True, **{name: values[name] for name in SHARED})
    assert DecodingSettings.from_generation_config(generation) == setting


def test_a_configuration_that_names_one_field_keeps_the_hidden_one():
    generation = GenerationConfig(do_sample=True, temperature=0.6)
    setting = DecodingSettings.from_generation_config(generation)
    assert setting == DecodingSettings(temperature=0.6, top_k=50)


@pytest.mark.parametrize(
    ("name", "value"), [("top_h", 0.4), ("penalty_alpha", 0.6), ("dola_layers", "low")]
)
def test_a_step_that_is_no_field_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        DecodingSettings.from_generation_config(config(do_sample=True, **{name: value}))


def test_a_bad_value_in_a_configuration_is_refused():
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got 0"):
        DecodingSettings.from_generation_config(config(do_sample=True, top_p=0.0))
