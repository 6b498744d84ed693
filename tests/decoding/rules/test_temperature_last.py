"""Temperatures behind the cuts: that of the field, and those of one's own rules."""

import numpy as np
import pytest
import torch

from cuts_oracle import ORACLES, entropy, log_softmax, softmax
from decoding import DecodingSettings, EntropyMonitor, Sampler
from decoding.information.comparison import compare_rows
from decoding.rows.distribution import Distribution
from decoding.rules import POSITIVE, TemperatureLast, Tempering
from decoding.settings.applying import kept_mass
from drawing import sample
from oracle import TOY_PROMPTS, left_padded, teacher_forced

CUTS = ["top_k=5", "top_p=0.6", "min_p=0.2", "typical_p=0.6", "epsilon_cutoff=0.05", "min_k=9"]


class Afterwards(Tempering):
    """Divide logits by T, the same for every row."""

    field, neutral, range, example = "afterwards", 1.0, POSITIVE, "2"
    is_fixed = True

    def temperature(self, rows, base):
        return self.value


class Sharpness(Tempering):
    """Divide logits by c·H."""

    field, neutral, range, example = "sharpness", 0.0, POSITIVE, "2"

    def temperature(self, rows, base):
        return self.value * rows.entropy.clip(1e-3)


def rows(count=20, vocab=30):
    z = 2 * torch.randn(count, vocab, generator=torch.Generator().manual_seed(4)).double()
    z[:5, 3:9] = -torch.inf
    return z


def behind(cut, last, before=1.0, own=None):
    """A setting that cuts between two temperatures."""
    name, value = cut.split("=")
    values = {"temperature": before, name: type(getattr(DecodingSettings(), name))(value)}
    if own is None:
        return DecodingSettings(**values, temperature_last=last)
    return DecodingSettings(**values, extra=(own(last),))


def by_definition(z, cut, last, before):
    name, value = cut.split("=")
    z = (z - z.max()) / before
    at = float(value) * before**-1 if name == "min_k" else float(value)  # of logits at T = 1
    kept = ORACLES[name](z, int(value) if name == "top_k" else at).kept & np.isfinite(z)
    return log_softmax(np.where(kept, z / last, -np.inf)), np.exp(log_softmax(z))[kept].sum()


@pytest.mark.parametrize("own", [None, Afterwards])
@pytest.mark.parametrize(("last", "before"), [(0.5, 1.0), (3.0, 1.0), (1.7, 0.6), (1e-30, 2.0)])
@pytest.mark.parametrize("cut", CUTS)
def test_what_is_kept_is_divided_and_nothing_else(cut, last, before, own):
    settings, logits = behind(cut, last, before, own), rows()
    applied = settings.apply(Distribution(logits))
    mass = kept_mass(applied)
    for i, z in enumerate(logits.numpy()):
        want, of_kept = by_definition(z, cut, last, before)
        got = settings.log_probs(logits[i]).numpy()
        np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
        np.testing.assert_allclose(got, want, atol=1e-9)
        assert mass[i] == pytest.approx(of_kept, rel=1e-9)


@pytest.mark.parametrize("last", [0.5, 3.0])
def test_alone_it_is_a_temperature_and_as_a_processor_too(last):
    logits = rows()
    same = DecodingSettings(temperature=last).log_probs(logits)
    torch.testing.assert_close(DecodingSettings(temperature_last=last).log_probs(logits), same)
    torch.testing.assert_close(TemperatureLast(last)(None, logits).log_softmax(-1), same)
    both = DecodingSettings(temperature=2 / last, temperature_last=last / 2)
    torch.testing.assert_close(both.log_probs(logits), logits.log_softmax(-1))
    greedy = DecodingSettings(temperature=0, temperature_last=last)
    assert torch.equal(greedy.log_probs(logits), DecodingSettings(temperature=0).log_probs(logits))


def test_it_stands_with_every_rule_that_sets_a_temperature():
    for text in ("edt_theta=0.5", "dynatemp_range=0.5", "target_entropy=1"):
        text = f"{text},top_p=0.9,temperature_last=2"
        assert str(DecodingSettings.parse(text)) == text


@pytest.mark.parametrize("own", [None, Afterwards])
def test_its_divergences_are_those_of_a_plain_loop(own):
    """One more temperature behind a cut is no power of p on a prefix at the first temperature."""
    settings = [behind("top_p=0.8", 2.0, 0.7, own), DecodingSettings(temperature=0.7, top_p=0.8)]
    logits, targets = rows(), torch.arange(20)
    compared = compare_rows(logits, targets, settings)
    for i, z in enumerate(logits.numpy()):
        log_q, mass = by_definition(z, "top_p=0.8", 2.0, 0.7)
        other, _ = by_definition(z, "top_p=0.8", 1.0, 0.7)
        q, kept = np.exp(log_q), np.isfinite(log_q)
        assert compared.entropy[i, 0] == pytest.approx(-(q * np.where(kept, log_q, 0)).sum())
        assert compared.kl[i, 0, 1] == pytest.approx((q[kept] * (log_q[kept] - other[kept])).sum())
        assert compared.kept_mass[i, 0] == pytest.approx(mass)
        assert compared.surprisal[i, 0] == pytest.approx(-log_q[i])


FIRST = {"edt_theta": 0.5, "top_k": 6}


@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [
        (DecodingSettings(top_k=6, extra=(Sharpness(0.9),)), False, 1.0),
        (DecodingSettings(**FIRST, temperature_last=2), True, 2.0),
        (DecodingSettings(**FIRST, extra=(Afterwards(2),)), True, 2.0),
    ],
)
def test_the_temperature_of_a_step_is_that_which_entropy_set(toy_llama, settings, first, last):
    """Behind a cut as before it; a fixed one behind the cut does not hide the first."""
    monitor, inputs = EntropyMonitor(), left_padded(TOY_PROMPTS, 0)
    outputs = sample(toy_llama, inputs, Sampler(settings, seed=2, monitor=monitor))
    traces = monitor.traces(outputs, eos_token_id=None)
    for prompt, trace in zip(TOY_PROMPTS, traces, strict=True):
        of_tokens = teacher_forced(toy_llama, prompt, trace.ids.tolist())
        for z, record in zip(of_tokens, trace.records(), strict=True):
            kept = ORACLES["top_k"](z, 6).kept
            steered = 0.8 ** (0.5 / entropy(softmax(z)))
            if not first:
                steered = 0.9 * entropy(softmax(np.where(kept, z, -np.inf)))
            assert record["temperature"] == pytest.approx(steered, rel=1e-4)
            q = softmax(np.where(kept, z / steered / last, -np.inf))
            assert record["surprisal_nats"] == pytest.approx(-np.log(q[record["id"]]), abs=1e-3)
            scaled = softmax(z / steered) if first else softmax(z)
            assert record["kept_mass"] == pytest.approx(scaled[kept].sum(), abs=1e-5)
