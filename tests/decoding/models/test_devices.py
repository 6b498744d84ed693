"""Models on several devices, or on none: what they compute is what they compute on one."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from decoding import LanguageModel, ModelLoadError, generate, load_model
from decoding.models.devices import input_device
from decoding_evals.attention.evaluation import attention
from decoding_evals.doctor.evaluation import doctor
from decoding_evals.score.evaluation import score

PARTS = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_llama):
    path = tmp_path_factory.mktemp("offloaded")
    toy_llama.save_pretrained(path)
    return path


@pytest.fixture(params=["all on disk", "the head on disk", "the embeddings on disk"])
def scattered(request, folder, toy_words):
    """The toy's model with weights that wait on disk."""
    devices = dict.fromkeys([*PARTS, "lm_head"], "cpu")
    for part in devices:
        on_disk = {"all on disk": True, "the head on disk": part == "lm_head"}
        if on_disk.get(request.param, part == "model.embed_tokens"):
            devices[part] = "disk"
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=devices)
    assert "meta" in {weight.device.type for weight in model.parameters()}
    return LanguageModel(model.eval(), toy_words.tokenizer, "toy")


def test_weights_on_disk_compute_what_weights_in_memory_do(scattered, toy_words):
    assert input_device(scattered.model) == torch.device("cpu")
    assert "cpu" in repr(scattered)
    prompts = ["a b c d", "e"]
    for ours, theirs in zip(
        generate(scattered, prompts, max_new_tokens=6, seed=2),
        generate(toy_words, prompts, max_new_tokens=6, seed=2),
        strict=True,
    ):
        assert ours.text == theirs.text
        np.testing.assert_allclose(
            ours.trace.raw_surprisal_nats, theirs.trace.raw_surprisal_nats, atol=1e-5
        )
    [ours], [theirs] = (list(score(m, ["a b c d e f"])) for m in (scattered, toy_words))
    np.testing.assert_allclose(ours.surprisal_nats, theirs.surprisal_nats, atol=1e-5)


def test_evaluations_that_run_the_model_themselves_find_its_inputs_device(scattered):
    assert attention(scattered, ["a b c d e f"]) is not None
    checks = doctor(scattered, "a b c d e f g h i j k l").checks
    assert {check.name: check.message for check in checks if check.status == "fail"} == {}


def test_auto_takes_the_devices_that_there_are(stories):
    found = load_model(device="auto")
    assert found.model.dtype == torch.float32
    [ours], [theirs] = (
        generate(model, "One day", max_new_tokens=5, seed=1) for model in (found, stories)
    )
    assert ours.text == theirs.text


def test_auto_without_accelerate_names_the_extra(monkeypatch):
    monkeypatch.setattr("decoding.models.devices.is_accelerate_available", lambda: False)
    with pytest.raises(ModelLoadError, match=r"pip install 'decoding-toolkit\[accelerate\]'"):
        load_model(device="auto")
