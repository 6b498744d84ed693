"""What members, phrasings and contexts change, against plain float64 loops."""

import copy
import itertools
import json
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from decoding.models.loading import LanguageModel
from decoding_evals.uncertainty.estimators.context_gain import ContextRow, context_gain
from decoding_evals.uncertainty.estimators.epistemic import (
    checkpoint_members,
    continuation_logits,
    dropout_members,
    ensemble_uncertainty,
    paraphrase_uncertainty,
)
from oracle import log_softmax, plogp

NATS = 5e-5  # between float32 passes over other batches, on any CPU
CONTEXT, IDS = [5, 3, 9], [2, 7, 7, 1]


def small(seed, tokenizer, **values):
    """An untrained GPT-2 for a tokenizer."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2,
        initializer_range=0.5, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    config.update(values)
    return LanguageModel(GPT2LMHeadModel(config).eval(), tokenizer, f"small-{seed}")


@pytest.fixture(scope="module")
def members(stories):
    return [small(seed, stories.tokenizer) for seed in range(3)]


@pytest.fixture(scope="module")
def dropping(stories):
    return small(0, stories.tokenizer, resid_pdrop=0.3)


@torch.no_grad()
def rows_of(model, context, ids):
    """Float64 logits before each of the ids, one pass for each prefix."""
    prefixes = [[*context, *ids[:end]] for end in range(max(1, len(ids)))]
    return np.stack([model(torch.tensor([p])).logits[0, -1].double().numpy() for p in prefixes])


def parts(logits):
    """total, aleatoric and their difference at each position of `(members, positions, vocab)`."""
    log_p = np.array([[log_softmax(row) for row in member] for member in logits])
    log_mean = np.log(np.exp(log_p).mean(0))
    total = np.array([plogp(row, -row) for row in log_mean])
    aleatoric = np.mean([[plogp(row, -row) for row in member] for member in log_p], axis=0)
    return total, aleatoric, total - aleatoric


def assert_is(got, logits):
    for name, want in zip(
        ("total_nats", "aleatoric_nats", "mutual_information_nats"), parts(logits), strict=True
    ):
        np.testing.assert_allclose(getattr(got, name), want, atol=NATS, err_msg=name)


# Logits along a continuation.


@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
@pytest.mark.parametrize("ids", [IDS, [4], []])
def test_logits_are_those_of_each_prefix(request, name, ids):
    model = request.getfixturevalue(name)
    got = continuation_logits(model, CONTEXT, ids)
    np.testing.assert_allclose(got, rows_of(model, CONTEXT, ids), atol=2e-5)


def test_a_model_that_gives_all_logits_gives_the_same(toy_gpt2, monkeypatch):
    want = continuation_logits(toy_gpt2, CONTEXT, IDS)
    whole = toy_gpt2.forward
    monkeypatch.setattr(
        toy_gpt2, "forward",
        lambda input_ids, attention_mask, use_cache: whole(input_ids),
    )  # fmt: skip
    torch.testing.assert_close(continuation_logits(toy_gpt2, CONTEXT, IDS), want)


def test_what_cannot_be_read_is_refused(toy_gpt2):
    assert continuation_logits(toy_gpt2, [1] * 60, [2] * 5).shape == (5, 17)
    with pytest.raises(ValueError, match="must fit the model's 64 positions, got 65"):
        continuation_logits(toy_gpt2, [1] * 60, [2] * 6)
    with pytest.raises(ValueError, match="context_ids must hold at least one id"):
        continuation_logits(toy_gpt2, [], IDS)


# Checkpoints and phrasings.


@pytest.mark.parametrize("ids", [IDS, []])
def test_checkpoints_against_a_plain_loop(members, ids):
    got = ensemble_uncertainty(checkpoint_members(members), CONTEXT, ids)
    assert_is(got, [rows_of(each.model, CONTEXT, ids) for each in members])
    assert got.mutual_information_nats.min() > 0.1  # they are strangers to each other
    assert (got.members, got.ids) == (3, tuple(ids))


def test_phrasings_against_a_plain_loop(members):
    model = members[0].model
    contexts = [CONTEXT, [8], [1, 2, 3, 4, 5, 6]]
    got = paraphrase_uncertainty(members[0], contexts, IDS)
    assert_is(got, [rows_of(model, context, IDS) for context in contexts])
    assert got.mutual_information_nats.min() > 0.01


def test_members_that_are_one_disagree_about_nothing(stories):
    same = ensemble_uncertainty(checkpoint_members([stories] * 3), CONTEXT, IDS)
    assert same.mutual_information_nats.max() <= 1e-9
    assert same.total_nats.min() > 0.1
    assert paraphrase_uncertainty(stories, [CONTEXT] * 2).mutual_information_nats.max() <= 1e-9


def test_record_sums_the_continuation(members):
    got = ensemble_uncertainty(checkpoint_members(members), CONTEXT, np.array(IDS))
    record = json.loads(json.dumps(got.record(), allow_nan=False))
    assert record["members"] == 3
    along = record["continuation"]
    assert along["tokens"] == 4
    assert [row["id"] for row in along["per_token"]] == IDS
    for name in ("total_nats", "aleatoric_nats", "mutual_information_nats"):
        assert record["next_token"][name] == getattr(got, name)[0]
        assert along[name] == pytest.approx(getattr(got, name).sum())
    assert along["mean_mutual_information_nats"] == pytest.approx(
        got.mutual_information_nats.mean()
    )
    bare = ensemble_uncertainty(checkpoint_members(members), CONTEXT).record()
    assert bare["continuation"] is None
    assert bare["next_token"] == pytest.approx(record["next_token"])


class Vocabulary(NamedTuple):
    """All that is asked of a tokenizer."""

    ids: dict

    def get_vocab(self):
        return self.ids


def test_different_vocabularies_are_refused(members, stories, random_gpt2):
    with pytest.raises(ValueError, match=r"'builtin:stories' and 'random.*' differ at 50"):
        checkpoint_members([stories, random_gpt2])
    ids = stories.tokenizer.get_vocab()
    swapped = ids | {"Ġthe": ids["Ġa"], "Ġa": ids["Ġthe"]}
    other = LanguageModel(stories.model, Vocabulary(swapped), "other")
    with pytest.raises(ValueError, match=r"'small-0' and 'other' differ at 2 ids: .*'Ġa', 'Ġthe'"):
        checkpoint_members([*members, other])
    wider = LanguageModel(small(0, range(2100)).model, stories.tokenizer, "wider")
    with pytest.raises(ValueError, match="logits for ids 0 to 2047, 'wider' for 0 to 2099"):
        checkpoint_members([stories, wider])


def test_one_member_is_refused(members):
    with pytest.raises(ValueError, match="members must be at least 2, got 1"):
        checkpoint_members(members[:1])
    with pytest.raises(ValueError, match="members must be at least 2, got 1"):
        paraphrase_uncertainty(members[0], [CONTEXT])


def test_a_model_in_training_mode_is_refused(dropping):
    dropping.model.train()
    try:
        for call in (
            lambda: paraphrase_uncertainty(dropping, [CONTEXT] * 2),
            lambda: ensemble_uncertainty(checkpoint_members([dropping] * 2), CONTEXT),
        ):
            with pytest.raises(ValueError, match="evaluation mode"):
                call()
    finally:
        dropping.model.eval()


# Monte Carlo dropout.


def test_dropout_passes_against_a_plain_loop(dropping):
    passes = dropout_members(dropping, 4, seed=7)
    logits = [member(CONTEXT, IDS).double().numpy() for member in passes]
    assert_is(ensemble_uncertainty(passes, CONTEXT, IDS), logits)
    assert all(np.abs(a - b).max() > 0.01 for a, b in itertools.pairwise(logits))
    # Many of them have the mean of passes in plain training mode, and not the model's own logits.
    many = [member(CONTEXT, IDS).double().numpy() for member in dropout_members(dropping, 200)]
    own = rows_of(dropping.model, CONTEXT, IDS)
    torch.manual_seed(11)
    dropping.model.train()
    try:
        ids = torch.tensor([[*CONTEXT, *IDS]])
        with torch.no_grad():
            plain = [dropping.model(ids).logits[0, 2:6].double().numpy() for _ in range(200)]
    finally:
        dropping.model.eval()
    error = np.sqrt((np.var(many, axis=0) + np.var(plain, axis=0)) / 200)
    z = (np.mean(many, axis=0) - np.mean(plain, axis=0)) / error
    assert 0.5 < np.sqrt(np.square(z).mean()) < 1.5
    assert np.sqrt(np.square((np.mean(plain, axis=0) - own) / error).mean()) > 3


def test_dropout_is_a_function_of_the_seed_and_disturbs_nothing(dropping):
    def passes(count, seed):
        members = dropout_members(dropping, count, seed=seed)
        return [member(CONTEXT, IDS) for member in members]

    torch.manual_seed(3)
    untouched = torch.rand(4)
    torch.manual_seed(3)
    first = passes(3, seed=1)
    assert torch.equal(torch.rand(4), untouched)
    assert not any(module.training for module in dropping.model.modules())
    assert all(map(torch.equal, first, passes(4, seed=1)))
    others = passes(3, seed=2)
    assert not any(torch.equal(a, b) for a in first for b in others)


def test_the_model_is_left_as_it_was_found_also_after_an_error(dropping):
    model = dropping.model
    model.transformer.h[0].mlp.train()
    before = [module.training for module in model.modules()]
    try:
        with pytest.raises(ValueError, match="positions"):
            dropout_members(dropping, 2)[0]([1] * 65, [])
        assert [module.training for module in model.modules()] == before
        assert 0 < sum(before) < len(before)
    finally:
        model.eval()


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_dropout_is_found_where_attention_calls_the_function(stories, rate):
    config = LlamaConfig(
        vocab_size=17, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, attention_dropout=rate,
    )  # fmt: skip
    torch.manual_seed(0)
    llama = LanguageModel(LlamaForCausalLM(config).eval(), stories.tokenizer, "llama")
    if rate:
        [one, other] = [member(CONTEXT, IDS) for member in dropout_members(llama, 2)]
        assert not torch.equal(one, other)
    else:
        with pytest.raises(ValueError, match=r"that of 'llama' is 0, so every pass"):
            dropout_members(llama, 2)


def test_the_embedded_model_has_no_dropout(stories):
    with pytest.raises(
        ValueError, match=r"'builtin:stories' is 0, so every pass would be the same"
    ):
        dropout_members(stories, 8)


def test_bounds_of_dropout(dropping):
    with pytest.raises(ValueError, match="mc_dropout must be at least 2 passes, got 1"):
        dropout_members(dropping, 1)
    with pytest.raises(ValueError, match="seed must be in"):
        dropout_members(dropping, 2, seed=-1)


# Context gain.

ROWS = [
    ContextRow("The dog was called", "The dog Max ran.", " Max. He was happy."),
    ContextRow("Once upon", "日本 🙂", " a time"),
    ContextRow("Tom and Li", "A girl was called Lily.", "ly went home"),  # one token across
    ContextRow("", "She said:", "Hello"),
    ContextRow("A cat", "", " 🙂 sat"),
]


@pytest.mark.parametrize("name", ["stories", "stories260k"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_gain_against_a_plain_loop(request, name, batch_size):
    language_model = request.getfixturevalue(name)
    tokenizer, model = language_model.tokenizer, language_model.model
    gains = list(context_gain(language_model, ROWS, batch_size=batch_size))
    assert [gain.row for gain in gains] == ROWS
    for gain, row in zip(gains, ROWS, strict=True):
        for asked, got in (
            (row.prompt, gain.log_prob_nats),
            (f"{row.context}\n{row.prompt}", gain.context_log_prob_nats),
        ):
            alone = tokenizer(asked)["input_ids"] or [tokenizer.bos_token_id]
            running = tokenizer(asked + row.answer)["input_ids"]
            if not asked and running[0] != tokenizer.bos_token_id:
                running = [tokenizer.bos_token_id, *running]
            context = running[: -len(gain.ids)]
            if row.prompt:
                assert running[-len(gain.ids) :] == list(gain.ids)
                assert context == alone[: len(context)]
            else:  # a text may begin otherwise than it goes on
                context = alone
            text = "".join(gain.texts)
            assert text.endswith(row.answer)
            rows = rows_of(model, context, gain.ids)
            want = [log_softmax(z)[id_] for z, id_ in zip(rows, gain.ids, strict=True)]
            np.testing.assert_allclose(got, want, atol=NATS)
        record = json.loads(json.dumps(gain.record(), allow_nan=False))
        assert record["gain_nats"] == pytest.approx(
            record["context_log_prob_nats"] - record["log_prob_nats"]
        )
        tokens = record["tokens"]
        assert math.fsum(t["gain_nats"] for t in tokens) == pytest.approx(record["gain_nats"])
        assert "".join(token["text"] for token in tokens) == text


def test_gain_in_a_chat_is_that_after_the_rendered_prompts(stories):
    tokenizer = copy.deepcopy(stories.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    row = ContextRow("The dog was called", "The dog Max ran.", "Max")
    [gain] = context_gain(replace(stories, tokenizer=tokenizer), [row], chat=True)
    assert list(gain.ids) == tokenizer("Max", add_special_tokens=False)["input_ids"]
    for said, got in (
        (row.prompt, gain.log_prob_nats),
        (f"{row.context}\n{row.prompt}", gain.context_log_prob_nats),
    ):
        context = tokenizer(f"<user>{said}\n<assistant>")["input_ids"]
        rows = rows_of(stories.model, context, gain.ids)
        want = [log_softmax(z)[id_] for z, id_ in zip(rows, gain.ids, strict=True)]
        np.testing.assert_allclose(got, want, atol=NATS)


def test_a_token_across_prompt_and_answer_belongs_to_the_answer(stories):
    [gain] = context_gain(stories, [ROWS[2]])
    assert gain.texts[0] == " Lily"


def test_a_context_that_gives_the_answer_gains(stories):
    [gain] = context_gain(stories, [ROWS[0]])
    assert gain.gain_nats.sum() > 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ContextRow("a", "b", ""), "row 2: answer must have at least one token"),
        (ContextRow("", "b", ""), "row 2: answer must have at least one token"),
        (ContextRow("a", "dog " * 600, "b"), "row 2: context, .* model's 512 positions, got 60"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(stories, row, message):
    with pytest.raises(ValueError, match=message):
        list(context_gain(stories, [ROWS[0], row]))


def test_an_impossible_token_leaves_no_infinity_in_the_record(stories, monkeypatch):
    whole = stories.model.lm_head.forward
    [token] = stories.tokenizer(" time")["input_ids"]

    def masked(hidden):
        logits = whole(hidden)
        logits[..., token] = -math.inf
        return logits

    monkeypatch.setattr(stories.model.lm_head, "forward", masked)
    [gain] = context_gain(stories, [ROWS[1]])
    record = json.loads(json.dumps(gain.record(), allow_nan=False))
    assert record["gain_nats"] is record["log_prob_nats"] is None
    assert record["tokens"][-1]["gain_nats"] is None
    assert record["tokens"][0]["gain_nats"] is not None
