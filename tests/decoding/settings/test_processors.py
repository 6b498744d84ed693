"""The processor of a setting inside `model.generate`: exactly log q, and nothing besides."""

import math

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

from decoding import DecodingSettings, EntropyMonitor, NonFiniteLogitsError
from decoding.settings.processor import SettingProcessor, applied_besides
from drawing import PROMPTS, scores_and_logits
from oracle import (
    HOSTILE,
    editing,
    left_padded,
    log_softmax,
    reference_log_q,
    with_config,
)

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


def under(settings, num_beams=1):
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
    scores, logits = scores_and_logits(hostile, PROMPTS, **under(settings))
    assert_log_q(scores, logits, settings)
    torch.testing.assert_close(scores, settings.log_probs(logits), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "value"), (HOSTILE | UNRUNNABLE).items())
@pytest.mark.parametrize("setting", ["greedy", "temperature=1.5,top_k=9"])
def test_each_hostile_value_is_neutralised_alone(toy_gpt2, name, value, setting):
    settings = DecodingSettings.parse(setting)
    hostile = with_config(toy_gpt2, do_sample=True, **{name: value})
    scores, logits = scores_and_logits(hostile, prompts_for(name), **under(settings))
    assert_log_q(scores, logits, settings)


def test_invalid_logits_are_not_mended_behind_the_monitors_back(toy_gpt2):
    def spoil(step, logits):
        return logits.index_fill(-1, torch.tensor([5]), torch.nan)

    settings = DecodingSettings()
    hostile = editing(with_config(toy_gpt2, remove_invalid_values=True), spoil)
    with pytest.raises(NonFiniteLogitsError):
        hostile.generate(
            **left_padded(PROMPTS, 0),
            max_new_tokens=2,
            **settings.generate_kwargs(monitor=EntropyMonitor()),
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
            **under(settings, num_beams=3),
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
        random_gpt2.model, [[464, 383]], max_new_tokens=2, **under(settings)
    )
    assert scores.isfinite().all()
    assert_log_q(scores, logits, settings)


def test_applied_besides_names_what_no_field_says():
    assert applied_besides(GenerationConfig()) == {}
    assert applied_besides(GenerationConfig(do_sample=True, temperature=0.5, top_k=9)) == {}
    config = GenerationConfig(repetition_penalty=1.7, suppress_tokens=[4], min_new_tokens=0)
    found = applied_besides(config)
    assert found["repetition_penalty"] == 1.7
    assert found["suppress_tokens"] == [4]


# Beside Hugging Face's own.


@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
@pytest.mark.parametrize("eos", [None, 0])
def test_greedy_by_the_processor_is_hugging_face_greedy(name, eos, request):
    model, greedy = request.getfixturevalue(name), DecodingSettings(temperature=0)
    same = {**left_padded(PROMPTS, 0), "max_new_tokens": 20, "eos_token_id": eos}
    theirs = model.generate(**same, do_sample=False)
    assert model.generate(**same, **under(greedy)).tolist() == theirs.tolist()


def test_raw_beams_by_the_processor_are_hugging_face_beams(toy_gpt2):
    same = {**left_padded(PROMPTS, 0), "max_new_tokens": 12, "num_return_sequences": 3}
    same |= {"return_dict_in_generate": True, "output_scores": True}
    theirs = toy_gpt2.generate(**same, do_sample=False, num_beams=3)
    ours = toy_gpt2.generate(**same, **under(DecodingSettings(), num_beams=3))
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores)


@pytest.mark.parametrize("setting", ["temperature=0", "temperature=0,top_p=0.9"])
def test_greedy_cannot_score_beams(setting):
    with pytest.raises(ValueError, match="temperature=0 cannot score beams"):
        DecodingSettings.parse(setting).generate_kwargs(num_beams=2)


# The processor itself.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_leaves_it_is_normalised_in_float32_or_better(dtype):
    scores = torch.tensor([[1.0, 2.5, -math.inf]], dtype=dtype)
    got = SettingProcessor(DecodingSettings())(None, scores)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = log_softmax(scores[0].double().numpy())
    np.testing.assert_allclose(got[0].numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_processor_gives_the_log_probs_of_its_setting(setting):
    settings = DecodingSettings.parse(setting)
    processors = settings.processors()
    assert isinstance(processors, LogitsProcessorList)
    [processor] = processors
    assert repr(processor) == f"SettingProcessor({setting!r})"
    scores = 3 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    got = processor(torch.zeros(6, 1, dtype=torch.long), scores)
    assert torch.equal(scores, before)
    torch.testing.assert_close(got, settings.log_probs(scores), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.logsumexp(-1), torch.zeros(6), rtol=0, atol=1e-6)


def test_processors_of_equal_settings_differ():
    [one], [other] = (DecodingSettings(top_p=0.9).processors() for _ in range(2))
    assert one == one and one != other


def test_neutral_arguments_hold_the_processor_where_there_is_a_monitor():
    settings, monitor = DecodingSettings(top_p=0.9), EntropyMonitor()
    plain = settings.generate_kwargs()
    assert "logits_processor" not in plain
    watched = settings.generate_kwargs(monitor=monitor)
    *_, processor = watched.pop("logits_processor")
    assert watched == plain
    assert (processor.settings, processor.monitor) == (settings, monitor)
    beams = settings.generate_kwargs(2, monitor=EntropyMonitor(num_beams=2))
    assert beams["num_beams"] == 2 and not beams["do_sample"] and beams["logits_processor"]


def test_two_processors_in_a_row_apply_twice(toy_gpt2):
    settings = DecodingSettings(temperature=0.5)
    both = LogitsProcessorList([*settings.processors(), *settings.processors()])
    scores, logits = scores_and_logits(
        toy_gpt2, PROMPTS, logits_processor=both, **settings.generate_kwargs()
    )
    assert_log_q(scores, logits, DecodingSettings(temperature=0.25))
