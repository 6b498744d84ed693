"""Perplexity against plain float64 loops, textbook error bars, and models whose truth is known."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from conftest import shared
from decoding.models.loading import LanguageModel
from decoding.scoring.teacher_forcing import Document
from decoding.scoring.windows import Windows
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.perplexity.protocols import PROTOCOLS

RELATIVE = 1e-5
WORDS = ["<eos>", *"abcdefghijklmnop"]

# The oracle: one window after the other, every prediction that no earlier one made.


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def ends_of(tokenizer, text):
    """Behind each token's last character; one of several tokens belongs to the last of them."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts, ends = zip(*encoded["offset_mapping"], strict=True)
    return [min(end, start) for end, start in zip(ends, [*starts[1:], len(text)], strict=True)]


@torch.no_grad()
def surprisals(model, sequence, context, stride):
    """-log p of each token but the first, float64, by DESIGN's windows."""
    windows = [
        (begin, sequence[begin : begin + context + 1])
        for begin in range(0, max(1, len(sequence)), stride)
    ]
    found = {}
    while windows:
        length = len(windows[0][1])
        alike = [window for window in windows if len(window[1]) == length][:64]
        windows = windows[len(alike) :]  # only the last ones are shorter
        if length < 2:
            continue
        tokens = torch.tensor([window for _, window in alike])
        logits = model(tokens[:, :-1]).logits.double()
        log_p = torch.log_softmax(logits, -1).gather(2, tokens[:, 1:, None])[:, :, 0]
        for (begin, _), row in zip(alike, log_p.tolist(), strict=True):
            for place, value in enumerate(row, begin + 1):
                found.setdefault(place, -value)
    assert list(found) == list(range(1, len(sequence)))
    return np.array(list(found.values()))


def words(**special):
    """Seventeen words, the first of which is special; spaces between them are nobody's."""
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="p"))
    raw.pre_tokenizer = Whitespace()
    raw.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def said(ids):
    return " ".join(WORDS[i] for i in ids)


@pytest.fixture(scope="module")
def toy(toy_llama):
    return LanguageModel(toy_llama, words(bos_token="<eos>", eos_token="<eos>"), "toy")


@pytest.fixture(scope="module")
def wiki():
    with shared("data/wikitext2/wiki.test.raw").open(encoding="utf-8", newline="") as lines:
        return lines.read(1900)


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


def test_text_without_tokens_is_not_counted(toy):
    for bos in ("auto", "never"):
        got = perplexity(toy, [" \n ", "a b c", "", " "], windows=Windows(bos=bos))
        scored = "a b c" if bos == "auto" else " b c"
        assert (got.bytes, got.words) == (len(scored), len(scored.split()))
        assert got.account.documents == 4 and got.account.documents_skipped == 3


def test_words_and_bytes_do_not_depend_on_how_text_is_cut(stories260k, wiki, monkeypatch):
    from decoding.models import encoding

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
    with pytest.raises(ValueError, match=f"no prompts under protocol {protocol}"):
        perplexity(stories260k, [Document(" a cat", "There was")], protocol=protocol)


# Error bars.


def texts_of(rng, count):
    """Documents of unlike lengths over the toy's words, and their ids."""
    lists = [rng.integers(1, 17, rng.integers(2, 40)).tolist() for _ in range(count)]
    return [said(ids) for ids in lists], lists


def test_errors_from_documents_are_the_jackknife_s_and_the_bootstrap_s(toy):
    rng = np.random.default_rng(5)
    texts, lists = texts_of(rng, 60)
    each = [surprisals(toy.model, [0, *ids], 64, 32) for ids in lists]
    sums, counts = np.array([x.sum() for x in each]), np.array([len(x) for x in each])
    got = perplexity(toy, texts)
    assert (got.error_unit, got.units, got.block_length) == ("documents", 60, None)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    jackknife = math.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    picks = rng.integers(0, 60, (4000, 60))
    bootstrap = (sums[picks].sum(1) / counts[picks].sum(1)).std()
    assert got.standard_error == pytest.approx(jackknife, rel=0.03)
    assert got.standard_error == pytest.approx(bootstrap, rel=0.06)
    half = scipy.stats.t.ppf(0.975, 59) * got.standard_error
    assert got.confidence_interval == pytest.approx(
        (math.exp(got.nll_nats - half), math.exp(got.nll_nats + half)), rel=1e-9
    )
    flat = np.concatenate(each)
    naive = flat.std() / math.sqrt(len(flat) - 1)
    assert got.naive_standard_error == pytest.approx(naive, rel=1e-4)
    assert got.record()["standard_error_ratio"] == pytest.approx(
        got.standard_error / naive, rel=1e-4
    )


def test_errors_from_blocks_are_those_of_batch_means(toy):
    rng = np.random.default_rng(6)
    texts, lists = texts_of(rng, 19)
    flat = np.concatenate([surprisals(toy.model, [0, *ids], 64, 32) for ids in lists])
    got = perplexity(toy, texts)
    assert got.error_unit == "blocks"
    length = 1
    while -(-len(flat) // length) > 32:
        length *= 2
    assert (got.block_length, got.units) == (length, -(-len(flat) // length))
    blocks = [flat[i : i + length] for i in range(0, len(flat), length)]
    deviations = [block.sum() - len(block) * flat.mean() for block in blocks]
    units = len(blocks)
    by_hand = math.sqrt(units / (units - 1) * np.square(deviations).sum()) / len(flat)
    assert got.standard_error == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(
    ("errors", "count", "unit"),
    [
        ("auto", 19, "blocks"), ("auto", 20, "documents"),
        ("documents", 2, "documents"), ("blocks", 30, "blocks"),
    ],
)  # fmt: skip
def test_units_of_the_error_as_asked(toy, errors, count, unit):
    got = perplexity(toy, ["a b c d e"] * count, errors=errors)
    assert got.error_unit == unit
    if unit == "documents":
        assert got.units == count
        assert got.standard_error == pytest.approx(0, abs=1e-9)  # they are all alike


def test_one_document_or_one_token_has_no_error(toy):
    for options, text in (({"errors": "documents"}, "a b c"), ({}, "a")):
        got = perplexity(toy, [text], **options)
        record = got.record()
        assert got.standard_error is None and got.confidence_interval is None
        assert record["standard_error_ratio"] is None
        json.dumps(record, allow_nan=False)
    assert got.naive_standard_error is None


def test_an_interval_of_few_tokens_does_not_go_below_one(stories):
    got = perplexity(stories, ["Once upon"])
    low, high = got.confidence_interval
    assert got.nll_nats < 12 * got.standard_error  # Student's t of two blocks reaches below 0
    assert low == 1 and high > math.exp(got.nll_nats)


# Models whose truth is known.


@pytest.mark.parametrize("errors", ["auto", "documents"])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(errors):
    config = GPT2Config(vocab_size=17, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    uniform = LanguageModel(model, words(eos_token="<eos>"), "uniform")
    got = perplexity(uniform, [said([3, 5, 7] * 50), "a b c"], errors=errors)
    assert math.exp(got.nll_nats) == pytest.approx(17, rel=1e-6)
    assert math.exp(got.mean_entropy_nats) == pytest.approx(17, rel=1e-6)
    assert got.confidence_interval == pytest.approx((17, 17), rel=1e-5)


def markov(transition):
    """A model without layers: p(next | last) is a row of a matrix, exactly."""
    size = len(transition)
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=4, num_hidden_layers=0,
        num_attention_heads=1, num_key_value_heads=1, head_dim=2, max_position_embeddings=256,
        tie_word_embeddings=False, rms_norm_eps=0.0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        # The norm scales a unit vector to √size.
        model.get_input_embeddings().weight.copy_(torch.eye(size))
        logits = torch.tensor(np.log(transition) / math.sqrt(size))
        model.get_output_embeddings().weight.copy_(logits.T)
    return LanguageModel(model, words(eos_token="<eos>"), "chain")


@pytest.fixture(scope="module")
def chain():
    """A sticky Markov chain on 17 tokens: transition matrix, stationary distribution."""
    rng = np.random.default_rng(3)
    # Tokens of one half stay among themselves; one half is predictable, the other is not.
    transition = np.full((17, 17), 1e-3)
    transition[:8, :8] += rng.dirichlet(np.full(8, 0.15), 8) * 0.97 + 1e-3
    transition[8:, 8:] += rng.dirichlet(np.full(9, 8.0), 9) * 0.97 + 1e-3
    transition /= transition.sum(1, keepdims=True)
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(values.real)])
    return transition, stationary / stationary.sum()


def walk(transition, start, steps, rng):
    ids = [int(rng.choice(17, p=start))]
    cumulative = transition.cumsum(1)
    for u in rng.random(steps):
        ids.append(min(16, int(np.searchsorted(cumulative[ids[-1]], u))))
    return ids


def test_the_interval_of_a_long_text_holds_the_entropy_rate_of_its_source(chain):
    transition, stationary = chain
    rate = -float(stationary @ (transition * np.log(transition)).sum(1))
    ids = walk(transition, stationary, 24_000, np.random.default_rng(8))
    got = perplexity(markov(transition), [said(ids)], windows=Windows(bos="never"))
    assert got.account.tokens_scored == 24_000
    exact = -np.log(transition[ids[:-1], ids[1:]])
    assert got.nll_nats == pytest.approx(exact.mean(), rel=RELATIVE)
    low, high = got.confidence_interval
    assert low < math.exp(rate) < high
    # The true error by the chain's fundamental matrix: Var ≈ (γ_0 + 2 Σ γ_k) / n.
    surprise = -(transition * np.log(transition)).sum(1)  # of the next step
    square = (transition * np.log(transition) ** 2).sum(1)
    centred = surprise - rate
    fundamental = np.linalg.inv(np.eye(17) - transition + np.outer(np.ones(17), stationary))
    after = transition * (-np.log(transition) - rate)  # first surprise, and where it leads
    gamma = float(stationary @ square) - rate**2
    later = float((stationary[:, None] * after).sum(0) @ fundamental @ centred)
    true_error = math.sqrt((gamma + 2 * later) / 24_000)
    naive = math.sqrt(gamma / 24_000)
    assert true_error > 3 * naive  # what the error bars are for
    assert got.naive_standard_error == pytest.approx(naive, rel=0.1)
    assert got.standard_error == pytest.approx(true_error, rel=0.35)


def test_the_interval_over_documents_holds_the_entropy_rate_of_their_source(chain):
    transition, stationary = chain
    rate = -float(stationary @ (transition * np.log(transition)).sum(1))
    rng = np.random.default_rng(9)
    walks = [walk(transition, stationary, int(rng.integers(20, 250)), rng) for _ in range(120)]
    got = perplexity(markov(transition), [said(ids) for ids in walks], windows=Windows(bos="never"))
    assert (got.error_unit, got.units) == ("documents", 120)
    assert got.account.tokens_context_only == 120
    assert abs(got.nll_nats - rate) < 3.5 * got.standard_error
    sums, counts = zip(
        *((-np.log(transition[ids[:-1], ids[1:]]).sum(), len(ids) - 1) for ids in walks),
        strict=True,
    )
    assert got.nll_nats == pytest.approx(sum(sums) / sum(counts), rel=RELATIVE)


def biased(toy, bias):
    """The toy with a head whose logits are its bias where that is not 0."""
    model = copy.deepcopy(toy.model)
    model.lm_head = torch.nn.Linear(32, 17)
    bias = torch.tensor(bias, dtype=torch.float32)
    model.lm_head.weight.data = toy.model.lm_head.weight * (bias == 0)[:, None]
    model.lm_head.bias.data = bias
    return dataclasses.replace(toy, model=model)


@pytest.mark.parametrize("protocol", ["default", "huggingface", "lm-eval", "gpt2-paper"])
def test_an_impossible_token_makes_infinite_figures_null(toy, protocol):
    twin = biased(toy, [0, 0, 0, 0, 0, -math.inf, *[0] * 11])
    record = perplexity(twin, ["a b c d e f g", "b c d"], protocol=protocol).record()
    assert record["nll_nats"] is None and record["perplexity"] is None
    assert record["confidence_interval"] is None and record["standard_error"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_an_interval_beyond_the_largest_double_has_no_bound(toy):
    twin = biased(toy, [1.0, 1.0, 1.0, 1501.0, *[1.0] * 13])
    record = perplexity(twin, ["c c c c b c b c"]).record()
    assert record["nll_nats"] == pytest.approx(375)
    low, high = record["confidence_interval"]
    assert low >= 0 and high is None
    json.dumps(record, allow_nan=False)


# The account, interruptions, refusals.


@pytest.mark.parametrize("bos", ["auto", "never"])
@pytest.mark.parametrize(("context", "stride"), [(5, 1), (5, 3), (5, 5), (64, 32)])
def test_the_account_adds_up(toy, bos, context, stride):
    texts = ["a b c", "", "d", "p o n m " * 9, " ", "e f"]
    got = perplexity(toy, texts, windows=Windows(context=context, stride=stride, bos=bos))
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


def test_an_interruption_before_anything_is_scored_is_not_caught(toy):
    def documents():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        perplexity(toy, documents())


def test_progress_is_told_of_every_window(toy):
    calls = []
    got = perplexity(
        toy, ["a b c d", "e f g"], windows=Windows(context=2, stride=2),
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
def test_refusals(toy, texts, options, message):
    with pytest.raises(ValueError, match=message):
        perplexity(toy, texts, **options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("context", [0, 65, 66])
def test_a_context_that_the_model_has_not_is_refused_by_its_number(toy, protocol, context):
    with pytest.raises(ValueError, match=rf"context must .*got {context}$"):
        perplexity(toy, ["a b c " * 100], protocol=protocol, windows=Windows(context=context))


def test_the_record_holds_what_it_promises(stories260k):
    record = perplexity(stories260k, ["Once upon a time."]).record()
    assert {
        "perplexity", "nll_nats", "bits_per_byte", "word_perplexity", "standard_error",
        "confidence_interval", "tokens", "tokens_scored", "tokens_context_only", "tokens_skipped",
        "documents", "windows", "naive_standard_error", "standard_error_ratio", "model",
        "protocol", "context", "stride", "bos", "complete",
    } <= set(record)  # fmt: skip
    assert json.loads(json.dumps(record, allow_nan=False)) == record
