"""What a person sees who looks at an object: one short line, whatever the text holds."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, EntropyMonitor, Generation, LanguageModel, Trace
from decoding.models.loading import _shortened

RAW = DecodingSettings()


def trace(*entropies):
    floats, integers = np.array(entropies), np.arange(len(entropies))
    columns = [floats] * 4, [integers, floats, integers, floats]
    return Trace(integers, *columns[0], *columns[1])


@pytest.mark.parametrize(
    ("seen", "shown"),
    [
        (trace(1.0, 1.5, 1.19), "Trace(3 tokens, mean entropy 1.23 nats)"),
        (trace(0.004), "Trace(1 token, mean entropy 0.00 nats)"),
        (trace(), "Trace(0 tokens)"),
    ],
)
def test_trace(seen, shown):
    assert repr(seen) == shown


def test_generation():
    one = Generation(
        "Once", (1,), 0, 0, " upon\n a\x1b[31m time", "toy", RAW, 1, 0, "eos", trace(1.0, 2.0)
    )
    assert repr(one) == (
        r"Generation('Once' → ' upon\n a\x1b[31m time', 2 tokens, eos, mean entropy 1.50 nats)"
    )
    long = replace(one, prompt="'" * 40, text="\u2028" * 41, trace=trace(), finish_reason="abstain")
    quotes, breaks = "'" * 40, r"\u2028" * 39
    assert repr(long) == f"Generation(\"{quotes}\" → '{breaks}…', 0 tokens, abstain)"


def test_language_model(stories, toy):
    size = sum(parameter.numel() for parameter in stories.model.parameters())
    assert 1e6 < size < 1e7
    shown = f"LanguageModel('builtin:stories', {size / 1e6:.1f}M parameters, float32, cpu)"
    assert repr(stories) == shown
    half = LanguageModel(copy.deepcopy(toy.model).to(torch.bfloat16), toy.tokenizer, "a\nb")
    size = sum(parameter.numel() for parameter in half.model.parameters())
    assert repr(half) == rf"LanguageModel('a\nb', {size / 1e3:.0f}K parameters, bfloat16, cpu)"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(17, "17"), (1100, "1.1K"), (260_032, "260K"), (7_241_732_096, "7.2B"), (70e9, "70B")],
)
def test_numbers_of_parameters(count, shown):
    assert _shortened(count) == shown


def test_monitor(toy):
    monitor = EntropyMonitor(alternatives=2)
    assert repr(monitor) == "EntropyMonitor(0 steps of 0 rows, alternatives=2, num_beams=1)"
    toy.model.generate(
        torch.tensor([[1, 2], [3, 4]]), max_new_tokens=3, eos_token_id=None, do_sample=False,
        logits_processor=RAW.processors(monitor),
    )  # fmt: skip
    assert repr(monitor) == "EntropyMonitor(3 steps of 2 rows, alternatives=2, num_beams=1)"
