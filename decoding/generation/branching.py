"""`branch`: a tree of alternatives, one fork at each point where the model hesitated.

Text is drawn under a setting until the entropy of the model's own distribution crosses a bound.
There it forks into the tokens that the setting thinks most probable, and each goes on by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch

from decoding.generation.jobs import Job
from decoding.generation.run import Run
from decoding.models.devices import input_device
from decoding.models.loading import LanguageModel, check_language_model
from decoding.passes.caches import Reader
from decoding.rows.arrays import as_tensor
from decoding.rows.distribution import Distribution
from decoding.sampling.seeds import chosen_seed
from decoding.sampling.stepping import evaluating
from decoding.settings.applying import History
from decoding.settings.policy import RAW, EntropyPolicy
from decoding.settings.settings import DecodingSettings
from decoding.texts.chats import Chat, Conversation, Prompt, as_chat, last_of
from decoding.texts.detokenizing import Detokenizer

DEEPEST = 200
"""Forks above an end, after which there are no more: deeper records cannot be read back."""


@dataclass
class Branch:
    """A stretch of text between two forks, or from a fork to an end."""

    probability: float
    """Of its first token under the setting, at the fork; 1 at the root."""
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """Text of each token."""
    entropy_nats: list[float] = field(default_factory=list)
    """H(q) at each token, nats; at the first one of a branch that of the fork."""
    hesitation_nats: float | None = None
    """H(p) of the model's own distribution at the fork behind it, or None at an end."""
    finish_reason: str | None = None
    """`eos`, `stop` or `length` at an end."""
    children: list[Branch] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What the stretch adds."""
        return "".join(self.texts)

    def leaves(self) -> Iterator[tuple[str, float]]:
        """Each whole text below here, and the product of its probabilities at the forks."""
        if not self.children:
            yield self.text, self.probability
        for child in self.children:
            for text, probability in child.leaves():
                yield self.text + text, self.probability * probability

    def record(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        tokens = zip(self.ids, self.texts, self.entropy_nats, strict=True)
        return {
            "probability": self.probability,
            "text": self.text,
            "tokens": [{"id": i, "text": t, "entropy_nats": h} for i, t, h in tokens],
            "hesitation_nats": self.hesitation_nats,
            "finish_reason": self.finish_reason,
            "children": [child.record() for child in self.children],
        }


@dataclass(frozen=True)
class Tree:
    """The alternatives found for one prompt."""

    prompt: str
    prompt_ids: tuple[int, ...]
    index: int
    """Position of the prompt in the input, from 0."""
    model: str
    settings: DecodingSettings
    entropy_above: float
    """The bound, nats."""
    branches: int
    seed: int
    root: Branch

    def record(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return {
            "prompt": self.prompt,
            "prompt_ids": list(self.prompt_ids),
            "index": self.index,
            "model": self.model,
            "settings": str(self.settings),
            "entropy_above_nats": self.entropy_above,
            "branches": self.branches,
            "seed": self.seed,
            "tree": self.root.record(),
            "leaves": [{"text": text, "probability": p} for text, p in self.root.leaves()],
        }


def branch(
    language_model: LanguageModel,
    prompt: Prompt,
    settings: DecodingSettings | str | None = None,
    *,
    entropy_above: float,
    branches: int = 3,
    max_leaves: int = 9,
    max_new_tokens: int = 100,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    chat: bool | Chat = False,
    index: int = 0,
) -> Tree:
    """Continue a prompt, and fork wherever the model hesitates.

    The text forks into the setting's most probable tokens, and each branch goes on by draws. Forks
    are made in the order of their depth until there are `max_leaves` ends; after that, and below
    `DEEPEST` forks, text is drawn without forks. Where the setting keeps a single token, there is
    no fork.

    Args:
        language_model: from `load_model`, or `LanguageModel(model, tokenizer)` around a pair of
            your own.
        prompt: the prompt.
        settings: what tokens are drawn under, and what ranks the alternatives, or its text form;
            default `raw`.
        entropy_above: nats; it forks where H(p) exceeds this.
        branches: >= 2, alternatives at a fork; fewer where the setting keeps fewer, or where there
            would be too many ends.
        max_leaves: ends of the tree, >= 1.
        max_new_tokens: >= 1, of each whole text.
        seed: 0 <= seed < 2^64; None picks one, which the tree reports.
        stop: strings that end a text when they appear in it.
        chat: put a text into the tokenizer's chat template as the user's message; as in `generate`.
        index: what the tree reports as its position.

    Raises:
        ValueError: an argument is out of its range, or as in `decoding.generate`.
    """
    check_language_model(language_model)
    for name, value, least in (
        ("branches", branches, 2),
        ("max_leaves", max_leaves, 1),
        ("max_new_tokens", max_new_tokens, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    policy = EntropyPolicy(
        settings=RAW if settings is None else settings,  # type: ignore[arg-type]  # or its text
        entropy_above=entropy_above,
        then="branch",
    )
    settings = policy.settings
    run = Run(
        language_model=language_model,
        settings=policy,
        reader=Reader(language_model.model),
        max_new_tokens=max_new_tokens,
        seed=chosen_seed(seed),
        stop=[stop] if isinstance(stop, str) else list(stop),
        chat=as_chat(chat) or (Chat() if isinstance(prompt, Conversation) else None),
    )
    run.check()
    acting = settings.for_tokenizer(run.tokenizer)
    prompt_ids = run.encode(prompt, index)
    run.keep(prompt_ids)
    root = Branch(1.0)
    open_ends: deque[tuple[Branch, list[int], int]] = deque([(root, prompt_ids, 0)])
    leaves, stretches = 1, count()
    while open_ends:
        node, path, depth = open_ends.popleft()
        most = min(branches, max_leaves - leaves + 1) if depth < DEEPEST else 1
        here = replace(run, settings=policy if most > 1 else settings)
        _grow(node, here, Job(0, 0, prompt, path, len(path) - len(prompt_ids)), stretches)
        if node.finish_reason is not None:
            continue
        before = [*path, *node.ids]
        children, hesitation = _fork(run, before, acting, most)
        if len(children) == 1:
            node.ids += children[0].ids
            node.entropy_nats += children[0].entropy_nats
            open_ends.appendleft((node, path, depth))
            continue
        node.children, node.hesitation_nats = children, hesitation
        leaves += len(children) - 1
        open_ends.extend((child, before, depth + 1) for child in children)
    _add_texts(root, Detokenizer(run.tokenizer, prompt_ids))
    return Tree(
        prompt=last_of(prompt),
        prompt_ids=tuple(prompt_ids),
        index=index,
        model=language_model.name,
        settings=settings,
        entropy_above=entropy_above,
        branches=branches,
        seed=run.seed,
        root=root,
    )


def _add_texts(root: Branch, detokenizer: Detokenizer) -> None:
    """Give each token its text; a character that a fork splits belongs to what is behind it."""
    waiting = [(root, detokenizer)]
    while waiting:
        node, own = waiting.pop()
        node.texts = [own.push(token) for token in node.ids]
        if node.texts and not node.children:
            node.texts[-1] += own.flush()
        waiting += [(child, own.fork()) for child in node.children]


def _grow(node: Branch, run: Run, job: Job, stretches: Iterator[int]) -> None:
    """Draw on behind a node's first token, to the next fork or the end.

    The job is what stands before the node. Each stretch has a number, and so uniforms of its own.
    """
    ids, written = [*job.ids, *node.ids], job.written + len(node.ids)
    left = run.max_new_tokens - written
    if written:
        node.finish_reason = run.ended(ids, len(ids) - written) or (None if left > 0 else "length")
    if node.finish_reason is not None:
        return
    job = Job(0, next(stretches), job.prompt, ids, written)
    [generation] = replace(run, max_new_tokens=left).batch([job])
    node.ids += generation.trace.ids.tolist()
    node.entropy_nats += generation.trace.entropy_nats.tolist()
    if generation.finish_reason != "branch":
        node.finish_reason = generation.finish_reason


def _fork(
    run: Run, path: list[int], settings: DecodingSettings, branches: int
) -> tuple[list[Branch], float]:
    """The alternatives behind the ids so far, most probable first, and H(p) there."""
    ids = torch.tensor([path], device=input_device(run.model))
    with evaluating(run.model), torch.no_grad():
        raw = Distribution(run.reader.last_logits(path, 1))
    final = settings.apply(raw, History(ids)).final
    log_weights = as_tensor(final.log_weights[0])
    order = log_weights.argsort(descending=True, stable=True)[:branches]
    probabilities = (log_weights[order].double() - as_tensor(final.log_total)).exp()
    probabilities = probabilities * (final.logits[0, order] > -torch.inf)
    alternatives = zip(order.tolist(), probabilities.tolist(), strict=True)
    entropy = float(final.entropy[0])
    children = [Branch(p, [token], entropy_nats=[entropy]) for token, p in alternatives if p > 0]
    return children, float(raw.entropy[0])
