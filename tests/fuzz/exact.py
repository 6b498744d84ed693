"""What each rule keeps of a row, by its definition: NumPy in float64, and how sure that is.

A cut gives which tokens it keeps, and of each token how far its quantity is from the threshold:
what is nearer than `NEAR` may fall on either side.
"""

from typing import NamedTuple

import numpy as np

from cuts_oracle import by_logit, log_softmax, prefix_entropies

NEAR = 1e-6
"""Of the size of the quantity, where that is above 1: float32 tells no more of it."""


class Kept(NamedTuple):
    tokens: np.ndarray
    """`(vocab)`, which ones."""
    far: np.ndarray
    """`(vocab)`, whether that is sure."""


def entropy(z):
    log_p = log_softmax(z)
    inside = log_p > -np.inf
    return float(-(np.exp(log_p[inside]) * log_p[inside]).sum())


def renyi(z, order):
    """By its definition, in logarithms."""
    log_p = log_softmax(z)
    return float(-_log_sum(order * log_p[log_p > -np.inf]) / (order - 1))


def _log_sum(values):
    return values.max() + np.log(np.exp(values - values.max()).sum())


def first(z, k):
    tokens = np.zeros(len(z), bool)
    tokens[by_logit(z)[: int(min(k, len(z)))]] = True
    return Kept(tokens & np.isfinite(z), np.ones(len(z), bool))


def below(z, quantity, limit, error=NEAR):
    """Tokens whose quantity is at most a limit, and the first in any case."""
    tokens = (quantity <= limit) & np.isfinite(z)
    with np.errstate(invalid="ignore"):
        off = abs(quantity - limit)
        size = np.maximum(1, np.minimum(abs(quantity), abs(limit)))
    far = ~(off <= error * size)
    best = by_logit(z)[0]
    tokens[best] = far[best] = True
    return Kept(tokens, far)


def with_mass(z, mass):
    order, p = by_logit(z), np.exp(log_softmax(z))
    before = np.empty(len(z))
    before[order] = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
    tokens = (before < mass) & np.isfinite(z)
    tokens[order[0]] = True
    far = abs(before - mass) > NEAR
    far[order[0]] = True
    return Kept(tokens, far)


def top_h(z, share):
    order, p = by_logit(z), np.exp(log_softmax(z))
    of = np.empty(len(z))
    of[order] = prefix_entropies(p, order)
    limit = share * entropy(z)
    of[order[0]] = 0.0
    return below(z, of, limit, error=4 * NEAR)


def typical_p(z, mass):
    log_p = log_softmax(z)
    distance = abs(-log_p - entropy(z))
    order = np.lexsort((np.arange(len(z)), -z, distance))
    p = np.exp(log_p)
    before = np.empty(len(z))
    before[order] = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
    tokens = (before < mass) & np.isfinite(z)
    tokens[order[0]] = True
    far = abs(before - mass) > NEAR
    # Tokens on both sides of the entropy may change places where they are as near to it.
    last = distance[tokens].max()
    with np.errstate(invalid="ignore"):
        swapped = (abs(distance - last) <= NEAR * max(1, last)) & (z != z[order[tokens.sum() - 1]])
    if swapped.any():
        far &= ~(abs(distance - last) <= NEAR * max(1, last))
    nearest = distance - distance[order[0]] <= NEAR * max(1, distance[order[0]])
    if nearest.sum() > 1 and tokens.sum() == 1:
        far &= ~nearest
    return Kept(tokens, far)


def top_n_sigma(z, n):
    with np.errstate(over="ignore"):
        return below(z, z.max() - z, n * np.std(z[np.isfinite(z)]))


def min_k(z, tau, divided_by):
    order = by_logit(z)[: np.isfinite(z).sum()]
    ranked, count = z[order], len(order)
    drops = -np.diff(ranked) / np.arange(1, count)
    cliff = int(drops.argmax()) + 1 if count > 1 else 1
    span = (ranked[0] - ranked[-1]) * divided_by
    with np.errstate(over="ignore", divide="ignore"):
        least = min(float(tau / np.float64(span)), count + 1) if span > 0 else count + 1
    tokens = np.zeros(len(z), bool)
    tokens[order[: max(cliff, int(least))]] = True
    steepest = np.sort(drops)[::-1][:2]
    close = len(steepest) == 2 and steepest[1] > 0 and 1 - steepest[1] / steepest[0] <= NEAR
    whole = abs(least - round(least)) <= NEAR * max(1, least)
    unsure = (close and least < count) or (whole and cliff - 1 < least < count + 1)
    return Kept(tokens, np.full(len(z), not unsure))


def cut(rule, z, divided_by=1.0, state=None):
    """What a cut keeps of logits that were divided by a temperature."""
    value = rule.value
    surprisal = -log_softmax(z)
    log = np.log(value) if value > 0 else -np.inf
    return {
        "top_k": lambda: first(z, value),
        "top_p": lambda: with_mass(z, value),
        "kl_budget": lambda: with_mass(z, np.exp(-value)),
        "top_h": lambda: top_h(z, value),
        "typical_p": lambda: typical_p(z, value),
        "top_n_sigma": lambda: top_n_sigma(z, value),
        "min_k": lambda: min_k(z, value, divided_by),
        "min_p": lambda: below(z, z.max() - z, -log),
        "epsilon_cutoff": lambda: below(z, surprisal, -log),
        "eta_cutoff": lambda: below(z, surprisal, max(-log, entropy(z) - log / 2), 4 * NEAR),
        "p_less": lambda: below(z, surprisal, renyi(z, 2) - log, 4 * NEAR),
        "mirostat_tau": lambda: below(z, surprisal, 2 * value if state is None else state),
    }[rule.field]()


def xtc(rule, z, slack):
    """log q, the threshold being moved by a relative `slack`."""
    log_p = log_softmax(z)
    reaching = np.flatnonzero(log_p >= np.log(rule.xtc_threshold) + slack)
    order = reaching[np.lexsort((reaching, -log_p[reaching]))]
    out = np.setdiff1d(order[:-1], [id_ for id_ in rule.xtc_spared if id_ < len(z)])
    if not len(out):
        return log_p
    kept = np.ones(len(z), bool)
    kept[out] = False
    left = np.exp(log_p[kept]).sum()
    with np.errstate(divide="ignore"):
        mixed = log_p + np.log((1 - rule.value) + np.where(kept, rule.value / left, 0.0))
    return log_softmax(mixed)


def adaptive_p(rule, z, state):
    """log q, its state being the sum of probabilities drawn, and its weight."""
    goal = np.clip(2 * rule.value - state[0] / state[1], 0, 1)
    distance = abs(np.exp(log_softmax(z)) - goal) / 0.3
    return log_softmax(np.where(np.isfinite(z), -10 * distance**2 / (1 + distance), -np.inf))


def entropy_at(z, temperature):
    with np.errstate(over="ignore"):
        return entropy((z - z.max()) / temperature)


COLDEST = 1e-30
"""Of a temperature; at it, q is its limit already."""


def temperatures(settings, z):
    """Between which the temperature of a row lies, as well as float32 may know its entropy."""
    base, own = settings.temperature, entropy(z)
    found = []
    for h in (max(0.0, own * (1 - 1e-6) - 1e-5), own * (1 + 1e-6) + 1e-5):
        if settings.edt_theta:
            with np.errstate(over="ignore", under="ignore"):
                log_t = np.log(settings.edt_base) * settings.edt_theta / max(h, 1e-300)
                found.append(base * np.exp(log_t))
        else:
            count = np.isfinite(z).sum()
            share = min(h / np.log(count), 1) if count > 1 else 0.0
            low, high = max(0.0, base - settings.dynatemp_range), base + settings.dynatemp_range
            found.append(
                low
                + (min(high, np.finfo(np.float64).max) - low) * share**settings.dynatemp_exponent
            )
    return np.clip(found, COLDEST, None)
