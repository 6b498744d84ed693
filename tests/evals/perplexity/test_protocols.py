"""Protocols of lm-eval and of Hugging Face against the tools' own rules, written once more."""

import math
import re

import pytest
import torch

from decoding.scoring.teacher_forcing import Document
from decoding.scoring.windows import Windows
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.perplexity.protocols import PROTOCOLS
from toys import ids_of, log_probs, result, text_of

RELATIVE = 1e-5


@pytest.fixture(scope="module")
def wiki(wikitext):
    return wikitext(6000)


# lm-eval 0.4: `get_rolling_token_windows`, `make_disjoint_window`, `weighted_perplexity`, retold.


def rolling_windows(tokens, prefix, max_seq_len):
    first = min(max_seq_len, len(tokens))
    yield [prefix, *tokens[: first - 1]], tokens[:first]
    predicted = first
    while predicted < len(tokens):
        count = min(len(tokens) - predicted, max_seq_len)
        end = predicted + count
        yield tokens[end - max_seq_len - 1 : end - 1], tokens[end - count : end]
        predicted += count


def loglikelihood_rolling(model, tokens, prefix, max_seq_len):
    total = 0.0
    for context, targets in rolling_windows(tokens, prefix, max_seq_len) if tokens else ():
        rows = log_probs(model, context)[-len(targets) :]
        total += float(rows[torch.arange(len(targets)), torch.tensor(targets)].sum())
    return total


def assert_lm_eval(language_model, texts, length, prefix, **options):
    tokens = [ids_of(language_model, text) for text in texts]
    total = sum(
        loglikelihood_rolling(language_model.model, each, prefix, length) for each in tokens
    )
    count = sum(len(re.split(r"\s+", text)) for text in texts)
    size = sum(len(text.encode("utf-8")) for text in texts)
    got, record = result(language_model, texts, "lm-eval", **options)
    assert got.headline == "word_perplexity"
    assert got.nll_nats * got.account.tokens_scored == pytest.approx(-total, rel=RELATIVE)
    assert math.log(record["word_perplexity"]) == pytest.approx(-total / count, rel=RELATIVE)
    assert record["byte_perplexity"] == pytest.approx(math.exp(-total / size), rel=1e-4)
    assert record["bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=RELATIVE)
    assert (got.words, got.bytes) == (count, size)
    account = got.account
    scored = sum(map(len, tokens))
    assert (account.tokens, account.tokens_scored, account.tokens_skipped) == (scored, scored, 0)
    assert account.windows == sum(math.ceil(len(each) / length) for each in tokens)
    assert (got.context, got.stride) == (length, length)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 127, 128, 129, 200])
def test_lm_eval_scores_disjoint_windows_of_which_the_last_reaches_back(toy_words, count):
    assert_lm_eval(toy_words, [text_of(count)], 64, 0)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17])
def test_lm_eval_with_a_context(toy_words, count):
    assert_lm_eval(
        toy_words, [text_of(count), text_of(count + 3)], 8, 0, windows=Windows(context=8)
    )


@pytest.mark.parametrize(
    "texts",
    [
        ["\n a  b \n", "c d", " e"],
        ["", "a b", "", "", "c ", ""],
        ["a\u00a0b\u2003c", "日本 a"],
    ],
)
def test_lm_eval_counts_a_word_more_than_there_is_whitespace(toy_words, texts):
    assert_lm_eval(toy_words, texts, 64, 0)


def test_lm_eval_on_real_text(short, wiki):
    assert_lm_eval(short, [wiki[:900], wiki[900:1500]], 64, 1)


def test_lm_eval_counts_words_alike_however_the_text_comes(toy_words, monkeypatch):
    from decoding.texts import encoding

    text = ("a  b\n c" + " " * 9 + "d ") * 90
    want, _ = result(toy_words, [text], "lm-eval")
    assert want.words == len(re.split(r"\s+", text))
    monkeypatch.setattr(encoding, "CHUNK", 300)
    monkeypatch.setattr(encoding, "OVERLAP", 100)
    got, _ = result(toy_words, [Document(iter(text))], "lm-eval")
    assert (got.words, got.bytes) == (want.words, want.bytes)


# Hugging Face's page "Perplexity of fixed-length models", as it stands, on one model and text.


@torch.no_grad()
def fixed_length_recipe(model, ids, max_length, stride):
    """Its `(nll_sum, n_tokens)`; a window whose loss is a mean over nothing adds nothing."""
    input_ids = torch.tensor([ids])
    seq_len = input_ids.size(1)
    nll_sum, n_tokens, prev_end_loc = 0.0, 0, 0
    for begin_loc in range(0, seq_len, stride):
        end_loc = min(begin_loc + max_length, seq_len)
        trg_len = end_loc - prev_end_loc
        window = input_ids[:, begin_loc:end_loc]
        target_ids = window.clone()
        target_ids[:, :-trg_len] = -100
        neg_log_likelihood = model(window, labels=target_ids).loss
        num_valid_tokens = (target_ids != -100).sum().item()
        num_loss_tokens = num_valid_tokens - target_ids.size(0)
        if num_loss_tokens:  # the recipe's NaN·0 is left out
            nll_sum += float(neg_log_likelihood) * num_loss_tokens
            n_tokens += num_loss_tokens
        prev_end_loc = end_loc
        if end_loc == seq_len:
            break
    return nll_sum, n_tokens


def assert_huggingface(language_model, texts, length, step, **options):
    ids = ids_of(language_model, "\n\n".join(texts))
    nll_sum, n_tokens = fixed_length_recipe(language_model.model, ids, length, step)
    got, record = result(language_model, texts, "huggingface", **options)
    assert record["perplexity"] == pytest.approx(math.exp(nll_sum / n_tokens), rel=RELATIVE)
    assert got.headline == "perplexity"
    assert (got.bos, got.words, got.bytes) == (None, None, None)
    assert (got.context, got.stride) == (length, step)
    # Scored is what has a predecessor in its window.
    scored = set()
    for begin in range(0, len(ids), step):
        scored |= set(range(begin + 1, min(begin + length, len(ids))))
        if begin + length >= len(ids):
            break
    account = got.account
    assert (account.tokens, account.tokens_scored) == (len(ids), len(scored))
    assert account.tokens_context_only + account.tokens_skipped == len(ids) - len(scored)
    assert account.documents == 1 and account.bos_tokens == 0
    return got


@pytest.mark.parametrize("stride", [1, 2, 32, 48, 63, 64])
@pytest.mark.parametrize("count", [2, 10, 63, 64, 65, 96, 112, 113, 128, 129, 160])
def test_huggingface_weighs_windows_as_the_recipe_does(toy_words, count, stride):
    assert_huggingface(toy_words, [text_of(count)], 64, stride, windows=Windows(stride=stride))


@pytest.mark.parametrize("count", [2, 7, 8, 9, 16, 17, 23])
@pytest.mark.parametrize("stride", [1, 5, 8])
def test_huggingface_with_a_context(toy_words, count, stride):
    assert_huggingface(
        toy_words, [text_of(count)], 8, stride, windows=Windows(context=8, stride=stride)
    )


def test_huggingface_joins_texts_and_defaults_to_all_positions(short, wiki):
    texts = [wiki[:300], "", wiki[300:700], wiki[700:1111]]
    assert_huggingface(short, texts, 64, 64)


def test_huggingface_at_its_default_stride(stories260k, wiki):
    assert_huggingface(stories260k, [wiki[:1500]], 512, 512)
    assert_huggingface(stories260k, [wiki[:1500]], 512, 256, windows=Windows(stride=256))


@pytest.mark.parametrize(("count", "last_alone"), [(64, False), (65, True), (129, True)])
def test_huggingface_stays_a_number_where_the_recipe_does_not(toy_words, count, last_alone):
    got = assert_huggingface(toy_words, [text_of(count)], 64, 64)
    assert math.isfinite(got.nll_nats)
    assert got.account.tokens_skipped == last_alone  # a last token that no window reads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 1}, "context must be at least 2 .* got 1"),
        ({"context": 65}, "at most the model's 64 positions .* got 65"),
        ({"context": 8, "stride": 9}, "stride must be from 1 to the context of 8, got 9"),
        ({"stride": 0}, "stride must be from 1 to the context of 64, got 0"),
        ({"bos": "never"}, "protocol huggingface fixes it"),
    ],
)
def test_huggingface_refusals(toy_words, options, message):
    with pytest.raises(ValueError, match=message):
        perplexity(toy_words, ["a b c"], protocol="huggingface", windows=Windows(**options))


# All of them.


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize("count", [256, 257, 300])
def test_accounts_add_up_and_nothing_depends_on_the_batch(toy_words, protocol, count):
    texts = [text_of(count), text_of(40), "", text_of(1)]
    one, one_record = result(toy_words, texts, protocol, windows=Windows(batch_size=1))
    many, _ = result(
        toy_words,
        [Document(text.split(" ", 0)) for text in texts],
        protocol,
        windows=Windows(batch_size=7),
    )
    assert one.account == many.account
    assert one.nll_nats == pytest.approx(many.nll_nats, rel=1e-6)
    assert (one.words, one.bytes) == (many.words, many.bytes)
    assert one_record["protocol"] == protocol and one_record["rules"]


def test_where_they_agree(toy_words):
    """One text of one window, with BOS or without: the rules are the same."""
    text = text_of(40)
    with_bos = [result(toy_words, [text], name)[0].nll_nats for name in ("default", "lm-eval")]
    assert with_bos[0] == pytest.approx(with_bos[1], rel=1e-7)
    without = [
        result(
            toy_words, [text], name, windows=Windows(bos="never" if name == "default" else "auto")
        )[0].nll_nats
        for name in ("default", "huggingface", "gpt2-paper")
    ]
    assert without == pytest.approx([without[0]] * 3, rel=1e-7)
    assert without[0] != pytest.approx(with_bos[0], rel=1e-3)
