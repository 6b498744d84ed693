"""Epistemic uncertainty: what members of an ensemble, or phrasings of a prompt, disagree about.

Prompts and continuations are token ids, as `decoding.generate` reads and writes them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from decoding.information.ensembles import Mixture
from decoding.models.devices import input_device
from decoding.models.limits import positions
from decoding.models.loading import LanguageModel, check_vocabularies
from decoding.passes.caches import Reader
from decoding.passes.probing import check_causal
from decoding_evals.showing.result import Floats, by_key

Ids = Sequence[int]
Member = Callable[[Ids, Ids], Tensor]
"""Gives the logits that `continuation_logits` describes, of one member of an ensemble."""

PROBE = [0] * 8
NAMES = ("total_nats", "aleatoric_nats", "mutual_information_nats")


@dataclass(frozen=True)
class EpistemicUncertainty:
    """How uncertain members are together, at the next token and along a shared continuation.

    At each position `total = aleatoric + mutual information`; row 0 is the next token's. Columns
    are `(max(1, tokens),)`, nats.
    """

    members: int
    ids: tuple[int, ...]
    """The continuation that every member read; empty where there was none."""
    total_nats: Floats
    """Entropy of the members' mean distribution."""
    aleatoric_nats: Floats
    """Mean entropy of the members' distributions."""
    mutual_information_nats: Floats
    """Between token and member, in [0, ln members]."""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON: of the next token, and sums along the continuation, or None."""
        rows = by_key({name: getattr(self, name).tolist() for name in NAMES})
        continuation = None
        if self.ids:
            sums = {name: math.fsum(row[name] for row in rows) for name in NAMES}
            information = sums["mutual_information_nats"]
            continuation = {
                "tokens": len(self.ids),
                **sums,
                "mean_mutual_information_nats": information / len(self.ids),
                "per_token": [{"id": id_, **row} for id_, row in zip(self.ids, rows, strict=True)],
            }
        return {"members": self.members, "next_token": rows[0], "continuation": continuation}


def ensemble_uncertainty(
    members: Iterable[Member], context_ids: Ids, ids: Ids = ()
) -> EpistemicUncertainty:
    """What the members of an ensemble disagree about after a prompt.

    Members have equal weights at each position, also where one of them finds the tokens before it
    less likely; the sum along a continuation is then the chain rule's, with a new mixture at each
    token. Members run one after the other: memory is one vocabulary row a position.

    Args:
        members: at least two, from `checkpoint_members` or `dropout_members`; taken lazily.
        context_ids: the prompt, at least one id.
        ids: the continuation, the same for all.

    Raises:
        ValueError: fewer than two members, vocabularies of different sizes, or no room for prompt
            and continuation.

    Source: Malinin & Gales 2021, arXiv:2002.07650 (mixture per token, "product of expectations").
    """
    return _mixed((member(context_ids, ids) for member in members), ids)


def paraphrase_uncertainty(
    language_model: LanguageModel, contexts: Iterable[Ids], ids: Ids = ()
) -> EpistemicUncertainty:
    """How much the answer depends on the phrasing of the prompt: the phrasings are the members.

    Args:
        language_model: from `load_model`.
        contexts: at least two phrasings, each encoded alone, as `encode_prompt` does.
        ids: the answer, the same for all.

    Raises:
        ValueError: fewer than two phrasings, or no room for a phrasing and the answer.
    """
    model = language_model.model
    reader = Reader(model)
    return _mixed((_evaluated(model, context, ids, reader) for context in contexts), ids)


def checkpoint_members(language_models: Sequence[LanguageModel]) -> list[Member]:
    """At least two checkpoints with one and the same vocabulary, as members of an ensemble.

    Raises:
        ValueError: fewer than two, or different vocabularies; the message names a difference.
    """
    if len(language_models) < 2:
        raise ValueError(f"members must be at least 2, got {len(language_models)}")
    first, *others = language_models
    for other in others:
        check_vocabularies(first, other)
    return [partial(_evaluated, each.model) for each in language_models]


def dropout_members(language_model: LanguageModel, count: int, *, seed: int = 0) -> list[Member]:
    """Monte Carlo dropout: passes of one model with dropout on, as members of an ensemble.

    A member is a function of (seed, its number, ids): it draws the same masks whenever it reads
    ids of the same number, and masks differ from position to position. The model is left as it
    was found, and torch's random state too.

    Args:
        language_model: a model that was trained with dropout.
        count: passes, >= 2.
        seed: 0 <= seed < 2^64.

    Raises:
        ValueError: `count` or `seed` is out of its range, or the model's dropout is 0.

    Source: Gal & Ghahramani 2016, arXiv:1506.02142.
    """
    if count < 2:
        raise ValueError(f"mc_dropout must be at least 2 passes, got {count}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")
    model = language_model.model

    def member(own: int, context_ids: Ids, ids: Ids) -> Tensor:
        with _dropping(model, own):
            return continuation_logits(model, context_ids, ids)

    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**63 - 1, (count,), generator=generator)
    members: list[Member] = [partial(member, own) for own in seeds.tolist()]
    # Tried out, because configurations name their dropouts in many ways, and name some unused ones.
    one, other = (each(PROBE, PROBE) for each in members[:2])
    if torch.equal(one, other):
        raise ValueError(
            f"mc_dropout needs a model with dropout: that of {language_model.name!r} is 0, so "
            "every pass would be the same"
        )
    return members


@torch.no_grad()
def continuation_logits(
    model: PreTrainedModel, context_ids: Ids, ids: Ids = (), reader: Reader | None = None
) -> Tensor:
    """The logits that predict each token of a continuation, from one pass over it.

    Args:
        model: a causal language model, in whatever mode it is.
        context_ids: what stands before, at least one id.
        ids: the continuation; where it is empty, the row of the next token alone is given.
        reader: of the model, which keeps what it has read for the next pass.

    Returns:
        `(max(1, tokens), vocab)` in the model's dtype; row i follows `ids[:i]`.

    Raises:
        ValueError: no context, or more tokens than the model has positions.
    """
    read = [*context_ids, *ids[:-1]]
    if not len(context_ids):
        raise ValueError("context_ids must hold at least one id, got none")
    limit = positions(model)
    if limit is not None and len(read) > limit:
        raise ValueError(
            f"prompt and continuation must fit the model's {limit} positions, got {len(read)} "
            "tokens to read"
        )
    rows = max(1, len(ids))
    if reader is not None:
        return reader.last_logits(read, rows)
    inputs = torch.tensor([read], device=input_device(model))
    arguments: dict[str, Any] = {"attention_mask": torch.ones_like(inputs), "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        arguments["logits_to_keep"] = rows
    logits: Tensor = model(input_ids=inputs, **arguments).logits
    return logits[0, -rows:]


def _evaluated(
    model: PreTrainedModel, context_ids: Ids, ids: Ids, reader: Reader | None = None
) -> Tensor:
    if model.training:
        raise ValueError("model must be in evaluation mode: call model.eval() first")
    check_causal(model)
    return continuation_logits(model, context_ids, ids, reader)


def _mixed(logits: Iterable[Tensor], ids: Ids) -> EpistemicUncertainty:
    mixture = Mixture()
    for rows in logits:
        mixture.add(rows)
    columns = [column.cpu().numpy() for column in mixture.uncertainty()]
    return EpistemicUncertainty(mixture.members, tuple(map(int, ids)), *columns)


@contextmanager
def _dropping(model: PreTrainedModel, seed: int) -> Iterator[None]:
    """Training mode with random numbers of its own for the time of a pass."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {input_device(model), *(weight.device for weight in model.parameters())}
    cuda = [device for device in devices if device.type == "cuda"]
    model.train()
    try:
        with torch.random.fork_rng(cuda):
            # Not `torch.manual_seed`, which would seed every other device as well.
            torch.default_generator.manual_seed(seed)
            for device in cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        for module, training in modes:
            module.training = training
