"""The step that scales, cuts, draws and traces at once, against the processor, NumPy and χ²."""

from collections import Counter

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, EntropyMonitor, Sampler
from decoding.rows.draw import draw
from decoding.sampling.seeds import uniforms
from decoding.settings.policy import parse_setting
from decoding.settings.settings import FIELDS
from drawing import (
    ALIKE,
    RAW,
    SETTINGS,
    Ban,
    assert_follows,
    assert_inverse_cdf,
    chained,
    points_for,
    sample,
    watched,
)
from oracle import (
    TEXTS,
    TOLERANCE,
    TOY_PROMPTS,
    assert_oracle,
    editing,
    left_padded,
    log_softmax,
    reference_log_q,
    teacher_forced,
)


def test_every_field_is_among_the_settings():
    given = {part.split("=")[0] for text in SETTINGS for part in text.split(",")}
    assert set(FIELDS) <= given


# One step is the processor's, and both pass the oracle.


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("name", "rows", "steps"), [("toy_gpt2", 3, 16), ("stories", 2, 10), ("random_gpt2", 2, 5)]
)
def test_tokens_are_those_of_the_processor_and_both_traces_pass_the_oracle(
    name, rows, steps, setting, request
):
    model, prompts = request.getfixturevalue(name), ALIKE
    if not name.startswith("toy"):
        tokenizer, model = model.tokenizer, model.model
        prompts = [tokenizer(text)["input_ids"][:4] for text in (TEXTS[0], TEXTS[2])]
    settings, inputs = DecodingSettings.parse(setting), {"input_ids": torch.tensor(prompts)}
    points, ours, theirs = points_for(rows, steps), EntropyMonitor(), EntropyMonitor()
    sampler = Sampler(settings, points=points, monitor=ours)
    drawn = sample(model, inputs, sampler, new_tokens=steps)
    assert drawn.tolist() == chained(model, inputs, settings, points, theirs).tolist()
    # The oracle is slow where the vocabulary is large.
    checked = 2 if name == "random_gpt2" else 8
    for monitor in (ours, theirs):
        trace = monitor.traces(drawn, eos_token_id=None, lengths=[checked] * rows)[-1]
        assert_oracle(model, prompts[-1], trace, settings)
    ids = trace.ids.tolist()
    z = teacher_forced(model, prompts[-1], ids)
    assert_inverse_cdf(z, ids, points[-1, :checked].tolist(), settings, prompts[-1])


@pytest.mark.parametrize("setting", SETTINGS)
def test_padded_rows_samples_and_early_ends_pass_the_oracle(toy_llama, setting):
    model, settings, eos = toy_llama, DecodingSettings.parse(setting), [0, 3, 9]
    samples = 1 if settings.greedy else 3
    of_prompts = watched(model, TOY_PROMPTS, settings, eos=eos, samples=samples)
    for prompt, trace in of_prompts:
        assert_oracle(model, prompt, trace, settings)
        early = len(trace) < max(len(other) for _, other in of_prompts)
        assert not early or trace.ids[-1] in eos
        assert not np.isin(trace.ids[:-1], eos).any()


def test_padding_is_no_history(toy_gpt2):
    """The pads are the tokens that a row has said itself, so they would count as repetitions."""
    settings, prompts = (
        DecodingSettings.parse("dry_multiplier=2,dry_allowed_length=1"),
        [[5], [5, 5]],
    )
    inputs, monitor = left_padded([*prompts, [1, 2, 3, 1, 2, 3]], 5), EntropyMonitor()
    outputs = sample(toy_gpt2, inputs, Sampler(settings, seed=0, monitor=monitor))
    for prompt, trace in zip(prompts, monitor.traces(outputs, eos_token_id=None), strict=False):
        assert_oracle(toy_gpt2, prompt, trace, settings)


@pytest.mark.parametrize("setting", ["raw", "top_k=40,typical_p=0.8", "target_entropy=2,top_p=0.9"])
@pytest.mark.parametrize("name", ["stories", "stories260k", "random_gpt2"])
def test_real_vocabularies_padded_with_an_early_end_pass_the_oracle(name, setting, request):
    language_model = request.getfixturevalue(name)
    model, settings = language_model.model, DecodingSettings.parse(setting)
    prompts = [language_model.tokenizer(text)["input_ids"] for text in TEXTS]
    _, free = watched(model, prompts, settings, new_tokens=4)[0]
    eos = int(free.ids[-1])
    of_prompts = watched(model, prompts, settings, eos=eos, new_tokens=8)
    for prompt, trace in of_prompts:
        assert_oracle(model, prompt, trace, settings)
    assert len(of_prompts[0][1]) <= 4
    np.testing.assert_array_equal(of_prompts[0][1].ids, free.ids[: len(of_prompts[0][1])])


@pytest.mark.parametrize("setting", ["raw", "temperature=0.7,top_k=4", "xtc_probability=0.5"])
def test_alternatives_are_those_of_the_processor(toy_gpt2, setting):
    settings, inputs = DecodingSettings.parse(setting), left_padded(TOY_PROMPTS, 0)
    points = points_for(3, 12)
    ours, theirs = EntropyMonitor(alternatives=3), EntropyMonitor(alternatives=3)
    drawn = sample(toy_gpt2, inputs, Sampler(settings, points=points, monitor=ours))
    assert drawn.tolist() == chained(toy_gpt2, inputs, settings, points, theirs).tolist()
    for one, other in zip(
        ours.traces(drawn, eos_token_id=None), theirs.traces(drawn, eos_token_id=None), strict=True
    ):
        assert one.alternatives.ids.tolist() == other.alternatives.ids.tolist()
        for name in ("probability", "raw_probability"):
            np.testing.assert_allclose(
                getattr(one.alternatives, name), getattr(other.alternatives, name), atol=1e-6
            )


# Draws follow the setting.


@pytest.mark.parametrize(
    "setting",
    [
        "raw",
        "top_p=0.8",
        "target_entropy=1.5",
        "typical_p=0.9",
        "xtc_probability=0.5",
        "xtc_probability=1",
        "edt_theta=0.3,min_p=0.02",
        "mirostat_tau=1.2",
    ],
)
def test_drawn_tokens_follow_the_setting(toy_gpt2, setting):
    settings, prompt = DecodingSettings.parse(setting), [3, 7, 10]
    sampler = Sampler(settings, seed=1)
    inputs = {"input_ids": torch.tensor([prompt])}
    drawn = sample(toy_gpt2, inputs, sampler, new_tokens=1, num_return_sequences=3000)
    q = np.exp(reference_log_q(teacher_forced(toy_gpt2, prompt, [0])[0], settings))
    assert_follows(drawn[:, -1].numpy(), q)


def test_what_mirostat_draws_next_follows_what_it_has_drawn(toy_gpt2):
    """Rows whose first tokens differ have different bounds at the second step."""
    settings, prompt = DecodingSettings.parse("mirostat_tau=1.2,mirostat_eta=1"), [5]
    inputs = {"input_ids": torch.tensor([prompt])}
    sampler = Sampler(settings, seed=2)
    drawn = sample(toy_gpt2, inputs, sampler, new_tokens=2, num_return_sequences=4000)[:, -2:]
    first = reference_log_q(teacher_forced(toy_gpt2, prompt, [0])[0], settings)
    tested = 0
    for token, count in Counter(drawn[:, 0].tolist()).items():
        z = teacher_forced(toy_gpt2, [*prompt, token], [0])[0]
        most = 2.4 - (-first[token] - 1.2)
        q = np.exp(reference_log_q(z, settings, memory=most))
        unmoved = np.exp(reference_log_q(z, settings))
        if count >= 200 and (q > 10 / count).sum() > 2:
            assert_follows(drawn[drawn[:, 0] == token, 1].numpy(), q)
            tested += (q != unmoved).any()
    assert tested > 1


@pytest.mark.parametrize(
    "setting",
    [
        "raw",
        "top_p=0.7",
        "target_entropy=3",
        "temperature=0.9,xtc_probability=0.5,xtc_threshold=0.02",
    ],
)
def test_draws_from_a_vocabulary_of_50257_follow_the_setting(random_gpt2, setting):
    settings = DecodingSettings.parse(setting)
    rng = np.random.default_rng(0)
    z = (-1.2 * np.log(1 + rng.permutation(50257)) + 0.1 * rng.standard_normal(50257)).astype("f4")
    model = editing(random_gpt2.model, lambda step, logits: torch.tensor(z).expand_as(logits))
    inputs = {"input_ids": torch.tensor([[464]])}
    drawn = torch.cat(
        [
            sample(model, inputs, Sampler(settings, seed=i), new_tokens=1, num_return_sequences=100)
            for i in range(3)
        ]
    )
    q = np.exp(reference_log_q(z, settings))
    assert settings == RAW or np.abs(q - np.exp(log_softmax(z))).sum() > 0.2
    assert_follows(drawn[:, -1].numpy(), q)


@pytest.mark.parametrize("vocab", [17, 255, 256, 257, 512, 1000, 50257])
def test_draw_is_the_inverse_cdf_of_any_vocabulary(vocab):
    rng = np.random.default_rng(vocab)
    z = 3 * rng.standard_normal(vocab).astype("f4")
    z[rng.random(vocab) < 0.3] = -np.inf
    z[[0, -1]] = 1.0
    points = np.concatenate([rng.random(200), [0.0, 5e-324, 1 - 2**-53]])
    rows = torch.tensor(z).expand(len(points), vocab)
    tokens = draw(rows, torch.from_numpy(points)).numpy()
    assert np.isfinite(z[tokens]).all()
    assert (tokens[200], tokens[202]) == (0, vocab - 1)
    q = np.exp(log_softmax(z.astype(np.float64)))
    running = np.cumsum(q)
    # Probabilities are float32, so a point this near an edge may fall on either side.
    assert (running[tokens] > points - 1e-6).all()
    assert (running[tokens] - q[tokens] <= points + 1e-6).all()


# Seeds.


def test_a_row_alone_is_the_row_in_a_batch(stories):
    prompts = [stories.tokenizer(text)["input_ids"] for text in (*TEXTS, "A dog", "One day")]
    settings = DecodingSettings(top_p=0.95)
    together = watched(stories.model, prompts, settings, seed=5)
    backwards = watched(stories.model, prompts[::-1], settings, seed=5)[::-1]
    for prompt, (_, in_batch), (_, other) in zip(prompts, together, backwards, strict=True):
        [(_, alone)] = watched(stories.model, [prompt], settings, seed=5)
        assert alone.ids.tolist() == in_batch.ids.tolist() == other.ids.tolist()
        np.testing.assert_allclose(alone.surprisal_nats, in_batch.surprisal_nats, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("setting", "processors"),
    [(text, []) for text in (*SETTINGS, "raw while entropy<=1 else top_k=2")]
    + [(text, [Ban(in_place=False)]) for text in (*SETTINGS[::8], SETTINGS[-1])],
)
def test_a_few_rows_at_a_time_are_all_rows(toy_llama, monkeypatch, setting, processors):
    settings, points, kept = parse_setting(setting), points_for(3, 12), []
    for portion in (17 * 3, 17 * 2, 5):
        monkeypatch.setattr("decoding.sampling.outcome.PORTION", portion)
        monitor = EntropyMonitor(alternatives=2)
        outputs = sample(
            toy_llama, left_padded(TOY_PROMPTS, 0),
            Sampler(settings, points=points, monitor=monitor), logits_processor=processors,
        )  # fmt: skip
        kept.append([trace.columns() for trace in monitor.traces(outputs, eos_token_id=None)])
    for portioned in kept[1:]:
        for one, other in zip(kept[0], portioned, strict=True):
            assert {k: v.tolist() for k, v in other.items()} == {
                k: v.tolist() for k, v in one.items()
            }


def test_samples_of_a_prompt_are_the_prompt_given_again(toy_gpt2):
    prompts, settings = [[5], [3, 0, 7, 2]], RAW
    samples = watched(toy_gpt2, prompts, settings, samples=3)
    again = watched(toy_gpt2, [prompts[1], *[prompts[0]] * 3, *[prompts[1]] * 2], settings)
    assert [t.ids.tolist() for _, t in samples] == [
        again[i][1].ids.tolist() for i in (1, 2, 3, 0, 4, 5)
    ]
    assert len({tuple(trace.ids) for _, trace in samples}) == 6


def test_seeds_differ_and_repeat(toy_gpt2):
    said = [
        tuple(watched(toy_gpt2, [[5]], RAW, seed=seed)[0][1].ids) for seed in (0, 1, 2**64 - 1, 0)
    ]
    assert len(set(said)) == 3
    assert said[0] == said[3]


def test_a_sampler_serves_any_number_of_calls(toy_gpt2):
    inputs = left_padded(TOY_PROMPTS, 0)
    for settings in (RAW, DecodingSettings.parse("mirostat_tau=1,mirostat_eta=1")):
        sampler = Sampler(settings, seed=3)
        first, second = (sample(toy_gpt2, inputs, sampler) for _ in range(2))
        assert first.tolist() == second.tolist()


def test_points_and_the_stream_of_a_seed_are_used_one_a_step(toy_gpt2):
    """Row 1 has the points of the seed's stream; one point changes the tokens from there on."""
    points = points_for(2, 12)
    inputs = {"input_ids": torch.tensor([[5], [5]])}
    points[0, 6], changed = 0.001, points.clone()
    changed[0, 6] = 0.999
    one, other = (sample(toy_gpt2, inputs, Sampler(RAW, points=p)) for p in (points, changed))
    assert one[1].tolist() == other[1].tolist()
    assert one[0, :7].tolist() == other[0, :7].tolist()
    assert one[0, 7] != other[0, 7]
    by_seed = sample(toy_gpt2, inputs, Sampler(RAW, seed=9))
    streams = torch.stack([uniforms(9, "5", i, 12) for i in range(2)])
    assert by_seed.tolist() == sample(toy_gpt2, inputs, Sampler(RAW, points=streams)).tolist()


def test_the_global_generator_is_neither_read_nor_moved(toy_gpt2):
    torch.manual_seed(0)
    first = watched(toy_gpt2, TOY_PROMPTS, RAW)
    after = torch.rand(1).item()
    torch.manual_seed(0)
    assert torch.rand(1).item() == after
    torch.manual_seed(1)
    again = watched(toy_gpt2, TOY_PROMPTS, RAW)
    assert [t.records() for _, t in again] == [t.records() for _, t in first]
