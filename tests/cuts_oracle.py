"""Every cut by its definition: NumPy in float64, one row at a time.

Tokens go by logit descending, then by id ascending.
"""

from typing import NamedTuple

import numpy as np
import torch

from decoding.rules import RULES
from decoding.settings.settings import RULES_IN_ORDER

NEAR = 1e-6
"""A token may fall on either side where its threshold quantity is this close to the cut."""


def applied(name, logits, value):
    """What the rule of a field makes of logits."""
    return RULES[name](value)(None, logits)


CUTS = [rule.field for rule in RULES_IN_ORDER if rule.kind == "cut" and not rule.looks_back]


def finite(logits):
    return (logits > -torch.inf).numpy()


class Verdict(NamedTuple):
    kept: np.ndarray
    margin: np.ndarray  # how far each token's threshold quantity is from its cut
    tied: np.ndarray  # tokens level with the last kept one, where Hugging Face's choice differs


def log_softmax(z):
    shifted = z - z.max()
    return shifted - np.log(np.exp(shifted).sum())


def softmax(z):
    weights = np.exp(z - z.max())
    return weights / weights.sum()


def entropy(p):
    return -np.sum(p * np.log(p, where=p > 0, out=np.zeros_like(p)))


def by_logit(z):
    return np.argsort(-z, kind="stable")


def prefix_entropies(p, order):
    """Entropy of each prefix of `order`, renormalised; of the first token alone, of two, …."""
    ordered = p[order]
    mass = np.cumsum(ordered)
    terms = -ordered * np.log(ordered, where=ordered > 0, out=np.zeros_like(ordered))
    return np.log(mass) + np.cumsum(terms) / mass


def shortest_prefix(p, order, value, slack):
    """Kept mask, and distance from the cut, of the shortest prefix with mass at least `value`."""
    before = np.empty_like(p)
    before[order] = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
    return before < value + slack, np.abs(before - value)


def threshold(z, quantity, cut, slack):
    kept = quantity >= cut - slack
    if not kept.any():
        kept[by_logit(z)[0]] = True
    with np.errstate(over="ignore"):
        margin = np.abs(quantity / cut - 1)
    return Verdict(kept, margin, z == z.max())


# `slack` moves the threshold towards keeping more.


def top_k(z, value, slack=0.0):
    first = by_logit(z)[:value]
    return Verdict(np.isin(np.arange(len(z)), first), np.full(len(z), np.inf), z == z[first[-1]])


def top_p(z, value, slack=0.0):
    kept, margin = shortest_prefix(softmax(z), by_logit(z), value, slack)
    return Verdict(kept, margin, z == z[kept].min())


def min_p(z, value, slack=0.0):
    p = softmax(z)
    return threshold(z, p, value * p.max(), slack)


def typical_p(z, value, slack=0.0):
    p = softmax(z)
    distance = np.abs(-log_softmax(z) - entropy(p))
    kept, margin = shortest_prefix(p, np.lexsort((-z, distance)), value, slack)
    last = distance[kept].max()
    gap = np.abs(np.where(np.isinf(distance), np.inf, distance - last))
    # The kept set turns on the mass before a token and on its place in the order of distances.
    inexact = np.where(distance == last, np.inf, gap)
    return Verdict(kept, np.minimum(margin, inexact), distance == last)


def epsilon_cutoff(z, value, slack=0.0):
    return threshold(z, softmax(z), value, slack)


def eta_cutoff(z, value, slack=0.0):
    p = softmax(z)
    return threshold(z, p, min(value, np.sqrt(value) * np.exp(-entropy(p))), slack)


def top_n_sigma(z, value, slack=0.0):
    depth, reach = z.max() - z, value * np.std(z[np.isfinite(z)])
    # All alike have no deviation and no depth.
    margin = np.abs(depth / reach - 1) if reach else np.full(len(z), np.inf)
    return Verdict(depth <= reach + slack, margin, z == z.max())


def min_k(z, value, slack=0.0):
    order = by_logit(z)[: np.isfinite(z).sum()]
    ranked, count = z[order], len(order)
    drops = -np.diff(ranked) / np.arange(1, count)
    cliff = int(drops.argmax()) + 1 if count > 1 else 1
    span = ranked[0] - ranked[-1]
    least = min((value + slack) / span, count) if span > 0 else count
    kept = order[: max(cliff, int(least))]
    # It turns on the two steepest drops, and on the last whole number where that decides.
    steepest = np.sort(drops)[::-1][:2]
    margin = 1 - steepest[1] / steepest[0] if len(steepest) == 2 and span > 0 else np.inf
    if cliff - 1 < least < count:
        margin = min(margin, abs(least - round(least)) / max(least, 1))
    marked = np.isin(np.arange(len(z)), kept)
    return Verdict(marked, np.full(len(z), margin), z == z[kept[-1]])


def top_h(z, value, slack=0.0):
    p, order = softmax(z), by_logit(z)
    entropies = np.empty_like(p)
    entropies[order] = prefix_entropies(p, order)
    entropies[order[0]] = -np.inf  # nothing speaks against the first alone
    limit = value * entropy(p)
    margin = np.where(np.isfinite(z), np.abs(entropies - limit), np.inf)
    kept = (entropies <= limit + slack) & np.isfinite(z)
    return Verdict(kept, margin, z == z[order[0]])


def p_less(z, value, slack=0.0):
    p = softmax(z)
    return threshold(z, p, value * (p**2).sum(), slack)


def kl_budget(z, value, slack=0.0):
    return top_p(z, np.exp(-value), slack)


ORACLES = {
    "top_n_sigma": top_n_sigma,
    "min_k": min_k,
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
VALUES = {
    "top_n_sigma": (0.3, 1.0, 1.5, 2.5, 4.0),
    "min_k": (1e-9, 3.0, 30.0, 200.0, 1e9),
    "top_h": (0.1, 0.4, 0.6, 0.8, 0.99),
    "top_k": (1, 3, 20, 50, 1000),
    "top_p": (0.1, 0.5, 0.9, 0.95, 0.999),
    "min_p": (0.01, 0.05, 0.1, 0.3, 0.9),
    "typical_p": (0.2, 0.5, 0.9, 0.95, 0.99),
    "epsilon_cutoff": (1e-5, 3e-4, 1e-3, 1e-2, 0.2),
    "eta_cutoff": (1e-4, 6e-4, 2e-3, 0.05, 0.3),
    "p_less": (0.01, 0.1, 0.5, 1.0, 0.9),
    "kl_budget": (1e-4, 0.01, 0.1, 0.5, 3.0),
}
EVERY_CUT = [(name, value) for name, values in VALUES.items() for value in values[1:4]]
