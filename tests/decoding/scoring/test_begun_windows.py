"""`bos="every"`: every window begins with BOS, and every token is scored once all the same."""

import math

import pytest
import torch
from numpy.testing import assert_allclose

from decoding.scoring.answers import answered
from decoding.scoring.teacher_forcing import Document, TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding_evals.perplexity.evaluation import perplexity
from forcing import NATS, said, scan


def by_hand(model, front, ids, context, stride, first=0):
    """-log p of each token from `first` on, and how many windows there are: window k reads BOS and
    the context's rest of tokens from k·stride on; a token's is the first that predicts it."""
    room = context - len(front)
    found = {}
    windows = set()
    for target in range(first, len(ids)):
        k = max(0, math.ceil((target - room) / stride))
        windows.add(k)
        read = [*front, *ids[k * stride : target]]
        assert len(read) <= context
        with torch.no_grad():
            row = model(torch.tensor([read])).logits[0, -1].double()
        found[target] = float(-torch.log_softmax(row, -1)[ids[target]])
    return found, len(windows)


def assert_begun(language_model, documents, ids, context, stride, first=0):
    run = TeacherForcing(language_model, Windows(context, stride, "every", batch_size=3))
    found = scan(run, documents).get(0, {})
    want, windows = by_hand(language_model.model, run.front, ids, context, run.stride, first)
    assert list(found) == list(want)
    assert [values["id"] for values in found.values()] == ids[first:]
    surprisals = [values["surprisal"] for values in found.values()]
    assert_allclose(surprisals, list(want.values()), atol=NATS)
    account = run.account
    assert (account.windows, account.bos_tokens) == (windows, windows * len(run.front))
    assert account.tokens == len(ids) and account.tokens_scored == len(want)
    account.check()
    return account


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 11])
def test_every_token_stands_in_the_first_window_that_predicts_it(toy_words, length):
    ids = [1 + (3 * i) % 16 for i in range(length)]
    for context in range(2, 7):
        for stride in [None, *range(1, context)]:
            account = assert_begun(toy_words, [Document(said(ids))], ids, context, stride)
            assert account.tokens_context_only == account.tokens_skipped == 0


def test_a_text_within_one_window_is_scored_as_under_auto(toy_words):
    text = said([1, 2, 3, 4, 5])
    found = [scan(TeacherForcing(toy_words, Windows(bos=bos)), [Document(text)])
             for bos in ("every", "auto")]  # fmt: skip
    assert found[0] == found[1]


def test_bos_that_the_text_begins_with_is_not_read_twice(toy_words):
    for text in ("<eos> a b c d e f", "a b c d e f"):
        assert_begun(toy_words, [Document(text)], [1, 2, 3, 4, 5, 6], 4, 2)


@pytest.mark.parametrize("before", range(8))
def test_prompts_and_contexts_are_context_and_skipped_where_nobody_reads_them(toy_words, before):
    ids = [1 + (5 * i) % 16 for i in range(11)]
    for context, stride in ((3, 1), (4, 3), (6, 2), (20, 9)):
        document = TokenDocument(ids[before:], ids[:before])
        account = assert_begun(toy_words, [document], ids, context, stride, before)
        room = context - 1
        begin = max(0, math.ceil((before - room) / stride)) * stride
        assert account.tokens_skipped == min(begin, before)
        assert account.tokens_context_only == before - account.tokens_skipped
        begun = TokenDocument(ids[before:], [0, *ids[:before]])
        assert_begun(toy_words, [begun], ids, context, stride, before)
        if before:
            [encoded] = answered(
                toy_words.tokenizer, said(ids[:before]), [" " + said(ids[before:])]
            )
            assert_begun(toy_words, [encoded], ids, context, stride, before)


@pytest.mark.parametrize(
    ("windows", "says"),
    [
        (Windows(1, None, "every"), "context must be at least 2 where every window begins with"),
        (Windows(8, 8, "every"), "stride must be from 1 to 7, the context without its BOS, got 8"),
    ],
)
def test_no_window_may_miss_what_predicts_a_token(toy_words, windows, says):
    with pytest.raises(ValueError, match=says):
        TeacherForcing(toy_words, windows)


def test_perplexity_adds_up(toy_words):
    ids = [1 + (3 * i) % 16 for i in range(40)]
    result = perplexity(toy_words, [said(ids)], windows=Windows(8, 4, "every"))
    want, windows = by_hand(toy_words.model, [0], ids, 8, 4)
    assert result.nll_nats == pytest.approx(sum(want.values()) / 40, abs=NATS)
    assert (result.account.windows, result.account.bos_tokens) == (windows, windows)
    with pytest.raises(ValueError, match="bos cannot be chosen"):
        perplexity(toy_words, ["a b"], protocol="huggingface", windows=Windows(bos="every"))
