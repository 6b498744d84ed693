"""A model folder is somebody else's: what its files may not ask for, and may not print."""

import json
import unicodedata

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from decoding import LanguageModel, ModelLoadError, load_model
from decoding.models.faults import first_line, visible
from decoding.models.loading import load_generation_config
from decoding_evals.judging.entailment import EntailmentModel
from toys import words


@pytest.fixture
def folder(tmp_path):
    """A model of seventeen words."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=17, n_positions=32, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    words(bos_token="<eos>", eos_token="<eos>").save_pretrained(tmp_path)
    return tmp_path


def change(folder, name="config.json", **values):
    """Set what stands in a JSON file."""
    path = folder / name
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | values))


def refusal(load, *arguments, **options):
    with pytest.raises(ModelLoadError) as error:
        load(*arguments, **options)
    message = str(error.value)
    assert message.isprintable(), ascii(message)
    assert len(message) < 600
    return message


KERNEL = "somebody/kernel"


@pytest.mark.parametrize(
    "asked",
    [
        {"_attn_implementation": KERNEL},
        {"attn_implementation": KERNEL},
        {"attn_implementation": f"{KERNEL}@v2:function"},
        {"_attn_implementation": {"": "eager", "text_config": KERNEL}},
        {"experts_implementation": KERNEL},
        {"text_config": {"_attn_implementation": KERNEL}},
        {"vision_config": {"encoder": {"_experts_implementation": KERNEL}}},
        {"per_layer_config": [{}, {"attn_implementation": KERNEL}]},
        {"attn_implementation": f"paged|{KERNEL}"},
    ],
)
def test_code_from_the_hub_that_a_configuration_names_is_refused(folder, asked):
    change(folder, **asked)
    for load in (load_model, load_generation_config):
        message = refusal(load, str(folder))
        assert KERNEL in message and "--trust-remote-code" in message


def test_implementations_that_transformers_has_are_nobody_elses(folder):
    change(folder, _attn_implementation="eager")
    assert load_model(str(folder)).model.config.n_layer == 1


def test_code_of_its_own_does_not_run_and_is_not_needed_where_transformers_knows_the_model(folder):
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    change(folder, auto_map={"AutoConfig": "code.A", "AutoModelForCausalLM": "code.B"})
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.C", "code.C"]})
    assert load_model(str(folder)).model.config.n_layer == 1
    change(folder, model_type="homemade")
    assert "--trust-remote-code" in refusal(load_model, str(folder))
    assert not (folder / "ran").exists()


def test_an_entailment_model_is_held_to_the_same(folder):
    config = BertConfig(
        vocab_size=17, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, id2label={0: "entailment", 1: "other"},
        label2id={"entailment": 0, "other": 1},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    words(pad_token="<eos>").save_pretrained(folder)
    assert EntailmentModel(str(folder))(["a"]).shape == (1, 1)
    change(folder, _attn_implementation=KERNEL)
    message = refusal(EntailmentModel, str(folder))
    assert message.startswith("entailment model") and KERNEL in message
    assert refusal(EntailmentModel, "/nope") == "entailment model folder '/nope' does not exist"


def test_an_entailment_model_without_its_head_is_refused(folder):
    change(folder, id2label={0: "entailment", 1: "other"}, pad_token_id=0)
    assert "lacks 1 of its weights, among them score" in refusal(EntailmentModel, str(folder))


def logits(language_model):
    with torch.no_grad():
        return language_model.model(torch.tensor([[1, 2, 3]])).logits


def split(folder, **map_):
    """Replace the weights by an index that maps every weight to the file of another name."""
    weights = GPT2LMHeadModel.from_pretrained(folder).state_dict()
    weights.pop("lm_head.weight")
    weights = {name: value.clone() for name, value in weights.items()}
    (folder / "model.safetensors").unlink()
    file = map_.pop("file")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, file)} | map_
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


def test_an_index_of_safetensors_loads(folder):
    save_file(split(folder, file="part.safetensors"), folder / "part.safetensors", {"format": "pt"})
    assert load_model(str(folder)).model.config.n_layer == 1


@pytest.mark.parametrize("file", ["w.bin", "pytorch_model.bin", "w.safetensors.bin", 7, None])
def test_an_index_may_name_nothing_but_safetensors(folder, file):
    weights = split(folder, file=file)
    torch.save(weights, folder / (file if isinstance(file, str) else "w.bin"))
    message = refusal(load_model, str(folder))
    assert f"weights that are no safetensors ({file!r})" in message


@pytest.mark.parametrize("above", ["../other.safetensors", "a/../../other.safetensors"])
def test_an_index_may_name_nothing_outside_its_folder(folder, above):
    save_file(split(folder, file=above), folder.parent / "other.safetensors", {"format": "pt"})
    assert "weights outside its folder" in refusal(load_model, str(folder))


def test_an_index_may_not_name_an_absolute_path(folder, tmp_path_factory):
    elsewhere = str(tmp_path_factory.mktemp("other") / "w.safetensors")
    save_file(split(folder, file=elsewhere), elsewhere, {"format": "pt"})
    assert "weights outside its folder" in refusal(load_model, str(folder))


@pytest.mark.parametrize("index", ["[]", '{"weight_map": 3}', "{}", "{", "null", "7"])
def test_an_index_that_is_none_is_refused(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refusal(load_model, str(folder))


def test_a_configuration_may_name_its_weights_but_no_pickle(folder):
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    change(folder, transformers_weights="own.safetensors")
    load_model(str(folder))
    torch.save({}, folder / "adapter_model.bin")
    change(folder, transformers_weights="adapter_model.bin")
    assert "no safetensors ('adapter_model.bin')" in refusal(load_model, str(folder))


ESCAPES = "\x1b[31mred\x9b2J\u202e\u2028\u2066\ufeff"


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"model_type": ESCAPES}),
        ("config.json", {"dtype": ESCAPES}),
        ("config.json", {"torch_dtype": ESCAPES}),
        ("config.json", {"activation_function": ESCAPES}),
        ("config.json", {"attn_implementation": f"{ESCAPES}/kernel"}),
        ("config.json", {"transformers_weights": ESCAPES}),
        ("config.json", {"n_layer": ESCAPES}),
        ("adapter_config.json", {"base_model_name_or_path": ESCAPES}),
        ("tokenizer_config.json", {"tokenizer_class": ESCAPES}),
        ("generation_config.json", {"cache_implementation": ESCAPES}),
    ],
)
def test_what_stands_in_a_folder_is_never_printed_raw(folder, file, values, run):
    change(folder, file, **values)
    if file == "adapter_config.json":
        (folder / "config.json").unlink()
    for command in (["generate", "a", "--max-new-tokens", "1"], ["settings"]):
        _, out, err = run(*command, "--model", folder)
        for text in (out, err):
            assert not set(ESCAPES) - set("[31mred2J") & set(text), ascii(text)
        assert "Traceback" not in err


def test_names_of_missing_weights_are_made_visible(folder):
    weights = split(folder, file=f"{ESCAPES}.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {f"{name}{ESCAPES}": file for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    renamed = {f"{name}{ESCAPES}": value for name, value in weights.items()}
    save_file(renamed, folder / f"{ESCAPES}.safetensors", {"format": "pt"})
    refusal(load_model, str(folder))


def test_visible_spells_out_what_acts_or_hides_and_nothing_else():
    every = [chr(i) for i in (*range(0x10000), *range(0xE0000, 0xE0100), 0x1F600, 0x110BD)]
    changed = {c for c in every if visible(c) != c}
    assert changed == {
        c
        for c in every
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\u200c\u200d"
    }
    assert visible("a\x1b[0m\u2028b") == "a\\x1b[0m\\u2028b"
    assert visible("a\n\tb", kept="\n\t") == "a\n\tb"
    assert visible("سلام\u200cها") == "سلام\u200cها"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "config.json is not JSON"),
        (b"not json", "config.json is not JSON"),
        (b"\xff\xfe\x00", "config.json is not JSON"),
        (b"[" * 100_000, "config.json is not JSON"),
        (b"[]", "config.json must hold an object, got list"),
        (b"null", "config.json must hold an object, got null"),
        (b'"gpt2"', "config.json must hold an object, got str"),
        (b"{}", "model"),
        (b'{"model_type": "gpt2"}', "other shapes"),
        (b'{"model_type": ["gpt2"]}', "model"),
        (b'{"model_type": "t5"}', "no causal language model"),
        (b'{"model_type": "clip"}', "no causal language model"),
    ],
)
def test_a_broken_configuration_is_one_line(folder, content, says):
    (folder / "config.json").write_bytes(content)
    assert says in refusal(load_model, str(folder))


def test_a_configuration_that_is_a_folder_is_none(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "has no config.json" in refusal(load_model, str(folder))


@pytest.mark.parametrize("value", [10**9, 10**15, -1, 0, 1.5, "x", None, [], True, 1e400])
@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "vocab_size", "n_positions"])
def test_numbers_that_no_model_has_are_one_line_or_do_no_harm(folder, key, value):
    change(folder, **{key: value})
    try:
        found = load_model(str(folder))
    except ModelLoadError as error:
        found = str(error)
    assert isinstance(found, LanguageModel) or found.isprintable()


@pytest.mark.parametrize("key", ["num_labels", "num_local_experts", "max_window_layers"])
def test_what_is_counted_without_end_is_refused_before_it_is_built(folder, key):
    change(folder, **{key: 10**9})
    assert f"{key} = 1000000000, and 100000 is a lot" in refusal(load_model, str(folder))


@pytest.mark.parametrize(
    "value", [1e18, "x", {"a": 1}, [0, "x"], [[0]], 10**30, [0, 2**31], -2, -(10**30)]
)
@pytest.mark.parametrize("key", ["eos_token_id", "decoder_start_token_id"])
def test_ids_that_are_none_are_refused(folder, key, value):
    change(folder, "generation_config.json", **{key: value})
    assert f"{key} = {value!r}" in refusal(load_model, str(folder))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{"])
def test_a_broken_generation_configuration_is_not_left_out(folder, content):
    (folder / "generation_config.json").write_bytes(content)
    for load in (load_model, load_generation_config):
        assert "generation_config.json" in refusal(load, str(folder))


def test_what_a_configuration_says_of_outputs_is_of_no_account(folder):
    want = logits(load_model(str(folder)))
    change(folder, return_dict=False, use_cache=False, output_hidden_states=True)
    assert torch.equal(logits(load_model(str(folder))), want)


def test_layers_without_end_are_refused_before_they_are_built(folder):
    change(folder, n_layer=10**12)
    assert "n_layer = 1000000000000, and it has 16 weights" in refusal(load_model, str(folder))


@pytest.mark.parametrize(
    "key", ["decoder_layers", "encoder_layers", "num_decoder_layers", "encoder_num_hidden_layers"]
)
def test_layers_of_any_name_are_at_most_as_many_as_weights(folder, key):
    change(folder, **{key: 17})
    assert f"{key} = 17, and it has 16 weights" in refusal(load_model, str(folder))


def test_where_windows_begin_and_how_often_layers_differ_is_no_number_of_layers(folder):
    change(folder, max_window_layers=28, global_attn_every_n_layers=100)
    load_model(str(folder))


def test_the_reason_follows_where_the_first_line_only_announces_it(folder):
    assert first_line(ValueError("Error for field 'a':\n    TypeError: no number\nmore")) == (
        "Error for field 'a': TypeError: no number"
    )
    assert first_line(ValueError("wrong (\nb)")) == "wrong ( b)"
    assert first_line(ValueError("alone:")) == "alone:"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(KeyError("nosuch")) == "KeyError: 'nosuch'"
    assert first_line(ValueError()) == "ValueError"
    change(folder, activation_function="nosuch")
    assert "KeyError: " in refusal(load_model, str(folder))
    change(folder, activation_function="gelu", vocab_size="many")
    assert "many" in refusal(load_model, str(folder))
