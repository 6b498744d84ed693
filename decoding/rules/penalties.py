"""Rules that lower the logits of some tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from decoding.rules.rule import NOT_NEGATIVE, TOKENS, Field, Past, Penalty, Range, format_value
from decoding.rules.tokens import Tokens, marked

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.rows.distribution import Distribution

_LONGEST_MATCH = 50


class Dry(Penalty):
    """Lower the logit of a token that would repeat the last n tokens and go on as they did.

    It is lowered by `m·b^(n - L)` where n >= L, n being the length of the longest run of tokens at
    the end of the ids so far that stood before an earlier occurrence of the token as well. Runs do
    not reach across breakers, breakers are never lowered, and runs of more than 50 tokens count as
    50. A breaker is an id, or a text for every token that contains it; in llama.cpp a text may
    span several tokens as well.
    """

    field, neutral, range, example = "dry_multiplier", 0.0, NOT_NEGATIVE, "0.8"
    says = (
        "lower by {value} · {dry_base}^(n - {dry_allowed_length}) the logit of a token that would "
        "repeat the last n >= {dry_allowed_length} tokens"
    )
    source = "p-e-w 2024, github.com/oobabooga/text-generation-webui/pull/5677, and llama.cpp"
    parameters = (
        Field("dry_base", 1.75, Range("a finite number >= 1", lambda v: 1 <= v < math.inf), "1.75"),
        Field("dry_allowed_length", 2, Range(">= 1", lambda v: v >= 1), "2"),
        Field("dry_breakers", (), TOKENS, r'13/"\n"'),
    )
    looks_back: ClassVar[str] = "ids"

    dry_base: float
    dry_allowed_length: int
    dry_breakers: Tokens

    def words(self, base: float = 1.0, **numbers: Any) -> str:
        breakers = f"; {format_value(self.dry_breakers)} break a repetition off"
        return super().words(base) + (breakers if self.dry_breakers else "")

    def apply(self, rows: Distribution, past: Past) -> Distribution:
        from decoding.rows.distribution import Distribution

        return Distribution(rows.logits - self.penalties(past, rows.vocab))

    def penalties(self, past: Past, vocab: int) -> Tensor:
        """What is taken off each token's logit, `(rows, vocab)`, >= 0, float32."""
        import torch

        ids = past.ids
        assert ids is not None
        rows, length = ids.shape
        penalties = torch.zeros(rows, vocab, device=ids.device)
        if length < 2:
            return penalties
        barred = marked("dry_breakers", self.dry_breakers, vocab, ids.device)[ids]
        usable = ~barred
        if past.starts is not None:
            usable = usable & (torch.arange(length, device=ids.device) >= past.starts[:, None])
        matched = _matched(ids, usable)
        # No match is longer than the longest, so a larger length allows them all.
        beyond = (matched - min(self.dry_allowed_length, _LONGEST_MATCH + 1)).double()
        size = math.log(self.value) + beyond * math.log(self.dry_base)
        # Beyond any logit's reach, and within float32's.
        size = size.clamp(max=math.log(1e30)).exp()
        size = torch.where((beyond >= 0) & ~barred[:, 1:], size, 0.0).float()
        return penalties.scatter_reduce_(-1, ids[:, 1:], size, "amax")


def _matched(ids: Tensor, usable: Tensor) -> Tensor:
    """`(rows, seq - 1)`, of each place but the first: how many tokens before it end the ids too."""
    import torch

    rows, length = ids.shape
    going_on = torch.ones(rows, length - 1, dtype=torch.bool, device=ids.device)
    matched = torch.zeros(rows, length - 1, dtype=torch.long, device=ids.device)
    for back in range(min(_LONGEST_MATCH, length - 1)):
        same = usable[:, : length - 1 - back] & (
            ids[:, : length - 1 - back] == ids[:, length - 1 - back, None]
        )
        going_on[:, back:] &= same
        going_on[:, :back] = False
        # On an accelerator a look would make the host wait.
        if ids.device.type == "cpu" and not bool(going_on.any()):
            break
        matched += going_on
    return matched
