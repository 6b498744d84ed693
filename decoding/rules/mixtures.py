"""Rules that mix a distribution with another one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from decoding.rules.rule import SHARE, SHARE_OR_NONE, TOKENS, Field, Mixture, Past, format_value
from decoding.rules.tokens import Tokens, marked

if TYPE_CHECKING:
    from decoding.rows.distribution import Distribution


class Xtc(Mixture):
    """Exclude top choices: with probability P, all tokens that reach a threshold but the last.

    The source tosses a coin at each step. This is the distribution that comes of it, the mixture
    `(1 - P)·p + P·p'` with p' = p without its top choices, so it can be drawn from with one uniform
    and compared with others. Where fewer than two tokens reach the threshold, nothing changes.
    Tokens that are spared, such as EOS and those with a line break, are never excluded, as in
    ExLlamaV2; the source leaves a step at which one of its two would be as it is.
    """

    field, neutral, range, example = "xtc_probability", 0.0, SHARE_OR_NONE, "0.5"
    says = (
        "with probability {value}, exclude all tokens of probability >= {xtc_threshold} but the "
        "last"
    )
    source = "p-e-w 2024, github.com/oobabooga/text-generation-webui/pull/6335, and llama.cpp"
    parameters = (
        Field("xtc_threshold", 0.1, SHARE, "0.1"),
        Field("xtc_spared", (), TOKENS, r'2/"\n"'),
    )

    xtc_threshold: float
    xtc_spared: Tokens

    def words(self, base: float = 1.0, **numbers: Any) -> str:
        spared = f"; {format_value(self.xtc_spared)} are spared"
        return super().words(base) + (spared if self.xtc_spared else "")

    def apply(self, rows: Distribution, past: Past) -> Distribution:
        import torch

        from decoding.rows.distribution import Distribution

        log_probs = rows.logits.double().log_softmax(-1)
        reaching = log_probs >= math.log(self.xtc_threshold)
        # Fewer than 1/t tokens can reach t, so the last of them is among these.
        vocab = log_probs.shape[-1]
        window = min(math.ceil(min(1 / self.xtc_threshold, vocab)) + 1, vocab)
        largest = log_probs.topk(window, dim=-1).values
        count = (largest >= math.log(self.xtc_threshold)).sum(-1, keepdim=True)
        boundary = largest.gather(-1, (count - 1).clamp(min=0))
        # Of tied last ones, the highest id comes last.
        ids = torch.arange(vocab, device=log_probs.device)
        last = torch.where(log_probs == boundary, ids, -1).amax(-1, keepdim=True)
        spared = marked("xtc_spared", self.xtc_spared, vocab, log_probs.device)
        excluded = reaching & (ids != last) & ~spared
        left = torch.where(excluded, 0.0, log_probs.exp()).sum(-1, keepdim=True)
        # p' = p / left outside of the excluded.
        raised = math.log1p(-self.value) if self.value < 1 else -math.inf
        factor = torch.where(excluded, raised, ((1 - self.value) + self.value / left).log())
        mixed = torch.where(left < 1, log_probs + factor, log_probs)
        return Distribution(mixed.to(rows.logits.dtype))
