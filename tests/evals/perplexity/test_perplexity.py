"""Perplexity against plain float64 loops; its account, interruptions and refusals."""

import json
import math

import numpy as np
import pytest

from decoding.scoring.teacher_forcing import Document
from decoding.scoring.windows import Windows
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.perplexity.protocols import PROTOCOLS
from toys import surprisals

RELATIVE = 1e-5


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def ends_of(tokenizer, text):
    """Behind each token's last character; one of several tokens belongs to the last of them."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts, ends = zip(*encoded["offset_mapping"], strict=True)
    return [min(end, start) for end, start in zip(ends, [*starts[1:], len(text)], strict=True)]


@pytest.fixture(scope="module")
def wiki(wikitext):
    return wikitext(1900)


STORY = "Once upon a time, Lily didn't see the 日本 cat 🙂.\n She was  sad! " * 8


@pytest.mark.parametrize(("context", "stride"), [(48, 1), (192, 64), (256, None), (256, 256)])
@pytest.mark.parametrize("name", ["stories260k", "stories"])
def test_figures_are_those_of_a_plain_loop(request, name, context, stride, wiki):
    language_model = request.getfixturevalue(name)
    text = wiki if name == "stories260k" else STORY
    text = text[:700] if stride == 1 else text
    ids = ids_of(language_model.tokenizer, text)
    bos = {"stories260k": 1, "stories": 0}[name]
    want = surprisals(language_model.model, [bos, *ids], context, stride or context // 2)
    got = perplexity(
        language_model, [text], windows=Windows(context=context, stride=stride)
    ).record()
    nll = want.mean()
    size, count = len(text.encode()), len(text.split())
    assert got["nll_nats"] == pytest.approx(nll, rel=RELATIVE)
    assert got["perplexity"] == pytest.approx(math.exp(nll), rel=RELATIVE)
    assert got["bits_per_token"] == pytest.approx(nll / math.log(2), rel=RELATIVE)
    assert got["bits_per_byte"] == pytest.approx(want.sum() / math.log(2) / size, rel=RELATIVE)
    assert math.log(got["word_perplexity"]) == pytest.approx(want.sum() / count, rel=RELATIVE)
    assert got["byte_perplexity"] == pytest.approx(math.exp(want.sum() / size), rel=RELATIVE)
    assert (got["words"], got["bytes"]) == (count, size)
    assert got["naive_standard_error"] == pytest.approx(
        want.std() / math.sqrt(len(want) - 1), rel=1e-4
    )
    assert (got["context"], got["stride"]) == (context, stride or context // 2)
    assert (got["tokens"], got["tokens_scored"], got["bos_tokens"]) == (len(ids), len(ids), 1)
    assert got["complete"] is True


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
@pytest.mark.parametrize("in_text", [False, True])
def test_bos_and_what_is_counted_of_the_text(stories260k, bos, in_text):
    # "<s>" in the text leaves out the space that begins a text, so it is written.
    text = ("<s>" if in_text else "") + " Ünder the tree was one  cat"
    ids = ids_of(stories260k.tokenizer, text)
    assert (ids[0] == 1) is in_text
    dropped = bos == "auto" and in_text
    front = [1] if bos != "never" else []
    sequence = front + ids[dropped:]
    want = surprisals(stories260k.model, sequence, 512, 256)
    got = perplexity(stories260k, [text], windows=Windows(bos=bos))
    record = got.record()
    assert got.bos == ("<s>" if front else None)
    assert record["nll_nats"] == pytest.approx(want.mean(), rel=RELATIVE)
    assert record["tokens"] == len(sequence) - len(front)
    assert record["tokens_scored"] == len(want)
    unscored = (not front) or dropped  # the first token of the text
    scored = text[ends_of(stories260k.tokenizer, text)[0] :] if unscored else text
    assert record["bytes"] == len(scored.encode())
    assert record["words"] == len(scored.split())
    total = want.sum()
    assert record["bits_per_byte"] == pytest.approx(
        total / len(scored.encode()) / math.log(2), rel=RELATIVE
    )


def test_text_without_tokens_is_not_counted(toy_words):
    for bos in ("auto", "never"):
        got = perplexity(toy_words, [" \n ", "a b c", "", " "], windows=Windows(bos=bos))
        scored = "a b c" if bos == "auto" else " b c"
        assert (got.bytes, got.words) == (len(scored), len(scored.split()))
        assert got.account.documents == 4 and got.account.documents_skipped == 3


def test_words_and_bytes_do_not_depend_on_how_text_is_cut(stories260k, wiki, monkeypatch):
    from decoding.texts import encoding

    want = perplexity(stories260k, [wiki, STORY])
    monkeypatch.setattr(encoding, "CHUNK", 600)
    monkeypatch.setattr(encoding, "OVERLAP", 200)

    def pieces(text):
        for begin in range(0, len(text), 7):
            yield text[begin : begin + 7]

    documents = [Document(pieces(text)) for text in (wiki, STORY)]
    got = perplexity(stories260k, documents)
    assert (got.words, got.bytes) == (want.words, want.bytes)
    assert got.words == len(wiki.split()) + len(STORY.split())
    assert got.nll_nats == pytest.approx(want.nll_nats, rel=1e-6)


@pytest.mark.parametrize("prompt", ["Once upon a time ", ""])
def test_a_prompt_is_context_and_not_counted(stories260k, prompt):
    text = "there was a small cat. She had fun"
    ids = ids_of(stories260k.tokenizer, prompt + text)
    offsets = stories260k.tokenizer(
        prompt + text, add_special_tokens=False, return_offsets_mapping=True
    )["offset_mapping"]
    scored = sum(end <= len(prompt) for _, end in offsets)
    want = surprisals(stories260k.model, [1, *ids], 512, 256)[scored:]
    got = perplexity(stories260k, [Document(text, prompt)])
    assert got.nll_nats == pytest.approx(want.mean(), rel=RELATIVE)
    assert got.account.tokens_context_only == scored
    begin = offsets[scored - 1][1] if scored else 0
    assert got.bytes == len((prompt + text)[begin:].encode())
    assert got.words == len((prompt + text)[begin:].split())


@pytest.mark.parametrize("protocol", ["huggingface", "lm-eval", "llama.cpp", "gpt2-paper"])
def test_protocols_that_know_no_prompts_refuse_them(stories260k, protocol):
    with pytest.raises(ValueError, match=f"neither prompts nor roles under protocol {protocol}"):
        perplexity(stories260k, [Document(" a cat", "There was")], protocol=protocol)


# The account, interruptions, refusals.


@pytest.mark.parametrize("bos", ["auto", "never"])
@pytest.mark.parametrize(("context", "stride"), [(5, 1), (5, 3), (5, 5), (64, 32)])
def test_the_account_adds_up(toy_words, bos, context, stride):
    texts = ["a b c", "", "d", "p o n m " * 9, " ", "e f"]
    got = perplexity(toy_words, texts, windows=Windows(context=context, stride=stride, bos=bos))
    account = got.account
    front = bos == "auto"
    sequences = [front * (n > 0) + n for n in (3, 0, 1, 36, 0, 2)]
    assert account.documents == 6
    assert account.documents_skipped == (2 if front else 3)
    assert account.tokens == 42
    assert account.tokens_scored == sum(max(0, n - 1) for n in sequences)
    assert account.tokens_context_only == (0 if front else 3)
    assert account.tokens_skipped == (0 if front else 1)
    assert account.windows == sum(
        1 + max(0, math.ceil((n - 1 - context) / stride)) for n in sequences if n > 1
    )


def stopping_after(tokens):
    def on_progress(scored, nll_nats):
        assert math.isfinite(nll_nats)
        if scored >= tokens:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize("bos", ["auto", "never"])
def test_an_interruption_leaves_the_figures_of_what_was_scored(stories260k, wiki, bos):
    documents = [STORY, wiki, wiki]
    got = perplexity(
        stories260k, documents, windows=Windows(context=64, stride=32, bos=bos, batch_size=2),
        on_progress=stopping_after(700),
    )  # fmt: skip
    account, record = got.account, got.record()
    assert got.complete is False
    assert 700 <= account.tokens_scored < 764
    account.check()
    assert account.tokens_skipped > 0
    # The same texts, cut off behind the last scored token.
    front = [1] if bos == "auto" else []
    ends = [ends_of(stories260k.tokenizer, text) for text in documents[:2]]
    sequences = [front + ids_of(stories260k.tokenizer, text) for text in documents[:2]]
    first = surprisals(stories260k.model, sequences[0], 64, 32)
    rest = account.tokens_scored - len(first)
    second = surprisals(stories260k.model, sequences[1], 64, 32)[:rest]
    want = np.concatenate([first, second])
    assert record["nll_nats"] == pytest.approx(want.mean(), rel=RELATIVE)
    begins = [0, 0] if front else [ends[0][0], ends[1][0]]
    end = ends[1][rest - 1 + (not front)]
    scored = [documents[0][begins[0] :], documents[1][begins[1] : end]]
    assert record["bytes"] == sum(len(text.encode()) for text in scored)
    assert record["words"] == sum(len(text.split()) for text in scored)
    assert record["bits_per_byte"] == pytest.approx(
        want.sum() / record["bytes"] / math.log(2), rel=RELATIVE
    )


@pytest.mark.parametrize("protocol", ["huggingface", "lm-eval", "llama.cpp", "gpt2-paper"])
def test_an_interruption_adds_up_under_every_protocol(stories260k, wiki, protocol):
    stride = None if protocol in ("lm-eval", "llama.cpp") else 16
    windows = Windows(context=32, stride=stride, batch_size=1)
    got = perplexity(
        stories260k, [wiki, wiki], protocol=protocol, windows=windows,
        on_progress=stopping_after(40),
    )  # fmt: skip
    assert got.complete is False
    assert 40 <= got.account.tokens_scored < 40 + 32
    got.account.check()
    assert got.account.tokens_skipped > 0
    if protocol == "lm-eval":
        # 64 tokens, of less than 200 characters.
        assert got.bytes < 200 and got.words < 60
    else:
        assert got.bytes is None and got.record()["bits_per_byte"] is None


def test_an_interruption_before_anything_is_scored_is_not_caught(toy_words):
    def documents():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        perplexity(toy_words, documents())


def test_progress_is_told_of_every_window(toy_words):
    calls = []
    got = perplexity(
        toy_words, ["a b c d", "e f g"], windows=Windows(context=2, stride=2),
        on_progress=lambda *values: calls.append(values),
    )  # fmt: skip
    assert [tokens for tokens, _ in calls] == [2, 4, 6, 7]
    assert calls[-1][1] == pytest.approx(got.nll_nats)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "nothing to score: 0 documents with 0 tokens"),
        (["", " "], {}, "nothing to score: 2 documents with 0 tokens"),
        (
            ["a", "b"],
            {"windows": Windows(bos="never")},
            "nothing to score: 2 documents with 2 tokens",
        ),
        (["a"], {"protocol": "huggingface"}, "nothing to score"),
        (["a b"], {"protocol": "megatron"}, "protocol must be one of default, .*'megatron'"),
        (["a b"], {"errors": "tokens"}, "errors must be auto, documents or blocks, got 'tokens'"),
        (
            ["a b"],
            {"protocol": "lm-eval", "windows": Windows(stride=4)},
            "stride .*protocol lm-eval fixes it",
        ),
        (
            ["a b"],
            {"protocol": "gpt2-paper", "windows": Windows(bos="always")},
            "bos .*gpt2-paper fixes it",
        ),
        (["a b"], {"windows": Windows(context=65)}, "64 positions, got 65"),
        (
            ["a b"],
            {"windows": Windows(stride=65)},
            "stride must be from 1 to the context of 64, got 65",
        ),
    ],
)
def test_refusals(toy_words, texts, options, message):
    with pytest.raises(ValueError, match=message):
        perplexity(toy_words, texts, **options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("context", [0, 65, 66])
def test_a_context_that_the_model_has_not_is_refused_by_its_number(toy_words, protocol, context):
    with pytest.raises(ValueError, match=rf"context must .*got {context}$"):
        perplexity(toy_words, ["a b c " * 100], protocol=protocol, windows=Windows(context=context))


def test_the_record_holds_what_it_promises(stories260k):
    record = perplexity(stories260k, ["Once upon a time."]).record()
    assert {
        "perplexity", "nll_nats", "bits_per_byte", "word_perplexity", "standard_error",
        "confidence_interval", "tokens", "tokens_scored", "tokens_context_only", "tokens_skipped",
        "documents", "windows", "naive_standard_error", "standard_error_ratio", "model",
        "protocol", "context", "stride", "bos", "complete",
    } <= set(record)  # fmt: skip
    assert json.loads(json.dumps(record, allow_nan=False)) == record
