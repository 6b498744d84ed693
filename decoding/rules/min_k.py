"""A cut at the steepest drop between neighbouring logits."""

from __future__ import annotations

from typing import Any

from decoding.rules.rule import NOT_NEGATIVE, Cut


class MinK(Cut):
    """Keep the tokens before the steepest drop of the logits, and at least τ/(largest - smallest).

    A drop counts by its size over its place: the tokens before the i at which `(z_i - z_{i+1}) / i`
    is largest are kept. The least number of tokens, rounded down, is a guard for rows that are
    nearly flat. The kept set is the same at every temperature; in vLLM the least number is not,
    because it reads logits that were divided by the temperature. The source's τ is 3; with a tiny τ
    the drop alone decides.
    """

    field, neutral, range, example = "min_k", 0.0, NOT_NEGATIVE, "3"
    says = (
        "keep the tokens before the steepest drop of the logits, and at least {value}/(max - min)"
    )
    source = "Ding et al. 2026, arXiv:2604.11012 (min-k sampling); vllm-project/vllm#48142"

    def keep(self, rows: Any, tau: Any) -> Any:
        # No row has 1e9 tokens, and a flat one has no span.
        least = 1 / (rows.span / tau).clip(1e-9)
        return rows.first(least.clip(rows.cliff, None))

    def looser(self, slack: float) -> Any:
        return self.value * (1 + slack)
