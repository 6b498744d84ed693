"""Every cut by its definition: NumPy in float64, one row at a time.

Tokens go by logit descending, then by id ascending.
"""

from typing import NamedTuple

import numpy as np

from oracle import prefix_entropies


class Verdict(NamedTuple):
    kept: np.ndarray
    margin: np.ndarray  # how far each token's threshold quantity is from its cut
    tied: np.ndarray  # tokens level with the last kept one, where Hugging Face's choice differs


def softmax(z):
    weights = np.exp(z - z.max())
    return weights / weights.sum()


def entropy(p):
    return -np.sum(p * np.log(p, where=p > 0, out=np.zeros_like(p)))


def by_logit(z):
    return np.argsort(-z, kind="stable")


def shortest_prefix(p, order, value):
    """Kept mask, and distance from the cut, of the shortest prefix with mass at least `value`."""
    before = np.empty_like(p)
    before[order] = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
    return before < value, np.abs(before - value)


def threshold(z, quantity, cut):
    kept = quantity >= cut
    if not kept.any():
        kept[by_logit(z)[0]] = True
    return Verdict(kept, np.abs(quantity / cut - 1), z == z.max())


def top_k(z, value):
    first = by_logit(z)[:value]
    return Verdict(np.isin(np.arange(len(z)), first), np.full(len(z), np.inf), z == z[first[-1]])


def top_p(z, value):
    kept, margin = shortest_prefix(softmax(z), by_logit(z), value)
    return Verdict(kept, margin, z == z[kept].min())


def min_p(z, value):
    return threshold(z, np.exp(z - z.max()), value)


def typical_p(z, value):
    p = softmax(z)
    surprisal = -(z - z.max() - np.log(np.exp(z - z.max()).sum()))
    distance = np.abs(surprisal - entropy(p))
    kept, margin = shortest_prefix(p, np.lexsort((-z, distance)), value)
    last = distance[kept].max()
    gap = np.abs(np.where(np.isinf(distance), np.inf, distance - last))
    # The kept set turns on the mass before a token and on its place in the order of distances.
    inexact = np.where(distance == last, np.inf, gap)
    return Verdict(kept, np.minimum(margin, inexact), distance == last)


def epsilon_cutoff(z, value):
    return threshold(z, softmax(z), value)


def eta_cutoff(z, value):
    p = softmax(z)
    return threshold(z, p, min(value, np.sqrt(value) * np.exp(-entropy(p))))


def top_n_sigma(z, value):
    depth, reach = z.max() - z, value * np.std(z[np.isfinite(z)])
    # All alike have no deviation and no depth.
    margin = np.abs(depth / reach - 1) if reach else np.full(len(z), np.inf)
    return Verdict(depth <= reach, margin, z == z.max())


def top_h(z, value):
    p, order = softmax(z), by_logit(z)
    entropies = np.empty_like(p)
    entropies[order] = prefix_entropies(p, order)
    entropies[order[0]] = -np.inf  # nothing speaks against the first alone
    limit = value * entropy(p)
    margin = np.where(np.isfinite(z), np.abs(entropies - limit), np.inf)
    return Verdict((entropies <= limit) & np.isfinite(z), margin, z == z[order[0]])


def p_less(z, value):
    p = softmax(z)
    return threshold(z, p, value * (p**2).sum())


def kl_budget(z, value):
    return top_p(z, np.exp(-value))


ORACLES = {
    "top_n_sigma": top_n_sigma,
    "top_h": top_h,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
    "typical_p": typical_p,
    "epsilon_cutoff": epsilon_cutoff,
    "eta_cutoff": eta_cutoff,
    "p_less": p_less,
    "kl_budget": kl_budget,
}
