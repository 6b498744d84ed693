"""A monitored processor must see the model's own rows: what comes before it is refused, and a
paged cache, which would not call it."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from decoding import DecodingSettings, EntropyMonitor, EntropyPolicy, Sampler
from drawing import PROMPTS, Ban, DrawProcessor, counted, points_for, sample
from oracle import TOY_PROMPTS, assert_oracle, left_padded, teacher_forced, watch, with_config

SETTINGS = DecodingSettings(temperature=0.8, top_k=9)


def odd_alone(batch, ids):
    return [*range(1, 17, 2)]


def double(input_ids, scores):
    return 2 * scores


class Silent(LogitsProcessor):
    """Changes nothing."""

    def __call__(self, input_ids, scores):
        return scores


def generated(model, settings, num_beams=1, **kwargs):
    return model.generate(
        **left_padded(PROMPTS, 0), max_new_tokens=4, pad_token_id=0, return_dict_in_generate=True,
        **settings.generate_kwargs(num_beams) | {"eos_token_id": None} | kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    ("name", "before", "asked"),
    [
        ("PrefixConstrainedLogitsProcessor", [], {"prefix_allowed_tokens_fn": odd_alone}),
        ("RepetitionPenaltyLogitsProcessor", [], {"repetition_penalty": 1.3}),
        ("SequenceBiasLogitsProcessor", [], {"sequence_bias": [[[6], 5.0]]}),
        ("MinLengthLogitsProcessor", [], {"min_new_tokens": 2, "eos_token_id": 0}),
        ("Ban", [Ban(in_place=True)], {}),
        ("Silent", [Silent(), double], {}),
        ("double", [double], {}),
    ],
)
def test_what_stands_before_a_monitored_processor_is_refused(
    toy_gpt2, name, before, asked, num_beams
):
    model, calls = counted(toy_gpt2)
    monitor = EntropyMonitor(num_beams=num_beams)
    kwargs = {"logits_processor": [*before, *SETTINGS.processors(monitor)]} | asked
    with pytest.raises(ValueError, match=f"{name} stands before the monitored processor.*Sampler"):
        generated(model, SETTINGS, num_beams, **kwargs)
    assert calls == []
    # Without a monitor they do what they always did.
    kwargs["logits_processor"] = [*before, *SETTINGS.processors()]
    assert generated(model, SETTINGS, num_beams, **kwargs).sequences.shape[1] > 4


def test_a_checkpoints_own_processors_are_refused_where_they_are_not_neutralised(toy_gpt2):
    model, calls = counted(with_config(toy_gpt2, repetition_penalty=1.3))
    with pytest.raises(ValueError, match="RepetitionPenaltyLogitsProcessor stands before"):
        model.generate(
            torch.tensor([[1, 2]]), max_new_tokens=2,
            logits_processor=SETTINGS.processors(EntropyMonitor()),
        )  # fmt: skip
    assert calls == []
    [(prompt, trace)] = watch(model, [[1, 2]], SETTINGS, new_tokens=4)
    assert_oracle(toy_gpt2, prompt, trace, SETTINGS)


def test_what_stands_behind_it_is_let_be(toy_gpt2):
    monitor = EntropyMonitor()
    outputs = generated(
        toy_gpt2, SETTINGS, do_sample=False,
        logits_processor=LogitsProcessorList(
            [*SETTINGS.processors(monitor), Silent(), DrawProcessor(points_for(3, 4)), Silent()]
        ),
    )  # fmt: skip
    for prompt, trace in zip(PROMPTS, monitor.traces(outputs, eos_token_id=None), strict=True):
        assert_oracle(toy_gpt2, prompt, trace, SETTINGS)


def test_a_sampler_tells_a_constraint_from_the_model(toy_gpt2):
    monitor = EntropyMonitor()
    outputs = sample(
        toy_gpt2, left_padded(TOY_PROMPTS, 0), Sampler("raw", seed=1, monitor=monitor),
        prefix_allowed_tokens_fn=odd_alone,
    )  # fmt: skip
    traces = monitor.traces(outputs, eos_token_id=None)
    for prompt, trace in zip(TOY_PROMPTS, traces, strict=True):
        z = torch.tensor(teacher_forced(toy_gpt2, prompt, trace.ids.tolist()))
        log_p, tokens = z.log_softmax(-1), torch.tensor(trace.ids)[:, None]
        raw = -log_p.gather(-1, tokens).squeeze(-1).numpy()
        odd = log_p[:, 1::2].logsumexp(-1).numpy()
        assert (trace.ids % 2 == 1).all()
        assert trace.raw_surprisal_nats == pytest.approx(raw, abs=1e-4)
        assert trace.surprisal_nats == pytest.approx(raw + odd, abs=1e-4)
        assert trace.kl_nats == pytest.approx(-odd, abs=1e-4)


# Paged caches.


@pytest.mark.parametrize("settings", [SETTINGS, EntropyPolicy(entropy_above=1, then="stop")])
def test_a_paged_cache_is_refused_before_anything_runs(toy_gpt2, settings):
    model, calls = counted(toy_gpt2)
    with pytest.raises(ValueError, match="cache_implementation='paged' ignores logits processors"):
        settings.generate_kwargs(cache_implementation="paged")
    for own in ({}, {"custom_generate": Sampler(settings, seed=0)}):
        with pytest.raises(TypeError, match=r"multiple values for keyword .*cache"):
            model.generate(
                torch.tensor([[1, 2]]), cache_implementation="paged", max_new_tokens=2, **own,
                **settings.generate_kwargs(),
            )  # fmt: skip
    assert calls == []


def test_a_paged_cache_of_the_checkpoint_is_not_used(toy_gpt2):
    model = with_config(toy_gpt2, cache_implementation="paged")
    [(prompt, trace)] = watch(model, [[1, 2]], SETTINGS, new_tokens=4)
    assert_oracle(toy_gpt2, prompt, trace, SETTINGS)


@pytest.mark.parametrize("cache", [None, "static", "dynamic"])
def test_other_caches_are_asked_for_with_the_setting(toy_llama, cache):
    monitor, prompts = EntropyMonitor(), [[3, 1, 4], [2, 7, 1]]
    outputs = toy_llama.generate(
        torch.tensor(prompts), max_new_tokens=6, eos_token_id=None,
        **SETTINGS.generate_kwargs(monitor=monitor, cache_implementation=cache),
    )  # fmt: skip
    for prompt, trace in zip(prompts, monitor.traces(outputs, eos_token_id=None), strict=True):
        assert_oracle(toy_llama, prompt, trace, SETTINGS)
