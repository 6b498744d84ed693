"""Protocols of llama.cpp and of the GPT-2 paper against their published rules."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding.scoring.windows import Windows
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.perplexity.protocols import detokenized_wikitext
from toys import ids_of, log_probs, result, text_of

RELATIVE = 1e-5


@pytest.fixture(scope="module")
def wiki(wikitext):
    return wikitext(6000)


# llama.cpp: `perplexity()` of tools/perplexity/perplexity.cpp with ppl_stride = 0, retold.


def llama_perplexity(model, tokens, n_ctx, bos):
    """`(nll, count, standard error)`; `tokens` begin with BOS where `bos` is not None."""
    assert len(tokens) >= 2 * n_ctx
    first = n_ctx // 2
    values = []
    for i in range(len(tokens) // n_ctx):
        chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
        inputs = list(chunk) if bos is None else [bos, *chunk[1:]]
        rows = log_probs(model, inputs)
        for j in range(first, n_ctx - 1):
            values.append(-float(rows[j, chunk[j + 1]]))
    count = len(values)
    nll, nll2 = sum(values), sum(value * value for value in values)
    variance = nll2 / count - (nll / count) ** 2
    return nll, count, math.sqrt(variance / (count - 1))


def assert_llama_cpp(language_model, texts, n_ctx, bos, **options):
    text = "".join(texts)
    tokens = ids_of(language_model, text[:-1] if text.endswith("\n") else text)
    if bos is not None:
        tokens = [bos, *tokens]
    nll, count, error = llama_perplexity(language_model.model, tokens, n_ctx, bos)
    got, record = result(language_model, texts, "llama.cpp", **options)
    assert record["perplexity"] == pytest.approx(math.exp(nll / count), rel=RELATIVE)
    assert got.naive_standard_error == pytest.approx(error, rel=1e-4)
    assert (got.context, got.words, got.bytes) == (n_ctx, None, None)
    account = got.account
    chunks = len(tokens) // n_ctx
    with_bos = bos is not None
    assert account.windows == chunks
    assert account.tokens == len(tokens) - with_bos
    assert account.tokens_scored == chunks * (n_ctx - n_ctx // 2 - 1) == count
    assert account.tokens_context_only == chunks * (n_ctx // 2 + 1) - with_bos
    assert account.tokens_skipped == len(tokens) % n_ctx
    return got


@pytest.mark.parametrize("count", [128, 129, 191, 192, 193, 300])
def test_llama_cpp_scores_the_second_half_of_each_chunk(toy_words, count):
    got = assert_llama_cpp(toy_words, [text_of(count)], 64, None)
    assert got.bos is None


@pytest.mark.parametrize("n_ctx", [4, 5, 7, 8])
@pytest.mark.parametrize("count", [16, 17, 23, 24, 25])
def test_llama_cpp_with_a_context(toy_words, n_ctx, count):
    assert_llama_cpp(toy_words, [text_of(count)], n_ctx, None, windows=Windows(context=n_ctx))


def test_llama_cpp_puts_bos_over_the_first_token_of_each_chunk(short, wiki):
    got = assert_llama_cpp(short, [wiki[:1000]], 64, 1)
    assert got.bos == "<s>"
    # An exact multiple, BOS included.
    exact = next(n for n in range(200, 1000) if len(ids_of(short, wiki[:n])) == 255)
    assert assert_llama_cpp(short, [wiki[:exact]], 64, 1).account.tokens_skipped == 0


def test_llama_cpp_has_chunks_of_512(stories260k, wiki):
    got = assert_llama_cpp(stories260k, [wiki[:2000]], 512, 1)
    assert got.account.tokens_scored % 255 == 0


@pytest.mark.parametrize(
    "texts", [["Once\n", "there was a cat\n\n"], ["Once upon a time\n", ""], ["Once upon", "\n"]]
)
def test_llama_cpp_joins_texts_and_drops_one_last_line_break(stories260k, texts):
    long = ["She saw a dog.\n" * 6, *texts]
    got = assert_llama_cpp(stories260k, long, 8, 1, windows=Windows(context=8))
    assert got.account.documents == 1


@pytest.mark.parametrize("count", [0, 1, 15])
def test_llama_cpp_wants_two_chunks(toy_words, count):
    with pytest.raises(ValueError, match="16 tokens" if count else "16 tokens|nothing to score"):
        perplexity(toy_words, [text_of(count)], protocol="llama.cpp", windows=Windows(context=8))


def test_llama_cpp_refuses_chunks_without_a_second_half(toy_words):
    with pytest.raises(ValueError, match=r"context must be at least 4 .*got 3"):
        perplexity(toy_words, [text_of(20)], protocol="llama.cpp", windows=Windows(context=3))


# GPT-2 paper: Megatron-LM's tasks/zeroshot_gpt, retold.


def megatron_detokenizer(string):
    string = string.replace("s '", "s'")
    string = string.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".")
    for mark in (":", ";", ".", "!", "?", ","):
        string = string.replace(f" {mark} ", f"{mark} ")
    string = re.sub(r"\(\s*([^\)]*?)\s*\)", r"(\1)", string)
    string = re.sub(r"\[\s*([^\]]*?)\s*\]", r"[\1]", string)
    string = re.sub(r"{\s*([^}]*?)\s*}", r"{\1}", string)
    string = re.sub(r"\"\s*([^\"]*?)\s*\"", r'"\1"', string)
    string = re.sub(r"'\s*([^']*?)\s*'", r"'\1'", string)
    string = string.replace("= = = =", "====").replace("= = =", "===").replace("= =", "==")
    string = string.replace(" " + chr(176) + " ", chr(176))
    string = string.replace(" \n", "\n").replace("\n ", "\n")
    return string.replace(" N ", " 1 ").replace(" 's", "'s")


@pytest.mark.parametrize(
    ("tokenised", "plain"),
    [
        ("the boys ' bikes", "the boys' bikes"),
        ("a well @-@ known 1 @,@ 000 @.@ 5", "a well-known 1,000.5"),
        ("He said : no ; yes . Why ? So ! Yes , he", "He said: no; yes. Why? So! Yes, he"),
        ('( a b ) [ c ] { d } " e f " g', '(a b) [c] {d} "e f" g'),
        (" = = = Title = = = \n Text \n", " === Title ===\nText\n"),
        (" = = Two = = \n", " == Two ==\n"),
        (" = One = \n", " = One =\n"),
        ("90 ° N 's", "90°N's"),
        ("about N people", "about 1 people"),
        ("John 's dog", "John's dog"),
        ("2 @,@ @-@ 3", "2 @,@-3"),
        ("", ""),
    ],
)  # fmt: skip
def test_wikitext_s_spaces_are_taken_out(tokenised, plain):
    assert megatron_detokenizer(tokenised) == plain
    assert detokenized_wikitext(tokenised) == plain


PIECES = [" ", "\n", "s", "'", "@-@", "@,@", "@.@", *':;.!?,()[]{}"=N°', "a", "5", "\\", "日"]


@given(st.lists(st.sampled_from([*PIECES, " ", " "]), max_size=40))
def test_the_detokenizer_follows_its_rules_in_their_order(pieces):
    text = "".join(pieces)
    assert detokenized_wikitext(text) == megatron_detokenizer(text)


def test_the_detokenizer_on_real_text(wiki):
    assert detokenized_wikitext(wiki) == megatron_detokenizer(wiki) != wiki


def zeroshot_gpt(model, ids, seq_len, overlap):
    """Sum of the losses: windows every `overlap` tokens, of which all but the first add the last.

    As its dataset does: right-padded inputs and targets, a loss mask over them.
    """
    total, scored = 0.0, 0
    targets = max(len(ids) - 1 - overlap, 0)
    for index in range(max(math.ceil(targets / overlap) + 1, 1)):
        start = index * overlap
        tokens = ids[start : start + seq_len + 1]
        mask = [1] * (len(tokens) - 1) + [0] * (seq_len + 1 - len(tokens))
        tokens = tokens + [0] * (seq_len + 1 - len(tokens))
        if overlap != seq_len and index != 0:
            mask = [0] * (seq_len - overlap) + mask[seq_len - overlap :]
        if not sum(mask):
            continue
        rows = log_probs(model, tokens[:-1])
        for place in range(seq_len):
            if mask[place]:
                total -= float(rows[place, tokens[place + 1]])
                scored += 1
    assert scored == len(ids) - 1
    return total


def assert_gpt2_paper(language_model, texts, length, step, **options):
    total, units, size, scored = 0.0, 0, 0, 0
    for text in texts:
        ids = ids_of(language_model, megatron_detokenizer(text))
        total += zeroshot_gpt(language_model.model, ids, length, step)
        units += len(text.strip().split(" ")) - 1
        size += len(text.encode())
        scored += len(ids) - 1
    got, record = result(language_model, texts, "gpt2-paper", **options)
    assert got.headline == "word_perplexity"
    assert math.log(record["word_perplexity"]) == pytest.approx(total / units, rel=RELATIVE)
    assert got.nll_nats == pytest.approx(total / scored, rel=RELATIVE)
    assert record["bits_per_byte"] == pytest.approx(total / size / math.log(2), rel=RELATIVE)
    assert (got.words, got.bytes) == (units, size)
    account = got.account
    assert account.tokens_scored == scored
    assert account.tokens_context_only == len(texts) and account.tokens_skipped == 0
    assert (got.bos, got.context, got.stride) == (None, length, step)


@pytest.mark.parametrize("count", [2, 32, 33, 63, 64, 65, 66, 96, 97, 98, 160])
def test_gpt2_paper_moves_windows_by_32_tokens(toy_words, count):
    assert_gpt2_paper(toy_words, [text_of(count)], 64, 32)


@pytest.mark.parametrize(("length", "stride"), [(8, 1), (8, 3), (8, 8), (33, 32)])
def test_gpt2_paper_with_a_context_and_a_stride(toy_words, length, stride):
    assert_gpt2_paper(
        toy_words, [text_of(70)], length, stride, windows=Windows(context=length, stride=stride)
    )


def test_gpt2_paper_on_real_text(short, wiki):
    assert_gpt2_paper(short, [wiki[:1200]], 64, 32)
    assert_gpt2_paper(short, [wiki[:400], wiki[400:900]], 64, 32)
