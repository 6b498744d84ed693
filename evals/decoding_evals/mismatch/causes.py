"""Why an engine's log-probabilities are not the model's: each cause predicts others, and is tried.

What explains nearly all of the squared differences is named. What is tried, the simplest first: the
log-probabilities stand one place off; BOS stood in front of the prompt, or did not; another
temperature; a distribution before or behind cuts that the setting does not say; another dtype.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoding.settings.applying import apply_settings
from decoding.settings.policy import Setting
from decoding.settings.settings import DecodingSettings
from decoding.texts.prompts import document_front
from decoding_evals.engines.rollouts import Rollout
from decoding_evals.mismatch.recomputed import Recomputing, logits_of, under
from decoding_evals.showing.result import Floats

EXPLAINED = 0.9
"""Share of the squared differences that a cause has to explain to be named."""
ALIKE = 1.5
"""Mean squares within this factor are alike: the simpler cause is named."""
SAMPLE_TOKENS = 512
SAMPLE_BYTES = 1 << 28
COARSE_ROWS = 64
FAR_NATS = 10.0
"""A token that a setting cuts off counts as so far off."""
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
CUTS: tuple[dict[str, Any], ...] = (
    *({"top_p": p} for p in (0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.95, 0.98, 0.99)),
    *({"top_k": k} for k in (1, 5, 10, 20, 40, 50, 64, 100)),
    *({"min_p": p} for p in (0.01, 0.02, 0.05, 0.1, 0.2)),
    {"top_k": 50, "top_p": 0.95},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 20, "top_p": 0.95},
    {"top_k": 20, "top_p": 0.8},
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Cause(NamedTuple):
    """What explains a mismatch."""

    name: str
    """`none`, `shift`, `bos`, `temperature`, `processed`, `dtype` or `unknown`."""
    explained_by: str | None = None
    """What the engine did, in words or as the text form of a setting."""
    share: float | None = None
    """Of the squared differences, what it explains, <= 1."""


class _Tried(NamedTuple):
    name: str
    explained_by: str
    differences: Floats


def sample_of(rollouts: Sequence[Rollout], vocab: int) -> list[Rollout]:
    """The first rollouts of up to so many tokens, at least one."""
    most = min(SAMPLE_TOKENS, SAMPLE_BYTES // (4 * vocab))
    chosen: list[Rollout] = []
    tokens = 0
    for one in rollouts:
        if chosen and tokens + len(one.ids) > most:
            continue
        chosen.append(one)
        tokens += len(one.ids)
    return chosen


def cause_of(recomputing: Recomputing, rollouts: Sequence[Rollout], setting: Setting) -> Cause:
    """What explains that the log-probabilities of rollouts are not those of a setting.

    Args:
        recomputing: the model.
        rollouts: a few; see `sample_of`.
        setting: that was said.
    """
    base = _differences(rollouts, _log_q(recomputing, rollouts, setting))
    tried = [
        *_shifted(recomputing, rollouts, setting),
        *_with_other_front(recomputing, rollouts, setting),
        *_of_other_settings(recomputing, rollouts, setting),
    ]
    whole = _mean_square(base)
    found = [(one, _mean_square(one.differences)) for one in tried]
    least = min(square for _, square in found)
    best, square = next((one, square) for one, square in found if square <= ALIKE * least)
    if square <= (1 - EXPLAINED) * whole:
        return Cause(best.name, best.explained_by, 1 - square / whole)
    return _of_dtype(recomputing, rollouts, setting, base)


def _log_q(recomputing: Recomputing, rollouts: Sequence[Rollout], setting: Setting) -> list[Floats]:
    return [one["log_q"] for one in recomputing.measured(rollouts, under(setting))]


def _differences(rollouts: Sequence[Rollout], log_q: Sequence[Floats]) -> Floats:
    """Engine less model, of all tokens that both know."""
    engine = np.concatenate([np.array(one.log_probs, np.float64) for one in rollouts])
    differences = engine - np.concatenate([*log_q])
    known: Floats = differences[~np.isnan(differences)]
    return known


def _mean_square(differences: Floats) -> float:
    if not len(differences):
        return math.inf
    return float((differences.clip(-FAR_NATS, FAR_NATS) ** 2).mean())


def _shifted(
    recomputing: Recomputing, rollouts: Sequence[Rollout], setting: Setting
) -> Iterator[_Tried]:
    """The log-probability of a token stands at the one before it, or behind it."""
    log_q = _log_q(recomputing, rollouts, setting)
    for by, words in ((1, "each stands one token late"), (-1, "each stands one token early")):
        moved = []
        for one in log_q:
            at = np.full(len(one), np.nan)
            if by > 0:
                at[1:] = one[:-1]
            else:
                at[:-1] = one[1:]
            moved.append(at)
        yield _Tried("shift", words, _differences(rollouts, moved))


def _with_other_front(
    recomputing: Recomputing, rollouts: Sequence[Rollout], setting: Setting
) -> Iterator[_Tried]:
    """The prompt without the special tokens in front of it, or with them."""
    front = tuple(document_front(recomputing.language_model.tokenizer))
    if not front:
        return
    begun = [one.prompt_ids[: len(front)] == front for one in rollouts]
    others = [
        one._replace(prompt_ids=one.prompt_ids[len(front) :] if has else front + one.prompt_ids)
        for one, has in zip(rollouts, begun, strict=True)
    ]
    words = "without BOS" if all(begun) else "with BOS in front" if not any(begun) else "other BOS"
    yield _Tried("bos", words, _differences(others, _log_q(recomputing, others, setting)))


def _of_other_settings(
    recomputing: Recomputing, rollouts: Sequence[Rollout], setting: Setting
) -> Iterator[_Tried]:
    """Another temperature; the model's own distribution; and cuts that the setting does not say."""
    rows = torch.cat([*logits_of(recomputing, rollouts)])
    known = [
        (token, engine)
        for one in rollouts
        for place, (token, engine) in enumerate(zip(one.ids, one.log_probs, strict=True))
        if place or one.prompt_ids
    ]
    tokens = torch.tensor([token for token, _ in known])
    engine = torch.tensor([math.nan if e is None else e for _, e in known], dtype=torch.float64)

    def differences(other: DecodingSettings, some: slice = slice(None)) -> Floats:
        log_q = apply_settings(other, rows[some]).double().log_softmax(-1)
        found = engine[some] - log_q.gather(-1, tokens[some, None])[:, 0]
        array: Floats = found[~found.isnan()].numpy()
        return array

    if setting != DecodingSettings():
        yield _Tried("processed", "raw", differences(DecodingSettings()))
    fitted = DecodingSettings(temperature=_temperature(rows, tokens, engine))
    yield _Tried("temperature", str(fitted), differences(fitted))
    own = setting.temperature if isinstance(setting, DecodingSettings) else 1.0
    first = slice(0, COARSE_ROWS)
    candidates = [
        DecodingSettings(temperature=temperature, **cut)
        for temperature in {own or 1.0, fitted.temperature, *TEMPERATURES}
        for cut in CUTS
    ]
    best = min(candidates, key=lambda other: _mean_square(differences(other, first)))
    yield _Tried("processed", str(best), differences(best))


def _temperature(rows: Tensor, tokens: Tensor, engine: Tensor) -> float:
    """The temperature in [0.1, 10] at which the model is nearest to the engine."""

    def square(log_temperature: float) -> float:
        log_q = (rows.double() / math.exp(log_temperature)).log_softmax(-1)
        found = engine - log_q.gather(-1, tokens[:, None])[:, 0]
        return _mean_square(found[~found.isnan()].numpy())

    low, high, steps = math.log(0.1), math.log(10), 24
    for _ in range(6):
        points = np.linspace(low, high, steps)
        at = int(np.argmin([square(point) for point in points]))
        low, high = points[max(0, at - 1)], points[min(steps - 1, at + 1)]
        steps = 7
    return float(f"{math.exp((low + high) / 2):.4g}")


def _of_dtype(
    recomputing: Recomputing, rollouts: Sequence[Rollout], setting: Setting, base: Floats
) -> Cause:
    """Whether the differences are what another dtype makes: its own, or as large and even."""
    model = recomputing.language_model.model
    whole = _mean_square(base)
    here = np.concatenate(_log_q(recomputing, rollouts, setting))
    for dtype in DTYPES:
        if dtype == model.dtype:
            continue
        other = copy.deepcopy(model).to(dtype)
        language_model = copy.copy(recomputing.language_model)
        object.__setattr__(language_model, "model", other)
        log_q = _log_q(Recomputing(language_model, recomputing.batch_size), rollouts, setting)
        name = str(dtype).removeprefix("torch.")
        square = _mean_square(_differences(rollouts, log_q))
        if square <= (1 - EXPLAINED) * whole:
            return Cause("dtype", name, 1 - square / whole)
        moved = np.concatenate(log_q) - here
        typical = _mean_square(moved[~np.isnan(moved)])
        even = float(np.mean(base.clip(-FAR_NATS, FAR_NATS))) ** 2 < whole / 4
        if even and typical / 16 < whole < typical * 16:
            return Cause("dtype", name, None)
    return Cause("unknown")
