"""Rows of logits through rules and the step that draws and measures, against NumPy in float64.

A case is a batch of rows and a setting. Its rules are applied one after the other, and what each
makes of the rows it is given is held against its definition; so a token that rounding may put on
either side of one cut does not excuse the next.
"""

import contextlib
import traceback
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from cuts_oracle import by_logit, log_softmax
from decoding import EntropyMonitor, Sampler
from decoding.rows.arrays import as_tensor
from decoding.rows.distribution import Distribution
from decoding.rows.faults import NonFiniteLogitsError
from decoding.rules import Past
from decoding.sampling.sampler import _Step
from decoding.settings.applying import History
from decoding.settings.settings import DecodingSettings
from fuzz import exact, logits
from fuzz.measures import check_compared, check_measures, check_statistics, close
from oracle import reference_penalties

Finding = AssertionError


def check(rng):
    """One case; a `Finding` says what is wrong. Gives how many rows it had."""
    rows, kinds = logits.rows(rng)
    settings = logits.setting(rng)
    ids = torch.from_numpy(rng.integers(0, min(rows.shape[-1], 5), (len(rows), 30)))
    at_once = rng.random() < 0.2  # as on an accelerator
    about = f"{settings} on {', '.join(kinds)}: {tuple(rows.shape)}, {rows.dtype}"
    patch = mock.patch("decoding.rows.arrays.numpy_sees", return_value=False)
    before = rows.clone()
    try:
        with patch if at_once else contextlib.nullcontext():
            _check_rules(settings, rows, ids)
            _check_step(settings, rows, ids, rng)
            _check_refusals(settings, rows, ids, rng)
            _check_shapes(settings, rows)
        check_statistics(rows, rng)
        check_compared(rows, rng)
        assert torch.equal(rows, before), "its input was changed"
    except (AssertionError, pytest.fail.Exception) as error:
        raise Finding(f"{about}{', at once' * at_once}: {error}") from error
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        raise Finding(f"{about}{', at once' * at_once}: {error!r} at {where}") from error
    return len(rows)


def _check_rules(settings, rows, ids):
    """Each rule on what the one before it left, and all of them together."""
    given = Distribution(rows)
    applied = settings.apply(given, History(ids)) if settings.looks_back else settings.apply(given)
    divided_by, tempered = np.ones(len(rows)), False
    for stage in settings.stages:
        if isinstance(stage, tuple):
            if stage[0].is_fixed and stage[0].value == 0:
                given = given.first(1)
                break
            given, divided_by = _tempered(settings, applied, given)
            tempered = True
            continue
        assert tempered or stage.kind != "temperature"
        state = np.array(stage.start or [0.0])
        states = as_tensor(np.tile(state, (len(rows), 1)))
        past = Past(ids, None, as_array_like(given, states))
        left = stage.apply(given, past)
        for z, after, one_ids, t in zip(
            float64(given), float64(left), ids.tolist(), divided_by, strict=True
        ):
            _check_rule(stage, z, after, one_ids, t, state, hottest(given))
        given = left
    assert torch.equal(given.logits, applied.final.logits), "rules in turn are not the setting"


def as_array_like(rows, states):
    return states if isinstance(rows.z, torch.Tensor) else states.numpy()


def float64(rows):
    """The logits of rows, excluded tokens as -inf."""
    return rows.logits.double().numpy()


def hottest(rows):
    """The largest temperature: what the logits' type can hold."""
    return torch.finfo(rows.logits.dtype).max


def _tempered(settings, applied, given):
    """Rows at their temperature, which is checked, and what they were divided by."""
    temperature = applied.temperature
    most = hottest(given)
    if temperature is None:
        divisor = np.full(len(given.logits), settings.temperature)
    else:
        divisor = temperature.squeeze(-1).numpy()
    scaled = applied.scaled
    for z, after, t in zip(float64(given), float64(scaled), divisor, strict=True):
        assert t > 0, f"the temperature is {t}"
        if settings.target_entropy:
            _check_target(settings.target_entropy, z, t)
        elif temperature is not None:
            low, high = sorted(exact.temperatures(settings, z))
            assert low * (1 - 1e-6) <= t <= high * (1 + 1e-6), f"T = {t}, not in {low}, {high}"
        with np.errstate(over="ignore"):
            want = (z - z.max()) / np.clip(t, exact.COLDEST, most)
        finite = want > -3e38
        close(after[finite] - after.max(), want[finite], "logits at the temperature", 1e-30, 1e-6)
        assert (after[~finite] < -1e38).all()
    return scaled, np.clip(divisor, exact.COLDEST, most)


def _check_target(target, z, t):
    tied, possible = (np.log((z == z.max()).sum()), np.log(np.isfinite(z).sum()))
    want = min(max(target, tied), possible)
    got = exact.entropy_at(z, t)
    if t == exact.COLDEST:  # of denormal logits it is not cold
        want = max(want, got)
    assert abs(got - want) < 1e-5, f"T = {t} has entropy {got}, not {want}"


def _check_rule(rule, z, after, ids, divided_by, state, most):
    """What a rule left of one row of logits."""
    left = after > -np.inf
    assert left.any(), f"{rule} leaves no token"
    assert not np.isnan(after).any(), f"{rule} leaves NaN"
    if rule.kind == "cut":
        kept = exact.cut(rule, z, divided_by, state[0])
        wrong = (left != kept.tokens) & kept.far
        assert not wrong.any(), f"{rule} keeps other tokens, {wrong.nonzero()[0][:5]}: {z[wrong]}"
        assert np.array_equal(after[left], z[left]), f"{rule} changed what it keeps"
        return
    if rule.field == "dry_multiplier":
        taken = np.minimum(reference_penalties(DecodingSettings(**rule.given), ids, len(z)), 1e30)
        with np.errstate(invalid="ignore"):
            off = abs(after - (z - taken))
        assert not (off > 3e-7 * np.maximum(abs(z), taken) + 1e-37).any(), (
            f"{rule}: other penalties"
        )
        return
    if rule.field == "temperature_last":
        t = min(max(rule.value, exact.COLDEST), most)
        with np.errstate(over="ignore"):
            wants = [log_softmax((z - z.max()) / t)]
    elif rule.field == "xtc_probability":
        wants = [exact.xtc(rule, z, slack) for slack in (0.0, -exact.NEAR, exact.NEAR)]
    else:
        wants = [exact.adaptive_p(rule, z, state)]
    assert any(_alike(log_softmax(after), want) for want in wants), f"{rule}: another log q"


def _alike(got, want):
    with np.errstate(invalid="ignore"):
        near = abs(got - want) <= 2e-5 + 2e-6 * abs(want)
    return bool((near | (got == want) | ((got < -1e30) & (want < -1e30))).all())


def _check_step(settings, rows, ids, rng):
    """The fused step: what it draws, and what its monitor writes down."""
    monitor = EntropyMonitor(alternatives=int(rng.integers(0, 4)), certainty=True)
    points = torch.from_numpy(rng.choice([0.0, 1 - 2**-53, 0.5, rng.random()], (len(rows), 1)))
    if settings.target_entropy > np.log(rows.shape[-1]):
        return
    step = _Step(
        Sampler(settings, points=points, monitor=monitor), points, None, keeps_scores=False
    )
    tokens = step(ids, rows).tokens
    step.check()
    traces = monitor.traces(torch.cat([ids, tokens[:, None]], -1), eos_token_id=None)
    given = Distribution(rows)
    applied = settings.apply(given, History(ids)) if settings.looks_back else settings.apply(given)
    for number, trace in enumerate(traces):
        z, scaled, final = (float64(of)[number] for of in (given, applied.scaled, applied.final))
        check_measures(trace, z, scaled, final, points[number, 0].item(), applied)


def _check_refusals(settings, rows, ids, rng):
    """A row that is no distribution is named, by the step and by a monitored processor."""
    if settings.target_entropy > np.log(rows.shape[-1]):
        return
    broken, at = rows.clone(), int(rng.integers(len(rows)))
    kind = rng.choice(list(logits.BROKEN))
    some = slice(None) if kind == "all excluded" else int(rng.integers(rows.shape[-1]))
    broken[at, some] = logits.BROKEN[kind]
    points = torch.zeros(len(rows), 1, dtype=torch.float64)
    monitor = EntropyMonitor()
    step = _Step(Sampler(settings, points=points), points, None, keeps_scores=False)
    processor = settings.processors(monitor)

    def processed():
        scores = processor(ids, broken)
        drawn = torch.cat([ids, scores.argmax(-1, keepdim=True)], -1)
        monitor.traces(drawn, eos_token_id=None)

    for what in (lambda: (step(ids, broken), step.check()), processed):
        with pytest.raises(NonFiniteLogitsError, match=f"step 0, row {at}: "):
            what()


def _check_shapes(settings, rows):
    """The same rows along other leading axes, and one alone, have the same log q."""
    if settings.looks_back:
        return
    log_q = settings.log_probs(rows)
    assert not log_q.isnan().any(), "log q is NaN"
    assert log_q.dtype == (torch.float64 if rows.dtype == torch.float64 else torch.float32)
    sums = log_q.double().exp().sum(-1)
    assert (abs(sums - 1) < 1e-4).all(), f"q adds up to {sums.tolist()}"
    excluded = rows == -torch.inf
    assert (log_q[excluded] == -torch.inf).all(), "an excluded token has a probability"
    again = settings.log_probs(rows.reshape(1, *rows.shape, 1).squeeze(-1))[0]
    assert torch.equal(again, log_q), "another leading axis changes log q"
    alone = settings.log_probs(rows[-1])
    kept = (log_q[-1] > -torch.inf) == (alone > -torch.inf)
    best = by_logit(rows[-1].double().numpy())[0]
    if kept.all():
        close(alone.double().numpy(), log_q[-1].double().numpy(), "log q of a row alone", 1e-5)
    else:  # rounding of the exponential at a cut
        z = rows[-1].double().numpy()
        assert abs(z[~kept.numpy()] - z[best]).max() < 200, "a row alone keeps other tokens"
