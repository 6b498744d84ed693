"""Answers: hand-computed cases, and definitions written anew."""

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding_evals.judging.answers import (
    contains,
    correct_share,
    distinct,
    exact_match,
    f1,
    lexical_similarity,
    normalized,
    prefers_correct,
    rouge_l,
)

words = st.lists(st.sampled_from(["tim", "ran", "dog", "far", "7"]), max_size=9)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  an  apple,\na\tday. ", "apple day"),
        ("theatre, Athena & another", "theatre athena another"),
        ("U.S.A.", "usa"),
        ("a.b the", "ab"),
        ("don't", "dont"),
        ("The", ""),
        ("", ""),
        ("“Œuvre”", "“œuvre”"),
    ],
)
def test_normalized_by_hand(text, want):
    assert normalized(text) == want


@given(st.text())
def test_normalized_once_is_lower_case_words_with_single_spaces(text):
    got = normalized(text)
    assert got == got.strip() and "  " not in got
    assert not re.search(r"[!-/:-@\[-`{-~]", got)
    assert not {"a", "an", "the"} & set(re.findall(r"\w+", got))


def test_exact_match_takes_any_reference():
    assert exact_match("the Moon.", ["a star", "MOON"])
    assert exact_match("the Moon.", "moon")
    assert not exact_match("the moon", ["moonlight", "two moons"])
    # Letters of one text are not references.
    assert not exact_match("m", "moon")


def test_f1_by_hand():
    # Shares {red, red} of 3 and 4 words.
    assert f1("red red car", "a red, red big dog") == pytest.approx(2 * 2 / (3 + 4))
    assert f1("red car", ["blue", "the car", "x red car y"]) == pytest.approx(
        max(0, 2 / 3, 2 * 2 / 6)
    )
    assert f1("", "word") == f1("word", "the") == 0
    assert f1("the", "") == 1


@given(words, words)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(one, other):
    rest, shared = [*other], 0
    for word in one:
        if word in rest:
            rest.remove(word)
            shared += 1
    got = f1(" ".join(one), " ".join(other))
    if not shared:
        assert got == (one == other == [])
    else:
        precision, recall = shared / len(one), shared / len(other)
        assert got == pytest.approx(2 * precision * recall / (precision + recall))


def longest_common(one, other):
    """The longest common subsequence, from all subsequences."""
    for size in range(min(len(one), len(other)), 0, -1):
        if set(itertools.combinations(one, size)) & set(itertools.combinations(other, size)):
            return size
    return 0


@given(words, words)
def test_rouge_l_from_all_subsequences(one, other):
    got = rouge_l(" ".join(one), ", ".join(other).upper())
    length = longest_common(one, other)
    if not length:
        assert got == 0
    else:
        precision, recall = length / len(one), length / len(other)
        assert got == pytest.approx(2 * precision * recall / (precision + recall))
    assert got == rouge_l(" ".join(other), " ".join(one))


def test_rouge_l_of_texts_longer_than_a_machine_word():
    one = [f"w{i}" for i in range(300)]
    other = [f"w{i}" for i in range(0, 300, 3)]
    assert rouge_l(" ".join(one), " ".join(other)) == pytest.approx(2 * 100 / 400)
    # Backwards, any two words stand in the wrong order.
    assert rouge_l(" ".join(one), " ".join(reversed(other))) == pytest.approx(2 * 1 / 400)


def test_rouge_l_stems_words_of_more_than_three_letters():
    # LCS: he walk to the hous.
    assert rouge_l("He walks to the houses.", "he walked to the house") == 1
    assert rouge_l("dogs", "dog") == 1
    assert rouge_l("was", "wa") == 0
    assert rouge_l("it's", "it is") == pytest.approx(2 * 1 / 4)
    assert rouge_l("", "") == rouge_l("…", "…") == rouge_l("дом", "дом") == 0
    # Other letters end a word.
    assert rouge_l("naïve", "na ve") == 1


def test_lexical_similarity_is_the_mean_of_all_pairs():
    texts = ["the dog ran", "the dog sat", "a cat", "The dog ran!"]
    pairs = [2 * 2 / 6, 0, 1, 0, 2 * 2 / 6, 0]
    assert lexical_similarity(texts) == pytest.approx(sum(pairs) / 6)
    assert lexical_similarity(["same"] * 5) == 1
    assert lexical_similarity(["", "", ""]) == 0
    assert lexical_similarity(["alone"]) is None
    assert lexical_similarity([]) is None


def test_distinct_counts_classes_in_their_order():
    assert distinct(["Yes.", "no", "yes", "The no", "", "the", "Maybe"]) == [0, 1, 0, 1, 2, 2, 3]
    assert distinct([]) == []


def test_likelihood_of_correct_over_incorrect():
    assert prefers_correct([-5.0, -1.0], [-2.0, -3.0])
    assert not prefers_correct([-2.0], [-2.0])
    want = (0.3 + 0.1) / (0.3 + 0.1 + 0.2)
    got = correct_share([math.log(0.3), math.log(0.1)], [math.log(0.2), -math.inf])
    assert got == pytest.approx(want)
    # Probabilities that no double can hold.
    assert correct_share([-2000.0], [-2000.0 + math.log(3)]) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_match("x", []), "references must hold at least one text, got none"),
        (lambda: f1("x", []), "references must hold at least one text, got none"),
        (lambda: prefers_correct([], [-1.0]), "at least one answer each, got 0 and 1"),
        (lambda: correct_share([-1.0], []), "at least one answer each, got 1 and 0"),
        (lambda: correct_share([-math.inf], [-math.inf]), "an answer of positive probability"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Whether a reference stands in an answer.


@pytest.mark.parametrize(
    ("answer", "references", "right"),
    [
        ("The capital of France is Paris.", ["Paris"], True),
        ("… in the Gospel of Matthew", ["in the Gospel of Luke"], False),
        ("It is parisian.", ["Paris"], False),  # a word is not a part of a word
        ("He was born in 1984, in York", ["1984"], True),
        ("19845", ["1984"], False),
        ("New\n  York City", ["new york"], True),
        ("York, the new", ["new york"], False),
        ("A U.S. senator", ["US"], True),
        ("", ["Paris"], False),
        ("London or Paris", ["Rome", "paris"], True),
        ("Não é Lisboa.", ["lisboa"], True),
        ("It's marley and me.", ["Marley & Me"], True),
        ("Marks&Spencer", ["marks and spencer"], True),
        ("Marley, me", ["Marley & Me"], False),
        ("It is not Paris.", ["Paris"], True),  # known to fool it
    ],
)
def test_a_reference_stands_in_an_answer_on_word_borders(answer, references, right):
    assert contains(answer, references) is right
    words = normalized(re.sub("&", " and ", answer)).split()
    wanted = [normalized(re.sub("&", " and ", one)).split() for one in references]
    windows = {tuple(words[i : i + n]) for n in map(len, wanted) for i in range(len(words))}
    assert right == any(tuple(one) in windows for one in wanted)


@pytest.mark.parametrize("reference", ["the", "", "...", "A"])
def test_a_reference_without_words_is_refused(reference):
    with pytest.raises(ValueError, match="a reference must have a word that counts, got "):
        contains("the answer", ["Paris", reference])
