"""What a model says of the tokens of rollouts, by teacher forcing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from decoding.models.limits import positions
from decoding.rows.arrays import as_tensor
from decoding.rows.distribution import Distribution
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.applying import kept_mass
from decoding.settings.settings import DecodingSettings
from decoding_evals.engines.rollouts import Rollout
from decoding_evals.showing.result import Floats

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding.scoring.blocks import LogitBlock
    from decoding.settings.policy import Setting

Columns = list[dict[str, Floats]]
"""Of each rollout, `(tokens,)` by name; NaN where a token has nothing before it to follow."""
Measure = Callable[["LogitBlock"], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Recomputing:
    """How rollouts are read.

    Args:
        language_model: that reads them.
        batch_size: sequences that run together.
    """

    language_model: LanguageModel
    batch_size: int = 8

    def measured(self, rollouts: Sequence[Rollout], measure: Measure) -> Columns:
        """Columns of `measure` at every token of every rollout.

        Raises:
            ValueError: a rollout is longer than the model's positions, or has an id that it lacks.
        """
        model = self.language_model.model
        limit = positions(model)
        longest = max((len(one.prompt_ids) + len(one.ids) for one in rollouts), default=1)
        if limit is not None and longest > limit:
            raise ValueError(
                f"a rollout of {longest:,} tokens does not fit into the {limit:,} positions of "
                f"{self.language_model.name!r}"
            )
        windows = Windows(context=longest, bos="never", batch_size=self.batch_size)
        run = TeacherForcing(self.language_model, windows)
        found: Columns = [{} for _ in rollouts]
        documents = (TokenDocument(one.ids, one.prompt_ids) for one in rollouts)
        for window, columns in run.scan(documents, measure):
            lacking = len(rollouts[window.document].ids) - len(window.targets)
            found[window.document] = {
                name: np.concatenate([np.full(lacking, np.nan), values])
                for name, values in columns.items()
            }
        return found


EDGE = 1e-5
"""Relative size of what rounding changes of a threshold: a token that is so near to it may fall on
either side, in each engine on its own."""


def at_edges(setting: Setting) -> Measure:
    """`looser` and `tighter`: log q where thresholds are moved by as much as rounding may."""
    assert isinstance(setting, DecodingSettings)
    sides = {"looser": under(setting.looser(EDGE)), "tighter": under(setting.looser(-EDGE))}
    return lambda block: {name: measure(block)["log_q"] for name, measure in sides.items()}


def has_edges(setting: Setting) -> bool:
    """Whether a setting has thresholds that rounding may decide."""
    return isinstance(setting, DecodingSettings) and setting.looser(EDGE) != setting


def under(setting: Setting) -> Measure:
    """`log_q`, `log_p` and `log_kept_mass`, nats, of each token under a setting."""
    follower = Follower([setting])

    def measure(block: LogitBlock) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {"log_q": [], "log_p": [], "log_kept_mass": []}
        for row in range(len(block.targets)):
            [applied] = follower.row(block, row)
            raw = Distribution(block.logits[row : row + 1])
            token = block.targets[row : row + 1]
            found["log_q"].append(as_tensor(applied.final.log_prob(token)))
            found["log_p"].append(as_tensor(raw.log_prob(token)))
            found["log_kept_mass"].append(as_tensor(kept_mass(applied)).log())
        return {name: torch.cat(values) for name, values in found.items()}

    return measure


def logits_of(rollouts: Recomputing, chosen: Sequence[Rollout]) -> Iterator[Tensor]:
    """The rows of logits of some rollouts, `(tokens, vocab)` for each, all in memory."""
    held: list[Tensor] = []

    def keep(block: LogitBlock) -> dict[str, Tensor]:
        held.append(block.logits.float().cpu())
        first = sum(map(len, held[:-1]))
        return {"place": torch.arange(first, first + len(block.targets))}

    columns = rollouts.measured(chosen, keep)
    rows = torch.cat(held) if held else torch.empty(0, 1)
    for one in columns:
        places = one["place"]
        yield rows[torch.from_numpy(places[~np.isnan(places)]).long()]
