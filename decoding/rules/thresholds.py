"""Cuts at a threshold: of the logit, of the probability, or of the surprisal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from decoding.rules.rule import (
    CUT,
    NOT_NEGATIVE,
    SHARE,
    SHARE_OR_NONE,
    Cut,
    Field,
    InTransformers,
    Past,
    Rule,
)

if TYPE_CHECKING:
    from decoding.rows.arrays import Array
    from decoding.rows.distribution import Distribution


class TopNSigma(Cut):
    """Keep tokens whose logit is at most n standard deviations below the largest.

    The kept set is the same at every temperature. As in llama.cpp, the deviation is over the tokens
    that are not excluded, and its square divided by their number, not by one less.
    """

    field, neutral, range, example = "top_n_sigma", 0.0, NOT_NEGATIVE, "1"
    says = "keep tokens at most {value} standard deviations below the largest logit"
    source = "Tang et al. 2024, arXiv:2411.07641"

    def keep(self, rows: Any, n: Any) -> Any:
        return rows.within_depth(n * rows.deviation)

    def looser(self, slack: float) -> Any:
        return self.value * (1 + slack)


class MinP(Cut):
    """Keep tokens with probability at least m times the largest."""

    field, neutral, range, example = "min_p", 0.0, SHARE_OR_NONE, "0.05"
    says = "keep tokens with at least {value} × the largest probability"
    source = "Nguyen et al. 2024, arXiv:2407.01082"
    in_transformers = InTransformers(None)

    def keep(self, rows: Any, m: Any) -> Any:
        return rows.within_depth(-rows.log(m))


class TypicalP(Cut):
    """Keep the tokens whose surprisal is nearest to the entropy, up to mass p.

    The most probable token need not be among them.
    """

    field, neutral, range, example = "typical_p", 1.0, SHARE, "0.95"
    says = "keep the tokens of most typical surprisal, up to mass {value}"
    source = "Meister et al. 2023, arXiv:2202.00666 (locally typical sampling)"
    in_transformers = InTransformers(1.0)

    def keep(self, rows: Any, p: Any) -> Any:
        return rows.typical(p)


class EpsilonCutoff(Cut):
    """Keep tokens with probability at least ε, or the first token where none has."""

    field, neutral, range, example = "epsilon_cutoff", 0.0, CUT, "0.0003"
    says = "keep tokens with probability >= {value}"
    source = "Hewitt et al. 2022, arXiv:2210.15191"
    in_transformers = InTransformers(0.0)

    def keep(self, rows: Any, e: Any) -> Any:
        return rows.within_surprisal(-rows.log(e))


class EtaCutoff(Cut):
    """Keep tokens with probability at least min(ε, √ε·e^-H), or the first where none has."""

    field, neutral, range, example = "eta_cutoff", 0.0, CUT, "0.0006"
    says = "keep tokens with probability >= min({value}, √{value} · e^-H)"
    source = "Hewitt et al. 2022, arXiv:2210.15191 (η-sampling)"
    in_transformers = InTransformers(0.0)

    def keep(self, rows: Any, e: Any) -> Any:
        return rows.within_surprisal((rows.entropy - rows.log(e) / 2).clip(-rows.log(e)))


class PLess(Cut):
    """Keep tokens with probability at least c·Σ p²; 1 is the rule of its source.

    Σ p² is the probability that two draws agree, so the cut adapts without a parameter.
    """

    field, neutral, range, example = "p_less", 0.0, SHARE_OR_NONE, "1"
    says = "keep tokens with probability >= {value} × Σ p²"
    source = "Tan et al. 2025, arXiv:2509.23234 (p-less sampling)"

    def keep(self, rows: Any, c: Any) -> Any:
        return rows.within_surprisal(rows.renyi_entropy(2) - rows.log(c))


class Mirostat(Cut):
    """Keep tokens whose surprisal is at most μ, moved so that surprisals come to τ on average.

    μ starts at 2τ, and after each token it is `μ - η·(surprisal - τ)`, with the surprisal under the
    truncated distribution, as in the authors' code and llama.cpp's mirostat v2. When a text is
    scored, a token that was cut counts with its surprisal before the cuts.
    """

    field, neutral, range, example = "mirostat_tau", 0.0, NOT_NEGATIVE, "3"
    unit = "nats"
    says = (
        "keep tokens below a surprisal that moves by {mirostat_eta} × the error, so that the mean "
        "comes down to {value} nats ({bits} bits)"
    )
    source = "Basu et al. 2021, arXiv:2007.14966, algorithm 2"
    parameters = (Field("mirostat_eta", 0.1, SHARE, "0.1"),)
    looks_back: ClassVar[str] = "draws"

    mirostat_eta: float

    @property
    def start(self) -> tuple[float, ...]:
        return (2 * self.value,)

    def check_beside(self, others: Sequence[Rule]) -> None:
        for other in others:
            if other.kind in ("mixture", "reweighting"):
                raise ValueError(f"{self.field} follows what its own cut leaves: leave out {other}")

    def keep(self, rows: Any, mu: Any) -> Any:
        return rows.within_surprisal(mu)

    def apply(self, rows: Distribution, past: Past) -> Distribution:
        return self.keep(rows, past.state[..., 0])  # type: ignore[no-any-return]

    def observe(
        self, state: Array, tokens: Array, given: Distribution, final: Distribution,
        uncut: Distribution,
    ) -> tuple[Array, ...]:  # fmt: skip
        surprisal = final.surprisal(tokens, otherwise=uncut)
        return (state[..., 0] - self.mirostat_eta * (surprisal - self.value),)
