"""The sequences of a run: one job for each, in the order of prompts and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from decoding.texts.chats import Prompt

MOST_TOGETHER = 1 << 31
"""Rows of a batch, beyond all memory."""


@dataclass(frozen=True)
class Job:
    """One sequence to be written; with beams, one prompt."""

    index: int
    sample: int
    prompt: Prompt
    ids: list[int]
    """What the model reads first."""
    written: int = 0
    """How many of them are continuation already, at the end."""
    greedy: bool = False
    """Whether it takes the likeliest token at each step, whatever the setting."""


def jobs_of(
    prompts: Iterable[tuple[Prompt, list[int]]], samples: int, *, beams: bool, greedy_too: bool
) -> Iterator[Job]:
    """One job per sequence; with beams, one per prompt. A greedy one is sample -1.

    Args:
        prompts: with the ids that the model reads of each.
        samples: of each prompt; one that occurs again goes on counting.
        beams: whether one job gives all of them.
        greedy_too: whether each prompt is also continued greedily.
    """
    counts: Counter[Prompt] = Counter()
    per_job = samples if beams else 1
    for index, (prompt, ids) in enumerate(prompts):
        if greedy_too:
            yield Job(index, -1, prompt, ids, greedy=True)
        for _ in range(0, samples, per_job):
            yield Job(index, counts[prompt], prompt, ids)
            counts[prompt] += per_job


def chunks(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """So many jobs at a time."""
    left = iter(jobs)
    while chunk := list(islice(left, min(size, MOST_TOGETHER))):
        yield chunk


def told(jobs: Iterable[Job]) -> Iterator[object]:
    """What tells jobs from others, for a journal."""
    return ((job.index, job.sample, job.prompt, job.ids) for job in jobs)
