"""`Sampler` inside `model.generate`, measured: seconds of steps and generations, peaks of memory.

Models are untrained GPT-2s without an end. Their logits are flat; to make peaked ones, the last
norm is scaled, which leaves the work of a forward pass what it was.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

BATCHES = (1, 8)
# Standard deviations of the logits, about.
SHAPES = {"flat": 0.55, "peaked": 4.0}
SETTING = "temperature=0.8,top_p=0.9"
PROMPT, NEW = 32, 64
SAMPLERS = (
    "raw",
    SETTING,
    "min_p=0.05",
    "typical_p=0.9",
    "top_n_sigma=1",
    "top_h=0.4",
    "p_less=1",
    "kl_budget=0.1",
    "xtc_probability=0.5",
    "target_entropy=2",
    "edt_theta=0.5",
    "dynatemp_range=0.5",
    "mirostat_tau=3",
    "dry_multiplier=0.8",
)
MEMORY_VOCAB, MEMORY_BATCH, MEMORY_TOKENS = 151_936, 8, 512
GROWTH_VOCABS = (25_000, 50_000, 100_000, 200_000)
GROWTH_BATCHES = (1, 2, 4, 8, 16, 32)


def distil_model(shape: str) -> GPT2LMHeadModel:
    """An untrained model of distilgpt2's shape, with logits of that shape after any token."""
    torch.manual_seed(0)
    # The head of its own keeps the token that was read from being the favourite always.
    model = GPT2LMHeadModel(GPT2Config(n_layer=6, tie_word_embeddings=False)).eval()
    model.transformer.ln_f.weight.data.mul_(SHAPES[shape] / SHAPES["flat"])
    model.generation_config.eos_token_id = None
    return model


class BothEntropies:
    """In a monitor's place: the two entropies, and nothing written down."""

    def begin(self, input_ids: Tensor) -> None:
        pass

    def measure(self, raw: Any, applied: Any, tokens: Tensor) -> Any:
        return raw.entropy, applied.final.entropy

    def record(self, measures: Any) -> None:
        self.entropies = measures


def our_step(batch: int, tokens: int, monitor: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """What a `Sampler` does at each step, and the greedy choice that follows it."""
    from decoding import DecodingSettings, Sampler
    from decoding.sampling.sampler import _Step

    points = torch.rand(batch, tokens, dtype=torch.float64)
    settings = DecodingSettings.parse(SETTING)
    sampler = Sampler(settings, points=points, monitor=monitor)
    step = _Step(sampler, points, starts=None, keeps_scores=False)
    return lambda input_ids, scores: torch.argmax(step(input_ids, scores), -1)


def their_step() -> Callable[[Tensor, Tensor], Tensor]:
    """Hugging Face's warpers and draw."""
    temperature, top_p = TemperatureLogitsWarper(0.8), TopPLogitsWarper(0.9)

    def step(input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = top_p(input_ids, temperature(input_ids, scores))
        return torch.multinomial(scores.softmax(-1), 1).squeeze(1)

    return step


def now() -> float:
    """The clock, s, once a device has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def step_seconds(repeats: int, tokens: int) -> dict[str, dict[str, list[float]]]:
    """By shape and batch: mean seconds of a forward pass and of each step after it."""
    from decoding import EntropyMonitor

    cells = {}
    for shape in SHAPES:
        model = distil_model(shape)
        for batch in BATCHES:
            calls = (repeats + 1) * tokens
            ids = torch.randint(50_257, (batch, PROMPT + calls))
            cache = DynamicCache()
            model(ids[:, :PROMPT], past_key_values=cache)
            steps = {
                "draw": our_step(batch, calls, None),
                "entropies": our_step(batch, calls, BothEntropies()),
                "trace": our_step(batch, calls, EntropyMonitor()),
                "theirs": their_step(),
            }
            sums: dict[str, list[float]] = {name: [] for name in ("forward", *steps)}
            for repeat in range(repeats + 1):
                for seconds in sums.values():
                    seconds.append(0.0)
                for token in range(tokens):
                    at = repeat * tokens + token
                    names = list(steps)
                    # Each takes every place in turn.
                    for name in names[token % len(names) :] + names[: token % len(names)]:
                        start = now()
                        logits = model(ids[:, at, None], past_key_values=cache).logits[:, -1]
                        middle = now()
                        steps[name](ids[:, : PROMPT + at], logits)
                        end = now()
                        sums["forward"][-1] += (middle - start) / tokens / len(steps)
                        sums[name][-1] += (end - middle) / tokens
                        cache.crop(-1)
            cells[f"{shape} {batch}"] = {name: seconds[1:] for name, seconds in sums.items()}
    return cells


def rate_seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way in each repeat, one after the other within the repeat."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name in list(ways) if repeat % 2 == 0 else reversed(ways):
            start = now()
            ways[name]()
            seconds[name].append(now() - start)
    return {name: values[1:] for name, values in seconds.items()}


def generations(model: GPT2LMHeadModel, batch: int, tokens: int) -> dict[str, Callable[[], None]]:
    """Ways to call `model.generate`: greedy, Hugging Face's sampling, ours, and each sampler."""
    from decoding import DecodingSettings, EntropyMonitor, Sampler

    ids = torch.randint(50_257, (batch, PROMPT))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": tokens,
        "pad_token_id": 0,
    }

    def check(output: Any) -> None:
        assert output.shape == (batch, PROMPT + tokens)

    def greedy() -> None:
        check(model.generate(**inputs, do_sample=False))

    def theirs() -> None:
        check(model.generate(**inputs, do_sample=True, temperature=0.8, top_p=0.9, top_k=0))

    def ours(setting: str, traced: bool = True) -> None:
        settings = DecodingSettings.parse(setting)
        monitor = EntropyMonitor() if traced else None
        sampler = Sampler(settings, seed=0, monitor=monitor)
        output = model.generate(**inputs, custom_generate=sampler, **settings.generate_kwargs())
        check(output)
        if monitor is not None:
            assert len(monitor.traces(output, eos_token_id=None)[0]) == tokens

    return {
        "greedy": greedy,
        "theirs": theirs,
        "untraced": partial(ours, SETTING, traced=False),
        "ours": partial(ours, SETTING),
        **{setting: partial(ours, setting) for setting in SAMPLERS},
    }


def end_seconds(repeats: int, tokens: int) -> dict[str, dict[str, list[float]]]:
    """By shape and batch: seconds of each way to generate."""
    cells = {}
    for shape in SHAPES:
        model = distil_model(shape)
        for batch in BATCHES:
            calls = generations(model, batch, tokens)
            ways = {name: calls[name] for name in ("greedy", "theirs", "untraced", "ours")}
            cells[f"{shape} {batch}"] = rate_seconds(ways, repeats)
    return cells


def sampler_seconds(repeats: int, tokens: int) -> dict[str, dict[str, list[float]]]:
    """By shape and batch: seconds of greedy search and of each of our settings."""
    cells = {}
    for shape in SHAPES:
        model = distil_model(shape)
        for batch in BATCHES:
            calls = generations(model, batch, tokens)
            ways = {name: calls[name] for name in ("greedy", "theirs", *SAMPLERS)}
            cells[f"{shape} {batch}"] = rate_seconds(ways, repeats)
    return cells


def growth_seconds(repeats: int, tokens: int) -> dict[str, dict[str, list[float]]]:
    """By shape: mean seconds of a traced step on each vocabulary and batch."""
    from decoding import EntropyMonitor

    cells: dict[str, dict[str, list[float]]] = {}
    for shape, scale in SHAPES.items():
        steps, rows = {}, {}
        for vocab in GROWTH_VOCABS:
            for batch in GROWTH_BATCHES:
                name = f"{vocab} {batch}"
                rows[name] = torch.randn(batch, vocab).mul_(scale)
                steps[name] = our_step(batch, (repeats + 1) * tokens, EntropyMonitor())
        cells[shape] = {name: [] for name in steps}
        for repeat in range(repeats + 1):
            for name, step in steps.items():
                ids = torch.zeros(len(rows[name]), PROMPT + (repeats + 1) * tokens).long()
                start = time.perf_counter()
                for token in range(tokens):
                    step(ids[:, : PROMPT + repeat * tokens + token], rows[name])
                cells[shape][name].append((time.perf_counter() - start) / tokens)
        cells[shape] = {name: values[1:] for name, values in cells[shape].items()}
    return cells


def peak(mode: str, tokens: int) -> float:
    """Peak memory of a process that generates in this way, MiB."""
    import resource

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=MEMORY_VOCAB, n_layer=2, n_embd=64, n_head=2, n_positions=PROMPT + tokens,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    ids = torch.randint(MEMORY_VOCAB, (MEMORY_BATCH, PROMPT))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": tokens,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
    }
    if mode == "ours":
        from decoding import DecodingSettings, EntropyMonitor, Sampler

        settings, monitor = DecodingSettings.parse(SETTING), EntropyMonitor()
        sampler = Sampler(settings, seed=0, monitor=monitor)
        outputs = model.generate(**inputs, custom_generate=sampler, **settings.generate_kwargs())
        assert len(monitor.traces(outputs, eos_token_id=None)[0]) == tokens
    else:
        keeps = {"output_scores": mode == "scores", "output_logits": mode == "scores"}
        outputs = model.generate(
            **inputs, **keeps, do_sample=True, temperature=0.8, top_p=0.9, top_k=0
        )
    assert outputs.sequences.shape[1] == PROMPT + tokens
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
