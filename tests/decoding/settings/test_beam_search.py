"""What a checkpoint asks of beam search: left out by settings, recorded, and shown."""

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import GenerationConfig

from decoding import DecodingSettings, Sampler, generate
from decoding.settings.processor import applied_besides, of_beams
from drawing import PROMPTS, sample
from oracle import assert_oracle, left_padded, watch, with_config

OF_BEAMS = [
    {"length_penalty": -4.0},
    {"length_penalty": 6.0},
    {"early_stopping": True},
    {"early_stopping": "never", "length_penalty": -3.0},
    {"num_beams": 5, "length_penalty": 3.0, "early_stopping": True, "num_return_sequences": 2},
]


def beams(model, num_return_sequences=3, **kwargs):
    return model.generate(
        **left_padded(PROMPTS, 0), max_new_tokens=14, eos_token_id=[0, 5, 9], pad_token_id=0,
        num_return_sequences=num_return_sequences, return_dict_in_generate=True,
        output_scores=True, **kwargs,
    )  # fmt: skip


def ours(model, setting, num_beams=3):
    settings = DecodingSettings.parse(setting)
    return beams(
        model,
        logits_processor=settings.processors(),
        **settings.generate_kwargs(num_beams),
    )


@pytest.mark.parametrize("values", OF_BEAMS[:-1])
def test_such_values_do_change_beams_by_themselves(toy_gpt2, values):
    plain = beams(toy_gpt2, num_beams=3)
    asked = beams(with_config(toy_gpt2, **values), num_beams=3)
    same = plain.sequences.tolist() == asked.sequences.tolist()
    assert not same or plain.sequences_scores.tolist() != asked.sequences_scores.tolist()


@pytest.mark.parametrize("values", OF_BEAMS)
@pytest.mark.parametrize("setting", ["raw", "temperature=1.5,top_k=9"])
def test_a_setting_searches_as_transformers_does_by_default(toy_gpt2, values, setting):
    asked, plain = ours(with_config(toy_gpt2, **values), setting), ours(toy_gpt2, setting)
    assert asked.sequences.tolist() == plain.sequences.tolist()
    assert asked.sequences_scores.tolist() == plain.sequences_scores.tolist()
    if setting == "raw":
        theirs = beams(toy_gpt2, num_beams=3, do_sample=False)
        assert asked.sequences.tolist() == theirs.sequences.tolist()


@pytest.mark.parametrize("values", OF_BEAMS)
def test_a_checkpoint_that_searches_is_traced_and_drawn_from_all_the_same(toy_gpt2, values):
    model, settings = with_config(toy_gpt2, **values), DecodingSettings(temperature=0.8)
    for num_beams in (1, 2):
        for prompt, trace in watch(model, PROMPTS, settings, num_beams=num_beams, eos=0):
            assert_oracle(toy_gpt2, prompt, trace, settings)
    inputs = left_padded(PROMPTS, 0)
    asked, plain = (
        sample(one, inputs, Sampler(settings, seed=1), num_return_sequences=1)
        for one in (model, toy_gpt2)
    )
    assert asked.tolist() == plain.tolist()
    # What only concerns beams is no reason for a Sampler to refuse a call.
    neutral = settings.generate_kwargs()
    for name in values.keys() - {"num_beams"}:
        neutral.pop(name, None)
    sampler = Sampler(settings, seed=1)
    again = model.generate(
        **inputs, custom_generate=sampler, max_new_tokens=12, eos_token_id=None, pad_token_id=0,
        **neutral | {"num_return_sequences": 1},
    )  # fmt: skip
    assert again.tolist() == plain.tolist()


def test_generate_searches_alike_and_records_how(toy):
    asked = dataclasses.replace(toy, model=with_config(toy.model, **OF_BEAMS[-1]))
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 10, "seed": 0}
    found, plain = (
        [one.record() for one in generate(of, ["a b", "c"], "top_k=9", **options)]
        for of in (asked, toy)
    )
    assert found == plain and len(found) == 4
    how = {"num_beams": 3, "length_penalty": 1.0, "early_stopping": False}
    assert how.items() <= found[0].items()
    [drawn] = generate(asked, "a b", max_new_tokens=3, seed=0)
    assert not {"length_penalty", "early_stopping"} & drawn.record().keys()


# What is shown.


def config(**values):
    result = GenerationConfig()
    for name, value in values.items():
        setattr(result, name, value)
    return result


def test_a_checkpoint_that_searches_is_not_greedy():
    searching = config(num_beams=4)
    assert DecodingSettings.from_generation_config(searching) == DecodingSettings()
    assert applied_besides(searching) == {
        "num_beams": 4, "length_penalty": 1.0, "early_stopping": False
    }  # fmt: skip
    asking = config(num_beams=4, length_penalty=2.0, early_stopping=True, num_return_sequences=3)
    assert applied_besides(asking) == {
        "num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True
    }  # fmt: skip
    drawing = config(num_beams=2, do_sample=True, temperature=0.7, top_k=0)
    assert str(DecodingSettings.from_generation_config(drawing)) == "temperature=0.7"
    assert applied_besides(drawing)["num_beams"] == 2
    groups = {"num_beam_groups": 2, "diversity_penalty": 0.5}
    assert groups.items() <= applied_besides(config(num_beams=4, **groups)).items()
    alone = config(num_beams=1, length_penalty=2.0)
    assert DecodingSettings.from_generation_config(alone).greedy and applied_besides(alone) == {}
    assert of_beams(alone) == {"length_penalty": 2.0, "early_stopping": False}


def test_settings_of_a_model_show_its_beams(run):
    Path("model").mkdir()
    (Path("model") / "config.json").write_text('{"model_type": "gpt2"}')

    def shown(**values):
        (Path("model") / "generation_config.json").write_text(json.dumps(values))
        code, out, _ = run("settings", "--model", "./model")
        assert code == 0
        return out.split("left to itself:\n")[1].splitlines()[:-1]

    assert shown(num_beams=4, length_penalty=2.0) == [
        "raw",
        "  the model's own distribution: temperature 1, nothing removed",
        "  also num_beams = 4",
        "  also length_penalty = 2.0",
        "  also early_stopping = False",
    ]
    assert shown(length_penalty=0.6, early_stopping=True)[2:] == [
        "  under num_beams > 1 also length_penalty = 0.6",
        "  under num_beams > 1 also early_stopping = True",
    ]
    several = shown(do_sample=True, top_k=0, num_return_sequences=3)
    assert several[2:] == ["  also num_return_sequences = 3"]
    assert len(shown(do_sample=False)) == 2
