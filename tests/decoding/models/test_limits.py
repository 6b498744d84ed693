"""How many tokens a model reads at a time, and which ids: by the model's own code."""

import math

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    MambaConfig,
    MptConfig,
    RobertaConfig,
    XLNetConfig,
    XmodConfig,
)
from transformers.models.whisper import WhisperConfig

from decoding import LanguageModel, TokenDocument, generate
from decoding.models.limits import check_ids, positions
from decoding_evals.doctor.evaluation import doctor
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.score.evaluation import score
from toys import WORDS, words

SMALL = {"vocab_size": 17, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BEHIND_PADDING = {
    **SMALL,
    "intermediate_size": 16,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
}

CONFIGURATIONS = {
    "gpt2": (GPT2Config(vocab_size=17, n_positions=24, n_embd=16, n_layer=1, n_head=2), 24),
    "mpt": (MptConfig(vocab_size=17, d_model=16, n_heads=2, n_layers=1, max_seq_len=24), 24),
    "roberta": (RobertaConfig(**BEHIND_PADDING, is_decoder=True), 22),
    "xmod": (XmodConfig(**BEHIND_PADDING, is_decoder=True, default_language="en_XX"), 22),
    "xlnet": (XLNetConfig(vocab_size=17, d_model=16, n_layer=1, n_head=2, d_inner=16), None),
    "mamba": (MambaConfig(vocab_size=17, hidden_size=16, num_hidden_layers=1), None),
}  # fmt: skip


def untrained(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_limit_is_what_the_model_can_read(name):
    config, limit = CONFIGURATIONS[name]
    model = untrained(config)
    assert positions(model) == limit
    with torch.no_grad():
        assert model(torch.full((1, limit or 100), 5)).logits.isfinite().all()


@pytest.mark.parametrize("name", ["mpt", "roberta", "xmod"])
def test_one_token_more_is_more_than_the_model_can_read(name):
    config, limit = CONFIGURATIONS[name]
    with pytest.raises((IndexError, RuntimeError)), torch.no_grad():
        untrained(config)(torch.full((1, limit + 1), 5))


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": None}, None),
        ({"max_position_embeddings": 0}, None),
        ({"max_position_embeddings": None, "max_sequence_length": 40}, 40),
        ({"max_position_embeddings": None, "n_ctx": 41}, 41),
        ({"max_position_embeddings": 42, "n_ctx": 41}, 42),
        ({"max_position_embeddings": math.inf}, None),
    ],
)
def test_names_and_values_of_a_limit(values, limit):
    model = untrained(MambaConfig(**SMALL))  # which has no limit of its own
    for name, value in values.items():
        setattr(model.config, name, value)
    assert positions(model) == limit


def test_the_decoder_of_whisper_has_a_limit_of_its_own():
    config = WhisperConfig(
        vocab_size=17, d_model=16, decoder_layers=1, encoder_layers=1, decoder_attention_heads=2,
        encoder_attention_heads=2, decoder_ffn_dim=16, encoder_ffn_dim=16, max_target_positions=24,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    assert positions(untrained(config)) == 24


@pytest.mark.parametrize("name", ["mpt", "roberta"])
def test_long_texts_are_cut_by_that_limit(name):
    config, _ = CONFIGURATIONS[name]
    model = LanguageModel(untrained(config), words(bos_token="<eos>", eos_token="<eos>"), "short")
    result = perplexity(model, ["a b c d e f g h " * 10])
    assert result.account.tokens_scored == 80 and result.account.windows > 1


def test_long_prompts_are_refused_by_that_limit():
    config, limit = CONFIGURATIONS["mpt"]
    model = LanguageModel(untrained(config), words(bos_token="<eos>", eos_token="<eos>"), "short")
    with pytest.raises(ValueError, match=f"context of {limit}: set max_new_tokens to at most 2"):
        generate(model, "a " * (limit - 2), max_new_tokens=3)
    [done] = generate(model, "a " * (limit - 2), max_new_tokens=2, seed=1)
    assert len(done.trace.ids) <= 2


@pytest.fixture
def larger_tokenizer(toy_llama):
    """A model of 17 rows, and a tokenizer with two tokens more, one of which is for padding."""
    tokenizer = words(bos_token="<eos>", eos_token="<eos>")
    tokenizer.add_tokens([AddedToken("<image>", special=True)])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.pad_token_id == 18 and toy_llama.config.vocab_size == 17
    return LanguageModel(toy_llama, tokenizer, "larger")


def test_a_larger_tokenizer_changes_nothing_where_its_tokens_do_not_occur(
    larger_tokenizer, toy_words
):
    prompts = ["a b c d e", "f", ""]  # which need padding
    got, want = (
        [
            (g.text, *g.trace.raw_surprisal_nats)
            for g in generate(model, prompts, max_new_tokens=9, seed=3)
        ]
        for model in (larger_tokenizer, toy_words)
    )
    assert got == want
    texts = ["a b c", "d e f g h"]
    got, want = (
        [d.surprisal_nats for d in score(model, texts)] for model in (larger_tokenizer, toy_words)
    )
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_token_without_a_row_is_refused_by_name_where_it_occurs(larger_tokenizer):
    named = r"must be in \[0, 17\), got 17 in {} \('<image>'\): the tokenizer has 19 tokens"
    with pytest.raises(ValueError, match=named.format("prompt 2")):
        generate(larger_tokenizer, ["a", "b <image> c"], max_new_tokens=2)
    with pytest.raises(ValueError, match=named.format("document 2")):
        list(score(larger_tokenizer, ["a b", "b <image> c"]))
    larger_tokenizer.tokenizer.bos_token = "<image>"
    for use, text in ((generate, ""), (score, "a")):
        with pytest.raises(ValueError, match=r"got 17 in .* 1 \('<image>'\)"):
            list(use(larger_tokenizer, [text]))
    larger_tokenizer.tokenizer.bos_token = "<eos>"
    with pytest.raises(ValueError, match=named.format("document 1")):
        list(score(larger_tokenizer, [TokenDocument([3, 17])]))


def test_doctor_notes_tokens_without_a_row(larger_tokenizer):
    notes = doctor(larger_tokenizer, "a b c d e f g h i j k l").notes
    assert "2 tokens of the tokenizer have no row in the model" in notes


@pytest.mark.parametrize("wrong", [-1, 17, 10**6])
def test_ids_that_no_tokenizer_names_are_refused_too(toy_words, wrong):
    with pytest.raises(ValueError, match=rf"\[0, 17\), got {wrong} in here$"):
        check_ids(toy_words.model, toy_words.tokenizer, [1, wrong, 2], "here")
    check_ids(toy_words.model, toy_words.tokenizer, range(len(WORDS)), "here")
    check_ids(toy_words.model, toy_words.tokenizer, [], "here")
