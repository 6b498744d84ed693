"""Settings that look back: DRY by a double loop over the history, mirostat by its recursion."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.rows.distribution import Distribution
from decoding.rules import Dry, Mirostat, Past
from decoding.settings.applying import History, Memory
from decoding.settings.settings import DecodingSettings
from oracle import log_softmax, reference_log_q, reference_penalties

checked = settings(derandomize=True, max_examples=200)


# --- DRY


def dry(multiplier=1.0, base=2.0, allowed=1, breakers=()):
    return DecodingSettings(
        dry_multiplier=multiplier, dry_base=base, dry_allowed_length=allowed, dry_breakers=breakers
    )


def penalties(setting, past, vocab):
    return setting.rules[0].penalties(past, vocab)


def penalized(setting, logits, past):
    return setting.rules[0].apply(Distribution(logits), past).logits


def taken(setting, *ids, vocab=10, starts=None):
    starts = None if starts is None else torch.tensor(starts)
    return penalties(setting, Past(torch.tensor(ids), starts), vocab).tolist()


def only(vocab=10, **sizes):
    return [[float(sizes.get(f"id{token}", 0)) for token in range(vocab)]]


def test_a_repetition_is_penalised_by_its_length():
    # The history ends with 1 2 3, as it stood before 4: n = 3, and 1 · 2^(3 - 1) = 4.
    assert taken(dry(), [1, 2, 3, 4, 1, 2, 3]) == only(id4=4)
    # m·b^(n - L) with 0.5 · 3^(3 - 2).
    assert taken(dry(0.5, 3, 2), [1, 2, 3, 4, 1, 2, 3]) == only(id4=1.5)
    # n = L is penalised by m, n = L - 1 not at all.
    assert taken(dry(0.5, 3, 3), [1, 2, 3, 4, 1, 2, 3]) == only(id4=0.5)
    assert taken(dry(0.5, 3, 4), [1, 2, 3, 4, 1, 2, 3]) == only()


def test_the_longest_of_several_repetitions_counts():
    # 3 went on to 4 after 2 3 (n = 2) and after 9 3 (n = 1); to 5 after 3 alone.
    assert taken(dry(), [2, 3, 4, 9, 3, 4, 3, 5, 7, 2, 3]) == only(id4=2, id5=1)


def test_repetitions_may_overlap():
    # 1 1 1 1: before the last place stand three that are also the last three.
    assert taken(dry(), [1, 1, 1, 1]) == only(id1=4)
    # 1 2 1 2 1: before the second 2 stand 1, 2, 1, as at the end.
    assert taken(dry(), [1, 2, 1, 2, 1]) == only(id2=4)


def test_no_repetition_reaches_across_a_breaker():
    assert taken(dry(breakers=(2,)), [1, 2, 3, 4, 1, 2, 3]) == only(id4=1)
    # Nothing ends with a breaker, and none is penalised itself.
    assert taken(dry(breakers=(3,)), [1, 2, 3, 4, 1, 2, 3]) == only()
    assert taken(dry(breakers=(4,)), [1, 2, 3, 4, 1, 2, 3]) == only()
    assert taken(dry(breakers=(8, 9)), [1, 2, 3, 4, 1, 2, 3]) == only(id4=4)


def test_left_padding_is_no_history():
    padded = [3, 3, 3, 1, 2, 3]
    assert taken(dry(), padded) != taken(dry(), padded, starts=[3]) == only()
    assert taken(dry(), [0, 0, 1, 2, 3, 4, 1, 2, 3], starts=[2]) == only(id4=4)
    # From the second id on, 3 4 1 2 3 has one token to repeat.
    assert taken(dry(), [0, 1, 2, 3, 4, 1, 2, 3], starts=[3]) == only(id4=1)


@pytest.mark.parametrize("ids", [[], [4], [4, 5]])
def test_histories_too_short_to_repeat(ids):
    assert penalties(dry(), Past(torch.tensor([ids], dtype=torch.long)), 10).sum() == 0
    logits = torch.arange(10.0).unsqueeze(0)
    past = Past(torch.tensor([ids], dtype=torch.long))
    assert torch.equal(penalized(dry(), logits, past), logits)


def test_two_alike_are_the_shortest_repetition():
    assert taken(dry(), [4, 4]) == only(id4=1)


@pytest.mark.parametrize(("length", "counted"), [(49, 49), (50, 50), (51, 50), (90, 50)])
def test_no_more_than_fifty_tokens_count(length, counted):
    run = [1 + i % 90 for i in range(length)]
    got = penalties(dry(0.5, 1.1), Past(torch.tensor([[*run, 99, *run]])), 100)
    assert got[0, 99].item() == pytest.approx(0.5 * 1.1 ** (counted - 1), rel=1e-5)


def test_penalties_stay_within_float32():
    got = penalties(dry(1e300, 1e300), Past(torch.tensor([[1] * 60])), 2)
    assert got.isfinite().all() and got[0, 1] >= 1e29
    # So a row in which every token repeats is a distribution still.
    log_q = dry(1e300, 1e300).log_probs(
        torch.zeros(1, 2), History(torch.tensor([[0, 1] * 40 + [0, 0, 1, 1]]))
    )
    assert log_q.exp().sum() == pytest.approx(1)


def test_a_tiny_multiplier_stays_one_under_a_huge_base():
    got = penalties(dry(1e-300, 1e308), Past(torch.tensor([[1, 1, 1]])), 2)
    assert got[0, 1].item() == pytest.approx(1e8)


@checked
@given(
    ids=st.lists(st.integers(0, 3), max_size=70),
    padding=st.integers(0, 6),
    breakers=st.sets(st.integers(0, 3), max_size=2),
    allowed=st.integers(1, 4),
    multiplier=st.sampled_from([0.3, 1.0, 2.5]),
    base=st.sampled_from([1.0, 1.2, 1.75]),
)
def test_penalties_are_those_of_the_double_loop(ids, padding, breakers, allowed, multiplier, base):
    setting = dry(multiplier, base, allowed, tuple(sorted(breakers)))
    want = reference_penalties(setting, ids, 5)
    # Padding may look like the history, but is none.
    padded = torch.tensor([(ids[:1] or [0]) * padding + ids], dtype=torch.long)
    got = penalties(setting, Past(padded, torch.tensor([padding])), 5)
    np.testing.assert_allclose(got[0].numpy(), want, rtol=1e-5)
    unpadded = torch.tensor([ids], dtype=torch.long)
    np.testing.assert_allclose(penalties(setting, Past(unpadded), 5)[0], want, rtol=1e-5)


def test_rows_have_their_own_history_and_padding():
    generator = torch.Generator().manual_seed(0)
    ids, starts = torch.randint(3, (30, 40), generator=generator), torch.arange(30)
    setting = dry(0.8, 1.5, 2, (2,))
    together = penalties(setting, Past(ids, starts), 3)
    for row, start, got in zip(ids.tolist(), starts.tolist(), together, strict=True):
        want = reference_penalties(setting, row[start:], 3)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5)
    assert (together > 0).any()


def test_penalties_are_taken_off_the_logits_and_nothing_else():
    logits = torch.arange(10.0).unsqueeze(0).bfloat16()
    before = logits.clone()
    past = Past(torch.tensor([[1, 2, 3, 4, 1, 2, 3]]))
    got = penalized(dry(), logits, past)
    assert got.dtype == torch.float32
    assert got.tolist() == [[0, 1, 2, 3, 0, 5, 6, 7, 8, 9]]
    assert torch.equal(logits, before)
    doubles = penalized(dry(), logits.double(), past)
    assert doubles.dtype == torch.float64


def test_penalties_come_before_the_temperature():
    history = History(torch.tensor([[0, 1, 0]]))
    setting = DecodingSettings.parse("dry_multiplier=1,dry_allowed_length=1,temperature=0.5")
    log_q = setting.log_probs(torch.tensor([[0.0, 3.0]]), history)
    # (3 - 1)/0.5 = 4.
    assert (log_q[0, 1] - log_q[0, 0]).item() == pytest.approx(4)


def test_greedy_goes_to_the_next_best_of_a_repetition():
    setting = DecodingSettings.parse("greedy,dry_multiplier=1,dry_allowed_length=1")
    history = History(torch.tensor([[0, 1, 0], [1, 0, 1]]))
    log_q = setting.log_probs(torch.tensor([[0.0, 3.0, 2.5]] * 2), history)
    assert log_q.exp().tolist() == [[0, 0, 1], [0, 1, 0]]


def test_the_rule_alone_is_the_setting():
    ids = torch.tensor([[1, 2, 3, 4, 1, 2, 3]])
    scores = torch.zeros(1, 10)
    rule = Dry(1.0, dry_base=2.0, dry_allowed_length=1)
    assert rule(ids, scores).tolist() == [[0, 0, 0, 0, -4, 0, 0, 0, 0, 0]]


# --- mirostat


def mu_of(memory):
    """`(rows)`, behind the first token."""
    (mu,) = memory.numbers.T
    return mu


def mirostat_v2(rows, tokens, tau, eta, *, bits):
    """`llama_sampler_mirostat_v2_apply` with given draws: the kept sets, and μ after each."""
    log = np.log2 if bits else np.log
    mu, steps = 2 * tau, []
    for z, token in zip(rows, tokens, strict=True):
        p = np.exp(log_softmax(z))
        order = np.argsort(-p, kind="stable")
        count = 0
        while count < len(p) and not -log(p[order[count]]) > mu:
            count += 1
        kept = order[: max(count, 1)]
        assert token in kept
        observed = -log(p[token] / p[kept].sum())
        mu = mu - eta * (observed - tau)
        steps.append((set(kept.tolist()), mu))
    return steps


def drawn_tokens(rows, tau, eta, rng):
    """Tokens that mirostat itself could draw, one for each row."""
    mu, tokens = 2 * tau, []
    for z in rows:
        log_p = log_softmax(z)
        kept = np.flatnonzero(-log_p <= mu) if (-log_p <= mu).any() else [log_p.argmax()]
        q = np.exp(log_p[kept]) / np.exp(log_p[kept]).sum()
        choice = rng.choice(len(kept), p=q)
        tokens.append(int(kept[choice]))
        mu -= eta * (-math.log(q[choice]) - tau)
    return tokens


@pytest.mark.parametrize("tau_bits", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("eta", [0.1, 0.7])
def test_mirostat_is_llama_cpps_in_nats(tau_bits, eta):
    """Its μ and τ are in bits; the kept sets are the same, and μ is ln 2 times as much."""
    rng = np.random.default_rng(3)
    rows, tau = 2.5 * rng.standard_normal((60, 80)), tau_bits * math.log(2)
    tokens = drawn_tokens(rows, tau, eta, rng)
    in_bits = mirostat_v2(rows, tokens, tau_bits, eta, bits=True)
    in_nats = mirostat_v2(rows, tokens, tau, eta, bits=False)
    settings = DecodingSettings(mirostat_tau=tau, mirostat_eta=eta)
    assert DecodingSettings.parse(f"mirostat_tau={tau_bits}bits,mirostat_eta={eta}") == (
        settings if eta != 0.1 else DecodingSettings(mirostat_tau=tau)
    )
    memory = Memory()
    for step, (z, token) in enumerate(zip(rows, tokens, strict=True)):
        ids = torch.tensor([tokens[:step]], dtype=torch.long)
        applied = settings.apply(Distribution(torch.tensor(z)[None]), memory.history(ids))
        kept = set((applied.final.logits[0] > -math.inf).nonzero().squeeze(-1).tolist())
        assert kept == in_bits[step][0] == in_nats[step][0]
        memory.observe(applied, torch.tensor([token]))
        mu = mu_of(memory).item()
        assert mu == pytest.approx(in_nats[step][1], abs=1e-5)
        assert mu == pytest.approx(in_bits[step][1] * math.log(2), abs=1e-5)
    assert len({len(kept) for kept, _ in in_bits}) > 2  # the cut did move


def test_mirostat_by_hand():
    # p = (1/2, 1/4, 1/8, 1/8), surprisals (1, 2, 3, 3) bits. τ = 1.1 bits, so μ begins at 2.2.
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    setting, bit = DecodingSettings.parse("mirostat_tau=1.1bits,mirostat_eta=0.5"), math.log(2)
    memory, ids = Memory(), torch.tensor([[0]])

    def cut():
        applied = setting.apply(Distribution(logits), memory.history(ids))
        return applied, (applied.final.logits[0] > -math.inf).tolist()

    def mu_in_bits():
        return mu_of(memory).item() / bit

    assert setting.rules[0].start[0] / bit == pytest.approx(2.2)
    applied, kept = cut()
    assert kept == [True, True, False, False]
    # Of (2/3, 1/3) the second was drawn: log2 3 = 1.585 bits, and 2.2 - 0.5 · 0.485 = 1.9575.
    memory.observe(applied, torch.tensor([1]))
    assert mu_in_bits() == pytest.approx(1.9575, abs=1e-4)
    applied, kept = cut()
    assert kept == [True, False, False, False]
    # A sure token has no surprisal: 1.9575 + 0.5 · 1.1 = 2.5075, and the second comes back.
    memory.observe(applied, torch.tensor([0]))
    assert mu_in_bits() == pytest.approx(2.5075, abs=1e-4)
    assert cut()[1] == [True, True, False, False]


def test_the_first_token_stays_where_mu_has_fallen_below_every_surprisal():
    setting = DecodingSettings(mirostat_tau=1.0)
    history = History(torch.tensor([[0]]), None, torch.tensor([[-3.0]], dtype=torch.float64))
    log_q = setting.log_probs(torch.tensor([[0.0, 0.5, 0.5]]), history)
    assert log_q.exp().tolist() == [[0, 1, 0]]


def test_rows_have_their_own_mu():
    rng = np.random.default_rng(0)
    rows = 2 * rng.standard_normal((20, 3, 40))  # steps, rows, vocab
    settings = DecodingSettings(mirostat_tau=1.2, mirostat_eta=0.4)
    tokens = np.stack([drawn_tokens(rows[:, i], 1.2, 0.4, rng) for i in range(3)], axis=1)
    together, alone = Memory(), [Memory() for _ in range(3)]
    ids = torch.zeros(3, 1, dtype=torch.long)
    for z, drawn in zip(rows, tokens, strict=True):
        applied = settings.apply(Distribution(torch.tensor(z)), together.history(ids))
        together.observe(applied, torch.tensor(drawn))
        for i, memory in enumerate(alone):
            own = settings.apply(Distribution(torch.tensor(z[i : i + 1])), memory.history(ids[:1]))
            memory.observe(own, torch.tensor(drawn[i : i + 1]))
            got = mu_of(together)[i].item()
            assert got == pytest.approx(mu_of(memory).item(), abs=1e-9)
    for i in range(3):
        want = mirostat_v2(rows[:, i], tokens[:, i], 1.2, 0.4, bits=False)[-1][1]
        assert mu_of(together)[i].item() == pytest.approx(want, abs=1e-5)


def test_a_given_token_that_was_cut_counts_by_its_surprisal_before_the_cut():
    setting = DecodingSettings(mirostat_tau=0.5, mirostat_eta=0.2)
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]).double().log()
    applied = setting.apply(Distribution(logits), History(torch.zeros(2, 1, dtype=torch.long)))
    assert (applied.final.logits > -math.inf).tolist() == [[True, False, False]] * 2  # -ln 0.2 > 1
    memory = Memory()
    memory.observe(applied, torch.tensor([1, 0]))
    mu = mu_of(memory).tolist()
    assert mu == pytest.approx([1 - 0.2 * (-math.log(0.2) - 0.5), 1 + 0.2 * 0.5])


def test_surprisals_come_to_tau_on_average():
    """The purpose: q is redrawn from rows that are far too flat and far too sharp by turns."""
    rng, settings = np.random.default_rng(8), DecodingSettings(mirostat_tau=2.0, mirostat_eta=0.1)
    memory, surprisals = Memory(), []
    ids = torch.zeros(1, 1, dtype=torch.long)
    for step in range(600):
        z = torch.tensor((1.0 if step % 2 else 1.5) * rng.standard_normal((1, 200)))
        applied = settings.apply(Distribution(z), memory.history(ids))
        q = applied.final.logits.softmax(-1)[0].numpy()
        token = rng.choice(200, p=q / q.sum())
        memory.observe(applied, torch.tensor([token]))
        surprisals.append(-math.log(q[token]))
    # Σ (surprisal - τ) = (μ at the beginning - μ now)/η, whatever was drawn.
    mu = mu_of(memory).item()
    assert sum(surprisals) - 600 * 2.0 == pytest.approx((4.0 - mu) / 0.1, abs=1e-3)
    assert np.mean(surprisals) == pytest.approx(2.0, abs=0.1)


def test_other_settings_note_nothing():
    memory = Memory(torch.tensor([2]))
    rows = Distribution(torch.zeros(1, 3))
    applied = dry().apply(rows, memory.history(torch.tensor([[0, 0, 1]])))
    memory.observe(applied, torch.tensor([1]))
    history = memory.history(torch.tensor([[0, 0, 1]]))
    assert history.memory is None
    assert history.starts.tolist() == [2]
    assert history.ids.tolist() == [[0, 0, 1]]


def test_the_rule_alone_follows_what_was_appended():
    rng = np.random.default_rng(1)
    rows = 2 * rng.standard_normal((15, 30))
    tokens = drawn_tokens(rows, 1.5, 0.3, rng)
    settings = DecodingSettings(mirostat_tau=1.5, mirostat_eta=0.3)
    rule, mu = Mirostat(1.5, mirostat_eta=0.3), 3.0
    for step, z in enumerate(rows):
        ids = torch.tensor([[7, *tokens[:step]]])
        got = rule(ids, torch.tensor(z[None])).log_softmax(-1)[0].numpy()
        want = reference_log_q(z, settings, memory=mu)
        np.testing.assert_allclose(got, want, atol=1e-6)
        mu -= 0.3 * (-want[tokens[step]] - 1.5)


@pytest.mark.parametrize(
    ("rule", "value", "parameters", "words"),
    [
        (Dry, -1, {}, "dry_multiplier must be a finite number >= 0, got -1"),
        (Dry, 1, {"dry_base": 0.5}, "dry_base must be a finite number >= 1, got 0.5"),
        (Dry, 1, {"dry_allowed_length": 0}, "dry_allowed_length must be >= 1, got 0"),
        (
            Dry,
            1,
            {"dry_breakers": (-1,)},
            r"dry_breakers must be ids in .* got \(-1,\)",
        ),
        (Mirostat, -1, {}, "mirostat_tau must be a finite number >= 0, got -1"),
        (Mirostat, 1, {"mirostat_eta": 0}, r"mirostat_eta must be in \(0, 1\], got 0"),
    ],
)
def test_bad_parameters_are_refused_by_name(rule, value, parameters, words):
    with pytest.raises(ValueError, match=words):
        rule(value, **parameters)


def test_a_length_that_no_match_reaches_penalises_nothing():
    settings = DecodingSettings(dry_multiplier=1, dry_allowed_length=10**30)
    assert not penalties(settings, Past(torch.tensor([[1, 2, 1, 2, 1]])), 5).any()
