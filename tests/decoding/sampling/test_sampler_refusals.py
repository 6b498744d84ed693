"""What a `Sampler` refuses: configurations, arguments, and rows that are no distribution."""

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor

from decoding import DecodingSettings, EntropyMonitor, NonFiniteLogitsError, Sampler
from decoding.settings.policy import parse_setting
from drawing import RAW, counted, points_for, sample
from oracle import HOSTILE, TOY_PROMPTS, editing, left_padded, with_config

# Before any step.


@pytest.mark.parametrize(("name", "value"), HOSTILE.items())
def test_configurations_that_would_change_the_distribution_are_refused(toy_gpt2, name, value):
    model, calls = counted(with_config(toy_gpt2, **{name: value}))
    neutral = RAW.generate_kwargs()
    del neutral[name]
    with pytest.raises(ValueError, match=rf"{name}=.*generate_kwargs\(\)"):
        model.generate(
            torch.tensor([[5, 1]]), custom_generate=Sampler(RAW, seed=0), max_new_tokens=8,
            **neutral,
        )  # fmt: skip
    assert calls == []
    assert sample(model, {"input_ids": torch.tensor([[5, 1]])}, Sampler(RAW, seed=0)).shape[1] == 14


def test_forgotten_keyword_arguments_are_refused(toy_gpt2):
    model, calls = counted(toy_gpt2)
    with pytest.raises(ValueError, match=r"top_k=50.*generate_kwargs\(\)"):
        model.generate(
            torch.tensor([[5]]),
            custom_generate=Sampler(RAW, seed=0),
            do_sample=True,
            max_new_tokens=2,
        )
    assert calls == []


@pytest.mark.parametrize(
    "spec", ["target_entropy=2.9", "raw while entropy<=1 else target_entropy=5bits"]
)
def test_a_target_above_that_of_equal_tokens_is_refused(toy_gpt2, spec):
    with pytest.raises(ValueError, match=r"is above ln 17 = 2\.833 nats, the most that 17 tokens"):
        sample(toy_gpt2, left_padded(TOY_PROMPTS, 0), Sampler(parse_setting(spec), seed=0))
    just_below = DecodingSettings(target_entropy=2.83)
    sample(toy_gpt2, left_padded(TOY_PROMPTS, 0), Sampler(just_below, seed=0))


def test_beams_are_refused(toy_gpt2):
    model, calls = counted(toy_gpt2)
    with pytest.raises(ValueError, match="num_beams=1"):
        sample(model, {"input_ids": torch.tensor([[5]])}, Sampler(RAW, seed=0), num_beams=2)
    assert calls == []


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 12), r"points are for 2 rows, and the call has 3"),
        ((4, 12), r"points are for 4 rows, and the call has 3"),
        ((3, 11), r"points are for 11 steps, and the call may take 12"),
    ],
)
def test_points_that_do_not_fit_the_call_are_refused(toy_gpt2, shape, message):
    model, calls = counted(toy_gpt2)
    with pytest.raises(ValueError, match=message):
        sample(model, left_padded(TOY_PROMPTS, 0), Sampler(RAW, points=points_for(*shape)))
    assert calls == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "needs a seed, as in seed=0, or points"),
        ({"seed": 0, "points": torch.zeros(1, 1, dtype=torch.float64)}, "and not both"),
        ({"settings": 0.5, "seed": 1}, r"settings must be a DecodingSettings or .* got 0\.5"),
        ({"settings": "temp=0.5", "seed": 1}, "unknown setting 'temp'; did you mean 'temperature'"),
        ({"seed": 3.0}, "seed must be a whole number, got 3.0"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"points": np.zeros((1, 1))}, "points must be a tensor, got ndarray"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
        ({"seed": 2**64}, rf"seed must be in \[0, 2\^64\), got {2**64}"),
        ({"points": torch.zeros(1, 1)}, r"float64, got \(1, 1\) in torch.float32"),
        ({"points": torch.zeros(5, dtype=torch.float64)}, r"\(rows, steps\).* got \(5,\)"),
        ({"points": torch.ones(1, 1, dtype=torch.float64)}, r"points must lie in \[0, 1\)"),
        ({"points": torch.full((1, 1), -0.1).double()}, r"points must lie in \[0, 1\)"),
        ({"points": torch.full((1, 1), torch.nan).double()}, r"points must lie in \[0, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**{"settings": RAW} | kwargs)


@pytest.mark.parametrize("monitor", [False, True])
@pytest.mark.parametrize("fault", [float("nan"), float("inf"), "nothing left"])
def test_rows_that_are_no_distribution_name_step_and_row(toy_gpt2, fault, monitor):
    def spoil(step, logits):
        spoiled = logits.clone()
        if step == 2 and fault == "nothing left":
            spoiled[1] = -torch.inf
        elif step == 2:
            spoiled[1, -1, 5] = fault
        return spoiled

    sampler = Sampler(RAW, seed=0, monitor=EntropyMonitor() if monitor else None)
    with pytest.raises(NonFiniteLogitsError, match=r"step 2, row 1\b"):
        sample(editing(toy_gpt2, spoil), left_padded(TOY_PROMPTS, 0), sampler)


def test_a_processor_that_leaves_no_token_is_named_by_step_and_row(toy_gpt2):
    def leave_none(input_ids, scores):
        return scores.index_fill(0, torch.tensor([2]), -torch.inf)

    sampler = Sampler(RAW, seed=0, monitor=EntropyMonitor())
    with pytest.raises(NonFiniteLogitsError, match=r"step 0, row 2\b"):
        sample(toy_gpt2, left_padded(TOY_PROMPTS, 0), sampler, logits_processor=[leave_none])


def test_a_fault_in_a_later_portion_has_its_own_row_number(toy_llama, monkeypatch):
    monkeypatch.setattr("decoding.sampling.outcome.PORTION", 17)

    class Spoil(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores[2, 3] = float("nan")
            return scores

    with pytest.raises(NonFiniteLogitsError, match="step 0, row 2"):
        sample(
            toy_llama, left_padded(TOY_PROMPTS, 0), Sampler(RAW, seed=0),
            logits_processor=[Spoil()],
        )  # fmt: skip
