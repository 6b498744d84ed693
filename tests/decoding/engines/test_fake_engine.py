"""`decoding.engines.vllm.generate` is `decoding.generate`, in an engine that is hard on rows."""

import numpy as np
import pytest

import decoding
from decoding.engines import vllm as engine
from drawing import SETTINGS
from fake_vllm import FOREIGN, FakeLLM, Parameters, installed
from oracle import TOLERANCE

PROMPTS = ["e", "c j g b", "a b c d e f g h", "e"]


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    installed(monkeypatch)


def assert_alike(ours, theirs):
    """The same sequences, but for the name of the model."""
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        said, wanted = one.record(), other.record()
        for record in (said, wanted):
            del record["model"], record["summary"]
        rows, wanted_rows = said.pop("tokens"), wanted.pop("tokens")
        assert said == wanted
        assert [row["id"] for row in rows] == [row["id"] for row in wanted_rows]
        for row, other_row in zip(rows, wanted_rows, strict=True):
            pairs = row.pop("alternatives", []), other_row.pop("alternatives", [])
            for own, its in zip(*pairs, strict=True):
                assert own == pytest.approx(its, abs=TOLERANCE)
            assert row == pytest.approx(other_row, abs=TOLERANCE)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("setting", [*SETTINGS, "raw while entropy<=1 else top_k=2"])
def test_sequences_are_those_of_generate(toy_words, setting, asynchronous):
    llm = FakeLLM(toy_words, np.random.default_rng(1), asynchronous=asynchronous)
    options = {"seed": 3, "max_new_tokens": 12, "num_return_sequences": 2}
    ours = engine.generate(llm, PROMPTS, setting, **options)
    assert all(llm.events.values()), llm.events
    assert_alike(ours, decoding.generate(toy_words, PROMPTS, setting, **options))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_to_rows(toy_words, seed):
    rng = np.random.default_rng(seed)
    llm = FakeLLM(toy_words, rng, rows=int(rng.integers(1, 7)), asynchronous=seed % 2 == 1)
    options = {"seed": seed, "max_new_tokens": 20}
    setting = "dry_multiplier=1,mirostat_tau=1.5"
    ours = engine.generate(llm, PROMPTS, setting, **options)
    assert_alike(ours, decoding.generate(toy_words, PROMPTS, setting, **options))


def test_alternatives_certainty_and_stop_strings(toy_words):
    llm = FakeLLM(toy_words, np.random.default_rng(0))
    options = {"alternatives": 2, "certainty": True, "stop": ["b", "h"], "seed": 5}
    ours = engine.generate(llm, PROMPTS, "top_p=0.9", max_new_tokens=15, **options)
    theirs = decoding.generate(toy_words, PROMPTS, "top_p=0.9", max_new_tokens=15, **options)
    assert_alike(ours, theirs)
    assert {one.finish_reason for one in ours} >= {"stop"}
    for one, other in zip(ours, theirs, strict=True):
        assert one.alternative_texts == other.alternative_texts
        for name in ("self_certainty_nats", "margin"):
            pair = (getattr(of.trace.certainty, name) for of in (one, other))
            np.testing.assert_allclose(*pair, atol=TOLERANCE)


def test_greedy_answers_beside_samples(toy_words):
    """As `uncertainty` asks for them: only greedy ones have alternatives."""
    llm = FakeLLM(toy_words, np.random.default_rng(0))
    run = engine.VllmRun(
        llm=llm, settings=decoding.DecodingSettings(), max_new_tokens=6, seed=1, stop=[],
        num_return_sequences=2, greedy_too=True, alternatives=3,
    )  # fmt: skip
    greedy, *samples = run.sequences(["c j"], 8)
    assert [greedy.sample, *(one.sample for one in samples)] == [-1, 0, 1]
    assert str(greedy.settings) == "greedy" and greedy.trace.alternatives.ids.shape[1] == 3
    assert all(one.trace.alternatives is None for one in samples)
    [alone] = decoding.generate(toy_words, "c j", "greedy", max_new_tokens=6)
    assert greedy.trace.ids.tolist() == alone.trace.ids.tolist()


def test_requests_of_others_are_left_alone(toy_words):
    """Beside rows that are drawn here, theirs keep their logits to the last bit."""
    llm = FakeLLM(toy_words, np.random.default_rng(2), rows=4)
    given, left = [], []
    inner = llm.processor.apply

    def apply(logits):
        theirs = [row for row, one in llm.rows.items() if not one.parameters.extra_args]
        given.extend(logits[theirs].tolist())
        done = inner(logits)
        left.extend(done[theirs].tolist())
        return done

    llm.processor.apply = apply
    llm.enqueue([{"prompt_token_ids": [FOREIGN]}] * 3, [Parameters(max_tokens=20)] * 3, False)
    others = [*llm.waiting]
    run = engine.VllmRun(
        llm=llm, settings=decoding.DecodingSettings(), max_new_tokens=9, seed=1, stop=[]
    )
    jobs = [engine.Job(i, 0, text, run.encode(text, i)) for i, text in enumerate(PROMPTS[:3])]
    parameters = [run.parameters(run.request(job, job.prompt)) for job in jobs]
    llm.enqueue([{"prompt_token_ids": job.ids} for job in jobs], parameters, False)
    llm.wait_for_completion(False)
    assert given == left and len(given) >= 60
    assert all(len(one.real) == 20 for one in others)


def test_what_is_asked_for_once_is_kept_no_longer(toy_words):
    llm = FakeLLM(toy_words, np.random.default_rng(0))
    engine.generate(llm, PROMPTS, "raw", seed=0, max_new_tokens=4)
    assert not llm.processor.batch._kept
    answers = llm.collective_rpc("decoding_traces", args=(["never"],))
    with pytest.raises(ValueError, match="no trace of request 1 with its 2 ids"):
        engine.traces(answers, [[1, 2]])


def test_an_interrupted_batch_leaves_nothing_in_the_engine(toy_words):
    llm = FakeLLM(toy_words, np.random.default_rng(0))
    steps, inner = iter(range(3)), llm.step

    def step():
        if next(steps, None) is None:
            raise KeyboardInterrupt
        inner()

    llm.step = step
    with pytest.raises(KeyboardInterrupt):
        engine.generate(llm, PROMPTS, "raw", seed=0, max_new_tokens=9)
    assert not (llm.rows or llm.waiting or llm.processor.batch._kept or llm.processor.batch._rows)
    llm.step = inner
    options = {"seed": 0, "max_new_tokens": 9}
    assert_alike(
        engine.generate(llm, PROMPTS, "raw", **options),
        decoding.generate(toy_words, PROMPTS, "raw", **options),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 60}, "prompt 2 has 4 tokens.*exceeds the model's context of 62"),
        ({"seed": -1}, "seed must be in"),
        ({"stop": [""]}, "a stop string must not be empty"),
        ({"settings": "raw while entropy<=1 else stop"}, "'raw while .* ends a sequence"),
        ({"settings": "target_entropy=9"}, "target_entropy=9 is above ln 17"),
        ({"num_return_sequences": 0}, "num_return_sequences must be >= 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(toy_words, options, message):
    llm = FakeLLM(toy_words, np.random.default_rng(0), max_model_len=62)
    with pytest.raises(ValueError, match=message):
        engine.generate(llm, PROMPTS[:2], **options)
    assert not llm.waiting


def test_an_engine_without_the_processor_is_refused(toy_words):
    llm = FakeLLM(toy_words, np.random.default_rng(0))
    llm.model_config.logits_processors = None
    with pytest.raises(ValueError, match=r"LLM\(model, \*\*decoding.engines.vllm.ENGINE\)"):
        engine.generate(llm, "a")
    with pytest.raises(ValueError, match="llm must be a vllm"):
        engine.check_engine("builtin:stories")
