"""What a call of `model.generate` may ask for beside a `Sampler`."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    StoppingCriteria,
    StopStringCriteria,
    T5Config,
    T5ForConditionalGeneration,
    TextIteratorStreamer,
)
from transformers.generation.streamers import BaseStreamer

import decoding.sampling.sampler
from decoding import DecodingSettings, EntropyMonitor, EntropyPolicy, Sampler
from drawing import (
    GREEDY,
    RAW,
    Ban,
    DrawProcessor,
    assert_inverse_cdf,
    points_for,
    sample,
    watched,
)
from oracle import (
    TEXTS,
    TOLERANCE,
    TOY_PROMPTS,
    assert_oracle,
    assert_rows_match,
    left_padded,
    log_softmax,
    reference_log_q,
    teacher_forced,
)


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


def test_tokens_behind_other_processors_are_those_of_the_processor(toy_gpt2):
    settings, inputs = DecodingSettings(top_p=0.9), left_padded(TOY_PROMPTS, 0)
    points = points_for(3, 12)
    drawn = sample(
        toy_gpt2, inputs, Sampler(settings, points=points), logits_processor=[Ban(in_place=True)]
    )
    theirs = toy_gpt2.generate(
        **inputs, max_new_tokens=12, eos_token_id=None, pad_token_id=0,
        logits_processor=[Ban(in_place=True), *settings.processors(), DrawProcessor(points)],
        **GREEDY.generate_kwargs(),
    )  # fmt: skip
    assert drawn.tolist() == theirs.tolist()


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
    drawn = decoding.sampling.sampler.Drawn(torch.tensor([3, 1]))
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


def test_two_calls_at_once_end_their_own_rows_alone(stories):
    """A policy's endings belong to a call, also where the sampler is shared by threads."""
    policy = EntropyPolicy(entropy_above=2.5, then="stop")
    prompts = [stories.tokenizer(t, return_tensors="pt").input_ids for t in TEXTS[::2]]
    shared, barrier = Sampler(policy, seed=3), threading.Barrier(2)

    def run(sampler, ids):
        return stories.model.generate(
            ids, custom_generate=sampler, max_new_tokens=30, **policy.generate_kwargs()
        )

    def repeat(ids):
        barrier.wait()
        return [run(shared, ids) for _ in range(10)]

    want = [run(Sampler(policy, seed=3), ids) for ids in prompts]
    assert len(want[0][0]) - len(prompts[0][0]) != len(want[1][0]) - len(prompts[1][0])
    with ThreadPoolExecutor(2) as pool:
        for alone, got in zip(want, pool.map(repeat, prompts), strict=True):
            assert all(torch.equal(alone, ids) for ids in got)


def test_the_mask_of_an_encoder_is_not_that_of_the_decoder():
    """DRY looks back at all that the decoder has read, whatever the encoder's padding."""
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=17, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8,
            decoder_start_token_id=0,
        )
    ).eval()  # fmt: skip
    decoder_ids = torch.tensor([[0, 5, 6, 7, 8, 5, 6]] * 2)
    mask = torch.ones_like(decoder_ids)
    mask[1, :3] = 0
    settings = DecodingSettings(dry_multiplier=50, dry_allowed_length=1)
    monitor = EntropyMonitor()
    outputs = model.generate(
        input_ids=torch.full_like(decoder_ids, 4), attention_mask=mask,
        decoder_input_ids=decoder_ids, max_new_tokens=1, eos_token_id=None, pad_token_id=0,
        custom_generate=Sampler(settings, points=points_for(2, 1), monitor=monitor),
        **settings.generate_kwargs(),
    )  # fmt: skip
    for trace in monitor.traces(outputs, eos_token_id=None):
        assert trace.kl_nats[0] > 1e-3 and trace.ids[0] != 7
