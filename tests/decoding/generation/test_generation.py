"""Prompts in, text and traces out: `generate`, its stops, streams and refusals."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, NonFiniteLogitsError, generate
from decoding.models.loading import LanguageModel
from oracle import (
    GREEDY,
    HOSTILE,
    TEXTS,
    TOLERANCE,
    TOY_TEXTS,
    assert_oracle,
    decode,
    editing,
    log_softmax,
    modes,
    reference_log_q,
    teacher_forced,
    with_config,
)

# The oracle, through text.


@modes
@pytest.mark.parametrize("name", ["stories", "stories260k", "random_gpt2"])
def test_traces_equal_teacher_forcing(name, setting, num_beams, samples, request):
    language_model = request.getfixturevalue(name)
    model, tokenizer = language_model.model, language_model.tokenizer
    settings = DecodingSettings.parse(setting)
    kwargs = {"num_return_sequences": samples, "num_beams": num_beams, "seed": 5}
    free = generate(language_model, TEXTS, settings, max_new_tokens=5, **kwargs)[0]
    eos = int(free.trace.ids[-1])
    model = with_config(model, eos_token_id=eos)
    generations = generate(
        replace(language_model, model=model), TEXTS, settings, max_new_tokens=12, **kwargs
    )
    assert [(g.prompt, g.index, g.sample) for g in generations] == [
        (text, i, j) for i, text in enumerate(TEXTS) for j in range(samples)
    ]
    for generation in generations:
        prompt, ids = tokenizer(generation.prompt)["input_ids"], generation.trace.ids.tolist()
        assert_oracle(model, prompt, generation.trace, settings)
        assert generation.text == "".join(generation.trace.texts)
        assert decode(tokenizer, prompt) + generation.text == decode(tokenizer, [*prompt, *ids])
        assert generation.finish_reason == ("eos" if ids[-1] == eos else "length")
        assert eos not in ids[:-1]
        assert len(ids) == 12 or ids[-1] == eos
    if num_beams == 1:
        first = generations[0]
        assert len(first.trace) <= 5
        np.testing.assert_array_equal(first.trace.ids, free.trace.ids[: len(first.trace)])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_alternatives_in_records(stories, num_beams):
    model, tokenizer = stories.model, stories.tokenizer
    settings = DecodingSettings(temperature=0.8, top_k=3)
    for generation in generate(
        stories, TEXTS, settings, max_new_tokens=8, seed=0, alternatives=2,
        num_beams=num_beams,
    ):  # fmt: skip
        prompt, ids = list(tokenizer(generation.prompt)["input_ids"]), generation.trace.ids.tolist()
        rows = teacher_forced(model, prompt, ids)
        for i, (z, token) in enumerate(zip(rows, generation.record()["tokens"], strict=True)):
            others = [other for other in np.argsort(-z, kind="stable") if other != token["id"]][:2]
            q, p = np.exp(reference_log_q(z, settings)), np.exp(log_softmax(z))
            assert [entry["id"] for entry in token["alternatives"]] == others
            before = [*prompt, *ids[:i]]
            for entry in token["alternatives"]:
                assert list(entry) == ["id", "text", "probability", "raw_probability"]
                assert entry["probability"] == pytest.approx(q[entry["id"]], abs=TOLERANCE)
                assert entry["raw_probability"] == pytest.approx(p[entry["id"]], abs=TOLERANCE)
                after = decode(tokenizer, [*before, entry["id"]])
                assert decode(tokenizer, before) + entry["text"] == after


def test_greedy_is_hugging_face_greedy(stories):
    model, tokenizer = stories.model, stories.tokenizer
    for generation in generate(stories, TEXTS, GREEDY, max_new_tokens=12, seed=1):
        prompt = torch.tensor([tokenizer(generation.prompt)["input_ids"]])
        theirs = model.generate(prompt, max_new_tokens=12, do_sample=False)
        assert generation.trace.ids.tolist() == theirs[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("setting", ["greedy", "raw", "temperature=1.5,top_k=6,top_p=0.9"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_models_own_configuration_changes_nothing(toy, setting, num_beams):
    settings = DecodingSettings.parse(setting)
    if num_beams > 1 and settings.greedy:
        pytest.skip("greedy cannot score beams")
    model = toy.model
    hostile = with_config(
        model, **HOSTILE, do_sample=True, num_beams=2, num_return_sequences=2, max_length=3,
        use_cache=False, return_dict_in_generate=False, stop_strings=["a"], max_time=1e-9,
    )  # fmt: skip
    plain, other = (
        generate(
            replace(toy, model=m),
            TOY_TEXTS,
            settings,
            max_new_tokens=9,
            seed=0,
            num_beams=num_beams,
        )
        for m in (model, hostile)
    )
    assert [g.trace.ids.tolist() for g in other] == [g.trace.ids.tolist() for g in plain]
    for ours, theirs in zip(plain, other, strict=True):
        for name, column in ours.trace.columns().items():
            if name != "text":
                np.testing.assert_allclose(theirs.trace.columns()[name], column, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("setting", "num_beams"), [("greedy", 1), ("top_p=0.9", 1), ("raw", 2)])
def test_half_precision_models(stories, dtype, setting, num_beams):
    model, tokenizer = copy.deepcopy(stories.model).to(dtype), stories.tokenizer
    settings = DecodingSettings.parse(setting)
    for generation in generate(
        LanguageModel(model, tokenizer),
        TEXTS,
        settings,
        max_new_tokens=6,
        seed=0,
        num_beams=num_beams,
    ):
        trace = generation.trace
        for name, column in trace.columns().items():
            assert name == "text" or np.isfinite(column).all(), name
        assert (trace.raw_entropy_nats <= np.log(model.config.vocab_size)).all()
        assert (trace.kept_mass > 0).all()
        assert (trace.kept_mass <= 1).all()


def test_dropout_is_off_and_the_mode_is_left_as_it_was(toy):
    evaluated = toy.model
    trained = copy.deepcopy(evaluated).train()
    assert trained.config.resid_pdrop == 0.1
    want, got = (
        generate(replace(toy, model=model), TOY_TEXTS, max_new_tokens=10, seed=0)
        for model in (evaluated, trained)
    )
    assert [g.record() for g in got] == [g.record() for g in want]
    assert all(module.training for module in trained.modules())
    assert not evaluated.training
    trained.transformer.h[0].eval()
    modes = [module.training for module in trained.modules()]
    generate(replace(toy, model=trained), TOY_TEXTS, max_new_tokens=1, seed=0)
    assert [module.training for module in trained.modules()] == modes


def test_mode_is_restored_after_an_error(toy):
    model = toy.model
    trained = copy.deepcopy(model).train()
    broken = editing(trained, lambda step, logits: logits * torch.nan)
    with pytest.raises(NonFiniteLogitsError, match="step 0, row 0"):
        generate(replace(toy, model=broken), "a b", max_new_tokens=5, seed=0)
    assert broken.training


# Prompts.


def test_an_empty_prompt_is_bos(random_gpt2):
    model, tokenizer = random_gpt2.model, random_gpt2.tokenizer
    (generation,) = generate(random_gpt2, "", GREEDY, max_new_tokens=3, seed=0)
    assert generation.prompt == ""
    assert_oracle(model, [tokenizer.bos_token_id], generation.trace, GREEDY)


def test_the_tokenizers_own_special_tokens_are_kept(stories260k):
    model, tokenizer = stories260k.model, stories260k.tokenizer
    prompt = tokenizer("Once upon")["input_ids"]
    assert prompt[0] == tokenizer.bos_token_id
    (generation,) = generate(stories260k, "Once upon", GREEDY, max_new_tokens=3, seed=0)
    assert_oracle(model, prompt, generation.trace, GREEDY)


def test_results_come_in_the_order_of_the_prompts(toy):
    prompts = ["a b c d e", "f", "a b", "g h i", "j", "a b c", "k"]
    generations = generate(toy, prompts, max_new_tokens=2, num_return_sequences=2, batch_size=3)
    assert [(g.index, g.sample) for g in generations] == [(i, j) for i in range(7) for j in (0, 1)]
    assert [g.prompt for g in generations] == [prompt for prompt in prompts for _ in range(2)]


def test_no_prompts_no_results(toy):
    assert generate(toy, []) == []


def watched_calls(model):
    """A model that notes each call in a list, and the list."""
    calls = []

    def note(step, logits):
        calls.append(step)
        return logits

    return editing(model, note), calls


def test_results_appear_in_order_while_later_prompts_wait(toy):
    model, calls = watched_calls(toy.model)
    prompts = [f"{'abcdefgh'[i % 8]} b" for i in range(40)]
    seen = []
    results = generate(
        replace(toy, model=model), prompts, max_new_tokens=1, seed=0, batch_size=1,
        on_generation=lambda generation: seen.append((generation, len(calls))),
    )  # fmt: skip
    assert [generation for generation, _ in seen] == results
    assert [generation.index for generation in results] == list(range(40))
    assert seen[0][1] < seen[-1][1] == len(calls) == 40


def test_a_bad_prompt_is_refused_before_any_work_is_done(toy):
    model, calls = watched_calls(toy.model)
    with pytest.raises(ValueError, match="prompt 31 has 64 tokens"):
        generate(
            replace(toy, model=model),
            ["a"] * 30 + [" ".join("ab" * 32)],
            max_new_tokens=1,
            batch_size=1,
        )
    assert calls == []


def test_chat_puts_the_prompt_into_the_template(stories):
    model, tokenizer = stories.model, copy.deepcopy(stories.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    kwargs = {"max_new_tokens": 6, "seed": 0}
    (chat,) = generate(
        LanguageModel(model, tokenizer), "Tell me a story.", GREEDY, chat=True, **kwargs
    )
    rendered = "<user>Tell me a story.\n<assistant>"
    (plain,) = generate(LanguageModel(model, tokenizer), rendered, GREEDY, **kwargs)
    assert chat.trace.ids.tolist() == plain.trace.ids.tolist()
    assert chat.prompt == "Tell me a story."
    assert_oracle(model, tokenizer(rendered)["input_ids"], chat.trace, GREEDY)


# Records.


def test_record_is_valid_json_with_the_documented_keys(stories):
    tokenizer = stories.tokenizer
    settings = DecodingSettings(temperature=0.7, top_p=0.9)
    (generation,) = generate(stories, TEXTS[0], settings, max_new_tokens=6, seed=8)
    record = generation.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert list(record) == [
        "prompt", "prompt_ids", "index", "sample", "text", "model", "settings", "num_beams",
        "seed", "finish_reason", "chat", "tokens", "summary",
    ]  # fmt: skip
    assert (record["prompt"], record["index"], record["sample"]) == (TEXTS[0], 0, 0)
    assert record["prompt_ids"] == tokenizer(TEXTS[0])["input_ids"]
    assert (record["model"], record["settings"]) == (stories.name, "temperature=0.7,top_p=0.9")
    assert (record["seed"], record["num_beams"]) == (8, 1)
    assert record["text"] == "".join(token["text"] for token in record["tokens"])
    assert record["summary"] == generation.trace.summary()
    assert record["tokens"] == generation.trace.records()
    assert list(record["tokens"][0]) == [
        "id", "text", "surprisal_nats", "entropy_nats", "raw_surprisal_nats", "raw_entropy_nats",
        "kept", "kept_mass", "rank", "kl_nats",
    ]  # fmt: skip


@pytest.mark.parametrize("setting", ["greedy", "raw", "temperature=0.001", "top_k=1"])
def test_records_hold_no_nan_or_infinity(toy, setting):
    def rule_out(step, logits):
        return logits.index_fill(-1, torch.tensor([3, 5]), -torch.inf)

    model = toy.model
    for generation in generate(
        replace(toy, model=editing(model, rule_out)), TOY_TEXTS, DecodingSettings.parse(setting),
        max_new_tokens=4, seed=0, alternatives=16,
    ):  # fmt: skip
        json.dumps(generation.record(), allow_nan=False)
