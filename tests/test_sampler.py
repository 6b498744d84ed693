"""The step that scales, cuts, draws and traces at once, against the chain, NumPy and χ²."""

import copy
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import chisquare
from transformers import (
    StoppingCriteria,
    StopStringCriteria,
    TextIteratorStreamer,
)
from transformers.generation.streamers import BaseStreamer

import decoding.sampler
from decoding import DecodingSettings, EntropyMonitor, NonFiniteLogitsError, Sampler
from decoding.policy import parse_setting
from decoding.sampling import DrawProcessor, draw, uniforms
from decoding.settings import NEUTRAL
from drawing import (
    ALIKE,
    GREEDY,
    RAW,
    SETTINGS,
    Ban,
    chained,
    counted,
    points_for,
    sample,
)
from oracle import (
    HOSTILE,
    TEXTS,
    TOLERANCE,
    TOY_PROMPTS,
    assert_oracle,
    assert_rows_match,
    editing,
    left_padded,
    log_softmax,
    reference_log_q,
    teacher_forced,
    with_config,
)


def watched(model, prompts, settings, *, eos=None, samples=1, seed=0, alternatives=0, **kwargs):
    """`(prompt, trace)` of each sequence that a left-padded batch of prompts gives."""
    monitor = EntropyMonitor(alternatives=alternatives)
    inputs = left_padded(prompts, 0 if eos is None else int(np.min(eos)))
    sampler = Sampler(settings, seed=seed, monitor=monitor)
    outputs = sample(model, inputs, sampler, eos=eos, num_return_sequences=samples, **kwargs)
    traces = monitor.traces(outputs, eos_token_id=eos)
    assert len(traces) == len(prompts) * samples
    return [(prompts[i // samples], trace) for i, trace in enumerate(traces)]


def assert_inverse_cdf(rows, tokens, points, settings, prompt=()):
    """Each token is the first whose cumulative probability under q exceeds the step's uniform."""
    past, most = list(prompt), None
    for z, token, u in zip(rows, tokens, points, strict=True):
        q = np.exp(reference_log_q(z, settings, ids=past, most_surprisal=most))
        running = np.cumsum(q)
        assert running[token] >= u - TOLERANCE, "the token lies before the point"
        assert running[token] - q[token] <= u + TOLERANCE, "the token lies behind the point"
        past.append(token)
        if settings.mirostat_tau:
            before = 2 * settings.mirostat_tau if most is None else most
            most = before - settings.mirostat_eta * (-np.log(q[token]) - settings.mirostat_tau)


def test_every_field_is_among_the_settings():
    given = {part.split("=")[0] for text in SETTINGS for part in text.split(",")}
    assert set(NEUTRAL) <= given


# One step is the chain, and both pass the oracle.


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("name", "rows", "steps"), [("toy_gpt2", 3, 16), ("stories", 2, 10), ("random_gpt2", 2, 5)]
)
def test_tokens_are_those_of_the_chain_and_both_traces_pass_the_oracle(
    name, rows, steps, setting, request
):
    model, prompts = request.getfixturevalue(name), ALIKE
    if not name.startswith("toy"):
        tokenizer, model = model.tokenizer, model.model
        prompts = [tokenizer(text)["input_ids"][:4] for text in (TEXTS[0], TEXTS[2])]
    settings, inputs = DecodingSettings.parse(setting), {"input_ids": torch.tensor(prompts)}
    points, ours, chain = points_for(rows, steps), EntropyMonitor(), EntropyMonitor()
    sampler = Sampler(settings, points=points, monitor=ours)
    drawn = sample(model, inputs, sampler, new_tokens=steps)
    assert drawn.tolist() == chained(model, inputs, settings, points, chain).tolist()
    # The oracle is slow where the vocabulary is large.
    checked = 2 if name == "random_gpt2" else 8
    for monitor in (ours, chain):
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
def test_alternatives_are_those_of_the_chain(toy_gpt2, setting):
    settings, inputs = DecodingSettings.parse(setting), left_padded(TOY_PROMPTS, 0)
    points = points_for(3, 12)
    ours, chain = EntropyMonitor(alternatives=3), EntropyMonitor(alternatives=3)
    drawn = sample(toy_gpt2, inputs, Sampler(settings, points=points, monitor=ours))
    assert drawn.tolist() == chained(toy_gpt2, inputs, settings, points, chain).tolist()
    for one, other in zip(
        ours.traces(drawn, eos_token_id=None), chain.traces(drawn, eos_token_id=None), strict=True
    ):
        assert one.alternatives.ids.tolist() == other.alternatives.ids.tolist()
        for name in ("probability", "raw_probability"):
            np.testing.assert_allclose(
                getattr(one.alternatives, name), getattr(other.alternatives, name), atol=1e-6
            )


# Draws follow the setting.


def assert_follows(tokens, q):
    """χ² of drawn ids, over runs of ids that are expected five times or more."""
    assert (q[tokens] > 0).all(), "a token of probability zero was drawn"
    cells = np.minimum(np.cumsum(q) * len(tokens) // 5, len(tokens) // 5 - 1).astype(int)
    # A cell that a token has jumped over is empty; the token's own holds its mass.
    expected = np.bincount(cells, q) * len(tokens)
    observed = np.bincount(cells[tokens], minlength=len(expected))
    merged, counts = [0.0], [0]
    for e, o in zip(expected, observed, strict=True):
        if merged[-1] >= 5:
            merged.append(0.0)
            counts.append(0)
        merged[-1] += e
        counts[-1] += o
    if merged[-1] < 5:
        merged[-2:], counts[-2:] = [sum(merged[-2:])], [sum(counts[-2:])]
    assert len(merged) > 2
    assert sum(counts) == len(tokens)
    assert chisquare(counts, np.array(merged) * len(tokens) / sum(merged)).pvalue > 1e-3


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
        q = np.exp(reference_log_q(z, settings, most_surprisal=most))
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


@pytest.mark.parametrize("processors", [[], [Ban(in_place=False)]])
@pytest.mark.parametrize("setting", [*SETTINGS, "raw while entropy<=1 else top_k=2"])
def test_a_few_rows_at_a_time_are_all_rows(toy_llama, monkeypatch, setting, processors):
    settings, points, kept = parse_setting(setting), points_for(3, 12), []
    for portion in (17 * 3, 17 * 2, 5):
        monkeypatch.setattr("decoding.sampler._PORTION", portion)
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


# What else a call of `generate` may ask for.


def banned(z):
    z = z.copy()
    z[::2] = -np.inf
    z[1::4] += 1.5
    return z


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("setting", ["raw", "greedy", "temperature=0.8,top_p=0.9", "p_less=1"])
def test_raw_is_the_models_own_before_other_processors(toy_gpt2, setting, in_place):
    settings, monitor = DecodingSettings.parse(setting), EntropyMonitor()
    outputs = sample(
        toy_gpt2, left_padded(TOY_PROMPTS, 0), Sampler(settings, seed=0, monitor=monitor),
        logits_processor=[Ban(in_place=in_place)], return_dict_in_generate=True,
        output_logits=True,
    )  # fmt: skip
    logits = torch.stack(outputs.logits, dim=1).double().numpy()
    traces = monitor.traces(outputs, eos_token_id=None)
    for prompt, trace, kept in zip(TOY_PROMPTS, traces, logits, strict=True):
        rows = teacher_forced(toy_gpt2, prompt, trace.ids.tolist())
        np.testing.assert_allclose(kept, rows, atol=TOLERANCE)
        for z, record in zip(rows, trace.records(), strict=True):
            log_p = log_softmax(z)
            log_q = reference_log_q(banned(z), settings)
            token, inside = record["id"], log_q > -np.inf
            q = np.exp(log_q[inside])
            assert token % 2 == 1
            want = {
                "surprisal_nats": -log_q[token],
                "entropy_nats": -(q * log_q[inside]).sum(),
                "raw_surprisal_nats": -log_p[token],
                "raw_entropy_nats": -(np.exp(log_p) * log_p).sum(),
                "kept": inside.sum(),
                "kl_nats": (q * (log_q - log_p)[inside]).sum(),
            }
            for name, value in want.items():
                assert record[name] == pytest.approx(value, abs=TOLERANCE), name


def test_tokens_behind_other_processors_are_those_of_the_chain(toy_gpt2):
    settings, inputs = DecodingSettings(top_p=0.9), left_padded(TOY_PROMPTS, 0)
    points = points_for(3, 12)
    drawn = sample(
        toy_gpt2, inputs, Sampler(settings, points=points), logits_processor=[Ban(in_place=True)]
    )
    chain = toy_gpt2.generate(
        **inputs, max_new_tokens=12, eos_token_id=None, pad_token_id=0,
        logits_processor=[Ban(in_place=True), *settings.processors(), DrawProcessor(points)],
        **GREEDY.generate_kwargs(),
    )  # fmt: skip
    assert drawn.tolist() == chain.tolist()


class StopRows(StoppingCriteria):
    """Ends row i at its (i + 2)-th new token."""

    def __init__(self, prompt_length):
        self.prompt_length = prompt_length

    def __call__(self, input_ids, scores, **kwargs):
        generated = input_ids.shape[1] - self.prompt_length
        return torch.arange(len(input_ids)) + 2 <= generated


def test_stopping_criteria_end_the_call(toy_gpt2):
    monitor, inputs = EntropyMonitor(), left_padded(TOY_PROMPTS, 0)
    sampler = Sampler(RAW, seed=0, monitor=monitor)
    drawn = sample(toy_gpt2, inputs, sampler, eos=0, stopping_criteria=[StopRows(8)])
    assert drawn.shape[1] <= 8 + 4
    for i, (prompt, trace) in enumerate(
        zip(TOY_PROMPTS, monitor.traces(drawn, eos_token_id=0, lengths=[2, 3, 4]), strict=True)
    ):
        assert_oracle(toy_gpt2, prompt, trace, RAW)
        assert len(trace) == i + 2


def test_stop_strings_end_where_plain_greedy_search_ends(stories):
    model, tokenizer = stories.model, stories.tokenizer
    inputs = tokenizer(TEXTS[0], return_tensors="pt")
    theirs = model.generate(
        **inputs, do_sample=False, max_new_tokens=60, stop_strings=["."], tokenizer=tokenizer
    )
    stopped = theirs.shape[1] < inputs["input_ids"].shape[1] + 60
    if not stopped and transformers.__version__.startswith("4."):
        pytest.skip("transformers 4 does not find the string with this tokenizer")
    assert stopped
    criteria = [StopStringCriteria(tokenizer, ["."])]
    ours = sample(model, inputs, Sampler(GREEDY, seed=0), new_tokens=60, stopping_criteria=criteria)
    assert ours.tolist() == theirs.tolist()


class Recorder(BaseStreamer):
    def __init__(self):
        self.put_in, self.ended = [], False

    def put(self, value):
        self.put_in.append(value.tolist())

    def end(self):
        self.ended = True


def test_streamer_gets_the_prompts_and_all_tokens(toy_gpt2):
    streamer, inputs = Recorder(), left_padded(TOY_PROMPTS, 0)
    drawn = sample(toy_gpt2, inputs, Sampler(RAW, seed=0, streamer=streamer))
    prompt, *tokens = streamer.put_in
    assert prompt == inputs["input_ids"].tolist()
    assert tokens == drawn[:, 8:].T.tolist()
    assert streamer.ended


def test_streamed_text_is_the_decoded_text(stories):
    tokenizer = stories.tokenizer
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=10)
    inputs = tokenizer(TEXTS[0], return_tensors="pt")
    drawn = sample(stories.model, inputs, Sampler(RAW, seed=0, streamer=streamer))
    assert "".join(streamer) == tokenizer.decode(drawn[0, inputs["input_ids"].shape[1] :])


def test_listener_is_told_the_drawn_ids_of_each_step(toy_gpt2):
    told = []
    sampler = Sampler(RAW, seed=0, listener=lambda tokens: told.append(tokens.tolist()))
    drawn = sample(toy_gpt2, left_padded(TOY_PROMPTS, 0), sampler)
    assert told == drawn[:, 8:].T.tolist()


@pytest.mark.parametrize("setting", ["greedy", "temperature=1.2,top_p=0.9", "mirostat_tau=1.5"])
@pytest.mark.parametrize("name", ["toy_llama", "toy_gpt2"])
def test_static_cache_changes_nothing(name, setting, request):
    model, settings = request.getfixturevalue(name), DecodingSettings.parse(setting)
    dynamic = watched(model, TOY_PROMPTS, settings)
    static = watched(model, TOY_PROMPTS, settings, cache_implementation="static")
    without = watched(model, TOY_PROMPTS, settings, use_cache=False)
    for (_, want), *others in zip(dynamic, static, without, strict=True):
        for _, got in others:
            assert got.ids.tolist() == want.ids.tolist()
            np.testing.assert_allclose(got.surprisal_nats, want.surprisal_nats, atol=TOLERANCE)


@pytest.mark.parametrize("kept", [{}, {"output_scores": True}, {"output_logits": True}])
@pytest.mark.parametrize("setting", ["raw", "greedy"])
def test_scores_of_each_step_hold_the_drawn_token_alone(toy_gpt2, setting, kept):
    sampler = Sampler(DecodingSettings.parse(setting), seed=0)
    inputs = left_padded(TOY_PROMPTS, 0)
    plain = sample(toy_gpt2, inputs, sampler)
    outputs = sample(toy_gpt2, inputs, sampler, return_dict_in_generate=True, **kept)
    assert outputs.sequences.tolist() == plain.tolist()
    assert (outputs.scores is None) == ("output_scores" not in kept)
    for step, scores in enumerate(outputs.scores or ()):
        assert scores.argmax(-1).tolist() == plain[:, 8 + step].tolist()
        assert scores.isfinite().sum(-1).tolist() == [1, 1, 1]
    for one, other in pairwise(outputs.scores or ()):
        assert one.data_ptr() != other.data_ptr()


def test_what_stands_for_scores_answers_greedy_search_alone():
    drawn = decoding.sampler.Drawn(torch.tensor([3, 1]))
    assert torch.argmax(drawn, dim=-1).tolist() == [3, 1]
    with pytest.raises(TypeError, match="wants scores"):
        torch.softmax(drawn, dim=-1)


@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
@pytest.mark.parametrize("setting", ["temperature=0.8,top_k=9", "dry_multiplier=1"])
def test_prompt_given_as_embeddings(name, setting, request):
    model, settings = request.getfixturevalue(name), DecodingSettings.parse(setting)
    prompts = [[3, 1, 4, 1], [5, 9, 2, 6]]
    embeddings = model.get_input_embeddings()(torch.tensor(prompts)).detach()
    monitor = EntropyMonitor()
    sampler = Sampler(settings, points=points_for(2, 12), monitor=monitor)
    inputs = {"inputs_embeds": embeddings, "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    outputs = sample(model, inputs, sampler)
    assert outputs.shape == (2, 12)
    for prompt, trace in zip(prompts, monitor.traces(outputs, eos_token_id=None), strict=True):
        rows = teacher_forced(model, prompt, trace.ids.tolist())
        assert_rows_match(trace, rows, settings)  # the history begins behind the embeddings
    if not settings.looks_back:
        by_ids = sample(
            model, {"input_ids": torch.tensor(prompts)}, Sampler(settings, points=sampler.points)
        )
        assert by_ids[:, 4:].tolist() == outputs.tolist()


def test_embedded_prompts_have_one_stream_each(toy_gpt2):
    embeddings = toy_gpt2.get_input_embeddings()(torch.tensor([[5, 1], [5, 1]])).detach()
    first, second = sample(toy_gpt2, {"inputs_embeds": embeddings}, Sampler(RAW, seed=0)).tolist()
    assert first != second


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("setting", ["greedy", "temperature=0.7,top_p=0.9", "target_entropy=1"])
def test_half_precision_models_are_measured_in_float32(toy_llama, dtype, setting):
    model, settings = copy.deepcopy(toy_llama).to(dtype), DecodingSettings.parse(setting)
    monitor, points = EntropyMonitor(), points_for(3, 12)
    outputs = sample(
        model, left_padded(TOY_PROMPTS, 0), Sampler(settings, points=points, monitor=monitor),
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    logits = torch.stack(outputs.logits, dim=1).double().numpy()
    traces = monitor.traces(outputs, eos_token_id=None)
    for rows, trace, row in zip(logits, traces, points, strict=True):
        assert_rows_match(trace, rows, settings)
        assert_inverse_cdf(rows, trace.ids, row.numpy(), settings)


def test_greedy_is_hugging_face_greedy(stories):
    for text in TEXTS:
        inputs = stories.tokenizer(text, return_tensors="pt")
        theirs = stories.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        ours = sample(stories.model, inputs, Sampler(GREEDY, seed=7), eos=0)
        assert ours.tolist() == theirs.tolist()


def test_no_configuration_is_changed(toy_gpt2):
    before = toy_gpt2.generation_config.to_dict()
    config = copy.deepcopy(toy_gpt2.generation_config)
    config.update(**RAW.generate_kwargs(), max_new_tokens=3)
    given = config.to_dict()
    toy_gpt2.generate(
        torch.tensor([[5]]), generation_config=config, custom_generate=Sampler(RAW, seed=0)
    )
    assert config.to_dict() == given
    assert config.do_sample
    assert toy_gpt2.generation_config.to_dict() == before


# Refusals, before any step.


@pytest.mark.parametrize(("name", "value"), HOSTILE.items())
def test_configurations_that_would_change_the_distribution_are_refused(toy_gpt2, name, value):
    model, calls = counted(with_config(toy_gpt2, **{name: value}))
    neutral = RAW.generate_kwargs()
    del neutral[name]
    with pytest.raises(ValueError, match=rf"{name}=.*generate_kwargs\(\)"):
        model.generate(
            torch.tensor([[5, 1]]), custom_generate=Sampler(RAW, seed=0), max_new_tokens=8,
            **neutral,
        )  # fmt: skip
    assert calls == []
    assert sample(model, {"input_ids": torch.tensor([[5, 1]])}, Sampler(RAW, seed=0)).shape[1] == 14


def test_forgotten_keyword_arguments_are_refused(toy_gpt2):
    model, calls = counted(toy_gpt2)
    with pytest.raises(ValueError, match=r"top_k=50.*generate_kwargs\(\)"):
        model.generate(
            torch.tensor([[5]]),
            custom_generate=Sampler(RAW, seed=0),
            do_sample=True,
            max_new_tokens=2,
        )
    assert calls == []


def test_beams_are_refused(toy_gpt2):
    model, calls = counted(toy_gpt2)
    with pytest.raises(ValueError, match="num_beams=1"):
        sample(model, {"input_ids": torch.tensor([[5]])}, Sampler(RAW, seed=0), num_beams=2)
    assert calls == []


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 12), r"points are for 2 rows, and the call has 3"),
        ((4, 12), r"points are for 4 rows, and the call has 3"),
        ((3, 11), r"points are for 11 steps, and the call may take 12"),
    ],
)
def test_points_that_do_not_fit_the_call_are_refused(toy_gpt2, shape, message):
    model, calls = counted(toy_gpt2)
    with pytest.raises(ValueError, match=message):
        sample(model, left_padded(TOY_PROMPTS, 0), Sampler(RAW, points=points_for(*shape)))
    assert calls == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "takes a seed or points, and not both"),
        ({"seed": 0, "points": torch.zeros(1, 1, dtype=torch.float64)}, "and not both"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
        ({"seed": 2**64}, rf"seed must be in \[0, 2\^64\), got {2**64}"),
        ({"points": torch.zeros(1, 1)}, r"float64, got \(1, 1\) in torch.float32"),
        ({"points": torch.zeros(5, dtype=torch.float64)}, r"\(rows, steps\).* got \(5,\)"),
        ({"points": torch.ones(1, 1, dtype=torch.float64)}, r"points must lie in \[0, 1\)"),
        ({"points": torch.full((1, 1), -0.1).double()}, r"points must lie in \[0, 1\)"),
        ({"points": torch.full((1, 1), torch.nan).double()}, r"points must lie in \[0, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Sampler(RAW, **kwargs)


@pytest.mark.parametrize("monitor", [False, True])
@pytest.mark.parametrize("fault", [float("nan"), float("inf"), "nothing left"])
def test_rows_that_are_no_distribution_name_step_and_row(toy_gpt2, fault, monitor):
    def spoil(step, logits):
        spoiled = logits.clone()
        if step == 2 and fault == "nothing left":
            spoiled[1] = -torch.inf
        elif step == 2:
            spoiled[1, -1, 5] = fault
        return spoiled

    sampler = Sampler(RAW, seed=0, monitor=EntropyMonitor() if monitor else None)
    with pytest.raises(NonFiniteLogitsError, match=r"step 2, row 1\b"):
        sample(editing(toy_gpt2, spoil), left_padded(TOY_PROMPTS, 0), sampler)


def test_a_processor_that_leaves_no_token_is_named_by_step_and_row(toy_gpt2):
    def leave_none(input_ids, scores):
        return scores.index_fill(0, torch.tensor([2]), -torch.inf)

    sampler = Sampler(RAW, seed=0, monitor=EntropyMonitor())
    with pytest.raises(NonFiniteLogitsError, match=r"step 0, row 2\b"):
        sample(toy_gpt2, left_padded(TOY_PROMPTS, 0), sampler, logits_processor=[leave_none])
