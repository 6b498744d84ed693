"""Protocols against the tools' published rules, written here once more in their plainest form."""

import copy
import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from conftest import shared
from decoding.models.loading import LanguageModel
from decoding.scoring.teacher_forcing import Document
from decoding.scoring.windows import Windows
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.perplexity.protocols import PROTOCOLS, detokenized_wikitext

RELATIVE = 1e-5
WORDS = ["<eos>", *"abcdefghijklmnop"]


def words(**special):
    """Seventeen words, the first of which is special; spaces between them are nobody's."""
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="p"))
    raw.pre_tokenizer = Whitespace()
    raw.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


@pytest.fixture(scope="module")
def toy(toy_llama):
    return LanguageModel(toy_llama, words(bos_token="<eos>", eos_token="<eos>"), "toy")


@pytest.fixture(scope="module")
def short(stories260k):
    """The real Llama with 64 positions, so that short texts have many windows."""
    model = copy.copy(stories260k.model)
    model.config = copy.deepcopy(model.config)
    model.config.max_position_embeddings = 64
    return dataclasses.replace(stories260k, model=model)


@pytest.fixture(scope="module")
def wiki():
    with shared("data/wikitext2/wiki.test.raw").open(encoding="utf-8", newline="") as lines:
        return lines.read(6000)


def text_of(count, seed=0):
    """A text of so many of the toy's tokens."""
    rng = np.random.default_rng(seed + count)
    return " ".join(WORDS[i] for i in rng.integers(1, 17, count))


def ids_of(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


@torch.no_grad()
def log_probs(model, inputs):
    """log p of every next token after every input, float64, `(seq, vocab)`."""
    return torch.log_softmax(model(torch.tensor([inputs])).logits[0].double(), -1)


def result(language_model, texts, protocol, **options):
    got = perplexity(language_model, texts, protocol=protocol, **options)
    got.account.check()
    return got, got.record()


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
def test_lm_eval_scores_disjoint_windows_of_which_the_last_reaches_back(toy, count):
    assert_lm_eval(toy, [text_of(count)], 64, 0)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17])
def test_lm_eval_with_a_context(toy, count):
    assert_lm_eval(toy, [text_of(count), text_of(count + 3)], 8, 0, windows=Windows(context=8))


@pytest.mark.parametrize(
    "texts",
    [
        ["\n a  b \n", "c d", " e"],
        ["", "a b", "", "", "c ", ""],
        ["a\u00a0b\u2003c", "日本 a"],
    ],
)
def test_lm_eval_counts_a_word_more_than_there_is_whitespace(toy, texts):
    assert_lm_eval(toy, texts, 64, 0)


def test_lm_eval_on_real_text(short, wiki):
    assert_lm_eval(short, [wiki[:900], wiki[900:1500]], 64, 1)


def test_lm_eval_counts_words_alike_however_the_text_comes(toy, monkeypatch):
    from decoding.models import encoding

    text = ("a  b\n c" + " " * 9 + "d ") * 90
    want, _ = result(toy, [text], "lm-eval")
    assert want.words == len(re.split(r"\s+", text))
    monkeypatch.setattr(encoding, "CHUNK", 300)
    monkeypatch.setattr(encoding, "OVERLAP", 100)
    got, _ = result(toy, [Document(iter(text))], "lm-eval")
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
def test_huggingface_weighs_windows_as_the_recipe_does(toy, count, stride):
    assert_huggingface(toy, [text_of(count)], 64, stride, windows=Windows(stride=stride))


@pytest.mark.parametrize("count", [2, 7, 8, 9, 16, 17, 23])
@pytest.mark.parametrize("stride", [1, 5, 8])
def test_huggingface_with_a_context(toy, count, stride):
    assert_huggingface(toy, [text_of(count)], 8, stride, windows=Windows(context=8, stride=stride))


def test_huggingface_joins_texts_and_defaults_to_all_positions(short, wiki):
    texts = [wiki[:300], "", wiki[300:700], wiki[700:1111]]
    assert_huggingface(short, texts, 64, 64)


def test_huggingface_at_its_default_stride(stories260k, wiki):
    assert_huggingface(stories260k, [wiki[:1500]], 512, 512)
    assert_huggingface(stories260k, [wiki[:1500]], 512, 256, windows=Windows(stride=256))


@pytest.mark.parametrize(("count", "last_alone"), [(64, False), (65, True), (129, True)])
def test_huggingface_stays_a_number_where_the_recipe_does_not(toy, count, last_alone):
    got = assert_huggingface(toy, [text_of(count)], 64, 64)
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
def test_huggingface_refusals(toy, options, message):
    with pytest.raises(ValueError, match=message):
        perplexity(toy, ["a b c"], protocol="huggingface", windows=Windows(**options))


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
def test_llama_cpp_scores_the_second_half_of_each_chunk(toy, count):
    got = assert_llama_cpp(toy, [text_of(count)], 64, None)
    assert got.bos is None


@pytest.mark.parametrize("n_ctx", [4, 5, 7, 8])
@pytest.mark.parametrize("count", [16, 17, 23, 24, 25])
def test_llama_cpp_with_a_context(toy, n_ctx, count):
    assert_llama_cpp(toy, [text_of(count)], n_ctx, None, windows=Windows(context=n_ctx))


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
def test_llama_cpp_wants_two_chunks(toy, count):
    with pytest.raises(ValueError, match="16 tokens" if count else "16 tokens|nothing to score"):
        perplexity(toy, [text_of(count)], protocol="llama.cpp", windows=Windows(context=8))


def test_llama_cpp_refuses_chunks_without_a_second_half(toy):
    with pytest.raises(ValueError, match=r"context must be at least 4 .*got 3"):
        perplexity(toy, [text_of(20)], protocol="llama.cpp", windows=Windows(context=3))


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
def test_gpt2_paper_moves_windows_by_32_tokens(toy, count):
    assert_gpt2_paper(toy, [text_of(count)], 64, 32)


@pytest.mark.parametrize(("length", "stride"), [(8, 1), (8, 3), (8, 8), (33, 32)])
def test_gpt2_paper_with_a_context_and_a_stride(toy, length, stride):
    assert_gpt2_paper(
        toy, [text_of(70)], length, stride, windows=Windows(context=length, stride=stride)
    )


def test_gpt2_paper_on_real_text(short, wiki):
    assert_gpt2_paper(short, [wiki[:1200]], 64, 32)
    assert_gpt2_paper(short, [wiki[:400], wiki[400:900]], 64, 32)


# All of them.


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize("count", [256, 257, 300])
def test_accounts_add_up_and_nothing_depends_on_the_batch(toy, protocol, count):
    texts = [text_of(count), text_of(40), "", text_of(1)]
    one, one_record = result(toy, texts, protocol, windows=Windows(batch_size=1))
    many, _ = result(
        toy,
        [Document(text.split(" ", 0)) for text in texts],
        protocol,
        windows=Windows(batch_size=7),
    )
    assert one.account == many.account
    assert one.nll_nats == pytest.approx(many.nll_nats, rel=1e-6)
    assert (one.words, one.bytes) == (many.words, many.bytes)
    assert one_record["protocol"] == protocol and one_record["rules"]


def test_where_they_agree(toy):
    """One text of one window, with BOS or without: the rules are the same."""
    text = text_of(40)
    with_bos = [result(toy, [text], name)[0].nll_nats for name in ("default", "lm-eval")]
    assert with_bos[0] == pytest.approx(with_bos[1], rel=1e-7)
    without = [
        result(toy, [text], name, windows=Windows(bos="never" if name == "default" else "auto"))[
            0
        ].nll_nats
        for name in ("default", "huggingface", "gpt2-paper")
    ]
    assert without == pytest.approx([without[0]] * 3, rel=1e-7)
    assert without[0] != pytest.approx(with_bos[0], rel=1e-3)
