"""Where a model may lie: GGUF files, folders inside folders, the hub's cache."""

import json
import shutil
import socket
import threading
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import constants, utils
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from decoding import ModelLoadError, generate, load_model
from decoding.models.loading import load_generation_config
from decoding_evals.score.evaluation import score

EOS = "<|endoftext|>"  # also where a reader makes one up
VOCABULARY = {token: i for i, token in enumerate([EOS, *"abcdefghijklmnop", "ab", "abc"])}
MERGES = [("a", "b"), ("ab", "c")]
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def original():
    """A model of nineteen tokens as transformers makes it, with its tokenizer."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=19, hidden_size=32, intermediate_size=64, max_position_embeddings=40,
        rope_theta=10000.0, rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=0,
        eos_token_id=0, initializer_range=0.3, **SIZES,
    )  # fmt: skip
    raw = Tokenizer(models.BPE(vocab=VOCABULARY, merges=MERGES))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([EOS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS)
    return Qwen2ForCausalLM(config).eval(), tokenizer


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def packed_name(name):
    """What a weight is called in a GGUF file."""
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    module, _, kind = name.rpartition(".")
    if module in whole:
        return f"{whole[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{kind}"


@pytest.fixture(scope="module")
def packed(original, tmp_path_factory):
    """The same model in a GGUF file, in 8 bits where rows are long enough, else in 32."""
    model, _ = original
    path = tmp_path_factory.mktemp("packed") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("tiny")
    writer.add_context_length(40)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(VOCABULARY))
    kinds = [gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * 18]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        if "mlp" in name:
            blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(packed_name(name), blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
            with torch.no_grad():
                weight.copy_(torch.from_numpy(values))
        else:
            writer.add_tensor(packed_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[1, 2, 3, 17, 5, 0, 7]])).logits.numpy()


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_gguf_computes_what_its_weights_say(packed, original, form):
    found = load_model(str(packed if form == "file" else packed.parent))
    model, tokenizer = original
    np.testing.assert_allclose(logits(found.model), logits(model), atol=1e-5)
    assert found.model.config.max_position_embeddings == 40
    for text in ("abcabd", "pp", ""):
        assert found.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert found.tokenizer.eos_token == EOS
    assert load_generation_config(str(packed)).eos_token_id == 0


def test_a_model_from_a_gguf_is_a_plain_one(packed, tmp_path):
    found = load_model(str(packed))
    assert not getattr(found.model, "is_quantized", False)
    assert getattr(found.model.config, "quantization_config", None) is None
    found.model.save_pretrained(tmp_path)
    found.tokenizer.save_pretrained(tmp_path)
    again = load_model(str(tmp_path))
    np.testing.assert_array_equal(logits(again.model), logits(found.model))
    assert found.model.to(torch.bfloat16).float().dtype == torch.float32
    assert load_model(str(packed), dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_gguf_is_written_with_and_scored(packed):
    found = load_model(str(packed))
    [done] = generate(found, "abc", max_new_tokens=6, seed=1)
    [scored] = score(found, [done.prompt + done.text])
    assert scored.tokens > 0 and done.model == str(packed)


def test_a_folder_with_a_gguf_beside_safetensors_is_read_as_a_folder(packed, original, tmp_path):
    for part in original:
        part.save_pretrained(tmp_path)
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert load_model(str(tmp_path)).model.config.num_hidden_layers == 2


def test_of_several_gguf_files_one_is_to_be_named(packed, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(packed, tmp_path / name)
    with pytest.raises(ModelLoadError, match=r"has 2 GGUF files \('a.gguf', 'b.gguf'\); give the"):
        load_model(str(tmp_path))
    assert load_model(str(tmp_path / "b.gguf")).model.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.gguf", None, "model file '{}' does not exist"),
        ("x.gguf", b"hello", "model '{}' is a file, and no GGUF; give the folder"),
        ("model.safetensors", b"hello", "model '{}' is a file, and no GGUF; give the folder"),
        ("x.gguf", b"GGUF", "model '{}' could not be"),
        ("x.gguf", b"GGUF\3\0\0\0" + b"\xff" * 64, "model '{}' could not be"),
    ],
)
def test_files_that_are_no_models(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError) as error:
        load_model(str(path))
    assert message.format(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gguf_without_its_package_names_the_extra(packed, monkeypatch):
    monkeypatch.setattr("decoding.models.loading.is_gguf_available", lambda: False)
    with pytest.raises(ModelLoadError, match=r"pip install 'decoding-toolkit\[gguf\]'"):
        load_model(str(packed))


def test_a_model_in_a_subfolder(original, tmp_path, run):
    for part in original:
        part.save_pretrained(tmp_path / "in" / "side")
    found = load_model(str(tmp_path), subfolder="in/side")
    np.testing.assert_array_equal(logits(found.model), logits(original[0]))
    assert load_generation_config(str(tmp_path), subfolder="in/side").eos_token_id == 0
    with pytest.raises(ModelLoadError, match=r"/outside' does not exist"):
        load_model(str(tmp_path), subfolder="outside")
    with pytest.raises(ModelLoadError, match=r"has no config.json"):
        load_model(str(tmp_path), subfolder="in")
    code, out, _ = run(
        "generate", "a", "--model", tmp_path, "--subfolder", "in/side", "--seed", 1,
        "--max-new-tokens", 2, "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(out)["model"] == str(tmp_path)


def test_a_revision_is_of_the_hub(original, tmp_path):
    original[0].save_pretrained(tmp_path)
    for name in (str(tmp_path), "builtin:stories"):
        with pytest.raises(ModelLoadError, match="is not on the hub, so it has no revision"):
            load_model(name, revision="main")


@pytest.fixture
def cached(original, tmp_path, monkeypatch):
    """A cache of the hub with two revisions of `someone/tiny`, as huggingface_hub keeps it."""
    repository = tmp_path / "models--someone--tiny"
    for revision, commit in {"main": "a" * 40, "old": "b" * 40}.items():
        snapshot = repository / "snapshots" / commit
        for part in original:
            part.save_pretrained(snapshot)
        config = json.loads((snapshot / "config.json").read_text())
        (snapshot / "config.json").write_text(json.dumps(config | {"tiny_revision": revision}))
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_name_that_is_cached_is_found_offline(cached, original):
    found = load_model("someone/tiny")
    assert found.name == "someone/tiny" and found.model.config.tiny_revision == "main"
    np.testing.assert_array_equal(logits(found.model), logits(original[0]))
    assert load_model("someone/tiny", revision="old").model.config.tiny_revision == "old"
    assert load_model("someone/tiny", revision="b" * 40).model.config.tiny_revision == "old"
    assert load_generation_config("someone/tiny").eos_token_id == 0


@pytest.mark.parametrize(
    "asked", [{"revision": "older"}, {"subfolder": "inside"}, {"name_or_path": "someone/else"}]
)
def test_what_is_not_cached_is_one_line(cached, asked):
    with pytest.raises(ModelLoadError, match="could not be fetched from the hub") as error:
        load_model(**({"name_or_path": "someone/tiny"} | asked))
    assert "\n" not in str(error.value)


class SilentServer:
    """Takes connections and says nothing, as behind a network that swallows packets."""

    def __init__(self):
        self.connections = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                self.connections.append(self.socket.accept()[0])
            except OSError:
                return

    @property
    def address(self):
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"


@pytest.fixture
def silent(monkeypatch):
    """A hub that never answers."""
    server = SilentServer()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    getattr(utils, "close_session", getattr(utils, "reset_sessions", None))()  # made offline
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr("decoding.models.sources.HUB_SECONDS", 0.3)
    yield server
    server.socket.close()


def test_a_hub_that_does_not_answer_is_asked_once(cached, silent):
    start = time.monotonic()
    assert load_model("someone/tiny").model.config.tiny_revision == "main"
    assert time.monotonic() - start < 10
    assert len(silent.connections) == 1
    with pytest.raises(ModelLoadError, match="could not be fetched from the hub"):
        load_model("someone/else")
    assert len(silent.connections) == 2


def test_a_local_folder_asks_nobody(original, tmp_path, silent):
    for part in original:
        part.save_pretrained(tmp_path)
    load_model(str(tmp_path))
    load_model()
    assert silent.connections == []


def test_names_are_shown_as_they_were_written(tmp_path):
    assert Path("./nowhere") == Path("nowhere")
    with pytest.raises(ModelLoadError, match=r"model folder './nowhere' does not exist"):
        load_model("./nowhere")
