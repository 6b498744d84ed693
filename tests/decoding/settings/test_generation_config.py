"""What setting a generation configuration of transformers stands for."""

import pytest
from hypothesis import given, settings
from transformers import GenerationConfig

from decoding.settings.settings import RULES_IN_ORDER, DecodingSettings
from some_settings import WARPERS, of_hugging_face

checked = settings(derandomize=True, max_examples=300)
SHARED = ["temperature", *WARPERS]


def test_the_shared_fields_are_those_that_mean_the_same_in_transformers():
    theirs = {rule.field: rule.in_transformers for rule in RULES_IN_ORDER if rule.in_transformers}
    assert {name for name, of in theirs.items() if not of.differs} == {*SHARED}
    assert {name for name, of in theirs.items() if of.differs} == {"top_h"}


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
    values = {name: getattr(setting, name) for name in SHARED}
    generation = config(do_sample=True, **values)
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
