"""Hostile rows of logits, and settings of any rules at any of their values."""

import math

import numpy as np
import torch

from decoding.settings.settings import RULES_IN_ORDER, DecodingSettings

VOCABULARIES = (1, 2, 3, 17, 100, 255, 257, 1000, 50_257)
DTYPES = (torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64)
LARGEST = {torch.float16: 6e4, torch.bfloat16: 1.6e38, torch.float32: 1.6e38, torch.float64: 1e30}
"""No two are further apart than float32 can tell, and temperatures matter to all."""


def noise(rng, vocab):
    return rng.standard_normal(vocab)


def near_equal(rng, vocab):
    """Neighbouring numbers of float32."""
    base = np.float32(rng.choice([1e-3, 1.0, 7.3, -40.0, 1e4]))
    return base + np.spacing(base) * rng.integers(0, 4, vocab)


def at_a_cut(rng, vocab):
    """Probabilities that are multiples of one another, so that thresholds are met exactly."""
    return np.log(rng.choice([1, 1, 2, 3, 4, 8, 10], vocab) / 16.0)


def masked(rng, vocab):
    """Some excluded; sometimes all but one or two."""
    z = 3 * noise(rng, vocab)
    share = rng.choice([0.1, 0.5, 0.95, 1.0])
    out = rng.random(vocab) < share
    out[rng.integers(0, vocab, rng.integers(1, 3))] = False
    z[out] = -np.inf
    return z


ROWS = {
    "noise": noise,
    "flat": lambda rng, vocab: 0.05 * noise(rng, vocab),
    "peaked": lambda rng, vocab: 8 * noise(rng, vocab),
    "very peaked": lambda rng, vocab: 100 * noise(rng, vocab),
    "ties": lambda rng, vocab: np.round(2 * noise(rng, vocab)),
    "two levels": lambda rng, vocab: rng.integers(0, 2, vocab) * rng.choice([1e-6, 1.0, 30.0]),
    "all equal": lambda rng, vocab: np.full(vocab, rng.choice([0.0, -0.0, 2.5, -1e4, 1e30])),
    "zeros of both signs": lambda rng, vocab: np.where(rng.random(vocab) < 0.5, 0.0, -0.0),
    "one large": lambda rng, vocab: np.where(np.arange(vocab) == rng.integers(vocab), 40.0, 0.0),
    "near equal": near_equal,
    "at a cut": at_a_cut,
    "masked": masked,
    "masked by a number": lambda rng, vocab: np.maximum(masked(rng, vocab), -1e300),
    "denormal": lambda rng, vocab: 1e-40 * noise(rng, vocab),
    "far from zero": lambda rng, vocab: 3 * noise(rng, vocab) + rng.choice([-4e3, 1e4, -6e4]),
    "large": lambda rng, vocab: noise(rng, vocab) * 10.0 ** rng.integers(3, 38),
    "largest": lambda rng, vocab: rng.choice([-1e300, 1e300, 0.0], vocab),
    "Zipf's": lambda rng, vocab: -rng.choice([0.5, 1.0, 2.0]) * np.log1p(rng.permutation(vocab)),
    "a ramp": lambda rng, vocab: np.linspace(0, rng.choice([1e-3, 1.0, 50.0]), vocab),
}
BROKEN = {"NaN": math.nan, "infinite": math.inf, "all excluded": -math.inf}


def row(rng, kind, vocab, dtype):
    """`(vocab)`, in what the dtype can hold; a row of `masked` keeps what it excludes."""
    z = np.asarray(ROWS[kind](rng, vocab), np.float64)
    inside = np.clip(z, -LARGEST[dtype], LARGEST[dtype])
    return torch.from_numpy(np.where(np.isneginf(z), z, inside)).to(dtype)


def rows(rng):
    """`(rows, vocab)` and the kinds of the rows."""
    vocab = int(rng.choice(VOCABULARIES, p=[0.05, 0.07, 0.06, 0.32, 0.2, 0.1, 0.1, 0.09, 0.01]))
    dtype = DTYPES[rng.integers(len(DTYPES))]
    kinds = rng.choice(list(ROWS), 1 if vocab > 1000 else rng.integers(1, 17))
    return torch.stack([row(rng, kind, vocab, dtype) for kind in kinds]), kinds


def tiny_to_huge(rng):
    return float(10.0 ** rng.uniform(-12, 4))


def share(rng):
    exact = [0.1, 0.25, 0.5, 0.75, 0.9, 1e-12, 1e-300, 1 - 1e-9, 1 - 2**-53]
    return float(rng.choice([*exact, rng.random() or 0.5, 10.0 ** rng.uniform(-8, -0.1)]))


VALUES = {
    "dry_multiplier": lambda rng: float(rng.choice([0.8, 1e30, 1e-300, 1.7e308])),
    "dry_base": lambda rng: float(rng.choice([1.0, 1.75, 1e308])),
    "dry_allowed_length": lambda rng: int(rng.choice([1, 2, 60, 10**12])),
    "dry_breakers": lambda rng: tuple(rng.integers(0, 40, 2).tolist()),
    "temperature": lambda rng: float(
        rng.choice([0.0, 0.5, 0.7, 1.5, 1e-30, 1e-320, 1e39, 1e308, tiny_to_huge(rng)])
    ),
    "edt_theta": lambda rng: float(rng.choice([0.5, 1e-320, 1e308, tiny_to_huge(rng)])),
    "edt_base": lambda rng: float(rng.choice([0.8, 1e-300, 1 - 1e-12])),
    "dynatemp_range": lambda rng: float(rng.choice([0.5, 1.0, 3.0, 1e308, tiny_to_huge(rng)])),
    "dynatemp_exponent": lambda rng: float(rng.choice([1.0, 2.0, 1e-300, 1e300, 0.3])),
    "target_entropy": lambda rng: float(rng.choice([1.0, 1e-9, 700.0, 10 * rng.random()])),
    "top_n_sigma": lambda rng: float(rng.choice([1.0, 1e308, tiny_to_huge(rng)])),
    "min_k": lambda rng: float(rng.choice([3.0, 1e-300, 1e308, tiny_to_huge(rng)])),
    "top_h": share,
    "top_k": lambda rng: int(rng.choice([1, 2, 3, 16, 17, 50, 1000, 10**15])),
    "top_p": share,
    "min_p": lambda rng: float(rng.choice([1.0, 5e-324, share(rng)])),
    "typical_p": share,
    "epsilon_cutoff": lambda rng: float(rng.choice([5e-324, share(rng)])),
    "eta_cutoff": lambda rng: float(rng.choice([5e-324, share(rng)])),
    "p_less": lambda rng: float(rng.choice([1.0, 5e-324, share(rng)])),
    "kl_budget": lambda rng: float(rng.choice([0.1, 1e308, 5e-324, tiny_to_huge(rng)])),
    "mirostat_tau": lambda rng: float(rng.choice([3.0, 1e308, 5e-324, tiny_to_huge(rng)])),
    "mirostat_eta": share,
    "temperature_last": lambda rng: float(rng.choice([1.5, 1e-320, 1e308, tiny_to_huge(rng)])),
    "xtc_probability": lambda rng: float(rng.choice([1.0, 0.5, 5e-324, share(rng)])),
    "xtc_threshold": share,
    "xtc_spared": lambda rng: tuple(rng.integers(0, 40, 2).tolist()),
    "adaptive_p": lambda rng: float(rng.choice([1.0, 5e-324, share(rng)])),
    "adaptive_p_decay": lambda rng: float(rng.choice([0.0, 0.9, 0.99])),
}


def setting(rng, *, most=5):
    """One rule, or several; those that contradict each other are drawn anew."""
    while True:
        size = 1 if rng.random() < 0.4 else int(rng.integers(0, most + 1))
        chosen = rng.choice(len(RULES_IN_ORDER), size, replace=False)
        values = {}
        for rule in (RULES_IN_ORDER[i] for i in chosen):
            own, *parameters = (field.name for field in rule.fields())
            values[own] = VALUES[own](rng)
            for name in parameters:
                if rng.random() < 0.5:
                    values[name] = VALUES[name](rng)
        try:
            return DecodingSettings(**values)
        except ValueError:
            continue
