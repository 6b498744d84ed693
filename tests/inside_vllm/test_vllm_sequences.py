"""Sequences of vLLM in processes of its own, against `decoding.generate` and float64 arithmetic."""

import pytest
from engines_for_tests import PROMPTS, SETTINGS, assert_sequences, llm, saved

import decoding
from decoding.engines import vllm as engine

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def inside(stories, tmp_path_factory):
    with llm(saved(stories, tmp_path_factory.mktemp("stories"))) as made:
        yield made


@pytest.mark.parametrize("setting", SETTINGS)
def test_tokens_and_traces_are_those_of_generate(inside, stories, setting):
    options = {"seed": 11, "max_new_tokens": 40, "num_return_sequences": 2}
    ours = engine.generate(inside, PROMPTS, setting, **options)
    theirs = decoding.generate(stories, PROMPTS, setting, **options)
    assert [(one.index, one.sample) for one in ours] == [(one.index, one.sample) for one in theirs]
    assert assert_sequences(stories, ours, theirs) <= 1


def test_a_sequence_is_the_same_alone_and_beside_others(inside):
    together = engine.generate(inside, PROMPTS, "top_p=0.9", seed=4, max_new_tokens=30)
    for prompt, one in zip(PROMPTS, together, strict=True):
        [alone] = engine.generate(inside, prompt, "top_p=0.9", seed=4, max_new_tokens=30)
        assert alone.trace.ids.tolist() == one.trace.ids.tolist()


def test_stop_strings_ends_and_alternatives(inside, stories):
    options = {"seed": 2, "max_new_tokens": 200, "stop": [" was", "<|endoftext|>"]}
    options |= {"alternatives": 3, "certainty": True}
    ours = engine.generate(inside, PROMPTS, "temperature=0.6", **options)
    theirs = decoding.generate(stories, PROMPTS, "temperature=0.6", **options)
    assert assert_sequences(stories, ours, theirs) == 0
    assert "stop" in {one.finish_reason for one in ours}
    for one, other in zip(ours, theirs, strict=True):
        assert one.alternative_texts == other.alternative_texts
        pair = (of.trace.certainty.self_certainty_nats for of in (one, other))
        assert next(pair) == pytest.approx(next(pair), abs=1e-4)
    free = engine.generate(inside, PROMPTS, "temperature=0.3", seed=2, max_new_tokens=400)
    assert "eos" in {one.finish_reason for one in free}
    theirs = decoding.generate(stories, PROMPTS, "temperature=0.3", seed=2, max_new_tokens=400)
    assert assert_sequences(stories, free, theirs) == 0


def test_what_the_engine_cannot_honour_is_refused(inside):
    for setting, message in [
        ("raw while entropy<=1 else stop", "ends a sequence"),
        ("target_entropy=99", "above ln"),
    ]:
        with pytest.raises(ValueError, match=message):
            engine.generate(inside, "A", setting)
    with pytest.raises(ValueError, match="exceeds the model's context of 512"):
        engine.generate(inside, "A", max_new_tokens=512)
