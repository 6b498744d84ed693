"""What `decoding generate` shows: prompts with shaded tokens, and the totals."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.text import Text

from decoding_evals.showing.flow import Flow
from decoding_evals.showing.lines import harmless, note
from decoding_evals.showing.terminal import console, counted, legend, shaded

if TYPE_CHECKING:
    from decoding.generation.result import Generation, StreamedToken

ENDED_BY_POLICY = {"entropy": "stopped at a hesitation", "abstain": "abstained"}


class Screen:
    """Prompts and shaded tokens on standard output.

    Args:
        prompts: the prompts.
        color: shade tokens by entropy.
        streaming: whether tokens come one by one.
        chat: whether they are answers, which begin on a line of their own.
    """

    def __init__(self, prompts: list[str], *, color: bool, streaming: bool, chat: bool) -> None:
        self.console = console(color)
        self.flow = Flow(self.console)
        self.prompts = prompts
        self.streaming = streaming
        self.chat = chat
        self.current: tuple[int, int] | None = None
        self.shown = 0

    def begin(self, index: int, sample: int) -> None:
        """Write the prompt of a sequence, once."""
        if self.current == (index, sample):
            return
        if self.current is not None:
            self.flow.end_line()
        self.current = (index, sample)
        self.shown = 0
        self.flow.write(Text(harmless(self.prompts[index]), style="bold"))
        if self.chat:
            self.flow.end_line()

    def token(self, token: StreamedToken) -> None:
        """Write a token as it is drawn."""
        self.begin(token.index, token.sample)
        self.piece(token.text, token.entropy_nats)
        self.console.file.flush()

    def piece(self, text: str, entropy_nats: float) -> None:
        """Write a part of a sequence."""
        self.flow.write(shaded(text, entropy_nats))
        self.shown += len(text)

    def finished(self, generation: Generation) -> None:
        """Write what has not been streamed of a sequence."""
        self.begin(generation.index, generation.sample)
        trace = generation.trace
        if self.streaming:
            left = generation.text[self.shown :]
            if left:
                self.piece(left, float(trace.entropy_nats[-1]))
        else:
            for text, entropy in zip(trace.texts or (), trace.entropy_nats.tolist(), strict=True):
                self.piece(text, entropy)
        if generation.finish_reason in ENDED_BY_POLICY:
            self.flow.write(Text(f" ({ENDED_BY_POLICY[generation.finish_reason]})", style="dim"))
        self.flow.end_line()


class Progress:
    """Counts finished sequences, for one line at the end."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.tokens = 0
        self.entropy_nats = 0.0
        self.raw_surprisal_nats = 0.0
        self.seed: int | None = None
        self.ended: Counter[str] = Counter()
        self.started = time.monotonic()

    def count(self, generation: Generation) -> None:
        """Add a finished sequence."""
        self.done += 1
        self.tokens += len(generation.trace)
        self.entropy_nats += float(generation.trace.entropy_nats.sum())
        self.raw_surprisal_nats += float(generation.trace.raw_surprisal_nats.sum())
        self.seed = generation.seed
        self.ended[generation.finish_reason] += 1

    def notes(self) -> None:
        """What a policy ended, on stderr: in a pipe an abstention is an empty line."""
        for reason, words in ENDED_BY_POLICY.items():
            if self.ended[reason]:
                note(f"{self.ended[reason]} of {self.done} {words}")

    def summary(self, color: bool, with_legend: bool) -> None:
        """One line on stderr, after the legend where tokens are shaded."""
        if not self.tokens:
            return
        elapsed = time.monotonic() - self.started
        err = console(color, stderr=True)
        err.print()
        if with_legend:
            err.print(legend())
        mean = self.entropy_nats / self.tokens
        perplexity = math.exp(min(709.0, self.raw_surprisal_nats / self.tokens))
        note(
            f"{counted(self.tokens, 'token')} · mean entropy {mean:.2f} nats "
            f"({math.exp(mean):.1f} effective choices) · raw perplexity {perplexity:.2f} · "
            f"{self.tokens / elapsed:.0f} tokens/s · seed {self.seed}"
        )
