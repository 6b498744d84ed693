"""A reweighting that prefers tokens of a probability that is moved after each draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from decoding.rules.rule import SHARE_OR_NONE, Field, Past, Range, Reweighting, Rule

if TYPE_CHECKING:
    from decoding.rows.arrays import Array
    from decoding.rows.distribution import Distribution

_WIDTH = 0.3
_SHARPNESS = 10.0


class AdaptiveP(Reweighting):
    """Prefer tokens whose probability is near a goal, which moves so that draws come to t.

    `q ∝ exp(-10·d²/(1 + d))` with `d = |p - goal| / 0.3` over the tokens that are left. The goal is
    `2t` less the running mean of the probabilities drawn, within [0, 1]. That mean forgets by the
    decay at each step, and is t at the beginning. Probabilities are those that the rule is given,
    after all others. It lifts the tail as well, so use it after a cut such as `min_p`. When a text
    is scored, a token that a cut removed does not move the goal.
    """

    field, neutral, range, example = "adaptive_p", 0.0, SHARE_OR_NONE, "0.5"
    says = (
        "prefer tokens of a probability near a goal, which steers the mean of those drawn to "
        "{value}, with decay {adaptive_p_decay}"
    )
    source = "llama.cpp's adaptive-p sampler, github.com/ggml-org/llama.cpp/pull/17927"
    parameters = (
        Field("adaptive_p_decay", 0.9, Range("in [0, 0.99]", lambda v: 0 <= v <= 0.99), "0.9"),
    )
    looks_back: ClassVar[str] = "draws"

    adaptive_p_decay: float

    @property
    def start(self) -> tuple[float, ...]:
        weight = 1 / (1 - self.adaptive_p_decay)
        return (self.value * weight, weight)

    def check_beside(self, others: Sequence[Rule]) -> None:
        for other in others:
            if other.looks_back == "draws":
                raise ValueError(f"{self.field} and {other.field} both follow what is drawn")

    def apply(self, rows: Distribution, past: Past) -> Distribution:
        mean = past.state[..., 0] / past.state[..., 1]
        goal = (2 * self.value - mean).clip(0, 1)
        distance = abs(rows.probs - goal[..., None]) / _WIDTH
        return rows.reweighted(-_SHARPNESS * distance**2 / (1 + distance))

    def observe(
        self, state: Array, tokens: Array, given: Distribution, final: Distribution,
        uncut: Distribution,
    ) -> tuple[Array, ...]:  # fmt: skip
        drawn = given.exp(given.log_prob(tokens))
        seen, decay = drawn > 0, self.adaptive_p_decay
        total, weight = state[..., 0], state[..., 1]
        return (
            total + seen * (drawn + (decay - 1) * total),
            weight + seen * (1 + (decay - 1) * weight),
        )
