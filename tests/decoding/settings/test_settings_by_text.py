"""A setting may be given by its text form wherever one is taken."""

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, EntropyPolicy, Sampler, generate
from decoding.generation.branching import branch
from decoding.information.comparison import compare_rows, sum_rows
from decoding.settings import as_setting
from decoding_evals.compare import compare
from decoding_evals.identify import identify
from decoding_evals.score import score
from decoding_evals.uncertainty import uncertainty
from drawing import sample
from oracle import TOY_PROMPTS, left_padded

SPEC = "temperature=0.7,top_p=0.9"
SETTING = DecodingSettings.parse(SPEC)
POLICY = f"{SPEC} while entropy<=2 else greedy"
TEXTS = ["a b c d e f", "g h"]
SHORT = {"max_new_tokens": 6, "seed": 1}


def test_texts_and_settings_become_settings():
    assert as_setting(SPEC) == as_setting(SETTING) == SETTING
    policy = EntropyPolicy(settings=SPEC, entropy_above=2, then="greedy")
    assert as_setting(POLICY) == as_setting(policy) == policy
    assert policy.settings == SETTING and policy.then.greedy
    for wrong in (None, 0.7, b"raw", ["raw"], DecodingSettings):
        with pytest.raises(ValueError, match=r"settings must be a DecodingSettings or an Entropy"):
            as_setting(wrong)


def test_generation_takes_text(toy, toy_words):
    for text, setting in [("greedy", DecodingSettings(temperature=0)), (SPEC, SETTING)]:
        by_text, given = (generate(toy, ["a b", "c"], of, **SHORT) for of in (text, setting))
        assert [one.record() for one in by_text] == [one.record() for one in given]
    [of_policy] = generate(toy, "a b", POLICY, **SHORT)
    assert of_policy.record()["settings"] == POLICY
    by_text, given = (
        branch(toy_words, "a b", of, entropy_above=2, **SHORT) for of in (SPEC, SETTING)
    )
    assert by_text == given
    with pytest.raises(ValueError, match="unknown setting 'gredy'; did you mean 'greedy'"):
        generate(toy, "a b", "gredy")


def test_a_sampler_takes_text(toy_gpt2):
    inputs = left_padded(TOY_PROMPTS, 0)
    for text in (SPEC, POLICY):
        by_text, given = (
            sample(toy_gpt2, inputs, Sampler(of, seed=1)) for of in (text, as_setting(text))
        )
        assert by_text.tolist() == given.tolist()


def test_a_policys_function_may_answer_by_text(toy_gpt2):
    inputs = left_padded(TOY_PROMPTS, 0)
    by_text, given = (
        sample(toy_gpt2, inputs, Sampler(EntropyPolicy(entropy_above=1, then=then), seed=1))
        for then in (lambda _: "top_k=2", lambda _: DecodingSettings(top_k=2))
    )
    assert by_text.tolist() == given.tolist()


def test_evaluations_take_text(toy_words):
    by_text, given = (compare(toy_words, TEXTS, of) for of in (["raw", SPEC], ["raw", SETTING]))
    assert by_text.record() == given.record() and by_text.settings[1] == SETTING
    by_text, given = (
        [one.record() for one in score(toy_words, TEXTS, setting=of)] for of in (SPEC, SETTING)
    )
    assert by_text == given
    by_text, given = (
        [one.record() for one in identify(toy_words, TEXTS, ["raw", of])] for of in (SPEC, SETTING)
    )
    assert by_text == given
    by_text, given = (
        [one.record() for one in uncertainty(toy_words, ["a b"], of, num_samples=2, **SHORT)]
        for of in (SPEC, SETTING)
    )
    assert by_text == given


def test_rows_are_compared_by_text():
    logits, targets = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)), torch.arange(3)
    for function in (compare_rows, sum_rows):
        by_text, given = (function(logits, targets, [of, "raw"]) for of in (SPEC, SETTING))
        for one, other in zip(by_text, given, strict=True):
            np.testing.assert_array_equal(one, other)
