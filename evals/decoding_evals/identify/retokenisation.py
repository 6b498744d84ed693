"""Could other tokens have written a text where a setting cuts one of its tokens off?

A tokenizer cuts a text in one way, and a model may have written it in another: "play", "ing" where
the tokenizer says "playing". The token "playing" can then lie outside the kept set of the very
setting that wrote the text.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from torch import Tensor

from decoding.models.loading import LanguageModel
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.applying import apply_settings
from decoding.settings.policy import Setting
from decoding.texts.detokenizing import spellings
from decoding_evals.showing.result import Integers

REACH, NEAR = 4, 1
"""How many tokens before a given one are looked at too, and how many of them weigh."""


class Retokenisation:
    """Looks for other tokens that a setting keeps, and that write the text at a given token.

    Such a token stands where the given one does, or up to `REACH` tokens before it: from there on
    the text may have been cut otherwise, and the model have read otherwise what stands before the
    given token. Its text is the text there, and it is not the token that the tokenizer put in its
    place. Neither whether the setting keeps what would have to follow is looked at, nor cuts still
    further back. Tokens that hold part of a character are not tried.

    Args:
        language_model: what the text is scored with.
        windows: how the texts are read; no BOS is added, as what stands in front is given.
    """

    def __init__(self, language_model: LanguageModel, windows: Windows) -> None:
        self._run = TeacherForcing(language_model, replace(windows, bos="never"))
        self._tokenizer = language_model.tokenizer

    def explained(
        self,
        text: str,
        ids: Integers,
        bounds: Integers,
        bos: Sequence[int],
        outside: Iterable[tuple[Setting, int]],
        first: int = 0,
    ) -> dict[tuple[Setting, int], float]:
        """The places where other tokens could have written the text.

        Args:
            text: the whole text.
            ids: `(n,)`, its tokens.
            bounds: `(n + 1,)`, where in the text each begins, and where the last ends.
            bos: what the model reads before them.
            outside: settings, and indices of tokens outside their kept sets.
            first: index of the first token that a model can have written.

        Returns:
            For those of `outside` that may be explained, the log probability that the setting
            writes the text with another token there or at the `NEAR` positions before, whichever
            is larger, nats; -∞ where only other tokens further back may explain them.
        """
        # At each position: who asks about which token, and what could stand there instead.
        questions: dict[int, list[tuple[Setting, int, list[int]]]] = defaultdict(list)
        for setting, place in outside:
            for position, others in self._alternatives(text, ids, bounds, place, first):
                questions[position].append((setting, place, others))
        if not questions:
            return {}
        begin, end = min(questions), max(questions) + 1
        asking = {setting for rows in questions.values() for setting, _, _ in rows}
        if any(setting.looks_back for setting in asking):
            begin = first
        followers = {
            setting: Follower([setting.for_tokenizer(self._tokenizer)]) for setting in asking
        }
        document = TokenDocument(ids[begin:end].tolist(), [*bos, *ids[:begin].tolist()])
        found: dict[tuple[Setting, int], float] = {}
        position = begin
        for block in self._run.blocks(self._run.windows([document])):
            asked: dict[Setting, list[tuple[int, int, list[int]]]] = {
                setting: [] for setting in asking
            }
            for row in range(len(block.targets)):
                for setting, place, others in questions.get(position + row, ()):
                    asked[setting].append((row, place, others))
            for setting, rows in asked.items():
                if not rows and not setting.looks_back:
                    continue
                log_q = _log_q(followers[setting], block, [row for row, _, _ in rows])
                for log_probs, (row, place, others) in zip(log_q, rows, strict=True):
                    mass = float(log_probs[others].logsumexp(-1))
                    if mass > -math.inf:
                        near = mass if position + row >= place - NEAR else -math.inf
                        found[setting, place] = max(near, found.get((setting, place), -math.inf))
            position += len(block.targets)
            del block  # before the next one is made
        return found

    def _alternatives(
        self, text: str, ids: Integers, bounds: Integers, place: int, first: int
    ) -> Iterable[tuple[int, list[int]]]:
        """Positions up to a token's, and the other tokens that write the text from there on."""
        spelt, by_text, longest = self._vocabulary
        for position in range(max(first, place - REACH), place + 1):
            # The first token of a text may have lost the space that it begins with.
            ahead = spelt[ids[position]] + text[bounds[position + 1] :][:longest]
            others = [
                other
                for length in range(1, min(longest, len(ahead)) + 1)
                for other in by_text.get(ahead[:length], ())
                if other != ids[position]
            ]
            if others:
                yield position, others

    @cached_property
    def _vocabulary(self) -> tuple[Sequence[str], dict[str, list[int]], int]:
        """The text of each token within a text, the tokens of each text, the longest length."""
        spelt = spellings(self._tokenizer)
        by_text: dict[str, list[int]] = defaultdict(list)
        for token, written in enumerate(spelt):
            if written and "\N{REPLACEMENT CHARACTER}" not in written:
                by_text[written].append(token)
        return spelt, dict(by_text), max(map(len, by_text), default=0)


def _log_q(follower: Follower, block: LogitBlock, rows: list[int]) -> Tensor:
    """log q of some rows of a block; one that looks back goes through all of them."""
    [setting] = follower.settings
    if setting.looks_back:
        return follower.logits(block)[rows].log_softmax(-1)
    return apply_settings(setting, block.logits[rows]).log_softmax(-1)
