"""A setting as a generation configuration of transformers, against transformers' own processors."""

from inspect import signature

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessorList

from decoding import DecodingSettings
from decoding.rules import CUT, Cut
from decoding.settings.settings import RULES_IN_ORDER
from oracle import HOSTILE, left_padded, with_config
from some_settings import NEUTRAL, OWNERS, WARPERS, of_hugging_face

checked = settings(derandomize=True, max_examples=300)
# Under a higher temperature tokens are alike to rounding, and nobody's order of them is firm.
away_from_ties = st.builds(
    DecodingSettings, temperature=st.sampled_from([0.0, 1.0]) | st.floats(1e-3, 100), **WARPERS
)
SHARED = {"temperature", *WARPERS}
# Nothing that says "off" overrules these in a configuration.
WITHOUT_OFF = {
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "min_new_tokens",
    "forced_bos_token_id", "forced_eos_token_id", "sequence_bias", "guidance_scale",
    "exponential_decay_length_penalty", "watermarking_config", "top_h",
}  # fmt: skip


class Floor(Cut):
    """Keep tokens with probability at least c, as ε-sampling does."""

    field, neutral, range, example = "floor_of_this_test", 0.0, CUT, "0.1"

    def keep(self, rows, c):
        return rows.within_surprisal(-rows.log(c))


def by_transformers(model, config, logits):
    """q, `(rows, vocab)`, of the processors that transformers makes of a configuration.

    Without sampling there are none, and the first of the largest is taken.
    """
    processors = model._get_logits_processor(
        config, input_ids_seq_length=1, logits_processor=LogitsProcessorList(), device="cpu"
    )
    scores = processors(torch.zeros(len(logits), 1, dtype=torch.long), logits)
    if not config.do_sample:
        return torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).double()
    return scores.softmax(-1)


def rows_of(seed, vocab=40):
    """Rows without ties, in float64, so that no cut falls into rounding."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(4, vocab, generator=generator, dtype=torch.float64)


def off_by(setting, config, model, seed):
    """The largest total variation between q and transformers' q."""
    logits = rows_of(seed)
    ours = setting.log_probs(logits).exp()
    return float((ours - by_transformers(model, config, logits)).abs().sum(-1).max() / 2)


@checked
@given(setting=of_hugging_face)
def test_the_setting_is_read_back(setting):
    if 0 < setting.temperature < 1e-30:
        with pytest.raises(ValueError, match=r"temperature >= 1e-30, got temperature="):
            setting.to_generation_config()
        return
    back = DecodingSettings.from_generation_config(setting.to_generation_config())
    assert back == (DecodingSettings(temperature=0) if setting.greedy else setting)


@checked
@given(setting=away_from_ties, seed=st.integers(0, 10**6))
def test_transformers_draws_from_the_same_q(toy_gpt2, setting, seed):
    assert off_by(setting, setting.to_generation_config(), toy_gpt2, seed) < 1e-9


@pytest.mark.parametrize("field", sorted(SHARED))
def test_each_shared_field_acts_in_transformers(toy_gpt2, field):
    """The comparison sees it, where a field is not said."""
    example = next(rule.example for rule in RULES_IN_ORDER if rule.field == field)
    value = {"epsilon_cutoff": "0.05", "eta_cutoff": "0.3", "top_k": "5"}.get(field, example)
    setting = DecodingSettings.parse(f"{field}={value}")
    config = setting.to_generation_config()
    assert getattr(config, field) == getattr(setting, field)
    assert off_by(setting, config, toy_gpt2, 1) < 1e-9
    assert off_by(setting, DecodingSettings().to_generation_config(), toy_gpt2, 1) > 1e-3


@pytest.mark.parametrize("field", sorted({*NEUTRAL} - SHARED - {*OWNERS}))
def test_what_transformers_lacks_is_refused_by_name(field):
    example = next(rule.example for rule in RULES_IN_ORDER if rule.field == field)
    setting = DecodingSettings.parse(f"top_p=0.9,{field}={example}")
    with pytest.raises(ValueError, match=f"transformers.* {field}.*{field}={example}"):
        setting.to_generation_config()


def test_a_rule_of_ones_own_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no floor_of_this_test.*floor_of_this_test=0.1"):
        DecodingSettings(extra=(Floor(0.1),)).to_generation_config()


@pytest.mark.parametrize("text", ["raw", "temperature=0.7,min_p=0.02", "top_k=30,typical_p=0.9"])
def test_nothing_comes_back_that_a_model_or_transformers_would_fill_in(toy_gpt2, text):
    setting = DecodingSettings.parse(text)
    hostile = {name: value for name, value in HOSTILE.items() if name not in WITHOUT_OFF}
    assert {"top_k", "min_p", "repetition_penalty", "min_length"} <= {*hostile}
    config = setting.to_generation_config()
    config.return_dict_in_generate = config.output_scores = config.output_logits = True
    model = with_config(toy_gpt2, num_beams=3, **hostile)
    # Transformers 4 takes a value that equals its default for one that nobody gave.
    told = "use_model_defaults" in signature(model.generate).parameters
    torch.manual_seed(0)
    outputs = model.generate(
        **left_padded([[5], [3, 0, 7, 2]], 0), generation_config=config, max_new_tokens=6,
        **{"use_model_defaults": False} if told else {},
    )  # fmt: skip
    scores, logits = torch.stack(outputs.scores), torch.stack(outputs.logits)
    want = setting.log_probs(logits)
    torch.testing.assert_close(scores.log_softmax(-1), want, rtol=0, atol=1e-5)


def test_it_is_saved_and_loaded_as_any_configuration(tmp_path):
    setting = DecodingSettings(temperature=0.7, top_p=0.9)
    setting.to_generation_config().save_pretrained(tmp_path)
    loaded = GenerationConfig.from_pretrained(tmp_path)
    assert DecodingSettings.from_generation_config(loaded) == setting
