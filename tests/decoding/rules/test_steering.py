"""Temperatures that follow the entropy, against their sources and NumPy in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.rows.distribution import Distribution
from decoding.rows.temperature import solve_temperature
from decoding.rules import Dynatemp, Edt
from decoding.settings.settings import DecodingSettings
from oracle import TEXTS, entropy_at, reference_temperature

checked = settings(derandomize=True, max_examples=100)


def edt(logits, temperature, theta, base=0.8):
    """`(…)`, before it is kept from 0."""
    return Edt(theta, edt_base=base).temperature(Distribution(logits), temperature)


def dynatemp(logits, temperature, spread, exponent=1.0):
    """`(…)`, before it is kept from 0."""
    rule = Dynatemp(spread, dynatemp_exponent=exponent)
    return rule.temperature(Distribution(logits), temperature)


def temperature_of(setting, logits):
    """`(…, 1)`, as it is applied."""
    return setting.apply(Distribution(logits)).temperature


def rows_of_entropy(*entropies):
    """Two tokens each, with these entropies."""
    rows = []
    for entropy in entropies:
        low, high = 0.0, 50.0
        for _ in range(200):
            middle = (low + high) / 2
            more = entropy_at(np.array([0.0, -middle]), 1) > entropy
            low, high = (middle, high) if more else (low, middle)
        rows.append([0.0, -low])
    return torch.tensor(rows, dtype=torch.float64)


# --- entropy-dependent temperature


def test_edt_by_hand():
    # H = ln 4, and 0.8^(1/ln 4) = e^(ln 0.8 / ln 4) = e^-0.16096 = 0.8513.
    logits = torch.zeros(4)
    assert edt(logits, 1.0, 1.0).item() == pytest.approx(0.8513, abs=1e-4)
    # Twice the θ squares it, and T₀ multiplies.
    assert edt(logits, 0.6, 2.0).item() == pytest.approx(0.6 * 0.8513**2, abs=1e-4)
    # With N = e^-1 and θ = ln 4 the exponent is -1.
    assert edt(logits, 1.0, math.log(4), 1 / math.e).item() == pytest.approx(1 / math.e, abs=1e-6)


def test_edt_grows_from_zero_to_the_base_with_entropy():
    logits = rows_of_entropy(1e-4, 0.01, 0.1, 0.3, 0.6)
    temperatures = temperature_of(DecodingSettings(temperature=0.9, edt_theta=0.7), logits)
    assert (temperatures.diff(dim=0) > 0).all()
    for z, got in zip(logits.numpy(), temperatures, strict=True):
        assert got.item() == pytest.approx(
            max(0.9 * 0.8 ** (0.7 / entropy_at(z, 1)), 1e-30), rel=1e-4
        )
    sure = torch.tensor([5.0, -math.inf])
    setting = DecodingSettings(temperature=0.9, edt_theta=0.7)
    assert temperature_of(setting, sure).item() == 1e-30  # no entropy
    assert edt(torch.zeros(151936), 0.9, 1e-6).item() == pytest.approx(0.9, abs=1e-6)


def test_edt_of_a_sure_row_is_a_number_for_any_theta():
    """θ·ln N is rounded to zero here, and 0/0 would be none."""
    setting = DecodingSettings(temperature=0.9, edt_theta=5e-324)
    assert 0 < temperature_of(setting, torch.tensor([5.0, -math.inf])).item() <= 0.9
    assert setting.log_probs(torch.tensor([5.0, -math.inf])).tolist() == [0, -math.inf]


# --- dynamic temperature


def llama_cpp_temp_ext(logits, temp, delta, exponent):
    """`llama_sampler_temp_ext_apply`, step by step, for `delta > 0`."""
    candidates = [z for z in logits if z > -math.inf]
    low, high = max(0.0, temp - delta), temp + delta
    max_entropy = -math.log(1.0 / len(candidates))
    weights = [math.exp(z - max(candidates)) for z in candidates]
    entropy = 0.0
    for weight in weights:
        prob = weight / sum(weights)
        if prob > 0:
            entropy -= prob * math.log(prob)
    return low + (high - low) * (entropy / max_entropy) ** exponent


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.5])
def test_dynatemp_is_llama_cpps(temperature, spread, exponent):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 40, generator=generator).double()
    logits *= torch.linspace(0.01, 8, 30)[:, None]
    logits[:, :7] = -math.inf
    got = dynatemp(logits, temperature, spread, exponent)
    assert got.shape == (30,)
    for z, ours in zip(logits.tolist(), got, strict=True):
        want = llama_cpp_temp_ext(z, temperature, spread, exponent)
        assert ours.item() == pytest.approx(want, rel=1e-9)


def test_dynatemp_by_hand():
    # All alike have the largest entropy there is: T₀ + r. Half of it: halfway, or its k-th power.
    flat, half = torch.zeros(1, 4), rows_of_entropy(math.log(2) / 2)
    assert dynatemp(flat, 1.0, 0.4).item() == pytest.approx(1.4)
    assert dynatemp(half, 1.0, 0.4).item() == pytest.approx(1.0)
    assert dynatemp(half, 1.0, 0.4, 2.0).item() == pytest.approx(0.6 + 0.8 / 4)
    # The lower end is cut off at 0: from 0 to 4 it is 2 in the middle.
    assert dynatemp(half, 1.0, 3.0).item() == pytest.approx(2.0)
    # Excluded tokens do not count towards the largest entropy.
    masked = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]])
    assert dynatemp(masked, 1.0, 0.4).item() == pytest.approx(1.4)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_dynatemp_of_one_token_is_any_temperature_above_zero(temperature):
    row = torch.tensor([[-math.inf, 4.0, -math.inf]])
    setting = DecodingSettings(temperature=temperature, dynatemp_range=0.5)
    assert 0 < temperature_of(setting, row).item() <= temperature + 0.5
    assert setting.log_probs(row).exp().tolist() == [[0, 1, 0]]


# --- target entropy


@pytest.fixture(scope="module")
def real_rows(request):
    """A thousand rows of logits of real models."""
    rows = []
    for name in ("stories", "stories260k"):
        try:
            language_model = request.getfixturevalue(name)
        except pytest.skip.Exception:
            continue
        inputs = language_model.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
        torch.manual_seed(0)
        with torch.no_grad():
            ids = language_model.model.generate(
                inputs.expand(12, -1), do_sample=True, max_new_tokens=45, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
            rows.append(language_model.model(ids).logits.flatten(0, 1)[:500])
    # Where there is one model, its rows stand for both.
    return [rows[0], rows[-1]]


@pytest.mark.parametrize("target", [0.05, 0.5, 1.5, 3.0, 5.0])
def test_target_is_reached_on_a_thousand_real_rows(real_rows, target):
    attainable = 0
    for logits in real_rows:
        solved = solve_temperature(logits, target)
        assert solved.temperature.shape == (len(logits),)
        log_q = DecodingSettings(target_entropy=target).log_probs(logits)
        within_limits = target <= math.log(logits.shape[-1])
        for z, temperature, entropy, attained, row in zip(
            logits.double().numpy(), solved.temperature, solved.entropy, solved.attained, log_q,
            strict=True,
        ):  # fmt: skip
            assert (z == z.max()).sum() == 1  # so every target down to 0 is attainable
            assert attained.item() is within_limits
            exact = entropy_at(z, temperature.item())
            assert entropy.item() == pytest.approx(exact, abs=1e-6)
            assert exact == pytest.approx(target, abs=1e-5)
            q = row.double().exp().numpy()
            applied = -(q[q > 0] * np.log(q[q > 0])).sum()
            assert applied == pytest.approx(target, abs=1e-3)
            attainable += 1
    assert attainable == 1000


@checked
@given(data=st.data())
def test_any_target_between_the_limits_is_reached(data):
    levels = data.draw(st.lists(st.integers(-40, 0), min_size=2, max_size=20))
    excluded = data.draw(st.integers(0, 3))
    scale = data.draw(st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1e6]))
    z = np.array([*levels, *[-np.inf] * excluded]) * scale
    low = math.log((z == z.max()).sum())
    high = math.log(len(levels))
    share = data.draw(st.floats(0.01, 0.99))
    target = low + share * (high - low)
    solved = solve_temperature(torch.tensor(z), target)
    assert solved.attained.item()
    assert solved.entropy.item() == pytest.approx(target, abs=2e-6)
    assert entropy_at(z, solved.temperature.item()) == pytest.approx(target, abs=1e-5)


@pytest.mark.parametrize("target", [1e-3, 0.1, 0.2, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("masked", [torch.finfo().min, -1e30, -1e9])
def test_tokens_masked_by_a_large_number_do_not_hide_the_solution(target, masked):
    """They widen the range of the logits by many powers of ten."""
    plain = 3 * torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([plain, torch.full((20, 3), masked)], dim=-1)
    solved, alone = solve_temperature(logits, target), solve_temperature(plain, target)
    assert solved.attained.all()
    torch.testing.assert_close(solved.temperature, alone.temperature, rtol=1e-4, atol=0)
    for z, temperature in zip(plain.double().numpy(), solved.temperature, strict=True):
        assert entropy_at(z, temperature.item()) == pytest.approx(target, abs=1e-5)


@pytest.mark.parametrize("offset", [0.0, -100.0, 1e3, -1e4, 1e5])
@pytest.mark.parametrize("spread", [0.05, 3.0])
def test_target_is_reached_however_far_from_zero_the_logits_are(offset, spread):
    logits = offset + spread * torch.randn(20, 2048, generator=torch.Generator().manual_seed(0))
    for target in (1.5, 4.0):
        attained = solve_temperature(logits, target).attained
        assert attained.any()
        log_q = DecodingSettings(target_entropy=target).log_probs(logits).double()[attained]
        entropy = -(log_q.exp() * log_q.clamp(min=-1000)).sum(-1)
        assert (entropy - target).abs().max() < 1e-3


def hostile_rows(scale):
    """Rows of 300 tokens that are far from straight in any variable, each kind a few times."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(60, 300, generator=generator).double()
    other = torch.randn(60, 300, generator=generator).double()
    yield "heavy tails", scale * normal / other
    yield "a few far above", torch.where(other > 2.3, scale * normal, scale * (normal - 100))
    yield "mostly excluded", (scale * normal).masked_fill(other < 0.5, -math.inf)
    yield "long above", scale * (3 * normal).exp()
    yield "long below", -scale * (5 * normal).exp()
    yield "two levels", scale * normal.sign() + 1e-4 * normal
    yield "one far above", torch.cat([torch.zeros(60, 1).double(), scale * (normal - 30)], -1)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.1, 1.0, 4.0, 30.0, 1e3, 1e8, 1e25])
def test_hostile_rows_are_solved_with_steps_to_spare(scale, monkeypatch):
    """An accelerator takes all the steps there are, so there are few."""
    monkeypatch.setattr("decoding.rows.temperature._MOST_STEPS", 20)
    for kind, rows in hostile_rows(scale):
        most = (rows > -math.inf).sum(-1).min().log().item()
        for target in [1e-6, 1e-4, 0.01, 0.1, 0.5, 1, 1.5, 2, *(most * torch.tensor([0.9, 0.999]))]:
            solved = solve_temperature(rows, float(target))
            off = (solved.entropy - target).abs()[solved.attained]
            assert (off < 2e-6).all(), (kind, target)


@pytest.mark.parametrize(
    ("row", "target", "attained", "nearest"),
    [
        ([5.0, 5.0, 5.0, 1.0], 0.5, False, math.log(3)),  # tied tokens cannot be told apart
        ([5.0, 5.0, 5.0, 1.0], math.log(3) - 1e-3, False, math.log(3)),
        ([5.0, 5.0, 5.0, 1.0], math.log(3) + 1e-3, True, math.log(3) + 1e-3),
        ([5.0, 5.0, 5.0, 1.0], 1.4, False, math.log(4)),  # four tokens have at most ln 4 = 1.386
        ([5.0, 5.0, 5.0, 1.0], 1.38, True, 1.38),
        ([5.0, -math.inf, 2.0, -math.inf], 0.7, False, math.log(2)),  # of two that are allowed
        ([5.0, -math.inf, 2.0, -math.inf], 0.6, True, 0.6),
        ([5.0, -math.inf, -math.inf], 0.4, False, 0.0),
        ([2.0, 2.0], 0.1, False, math.log(2)),
        ([2.0, 2.0], 5.0, False, math.log(2)),
    ],
)
def test_what_no_temperature_attains_gets_the_limit(row, target, attained, nearest):
    logits = torch.tensor(row)
    solved = solve_temperature(logits, target)
    assert solved.attained.item() is attained
    assert solved.entropy.item() == pytest.approx(nearest, abs=1e-5)
    assert solved.temperature.item() > 0
    q = DecodingSettings(target_entropy=target).log_probs(logits).double().exp().numpy()
    applied = -(q[q > 0] * np.log(q[q > 0])).sum()
    assert applied == pytest.approx(nearest, abs=1e-3)
    assert (q[np.isneginf(row)] == 0).all()


def test_rows_are_solved_one_by_one():
    """A batch of rows with and without a solution gives what each gives alone."""
    logits = torch.tensor([[5.0, 5.0, 1.0], [3.0, 0.0, -2.0], [9.0, -math.inf, -math.inf]])
    together = solve_temperature(logits, 0.4)
    assert together.attained.tolist() == [False, True, False]
    for i, row in enumerate(logits):
        alone = solve_temperature(row, 0.4)
        assert together.entropy[i].item() == pytest.approx(alone.entropy.item(), abs=2e-6)
    reshaped = solve_temperature(logits.view(3, 1, 3), 0.4)
    assert reshaped.temperature.shape == (3, 1)
    assert reshaped.entropy.shape == reshaped.attained.shape == (3, 1)
    before = logits.clone()
    solve_temperature(logits, 0.4)
    assert torch.equal(logits, before)


# --- a setting's own


@pytest.mark.parametrize(
    "setting",
    ["edt_theta=0.5", "temperature=0.7,edt_theta=2,edt_base=0.5", "dynatemp_range=0.5",
     "temperature=2,dynatemp_range=1.5,dynatemp_exponent=0.7", "target_entropy=1.2"],
)  # fmt: skip
def test_a_settings_temperature_is_its_definitions(setting):
    settings = DecodingSettings.parse(setting)
    logits = 2 * torch.randn(25, 30, generator=torch.Generator().manual_seed(5)).double()
    got = temperature_of(settings, logits)
    for z, ours in zip(logits.numpy(), got, strict=True):
        assert ours.item() == pytest.approx(reference_temperature(z, settings), rel=1e-4)


@pytest.mark.parametrize("setting", ["raw", "greedy", "temperature=0.7,top_p=0.9"])
def test_other_settings_have_no_temperature_of_each_row(setting):
    assert temperature_of(DecodingSettings.parse(setting), torch.zeros(3)) is None


def test_the_temperature_comes_from_the_logits_before_any_cut():
    """Entropy of what top_k leaves would be ln 2, of all it is ln 4."""
    setting = DecodingSettings(dynatemp_range=0.5, dynatemp_exponent=1.0, top_k=2)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    temperature = llama_cpp_temp_ext(logits[0].tolist(), 1.0, 0.5, 1.0)
    odds = math.exp(1 / temperature)
    got = setting.log_probs(logits).exp()[0].tolist()
    assert got == pytest.approx([odds / (1 + odds), 1 / (1 + odds), 0, 0], abs=1e-6)
