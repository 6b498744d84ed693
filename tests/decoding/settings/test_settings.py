"""DecodingSettings as a value: validation, text form, and what a generation config means."""

import dataclasses
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from decoding.settings.settings import IN_NATS, PARAMETERS, SHARED, STEERING, DecodingSettings

checked = settings(derandomize=True, max_examples=300)

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

OWNERS = {
    "dry_base": "dry_multiplier",
    "dry_allowed_length": "dry_multiplier",
    "dry_breakers": "dry_multiplier",
    "edt_base": "edt_theta",
    "dynatemp_exponent": "dynatemp_range",
    "mirostat_eta": "mirostat_tau",
    "xtc_threshold": "xtc_probability",
}

not_negative = st.floats(0, allow_infinity=False)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
share = st.floats(0, 1, exclude_min=True)
cutoff = st.floats(0, 1, exclude_max=True)
any_share = st.floats(0, 1)

WARPERS = {
    "top_k": st.just(0) | st.integers(0, 10**12),
    "top_p": st.just(1.0) | share,
    "min_p": st.just(0.0) | any_share,
    "typical_p": st.just(1.0) | share,
    "epsilon_cutoff": st.just(0.0) | cutoff,
    "eta_cutoff": st.just(0.0) | cutoff,
}
of_hugging_face = st.builds(
    DecodingSettings,
    temperature=st.sampled_from([0.0, 1.0]) | st.floats(0, allow_infinity=False),
    **WARPERS,
)
VALUES = {
    **WARPERS,
    "dry_multiplier": not_negative,
    "dry_base": st.floats(1, allow_infinity=False),
    "dry_allowed_length": st.integers(1, 10**12),
    "dry_breakers": st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
    "temperature": st.sampled_from([0.0, 1.0]) | not_negative,
    "edt_theta": not_negative,
    "edt_base": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "dynatemp_range": not_negative,
    "dynatemp_exponent": positive,
    "target_entropy": not_negative,
    "top_n_sigma": not_negative,
    "top_h": share,
    "p_less": any_share,
    "kl_budget": not_negative,
    "mirostat_tau": not_negative,
    "mirostat_eta": share,
    "xtc_probability": any_share,
    "xtc_threshold": share,
}


@st.composite
def settings_of_any_kind(draw):
    """Some of all fields, without what the rules of this page forbid together."""
    chosen = draw(st.sets(st.sampled_from(sorted(VALUES)), max_size=7))
    values = {name: draw(VALUES[name]) for name in sorted(chosen)}
    steering = [name for name in sorted(values) if name in STEERING and values[name]]
    for name in steering[1:]:
        del values[name]
    if "target_entropy" in steering[:1] or (steering and values.get("temperature") == 0):
        values.pop("temperature", None)
    if values.get("mirostat_tau"):
        values.pop("xtc_probability", None)
    for name, owner in OWNERS.items():
        if not values.get(owner):
            values.pop(name, None)
    return DecodingSettings(**values)


any_setting = settings_of_any_kind()


# --- the value


def test_the_default_is_neutral_and_the_order_is_that_of_the_chain():
    assert dataclasses.asdict(DecodingSettings()) == NEUTRAL
    assert list(dataclasses.asdict(DecodingSettings())) == list(NEUTRAL)
    assert DecodingSettings().steps() == ()
    changed = {"eta_cutoff": 0.1, "top_k": 5, "temperature": 0.5}
    steps = DecodingSettings(**changed).steps()
    assert steps == (("temperature", 0.5), ("top_k", 5), ("eta_cutoff", 0.1))


def test_parameters_are_no_steps_of_their_own():
    assert PARAMETERS == OWNERS
    setting = DecodingSettings(
        xtc_probability=0.5, xtc_threshold=0.2, dry_multiplier=0.8, dry_breakers=(13,), top_k=5
    )
    assert setting.steps() == (("dry_multiplier", 0.8), ("top_k", 5), ("xtc_probability", 0.5))
    assert setting.parameters("xtc_probability") == {"xtc_threshold": 0.2}
    assert setting.parameters("dry_multiplier") == {
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_breakers": (13,),
    }
    assert setting.parameters("top_k") == {}


@pytest.mark.parametrize("name", [name for name in NEUTRAL if name not in OWNERS])
def test_only_penalties_of_repetition_and_mirostat_look_back(name):
    setting = DecodingSettings(**{name: 1 if name == "top_k" else 0.5})
    assert setting.looks_back == (name in ("dry_multiplier", "mirostat_tau"))


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


NEVER = [math.inf, math.nan]
NOT_NEGATIVE = ("a finite number >= 0", [-0.1, -5e-324, -math.inf, *NEVER])
SHARE = ("in (0, 1]", [0, 0.0, -0.1, 1.0000001, 2, *NEVER])
SHARE_OR_NONE = ("in [0, 1]", [-0.1, 1.0000001, *NEVER])
CUT = ("in [0, 1)", [-0.1, 1, 1.0, *NEVER])
NOT_IN_RANGE = {
    "dry_multiplier": NOT_NEGATIVE,
    "dry_base": ("a finite number >= 1", [0.999, 0, -2, *NEVER]),
    "dry_allowed_length": (">= 1", [0, -1]),
    "dry_breakers": ("ids in [0, 2^63)", [(-1,), [3, -2], (2**63,)]),
    "temperature": NOT_NEGATIVE,
    "edt_theta": NOT_NEGATIVE,
    "edt_base": ("in (0, 1)", [0, 1, 1.5, -0.1, *NEVER]),
    "dynatemp_range": NOT_NEGATIVE,
    "dynatemp_exponent": ("a finite number > 0", [0, -1, *NEVER]),
    "target_entropy": NOT_NEGATIVE,
    "top_n_sigma": NOT_NEGATIVE,
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
    "xtc_probability": SHARE_OR_NONE,
    "xtc_threshold": SHARE,
}
NOT_A_NUMBER = ["0.7", None, True, False, 1j, [1]]
NOT_WHOLE = [2.5, 2.0, math.inf, math.nan]
NOT_IDS = ["13/198", None, 13, [True], [1.5], ["1"], {1}]
KINDS = {
    float: ("a number", NOT_A_NUMBER),
    int: ("a whole number", NOT_A_NUMBER + NOT_WHOLE),
    tuple: ("ids, as in 13/198", NOT_IDS),
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
    value = {"dry_allowed_length": 3, "dry_breakers": (13,), "dry_base": 2}.get(name, 0.5)
    with pytest.raises(ValueError, match=name) as refusal:
        DecodingSettings(**{name: value})
    assert str(refusal.value) == f"{name} is a parameter of {owner}, which is not set"
    with pytest.raises(ValueError, match=f"{name} is a parameter of {owner}, which is not set"):
        DecodingSettings(**{name: value, owner: 0})
    given = DecodingSettings(**{name: value, owner: 0.5})
    assert getattr(given, name) == value
    # At its default it says nothing.
    assert DecodingSettings(**{name: NEUTRAL[name]}) == DecodingSettings()


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
        ("mirostat_tau=3,xtc_probability=0.5", "mirostat_tau follows what its own cut leaves"),
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


# --- the text form


@checked
@given(setting=any_setting | of_hugging_face)
def test_parse_reads_what_str_writes(setting):
    assert DecodingSettings.parse(str(setting)) == setting
    assert " " not in str(setting)


@checked
@given(setting=any_setting | of_hugging_face)
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
        (
            {"dry_multiplier": 0.8, "dry_breakers": [13, 198]},
            "dry_multiplier=0.8,dry_breakers=13/198",
        ),
        ({"dry_multiplier": 1, "dry_breakers": (7,)}, "dry_multiplier=1,dry_breakers=7"),
        ({"target_entropy": 1.5, "top_h": 0.4}, "target_entropy=1.5,top_h=0.4"),
        (
            {"xtc_probability": 0.5, "xtc_threshold": 0.2, "temperature": 0.9},
            "temperature=0.9,xtc_probability=0.5,xtc_threshold=0.2",
        ),
    ],
)
def test_text_of_some_settings(values, text):
    assert str(DecodingSettings(**values)) == text
    assert DecodingSettings.parse(text) == DecodingSettings(**values)


@pytest.mark.parametrize("name", IN_NATS)
@pytest.mark.parametrize("text", ["2bits", " 2 bits", "2e0bits"])
def test_bits_become_nats(name, text):
    setting = DecodingSettings.parse(f"{name}={text}")
    assert getattr(setting, name) == 2 * math.log(2)  # 1 bit is ln 2 nats
    assert str(setting) == f"{name}=1.3862943611198906"
    assert DecodingSettings.parse(str(setting)) == setting


@pytest.mark.parametrize(
    "text", ["top_p=0.5bits", "kl_budget=bits", "kl_budget=2bit", "top_k=2bits"]
)
def test_bits_belong_to_a_number_in_nats(text):
    with pytest.raises(ValueError, match="must be a") as refusal:
        DecodingSettings.parse(text)
    assert repr(text.split("=")[1]) in str(refusal.value)


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
        ("top_sigma=1", "top_n_sigma"),
        ("target-entropy=2", "target_entropy"),
        ("xtc_prob=0.5", "xtc_probability"),
        ("mirostat=3", "mirostat_tau"),
        ("pless=1", "p_less"),
        ("xtc=0.5", "xtc_probability"),
        ("dry=0.8", "dry_multiplier"),
        ("edt=0.5", "edt_theta"),
        ("dynatemp=1", "dynatemp_range"),
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
        ("dry_breakers=", "dry_breakers must be ids, as in 13/198, got ''"),
        ("dry_breakers=13/x", "dry_breakers must be ids, as in 13/198, got '13/x'"),
        (
            "dry_multiplier=1,dry_breakers=3/-1",
            "dry_breakers must be ids in [0, 2^63), got (3, -1)",
        ),
        ("dry_breakers", "'dry_breakers' needs a value, as in dry_breakers=13/198"),
        ("dry_breakers=13", "dry_breakers is a parameter of dry_multiplier, which is not set"),
        ("kl_budget=-1bits", "kl_budget must be a finite number >= 0, got -0.69"),
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
        "import sys; from decoding.settings.settings import DecodingSettings;"
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
    silent = dict.fromkeys(SHARED)
    setting = DecodingSettings.from_generation_config(config(do_sample=True, **silent))
    assert setting == DecodingSettings(top_k=50)
    default = GenerationConfig(do_sample=True)
    assert DecodingSettings.from_generation_config(default) == DecodingSettings(top_k=50)


@pytest.mark.parametrize("do_sample", [False, None])
def test_without_sampling_the_setting_is_greedy(do_sample):
    generation = config(do_sample=do_sample, temperature=0.7, top_k=5, top_p=0.9)
    assert str(DecodingSettings.from_generation_config(generation)) == "greedy"


@checked
@given(setting=of_hugging_face.filter(lambda setting: not setting.greedy))
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
    plain = config(do_sample=False, **{name: value})
    if name == "top_h":  # has no effect without sampling, where the others are
        assert DecodingSettings.from_generation_config(plain).greedy
    else:
        with pytest.raises(ValueError, match=name):
            DecodingSettings.from_generation_config(plain)


def test_a_bad_value_in_a_configuration_is_refused():
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got 0"):
        DecodingSettings.from_generation_config(config(do_sample=True, top_p=0.0))
