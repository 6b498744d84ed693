"""The chain of a setting inside `model.generate`: exactly the setting's distribution, no more."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from decoding import DecodingSettings, EntropyMonitor, NonFiniteLogitsError
from decoding.settings.processor import (
    EpsilonCutoffProcessor,
    EtaCutoffProcessor,
    MinPProcessor,
    NormalizeProcessor,
    SteeringProcessor,
    TemperatureProcessor,
    TopKProcessor,
    TopPProcessor,
    TypicalPProcessor,
    applied_before_chain,
)
from oracle import (
    HOSTILE,
    editing,
    left_padded,
    log_softmax,
    reference_log_q,
    reference_temperature,
    with_config,
)

PROMPTS = [[5, 2, 5, 2], [3, 1, 4], [7]]

if hasattr(GenerationConfig(), "top_h"):
    HOSTILE["top_h"] = 0.3
# These ask `generate` for another algorithm, or for a tokenizer, before any score is seen.
UNRUNNABLE = {"penalty_alpha": 0.6, "dola_layers": "low", "token_healing": True}

SETTINGS = [
    "raw",
    "greedy",
    "temperature=0.7",
    "temperature=1.5,top_k=6",
    "top_p=0.8,min_p=0.1",
    "temperature=0.8,typical_p=0.7,eta_cutoff=0.1",
    "temperature=2,top_k=12,top_p=0.9,min_p=0.02,typical_p=0.95,epsilon_cutoff=0.03",
    "temperature=1.3,dynatemp_range=0.8,top_h=0.7",
    "edt_theta=0.3,top_n_sigma=1.5,kl_budget=0.3",
    "target_entropy=1.5,p_less=0.7",
    "temperature=0.8,top_k=12,xtc_probability=0.4,xtc_threshold=0.05",
]


def prompts_for(name):
    """A forced first token shows only after a prompt of one token."""
    return [[7]] if name == "forced_bos_token_id" else PROMPTS


def scores_and_logits(model, prompts, **kwargs):
    """Processed scores and the model's own logits, `(steps, rows, vocab)`."""
    torch.manual_seed(0)
    outputs = model.generate(
        **left_padded(prompts, 0),
        **{"max_new_tokens": 5, "pad_token_id": 0} | kwargs,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(outputs.scores), torch.stack(outputs.logits)


def through_chain(settings, num_beams=1):
    return {"logits_processor": settings.processors(), **settings.generate_kwargs(num_beams)}


def assert_log_q(scores, logits, settings, tolerance=1e-5):
    """Each row of scores is log q of the same row of logits."""
    for got, z in zip(scores.flatten(0, -2), logits.flatten(0, -2), strict=True):
        want = reference_log_q(z.double().numpy(), settings)
        np.testing.assert_allclose(got.double().numpy(), want, rtol=0, atol=tolerance)


# Under a configuration that wants something else.


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_values_do_change_scores_by_themselves(toy_gpt2, name):
    prompts, plain = prompts_for(name), {"do_sample": True, "top_k": 0}
    assert torch.equal(*scores_and_logits(toy_gpt2, prompts, **plain))
    plain.pop(name, None)
    hostile = with_config(toy_gpt2, **{name: HOSTILE[name]})
    assert not torch.equal(*scores_and_logits(hostile, prompts, **plain))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
def test_scores_are_log_q_under_a_hostile_configuration(name, setting, request):
    settings = DecodingSettings.parse(setting)
    hostile = with_config(request.getfixturevalue(name), do_sample=True, **HOSTILE)
    scores, logits = scores_and_logits(hostile, PROMPTS, **through_chain(settings))
    assert_log_q(scores, logits, settings)
    torch.testing.assert_close(scores, settings.log_probs(logits), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "value"), (HOSTILE | UNRUNNABLE).items())
@pytest.mark.parametrize("setting", ["greedy", "temperature=1.5,top_k=9"])
def test_each_hostile_value_is_neutralised_alone(toy_gpt2, name, value, setting):
    settings = DecodingSettings.parse(setting)
    hostile = with_config(toy_gpt2, do_sample=True, **{name: value})
    scores, logits = scores_and_logits(hostile, prompts_for(name), **through_chain(settings))
    assert_log_q(scores, logits, settings)


def test_invalid_logits_are_not_mended_behind_the_monitors_back(toy_gpt2):
    def spoil(step, logits):
        return logits.index_fill(-1, torch.tensor([5]), torch.nan)

    settings = DecodingSettings()
    hostile = editing(with_config(toy_gpt2, remove_invalid_values=True), spoil)
    with pytest.raises(NonFiniteLogitsError):
        hostile.generate(
            **left_padded(PROMPTS, 0),
            logits_processor=settings.processors(EntropyMonitor()),
            max_new_tokens=2,
            **settings.generate_kwargs(),
        )


@pytest.mark.parametrize("setting", ["raw", "temperature=1.5,top_k=6"])
def test_beam_search_under_a_hostile_configuration_equals_a_neutral_one(toy_gpt2, setting):
    settings = DecodingSettings.parse(setting)

    def beams(model):
        return model.generate(
            **left_padded(PROMPTS, 0),
            max_new_tokens=8,
            return_dict_in_generate=True,
            output_scores=True,
            **through_chain(settings, num_beams=3),
        )

    neutral, hostile = beams(toy_gpt2), beams(with_config(toy_gpt2, do_sample=True, **HOSTILE))
    assert hostile.sequences.tolist() == neutral.sequences.tolist()
    assert torch.equal(hostile.sequences_scores, neutral.sequences_scores)


def test_no_hidden_top_k(random_gpt2):
    sampled = {"do_sample": True, "max_new_tokens": 2, "eos_token_id": None}
    scores, _ = scores_and_logits(random_gpt2.model, [[464, 383]], **sampled)
    assert scores.isfinite().sum(-1).max() == 50  # what transformers does when not told otherwise
    settings = DecodingSettings()
    scores, logits = scores_and_logits(
        random_gpt2.model, [[464, 383]], max_new_tokens=2, **through_chain(settings)
    )
    assert scores.isfinite().all()
    assert_log_q(scores, logits, settings)


def test_applied_before_chain_names_what_the_chain_would_not_see():
    assert applied_before_chain(GenerationConfig()) == {}
    assert applied_before_chain(GenerationConfig(do_sample=True, temperature=0.5, top_k=9)) == {}
    config = GenerationConfig(repetition_penalty=1.7, suppress_tokens=[4], min_new_tokens=0)
    found = applied_before_chain(config)
    assert found["repetition_penalty"] == 1.7
    assert found["suppress_tokens"] == [4]


# Beside Hugging Face's own.


@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
@pytest.mark.parametrize("eos", [None, 0])
def test_greedy_through_the_chain_is_hugging_face_greedy(name, eos, request):
    model, greedy = request.getfixturevalue(name), DecodingSettings(temperature=0)
    same = {**left_padded(PROMPTS, 0), "max_new_tokens": 20, "eos_token_id": eos}
    theirs = model.generate(**same, do_sample=False)
    assert model.generate(**same, **through_chain(greedy)).tolist() == theirs.tolist()


def test_raw_beams_through_the_chain_are_hugging_face_beams(toy_gpt2):
    same = {**left_padded(PROMPTS, 0), "max_new_tokens": 12, "num_return_sequences": 3}
    same |= {"return_dict_in_generate": True, "output_scores": True}
    theirs = toy_gpt2.generate(**same, do_sample=False, num_beams=3)
    ours = toy_gpt2.generate(**same, **through_chain(DecodingSettings(), num_beams=3))
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores)


@pytest.mark.parametrize("setting", ["temperature=0", "temperature=0,top_p=0.9"])
def test_greedy_cannot_score_beams(setting):
    with pytest.raises(ValueError, match="temperature=0 cannot score beams"):
        DecodingSettings.parse(setting).generate_kwargs(num_beams=2)


RULES = [
    (TemperatureProcessor, TemperatureLogitsWarper, 0.7),
    (TemperatureProcessor, TemperatureLogitsWarper, 1.9),
    (TopKProcessor, TopKLogitsWarper, 1),
    (TopKProcessor, TopKLogitsWarper, 7),
    (TopPProcessor, TopPLogitsWarper, 0.3),
    (TopPProcessor, TopPLogitsWarper, 0.95),
    (MinPProcessor, MinPLogitsWarper, 0.1),
    (TypicalPProcessor, TypicalLogitsWarper, 0.6),
    (EpsilonCutoffProcessor, EpsilonLogitsWarper, 0.02),
    (EtaCutoffProcessor, EtaLogitsWarper, 0.03),
]


@pytest.mark.parametrize(("ours", "theirs", "value"), RULES)
def test_each_processor_keeps_what_hugging_face_keeps(ours, theirs, value):
    scores = 3 * torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    got, want = ours(value)(None, scores), theirs(value)(None, scores.clone())
    assert torch.equal(got.isinf(), want.isinf())
    torch.testing.assert_close(got.log_softmax(-1), want.log_softmax(-1))
    assert torch.equal(scores, before)


@pytest.mark.parametrize("processor", sorted({rule[0] for rule in RULES}, key=lambda c: c.rule))
def test_neutral_values_change_nothing_and_wrong_ones_are_refused(processor):
    neutral = getattr(DecodingSettings(), processor.rule)
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(processor(neutral)(None, scores), scores)
    with pytest.raises(ValueError, match=rf"{processor.rule} must be .* got -1"):
        processor(-1)


def test_temperature_zero_keeps_the_first_of_tied_tokens():
    kept = TemperatureProcessor(0)(None, torch.tensor([[1.0, 3.0, 3.0]])).isfinite()
    assert kept.tolist() == [[False, True, False]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_normalise_works_in_float32_or_better(dtype):
    scores = torch.tensor([[1.0, 2.5, -math.inf]], dtype=dtype)
    got = NormalizeProcessor()(None, scores)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = log_softmax(scores[0].double().numpy())
    np.testing.assert_allclose(got[0].numpy(), want, rtol=1e-6)


def test_the_chain_has_one_processor_for_each_step_in_order():
    setting = DecodingSettings.parse(
        "dry_multiplier=1,dry_breakers=3,temperature=0.7,top_n_sigma=1,top_h=0.5,top_k=9,top_p=0.9,"
        "min_p=0.1,typical_p=0.9,epsilon_cutoff=0.1,eta_cutoff=0.1,p_less=0.5,kl_budget=1,"
        "xtc_probability=0.5,xtc_threshold=0.2"
    )
    *steps, last = setting.processors()
    assert isinstance(last, NormalizeProcessor)
    assert [step.rule for step in steps] == [name for name, _ in setting.steps()]
    assert steps[0].settings == DecodingSettings(dry_multiplier=1, dry_breakers=(3,))
    assert steps[-1].settings == DecodingSettings(xtc_probability=0.5, xtc_threshold=0.2)
    assert str(steps[-1]) == "XtcProcessor(xtc_probability=0.5,xtc_threshold=0.2)"


@pytest.mark.parametrize("setting", ["temperature=0.7,edt_theta=1", "target_entropy=2"])
def test_steering_takes_the_place_of_the_temperature(setting):
    settings = DecodingSettings.parse(f"{setting},top_k=5")
    steering, cut, last = settings.processors()
    assert (type(steering), type(cut)) == (SteeringProcessor, TopKProcessor)
    assert isinstance(last, NormalizeProcessor)
    assert steering.temperature is None
    scores = torch.randn(4, 20, generator=torch.Generator().manual_seed(1)).double()
    steering(None, scores)
    for z, got in zip(scores.numpy(), steering.temperature, strict=True):
        assert got.item() == pytest.approx(reference_temperature(z, settings), rel=1e-4)


# Processors that look alike.


def test_equal_looking_processors_are_both_kept(toy_gpt2):
    once, twice = TopPProcessor(0.9), TopPProcessor(0.9)
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
        toy_gpt2, PROMPTS, logits_processor=LogitsProcessorList([TopPProcessor(0.9)]), **own
    )
    ours = TopPProcessor(0.9)(None, logits)
    both = torch.stack([TopPLogitsWarper(0.9)(None, step) for step in ours])
    assert torch.equal(scores, both)
    assert not torch.equal(scores, ours)


def test_two_chains_in_a_row_apply_twice(toy_gpt2):
    settings = DecodingSettings(temperature=0.5)
    chains = LogitsProcessorList([*settings.processors(), *settings.processors()])
    scores, logits = scores_and_logits(
        toy_gpt2, PROMPTS, logits_processor=chains, **settings.generate_kwargs()
    )
    assert_log_q(scores, logits, DecodingSettings(temperature=0.25))
