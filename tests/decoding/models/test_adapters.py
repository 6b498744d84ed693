"""Adapters: a model with one computes what peft's own wrapper computes."""

import json
import shutil
from contextlib import suppress

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from decoding import ModelLoadError, generate, load_model
from decoding.models.loading import load_generation_config
from decoding.models.sources import BUILTIN
from decoding.passes.head import LogitHead
from toys import words

IDS = torch.tensor([[1, 2, 3, 4, 5, 0, 7]])


@pytest.fixture
def base(tmp_path, toy_llama):
    """The folder of the untrained Llama."""
    path = tmp_path / "base"
    toy_llama.save_pretrained(path)
    words(bos_token="<eos>", eos_token="<eos>").save_pretrained(path)
    return path


CONFIGURATIONS = {
    "LoRA": peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    "LoRA of all layers": peft.LoraConfig(r=2, lora_alpha=7, target_modules="all-linear"),
    "DoRA": peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]),
    "LoRA of head and embeddings": peft.LoraConfig(r=2, target_modules=["lm_head", "embed_tokens"]),
    "LoRA with a trained head": peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]
    ),
    "IA3": peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[]),
    "LoHa": peft.LoHaConfig(r=2, target_modules=["q_proj"]),
}


def adapter(folder, base, config, **options):
    """Save an adapter whose weights are random, and give peft's wrapper of it."""
    torch.manual_seed(5)
    wrapper = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in wrapper.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 2)
    wrapper.eval().save_pretrained(folder, **options)
    return wrapper


@torch.no_grad()
def logits(model):
    return model(IDS).logits.numpy()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_adapter_computes_what_peft_does(base, tmp_path, name):
    folder = tmp_path / "adapter"
    wrapper = adapter(folder, base, CONFIGURATIONS[name])
    found = load_model(str(folder))
    plain = logits(load_model(str(base)).model)
    assert np.abs(logits(wrapper) - plain).max() > 0.01
    np.testing.assert_allclose(logits(found.model), logits(wrapper), atol=1e-5)
    assert type(found.model) is type(load_model(str(base)).model)
    assert found.name == str(folder) and not found.model.training
    assert LogitHead(found.model).full_logits is None


def test_a_batch_is_written_as_one_sequence_alone_and_traced_as_scored(base, tmp_path):
    adapter(tmp_path / "adapter", base, CONFIGURATIONS["LoRA of all layers"])
    found = load_model(str(tmp_path / "adapter"))
    prompts = ["a b c d e", "f"]
    together = generate(found, prompts, max_new_tokens=5, seed=4)
    for prompt, done in zip(prompts, together, strict=True):
        [alone] = generate(found, prompt, max_new_tokens=5, seed=4)
        assert alone.text == done.text
        ids = [*done.prompt_ids, *done.trace.ids.tolist()]
        with torch.no_grad():
            rows = torch.log_softmax(found.model(torch.tensor([ids])).logits[0].double(), -1)
        first = len(done.prompt_ids)
        want = [-rows[place - 1, ids[place]].item() for place in range(first, len(ids))]
        np.testing.assert_allclose(done.trace.raw_surprisal_nats, want, atol=1e-4)


def test_another_base_may_be_named(base, tmp_path, run):
    folder = tmp_path / "adapter"
    wrapper = adapter(folder, base, CONFIGURATIONS["LoRA"])
    base = base.rename(tmp_path / "moved")
    with pytest.raises(ModelLoadError, match=r"the base of adapter .*does not exist; name another"):
        load_model(str(folder))
    found = load_model(str(folder), base=str(base))
    np.testing.assert_allclose(logits(found.model), logits(wrapper), atol=1e-5)
    assert load_generation_config(str(folder), base=str(base)).eos_token_id == 0
    code, out, err = run("score", "-", "--model", folder, "--base", base, "--json", stdin=b"a b")
    assert code == 0, err
    assert json.loads(out)["tokens"][1]["surprisal_nats"] > 0


def test_the_embedded_model_can_be_a_base(tmp_path, stories):
    wrapper = peft.get_peft_model(load_model().model, peft.LoraConfig(r=1, task_type="CAUSAL_LM"))
    wrapper.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BUILTIN
    found = load_model(str(tmp_path))
    np.testing.assert_allclose(logits(found.model), logits(stories.model), atol=1e-5)


def test_an_adapters_own_tokenizer_is_taken(base, tmp_path):
    folder = tmp_path / "adapter"
    adapter(folder, base, CONFIGURATIONS["LoRA"])
    assert load_model(str(folder)).tokenizer.chat_template is None
    own = words(bos_token="<eos>", eos_token="<eos>")
    own.chat_template = "{{ messages }}"
    own.save_pretrained(folder)
    found = load_model(str(folder)).tokenizer
    assert found.chat_template == "{{ messages }}" and found.padding_side == "left"


def test_half_precision_keeps_an_adapters_small_weights(base, tmp_path):
    folder = tmp_path / "adapter"
    adapter(folder, base, CONFIGURATIONS["LoRA"])
    own = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    want = peft.PeftModel.from_pretrained(own, folder).eval()
    found = load_model(str(folder), dtype="bfloat16")
    np.testing.assert_array_equal(*(logits(m.float()) for m in (found.model, want)))


def refusal(folder, **options):
    with pytest.raises(ModelLoadError) as error:
        load_model(str(folder), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_are_missing_or_have_no_place_are_refused(base, tmp_path):
    folder = tmp_path / "adapter"
    adapter(folder, base, CONFIGURATIONS["LoRA"])
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    some = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != some}, file)
    assert "missing adapter keys" in refusal(folder)
    save_file(weights | {some.replace("layers.0", "layers.9"): weights[some].clone()}, file)
    assert "belongs to another base" in refusal(folder)
    save_file({name: torch.cat([value, value]) for name, value in weights.items()}, file)
    assert "other shapes" in refusal(folder)


def test_pickled_weights_are_refused(base, tmp_path):
    adapter(tmp_path / "adapter", base, CONFIGURATIONS["LoRA"], safe_serialization=False)
    assert (tmp_path / "adapter" / "adapter_model.bin").exists()
    assert "has no adapter_model.safetensors" in refusal(tmp_path / "adapter")


def test_virtual_tokens_are_refused_by_name(base, tmp_path):
    adapter(
        tmp_path / "adapter", base,
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    )  # fmt: skip
    assert "virtual tokens in front (PROMPT_TUNING)" in refusal(tmp_path / "adapter")


def test_what_is_no_adapter_takes_no_base(base):
    assert "is no adapter, so it takes no base" in refusal(base, base=BUILTIN)


def test_a_folder_with_a_model_and_an_adapter_is_ambiguous(base, tmp_path):
    wrapper = adapter(base, base, CONFIGURATIONS["LoRA"])
    assert "holds a whole model and an adapter; to use the adapter, name its base" in refusal(base)
    other = tmp_path / "other"
    shutil.copytree(base, other, ignore=shutil.ignore_patterns("adapter*"))
    found = load_model(str(base), base=str(other))
    np.testing.assert_allclose(logits(found.model), logits(wrapper), atol=1e-5)


@pytest.mark.parametrize("named", [None, "", 7, ["a"]])
def test_an_adapter_without_a_base_asks_for_one(base, tmp_path, named):
    folder = tmp_path / "adapter"
    adapter(folder, base, CONFIGURATIONS["LoRA"])
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": named}
    path.write_text(json.dumps(config))
    assert "names no base; name one (--base)" in refusal(folder)


def test_the_base_of_an_adapter_is_no_adapter(base, tmp_path):
    folder = tmp_path / "adapter"
    adapter(folder, base, CONFIGURATIONS["LoRA"])
    assert "must be no adapter" in refusal(folder, base=str(folder))


def test_a_base_asks_for_no_more_than_any_model(base, tmp_path):
    folder = tmp_path / "adapter"
    adapter(folder, base, CONFIGURATIONS["LoRA"])
    config = json.loads((base / "config.json").read_text()) | {"attn_implementation": "who/kernel"}
    (base / "config.json").write_text(json.dumps(config))
    assert "asks for code from the hub" in refusal(folder)


def test_code_that_an_adapter_asks_for_is_not_run(base, tmp_path):
    folder = tmp_path / "adapter"
    adapter(folder, base, CONFIGURATIONS["LoRA"])
    path = folder / "adapter_config.json"
    asked = {"megatron_config": {"a": 1}, "megatron_core": "this"}
    path.write_text(json.dumps(json.loads(path.read_text()) | asked))
    assert "--trust-remote-code" in refusal(folder)
    adapter(folder, base, CONFIGURATIONS["LoRA"])
    words(eos_token="<eos>").save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    asked = {"auto_map": {"AutoTokenizer": ["code.A", None]}, "tokenizer_class": "Homemade"}
    path.write_text(json.dumps(json.loads(path.read_text()) | asked))
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    with suppress(ModelLoadError):
        load_model(str(folder))
    assert not (folder / "ran").exists()


def test_without_peft_the_extra_is_named(base, tmp_path, monkeypatch):
    adapter(tmp_path / "adapter", base, CONFIGURATIONS["LoRA"])
    monkeypatch.setattr("decoding.models.adapters.is_peft_available", lambda: False)
    assert "pip install 'decoding-toolkit[peft]'" in refusal(tmp_path / "adapter")
