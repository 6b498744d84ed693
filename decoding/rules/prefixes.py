"""Cuts that keep a prefix of the order of tokens: by its length, its mass, or its entropy."""

from __future__ import annotations

from typing import Any

from decoding.rules.rule import NOT_NEGATIVE, SHARE, Cut, InTransformers, Range


class TopK(Cut):
    """Keep exactly the k most probable tokens; of tokens tied at the k-th place, the lowest ids.

    Hugging Face keeps all tokens that are tied there.
    """

    field, neutral, range, example = "top_k", 0, Range(">= 0", lambda v: v >= 0), "50"
    says = "keep the {value} most probable tokens"
    source = "Fan et al. 2018, arXiv:1805.04833"
    in_transformers = InTransformers(0, default=50)

    def keep(self, rows: Any, k: Any) -> Any:
        return rows.first(k)


class TopP(Cut):
    """Keep the shortest prefix of mass at least p (nucleus sampling).

    The token that reaches p is kept.
    """

    field, neutral, range, example = "top_p", 1.0, SHARE, "0.9"
    says = "keep the shortest prefix of mass >= {value}"
    source = "Holtzman et al. 2020, arXiv:1904.09751"
    in_transformers = InTransformers(1.0)

    def keep(self, rows: Any, p: Any) -> Any:
        return rows.with_mass(p)


class TopH(Cut):
    """Keep the longest prefix whose renormalised entropy is at most `a·H(p)`.

    The entropy of a prefix grows with its length, so the longest one is unique, and the first token
    always qualifies. Transformers' warper of that name keeps other sets: it looks at the first 100
    tokens alone, takes H of those, and adds up `-p ln p` over the prefix, where
    `H(q) = ln Z + Z⁻¹ Σ -p ln p`.
    """

    field, neutral, range, example = "top_h", 1.0, SHARE, "0.4"
    says = "keep the longest prefix whose entropy is at most {value} × the whole's"
    source = "Potraghloo et al. 2025, arXiv:2509.02510, by its definition"
    in_transformers = InTransformers(None, differs="keeps other sets than the field")

    def keep(self, rows: Any, a: Any) -> Any:
        return rows.with_entropy(a * rows.entropy)


class KlBudget(Cut):
    """Keep the shortest prefix that costs at most ε nats: KL(q‖p) = -ln Z <= ε.

    Z is the mass of the prefix, so this is `top_p` at `e^-ε`, said by what it costs.
    """

    field, neutral, range, example = "kl_budget", 0.0, NOT_NEGATIVE, "0.1"
    unit = "nats"
    says = "keep the shortest prefix that costs at most {value} nats ({bits} bits)"
    source = "KL(q‖p) = -ln Z (Cover & Thomas, 2nd ed., equation 2.26 with q = p/Z)"

    def keep(self, rows: Any, e: Any) -> Any:
        return rows.with_mass(rows.exp(-e))
