"""The folder that gives `model.generate` a setting, against a `Sampler` with the same seed."""

import copy
import shutil
import warnings

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    MaxLengthCriteria,
    TextIteratorStreamer,
    pipeline,
    set_seed,
)

from decoding import Sampler, generate, load_model
from decoding.engines.custom_generate import write_folder
from decoding.settings.policy import as_setting
from drawing import Ban
from oracle import HOSTILE, left_padded, with_config

pytestmark = pytest.mark.usefixtures("own_modules")

PROMPTS = [[5, 2, 5, 2], [3, 1, 4], [7], [3, 1, 4]]
SETTING = "temperature=0.7,top_p=0.9"


@pytest.fixture
def folder(tmp_path):
    """Writes the folder of a setting."""

    def write(setting=SETTING, name="hub"):
        write_folder(setting, tmp_path / name)
        return {"custom_generate": str(tmp_path / name), "trust_remote_code": True}

    return write


@pytest.fixture
def with_weights(stories, tmp_path):
    """A model's folder that holds `custom_generate/` beside the weights, as a repository may."""
    place = tmp_path / "repository"
    stories.model.save_pretrained(place)
    stories.tokenizer.save_pretrained(place)
    write_folder(SETTING, tmp_path / "apart")
    shutil.copytree(tmp_path / "apart/custom_generate", place / "custom_generate")
    return str(place)


def sampled(model, inputs, setting, seed, **arguments):
    """The tokens of a `Sampler`."""
    settings = as_setting(setting)
    sampler = Sampler(settings, seed=seed)
    arguments = {"max_new_tokens": 12, **arguments, **settings.generate_kwargs()}
    return model.generate(**inputs, custom_generate=sampler, **arguments).tolist()


def texts_of(stories, prompt, seed, setting=SETTING, **arguments):
    """What a `Sampler` writes behind a prompt, the prompt included."""
    inputs = stories.tokenizer(prompt, return_tensors="pt")
    ids = sampled(stories.model, inputs, setting, seed, **arguments)
    begin = inputs["input_ids"].shape[1]
    return [prompt + stories.tokenizer.decode(row[begin:], skip_special_tokens=True) for row in ids]


# The same tokens.


@pytest.mark.parametrize(
    "setting",
    [
        "raw",
        "greedy",
        SETTING,
        "top_k=12,adaptive_p=0.3,adaptive_p_decay=0.5",
        "mirostat_tau=1.5",
        "dry_multiplier=3,dry_allowed_length=1,dry_breakers=3/5,temperature=0.8",
        "xtc_probability=0.5,xtc_threshold=0.05,xtc_spared=3/5",
        "top_p=0.9 while entropy<=1.8 else temperature=0.3",
    ],
)
def test_tokens_are_those_of_a_sampler(toy_llama, folder, setting):
    several = {} if setting == "greedy" else {"num_return_sequences": 2}
    inputs = left_padded(PROMPTS, 0)
    got = toy_llama.generate(
        **inputs, **folder(setting), seed=3, max_new_tokens=12, pad_token_id=0, **several
    )
    assert got.tolist() == sampled(toy_llama, inputs, setting, 3, pad_token_id=0, **several)


def test_folders_of_one_name_are_each_themselves(toy_llama, tmp_path):
    inputs, found = left_padded(PROMPTS, 0), []
    for setting in ("greedy", "temperature=3"):
        write_folder(setting, tmp_path / "hub")  # replaces the one before
        found.append(
            toy_llama.generate(
                **inputs, custom_generate=str(tmp_path / "hub"), trust_remote_code=True, seed=1,
                max_new_tokens=12,
            ).tolist()
        )  # fmt: skip
        assert found[-1] == sampled(toy_llama, inputs, setting, 1)
    assert found[0] != found[1]


def test_a_pipeline_writes_what_a_sampler_writes(stories, folder):
    pipe = pipeline("text-generation", model=stories.model, tokenizer=stories.tokenizer)
    prompt = "Once upon a time"
    got = pipe(prompt, **folder(), seed=7, max_new_tokens=12, num_return_sequences=2)
    want = texts_of(stories, prompt, 7, num_return_sequences=2)
    assert [one["generated_text"] for one in got] == want
    many = pipe([prompt, "The dog"], **folder(), seed=7, max_new_tokens=12, batch_size=2)
    assert [one["generated_text"] for [one] in many] == [
        *texts_of(stories, prompt, 7),
        *texts_of(stories, "The dog", 7),
    ]


def test_a_repository_with_weights_writes_so_in_a_pipeline_and_without(stories, with_weights):
    pipe = pipeline("text-generation", model=with_weights, trust_remote_code=True)
    [got] = pipe("Once upon a time", seed=7, max_new_tokens=12)
    assert [got["generated_text"]] == texts_of(stories, "Once upon a time", 7)
    model = AutoModelForCausalLM.from_pretrained(with_weights, trust_remote_code=True)
    inputs = AutoTokenizer.from_pretrained(with_weights)("Once upon a time", return_tensors="pt")
    want = sampled(stories.model, inputs, SETTING, 7)
    assert model.generate(**inputs, seed=7, max_new_tokens=12).tolist() == want
    ids = inputs["input_ids"]
    assert model.generate(ids, seed=7, max_new_tokens=12).tolist() == want


def test_the_toolkit_keeps_its_own_setting_on_such_a_model(stories, with_weights):
    loaded = load_model(with_weights, trust_remote_code=True)
    assert "generate" in vars(loaded.model)  # transformers has put the folder's in its place
    prompts = ["Once upon a time", "The dog"]
    for beams in (1, 2):
        ours, plain = (
            generate(lm, prompts, "top_k=5", seed=2, max_new_tokens=8, num_beams=beams)
            for lm in (loaded, stories)
        )
        assert [one.text for one in ours] == [one.text for one in plain]


def test_without_a_seed_torchs_random_numbers_give_one(toy_llama, folder):
    hub, inputs = folder("raw"), left_padded(PROMPTS, 0)

    def drawn():
        return toy_llama.generate(**inputs, **hub, max_new_tokens=12).tolist()

    set_seed(4)
    first, second = drawn(), drawn()
    set_seed(4)
    assert drawn() == first != second


# Arguments and configurations.


def test_what_the_models_own_configuration_says_gives_way(toy_gpt2, folder):
    hostile = with_config(toy_gpt2, do_sample=True, num_beams=3, **HOSTILE)
    inputs, hub = left_padded(PROMPTS, 0), folder()
    want = sampled(toy_gpt2, inputs, SETTING, 3)
    same = {"seed": 3, "max_new_tokens": 12}
    assert hostile.generate(**inputs, **hub, **same).tolist() == want
    copied = copy.deepcopy(hostile.generation_config)
    copied.max_new_tokens = 12
    got = hostile.generate(**inputs, **hub, seed=3, generation_config=copied)
    assert got.tolist() == want


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.3),
        ("top_k", 5),
        ("do_sample", False),
        ("num_beams", 2),
        ("repetition_penalty", 1.2),
        ("min_new_tokens", 3),
        ("suppress_tokens", [3]),
        ("guidance_scale", 1.5),
        ("assistant_model", object()),
        ("assistant_tokenizer", object()),
        ("negative_prompt_ids", torch.tensor([[1]])),
        ("negative_prompt_attention_mask", torch.tensor([[1]])),
        ("synced_gpus", True),
        ("cache_implementation", "paged"),
    ],
)
def test_an_argument_that_cannot_be_honoured_is_refused_by_name(toy_gpt2, folder, name, value):
    hub = folder("top_p=0.9")
    with pytest.raises(ValueError, match=f"^{name}") as error:
        toy_gpt2.generate(**left_padded(PROMPTS, 0), **hub, seed=1, **{name: value})
    assert "\n" not in str(error.value)
    if not isinstance(value, (int, float, list)) or name in ("synced_gpus", "do_sample"):
        return
    config = GenerationConfig(**{"do_sample": True, name: value})
    with pytest.raises(ValueError, match=f"^{name}"):
        toy_gpt2.generate(**left_padded(PROMPTS, 0), **hub, seed=1, generation_config=config)


def test_another_loop_inside_this_one_is_refused(stories, with_weights, folder):
    model = AutoModelForCausalLM.from_pretrained(with_weights, trust_remote_code=True)
    with pytest.raises(ValueError, match=r"^custom_generate cannot be heeded"):
        model.generate(torch.tensor([[5]]), **folder(), seed=1)


def test_arguments_that_say_what_the_setting_says_are_no_contradiction(toy_gpt2, folder):
    inputs = left_padded(PROMPTS, 0)
    got = toy_gpt2.generate(
        **inputs, **folder(), seed=1, max_new_tokens=12, do_sample=True, temperature=0.7, top_k=0,
        top_p=0.9, num_beams=1, repetition_penalty=1.0, synced_gpus=False,
    )  # fmt: skip
    want = sampled(toy_gpt2, inputs, SETTING, 1)
    assert got.tolist() == want
    config = GenerationConfig(do_sample=True, temperature=0.3, max_new_tokens=12)
    got = toy_gpt2.generate(
        **inputs, **folder(), seed=1, generation_config=config, temperature=None
    )
    assert got.tolist() == want


def test_what_pipelines_add_gives_way_and_is_said(stories, folder):
    pipe = pipeline("text-generation", model=stories.model, tokenizer=stories.tokenizer)
    for setting in ("top_p=0.9", "greedy"):
        hub, same = folder(setting), {"seed": 7, "max_new_tokens": 8}
        with pytest.warns(UserWarning, match="temperature=0.7, as pipelines add it, gives way to"):
            [got] = pipe("Once upon a time", **hub, **same)
        want = texts_of(stories, "Once upon a time", 7, setting, max_new_tokens=8)
        assert [got["generated_text"]] == want
        with pytest.raises(ValueError, match=r"^temperature=0.6 would change"):
            pipe("Once upon a time", **hub, **same, temperature=0.6)


def test_a_pipeline_that_is_told_so_adds_nothing(stories, folder):
    pipe = pipeline("text-generation", model=stories.model, tokenizer=stories.tokenizer)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pipe("Once", **folder("top_p=0.9"), seed=7, max_new_tokens=3, temperature=None)
    assert not [one for one in said if "gives way" in str(one.message)]


def test_other_arguments_work_as_ever(stories, folder):
    model, tokenizer, hub = stories.model, stories.tokenizer, folder()
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    begin = inputs["input_ids"].shape[1]

    def ids(**arguments):
        return model.generate(**inputs, **hub, seed=7, **{"max_new_tokens": 30} | arguments)

    want = sampled(model, inputs, SETTING, 7, max_new_tokens=30)
    assert ids().tolist() == want
    config = GenerationConfig(max_length=begin + 5, eos_token_id=0, return_dict_in_generate=True)
    short = ids(max_new_tokens=None, generation_config=config)
    assert short.sequences.tolist() == [want[0][: begin + 5]]
    assert ids(stopping_criteria=[MaxLengthCriteria(begin + 4)]).tolist() == [want[0][: begin + 4]]
    assert ids(cache_implementation="static").tolist() == want
    assert ids(past_key_values=DynamicCache(config=model.config)).tolist() == want
    banned = ids(logits_processor=[Ban(in_place=False)])[0, begin:]
    assert (banned % 2 == 1).all()
    allowed = [want[0][begin], 9]
    only = ids(prefix_allowed_tokens_fn=lambda _, __: allowed)[0, begin:]
    assert {*only.tolist()} <= {*allowed}
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    ids(streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(want[0][begin:])


def test_stop_strings_end_a_row(stories, folder):
    model, tokenizer, hub = stories.model, stories.tokenizer, folder()
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    same = {"seed": 7, "max_new_tokens": 60, "stop_strings": ["."]}
    [stopped] = model.generate(**inputs, **hub, **same, tokenizer=tokenizer).tolist()
    [whole] = sampled(model, inputs, SETTING, 7, max_new_tokens=60)
    assert tokenizer.decode(stopped).count(".") == 1 and whole[: len(stopped)] == stopped
    assert tokenizer.decode(stopped).endswith(".") and len(stopped) < len(whole)
    with pytest.raises(ValueError, match=r"^stop_strings=\['.'\] need a tokenizer"):
        model.generate(**inputs, **hub, **same)
    own, same = with_config(model, stop_strings=["."]), {"seed": 7, "max_new_tokens": 60}
    assert own.generate(**inputs, **hub, **same, tokenizer=tokenizer).tolist() == [stopped]
    with pytest.raises(ValueError, match=r"^stop_strings=\['.'\] need a tokenizer"):
        own.generate(**inputs, **hub, **same)
