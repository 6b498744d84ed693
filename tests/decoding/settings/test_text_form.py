"""The text form of a setting: written, read back, and refused."""

import math

import pytest
from hypothesis import given, settings

from decoding.settings.settings import FIELDS, DecodingSettings
from some_settings import NEUTRAL, any_setting, of_hugging_face

checked = settings(derandomize=True, max_examples=300)


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
        (
            {"dry_multiplier": 1, "dry_breakers": ("\n", 13, ",", "/", "a b", '"', "\\", "é。")},
            r'dry_multiplier=1,dry_breakers="\n"/13/","/"/"/"a\u0020b"/"\""/"\\"/"é。"',
        ),
        (
            {"xtc_probability": 1, "xtc_spared": "\N{ZERO WIDTH JOINER}", "temperature_last": 2},
            r'temperature_last=2,xtc_probability=1,xtc_spared="\u200d"',
        ),
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


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.unit])
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
        ("temp=0.7", "temperature"),
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
        ("dry_breakers=", r"""dry_breakers must be ids or texts, as in 13/"\n", got ''"""),
        ("dry_breakers=13/x", r"""dry_breakers must be ids or texts, as in 13/"\n", got '13/x'"""),
        (
            "dry_multiplier=1,dry_breakers=3/-1",
            "dry_breakers must be ids in [0, 2^63), texts not '', got (3, -1)",
        ),
        ("dry_breakers", r"'dry_breakers' needs a value, as in dry_breakers=13/"),
        ("dry_breakers=13", "dry_breakers is a parameter of dry_multiplier, which is not set"),
        ("kl_budget=-1bits", "kl_budget must be a finite number >= 0, got -0.69"),
        ("greedy,temperature=0.5", "'temperature' is given twice"),
        ("xtc_threshold=0.1", "xtc_threshold is a parameter of xtc_probability, which is not set"),
        ('dry_multiplier=1,dry_breakers="\\q"', "dry_breakers must be ids or texts"),
        ('dry_multiplier=1,dry_breakers="a', "dry_breakers must be ids or texts"),
        ('dry_multiplier=1,dry_breakers="a"b', "dry_breakers must be ids or texts"),
        ('dry_multiplier=1,dry_breakers=""', "texts not '', got ('',)"),
    ],
)
def test_bad_text_is_refused(text, words):
    with pytest.raises(ValueError, match=r"\w") as refusal:
        DecodingSettings.parse(text)
    assert words in str(refusal.value)
