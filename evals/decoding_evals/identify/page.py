"""What a page needs to show the odds of candidates along a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from decoding_evals.showing.result import Floats, finite

MOST = 8
"""Lines in a picture: candidates that are shown one by one, or one less and the others as one."""
DECIMALS = 5


def page_of(tokens: Sequence[str], log_q_nats: Floats, prior: Floats) -> dict[str, Any]:
    """The likelihoods of n tokens under the likeliest of K candidates, and under the others as one.

    What is neither infinite nor unknown is rounded to 5 decimals; None stands for -∞.

    Args:
        tokens: their texts.
        log_q_nats: `(n, K)`.
        prior: `(K,)`, sums to 1.

    Returns:
        `tokens`; `candidates`, at most 8, the most probable first, before those that a token rules
        out early; `log_q_nats`, a list of n for each of them; `others`, how many more there are;
        `others_prior` and `others_log_q_nats`, of all of these as one candidate, which mixes them
        by their posterior; None where there are none.
    """
    joint = np.log(prior) + np.concatenate([np.zeros((1, len(prior))), log_q_nats.cumsum(0)])
    lasting = np.isfinite(log_q_nats).sum(0)
    order = sorted(range(len(prior)), key=lambda k: (-joint[-1, k], -lasting[k]))
    one_by_one = MOST if len(order) <= MOST else MOST - 1
    shown, others = order[:one_by_one], order[one_by_one:]
    page = {
        "tokens": list(tokens),
        "candidates": shown,
        "log_q_nats": _rounded(log_q_nats[:, shown].T),
        "others": len(others),
        "others_prior": None,
        "others_log_q_nats": None,
    }
    if others:
        mixed = np.logaddexp.reduce(joint[:, others], axis=1)
        page["others_prior"] = math.exp(mixed[0])
        with np.errstate(invalid="ignore"):  # -∞ behind -∞
            page["others_log_q_nats"] = _rounded(np.diff(mixed))
    return page


def _rounded(values: Floats) -> Any:
    return finite(values.round(DECIMALS))
