"""Loading, and what the embedded model must keep to."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

import decoding
from conftest import shared
from decoding import DecodingSettings, ModelLoadError, Sampler, generate, load_model
from decoding.models.loading import load_generation_config
from decoding.models.sources import BUILTIN
from decoding_evals.doctor.evaluation import doctor

RAW = DecodingSettings()
FOLDER = Path(decoding.__file__).parent / "stories"


def test_the_embedded_model_is_small_half_precision_safetensors():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8_000_000
    header_length = int.from_bytes((FOLDER / "model.safetensors").read_bytes()[:8], "little")
    header = json.loads((FOLDER / "model.safetensors").read_bytes()[8 : 8 + header_length])
    assert {t["dtype"] for name, t in header.items() if name != "__metadata__"} == {"F16"}
    config = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_defaults_on_a_cpu(stories):
    assert stories.name == BUILTIN
    assert stories.model.dtype == torch.float32 and not stories.model.training
    assert load_model(dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16
    assert load_model(dtype=torch.float16, device="cpu").model.dtype == torch.float16


def test_prompts_padded_by_the_tokenizer_go_on_as_they_do_alone(stories):
    prompts = ["Once upon a time there was", "The dog"]
    options = {"max_new_tokens": 12, **RAW.generate_kwargs()}

    def tokens_after(prompts):
        inputs = stories.tokenizer(prompts, return_tensors="pt", padding=True)
        ids = stories.model.generate(**inputs, custom_generate=Sampler(RAW, seed=3), **options)
        return ids[:, inputs["input_ids"].shape[1] :].tolist()

    assert tokens_after(prompts) == [row for prompt in prompts for row in tokens_after([prompt])]


def test_the_tokenizer_gives_what_the_model_is_to_read(stories):
    """Transformers 4 would add token types, and GPT-2 their embeddings."""
    assert set(stories.tokenizer("Once upon a time")) == {"input_ids", "attention_mask"}


@given(st.text())
@settings(derandomize=True)
def test_any_text_round_trips(stories, text):
    ids = stories.tokenizer(text)["input_ids"]
    assert stories.tokenizer.decode(ids) == text


@given(st.binary(min_size=1))
@settings(derandomize=True)
def test_every_byte_has_a_token(stories, data):
    text = data.decode("utf-8", "replace")
    assert None not in stories.tokenizer(text)["input_ids"]


def test_held_out_stories_cost_at_most_1_05_bits_per_character(stories):
    """-log2 p(story | BOS), in float64, without the end token; the last 100 stories."""
    text = shared("data/tinystories/stories.txt").read_text(encoding="utf-8")
    held_out = [s.strip("\n") for s in text.split("<|endoftext|>") if s.strip("\n")][-100:]
    nats = 0.0
    for story in held_out:
        ids = [stories.tokenizer.bos_token_id, *stories.tokenizer(story)["input_ids"]]
        with torch.no_grad():
            logits = stories.model(torch.tensor([ids])).logits[0, :-1].double().numpy()
        top = logits.max(-1)
        log_partition = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        nats += (log_partition - logits[np.arange(len(ids) - 1), ids[1:]]).sum()
    bits = nats / math.log(2) / sum(map(len, held_out))
    assert bits <= 1.05
    figure = (FOLDER / "MODEL_CARD.md").read_text().split("bits per character on the held-out")[0]
    assert f"{bits:.3f}" in figure[-200:]


def test_a_local_folder_and_its_generation_configuration(tmp_path, stories):
    GPT2LMHeadModel(GPT2Config(vocab_size=2048, n_layer=1, n_embd=8, n_head=1)).save_pretrained(
        tmp_path
    )
    stories.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.model.config.n_layer == 1 and loaded.name == str(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "top_p": 0.5}')
    assert load_generation_config(str(tmp_path)).top_p == 0.5


def test_weights_that_are_no_safetensors_are_refused(tmp_path, stories):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=2048, n_layer=1, n_embd=8, n_head=1))
    model.config.save_pretrained(tmp_path)
    stories.tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="no safetensors weights"):
        load_model(str(tmp_path))


def small_model(folder, tokenizer, **values):
    """A complete model folder with 2,048 tokens."""
    values = {"vocab_size": 2048, "n_layer": 1, "n_embd": 8, "n_head": 1} | values
    model = GPT2LMHeadModel(GPT2Config(**values))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_weights_that_are_missing_are_not_made_up(tmp_path, stories):
    small_model(tmp_path, stories.tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": 2}))
    with pytest.raises(ModelLoadError, match=r"lacks \d+ of its weights"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x00\xff" * 50),
        ("config.json", b'{"model_type": "gpt2", "n_layer": "six"}'),
        ("config.json", b"{broken"),
        ("tokenizer.json", b"{broken"),
    ],
)
def test_broken_files_are_one_error(tmp_path, stories, name, content):
    small_model(tmp_path, stories.tokenizer)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelLoadError, match=str(tmp_path)):
        load_model(str(tmp_path))


def test_a_tokenizer_of_another_model_is_named_where_a_token_has_no_row(
    tmp_path, stories, random_gpt2
):
    small_model(tmp_path, random_gpt2.tokenizer)
    with pytest.raises(ValueError, match=r"\('.*ebra'\): the tokenizer has 50257 tokens, and the "):
        generate(load_model(str(tmp_path)), "A zebra")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, random_gpt2):
    small_model(tmp_path, random_gpt2.tokenizer)
    for pattern in ("*token*", "vocab*", "merges*"):
        for file in tmp_path.glob(pattern):
            file.unlink()
    with pytest.raises(ModelLoadError):
        load_model(str(tmp_path))


def test_remote_code_does_not_run_unless_asked(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "homemade", "auto_map": {"AutoConfig": "code.Config"}})
    )
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelLoadError, match="--trust-remote-code"):
        load_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name_or_path": "./nowhere"}, "'./nowhere' does not exist"),
        ({"name_or_path": "builtin:poems"}, "builtin:stories"),
        ({"name_or_path": "no/such-model"}, "use a local folder"),
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"dtype": "floaty"}, "unknown dtype 'floaty'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ModelLoadError, match=message):
        load_model(**arguments)


TEXT = "the dog and the cat went to the park and the sun was warm"


@pytest.mark.parametrize("where", ["its own", "an adapter's"])
def test_chance_that_a_tokenizer_has_for_training_is_left_out(tmp_path, stories, where):
    small_model(tmp_path / "base", stories.tokenizer)
    want = stories.tokenizer(TEXT)["input_ids"]
    path = tmp_path / "base" / "tokenizer.json"
    held = json.loads(path.read_text())
    held["model"]["dropout"] = 0.5
    path.write_text(json.dumps(held))
    folder = {"name_or_path": tmp_path / "base"}
    if where == "an adapter's":
        peft = pytest.importorskip("peft")
        base = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
        lora = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
        peft.get_peft_model(base, lora).save_pretrained(tmp_path / "lora")
        for file in (tmp_path / "base").glob("tokenizer*"):
            (tmp_path / "lora" / file.name).write_bytes(file.read_bytes())
        folder = {"name_or_path": tmp_path / "lora", "base": tmp_path / "base"}
    tokenizer = load_model(**folder).tokenizer
    assert all(tokenizer(TEXT)["input_ids"] == want for _ in range(20))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_accelerator_is_named():
    with pytest.raises(ModelLoadError, match="no CUDA device"):
        load_model(device="cuda")


def test_a_model_in_double_precision_is_read_as_any_other(stories):
    """Norms, rotations and the logits themselves are in float32 there, whatever the weights."""
    for name in (BUILTIN, str(shared("models/stories260K"))):
        wide, narrow = load_model(name, dtype="float64"), load_model(name)
        prompts = ["Once upon a time", "The dog"]
        got, want = (
            generate(model, prompts, RAW, seed=1, max_new_tokens=8) for model in (wide, narrow)
        )
        assert [one.text for one in got] == [one.text for one in want]
        assert doctor(wide).passed


def test_a_folder_may_be_given_as_a_path(tmp_path, stories):
    small_model(tmp_path / "in", stories.tokenizer)
    for found in (load_model(tmp_path / "in"), load_model(tmp_path, subfolder=Path("in"))):
        assert isinstance(found.name, str) and found.model.name_or_path == found.name
    assert load_model(tmp_path / "in").name == str(tmp_path / "in")
    assert load_generation_config(tmp_path / "in").eos_token_id is not None


@pytest.mark.parametrize("load", [load_model, load_generation_config])
@pytest.mark.parametrize("name", [None, 5, b"gpt2"])
def test_what_is_neither_name_nor_path_is_refused(load, name):
    kind = type(name).__name__
    with pytest.raises(TypeError, match=f"^name_or_path must be a name or a path, got {kind}$"):
        load(name)
    with pytest.raises(TypeError, match=f"^subfolder must be a name or a path, got {kind}$"):
        load(BUILTIN, subfolder=name)


@pytest.mark.parametrize("name", ["a" * 300, "/" + "a" * 300, "./" + "a" * 300 + ".gguf", "a\0b"])
def test_a_name_that_no_file_can_have_is_refused_as_any_other(name):
    for where in ({"name_or_path": name}, {"subfolder": name.lstrip("./")}):
        with pytest.raises(ModelLoadError):
            load_model(**where)


def test_weights_for_which_a_model_has_no_place_are_named(tmp_path, stories, run):
    small_model(tmp_path, stories.tokenizer, n_layer=3)
    command = ("generate", "Once", "--max-new-tokens", "1", "--model", tmp_path)
    assert load_model(tmp_path).unused_weights == stories.unused_weights == ()
    assert "not used" not in run(*command)[2]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 2}))
    found = load_model(tmp_path)
    unused = len(found.unused_weights)
    assert unused >= 11  # one, `c_attn.bias`, transformers takes for a mask of old checkpoints
    assert all(name.startswith("transformer.h.2.") for name in found.unused_weights)
    says = f"weights that are not used: {unused}, among them {found.unused_weights[0]}"
    assert f"{str(tmp_path)!r}: {says}\n" in run(*command)[2]
    assert says in doctor(found).notes
