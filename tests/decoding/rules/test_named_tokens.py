"""Tokens that a setting names by texts: which ids they become, and where."""

import dataclasses

import numpy as np
import pytest
import torch

from cuts_oracle import softmax
from decoding import DecodingSettings, EntropyMonitor, Sampler, TokenDocument, generate
from decoding.generation.branching import branch
from decoding.rules import Dry, Xtc
from decoding.settings.policy import parse_setting
from decoding_evals.compare import compare
from decoding_evals.identify import identify
from decoding_evals.score import score
from drawing import sample
from oracle import left_padded, without_top_choices
from toys import words


def containing(tokenizer, text):
    """Ids whose token, decoded behind a letter, holds a text."""
    before = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    start = len(tokenizer.decode(before))
    return tuple(
        id_
        for id_ in range(len(tokenizer))
        if id_ not in tokenizer.all_special_ids
        and text in tokenizer.decode([*before, id_], clean_up_tokenization_spaces=False)[start:]
    )


@pytest.mark.parametrize("name", ["stories", "stories260k", "random_gpt2"])
@pytest.mark.parametrize("text", ["\n", ".", ":", " the", "é", '"'])
def test_a_text_stands_for_all_tokens_that_contain_it(name, text, request):
    tokenizer = request.getfixturevalue(name).tokenizer
    want = containing(tokenizer, text)
    setting = DecodingSettings(dry_multiplier=1, dry_breakers=[7, text, 7])
    if not want:
        with pytest.raises(
            ValueError, match=f"no token of the tokenizer contains the text {text!r}"
        ):
            setting.for_tokenizer(tokenizer)
        return
    found = setting.for_tokenizer(tokenizer)
    assert found.dry_breakers == (7, *(id_ for id_ in want if id_ != 7))
    assert found.for_tokenizer(tokenizer) == found
    assert setting.dry_breakers == (7, text, 7)


def test_special_tokens_have_their_names():
    tokenizer = words(bos_token="<eos>", eos_token="<eos>")
    setting = DecodingSettings.parse('xtc_probability=1,xtc_spared="<eos>"/"c"')
    assert setting.for_tokenizer(tokenizer).xtc_spared == (0, 3)
    policy = parse_setting('xtc_probability=1,xtc_spared="c" while entropy<=2 else raw')
    other = parse_setting('raw while entropy<=2 else dry_multiplier=1,dry_breakers="b"')
    assert str(policy.for_tokenizer(tokenizer)).startswith("xtc_probability=1,xtc_spared=3 ")
    assert str(other.for_tokenizer(tokenizer)).endswith("else dry_multiplier=1,dry_breakers=2")
    assert parse_setting(str(policy)) == policy


def test_a_rule_of_ones_own_has_its_texts_looked_up():
    class Sparing(Xtc):
        """Of another name."""

        field = "sparing"
        parameters = tuple(
            one._replace(name=one.name.replace("xtc", "sparing")) for one in Xtc.parameters
        )

    setting = DecodingSettings(extra=[Sparing(0.5, sparing_spared="c")])
    [rule] = setting.for_tokenizer(words(bos_token="<eos>", eos_token="<eos>")).extra
    assert (rule.value, rule.sparing_spared) == (0.5, (3,))


@pytest.mark.parametrize(
    "spec", ['xtc_probability=0.5,xtc_spared="\\n"', 'dry_multiplier=1,dry_breakers="\\n"/3']
)
def test_texts_that_meet_rows_are_refused(spec, toy_gpt2):
    settings = DecodingSettings.parse(spec)
    match = r'holds the text "\\n", and only a tokenizer .* settings.for_tokenizer\(tokenizer\)'
    with pytest.raises(ValueError, match=match):
        settings.rules[0](torch.tensor([[1, 2]]), torch.zeros(1, 5))
    with pytest.raises(ValueError, match=match):
        sample(toy_gpt2, left_padded([[1, 2]], 0), Sampler(settings, seed=0))
    with pytest.raises(ValueError, match=match):
        toy_gpt2.generate(
            torch.tensor([[1, 2]]), max_new_tokens=1,
            **settings.generate_kwargs(monitor=EntropyMonitor()),
        )  # fmt: skip


# What is spared.


@pytest.mark.parametrize("spared", [(), (0,), (2,), (2, 0), (4, 1, 2), (99,)])
@pytest.mark.parametrize("probability", [0.4, 1.0])
def test_spared_tokens_are_never_excluded(spared, probability):
    logits = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).double()
    rule = Xtc(probability, xtc_threshold=0.1, xtc_spared=spared)
    for z, got in zip(logits.numpy(), rule(None, logits).softmax(-1).numpy(), strict=True):
        p = softmax(z)
        left = np.where(without_top_choices(p, 0.1) > 0, p, 0)
        kept = [id_ for id_ in spared if id_ < 5]
        left[kept] = p[kept]
        want = probability * left / left.sum() + (1 - probability) * p
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_breakers_by_text_are_breakers_by_id(toy_words):
    tokenizer = toy_words.tokenizer
    by_text = DecodingSettings(dry_multiplier=2, dry_allowed_length=1, dry_breakers=("b", "e"))
    by_id = dataclasses.replace(by_text, dry_breakers=(2, 5))
    assert by_text.for_tokenizer(tokenizer) == by_id
    ids = torch.tensor([[1, 2, 3, 5, 1, 2, 3]])
    rows = torch.zeros(1, 17)
    want = Dry(2, dry_allowed_length=1, dry_breakers=[2, 5])(ids, rows)
    assert torch.equal(by_text.for_tokenizer(tokenizer).rules[0](ids, rows), want)


# Where a tokenizer is at hand.

SPEC = (
    'dry_multiplier=3,dry_allowed_length=1,dry_breakers="b"/"<eos>",temperature=2,'
    'xtc_probability=0.7,xtc_threshold=0.01,xtc_spared="c"'
)
IDS = SPEC.replace('"b"/"<eos>"', "2/0").replace('"c"', "3")


def test_generate_and_branch_look_texts_up_and_record_them_as_given(toy_words):
    options = {"max_new_tokens": 12, "seed": 3}
    ends = " while entropy<=2.5 else stop"
    for by_text, by_id in [(SPEC + ends, IDS + ends), (SPEC, IDS)]:
        given, same = (
            generate(toy_words, ["a b c", "d"], spec, **options) for spec in (by_text, by_id)
        )
        assert [one.text for one in given] == [one.text for one in same]
        assert given[0].record()["settings"] == by_text
    plain = generate(toy_words, ["a b c", "d"], "temperature=2", **options)
    assert [one.text for one in plain] != [one.text for one in given]
    beams = [generate(toy_words, "a b", of, num_beams=2, **options)[0].text for of in (SPEC, IDS)]
    assert beams[0] == beams[1]
    trees = [branch(toy_words, "a b", of, entropy_above=2, **options) for of in (SPEC, IDS)]
    assert trees[0].root == trees[1].root and str(trees[0].settings) == SPEC


def test_evaluations_look_texts_up(toy_words):
    texts = ["a b c a b c d", "e e c"]
    by_text, by_id = (compare(toy_words, texts, ["raw", spec]) for spec in (SPEC, IDS))
    np.testing.assert_array_equal(by_text.kl.mean, by_id.kl.mean)
    assert by_text.record()["settings"] == ["raw", SPEC]
    by_text, by_id = (
        [one.under_setting.surprisal_nats for one in score(toy_words, texts, setting=spec)]
        for spec in (SPEC, IDS)
    )
    np.testing.assert_array_equal(np.concatenate(by_text), np.concatenate(by_id))
    written = [texts[0], TokenDocument([1, 2, 3], [0])]
    by_text, by_id = (
        [one.record()["log_likelihood_nats"] for one in identify(toy_words, written, ["raw", spec])]
        for spec in (SPEC, IDS)
    )
    assert by_text == by_id
