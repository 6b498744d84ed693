"""Answers against reference answers, and against each other."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_WORD = re.compile("[^a-z0-9]+")


def normalized(text: str) -> str:
    """A text without what does not matter in an answer.

    Lower case, without ASCII punctuation, without the words `a`, `an` and `the`, and with one space
    wherever there was white space; none at the ends.

    Source: the evaluation script of SQuAD, Rajpurkar et al. 2016.
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, references: str | Sequence[str]) -> bool:
    """Whether an answer equals one of its references (ValueError if there is none), normalised."""
    return normalized(answer) in map(normalized, _at_least_one(references))


def spoken(text: str) -> str:
    """A text as `contains` compares it: normalised, with `&` read as `and`."""
    return normalized(text.replace("&", " and "))


def contains(answer: str, references: str | Sequence[str]) -> bool:
    """Whether one of the references stands in an answer, both `spoken`, on word borders.

    "The capital of France is Paris." holds "Paris". It is fooled by a negation ("not Paris") and by
    a list of everything that could be meant.

    Raises:
        ValueError: there is no reference, or one has no word once it is normalised.
    """
    words = f" {spoken(answer)} "
    found = False
    for reference in _at_least_one(references):
        wanted = spoken(reference)
        if not wanted:
            raise ValueError(f"a reference must have a word that counts, got {reference!r}")
        found = found or f" {wanted} " in words
    return found


def f1(answer: str, references: str | Sequence[str]) -> float:
    """F1 of the words that an answer shares with a reference; of several references the best.

    F1 = 2·shared / (words of the answer + words of the reference), where both are normalised and a
    word counts as often as it occurs in both. Two texts without words have 1.

    Raises:
        ValueError: there is no reference.

    Source: the evaluation script of SQuAD 2.0, Rajpurkar et al. 2018.
    """
    words = Counter(normalized(answer).split())
    shares = []
    for reference in _at_least_one(references):
        other = Counter(normalized(reference).split())
        total = words.total() + other.total()
        shares.append(2 * (words & other).total() / total if total else 1.0)
    return max(shares)


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L: F-measure of the longest common subsequence of two texts' words.

    F = 2·LCS / (words of one + words of the other). Words are runs of the letters a–z and the
    digits 0–9, in lower case; those of more than three characters are cut down to their stems.
    A text without words has 0, also with itself: of a script other than Latin nothing counts.

    Source: Lin 2004, *ROUGE: A Package for Automatic Evaluation of Summaries*; words and stems as
        in the package `rouge_score` with `use_stemmer=True`.
    """
    return _rouge_l(_words(one), _words(other))


def lexical_similarity(texts: Sequence[str]) -> float | None:
    """Mean ROUGE-L over all pairs of texts, equal ones included; None of fewer than two texts.

    Source: Fomicheva et al. 2020, *Unsupervised Quality Estimation for Neural Machine Translation*.
        LM-Polygraph's `LexicalSimilarity_rougeL` is its negative.
    """
    words = [_words(text) for text in texts]
    similarities = [_rouge_l(one, other) for one, other in combinations(words, 2)]
    return math.fsum(similarities) / len(similarities) if similarities else None


def distinct(texts: Sequence[str]) -> list[int]:
    """The class of each text, counted from 0 as they first occur; texts that are equal once
    normalised are of one class."""
    labels: dict[str, int] = {}
    return [labels.setdefault(normalized(text), len(labels)) for text in texts]


def prefers_correct(correct: Sequence[float], incorrect: Sequence[float]) -> bool:
    """Whether the likeliest of the correct answers is likelier than every incorrect one (MC1).

    Args:
        correct: log p(answer | question) of each correct answer, nats.
        incorrect: the same of each incorrect one.

    Raises:
        ValueError: one of them is empty.

    Source: Lin et al. 2022, *TruthfulQA*, whose MC1 has one correct answer to a question.
    """
    _both(correct, incorrect)
    return max(correct) > max(incorrect)


def correct_share(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Share of the correct answers in the probability of all the answers given (MC2).

    Σ p(correct) / (Σ p(correct) + Σ p(incorrect)), computed by log-sum-exp.

    Args:
        correct: log p(answer | question) of each correct answer, nats.
        incorrect: the same of each incorrect one.

    Raises:
        ValueError: one of them is empty, or every answer has probability 0.

    Source: Lin et al. 2022, *TruthfulQA*.
    """
    _both(correct, incorrect)
    highest = max(*correct, *incorrect)
    if highest == -math.inf:
        raise ValueError("correct and incorrect must hold an answer of positive probability")
    right, wrong = (
        math.fsum(math.exp(value - highest) for value in values) for values in (correct, incorrect)
    )
    return right / (right + wrong)


def _both(correct: Sequence[float], incorrect: Sequence[float]) -> None:
    if not correct or not incorrect:
        raise ValueError(
            "correct and incorrect must hold at least one answer each, "
            f"got {len(correct)} and {len(incorrect)}"
        )


def _at_least_one(references: str | Sequence[str]) -> Sequence[str]:
    if isinstance(references, str):
        return [references]
    if not references:
        raise ValueError("references must hold at least one text, got none")
    return references


def _words(text: str) -> list[str]:
    """The words as ROUGE counts them."""
    return [
        _stemmer()(word) if len(word) > 3 else word for word in _NO_WORD.split(text.lower()) if word
    ]


@cache
def _stemmer() -> Callable[[str], str]:
    # A second that only those pay who compare answers.
    from nltk.stem.porter import PorterStemmer

    return cache(PorterStemmer().stem)


def _rouge_l(one: list[str], other: list[str]) -> float:
    if not one or not other:
        return 0.0
    return 2 * _common_subsequence(one, other) / (len(one) + len(other))


def _common_subsequence(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time.

    Bit i of `row` is 0 where the table's row rises at place i, so one addition of long integers
    does what a loop over the places would.

    Source: Hyyrö 2004, *Bit-parallel LCS-length computation revisited*.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << index
    every = (1 << len(one)) - 1
    row = every
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & every
    return len(one) - row.bit_count()
