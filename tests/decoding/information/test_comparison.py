"""Many settings at once against each setting and each pair on its own, in NumPy float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.information import comparison
from decoding.information import measures as information
from decoding.information.comparison import compare_rows
from decoding.settings.policy import parse_setting
from decoding.settings.settings import DecodingSettings
from oracle import CUT, entropy_at, log_softmax, reference_log_q
from some_settings import THIRTY

checked = settings(derandomize=True, max_examples=150)

NATS = 1e-6
VOCAB = 50257


def kept_like(z, setting, count):
    """log q of the reference, from whichever side of a cut within `CUT` keeps `count` tokens."""
    for slack in (0.0, -CUT, CUT):
        log_q = reference_log_q(z, setting, slack)
        if np.isfinite(log_q).sum() == count:
            return log_q
    raise AssertionError(f"{setting} should not keep {count} tokens")


def naive(z, target, chosen, kept):
    """The definitions, one row: every setting and then every pair over the whole vocabulary."""
    log_q = np.stack([kept_like(z, s, k) for s, k in zip(chosen, kept, strict=True)])
    q, size = np.exp(log_q), len(chosen)
    nats = np.where(np.isneginf(log_q), 0.0, log_q)  # 0·log 0 = 0
    result = {
        "entropy": -(q * nats).sum(-1),
        "surprisal": -log_q[:, target],
        "kept_mass": np.empty(size),
        "kl": np.empty((size, size)),
        "js": np.empty((size, size)),
        "total_variation": np.empty((size, size)),
    }
    for i, setting in enumerate(chosen):
        scaled = log_softmax(z if setting.greedy else z / setting.temperature)
        inside = np.isfinite(log_q[i])
        result["kept_mass"][i] = np.exp(scaled[inside]).sum()
        # q_i is zero outside its support, which is often small.
        here, there = log_q[i, inside], log_q[:, inside]
        missing = np.isneginf(there)  # infinite also where q_i is too small for a float
        result["kl"][i] = (np.exp(here) * np.where(missing, 0, here - there)).sum(-1)
        result["kl"][i, missing.any(-1)] = math.inf
        result["total_variation"][i] = np.abs(q - q[i]).sum(-1) / 2
        to_middle = here - np.logaddexp(here, there) + math.log(2)
        result["js"][i] = (np.exp(here) * to_middle).sum(-1) / 2
    result["js"] += result["js"].T.copy()
    return result


def assert_naive(logits, targets, chosen):
    """Every quantity of every row, setting and pair."""
    compared = compare_rows(logits, targets, chosen)
    assert (compared.entropy >= 0).all() and (compared.surprisal >= 0).all()
    assert (compared.kept_mass <= 1).all()
    assert (compared.total_variation >= 0).all() and (compared.total_variation <= 1).all()
    for row in range(len(targets)):
        z = logits[row].double().numpy()
        want = naive(z, int(targets[row]), chosen, compared.kept[row])
        for name, expected in want.items():
            actual = getattr(compared, name)[row]
            assert not np.isnan(actual).any(), name
            np.testing.assert_array_equal(np.isinf(actual), np.isinf(expected), err_msg=name)
            finite = np.isfinite(expected)
            np.testing.assert_allclose(
                actual[finite], expected[finite], atol=NATS, rtol=1e-12, err_msg=name
            )


def normal(scale, vocab=VOCAB, seed=0):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * scale


def peaked(scale=3.0, vocab=VOCAB):
    z = normal(scale, vocab)
    z[torch.tensor([5, 17, 40])] += 15
    return z


def masked():
    z = normal(3, 4000)
    z[::3] = -math.inf
    z[1::9] = torch.finfo(torch.float32).min  # some models mask with this
    return z


def alone():
    return torch.full((300,), -math.inf).index_fill(0, torch.tensor([7]), -3.5)


ROWS = {
    "flat": lambda: normal(0.3),
    "medium": lambda: normal(3),
    "peaked": peaked,
    "bfloat16 with ties": lambda: normal(2).bfloat16(),
    "float64": lambda: normal(2, 4000).double(),
    "half": lambda: normal(2, 4000).half(),
    "steep": lambda: normal(40, 4000),
    "coarse": lambda: normal(2, 4000).round(),
    "masked": masked,
    "one finite token": alone,
    "all level": lambda: torch.zeros(300),
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_quantity_equals_its_definition(kind):
    z = ROWS[kind]()
    target = int(z.float().argsort(descending=True)[min(30, len(z) - 1)])
    assert_naive(z[None], torch.tensor([target]), THIRTY)


def test_error_of_the_quadrature_is_far_below_the_tolerance():
    sweep = [DecodingSettings(temperature=t) for t in (0.1, 0.3, 0.5, 0.8, 1, 1.3, 2, 3, 20)]
    for z in (normal(3, 5000), peaked(vocab=5000), normal(0.3, 5000), normal(20, 5000)):
        compared = compare_rows(z[None], torch.tensor([0]), sweep)
        want = naive(z.double().numpy(), 0, sweep, compared.kept[0])
        assert np.abs(compared.js[0] - want["js"]).max() < 1e-10


def test_temperatures_that_are_orders_of_magnitude_apart():
    chosen = [DecodingSettings(temperature=t) for t in (0, 1e-6, 1e-3, 0.1, 1, 30, 1e4)]
    for z in (normal(3, 4000), normal(2, 4000).round()):
        compared = compare_rows(z[None], torch.tensor([9]), chosen)
        want = naive(z.double().numpy(), 9, chosen, compared.kept[0])
        for name, expected in want.items():
            actual = getattr(compared, name)[0]
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9, err_msg=name)


field = {
    "temperature": st.sampled_from([0, 0.1, 0.5, 1, 1, 2, 3]) | st.floats(0.05, 10),
    "top_k": st.integers(0, 6),
    "top_p": st.floats(0.01, 1),
    "min_p": st.just(1) | st.floats(0, 1),
    "typical_p": st.floats(0.01, 1),
    "epsilon_cutoff": st.floats(0, 0.5),
    "eta_cutoff": st.floats(0, 0.5),
}
any_settings = st.lists(
    st.fixed_dictionaries({}, optional=field).map(lambda f: DecodingSettings(**f)),
    min_size=1,
    max_size=6,
)
prefix_settings = st.lists(
    st.fixed_dictionaries({}, optional={k: v for k, v in field.items() if k != "typical_p"}).map(
        lambda f: DecodingSettings(**f)
    ),
    min_size=1,
    max_size=6,
)
# Eighths: logits that differ by less than rounding are ties to one side and none to the other.
logit = st.integers(-80, 80).map(lambda n: n / 8) | st.integers(-3, 3) | st.just(-math.inf)
logit_row = st.lists(logit.map(float), min_size=1, max_size=12).filter(lambda z: max(z) > -math.inf)


@checked
@given(logit_row, prefix_settings, st.data())
def test_small_rows_equal_their_definition(row, chosen, data):
    target = data.draw(st.integers(0, len(row) - 1))
    assert_naive(torch.tensor([row]), torch.tensor([target]), chosen)


MEASURES = {
    "kl": information.kl_divergence,
    "js": information.js_divergence,
    "total_variation": information.total_variation,
}


@checked
@given(logit_row, any_settings, st.data())
def test_pairs_agree_with_the_information_measures(row, chosen, data):
    """Also under typical_p: its own arithmetic draws the line where distances tie."""
    logits = torch.tensor([row], dtype=torch.float64)
    target = torch.tensor([data.draw(st.integers(0, len(row) - 1))])
    compared = compare_rows(logits, target, chosen)
    log_q = torch.cat([s.log_probs(logits) for s in chosen])
    alike = compared.kept[0] == (log_q > -math.inf).sum(-1).numpy()
    shown = np.flatnonzero(alike)
    for i in shown:
        assert compared.surprisal[0, i] == pytest.approx(float(-log_q[i, target]), abs=NATS)
        for j in shown:
            p, q = log_q[i], log_q[j]
            for name, measure in MEASURES.items():
                want = float(measure(p, q))
                actual = getattr(compared, name)[0, i, j]
                assert actual == pytest.approx(want, abs=NATS), (name, i, j)


PREFIXES = [
    DecodingSettings.parse(text)
    for text in [
        "raw", "top_n_sigma=1", "temperature=0.6,top_n_sigma=2,top_p=0.95", "top_h=0.4",
        "temperature=1.4,top_h=0.8,top_k=300", "top_n_sigma=3,top_h=0.9", "p_less=1",
        "temperature=0.7,p_less=0.2", "kl_budget=0.05", "temperature=1.2,kl_budget=0.5",
        "top_p=0.9,kl_budget=0.2,p_less=0.01",
    ]
]  # fmt: skip


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_further_prefixes_are_compared_in_closed_form(spread):
    assert not any(comparison.is_dense(setting) for setting in PREFIXES)
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 3000, generator=generator) * spread
    logits[1, :2000] = -math.inf
    logits[2] = logits[2].bfloat16().float()
    assert_naive(logits, torch.randint(2000, 3000, (4,), generator=generator), PREFIXES)


@pytest.mark.parametrize("gap", [20, 25, 30, 40, 100, 800])
def test_top_h_of_sure_rows(gap):
    """The entropy of all is far below the rounding of 1; only the favourite is below half of it."""
    logits = torch.tensor([[0.0, -gap, -gap - 1]], dtype=torch.float64)
    setting = DecodingSettings(top_h=0.5)
    compared = compare_rows(logits, torch.tensor([1]), [setting])
    assert setting.log_probs(logits)[0].isfinite().tolist() == [True, False, False]
    assert compared.kept[0, 0] == 1 and compared.surprisal[0, 0] == math.inf


@pytest.mark.parametrize("cut", ["kl_budget=0.3", "p_less=0.5"])
def test_cuts_behind_a_typical_set(cut):
    """The set before may be an interval in the middle of the order, or have a hole."""
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(30, 40, generator=generator, dtype=torch.float64) * 2
    setting = DecodingSettings.parse(f"typical_p=0.6,{cut}")
    compared = compare_rows(logits, torch.zeros(30, dtype=torch.long), [setting])
    log_q = setting.log_probs(logits)
    assert compared.kept[:, 0].tolist() == (log_q > -math.inf).sum(-1).tolist()
    entropy = information.entropy(log_q).numpy()
    assert compared.entropy[:, 0] == pytest.approx(entropy, abs=NATS)


DENSE = [
    "xtc_probability=0.4,xtc_threshold=0.05", "top_p=0.9,xtc_probability=1", "target_entropy=1.2",
    "edt_theta=0.5,top_k=9", "temperature=0.8,dynatemp_range=0.4",
    "raw while entropy<=2 else temperature=0.5",
]  # fmt: skip


def test_what_has_no_closed_form_is_compared_token_by_token():
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(6, 60, generator=generator, dtype=torch.float64) * 2
    logits[3, 20:] = -math.inf
    targets = torch.randint(20, (6,), generator=generator)
    chosen = [parse_setting(text) for text in ("top_p=0.9", *DENSE, "greedy")]
    assert [comparison.is_dense(setting) for setting in chosen] == [False, *[True] * 6, False]
    compared = compare_rows(logits, targets, chosen)
    for row in range(6):
        z = logits[row].numpy()
        acting = [
            setting if isinstance(setting, DecodingSettings)
            else setting.then if entropy_at(z, 1) > setting.entropy_above else setting.settings
            for setting in chosen
        ]  # fmt: skip
        log_q = torch.tensor(np.stack([reference_log_q(z, setting) for setting in acting]))
        for i, p in enumerate(log_q):
            assert compared.entropy[row, i] == pytest.approx(
                float(information.entropy(p)), abs=NATS
            )
            assert compared.surprisal[row, i] == pytest.approx(float(-p[targets[row]]), abs=NATS)
            assert compared.kept[row, i] == int((p > -math.inf).sum())
            for j, q in enumerate(log_q):
                for name, measure in MEASURES.items():
                    actual = getattr(compared, name)[row, i, j]
                    assert actual == pytest.approx(float(measure(p, q)), abs=NATS), (name, i, j)


def test_a_setting_that_looks_back_is_not_compared_without_a_history():
    with pytest.raises(ValueError, match="history"):
        compare_rows(torch.zeros(1, 5), torch.tensor([0]), [DecodingSettings(mirostat_tau=1)])


@pytest.mark.parametrize("vocab", [1, 2, 3])
def test_tiny_vocabularies(vocab):
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(20, vocab, generator=generator) * 2
    targets = torch.randint(vocab, (20,), generator=generator)
    prefixes = [s for s in THIRTY if s.typical_p == 1]
    assert_naive(logits, targets, prefixes)


def test_typical_sets_with_a_hole():
    """The favourite is far from typical, and a tie is kept in part: ids 1, 2 and 4."""
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.2, 0.1, -0.7, -0.7]])
    typical = DecodingSettings(typical_p=0.4)
    log_q = typical.log_probs(logits.double())
    assert torch.isfinite(log_q).int().tolist() == [[0, 1, 1, 0, 1, 0, 0]]
    chosen = [typical, *(DecodingSettings(top_k=k) for k in range(1, 8))]
    chosen += [DecodingSettings(temperature=0.5, typical_p=0.4), DecodingSettings(typical_p=0.9)]
    for target in range(7):
        assert_naive(logits, torch.tensor([target]), chosen)
    assert math.isinf(compare_rows(logits, torch.tensor([3]), [typical]).surprisal.item())


def test_truncation_has_closed_forms():
    logits = torch.stack([normal(2, 4000, seed) for seed in range(3)])
    truncations = ["top_k=20", "top_p=0.8", "min_p=0.02", "typical_p=0.5"]
    chosen = [DecodingSettings.parse(text) for text in ("raw", *truncations)]
    compared = compare_rows(logits, torch.tensor([0, 1, 2]), chosen)
    mass = compared.kept_mass[:, 1:]
    np.testing.assert_allclose(compared.kl[:, 1:, 0], -np.log(mass), atol=1e-9)
    np.testing.assert_allclose(compared.total_variation[:, 0, 1:], 1 - mass, atol=1e-9)
    assert np.isinf(compared.kl[:, 0, 1:]).all()


def test_extreme_temperatures_and_logits_are_never_nan():
    chosen = [
        DecodingSettings(temperature=t, **more)
        for t in (0, 5e-324, 1e-30, 1e-3, 1, 1e30, 1.7e308)
        for more in ({}, {"top_p": 0.9}, {"typical_p": 0.5, "eta_cutoff": 0.1})
    ]
    largest = torch.finfo(torch.float32).max
    logits = torch.tensor([[0.0, largest, -largest, 3.0, -math.inf], [1.0, 1.0, 1.0, 1.0, 1.0]])
    for row in (logits, logits.double(), logits.double() * 4e269):
        compared = compare_rows(row, torch.tensor([1, 4]), chosen)
        for name, values in compared._asdict().items():
            assert not np.isnan(values).any(), name
            assert (values >= 0).all(), name
        assert (compared.js <= math.log(2)).all()
        assert (compared.total_variation <= 1).all()
        assert (compared.kept_mass <= 1).all()


def test_thresholds_that_are_met_exactly():
    """All tied favourites have the largest probability; of four level tokens two have mass 1/2."""
    logits = torch.tensor([[2.0, 0.0, 2.0, 2.0, -1.0], [1.0, 1.0, 1.0, 1.0, -math.inf]])
    chosen = [DecodingSettings(min_p=1), DecodingSettings(top_p=0.5), DecodingSettings(top_p=0.501)]
    kept = compare_rows(logits, torch.tensor([0, 0]), chosen).kept
    assert kept.tolist() == [[3, 2, 2], [4, 2, 3]]


def test_a_point_mass_has_no_entropy_and_a_large_k_keeps_all():
    chosen = [DecodingSettings.parse(t) for t in ("greedy", "top_k=1", f"top_k={10**20}")]
    compared = compare_rows(normal(1, 900)[None], torch.tensor([0]), chosen)
    assert compared.entropy[0, :2].tolist() == [0, 0] and compared.kept.tolist() == [[1, 1, 900]]
