"""Error bars of a perplexity: textbook formulas, and models whose truth is known."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from decoding.models.loading import LanguageModel
from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.compare.evaluation import compare
from decoding_evals.compare.models import compare_models
from decoding_evals.perplexity.evaluation import perplexity
from toys import said, surprisals, words

RELATIVE = 1e-5


# Error bars.


def texts_of(rng, count):
    """Documents of unlike lengths over the toy's words, and their ids."""
    lists = [rng.integers(1, 17, rng.integers(2, 40)).tolist() for _ in range(count)]
    return [said(ids) for ids in lists], lists


def test_errors_from_documents_are_the_jackknife_s_and_the_bootstrap_s(toy_words):
    rng = np.random.default_rng(5)
    texts, lists = texts_of(rng, 60)
    each = [surprisals(toy_words.model, [0, *ids], 64, 32) for ids in lists]
    sums, counts = np.array([x.sum() for x in each]), np.array([len(x) for x in each])
    got = perplexity(toy_words, texts)
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


def test_errors_from_blocks_are_those_of_batch_means(toy_words):
    rng = np.random.default_rng(6)
    texts, lists = texts_of(rng, 19)
    flat = np.concatenate([surprisals(toy_words.model, [0, *ids], 64, 32) for ids in lists])
    got = perplexity(toy_words, texts)
    assert got.error_unit == "blocks"
    length = 16
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
def test_units_of_the_error_as_asked(toy_words, errors, count, unit):
    got = perplexity(toy_words, ["a b c d e"] * count, errors=errors)
    assert got.error_unit == unit
    if unit == "documents":
        assert got.units == count
        assert got.standard_error == pytest.approx(0, abs=1e-9)  # they are all alike


def test_one_document_or_one_token_has_no_error(toy_words):
    for options, text in (({"errors": "documents"}, "a b c"), ({}, "a")):
        got = perplexity(toy_words, [text], **options)
        record = got.record()
        assert got.standard_error is None and got.confidence_interval is None
        assert record["standard_error_ratio"] is None
        json.dumps(record, allow_nan=False)
    assert got.naive_standard_error is None


def test_short_texts_have_errors_where_settings_compared_have_them(stories):
    """From the second block of 16 tokens on: tokens one by one are not independent."""
    text = "Once upon a time there was a little girl named Lily. She loved to play in the park."
    for length in range(1, 18):
        some = " ".join(text.split()[:length])
        alone = perplexity(stories, [some])
        compared = compare(stories, [some], [DecodingSettings()])
        models = compare_models(stories, stories, [some])
        units = -(-alone.account.tokens_scored // 16)
        assert alone.units == compared.blocks == models.nll_a.units == units
        error = alone.standard_error
        assert (error is None) == (units == 1)
        if error is not None:
            assert models.nll_a.standard_error == pytest.approx(error, rel=1e-4)
            [[compared_error]] = [compared.covered_cross_entropy.standard_error]
            assert compared_error == pytest.approx(error, rel=1e-4)
    assert units == 2


def test_an_interval_of_few_tokens_does_not_go_below_one(stories):
    got = perplexity(stories, ["Once upon a time there was a little girl named Lily. Qxzqxz!!"])
    assert (got.units, got.block_length) == (2, 16)
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


def biased(toy_words, bias):
    """The toy_words with a head whose logits are its bias where that is not 0."""
    model = copy.deepcopy(toy_words.model)
    model.lm_head = torch.nn.Linear(32, 17)
    bias = torch.tensor(bias, dtype=torch.float32)
    model.lm_head.weight.data = toy_words.model.lm_head.weight * (bias == 0)[:, None]
    model.lm_head.bias.data = bias
    return dataclasses.replace(toy_words, model=model)


@pytest.mark.parametrize("protocol", ["default", "huggingface", "lm-eval", "gpt2-paper"])
def test_an_impossible_token_makes_infinite_figures_null(toy_words, protocol):
    twin = biased(toy_words, [0, 0, 0, 0, 0, -math.inf, *[0] * 11])
    record = perplexity(twin, ["a b c d e f g", "b c d"], protocol=protocol).record()
    assert record["nll_nats"] is None and record["perplexity"] is None
    assert record["confidence_interval"] is None and record["standard_error"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_an_interval_beyond_the_largest_double_has_no_bound(toy_words):
    twin = biased(toy_words, [1.0, 1.0, 1.0, 1501.0, *[1.0] * 13])
    record = perplexity(twin, ["c " * 15 + "b " * 5]).record()
    assert record["nll_nats"] == pytest.approx(375)
    low, high = record["confidence_interval"]
    assert low >= 0 and high is None
    json.dumps(record, allow_nan=False)
