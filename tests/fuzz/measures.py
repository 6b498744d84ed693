"""Numbers of rows, by closed forms in float64."""

import numpy as np
import torch

from cuts_oracle import by_logit, log_softmax
from decoding.information import (
    compare_rows,
    cross_entropy,
    entropy,
    js_divergence,
    kl_divergence,
    renyi_entropy,
    row_statistics,
    self_certainty,
    total_variation,
    varentropy,
)
from decoding.information.comparison import is_dense
from decoding.rows.distribution import Distribution
from fuzz import exact, logits
from oracle import TOLERANCE


def close(got, want, what, atol=TOLERANCE, rtol=2e-6):
    """Numbers alike; those near the end of float32's range count as infinite."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, (what, got.shape, want.shape)
    assert not np.isnan(got).any(), f"{what} is NaN"
    with np.errstate(invalid="ignore", over="ignore"):
        near = abs(got - want) <= atol + rtol * abs(want)
    beyond = (abs(want) > 1e36) & (abs(got) > 1e36) & (np.sign(got) == np.sign(want))
    wrong = ~(near | (got == want) | beyond)
    assert not wrong.any(), f"{what} is {got[wrong][:3]}, not {want[wrong][:3]}"


def mean(log_p, values):
    """Σ p·values, where 0·∞ is 0."""
    p = np.exp(log_p)
    inside = p > 0
    return float((p[inside] * values[inside]).sum())


def divergence(log_p, log_q):
    """KL(p‖q), of tokens that q has all."""
    p = np.exp(log_p)
    inside = p > 0
    return float((p[inside] * (log_p[inside] - log_q[inside])).sum())


def check_measures(trace, z, scaled, final, point, applied):
    """A step's numbers of one row: p of the raw logits, q of what the setting left."""
    log_p, log_scaled, log_q = map(log_softmax, (z, scaled, final))
    [token] = trace.ids
    q = np.exp(log_q)
    assert q[token] > 0 and log_q[token] > -np.inf, "a token of probability zero was drawn"
    behind = q[:token].sum()
    assert behind <= point + 1e-5, "the token lies behind the point"
    assert behind + q[token] >= point - 1e-5, "the token lies before the point"
    wants = {
        "surprisal_nats": -log_q[token],
        "raw_surprisal_nats": -log_p[token],
        "entropy_nats": mean(log_q, -log_q),
        "raw_entropy_nats": mean(log_p, -log_p),
        "kept_mass": np.exp(log_scaled[final > -np.inf]).sum(),
        "kl_nats": divergence(log_q, log_p),
        "rank": (z > z[token]).sum(),
        "kept": (final > -np.inf).sum(),
    }
    for name, want in wants.items():
        close(getattr(trace, name)[0], want, name)
    assert trace.kept[0] >= 1
    assert 0 <= trace.kept_mass[0] <= 1 and trace.kl_nats[0] >= 0 and trace.entropy_nats[0] >= 0
    if applied.temperature is not None:
        assert trace.temperature is not None and trace.temperature[0] > 0
    if trace.alternatives is not None:
        count = trace.alternatives.ids.shape[1]
        best = [id_ for id_ in by_logit(z)[: count + 1] if id_ != token][:count]
        close(trace.alternatives.ids[0], best, "alternatives")
        close(trace.alternatives.raw_probability[0], np.exp(log_p[best]), "their p", 1e-5)
        close(trace.alternatives.probability[0], q[best], "their q", 1e-5)
    _check_certainty(trace.certainty, z, log_p)


def _check_certainty(certainty, z, log_p):
    inside = np.isfinite(z)
    count = inside.sum()
    with np.errstate(over="ignore"):
        half = exact.renyi(z / 2, 0.5) if count > 1 else 0.0
    ordered = log_p[by_logit(z)]
    first = ordered[: min(20, count)]
    second = np.exp(ordered[1]) if len(z) > 1 else 0.0
    close(certainty.self_certainty_nats[0], -log_p[inside].mean() - np.log(count),
          "self-certainty", rtol=1e-5)  # fmt: skip
    close(certainty.renyi_divergence_nats[0], np.log(count) - half, "Rényi divergence")
    close(certainty.confidence_nats[0], -first.mean(), "confidence", rtol=1e-5)
    close(certainty.margin[0], np.exp(ordered[0]) - second, "margin", 1e-5)


def check_statistics(rows, rng):
    """The one pass over rows, and measures of log-probabilities."""
    targets = torch.from_numpy(rng.integers(0, rows.shape[-1], len(rows)))
    got = row_statistics(rows, targets)
    log_probs = rows.double().log_softmax(-1)
    for i, z in enumerate(rows.double().numpy()):
        log_p, target = log_softmax(z), int(targets[i])
        h = mean(log_p, -log_p)
        close(got.entropy[i], h, "row_statistics: entropy")
        close(got.target_log_prob[i], log_p[target], "row_statistics: log p")
        close(got.rank[i], (z > z[target]).sum(), "row_statistics: rank")
        shifted = np.where(np.isfinite(z), z - z.max(), 0.0)
        moment = mean(log_p, shifted)
        close(got.variance[i], mean(log_p, (shifted - moment) ** 2), "row_statistics: variance",
              1e-3, 1e-4)  # fmt: skip
        close(got.log_partition[i], z.max() - log_p.max(), "row_statistics: log-partition", 1e-4)
        close(got.mean[i], z.max() + moment, "row_statistics: mean", 1e-4)
        close(entropy(log_probs[i]), h, "entropy", 1e-9)
        close(varentropy(log_probs[i]), mean(log_p, (-log_p - h) ** 2), "varentropy", 1e-6, 1e-6)
        inside = np.isfinite(z)
        certainty = -log_p[inside].mean() - np.log(inside.sum())
        close(self_certainty(log_probs[i]), certainty, "self_certainty", 1e-6, 1e-9)
        for order in (0, 0.5, 2, np.inf):
            want = (
                -log_p.max() if order == np.inf else np.log(inside.sum()) if order == 0
                else exact.renyi(z, order)
            )  # fmt: skip
            close(renyi_entropy(log_probs[i], order), want, f"Rényi entropy of {order}", 1e-9)
    _check_pairs(log_probs)


def _check_pairs(log_probs):
    p, q = log_probs, log_probs.roll(1, 0)
    found = {
        "kl": kl_divergence(p, q), "js": js_divergence(p, q), "tv": total_variation(p, q),
        "cross": cross_entropy(p, q),
    }  # fmt: skip
    for i, (one, other) in enumerate(zip(p.numpy(), q.numpy(), strict=True)):
        for name, want in of_pair(one, other).items():
            close(found[name][i], want, name, 1e-9, 1e-9)


def of_pair(log_p, log_q):
    """Divergences of two rows of log-probabilities."""
    p, q = np.exp(log_p), np.exp(log_q)
    outside = bool(((log_p > -np.inf) & (log_q == -np.inf)).any())
    both = (p > 0) & (log_q > -np.inf)
    middle = np.log(np.maximum((p + q) / 2, 5e-324))

    def half(log_own, own):
        some = own > 0
        return (own[some] * (log_own[some] - middle[some])).sum()

    return {
        "kl": np.inf if outside else max(0, (p[both] * (log_p[both] - log_q[both])).sum()),
        "js": min(max((half(log_p, p) + half(log_q, q)) / 2, 0), np.log(2)),
        "tv": min(abs(p - q).sum() / 2, 1),
        "cross": np.inf if outside else -(p[both] * log_q[both]).sum(),
    }


def check_compared(rows, rng):
    """Many settings on sorted rows, against float64, and against rows as they come."""
    chosen = {}
    while len(chosen) < 3:
        one = logits.setting(rng, most=3)
        if not is_dense(one):
            chosen[str(one)] = one
    settings = [*chosen.values()]
    targets = torch.from_numpy(rng.integers(0, rows.shape[-1], len(rows)))
    compared = compare_rows(rows, targets, settings)
    for i, z in enumerate(rows.double().numpy()):
        found = [_applied(one, z) for one in settings]
        for name, values in compared._asdict().items():
            assert not np.isnan(values[i]).any(), f"compare_rows: {name} is NaN"
        for s, (one, (log_q, scaled, sure)) in enumerate(zip(settings, found, strict=True)):
            if not sure:
                continue
            what = f"compare_rows, {one}: "
            inside = log_q > -np.inf
            left = one.apply(Distribution(rows[i : i + 1])).final
            counts = {int(left.kept[0]), int((log_q > -1e30).sum()), int(inside.sum())}
            assert compared.kept[i, s] in counts, f"{what}{compared.kept[i, s]} kept, not {counts}"
            wants = {
                "entropy": mean(log_q, -log_q),
                "kept_mass": np.exp(scaled[inside]).sum(),
                "surprisal": -log_q[int(targets[i])],
            }
            for name, want in wants.items():
                close(getattr(compared, name)[i, s], want, what + name, 1e-7, 1e-7)
        for a, b in ((0, 1), (1, 2), (2, 0)):
            if not (found[a][2] and found[b][2]):
                continue
            of = of_pair(found[a][0], found[b][0])
            what = f"compare_rows, {settings[a]} and {settings[b]}: "
            close(compared.js[i, a, b], of["js"], what + "js", 1e-7)
            close(compared.total_variation[i, a, b], of["tv"], what + "tv", 1e-7)
            close(compared.kl[i, a, b], of["kl"], what + "kl", 1e-6, 1e-6)


def _applied(settings, z):
    """log q of one row, log p at the temperature, and whether no cut is near a token."""
    with np.errstate(over="ignore"):
        t = min(max(settings.temperature, exact.COLDEST), 1e38)
        scaled = z - z.max() if settings.greedy else (z - z.max()) / t
        scaled = np.where(np.isfinite(z), np.maximum(scaled, -1e300), -np.inf)
    log_scaled, sure = log_softmax(scaled), True
    if settings.greedy:
        return log_softmax(np.where(exact.first(z, 1).tokens, z, -np.inf)), log_scaled, True
    for rule in settings.rules:
        if rule.kind == "cut":
            kept = exact.cut(rule, scaled, t)
            sure = sure and bool(kept.far.all())
            scaled = np.where(kept.tokens, scaled, -np.inf)
    return log_softmax(scaled), log_scaled, sure
