"""Texts after a prompt, and ids after ids: the context is read, and not scored."""

import pytest
import torch
from numpy.testing import assert_allclose

from decoding.scoring.teacher_forcing import Document, TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from forcing import NATS, assert_same, assert_scored, measure, placed, reference, scan


def together(tokenizer, prompt, text):
    """What is read before the text's tokens, and of prompt and text the ids and where they part.

    They part where the ids of both stop to be those that the prompt has alone.
    """
    alone, both = tokenizer(prompt)["input_ids"], tokenizer(prompt + text)["input_ids"]
    plain = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
    front = both[: len(both) - len(plain)]
    if not alone:  # generate begins an empty prompt with BOS
        alone = front = [tokenizer.bos_token_id]
        both = front + plain
    pairs = zip(alone, both, strict=False)
    parted = next((i for i, (a, b) in enumerate(pairs) if a != b), len(alone))
    return front, plain, parted - len(front)


def assert_prompted(language_model, prompt, text, context, stride):
    front, ids, first = together(language_model.tokenizer, prompt, text)
    forcing = TeacherForcing(language_model, Windows(context=context, stride=stride))
    found = scan(forcing, [Document(text, prompt)]).get(0, {})
    shift = len(front)
    rows = reference(language_model.model, [*front, *ids], context, stride, first + shift)
    assert list(found) == list(range(first, len(ids)))
    assert_scored(found, rows, [*front, *ids], shift)
    account = forcing.account
    assert (account.bos_tokens, account.tokens) == (shift, len(ids))
    assert account.tokens_scored == len(ids) - first
    return found, front, ids, first, account


PROMPTS = [
    ("Once upon a time", " there was a cat."),
    ("Once upon a ti", "me there was a cat."),  # a token of both is the text's
    ("Once upon a time ", "there was a cat."),
    ("", "there was a cat."),
    ("Q: 日本\nA:", " yes"),
    ("Once", "."),
]


@pytest.mark.parametrize(("prompt", "text"), PROMPTS)
@pytest.mark.parametrize("name", ["stories", "stories260k", "random_gpt2"])
def test_a_prompt_is_context_alone(request, name, prompt, text):
    language_model = request.getfixturevalue(name)
    found, front, ids, first, account = assert_prompted(language_model, prompt, text, 64, 32)
    # All of it in one pass: the log-probability of the text is the sum over its tokens.
    with torch.no_grad():
        logits = language_model.model(torch.tensor([[*front, *ids]])).logits[0].double()
    log_p = torch.log_softmax(logits, -1)
    want = sum(log_p[len(front) + i - 1, ids[i]] for i in range(first, len(ids)))
    total = -sum(values["surprisal"] for values in found.values())
    assert total == pytest.approx(float(want), abs=NATS * len(ids))
    assert (account.tokens_context_only, account.tokens_skipped) == (first, 0)


def test_a_prompt_longer_than_the_context_is_skipped_where_nobody_reads_it(stories260k):
    prompt, text = "Once upon a time there was a little girl. " * 6, "She had a dog."
    _, front, ids, first, account = assert_prompted(stories260k, prompt, text, 16, 6)
    shift = len(front)
    begins = [begin for begin, _ in placed(shift + len(ids), 16, 6, first + shift)]
    assert account.tokens_skipped == begins[0] - shift
    assert account.tokens_context_only == first - account.tokens_skipped > 0


def test_a_prompt_without_a_text_scores_nothing(stories260k):
    forcing = TeacherForcing(stories260k)
    assert scan(forcing, [Document("", "Once upon a time")]) == {}
    account = forcing.account
    assert (account.documents_skipped, account.tokens_scored) == (1, 0)
    assert account.tokens == account.tokens_skipped == 4


def test_a_prompt_may_begin_with_bos(stories260k):
    plain = scan(TeacherForcing(stories260k), [Document(" a time", "Once upon")])
    begun = scan(TeacherForcing(stories260k), [Document(" a time", "<s>Once upon")])
    assert_same(begun, plain)


@pytest.mark.parametrize(("prompt", "text"), [("Hi", "😀"), ("Hi ", "😀"), ("a ", "日本 yes")])
@pytest.mark.parametrize("name", ["stories", "stories260k", "random_gpt2"])
def test_all_the_tokens_of_the_text_s_first_character_are_the_text_s(request, name, prompt, text):
    assert_prompted(request.getfixturevalue(name), prompt, text, 64, 32)


# Token documents.


def scored_ids(language_model, documents, windows=Windows()):
    run = TeacherForcing(language_model, windows)
    found = [(w.document, w.start, c["surprisal"]) for w, c in run.scan(documents, measure)]
    return found, run.account


@pytest.mark.parametrize("context", [1, 4, 9])
def test_ids_after_a_context_are_scored_as_the_model_read_them(stories, context):
    ids = stories.tokenizer("Once upon a time there was a dog. He ran.")["input_ids"]
    with torch.no_grad():
        log_p = stories.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    want = [-log_p[i - 1, ids[i]] for i in range(context, len(ids))]
    document = TokenDocument(ids[context:], ids[:context])
    [(_, start, found)], account = scored_ids(stories, [document])
    assert start == context
    assert_allclose(found, want, atol=NATS)
    assert account.bos_tokens == 0
    assert account.tokens_context_only == context
    assert account.tokens_scored == len(ids) - context


def test_ids_without_a_context_are_a_text_of_their_own(stories):
    text = "Once upon a time there was a dog."
    ids = stories.tokenizer(text)["input_ids"]
    bos = stories.tokenizer.bos_token_id
    [text_found], _ = scored_ids(stories, [Document(text)])
    for document in (TokenDocument(ids), TokenDocument([bos, *ids])):
        [found], account = scored_ids(stories, [document])
        assert found[:2] == text_found[:2] and account.bos_tokens == 1
        assert_allclose(found[2], text_found[2], atol=NATS)
    [(_, start, found)], account = scored_ids(stories, [TokenDocument(ids)], Windows(bos="never"))
    assert start == 1 and len(found) == len(ids) - 1 == account.tokens_scored


def test_bos_goes_before_a_context_only_when_it_is_always_wanted(stories):
    _, account = scored_ids(stories, [TokenDocument([7, 8], [5, 6])], Windows(bos="always"))
    assert account.bos_tokens == 1 and account.tokens_context_only == 2


@pytest.mark.parametrize("ids", [[2048], [-1], [3, 99999]])
def test_ids_outside_the_vocabulary_are_refused(stories, ids):
    with pytest.raises(ValueError, match=r"token ids must be in \[0, 2048\), got"):
        scored_ids(stories, [TokenDocument(ids)])


def test_no_ids_are_a_skipped_document(stories):
    found, account = scored_ids(stories, [TokenDocument([]), TokenDocument([], [1, 2])])
    assert found == [] and account.documents_skipped == 2
    assert account.tokens == account.tokens_context_only + account.tokens_skipped
