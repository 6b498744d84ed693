"""Calls of `model.generate` that a `Sampler` draws, or whose processor the draw follows."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import chisquare
from torch import Tensor
from transformers import LogitsProcessor

from decoding import DecodingSettings, EntropyMonitor, Sampler
from decoding.rows.draw import draw
from oracle import TOLERANCE, editing, left_padded, reference_log_q, reference_memory

RAW, GREEDY = DecodingSettings(), DecodingSettings(temperature=0)
SETTINGS = [
    "raw",
    "greedy",
    "greedy,top_p=0.9",
    "temperature=0.7",
    "temperature=1.4",
    "edt_theta=0.5",
    "temperature=1.5,edt_theta=1,edt_base=0.6",
    "dynatemp_range=0.5",
    "temperature=0.8,dynatemp_range=1,dynatemp_exponent=2",
    "target_entropy=1.2",
    "top_n_sigma=1",
    "min_k=20",
    "temperature=0.8,min_k=3,top_p=0.9",
    "top_h=0.5",
    "top_k=5",
    "top_p=0.8",
    "min_p=0.1",
    "typical_p=0.7",
    "epsilon_cutoff=0.03",
    "eta_cutoff=0.05",
    "p_less=1",
    "p_less=0.3",
    "kl_budget=0.3",
    "mirostat_tau=1",
    "temperature=1.2,mirostat_tau=1.5,mirostat_eta=0.7",
    "xtc_probability=0.5",
    "xtc_probability=1,xtc_threshold=0.05",
    "temperature=0.7,top_k=20,top_p=0.9,min_p=0.05",
    "temperature=0.7,top_p=0.9,temperature_last=1.8",
    "temperature_last=0.6,xtc_probability=0.5,xtc_threshold=0.05,xtc_spared=3/5",
    "target_entropy=1,top_p=0.9,min_p=0.02,xtc_probability=0.5,xtc_threshold=0.2",
    "dynatemp_range=0.3,top_n_sigma=2,typical_p=0.9,eta_cutoff=0.001",
    "adaptive_p=0.4",
    "top_k=12,adaptive_p=0.3,adaptive_p_decay=0.5",
    "dry_multiplier=0.8",
    "dry_multiplier=3,dry_base=1.2,dry_allowed_length=1,dry_breakers=3/5,temperature=0.8,top_p=0.9",
]
# Nothing is padded here, so that the processor's DRY sees the history that the sampler's sees.
ALIKE = [[3, 1, 4, 1, 5, 3, 1], [2, 7, 1, 8, 2, 7, 1], [3, 1, 4, 1, 5, 3, 1]]

PROMPTS = [[5, 2, 5, 2], [3, 1, 4], [7]]


def points_for(rows, steps, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((rows, steps)))


def sample(model, inputs, sampler, *, eos=None, new_tokens=12, **kwargs):
    """The outputs of one call that a sampler draws."""
    return model.generate(
        **inputs,
        custom_generate=sampler,
        max_new_tokens=new_tokens,
        eos_token_id=eos,
        pad_token_id=0 if eos is None else int(np.min(eos)),
        **sampler.settings.generate_kwargs() | kwargs,
    )


def chained(model, inputs, settings, points, monitor):
    """The sequences of the plain processor, which the draw follows."""
    return model.generate(
        **inputs,
        logits_processor=[*settings.processors(monitor), DrawProcessor(points)],
        max_new_tokens=points.shape[1],
        eos_token_id=None,
        pad_token_id=0,
        **GREEDY.generate_kwargs(),
    )


def scores_and_logits(model, prompts, **kwargs):
    """Processed scores and the model's own logits, `(steps, rows, vocab)`."""
    torch.manual_seed(0)
    outputs = model.generate(
        **left_padded(prompts, 0),
        **{"max_new_tokens": 5, "pad_token_id": 0} | kwargs,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(outputs.scores), torch.stack(outputs.logits)


class Ban(LogitsProcessor):
    """Rules out even ids and favours the odd ones, in a new tensor or in the one it is given."""

    def __init__(self, *, in_place):
        self.in_place = in_place

    def __call__(self, input_ids, scores):
        scores = scores if self.in_place else scores.clone()
        scores[:, ::2] = -torch.inf
        scores[:, 1::4] += 1.5
        return scores


def counted(model):
    """A model that notes each call in a list, and the list."""
    calls = []

    def note(step, logits):
        calls.append(step)
        return logits

    return editing(model, note), calls


def watched(model, prompts, settings, *, eos=None, samples=1, seed=0, alternatives=0, **kwargs):
    """`(prompt, trace)` of each sequence that a left-padded batch of prompts gives."""
    monitor = EntropyMonitor(alternatives=alternatives)
    inputs = left_padded(prompts, 0 if eos is None else int(np.min(eos)))
    sampler = Sampler(settings, seed=seed, monitor=monitor)
    outputs = sample(model, inputs, sampler, eos=eos, num_return_sequences=samples, **kwargs)
    traces = monitor.traces(outputs, eos_token_id=eos)
    assert len(traces) == len(prompts) * samples
    return [(prompts[i // samples], trace) for i, trace in enumerate(traces)]


def assert_inverse_cdf_of(log_qs, tokens, points):
    """Each token is the first whose cumulative probability under q exceeds the step's uniform."""
    for log_q, token, u in zip(log_qs, tokens, points, strict=True):
        q = np.exp(log_q)
        running = np.cumsum(q)
        assert running[token] >= u - TOLERANCE, "the token lies before the point"
        assert running[token] - q[token] <= u + TOLERANCE, "the token lies behind the point"


def assert_inverse_cdf(rows, tokens, points, settings, prompt=()):
    """As `assert_inverse_cdf_of`, of a setting."""
    past, memory, log_qs = list(prompt), None, []
    for z, token in zip(rows, tokens, strict=True):
        log_qs.append(reference_log_q(z, settings, ids=past, memory=memory))
        memory = reference_memory(settings, memory, z, token, -log_qs[-1][token], tuple(past))
        past.append(token)
    assert_inverse_cdf_of(log_qs, tokens, points)


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


class DrawProcessor(LogitsProcessor):
    """Draws each row's token and leaves no other, so that greedy search takes it.

    Args:
        points: `(rows, steps)`, uniform in [0, 1), float64; one column is used up per call.
        listener: told the drawn ids, `(rows)`, before the model's loop sees them.
    """

    def __init__(self, points: Tensor, listener: Callable[[Tensor], None] | None = None) -> None:
        self.points = points
        self.listener = listener
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Turn `(rows, vocab)` log q into 0 at the drawn token and -inf elsewhere."""
        self.points = self.points.to(scores.device)
        tokens = draw(scores, self.points[:, self.step])
        self.step += 1
        if self.listener is not None:
            self.listener(tokens)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.unsqueeze(-1), 0.0)
