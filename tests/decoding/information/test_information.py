"""Information measures against mpmath, SciPy and NumPy in float64."""

import math
from functools import partial

import mpmath
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decoding.information.measures import (
    cross_entropy,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    renyi_entropy,
    self_certainty,
    surprisal,
    total_variation,
    varentropy,
)
from decoding.rows.distribution import Distribution

checked = settings(derandomize=True, max_examples=100)

ONE = {
    "entropy": entropy,
    "varentropy": varentropy,
    "renyi_entropy": partial(renyi_entropy, order=2),
}
TWO = {
    "cross_entropy": cross_entropy,
    "kl_divergence": kl_divergence,
    "js_divergence": js_divergence,
    "total_variation": total_variation,
}


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def rows(count, elements):
    """`count` rows of logits over one vocabulary of 1 to 8 tokens, each with a finite logit."""
    return (
        st.integers(1, 8)
        .flatmap(lambda vocab: st.lists(elements, min_size=count * vocab, max_size=count * vocab))
        .map(lambda flat: np.array(flat).reshape(count, -1))
        .filter(lambda z: np.isfinite(z).any(-1).all())
    )


moderate = st.floats(-10, 10) | st.just(-np.inf)
wide = moderate | st.floats(-1e4, 1e4) | st.sampled_from([-1e4, 1e4])


def close(actual, expected, tolerance=1e-10):
    """Equal to the tolerance, absolute below 1 and relative above; infinities must match."""
    return float(actual) == pytest.approx(float(expected), rel=tolerance, abs=tolerance)


# --- definitions


def exact(*logit_rows):
    """Log-probabilities in 50 digits; None for probability zero."""
    for z in logit_rows:
        partition = mpmath.log(mpmath.fsum(mpmath.exp(x) for x in z if x > -math.inf))
        yield [mpmath.mpf(x) - partition if x > -math.inf else None for x in z]


def mean(log_p, values):
    return mpmath.fsum(
        mpmath.exp(a) * (mpmath.inf if x is None else x)
        for a, x in zip(log_p, values, strict=True)
        if a is not None
    )


def minus(a, b):
    return None if b is None or a is None else a - b


@checked
@given(z=rows(1, wide))
def test_entropy_and_varentropy_equal_mpmath(z):
    log_probs = torch.tensor(log_softmax(z)[0])
    with mpmath.workdps(50):
        (log_p,) = exact(z[0])
        expected = mean(log_p, [None if a is None else -a for a in log_p])
        squares = mean(log_p, [None if a is None else (a + expected) ** 2 for a in log_p])
    assert close(entropy(log_probs), expected)
    assert close(varentropy(log_probs), squares)


@checked
@given(z=rows(1, wide), order=st.sampled_from([0.0, 0.5, 0.9, 1.0, 2.0, 7.5, math.inf]))
def test_renyi_entropy_and_self_certainty_equal_mpmath(z, order):
    log_probs = torch.tensor(log_softmax(z)[0])
    with mpmath.workdps(50):
        known = [a for a in next(exact(z[0])) if a is not None]
        if order == math.inf:
            want = -max(known)
        elif order == 1:
            want = -mpmath.fsum(mpmath.exp(a) * a for a in known)
        else:
            want = mpmath.log(mpmath.fsum(mpmath.exp(order * a) for a in known)) / (1 - order)
        certainty = -mpmath.fsum(known) / len(known) - mpmath.log(len(known))
    assert close(renyi_entropy(log_probs, order), want, 1e-9)
    assert close(self_certainty(log_probs), certainty, 1e-9)
    [row] = Distribution(torch.tensor(z)).self_certainty
    assert close(row, certainty, 1e-9)


@checked
@given(z=rows(1, moderate), order=st.floats(0.1, 5).filter(lambda order: abs(order - 1) > 1e-3))
def test_renyi_entropies_are_log_partitions(z, order):
    """H_α = (A(α) − αA(1)) / (1 − α), and KL(U‖p) = A − mean z − ln V."""
    z = torch.tensor(z[0])
    log_p = z.log_softmax(-1)
    partitions = (order * z).logsumexp(-1) - order * z.logsumexp(-1)
    assert close(renyi_entropy(log_p, order), partitions / (1 - order), 1e-8)
    if z.isfinite().all():
        certainty = z.logsumexp(-1) - z.mean() - math.log(len(z))
        assert close(self_certainty(log_p), certainty, 1e-9)
        uniform = torch.full_like(log_p, -math.log(len(z)))
        assert close(self_certainty(log_p), kl_divergence(uniform, log_p), 1e-9)


@pytest.mark.parametrize("order", [-0.5, math.nan])
def test_a_renyi_entropy_has_no_negative_order(order):
    with pytest.raises(ValueError, match=f"order must be >= 0, got {order}"):
        renyi_entropy(torch.zeros(1), order)


@checked
@given(z=rows(2, wide))
def test_cross_entropy_and_kl_equal_mpmath_and_are_infinite_off_the_support(z):
    log_p, log_q = torch.tensor(log_softmax(z))
    with mpmath.workdps(50):
        exact_p, exact_q = exact(*z)
        crossed = mean(exact_p, [None if b is None else -b for b in exact_q])
        divergence = mean(exact_p, [minus(a, b) for a, b in zip(exact_p, exact_q, strict=True)])
    assert close(cross_entropy(log_p, log_q), crossed)
    assert close(kl_divergence(log_p, log_q), divergence)


@checked
@given(z=rows(2, wide))
def test_js_and_total_variation_equal_scipy(z):
    log_p, log_q = log_softmax(z)
    p, q = np.exp(log_p), np.exp(log_q)
    ours = torch.tensor(log_p), torch.tensor(log_q)
    assert close(js_divergence(*ours), scipy.spatial.distance.jensenshannon(p, q) ** 2, 1e-9)
    assert close(total_variation(*ours), np.abs(p - q).sum() / 2)
    for measure in js_divergence, total_variation:
        assert close(measure(*ours), measure(*reversed(ours)))
        assert close(measure(ours[0], ours[0]), 0)


@checked
@given(z=rows(2, moderate))
def test_float32_is_right_to_five_digits(z):
    log_p, log_q = log_softmax(z)
    p, q = np.exp(log_p), np.exp(log_q)
    single = torch.tensor(log_p).float(), torch.tensor(log_q).float()
    assert close(entropy(single[0]), scipy.stats.entropy(p), 1e-5)
    assert close(kl_divergence(*single), scipy.stats.entropy(p, q), 1e-5)
    assert close(total_variation(*single), np.abs(p - q).sum() / 2, 1e-5)


@checked
@given(z=rows(2, wide), seed=st.integers(0, 99))
def test_surprisal_is_minus_the_log_probability(z, seed):
    log_probs = log_softmax(z)
    tokens = np.random.default_rng(seed).integers(z.shape[-1], size=2)
    actual = surprisal(torch.tensor(log_probs), torch.tensor(tokens))
    assert np.array_equal(actual.numpy(), -log_probs[[0, 1], tokens])
    narrow = torch.tensor(tokens, dtype=torch.int32)
    assert torch.equal(surprisal(torch.tensor(log_probs), narrow), actual)


# --- never NaN


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@checked
@given(z=rows(2, wide | st.just(torch.finfo(torch.float32).min)))
def test_no_measure_is_ever_nan_or_negative(dtype, z):
    log_p, log_q = torch.tensor(z).to(dtype).log_softmax(-1)
    values = {name: measure(log_p) for name, measure in ONE.items()}
    values |= {name: measure(log_p, log_q) for name, measure in TWO.items()}
    values["mutual_information"] = mutual_information(torch.stack([log_p, log_q]))
    assert {name: float(value) for name, value in values.items() if not value >= 0} == {}
    assert self_certainty(log_p) >= 0  # and infinite where the sum of its logarithms is
    finite = values.keys() - {"cross_entropy", "kl_divergence"}
    assert all(math.isfinite(values[name]) for name in finite)
    slack = 1e-5
    assert values["entropy"] <= math.log(len(log_p)) + slack
    assert values["total_variation"] <= 1
    assert values["js_divergence"] <= math.log(2) + slack


def test_a_tiny_probability_outside_the_support_of_q_is_still_infinitely_surprising():
    log_p = torch.tensor([0.0, -1e4])  # e^-10000 underflows, but it is no zero
    log_q = torch.tensor([0.0, -math.inf])
    assert cross_entropy(log_p, log_q) == math.inf
    assert kl_divergence(log_p, log_q) == math.inf
    assert kl_divergence(log_q, log_p) == 0


def test_the_smallest_number_as_a_mask_counts_as_probability_zero():
    log_probs = torch.tensor([0.25, 0.75, 0.0]).log()
    masked = log_probs.clamp(min=torch.finfo(torch.float32).min)
    for name, measure in ONE.items():
        assert close(measure(masked), measure(log_probs), 1e-6), name


# --- closed forms


@pytest.mark.parametrize("vocab", [1, 2, 50257])
def test_uniform_and_point_mass(vocab):
    uniform = torch.full((vocab,), -math.log(vocab))
    assert close(entropy(uniform), math.log(vocab), 1e-5)
    assert close(varentropy(uniform), 0)
    for order in (0, 0.5, 2, math.inf):
        assert close(renyi_entropy(uniform, order), math.log(vocab), 1e-4)
    assert close(self_certainty(uniform), 0, 1e-5)
    point = torch.full((vocab,), -math.inf)
    point[-1] = 0
    assert entropy(point) == varentropy(point) == self_certainty(point) == 0
    assert renyi_entropy(point, 0) == renyi_entropy(point, 0.5) == renyi_entropy(point, 2) == 0
    assert close(kl_divergence(point, uniform), math.log(vocab), 1e-6)
    assert close(total_variation(point, uniform), 1 - 1 / vocab, 1e-5)


def test_disjoint_supports():
    log_p, log_q = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    assert kl_divergence(log_p, log_q) == cross_entropy(log_p, log_q) == math.inf
    assert close(js_divergence(log_p, log_q), math.log(2), 1e-6)
    assert total_variation(log_p, log_q) == 1


betas = st.floats(0.1, 5)


@checked
@given(z=rows(1, wide), first=betas, second=betas)
def test_kl_between_two_temperatures_is_a_bregman_divergence(z, first, second):
    """KL(p_β1‖p_β2) = A(β2) − A(β1) − (β2−β1)·m(β1)."""
    z = z[0] - z.max()

    def tempered(beta):
        return Distribution(torch.tensor(z)).tempered(1 / beta).logits.log_softmax(-1)

    with mpmath.workdps(50):
        tokens = [mpmath.mpf(x) for x in z if x > -math.inf]
        a1, a2 = (
            mpmath.log(mpmath.fsum(mpmath.exp(b * x) for x in tokens)) for b in (first, second)
        )
        m1 = mpmath.fsum(mpmath.exp(first * x - a1) * x for x in tokens)
        expected = a2 - a1 - (mpmath.mpf(second) - first) * m1
    assert close(kl_divergence(tempered(first), tempered(second)), expected, 1e-9)


@checked
@given(z=rows(1, wide), data=st.data())
def test_truncation_to_a_set_of_mass_z(z, data):
    """KL(q‖p) = −ln Z, TV = 1 − Z, KL(p‖q) = ∞ unless Z = 1, H(q) = ln Z + Z⁻¹ Σ_S −p ln p."""
    log_p = log_softmax(z[0])
    support = np.isfinite(log_p)
    drawn = data.draw(st.lists(st.booleans(), min_size=len(log_p), max_size=len(log_p)))
    kept = np.array(drawn) & support
    assume(kept.any())
    log_q = np.where(kept, log_p, -np.inf)
    log_mass = float(np.logaddexp.reduce(log_q[kept]))
    log_q = log_q - log_mass
    p, q = torch.tensor(log_p), torch.tensor(log_q)
    assert close(kl_divergence(q, p), -log_mass, 1e-9)
    assert close(total_variation(p, q), 1 - math.exp(log_mass))
    assert close(kl_divergence(p, q), 0 if np.array_equal(kept, support) else math.inf)
    within = np.exp(log_p[kept] - log_mass)  # p / Z, also where both underflow
    # The two terms cancel, so the rounding of ln Z shows in their difference.
    assert close(entropy(q), log_mass - (within * log_p[kept]).sum(), 1e-9 * max(1, -log_mass))


@checked
@given(z=rows(2, wide))
def test_cross_entropy_is_entropy_plus_kl(z):
    log_p, log_q = torch.tensor(log_softmax(z))
    assert close(cross_entropy(log_p, log_q), entropy(log_p) + kl_divergence(log_p, log_q), 1e-9)


@checked
@given(members=st.integers(1, 5), data=st.data())
def test_mutual_information_is_what_the_members_disagree_about(members, data):
    """I = H(mean_k p_k) − mean_k H(p_k) = mean_k KL(p_k‖mean) ≤ ln K."""
    log_probs = log_softmax(data.draw(rows(members, wide)))
    p = np.exp(log_probs)
    actual = mutual_information(torch.tensor(log_probs))
    assert close(actual, scipy.stats.entropy(p.mean(0)) - scipy.stats.entropy(p, axis=-1).mean())
    with np.errstate(divide="ignore"):
        divergences = scipy.stats.entropy(p, np.broadcast_to(p.mean(0), p.shape), axis=-1)
    assert close(actual, divergences.mean())
    assert 0 <= actual <= math.log(members)


def test_mutual_information_extremes():
    alike = torch.tensor([0.5, 0.3, 0.2]).log().expand(4, 3)
    assert close(mutual_information(alike), 0, 1e-6)
    apart = torch.eye(4).log()
    assert close(mutual_information(apart), math.log(4), 1e-6)


# --- shapes and dtypes


@pytest.mark.parametrize("name", TWO)
def test_leading_axes_broadcast(name):
    generator = torch.Generator().manual_seed(1)
    log_p = torch.randn(2, 1, 5, generator=generator).log_softmax(-1)
    log_q = torch.randn(3, 5, generator=generator).log_softmax(-1)
    result = TWO[name](log_p, log_q)
    assert result.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert close(result[i, j], TWO[name](log_p[i, 0], log_q[j]), 1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 3)])
def test_the_last_axis_is_reduced(shape):
    log_probs = torch.randn(*shape, 6, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    assert {measure(log_probs).shape for measure in (self_certainty, *ONE.values())} == {shape}
    assert {measure(log_probs, log_probs).shape for measure in TWO.values()} == {shape}
    assert surprisal(log_probs, torch.zeros(shape, dtype=torch.long)).shape == shape
    ensemble = torch.stack([log_probs, log_probs], dim=-2)
    assert mutual_information(ensemble).shape == shape


@pytest.mark.parametrize(
    ("dtype", "result_dtype"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_raised_and_no_input_is_changed(dtype, result_dtype):
    rows_of_two = torch.randn(2, 9, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    log_p, log_q = rows_of_two.to(dtype)
    before = log_p.clone(), log_q.clone()
    raised = log_p.to(result_dtype), log_q.to(result_dtype)
    for measure in ONE.values():
        assert measure(log_p).dtype == result_dtype
        assert torch.equal(measure(log_p), measure(raised[0]))
    for measure in TWO.values():
        assert measure(log_p, log_q).dtype == result_dtype
        assert torch.equal(measure(log_p, log_q), measure(*raised))
    token = torch.tensor(4)
    assert surprisal(log_p, token).dtype == result_dtype
    assert torch.equal(log_p, before[0])
    assert torch.equal(log_q, before[1])
