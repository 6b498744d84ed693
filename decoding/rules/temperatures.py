"""Rules that set the temperature: one for all rows, or one that follows the entropy of each."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from decoding.rules.rule import (
    NOT_NEGATIVE,
    POSITIVE,
    Field,
    InTransformers,
    Past,
    Range,
    Reweighting,
    Rule,
    Tempering,
)

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.rows.arrays import Array
    from decoding.rows.distribution import Distribution


class Temperature(Tempering):
    """Divide logits by T; 0 is greedy: the most probable token alone, the lowest id on ties."""

    field, neutral, range, example = "temperature", 1.0, NOT_NEGATIVE, "0.7"
    says = "divide logits by {value}"
    source = "Hinton et al. 2015, arXiv:1503.02531"
    in_transformers = InTransformers(1.0)
    is_fixed = True

    def words(self, base: float = 1.0, **numbers: Any) -> str:
        if self.value == 0:
            return "the most probable token, always (lowest id on ties)"
        return super().words(base)

    def temperature(self, rows: Distribution, base: float) -> float:
        return self.value  # type: ignore[no-any-return]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        from decoding.rows.arrays import as_float
        from decoding.rows.distribution import COLDEST

        if self.value == 0:
            return super().__call__(input_ids, scores)
        divisor: float = max(self.value, COLDEST)
        return as_float(scores) / divisor


class TemperatureLast(Reweighting):
    """Divide the logits that the cuts left by T.

    So tokens are cut at one temperature, 1 or that of `temperature`, and drawn at another. XTC
    comes after it, as in KoboldCpp; llama.cpp has XTC first.
    """

    field, neutral, range, example = "temperature_last", 1.0, POSITIVE, "1.5"
    says = "divide the logits that are left by {value}"
    source = "temperature_last of github.com/oobabooga/text-generation-webui, and llama.cpp's order"

    def apply(self, rows: Distribution, past: Past) -> Distribution:
        return rows.tempered(self.value)


class Edt(Tempering):
    """Entropy-dependent temperature, `T·N^(θ/H)`: cold where the model is sure.

    H is the entropy of the logits as they are. The temperature tends to 0 with H, and to T as H
    grows.
    """

    field, neutral, range, example = "edt_theta", 0.0, NOT_NEGATIVE, "0.5"
    says = "divide logits by {base} · {edt_base}^({value}/H), H being their entropy"
    source = "Zhang et al. 2024, arXiv:2403.14541, with N = 0.8; H in nats"
    parameters = (Field("edt_base", 0.8, Range("in (0, 1)", lambda v: 0 < v < 1), "0.8"),)

    edt_base: float

    def temperature(self, rows: Distribution, base: float) -> Array:
        # Of a sure row the exponent may be 0/0.
        entropy = rows.entropy.clip(1e-300)
        return base * rows.exp(math.log(self.edt_base) * self.value / entropy)


class Dynatemp(Tempering):
    """A temperature from `T - r` (no entropy) to `T + r` (the largest possible entropy).

    It is `a + (b - a)·(H / ln n)^k` from a = max(0, T - r) to b = T + r, n being the number of
    tokens that are not excluded.
    """

    field, neutral, range, example = "dynatemp_range", 0.0, NOT_NEGATIVE, "0.5"
    says = (
        "divide logits by {low} + {span} · (H/ln n)^{dynatemp_exponent}, H being the entropy of n "
        "tokens: {low} where the model is sure, up to {high} where it is not"
    )
    source = "llama.cpp's temp_ext sampler (--dynatemp-range, --dynatemp-exp)"
    parameters = (Field("dynatemp_exponent", 1.0, POSITIVE, "1.5"),)

    dynatemp_exponent: float

    def _bounds(self, base: float) -> tuple[float, float]:
        return max(0.0, base - self.value), min(base + self.value, sys.float_info.max)

    def words(self, base: float = 1.0, **numbers: Any) -> str:
        low, high = self._bounds(base)
        return super().words(base, low=low, high=high, span=high - low)

    def temperature(self, rows: Distribution, base: float) -> Any:
        low, high = self._bounds(base)
        # Of one token both entropies are 0, and then the temperature does not matter.
        share = (rows.entropy / rows.renyi_entropy(0).clip(1e-300)).clip(None, 1)
        return low + (high - low) * share**self.dynatemp_exponent


class TargetEntropy(Tempering):
    """The temperature at which the entropy is h nats, solved for each row.

    Where no temperature attains it, the nearest limit: the tokens tied for the first place alone
    below, all that are not excluded, alike, above.
    """

    field, neutral, range, example = "target_entropy", 0.0, NOT_NEGATIVE, "1.5"
    unit = "nats"
    says = "divide logits by the temperature that makes the entropy {value} nats ({bits} bits)"
    source = "dH/dT = Var_T[z]/T³, from the derivatives of the log-partition (Jaynes 1957)"

    def check_beside(self, others: Sequence[Rule]) -> None:
        super().check_beside(others)
        for other in others:
            if isinstance(other, Tempering) and other.is_fixed:
                raise ValueError(f"{self.field} sets the temperature itself: leave out {other}")

    def check_vocabulary(self, size: int) -> None:
        if self.value > math.log(size):
            raise ValueError(
                f"{self.field}={self.value:g} is above ln {size} = {math.log(size):.4g} nats, "
                f"the most that {size} tokens can have"
            )

    def temperature(self, rows: Distribution, base: float) -> Array:
        from decoding.rows.arrays import as_array
        from decoding.rows.temperature import solve_temperature

        return as_array(solve_temperature(rows, self.value).temperature)
