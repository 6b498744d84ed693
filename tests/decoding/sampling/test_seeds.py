"""Draws of `generate`: they follow the setting, and are a function of seed, prompt and sample."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from decoding import DecodingSettings, generate
from decoding.rows.draw import draw
from decoding.sampling.seeds import uniforms
from drawing import DrawProcessor, assert_follows
from oracle import (
    TEXTS,
    TOLERANCE,
    TOY_TEXTS,
    reference_log_q,
    teacher_forced,
)

# Draws.


@pytest.mark.parametrize("setting", ["raw", "temperature=0.7,top_k=8", "top_p=0.8", "min_p=0.1"])
def test_draws_follow_the_setting(setting):
    settings = DecodingSettings.parse(setting)
    logits = 2 * torch.randn(17, generator=torch.Generator().manual_seed(3))
    points = torch.from_numpy(np.random.default_rng(0).random(20_000))
    tokens = draw(settings.log_probs(logits).expand(20_000, 17), points)
    q = np.exp(reference_log_q(logits.numpy(), settings))
    assert_follows(tokens.numpy(), q)


@pytest.mark.parametrize("setting", ["raw", "temperature=1.5,top_k=5", "min_p=0.1"])
def test_generated_tokens_follow_the_setting(toy, setting):
    model, tokenizer = toy.model, toy.tokenizer
    settings, prompt = DecodingSettings.parse(setting), tokenizer("c j g")["input_ids"]
    generations = generate(
        toy, "c j g", settings, max_new_tokens=1, num_return_sequences=2000,
        batch_size=500, seed=0,
    )  # fmt: skip
    q = np.exp(reference_log_q(teacher_forced(model, prompt, [0])[0], settings))
    assert_follows(np.array([g.trace.ids[0] for g in generations]), q)


def test_generated_pairs_follow_the_chain_rule(toy):
    """Independent draws at each step: q(a, b) = q(a)·q(b | a), and an EOS ends the pair."""
    model, tokenizer = toy.model, toy.tokenizer
    settings, prompt = DecodingSettings(temperature=1.5, top_k=4), tokenizer("c j g")["input_ids"]

    def next_token(ids):
        return np.exp(reference_log_q(teacher_forced(model, [*prompt, *ids], [0])[0], settings))

    first = next_token([])
    pairs = {(0,): first[0]} if first[0] else {}
    for a in np.flatnonzero(first[1:]) + 1:
        second = next_token([a])
        pairs |= {(a, b): first[a] * second[b] for b in np.flatnonzero(second)}
    assert sum(pairs.values()) == pytest.approx(1)
    generations = generate(
        toy, "c j g", settings, max_new_tokens=2, num_return_sequences=2000,
        batch_size=500, seed=0,
    )  # fmt: skip
    places = {pair: place for place, pair in enumerate(pairs)}
    drawn = [places[tuple(g.trace.ids.tolist())] for g in generations]
    assert_follows(np.array(drawn), np.array([*pairs.values()]))


@pytest.mark.usefixtures("arrays")
def test_draw_is_the_inverse_of_the_cumulative_distribution():
    log_probs = torch.tensor([0.0, 0.25, 0.0, 0.25, 0.5, 0.0]).log()
    points = [0.0, 0.1, 0.25 - 1e-9, 0.25 + 1e-9, 0.5 - 1e-9, 0.5 + 1e-9, 0.99, 1 - 2**-53]
    tokens = draw(log_probs.expand(len(points), 6), torch.tensor(points, dtype=torch.float64))
    assert tokens.tolist() == [1, 1, 1, 3, 3, 4, 4, 4]


@pytest.mark.parametrize("uniform", [0.0, 5e-324, 2**-53, 0.5, 1 - 2**-53])
@pytest.mark.usefixtures("arrays")
def test_extreme_uniforms_draw_no_impossible_token(uniform):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(300, 40, generator=generator)
    logits[torch.rand(300, 40, generator=generator) < 0.7] = -torch.inf
    logits[:, 20] = 0.0
    logits[:50, :20] = logits[50:100, 21:] = -torch.inf
    logits[100:150] = torch.where(logits[100:150].isfinite(), -90.0, -torch.inf)
    logits[100:150, 20] = 0.0  # all others nearly nothing, beside a token that is nearly certain
    log_probs = logits.log_softmax(-1)
    tokens = draw(log_probs, torch.full((300,), uniform, dtype=torch.float64))
    drawn = log_probs.gather(-1, tokens.unsqueeze(-1))
    assert (drawn > -torch.inf).all()


def test_draw_processor_leaves_the_drawn_token_of_each_step_alone():
    points, told = torch.tensor([[0.1, 0.9], [0.6, 0.3]], dtype=torch.float64), []
    processor = DrawProcessor(points, lambda tokens: told.append(tokens.tolist()))
    log_probs = torch.tensor([[0.5, 0.0, 0.5], [0.25, 0.5, 0.25]]).log()
    for drawn in ([0, 1], [2, 1]):
        scores = processor(torch.zeros(2, 1, dtype=torch.long), log_probs)
        assert scores.argmax(-1).tolist() == drawn
        assert scores.isfinite().sum(-1).tolist() == [1, 1]
        assert told[-1] == drawn


# Seeds.


def test_uniforms_are_a_stream_of_seed_prompt_and_sample():
    first = uniforms(1, "a", 0, 2000)
    assert first.dtype == torch.float64
    assert ((first >= 0) & (first < 1)).all()
    assert chisquare(torch.histc(first, 20, 0, 1).numpy()).pvalue > 1e-3
    assert torch.equal(uniforms(1, "a", 0, 7), first[:7])
    others = [uniforms(*key, 1).item() for key in [(2, "a", 0), (1, "b", 0), (1, "a", 1)]]
    assert len({first[0].item(), *others}) == 4


EIGHT = [*TEXTS, "A dog", "One day", "The cat sat on the big red mat and", "She", "He said that"]


def said(generations):
    return {(g.prompt, g.sample): (g.text, g.trace.ids.tolist()) for g in generations}


def test_same_seed_same_text_alone_in_a_batch_and_in_another_order(stories):
    def run(prompts, batch_size):
        return generate(
            stories,
            prompts,
            max_new_tokens=12,
            seed=11,
            batch_size=batch_size,
        )

    together = run(EIGHT, 8)
    alone = [run(prompt, 8)[0] for prompt in EIGHT]
    assert said(together) == said(alone)
    assert said(run(EIGHT[::-1], 3)) == said(together)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(
            one.trace.surprisal_nats, other.trace.surprisal_nats, atol=TOLERANCE
        )


def test_samples_of_a_prompt_are_the_prompt_given_again(stories):
    kwargs = {"max_new_tokens": 10, "seed": 11}
    three = generate(stories, TEXTS[0], num_return_sequences=3, **kwargs)
    again = generate(stories, [TEXTS[0]] * 3, **kwargs)
    assert [g.text for g in three] == [g.text for g in again]
    assert len({g.text for g in three}) == 3
    assert [(g.index, g.sample) for g in three] == [(0, 0), (0, 1), (0, 2)]
    assert [(g.index, g.sample) for g in again] == [(0, 0), (1, 1), (2, 2)]


def test_a_repeated_prompt_goes_on_counting_its_samples(stories):
    kwargs = {"max_new_tokens": 10, "seed": 11, "batch_size": 3}
    first, second = TEXTS[:2]
    mixed = generate(stories, [first, second, first], num_return_sequences=2, **kwargs)
    assert [(g.index, g.sample) for g in mixed] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3)]
    four = generate(stories, first, num_return_sequences=4, **kwargs)
    assert said(four) == {key: value for key, value in said(mixed).items() if key[0] == first}


def test_repeated_prompts_count_samples_of_beams_too(toy):
    generations = generate(
        toy, ["a b", "c", "a b"], num_beams=3, num_return_sequences=2, max_new_tokens=4, seed=0
    )
    assert [(g.index, g.sample) for g in generations] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3),
    ]  # fmt: skip


def test_another_seed_says_something_else(stories):
    texts = {
        seed: [g.text for g in generate(stories, TEXTS, max_new_tokens=10, seed=seed)]
        for seed in (0, 1, 2**64 - 1)
    }
    for one, other in itertools.combinations(texts.values(), 2):
        assert one != other


def test_without_a_seed_one_is_picked_and_reported(toy):
    first, second = (generate(toy, TOY_TEXTS, max_new_tokens=20) for _ in range(2))
    assert len({g.seed for g in first}) == 1
    assert first[0].seed != second[0].seed
    repeated = generate(toy, TOY_TEXTS, max_new_tokens=20, seed=first[0].seed)
    assert said(repeated) == said(first)


def test_globally_seeded_generators_are_neither_read_nor_moved(toy):
    torch.manual_seed(0)
    np.random.seed(0)
    first = generate(toy, TOY_TEXTS, max_new_tokens=9, seed=4)
    after = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    assert after == (torch.rand(1).item(), np.random.rand())
    assert said(generate(toy, TOY_TEXTS, max_new_tokens=9, seed=4)) == said(first)
