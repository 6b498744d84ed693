"""Traces of `model.generate` against teacher forcing in NumPy, and what a monitor refuses."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import StoppingCriteria

from decoding import DecodingSettings, EntropyMonitor, NonFiniteLogitsError
from decoding.rows.distribution import Distribution
from decoding.tracing.step import measured
from oracle import (
    TEXTS,
    TOLERANCE,
    TOY_PROMPTS,
    assert_oracle,
    assert_rows_match,
    call,
    editing,
    left_padded,
    log_softmax,
    modes,
    reference_log_q,
    scripted,
    teacher_forced,
    watch,
)


@modes
@pytest.mark.parametrize("name", ["stories", "stories260k", "random_gpt2"])
def test_trace_equals_teacher_forcing(name, setting, num_beams, samples, request):
    language_model = request.getfixturevalue(name)
    model, settings = language_model.model, DecodingSettings.parse(setting)
    prompts = [language_model.tokenizer(text)["input_ids"] for text in TEXTS]
    beams = {"num_beams": num_beams, "samples": samples}
    # Whatever the first row says fifth shall be the end: a row that ends early in every mode.
    _, free = watch(model, prompts, settings, new_tokens=5, **beams)[0]
    eos = int(free.ids[-1])
    watched = watch(model, prompts, settings, eos=eos, **beams)
    for prompt, trace in watched:
        assert_oracle(model, prompt, trace, settings)
        assert eos not in trace.ids[:-1]
    if num_beams == 1:
        assert len(watched[0][1]) <= 5
        np.testing.assert_array_equal(watched[0][1].ids, free.ids[: len(watched[0][1])])


@modes
@pytest.mark.parametrize("eos", [None, 0, [0, 3, 9]])
@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
def test_toy_trace_equals_teacher_forcing(name, eos, setting, num_beams, samples, request):
    model, settings = request.getfixturevalue(name), DecodingSettings.parse(setting)
    watched = watch(
        model, TOY_PROMPTS, settings, eos=eos, num_beams=num_beams, samples=samples, new_tokens=16
    )
    for prompt, trace in watched:
        assert_oracle(model, prompt, trace, settings)
        early = len(trace) < max(len(other) for _, other in watched)
        assert not early or trace.ids[-1] in np.atleast_1d(eos)
        assert not np.isin(trace.ids[:-1], np.atleast_1d(-1 if eos is None else eos)).any()


STEERED = [
    "edt_theta=0.5,top_n_sigma=1.5",
    "temperature=1.2,dynatemp_range=0.8,dynatemp_exponent=1.5,p_less=0.5",
    "target_entropy=1.2,kl_budget=0.05",
    "temperature=0.9,top_h=0.6",
    "top_k=9,temperature_last=1.7",
    "edt_theta=0.5,min_p=0.1,temperature_last=0.6,xtc_probability=0.5,xtc_threshold=0.05",
    "xtc_probability=0.6,xtc_threshold=0.05",
    "top_k=9,xtc_probability=1,xtc_threshold=0.05",
]
# Padding is id 0, over which nothing repeats here.
LOOKING_BACK = [
    "dry_multiplier=0.8,dry_allowed_length=1,dry_breakers=0/3",
    "dry_multiplier=0.6,dry_base=1.2,dry_allowed_length=1,dry_breakers=0,target_entropy=1,top_k=9",
    "greedy,dry_multiplier=2,dry_allowed_length=1,dry_breakers=0",
    "mirostat_tau=1,mirostat_eta=0.4",
    "temperature=1.5,top_k=12,mirostat_tau=1.5,mirostat_eta=0.3",
    "dry_multiplier=0.5,dry_allowed_length=1,dry_breakers=0,mirostat_tau=0.7",
]


@pytest.mark.parametrize("setting", STEERED + LOOKING_BACK)
@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
def test_steered_mixed_and_looking_back_traces_equal_teacher_forcing(name, setting, request):
    model, settings = request.getfixturevalue(name), DecodingSettings.parse(setting)
    for prompt, trace in watch(model, TOY_PROMPTS, settings, new_tokens=16):
        assert_oracle(model, prompt, trace, settings)
        steered = "temperature" in trace.columns()
        assert steered == any(part in setting for part in ("edt", "dynatemp", "target"))


@pytest.mark.parametrize("setting", [*STEERED, *LOOKING_BACK[:2]])
def test_beams_of_steered_mixed_and_repeating_settings(toy_gpt2, setting):
    settings = DecodingSettings.parse(setting)
    for prompt, trace in watch(toy_gpt2, TOY_PROMPTS, settings, num_beams=3, samples=2):
        assert_oracle(toy_gpt2, prompt, trace, settings)


def test_left_padding_counts_as_history_for_a_processor(toy_gpt2):
    settings = DecodingSettings.parse("dry_multiplier=4,dry_allowed_length=1")
    prompts = [[3, 0], [1, 2, 3, 4, 5, 0]]  # padded with 0, which the prompt ends with too
    for prompt, trace in watch(toy_gpt2, prompts, settings, new_tokens=6):
        rows = teacher_forced(toy_gpt2, prompt, trace.ids.tolist())
        assert_rows_match(trace, rows, settings, [0] * (6 - len(prompt)) + prompt)
        if len(prompt) < 6:
            with pytest.raises(AssertionError):
                assert_rows_match(trace, rows, settings, prompt)


def test_trace_ends_with_the_first_eos(toy_gpt2):
    model = scripted(toy_gpt2, [4, 0], [4, 5, 6, 7], [9, 5, 6, 0])
    watched = watch(model, TOY_PROMPTS, DecodingSettings(temperature=0), eos=[0, 9], new_tokens=4)
    assert [trace.ids.tolist() for _, trace in watched] == [[4, 0], [4, 5, 6, 7], [9]]


def test_lengths_cut_traces_short(toy_gpt2):
    monitor, settings = EntropyMonitor(), DecodingSettings()
    outputs = call(toy_gpt2, left_padded(TOY_PROMPTS, 0), settings, monitor)
    whole = monitor.traces(outputs, eos_token_id=None)
    short = monitor.traces(outputs, eos_token_id=None, lengths=[2, 12, 7])
    for full, part, length in zip(whole, short, [2, 12, 7], strict=True):
        assert part.records() == full.records()[:length]


def test_bare_ids_give_the_same_traces(toy_gpt2):
    monitor = EntropyMonitor()
    outputs = call(toy_gpt2, left_padded(TOY_PROMPTS, 0), DecodingSettings(), monitor, eos=0)
    from_object = monitor.traces(outputs, eos_token_id=0)
    from_ids = monitor.traces(outputs.sequences, eos_token_id=0)
    assert [t.records() for t in from_ids] == [t.records() for t in from_object]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
def test_prompt_given_as_embeddings(name, num_beams, request):
    model, settings = request.getfixturevalue(name), DecodingSettings(temperature=0.8, top_k=9)
    prompts = [[3, 1, 4, 1], [5, 9, 2, 6]]
    embeddings = model.get_input_embeddings()(torch.tensor(prompts)).detach()
    monitor = EntropyMonitor(num_beams=num_beams)
    inputs = {"inputs_embeds": embeddings, "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    outputs = call(model, inputs, settings, monitor, eos=0)
    for prompt, trace in zip(prompts, monitor.traces(outputs, eos_token_id=0), strict=True):
        assert_oracle(model, prompt, trace, settings)


@modes
def test_tokens_that_the_model_rules_out(toy_gpt2, setting, num_beams, samples):
    def rule_out(step, logits):
        return logits.index_fill(-1, torch.tensor([2, 7, 11]), -torch.inf)

    model, settings = editing(toy_gpt2, rule_out), DecodingSettings.parse(setting)
    for prompt, trace in watch(
        model, TOY_PROMPTS, settings, num_beams=num_beams, samples=samples, eos=0
    ):
        assert_oracle(model, prompt, trace, settings)
        assert max(trace.kept) <= 14


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("setting", ["greedy", "raw", "temperature=0.7,top_p=0.9"])
def test_half_precision_logits_are_measured_in_float32(toy_llama, dtype, setting):
    model, settings = copy.deepcopy(toy_llama).to(dtype), DecodingSettings.parse(setting)
    monitor = EntropyMonitor()
    outputs = call(model, left_padded(TOY_PROMPTS, 0), settings, monitor, output_logits=True)
    logits = torch.stack(outputs.logits, dim=1).double().numpy()
    for rows, trace in zip(logits, monitor.traces(outputs, eos_token_id=None), strict=True):
        assert_rows_match(trace, rows, settings)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(("count", "entries"), [(1, 1), (3, 3), (16, 16), (40, 16)])
def test_alternatives_are_the_best_other_tokens(toy_gpt2, num_beams, count, entries):
    settings = DecodingSettings(temperature=0.7, top_k=4)
    for prompt, trace in watch(
        toy_gpt2, TOY_PROMPTS, settings, eos=0, num_beams=num_beams, alternatives=count
    ):
        rows = teacher_forced(toy_gpt2, prompt, trace.ids.tolist())
        assert trace.alternatives.ids.shape == (len(trace), entries)
        for step, (z, token) in enumerate(zip(rows, trace.ids, strict=True)):
            others = [i for i in np.argsort(-z, kind="stable") if i != token][:entries]
            assert trace.alternatives.ids[step].tolist() == others
            for got, log_probs in [
                (trace.alternatives.probability[step], reference_log_q(z, settings)),
                (trace.alternatives.raw_probability[step], log_softmax(z)),
            ]:
                np.testing.assert_allclose(got, np.exp(log_probs)[others], atol=TOLERANCE)


@pytest.mark.parametrize("count", [1, 3, 30, 300])
def test_runners_up_that_are_tied_come_by_id(count):
    logits = -(torch.arange(300) % 7).float().expand(2, -1)  # of 300, 43 share the first place
    raw = Distribution(logits)
    applied = DecodingSettings(top_p=0.9).apply(raw)
    best = measured(raw, applied, torch.tensor([0, 7]), alternatives=count).best
    order = np.argsort(-logits[0].numpy(), kind="stable")[: count + 1]
    assert best[..., 0].long().tolist() == [order.tolist()] * 2


def test_entropy_of_the_latest_step_is_at_hand(toy_gpt2):
    monitor, seen = EntropyMonitor(), []

    class Look(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            seen.append(monitor.entropy_nats.tolist())
            return torch.zeros(len(input_ids), dtype=torch.bool)

    settings = DecodingSettings(top_p=0.9)
    outputs = call(
        toy_gpt2, left_padded(TOY_PROMPTS, 0), settings, monitor, stopping_criteria=[Look()]
    )
    traces = monitor.traces(outputs, eos_token_id=None)
    np.testing.assert_array_equal(np.array(seen).T, [trace.entropy_nats for trace in traces])


# Memory.


def held_bytes(value, seen=None):
    """Bytes of all tensor storages that an object keeps alive."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        new = storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        return storage.nbytes() * new
    if isinstance(value, (list, tuple)):
        return sum(held_bytes(item, seen) for item in value)
    if isinstance(value, dict):
        return sum(held_bytes(item, seen) for item in value.values())
    return 0


@pytest.mark.parametrize("num_beams", [1, 2])
def test_monitor_keeps_no_vocabulary_rows_of_past_steps(random_gpt2, num_beams):
    def held_after(steps):
        monitor = EntropyMonitor(num_beams=num_beams, alternatives=2)
        inputs = {"input_ids": torch.tensor([[464], [383]])}
        call(random_gpt2.model, inputs, DecodingSettings(), monitor, new_tokens=steps)
        return held_bytes(vars(monitor))

    rows, row_bytes = 2 * num_beams, 4 * 50257
    short, long = held_after(4), held_after(40)
    assert long < 4 * rows * row_bytes
    assert long - short < 36 * rows * 2000


# Refusals.


def test_constructor_names_what_is_out_of_range():
    with pytest.raises(ValueError, match=r"alternatives must be >= 0, got -1"):
        EntropyMonitor(alternatives=-1)
    with pytest.raises(ValueError, match=r"num_beams must be >= 1, got 0"):
        EntropyMonitor(num_beams=0)


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
@pytest.mark.parametrize("num_beams", [1, 2])
def test_non_finite_logits_name_step_and_row(toy_gpt2, fault, num_beams):
    def spoil(step, logits):
        spoiled = logits.clone()
        if step == 2:
            spoiled[num_beams, -1, 5] = fault  # the first beam of the second prompt
        return spoiled

    with pytest.raises(NonFiniteLogitsError, match=rf"step 2, row {num_beams}\b") as caught:
        watch(editing(toy_gpt2, spoil), TOY_PROMPTS, DecodingSettings(), num_beams=num_beams)
    assert isinstance(caught.value, ValueError)
    assert caught.value.place == f"step 2, row {num_beams}"


def test_row_without_any_token_is_named(toy_gpt2):
    def spoil(step, logits):
        return logits.index_fill(0, torch.tensor([2]), -torch.inf) if step == 1 else logits

    with pytest.raises(NonFiniteLogitsError, match=r"step 1, row 2\b"):
        watch(editing(toy_gpt2, spoil), TOY_PROMPTS, DecodingSettings())


@pytest.mark.parametrize("setting", ["greedy", "raw"])
@pytest.mark.parametrize("how", ["assistant_model", "prompt_lookup_num_tokens"])
def test_assisted_decoding_is_refused(toy_gpt2, how, setting):
    helper = {"assistant_model": copy.deepcopy(toy_gpt2), "prompt_lookup_num_tokens": 3}[how]
    monitor = EntropyMonitor()
    inputs = {"input_ids": torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2]])}
    with pytest.raises(ValueError, match="assisted decoding"):
        call(toy_gpt2, inputs, DecodingSettings.parse(setting), monitor, eos=0, **{how: helper})


def test_monitor_that_saw_no_step_is_refused():
    with pytest.raises(ValueError, match="saw no step"):
        EntropyMonitor().traces(torch.zeros(1, 3, dtype=torch.long), eos_token_id=None)


def test_beam_outputs_need_num_beams(toy_gpt2):
    settings, monitor = DecodingSettings(), EntropyMonitor()
    with pytest.raises(ValueError, match="EntropyMonitor"):
        monitor.traces(
            toy_gpt2.generate(
                **left_padded(TOY_PROMPTS, 0),
                logits_processor=settings.processors(monitor),
                max_new_tokens=4,
                return_dict_in_generate=True,
                **settings.generate_kwargs(num_beams=2),
            ),
            eos_token_id=0,
        )


def test_num_beams_needs_beam_outputs(toy_gpt2):
    settings, monitor = DecodingSettings(), EntropyMonitor(num_beams=2)
    outputs = call(toy_gpt2, left_padded(TOY_PROMPTS, 0), settings, monitor)
    with pytest.raises(ValueError, match="return_dict_in_generate"):
        monitor.traces(outputs.sequences, eos_token_id=0)
    plain = SimpleNamespace(sequences=outputs.sequences, beam_indices=None)
    with pytest.raises(ValueError, match="num_beams=2"):
        monitor.traces(plain, eos_token_id=0)


@pytest.mark.parametrize("prompt", [2, 4, 7, 8, 11, 16])
def test_bare_ids_of_unannounced_beams_are_refused_or_right(toy_gpt2, prompt):
    """As many rows come back as went in, so only their contents can give the beams away."""
    settings, monitor = DecodingSettings(), EntropyMonitor()
    try:
        sequences = toy_gpt2.generate(
            torch.tensor([[prompt]]),
            logits_processor=settings.processors(monitor),
            max_new_tokens=8,
            num_return_sequences=2,
            eos_token_id=None,
            **settings.generate_kwargs(num_beams=2),
        )
        traces = monitor.traces(sequences, eos_token_id=None)
    except ValueError:
        return
    for trace in traces:
        assert_oracle(toy_gpt2, [prompt], trace, settings)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_monitor_serves_one_call(toy_gpt2, num_beams):
    settings, monitor = DecodingSettings(), EntropyMonitor(num_beams=num_beams)
    inputs = left_padded(TOY_PROMPTS, 0)
    call(toy_gpt2, inputs, settings, monitor)
    with pytest.raises(ValueError, match="one plain generate call"):
        call(toy_gpt2, inputs, settings, monitor)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_second_call_is_refused_though_its_length_continues_the_first(toy_gpt2, num_beams):
    settings, monitor = DecodingSettings(), EntropyMonitor(num_beams=num_beams)
    call(toy_gpt2, {"input_ids": torch.tensor([[1, 2, 3]])}, settings, monitor, new_tokens=4)
    unrelated = {"input_ids": torch.tensor([[9, 8, 7, 6, 5, 4, 3]])}
    with pytest.raises(ValueError, match="EntropyMonitor"):
        monitor.traces(
            call(toy_gpt2, unrelated, settings, monitor, new_tokens=4), eos_token_id=None
        )


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("other", [[[9, 8, 7]], [[1, 2, 3], [4, 5, 6]], [[1, 2]], [[1, 2, 3]]])
def test_sequences_of_another_call_are_refused(toy_gpt2, num_beams, other):
    settings, prompt = DecodingSettings(), {"input_ids": torch.tensor([[1, 2, 3]])}
    watched, unwatched = EntropyMonitor(num_beams=num_beams), EntropyMonitor(num_beams=num_beams)
    call(toy_gpt2, prompt, settings, watched)
    another = DecodingSettings(temperature=0.3)
    outputs = call(toy_gpt2, {"input_ids": torch.tensor(other)}, another, unwatched)
    with pytest.raises(ValueError, match="EntropyMonitor"):
        watched.traces(outputs, eos_token_id=None)


def test_processor_after_ours_that_forces_a_cut_token_is_refused(toy_gpt2):
    settings, monitor = DecodingSettings(top_k=1), EntropyMonitor()
    processors = settings.processors(monitor)
    processors.append(lambda input_ids, scores: -scores.masked_fill(scores == -torch.inf, -1.0))
    outputs = toy_gpt2.generate(
        torch.tensor([[1, 2]]),
        logits_processor=processors,
        max_new_tokens=4,
        **settings.generate_kwargs(),
    )
    with pytest.raises(ValueError, match="probability 0"):
        monitor.traces(outputs, eos_token_id=0)
