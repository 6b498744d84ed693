"""Engines of vLLM for tests, and what their sequences are held against."""

import gc
import os
from contextlib import contextmanager

import torch

from decoding.engines import vllm as engine
from decoding.sampling.seeds import uniforms
from decoding.settings.policy import GREEDY, EntropyPolicy
from drawing import assert_inverse_cdf
from oracle import TOLERANCE, assert_oracle, teacher_forced

PROMPTS = ["Once upon a time", "The dog", "Tom and his sister went to the park because", "A"]
OPTIONS = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "block_size": 32}
SETTINGS = [
    "raw",
    "greedy",
    "temperature=0.8,top_p=0.95",
    "top_k=40,typical_p=0.9,temperature=1.3",
    "target_entropy=1.5,min_p=0.02",
    "mirostat_tau=2",
    "dry_multiplier=1,temperature=1.2",
    "temperature=1.1,xtc_probability=0.5",
    "adaptive_p=0.4,top_k=30",
    "raw while entropy<=1.5 else temperature=0.5",
]


def saved(language_model, folder):
    """A model as a folder that vLLM reads."""
    language_model.model.save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)
    return str(folder)


@contextmanager
def llm(folder, *, in_process=False, **options):
    """A `vllm.LLM` that draws here, in processes of its own unless it is said otherwise."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    made = LLM(folder, **OPTIONS | engine.ENGINE | options)
    try:
        yield made
    finally:
        made.llm_engine.engine_core.shutdown()
        del made
        gc.collect()
        if in_process:
            cleanup_dist_env_and_memory()


def assert_sequences(language_model, ours, theirs):
    """Tokens and numbers of a `vllm.generate` and a `decoding.generate` with the same arguments.

    Each number is one of float64 arithmetic on the model's own pass, and each token lies at its
    uniform. Where a token differs from the other's, both lie where the uniform is, within rounding;
    gives how many sequences have such a place.
    """
    assert len(ours) == len(theirs) > 0
    ties = 0
    for one, other in zip(ours, theirs, strict=True):
        ids, model = one.trace.ids.tolist(), language_model.model
        settings = GREEDY if one.sample < 0 else one.settings
        assert one.prompt_ids == other.prompt_ids and len(ids) > 0
        rows = teacher_forced(model, one.prompt_ids, ids)
        if not isinstance(settings, EntropyPolicy):
            assert_oracle(model, one.prompt_ids, one.trace, settings)
            points = uniforms(one.seed, one.prompt, max(one.sample, 0), len(ids)).tolist()
            if not settings.greedy:
                assert_inverse_cdf(rows, ids, points, settings, one.prompt_ids)
        if other.trace.ids.tolist() != ids:
            assert_tie(one, other, rows)
            ties += 1
            continue
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        for name, values in one.trace.columns().items():
            if name not in ("text", "rank", "kept"):  # which a tie may move by one
                gap = torch.tensor(values) - torch.tensor(other.trace.columns()[name])
                assert gap.abs().max() < TOLERANCE, name
    return ties


def assert_tie(one, other, rows, width=2e-6):
    """Two sequences part where their uniform lies on the border between two tokens."""
    a, b = one.trace.ids.tolist(), other.trace.ids.tolist()
    step = next(i for i in range(min(len(a), len(b))) if a[i] != b[i])
    assert not one.settings.looks_back, "no such place is known of a setting that looks back"
    log_q = one.settings.log_probs(torch.from_numpy(rows[step : step + 1]))[0].double()
    running = log_q.exp().cumsum(0)
    point = uniforms(one.seed, one.prompt, one.sample, step + 1)[step]
    low, high = sorted((a[step], b[step]))
    assert abs(running[low] - point) < width and running[high - 1] - running[low] < width
