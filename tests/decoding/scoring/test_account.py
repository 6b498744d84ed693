"""What stands in front of a document, and where every token of it went."""

import pytest

from decoding.models.loading import LanguageModel
from decoding.scoring.account import Account
from decoding.scoring.teacher_forcing import Document, TeacherForcing
from decoding.scoring.windows import Windows
from forcing import (
    SHORT,
    WORDS,
    assert_same,
    assert_scored,
    measure,
    placed,
    reference,
    scan,
    words,
)


@pytest.mark.parametrize("text", ["a b c d", "<eos> a b", "<eos>", "<eos> <eos> c", "a", ""])
@pytest.mark.parametrize("bos", ["auto", "always", "never"])
@pytest.mark.parametrize("special", [{"bos_token": "<eos>"}, {"eos_token": "<eos>"}, {}], ids=str)
def test_what_stands_in_front(toy_llama, text, bos, special):
    model = LanguageModel(toy_llama, words(**special), "toy")
    if not special and bos == "always":
        with pytest.raises(ValueError, match="neither BOS nor EOS"):
            TeacherForcing(model, Windows(bos=bos))
        return
    ids = [WORDS.index(word) for word in text.split()]
    front = bool(special) and bos != "never" and bool(ids)
    if front and bos == "auto" and ids[:1] == [0]:
        ids = ids[1:]
    forcing = TeacherForcing(model, Windows(bos=bos))
    found = scan(forcing, [Document(text)]).get(0, {})
    sequence = [0] * front + ids
    rows = reference(toy_llama, sequence, 64, 32)
    assert_scored(found, rows, sequence, front)
    account = forcing.account
    assert (account.bos_tokens, account.tokens) == (front, len(ids))
    assert account.tokens_scored == len(found)
    assert account.documents_skipped == (not found)
    # A first token that nothing predicts is read where another follows it.
    assert account.tokens_context_only == (not front and len(ids) > 1)
    assert account.tokens_skipped == (not front and len(ids) == 1)


def test_bos_comes_before_eos_where_there_are_both(stories260k):
    assert TeacherForcing(stories260k).front == [1]
    assert TeacherForcing(stories260k, Windows(bos="never")).front == []


def test_bos_in_the_text_is_read_once(stories260k):
    plain = scan(TeacherForcing(stories260k), [Document("Once upon a time")])
    # Without a space: `<s>` takes the place of the start of the text.
    forcing = TeacherForcing(stories260k)
    assert_same(scan(forcing, [Document("<s>Once upon a time")]), plain)
    assert (forcing.account.bos_tokens, forcing.account.tokens) == (1, len(plain[0]))
    segments = []
    forcing = TeacherForcing(stories260k)
    documents = [Document("<s>Once upon a time")]
    list(forcing.scan(documents, measure, lambda _, segment: segments.append(segment)))
    assert [(s.text, s.start) for s in segments] == [("Once upon a time", 3)]


def test_a_text_without_tokens_takes_none_of_the_prompt_s(toy_words):
    forcing = TeacherForcing(toy_words)
    assert scan(forcing, [Document(" ", "a b c")]) == {}
    assert forcing.account.documents_skipped == 1


@pytest.mark.parametrize("bos", ["auto", "never"])
@pytest.mark.parametrize(("context", "stride"), [(1, 1), (5, 1), (5, 3), (5, 5), (64, 32)])
def test_the_account_says_where_every_token_is(toy_words, bos, context, stride):
    documents = [Document(text) for text in SHORT]
    documents += [Document(text, "a b c d e f g h i j k l ") for text in SHORT if text != " "]
    forcing = TeacherForcing(
        toy_words, Windows(context=context, stride=stride, bos=bos, batch_size=3)
    )
    found = scan(forcing, documents)
    want = Account(documents=len(documents))
    front = bos == "auto"
    for index, (text, prompt) in enumerate(documents):
        ids = [WORDS.index(word) for word in ((prompt or "") + text).split()]
        # This tokenizer puts nothing before a prompt; a text without one begins with BOS.
        has_bos = front and prompt is None and bool(text)
        first = len((prompt or "").split()) + has_bos
        windows = placed(has_bos + len(ids), context, stride, first)
        scored = {target - has_bos for _, targets in windows for target in targets}
        read = {i - has_bos for begin, targets in windows for i in range(begin, targets[-1])}
        assert set(found.get(index, {})) == scored
        want.documents_skipped += not windows
        want.windows += len(windows)
        want.bos_tokens += has_bos
        want.tokens += len(ids)
        want.tokens_scored += len(scored)
        want.tokens_context_only += len(set(range(len(ids))) & read - scored)
        want.tokens_skipped += len(set(range(len(ids))) - read - scored)
    assert forcing.account == want
    forcing.account.check()


@pytest.mark.parametrize(
    "name", ["tokens", "tokens_scored", "tokens_context_only", "tokens_skipped"]
)
def test_an_account_that_does_not_add_up_is_refused(toy_words, name):
    forcing = TeacherForcing(toy_words, Windows(context=4, stride=2))
    scan(forcing, [Document("c d", "a b "), Document("")])
    forcing.account.check()
    setattr(forcing.account, name, getattr(forcing.account, name) + 1)
    with pytest.raises(RuntimeError, match=r"skipped tokens are not the .* encoded"):
        forcing.account.check()


def test_a_run_fails_where_the_account_does_not_add_up(toy_words):
    class Leaky(TeacherForcing):
        def windows(self, documents, on_segment=None):
            for window in super().windows(documents, on_segment):
                if window.document != 1:
                    yield window

    with pytest.raises(RuntimeError, match=r"6 scored .* are not the 8 encoded"):
        scan(Leaky(toy_words), [Document("a b c"), Document("d e"), Document("f g h")])


def test_a_rule_that_scores_a_token_twice_is_refused(toy_words):
    class Twice(TeacherForcing):
        def cut(self, *args, **kwargs):
            for window in super().cut(*args, **kwargs):
                yield from (window, window)

    with pytest.raises(RuntimeError, match="document 1 would score token 0 twice"):
        scan(Twice(toy_words), [Document(""), Document("d e")])
