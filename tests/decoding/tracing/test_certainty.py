"""How far the model's own rows are from even, against their definitions on float64 rows."""

import numpy as np
import pytest
import torch

from decoding import DecodingSettings
from decoding.rows.distribution import Distribution
from decoding.tracing.step import measured
from oracle import TOLERANCE, TOY_PROMPTS, log_softmax, teacher_forced, watch


@pytest.mark.parametrize(("num_beams", "samples"), [(1, 2), (2, 1)])
def test_certainty_is_that_of_the_models_own_rows(toy_gpt2, num_beams, samples):
    """Against loops over float64 rows; of 17 tokens, all count in the confidence."""
    settings = DecodingSettings(temperature=0.7, top_k=5)
    options = {"num_beams": num_beams, "samples": samples, "new_tokens": 12}
    for prompt, trace in watch(toy_gpt2, TOY_PROMPTS, settings, certainty=True, **options):
        for step, row in enumerate(teacher_forced(toy_gpt2, prompt, trace.ids.tolist())):
            want = certainty_of(log_softmax(row))
            for name, values in vars(trace.certainty).items():
                assert values[step] == pytest.approx(want[name], abs=TOLERANCE), name
    assert watch(toy_gpt2, TOY_PROMPTS, settings)[0][1].certainty is None


@pytest.mark.usefixtures("arrays")
@pytest.mark.parametrize("excluded", [0, 1, 8, 29])
def test_certainty_is_of_the_tokens_that_are_not_excluded(excluded):
    z = torch.randn(3, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4
    z[:, :excluded] = -torch.inf
    raw = Distribution(z)
    step = measured(raw, DecodingSettings().apply(raw), certainty=True)
    for row, found in zip(z.numpy(), step.certainty.tolist(), strict=True):
        want = certainty_of(log_softmax(row)[excluded:])
        assert found == pytest.approx(list(want.values()), abs=1e-5)


def certainty_of(log_p):
    """One row's columns of a `Certainty`, by their definitions."""
    p, first = np.exp(log_p), np.sort(log_p)[::-1]
    flat = p**0.5 / (p**0.5).sum()
    return {
        "self_certainty_nats": -log_p.mean() - np.log(len(p)),
        "renyi_divergence_nats": np.log(len(p)) - 2 * np.log((flat**0.5).sum()),
        "confidence_nats": -first[:20].mean(),
        "margin": np.exp(first[0]) - (np.exp(first[1]) if len(p) > 1 else 0),
    }
