"""A setting applied to rows of logits: penalties, temperature, cuts, in the order of the fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from decoding.rows.arrays import Array, as_array, as_tensor, double, library
from decoding.rows.distribution import Distribution
from decoding.rules import history as looking_back
from decoding.rules import truncation
from decoding.rules.history import History
from decoding.rules.steering import steered_temperature

if TYPE_CHECKING:
    from decoding.settings.policy import EntropyPolicy
    from decoding.settings.settings import DecodingSettings

CUTS: dict[str, truncation.Cut] = {
    "top_n_sigma": truncation.top_n_sigma,
    "top_h": truncation.top_h,
    "top_k": truncation.top_k,
    "top_p": truncation.top_p,
    "min_p": truncation.min_p,
    "typical_p": truncation.typical_p,
    "epsilon_cutoff": truncation.epsilon_cutoff,
    "eta_cutoff": truncation.eta_cutoff,
    "p_less": truncation.p_less,
    "kl_budget": truncation.kl_budget,
}
_BLOCK = 1 << 22  # logits at a time


class Applied(NamedTuple):
    """What a setting makes of rows of logits."""

    scaled: Distribution
    """After penalties and temperature, before anything is cut; of greedy, after penalties."""
    final: Distribution
    """q."""
    temperature: Tensor | None
    """`(…, 1)`, float64, where the entropy of each row sets it."""
    mixed: bool = False
    """Whether q is not simply what the cuts leave of the scaled rows, renormalised."""


def apply(settings: DecodingSettings, raw: Distribution, history: History | None = None) -> Applied:
    """All steps of a setting in their order.

    Args:
        settings: the steps and their parameters.
        raw: the model's own rows.
        history: what came before each row, for a setting that looks back.

    Raises:
        ValueError: the setting looks back and there is no history.
    """
    if settings.looks_back and history is None:
        raise ValueError(f"{settings} looks back at earlier tokens, so it needs their history")
    rows = raw
    if settings.dry_multiplier:
        assert history is not None
        rows = Distribution(looking_back.penalized(settings, rows.logits, history))
    if settings.greedy:
        return Applied(rows, rows.restricted(truncation.top_k.kept(rows, 1)), None)
    steered = steered_temperature(settings, rows)
    if steered is not None:
        rows = truncation.tempered(rows, steered)
    elif settings.temperature != 1:
        rows = truncation.tempered(rows, settings.temperature)
    scaled = rows
    for name, value in settings.steps():
        if name == "mirostat_tau":
            assert history is not None
            most = looking_back.most_surprisal(settings, history, as_tensor(rows.log_total))
            rows = rows.restricted(truncation.up_to_surprisal(rows, as_array(most)))
        elif name == "typical_p":  # may leave out the first token
            rows = Distribution(truncation.typical_p(rows, value))
        elif name == "xtc_probability":
            rows = Distribution(truncation.xtc(rows, value, settings.xtc_threshold))
        elif name in CUTS:
            rows = rows.restricted(CUTS[name].kept(rows, value))
    return Applied(scaled, rows, steered, mixed=settings.xtc_probability > 0)


def apply_settings(
    settings: DecodingSettings | EntropyPolicy, logits: Tensor, history: History | None = None
) -> Tensor:
    """All steps of a setting in their order, a few rows at a time; the result is not normalised.

    Args:
        settings: the steps and their parameters.
        logits: `(…, vocab)`.
        history: what came before each row, for a setting that looks back; then logits are
            `(rows, vocab)`.

    Returns:
        `(…, vocab)` logits of q.
    """
    if settings.looks_back or logits.numel() <= _BLOCK:
        return settings.apply(Distribution(logits), history).final.logits
    rows = logits.reshape(-1, logits.shape[-1])
    parts = torch.split(rows, max(1, _BLOCK // rows.shape[-1]))
    done = torch.cat([settings.apply(Distribution(part)).final.logits for part in parts])
    return done.reshape(logits.shape)


def kept_mass(applied: Applied) -> Array:
    """Mass of the support of q before it was cut; see `Trace.kept_mass`.

    Args:
        applied: rows `(rows, vocab)`.

    Returns:
        `(rows)`, in (0, 1], float64.
    """
    scaled, final = applied.scaled, applied.final
    mass = scaled.mass_of(final)
    if mass is None and applied.mixed:
        mass = double((scaled.weights * final.support).sum(-1)) / scaled.total
    elif mass is None:
        # Renormalising divided every token's probability by it, the favourite's too.
        tokens = final.z.argmax(-1)
        mass = library(final.z).exp(scaled.log_prob(tokens) - final.log_prob(tokens))
    return mass.clip(None, 1)
