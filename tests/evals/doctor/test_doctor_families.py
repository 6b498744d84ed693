"""The doctor on architectures that do things their own way: no alarm without a fault."""

import copy
import math

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from decoding.models.loading import LanguageModel
from decoding_evals.doctor import texts
from decoding_evals.doctor.evaluation import CHECKS, REFERENCE, doctor
from decoding_evals.doctor.patient import Patient

SMALL = {
    "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
MAMBA = {
    "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2,
    "mamba_n_groups": 1, "mamba_chunk_size": 16,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip
RECURRENT = {
    "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8, "logits_soft_cap": 0.5,
    "w_init_variance_scale": 0.2,
}  # fmt: skip
FAMILIES = {
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "recurrent_gemma": RECURRENT,
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64, "lm_head_multiplier": 0.5},
    "minicpm3": LATENT | {"dim_model_base": 8},
    "granite": {"logits_scaling": 3.0},
    "bert": {"is_decoder": True, "type_vocab_size": 1},
    "modernbert-decoder": {},
}


def tiny(kind, tokenizer, **further):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**SMALL | FAMILIES.get(kind, {}) | further)
    return LanguageModel(AutoModelForCausalLM.from_config(config).eval(), tokenizer, kind)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(texts, "SAMPLES", 2)


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_alarm_is_false(stories, quick, kind):
    result = doctor(tiny(kind, stories.tokenizer))
    failed = [check for check in result.checks if check.status == "fail"]
    if kind == "recurrent_gemma":  # what stands in its padding reaches its convolution
        failed = [check for check in failed if check.name != "left padding"]
    assert failed == []


@pytest.mark.parametrize("kind", ["recurrent_gemma", "falcon_h1", "minicpm3", "granite", "bert"])
def test_a_temperature_beside_what_the_configuration_says_is_found(stories, kind):
    language_model = tiny(kind, stories.tokenizer)
    head = language_model.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, logits: logits / 1.3)
    finding = CHECKS["head"](Patient(language_model, REFERENCE))
    assert finding.status == "fail"
    if kind != "recurrent_gemma":  # a cap bends what would be a factor
        assert "a temperature of 1.3" in finding.message


# Without special tokens; without numbers.


def without_special_tokens(language_model):
    tokenizer = copy.deepcopy(language_model.tokenizer)
    model = copy.deepcopy(language_model.model)
    for name in ("bos_token", "eos_token", "pad_token"):
        setattr(tokenizer, name, None)
        setattr(model.config, f"{name}_id", None)
        setattr(model.generation_config, f"{name}_id", None)
    return LanguageModel(model, tokenizer, "plain")


@pytest.mark.parametrize("name", ["stories", "stories260k"])
def test_a_model_without_bos_and_eos_is_examined(request, quick, name):
    result = doctor(without_special_tokens(request.getfixturevalue(name)))
    assert result.passed
    skipped = {check.name: check.message for check in result.checks if check.status == "skipped"}
    # One of the two puts a token in front all the same, by its template.
    puts_nothing = name == "stories"
    none = {"reference text with BOS": "the tokenizer has neither BOS nor EOS"}
    assert skipped == (none if puts_nothing else {})
    said = any("neither BOS nor EOS: the first token" in note for note in result.notes)
    assert said == puts_nothing


def nan_everywhere(model):
    with torch.no_grad():
        model.get_output_embeddings().weight[:] = math.nan


def nan_in_one_token(model):
    with torch.no_grad():
        model.get_output_embeddings().weight[17] = math.nan


def nan_in_the_first_layer(model):
    with torch.no_grad():
        next(weights for name, weights in model.named_parameters() if ".0." in name)[0] = math.nan


@pytest.mark.parametrize("spoil", [nan_everywhere, nan_in_one_token, nan_in_the_first_layer])
def test_what_cannot_be_judged_without_numbers_is_skipped(stories260k, quick, spoil):
    model = copy.deepcopy(stories260k.model)
    spoil(model)
    result = doctor(LanguageModel(model, stories260k.tokenizer, "spoilt"))
    found = {check.name: check.status for check in result.checks}
    assert found.pop("finite logits") == "fail"
    assert found.pop("dtype") == found.pop("tokenizer round trip") == "pass"
    assert set(found.values()) == {"skipped"}
