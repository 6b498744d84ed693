"""Models of vision and language, read for text alone: what their language model would say."""

import json

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    InternVLConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
)

from decoding import LanguageModel, ModelLoadError, generate, load_model
from decoding.models.limits import positions, vocabulary
from decoding_evals.attention.evaluation import attention
from decoding_evals.doctor.evaluation import doctor
from decoding_evals.score.evaluation import score
from toys import words

TEXT = {
    "vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.5,
    "rms_norm_eps": 1e-6,
}  # fmt: skip
SIGHT = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2]}
MARKS = {
    "image_token_id": 20, "video_token_id": 21, "vision_start_token_id": 22,
    "vision_end_token_id": 23,
}  # fmt: skip


def llava():
    sight = CLIPVisionConfig(**SIGHT)
    return LlavaConfig(text_config=LlamaConfig(**TEXT), vision_config=sight, image_token_index=20)


def qwen2_vl():
    sight = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    text = TEXT | {"rope_scaling": dict(ROPE), "rope_theta": 10000.0}
    return Qwen2VLConfig(text_config=text, vision_config=sight, **MARKS)


def qwen2_5_vl():
    sight = {
        "depth": 1, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "patch_size": 4,
        "intermediate_size": 16, "fullatt_block_indexes": [0],
    }  # fmt: skip
    text = TEXT | {"rope_scaling": dict(ROPE), "rope_theta": 10000.0}
    return Qwen2_5_VLConfig(text_config=text, vision_config=sight, **MARKS)


def internvl():
    sight = SIGHT | {"image_size": [8, 8], "patch_size": [4, 4]}
    return InternVLConfig(
        text_config=Qwen2Config(**TEXT), vision_config=sight, image_token_id=20, image_seq_length=4
    )


LANGUAGE = {
    llava: lambda: LlamaForCausalLM(LlamaConfig(**TEXT)),
    qwen2_vl: lambda: Qwen2ForCausalLM(Qwen2Config(**TEXT)),
    qwen2_5_vl: lambda: Qwen2ForCausalLM(Qwen2Config(**TEXT)),
    internvl: lambda: Qwen2ForCausalLM(Qwen2Config(**TEXT)),
}


counts_left_padding = pytest.mark.skipif(
    transformers.__version__ < "5", reason="transformers 4 miscounts left-padded rows of Qwen2-VL"
)


def saved(folder, config):
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(folder)
    words(bos_token="<eos>", eos_token="<eos>").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=LANGUAGE, ids=lambda kind: kind.__name__)
def pair(request, tmp_path_factory):
    """A model of vision and language, loaded, and a plain one with its language weights."""
    found = load_model(saved(tmp_path_factory.mktemp("vision"), request.param()))
    plain = LANGUAGE[request.param]().eval()
    plain.model.load_state_dict(found.model.model.language_model.state_dict())
    plain.lm_head.load_state_dict(found.model.lm_head.state_dict())
    return found, LanguageModel(plain, found.tokenizer, "plain")


def test_its_numbers_are_those_of_its_language_model(pair):
    text = ["a b c d e f g", "h"]
    for ours, theirs in zip(*(list(score(model, text)) for model in pair), strict=True):
        np.testing.assert_allclose(ours.surprisal_nats, theirs.surprisal_nats, atol=1e-5)
        np.testing.assert_allclose(ours.entropy_nats, theirs.entropy_nats, atol=1e-5)
    assert [positions(model.model) for model in pair] == [64, 64]
    assert [vocabulary(model.model) for model in pair] == [24, 24]


@counts_left_padding
def test_its_heads_and_its_health_can_be_looked_at(pair):
    assert attention(pair[0], ["a b c d e f"]) is not None
    checks = doctor(pair[0], "a b c d e f g h i j k l m n").checks
    assert {check.name: check.message for check in checks if check.status == "fail"} == {}


@counts_left_padding
@pytest.mark.parametrize("beams", [1, 2])
def test_it_writes_what_its_language_model_writes_alone_and_in_a_batch(pair, beams):
    prompts = ["a b c d e f", "b", "c d a"]
    options = {"max_new_tokens": 8, "seed": 1, "num_beams": beams}
    ours, theirs = (generate(model, prompts, **options) for model in pair)
    alone = [generate(pair[0], prompt, **options)[0] for prompt in prompts]
    for one, other, lone in zip(ours, theirs, alone, strict=True):
        assert one.text == other.text == lone.text
        for trace in (other.trace, lone.trace):
            np.testing.assert_allclose(
                one.trace.raw_surprisal_nats, trace.raw_surprisal_nats, atol=1e-4
            )


def test_code_that_a_part_of_the_configuration_names_is_forgotten(tmp_path):
    folder = saved(tmp_path, llava())
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["auto_map"] = {"AutoModel": "code.A", "AutoModelForCausalLM": "code.B"}
    path.write_text(json.dumps(config))
    assert not hasattr(load_model(folder).model.config.text_config, "auto_map")


def test_what_has_no_language_model_of_its_own_is_refused(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(vision_config=SIGHT, text_config=SIGHT | {"vocab_size": 24})
    CLIPModel(config).save_pretrained(tmp_path)
    words(bos_token="<eos>").save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="of type 'clip', which is no causal language model"):
        load_model(str(tmp_path))
