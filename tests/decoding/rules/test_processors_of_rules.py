"""Rules one by one in `model.generate`, beside Hugging Face's warpers."""

import pytest
import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from decoding import DecodingSettings
from decoding.rules import (
    BUILT_IN,
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    Mirostat,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)
from decoding.settings.processor import SettingProcessor
from drawing import PROMPTS, scores_and_logits

MIROSTAT = DecodingSettings(mirostat_tau=1)

PAIRS = [
    (Temperature, TemperatureLogitsWarper, 0.7),
    (Temperature, TemperatureLogitsWarper, 1.9),
    (TopK, TopKLogitsWarper, 1),
    (TopK, TopKLogitsWarper, 7),
    (TopP, TopPLogitsWarper, 0.3),
    (TopP, TopPLogitsWarper, 0.95),
    (MinP, MinPLogitsWarper, 0.1),
    (TypicalP, TypicalLogitsWarper, 0.6),
    (EpsilonCutoff, EpsilonLogitsWarper, 0.02),
    (EtaCutoff, EtaLogitsWarper, 0.03),
]
LISTS = [
    [(Temperature, TemperatureLogitsWarper, 0.7), (TopP, TopPLogitsWarper, 0.9)],
    [(TopK, TopKLogitsWarper, 12), (TypicalP, TypicalLogitsWarper, 0.8)],
    [(Temperature, TemperatureLogitsWarper, 1.6), *PAIRS[3::2]],
]


@pytest.mark.parametrize("of", [*([pair] for pair in PAIRS), *LISTS])
def test_rules_give_what_hugging_faces_warpers_give(of):
    """Element by element; without ties, of which Hugging Face keeps others."""
    scores = 3 * torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    ours = LogitsProcessorList([rule(value) for rule, _, value in of])
    theirs = LogitsProcessorList([warper(value) for _, warper, value in of])
    got = ours(None, scores)
    assert torch.equal(scores, before)
    assert torch.equal(got, theirs(None, scores.clone()))


@pytest.mark.parametrize("of", LISTS)
@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
def test_generate_draws_the_same_tokens_by_either(name, of, request):
    model, neutral = request.getfixturevalue(name), DecodingSettings().generate_kwargs()
    given = [
        [rule(value) for rule, _, value in of],
        [warper(value) for _, warper, value in of],
    ]
    ours, theirs = (
        scores_and_logits(
            model, PROMPTS, logits_processor=LogitsProcessorList(some), max_new_tokens=12,
            eos_token_id=None, **neutral,
        )
        for some in given
    )  # fmt: skip
    assert torch.equal(ours[1], theirs[1])  # of the same tokens
    assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("rule", BUILT_IN.values())
def test_neutral_values_change_nothing_and_wrong_ones_are_refused(rule):
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2, 1]] * 3)
    assert torch.equal(rule(rule.neutral)(ids, scores), scores)
    with pytest.raises(ValueError, match=rf"{rule.field} must be .* got -1"):
        rule(-1)


def test_temperature_zero_keeps_the_first_of_tied_tokens():
    kept = Temperature(0)(None, torch.tensor([[1.0, 3.0, 3.0]])).isfinite()
    assert kept.tolist() == [[False, True, False]]


# Processors that look alike.


def test_equal_looking_rules_are_both_kept(toy_gpt2):
    once, twice = TopP(0.9), TopP(0.9)
    assert once != twice
    neutral = DecodingSettings().generate_kwargs()
    scores, logits = scores_and_logits(
        toy_gpt2, PROMPTS, logits_processor=LogitsProcessorList([once, twice]), **neutral
    )
    applied_twice = twice(None, once(None, logits))
    assert torch.equal(scores, applied_twice)
    assert not torch.equal(scores, once(None, logits))


def test_our_top_p_and_the_models_own_are_both_kept(toy_gpt2):
    own = {"do_sample": True, "top_p": 0.9, "top_k": 0}
    scores, logits = scores_and_logits(
        toy_gpt2, PROMPTS, logits_processor=LogitsProcessorList([TopP(0.9)]), **own
    )
    ours = TopP(0.9)(None, logits)
    both = torch.stack([TopPLogitsWarper(0.9)(None, step) for step in ours])
    assert torch.equal(scores, both)
    assert not torch.equal(scores, ours)


@pytest.mark.parametrize("make", [lambda: Mirostat(1.0), lambda: SettingProcessor(MIROSTAT)])
@pytest.mark.parametrize("shape", [(1, 3), (2, 5), (1, 6)])
def test_what_remembers_draws_refuses_a_second_call(make, shape):
    processor, scores = make(), torch.randn(1, 20, generator=torch.Generator().manual_seed(1))
    for length in (3, 4):
        processor(torch.zeros(1, length, dtype=torch.long), scores)
    with pytest.raises(ValueError, match="make a new one for each call"):
        processor(torch.zeros(shape, dtype=torch.long), scores.expand(shape[0], -1))
