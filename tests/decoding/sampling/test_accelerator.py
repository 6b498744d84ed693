"""What runs on an accelerator: the same code in this machine's memory, and the device itself."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

import decoding.sampling.sampler
from cuts_oracle import applied
from decoding import DecodingSettings, EntropyMonitor, NonFiniteLogitsError, Sampler
from decoding.rows.distribution import Distribution
from decoding.rows.draw import draw
from decoding.sampling.replay import Replay
from drawing import ALIKE, RAW, SETTINGS, Ban, chained, counted, points_for, sample
from oracle import TOY_PROMPTS, editing, left_padded

# In this machine's memory.


def assert_same_traces(kept, atol):
    for one, other in zip(*kept, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        for name, column in one.columns().items():
            np.testing.assert_allclose(other.columns()[name], column, atol=atol, err_msg=name)
        for name, column in vars(one.certainty).items() if one.certainty else ():
            np.testing.assert_allclose(vars(other.certainty)[name], column, atol=atol, err_msg=name)


@pytest.mark.parametrize("setting", SETTINGS)
def test_arrays_of_torch_draw_and_trace_as_those_of_numpy_do(toy_llama, monkeypatch, setting):
    settings, points, kept = DecodingSettings.parse(setting), points_for(3, 12), []
    for numpy_sees in (True, False):
        monkeypatch.setattr("decoding.rows.arrays.numpy_sees", lambda _, seen=numpy_sees: seen)
        monitor = EntropyMonitor(alternatives=2, certainty=True)
        sampler = Sampler(settings, points=points, monitor=monitor)
        outputs = sample(toy_llama, left_padded(TOY_PROMPTS, 0), sampler)
        kept.append(monitor.traces(outputs, eos_token_id=None))
    assert_same_traces(kept, 1e-4)


@pytest.mark.parametrize("processors", [[], [Ban(in_place=False)]])
def test_rows_that_are_mended_without_a_look_are_named_at_the_end(
    toy_gpt2, monkeypatch, processors
):
    def spoil(step, logits):
        return logits.index_fill(0, torch.tensor([1]), torch.nan) if step == 3 else logits

    monkeypatch.setattr("decoding.rows.arrays.numpy_sees", lambda _: False)
    model, calls = counted(editing(toy_gpt2, spoil))
    with pytest.raises(NonFiniteLogitsError, match=r"step 3, row 1\b"):
        sample(
            model, left_padded(TOY_PROMPTS, 0), Sampler(RAW, seed=0), logits_processor=processors
        )
    assert len(calls) == 12


class Rerun(Replay):
    """As a CUDA graph does: from the second call on, the same memory for what goes in and out."""

    def __call__(self, *inputs):
        if not self._warm:
            self._warm = True
            return self._function(*inputs)
        if not self._inputs:
            self._inputs = [None if given is None else given.clone() for given in inputs]
            self._result = self._function(*self._inputs)
        for held, given in zip(self._inputs, inputs, strict=True):
            if held is not None:
                held.copy_(given)
        fresh = self._function(*self._inputs)
        for held, new in zip(flat(self._result), flat(fresh), strict=True):
            held.copy_(new)
        return self._result


def flat(result):
    """The tensors of nested tuples."""
    if isinstance(result, tuple):
        return [tensor for part in result for tensor in flat(part)]
    return [] if result is None else [result]


@pytest.mark.parametrize(
    ("setting", "processors"),
    [(text, []) for text in SETTINGS if "dry" not in text]
    + [(text, [Ban(in_place=True)]) for text in SETTINGS[::8] if "dry" not in text],
)
def test_steps_that_are_launched_again_draw_and_trace_the_same(
    toy_llama, monkeypatch, setting, processors
):
    settings, points, kept, told = DecodingSettings.parse(setting), points_for(3, 12), [], []
    monkeypatch.setattr("decoding.rows.arrays.numpy_sees", lambda _: False)
    monkeypatch.setattr("decoding.sampling.sampler.Replay", Rerun)
    for replays in (False, True):
        monkeypatch.setattr(
            "decoding.sampling.sampler._replays", lambda *_, replays=replays: replays
        )
        monitor = EntropyMonitor(alternatives=2, certainty=True)
        sampler = Sampler(settings, points=points, monitor=monitor, listener=told.append)
        outputs = sample(
            toy_llama, left_padded(TOY_PROMPTS, 0), sampler, logits_processor=processors
        )
        kept.append(monitor.traces(outputs, eos_token_id=None))
        assert torch.stack(told[-12:], -1).tolist() == outputs[:, -12:].tolist()
    assert_same_traces(kept, 0)


# On the device.


def on_gpu(test):
    absent = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(absent(test))


def moved(model, inputs, device="cuda"):
    inputs = {name: values.to(device) for name, values in inputs.items()}
    return copy.deepcopy(model).to(device), inputs


@pytest.fixture
def unwaiting(monkeypatch):
    """Makes calls of a class an error where the host waits for the device; gives their number."""

    def watch(cls):
        whole, calls = cls.__call__, []

        def call(*arguments, **kwargs):
            calls.append(cls)
            torch.cuda.set_sync_debug_mode("error")
            try:
                return whole(*arguments, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        monkeypatch.setattr(cls, "__call__", call)
        return calls

    return watch


@on_gpu
@pytest.mark.parametrize("processors", [[], [Ban(in_place=True)]])
@pytest.mark.parametrize("setting", SETTINGS)
def test_no_step_waits_for_the_accelerator(toy_gpt2, unwaiting, setting, processors):
    model, inputs = moved(toy_gpt2, left_padded(TOY_PROMPTS, 0))
    monitor = EntropyMonitor(alternatives=2, certainty=True)
    sampler = Sampler(DecodingSettings.parse(setting), seed=0, monitor=monitor)
    steps = unwaiting(decoding.sampling.sampler._Step)
    outputs = sample(model, inputs, sampler, logits_processor=processors)
    assert len(steps) == 12
    assert len(monitor.traces(outputs, eos_token_id=None)) == 3


@on_gpu
@pytest.mark.parametrize("setting", SETTINGS)
def test_no_processor_waits_for_the_accelerator(toy_gpt2, unwaiting, setting):
    settings, points = DecodingSettings.parse(setting), points_for(3, 12).cuda()
    model, inputs = moved(toy_gpt2, {"input_ids": torch.tensor(ALIKE)})
    one = sample(model, inputs, Sampler(settings, points=points))
    monitor = EntropyMonitor(alternatives=2, certainty=True)
    steps = unwaiting(LogitsProcessorList)
    other = chained(model, inputs, settings, points, monitor)
    assert len(steps) == 12
    assert one.tolist() == other.tolist()
    assert len(monitor.traces(other, eos_token_id=None)) == 3


@on_gpu
def test_points_in_this_machines_memory_draw_the_same(toy_gpt2):
    settings, points = DecodingSettings.parse("top_p=0.8"), points_for(3, 12)
    model, inputs = moved(toy_gpt2, {"input_ids": torch.tensor(ALIKE)})
    here, there = (chained(model, inputs, settings, each, None) for each in (points, points.cuda()))
    assert here.tolist() == there.tolist()
    assert sample(model, inputs, Sampler(settings, points=points)).tolist() == here.tolist()


# Transformers compiles the model for a static cache.
@on_gpu
@pytest.mark.parametrize(
    ("cache", "setting"),
    [(None, setting) for setting in SETTINGS]
    + [("static", setting) for setting in ("raw", "top_p=0.8", "mirostat_tau=1")],
)
def test_an_accelerator_draws_and_traces_as_a_cpu_does(toy_llama, setting, cache):
    settings, points, kept = DecodingSettings.parse(setting), points_for(3, 12), []
    for device in ("cpu", "cuda"):
        model, inputs = moved(toy_llama, left_padded(TOY_PROMPTS, 0), device)
        monitor = EntropyMonitor()
        sampler = Sampler(settings, points=points, monitor=monitor)
        outputs = sample(model, inputs, sampler, cache_implementation=cache)
        kept.append(monitor.traces(outputs, eos_token_id=None))
    assert_same_traces(kept, 1e-3)


@on_gpu
@pytest.mark.parametrize("monitor", [False, True])
@pytest.mark.parametrize("bad", [0, 1, 3])
def test_an_accelerator_names_faults_at_the_end(toy_gpt2, bad, monitor):
    def spoil(step, logits):
        row = torch.tensor([1], device=logits.device)
        return logits.index_fill(0, row, torch.nan) if step == bad else logits

    model, inputs = moved(toy_gpt2, left_padded(TOY_PROMPTS, 0))
    sampler = Sampler(RAW, seed=0, monitor=EntropyMonitor() if monitor else None)
    with pytest.raises(NonFiniteLogitsError, match=rf"step {bad}, row 1\b"):
        sample(editing(model, spoil), inputs, sampler)


def trying_rows(vocab):
    """Flat, peaked, tied, masked and nearly certain rows, `(7, vocab)`, float64."""
    noise = torch.from_numpy(np.random.default_rng(vocab).normal(size=(7, vocab)))
    rows = noise * torch.tensor([0.05, 1.0, 4.0, 12.0, 1.0, 3.0, 1.0])[:, None]
    rows[4] = 2.5
    rows[5] = (rows[5] * 2).round() / 2
    rows[5, ::3] = -math.inf
    rows[6, 1:] = -math.inf
    return rows


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [17, 50_257, 151_936])
@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("top_n_sigma", 1.0), ("top_h", 0.4), ("top_k", 50), ("top_p", 0.9), ("min_p", 0.05),
        ("typical_p", 0.9), ("epsilon_cutoff", 1e-4), ("eta_cutoff", 1e-3), ("p_less", 1.0),
        ("kl_budget", 0.1),
    ],
)  # fmt: skip
def test_an_accelerator_keeps_what_a_cpu_keeps(rule, value, vocab, dtype):
    rows = trying_rows(vocab).to(dtype)
    here, there = (applied(rule, logits, value).cpu() > -math.inf for logits in (rows, rows.cuda()))
    assert here.any(-1).all()
    # Exponentials differ in the last bit, which can move the end of a prefix by a token.
    assert (here != there).sum(-1).max() <= (0 if dtype == torch.float64 else 1)


@on_gpu
@pytest.mark.parametrize("vocab", [17, 50_257, 151_936])
def test_an_accelerator_draws_the_tokens_of_a_cpu(vocab):
    rows = trying_rows(vocab)
    for points in (*points_for(5, len(rows), seed=1), torch.zeros(len(rows)).double()):
        here, there = draw(rows, points), draw(Distribution(rows.cuda()), points.cuda())
        assert there.tolist() == here.tolist()


@on_gpu
@pytest.mark.parametrize(
    "command",
    [
        "generate Once --seed 1 --top-p 0.9 --max-new-tokens 20",
        "generate Once --seed 1 --setting mirostat_tau=3 --max-new-tokens 20",
        "generate Once --seed 1 --num-beams 3 --max-new-tokens 20",
        "score",
        "compare --setting raw --setting top_p=0.9,temperature=0.7 --setting typical_p=0.9",
        "attention",
        "identify --setting raw --setting top_p=0.9",
        "doctor",
    ],
)
def test_commands_say_the_same_on_both(run, command):
    def told(device):
        options = ("--device", device, "--dtype", "float32", "--json")
        code, out, err = run(*command.split(), *options, stdin=text.encode())
        assert code == 0, err
        return list(numbers([json.loads(line) for line in out.splitlines()]))

    def numbers(value):
        """What is no float, and the floats, in their order."""
        if isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                # The figures of these checks are rounding itself.
                if not (command == "doctor" and key in ("figure", "limit", "message")):
                    yield from numbers(inner)
        else:
            yield value

    text = "Once upon a time there was a little dog named Max. He found a rock."
    here, there = told("cpu"), told("cuda")
    assert [v for v in there if not isinstance(v, float)] == [
        v for v in here if not isinstance(v, float)
    ]
    floats = ([v for v in values if isinstance(v, float)] for values in (here, there))
    np.testing.assert_allclose(*floats, rtol=1e-3, atol=1e-3)
