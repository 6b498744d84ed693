"""A cache for a few sequences alone, and prompts read in parts: preemption, recomputation."""

import pytest
from engines_for_tests import SETTINGS, assert_sequences, llm, saved

import decoding
from decoding.engines import vllm as engine

pytestmark = pytest.mark.vllm
LONG = "Once upon a time, there was a little girl named Lily. She had a red ball and a small dog. "
PROMPTS = [LONG * 2, LONG, LONG + "One day", "The dog", "A", "Tom and", LONG + "Then", "She"]


@pytest.fixture(scope="module")
def inside(stories, tmp_path_factory):
    folder = saved(stories, tmp_path_factory.mktemp("stories"))
    pressed = {"num_gpu_blocks_override": 8, "max_num_batched_tokens": 16, "max_num_seqs": 6}
    with llm(
        folder, max_model_len=160, enable_prefix_caching=False, disable_log_stats=False, **pressed
    ) as made:
        yield made


def preemptions(inside):
    [found] = [one for one in inside.get_metrics() if one.name == "vllm:num_preemptions"]
    return found.value


@pytest.mark.parametrize("setting", SETTINGS)
def test_sequences_are_those_of_generate_through_preemption(inside, stories, setting):
    before = preemptions(inside)
    options = {"seed": 7, "max_new_tokens": 60}
    assert len(stories.tokenizer(PROMPTS[0])["input_ids"]) > 2 * 16
    ours = engine.generate(inside, PROMPTS, setting, **options)
    assert preemptions(inside) > before
    theirs = decoding.generate(stories, PROMPTS, setting, **options)
    assert assert_sequences(stories, ours, theirs) <= 1
