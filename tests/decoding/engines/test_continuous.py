"""Transformers' continuous batching under a setting, against teacher forcing, greedy search, χ²."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, GPT2LMHeadModel

from decoding import DecodingSettings, EntropyPolicy, NonFiniteLogitsError
from decoding.engines import continuous, continuous_batching
from decoding.rules import CUT, Cut
from decoding.settings.settings import RULES_IN_ORDER
from drawing import SETTINGS, assert_follows
from oracle import HOSTILE, TEXTS, TOLERANCE, editing, reference_log_q, teacher_forced, with_config

if not hasattr(GenerationMixin, "destroy_cached_continuous_batching_manager"):
    pytest.skip(continuous.OTHER_VERSION, allow_module_level=True)

from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import continuous_api
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.offloading_manager import OffloadingManager

PROMPTS = [[5, 2, 5, 2], [3], [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]]
ALONE = [text for text in SETTINGS if not DecodingSettings.parse(text).looks_back]


@pytest.fixture(autouse=True)
def _without_garbage(monkeypatch):
    """After each batch transformers looks for garbage, which takes longer than the batch."""
    monkeypatch.setattr(continuous_api, "gc", SimpleNamespace(collect=lambda: None))


class Floor(Cut):
    """Keep tokens with probability at least c."""

    field, neutral, range, example = "floor_of_running_batches", 0.0, CUT, "0.1"

    def keep(self, rows, c):
        return rows.within_surprisal(-rows.log(c))


class FloorOfIds(Floor):
    """The same, by a rule that says it looks at the ids."""

    field, looks_back = "floor_that_looks_back", "ids"


NO_END = GenerationConfig(eos_token_id=-1)


def cache(**values):
    """A cache that is small, because a default one takes seconds to set up."""
    return ContinuousBatchingConfig(
        **{"num_blocks": 32, "max_batch_tokens": 64, "return_logprobs": True} | values
    )


def run(model, prompts, new_tokens=8, config=None, persistent_manager=False, **values):
    """What comes of a running batch, in the order of the prompts."""
    outputs = model.generate_batch(
        prompts,
        generation_config=config,
        max_new_tokens=new_tokens,
        continuous_batching_config=cache(**values),
        persistent_manager=persistent_manager,
    )
    return list(outputs.values())


def assert_drawn_from(model, outputs, settings):
    """The log-probabilities that the batch recorded are those of q by one pass over each text."""
    for output in outputs:
        assert output.error is None
        rows = teacher_forced(model, output.prompt_ids, output.generated_tokens)
        for z, token, got in zip(rows, output.generated_tokens, output.logprobs, strict=True):
            assert abs(reference_log_q(z, settings)[token] - got) < TOLERANCE


def test_every_rule_that_does_not_look_back_is_tried():
    given = {part.split("=")[0] for text in ALONE for part in text.split(",")}
    assert {rule.field for rule in RULES_IN_ORDER if not rule.looks_back} <= given


@pytest.mark.parametrize("setting", ALONE)
def test_tokens_are_drawn_from_q(toy_llama, setting):
    settings = DecodingSettings.parse(setting)
    torch.manual_seed(0)
    with continuous_batching(toy_llama, settings):
        outputs = run(toy_llama, PROMPTS)
    assert [output.prompt_ids for output in outputs] == PROMPTS
    assert_drawn_from(toy_llama, outputs, settings)


@pytest.mark.parametrize("setting", ["raw", "temperature=1.3,top_k=50,min_p=0.02", "top_p=0.9"])
def test_a_trained_model_draws_from_q_through_requests_that_are_put_off(
    stories, setting, monkeypatch
):
    model, settings, put_off = stories.model, DecodingSettings.parse(setting), []
    put = OffloadingManager.offload_requests

    def watched(manager):
        put_off.append(manager)
        return put(manager)

    monkeypatch.setattr(OffloadingManager, "offload_requests", watched)
    prompts = [list(stories.tokenizer(text)["input_ids"]) for text in [*TEXTS, *TEXTS]]
    torch.manual_seed(0)
    with continuous_batching(model, setting):
        outputs = run(model, prompts, 24, num_blocks=12, page_size=4, max_batch_tokens=16)
    assert [output.prompt_ids for output in outputs] == prompts
    assert_drawn_from(model, outputs, settings)
    assert len(put_off) > 3


@pytest.mark.parametrize("setting", ["raw", "temperature=0.8,top_k=6", "target_entropy=1.5"])
def test_whole_rows_are_q(toy_llama, setting, monkeypatch):
    """Not the probability of the drawn token alone."""
    settings, rows = DecodingSettings.parse(setting), []
    draws = ModelRunner._sample

    def watched(runner, scores, output_ids):
        rows.append(scores[0, 0].double().log_softmax(-1).numpy())
        return draws(runner, scores, output_ids)

    monkeypatch.setattr(ModelRunner, "_sample", watched)
    with continuous_batching(toy_llama, settings):
        [output] = run(toy_llama, [PROMPTS[0]], 12, NO_END)
    logits = teacher_forced(toy_llama, output.prompt_ids, output.generated_tokens)
    assert len(rows) == 12
    for got, z in zip(rows, logits, strict=True):
        np.testing.assert_allclose(got, reference_log_q(z, settings), rtol=0, atol=TOLERANCE)


def test_greedy_tokens_are_those_of_greedy_search(stories):
    model = stories.model
    prompts = [list(stories.tokenizer(text)["input_ids"]) for text in TEXTS]
    with continuous_batching(model, "greedy"):
        outputs = run(model, prompts, 20)
    for prompt, output in zip(prompts, outputs, strict=True):
        whole = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20)
        assert output.generated_tokens == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("setting", ["raw", "temperature=0.7,top_p=0.9", "top_k=6,typical_p=0.9"])
def test_draws_follow_q(toy_gpt2, setting):
    """All requests wait before the batch begins, so that the same ones always run together."""
    settings, samples = DecodingSettings.parse(setting), 2000
    torch.manual_seed(7)
    with continuous_batching(toy_gpt2, settings):
        room = cache(num_blocks=4000, page_size=4, max_batch_tokens=512)
        manager = toy_gpt2.init_continuous_batching(continuous_batching_config=room)
        manager.add_requests([PROMPTS[0]] * samples, max_new_tokens=2)
        manager.start()
        drawn = [manager.get_result(timeout=60).generated_tokens for _ in range(samples)]
        manager.stop()
    firsts = np.array([tokens[0] for tokens in drawn])
    [z] = teacher_forced(toy_gpt2, PROMPTS[0], [0])
    assert_follows(firsts, np.exp(reference_log_q(z, settings)))
    token = int(np.bincount(firsts[firsts > 0]).argmax())  # behind 0 a text has ended
    [z] = teacher_forced(toy_gpt2, [*PROMPTS[0], token], [0])
    behind = np.array([tokens[1] for tokens in drawn if tokens[0] == token])
    assert_follows(behind, np.exp(reference_log_q(z, settings)))


def test_several_sequences_of_a_prompt_are_drawn_each_for_itself(toy_gpt2):
    config = GenerationConfig(do_sample=True, num_return_sequences=40, eos_token_id=-1)
    torch.manual_seed(7)
    with continuous_batching(toy_gpt2, "temperature=2"):
        outputs = run(toy_gpt2, [PROMPTS[0]], 4, config)
    assert len({tuple(output.generated_tokens) for output in outputs}) > 35
    assert_drawn_from(toy_gpt2, outputs, DecodingSettings(temperature=2))


def test_a_policy_hands_over_where_the_model_hesitates(toy_llama):
    policy = EntropyPolicy(settings="top_p=0.9", entropy_above=1.8, then="temperature=0.3")
    torch.manual_seed(0)
    with continuous_batching(toy_llama, str(policy)):
        outputs = run(toy_llama, PROMPTS, 16, NO_END)
    crossed = []
    for output in outputs:
        rows = teacher_forced(toy_llama, output.prompt_ids, output.generated_tokens)
        for z, token, got in zip(rows, output.generated_tokens, output.logprobs, strict=True):
            log_p = z - np.logaddexp.reduce(z)
            crossed.append(-(np.exp(log_p) * log_p).sum() > 1.8)
            settings = policy.then if crossed[-1] else policy.settings
            assert abs(reference_log_q(z, settings)[token] - got) < TOLERANCE
    assert 3 < sum(crossed) < len(crossed) - 3


def test_a_rule_of_ones_own_acts(toy_llama):
    with continuous_batching(toy_llama, DecodingSettings(extra=(Floor(0.1),))):
        outputs = run(toy_llama, PROMPTS)
    assert_drawn_from(toy_llama, outputs, DecodingSettings(epsilon_cutoff=0.1))


def test_what_the_models_own_configuration_says_gives_way(toy_gpt2):
    hostile = with_config(toy_gpt2, do_sample=False, num_beams=3, **HOSTILE)
    before = hostile.generation_config.to_dict()
    torch.manual_seed(0)
    with continuous_batching(hostile, "temperature=1.5,top_k=12"):
        outputs = run(hostile, PROMPTS)
        copied = copy.deepcopy(hostile.generation_config)
        outputs += run(hostile, PROMPTS, config=copied)
    assert_drawn_from(toy_gpt2, outputs, DecodingSettings(temperature=1.5, top_k=12))
    assert copied.to_dict() == hostile.generation_config.to_dict() == before


@pytest.mark.parametrize(
    "values",
    [
        {"do_sample": True, "temperature": 0.3},
        {"do_sample": True, "top_k": 50},
        {"repetition_penalty": 1.2},
        {"suppress_tokens": [3]},
        {"num_beams": 2},
    ],
)
def test_a_configuration_that_asks_for_something_else_is_refused_by_name(toy_gpt2, values):
    name, value = [*values.items()][-1]
    config = GenerationConfig(**values)
    with (
        continuous_batching(toy_gpt2, "top_p=0.9"),
        pytest.raises(ValueError, match=f"{name}={value}.*'top_p=0.9' alone".replace("[", r"\[")),
    ):
        run(toy_gpt2, PROMPTS, config=config)


# What a running batch cannot do.


LOOKING_BACK = [rule for rule in RULES_IN_ORDER if rule.looks_back]


@pytest.mark.parametrize("rule", LOOKING_BACK, ids=lambda rule: rule.field)
def test_a_rule_that_looks_back_is_refused_by_name(toy_gpt2, rule):
    said = f"{rule.field}={rule.example}"
    for setting in (f"top_p=0.9,{said}", f"raw while entropy<=1 else {said}"):
        if " while " in setting and rule.looks_back == "draws":
            continue  # no policy takes it
        with (
            pytest.raises(ValueError, match=f"^{said} looks back at earlier tokens"),
            continuous_batching(toy_gpt2, setting),
        ):
            pytest.fail("it was taken")


def test_a_rule_of_ones_own_that_looks_back_is_refused(toy_gpt2):
    settings = DecodingSettings(extra=(FloorOfIds(0.1),))
    with (
        pytest.raises(ValueError, match=r"^floor_that_looks_back=0.1 looks back"),
        continuous_batching(toy_gpt2, settings),
    ):
        pytest.fail("it was taken")


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("raw while entropy<=1 else stop", "cannot end or ask"),
        ("raw while entropy<=1 else branch", "cannot end or ask"),
        (EntropyPolicy(entropy_above=1, then=lambda _: None), "cannot end or ask"),
        ("target_entropy=9", r"target_entropy=9 is above ln 17"),
        ('xtc_probability=0.5,xtc_spared="a"', "for_tokenizer"),
        (7, "must be a DecodingSettings"),
    ],
)
def test_other_settings_that_cannot_act_are_refused(toy_gpt2, setting, why):
    with pytest.raises(ValueError, match=why), continuous_batching(toy_gpt2, setting):
        pytest.fail("it was taken")


def test_a_wrapper_and_a_manager_of_before_are_refused(toy_gpt2):
    class Wrapper(torch.nn.Module):
        pass

    with (
        pytest.raises(ValueError, match="must be a transformers model, got a Wrapper"),
        continuous_batching(Wrapper(), "raw"),
    ):
        pytest.fail("it was taken")
    model = copy.copy(toy_gpt2)
    run(model, PROMPTS, persistent_manager=True)
    with (
        pytest.raises(ValueError, match="keeps a manager that was made without the setting"),
        continuous_batching(model, "raw"),
    ):
        pytest.fail("it was taken")
    model.destroy_cached_continuous_batching_manager()
    with continuous_batching(model, "raw"):
        assert_drawn_from(model, run(model, PROMPTS), DecodingSettings())


def test_a_version_that_would_leave_the_setting_out_is_refused(toy_gpt2, monkeypatch):
    class Dropping(continuous_api.ContinuousBatchingLogitsProcessorList):
        def __init__(self, logits_processor, *args, **kwargs):
            super().__init__(type(logits_processor)(), *args, **kwargs)

    name = "ContinuousBatchingLogitsProcessorList"
    monkeypatch.setattr(continuous_api, name, Dropping)
    with (
        pytest.raises(ImportError, match=r"^transformers \d.* in another way"),
        continuous_batching(toy_gpt2, "top_p=0.9"),
    ):
        run(toy_gpt2, PROMPTS)
    monkeypatch.delattr(
        continuous_api.ContinuousMixin, "destroy_cached_continuous_batching_manager"
    )
    with (
        pytest.raises(ImportError, match=r"^transformers \d.* in another way"),
        continuous_batching(toy_gpt2, "top_p=0.9"),
    ):
        pytest.fail("it was taken")


def test_a_row_that_is_no_distribution_is_an_error(toy_gpt2):
    def spoil(step, logits):
        return logits.index_fill(-1, torch.tensor([5]), torch.nan) if step == 2 else logits

    for setting in ("raw", "greedy"):
        model = editing(toy_gpt2, spoil)
        with (
            pytest.raises(NonFiniteLogitsError, match="step 2, row 0"),
            continuous_batching(model, setting),
        ):
            run(model, [PROMPTS[0]], config=NO_END)


# What is left behind.


def state(model):
    modes = [module.training for module in model.modules()]
    return {*vars(model)}, model.config._attn_implementation, modes


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("ends", ["well", "badly", "with a manager", "before it starts"])
def test_the_model_is_as_before_afterwards(toy_gpt2, attention, ends, monkeypatch):
    model = GPT2LMHeadModel._from_config(toy_gpt2.config, attn_implementation=attention).train()
    before = state(model)
    if ends == "before it starts":
        monkeypatch.setattr(continuous_api.ContinuousBatchingManager, "warmup", None)
    try:
        with continuous_batching(model, "temperature=0.5"):
            assert not model.training
            with continuous_batching(model, "greedy"):
                run(model, PROMPTS)
            run(model, PROMPTS, persistent_manager=ends == "with a manager")
            if ends == "badly":
                raise KeyError("of the caller")
    except (KeyError, TypeError):
        assert ends in ("badly", "before it starts")
    assert state(model) == before


def test_other_calls_are_as_ever(toy_gpt2):
    inputs = {"input_ids": torch.tensor([PROMPTS[0]]), "pad_token_id": 0, "max_new_tokens": 9}
    want = toy_gpt2.generate(**inputs, do_sample=False, repetition_penalty=1.5).tolist()
    plain = GenerationConfig(do_sample=True, temperature=1e-6, eos_token_id=0)
    [alone] = run(toy_gpt2, [PROMPTS[0]], config=plain)
    with continuous_batching(toy_gpt2, "temperature=3"):
        assert toy_gpt2.generate(**inputs, do_sample=False, repetition_penalty=1.5).tolist() == want
    [after] = run(toy_gpt2, [PROMPTS[0]], config=plain)
    assert after.generated_tokens == alone.generated_tokens
