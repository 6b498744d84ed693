"""Oracles and model doubles that several test modules share; no oracle uses our arithmetic."""

import copy
import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WatermarkingConfig

from cuts_oracle import ORACLES, by_logit, log_softmax
from decoding import DecodingSettings, EntropyMonitor, generate
from decoding.passes import batching, probing
from decoding.settings.settings import RULES_IN_ORDER

STEERING = [
    rule.field for rule in RULES_IN_ORDER if rule.kind == "temperature" and not rule.is_fixed
]

TOLERANCE = 1e-4
CUT = 1e-6  # a threshold quantity this near its cut may fall on either side
LOGIT_NOISE = 2e-5  # between two float32 passes; tokens this near each other have no firm rank

TEXTS = ["Once upon a time, there was a little girl named", "The", "Tom and his dog"]
TOY_TEXTS = ["e", "c j g b", "a b c d e f g h"]
GREEDY = DecodingSettings(temperature=0)
TOY_PROMPTS = [[5], [3, 0, 7, 2], [1, 2, 3, 4, 5, 6, 7, 8]]

# setting, num_beams, num_return_sequences
MODES = [
    ("greedy", 1, 1),
    ("raw", 1, 1),
    ("temperature=1.3,top_k=40,top_p=0.9", 1, 1),
    ("top_k=40,typical_p=0.8", 1, 1),
    ("temperature=0.7,min_p=0.05,epsilon_cutoff=0.01", 1, 1),
    ("top_k=40,eta_cutoff=0.01", 1, 1),
    ("temperature=0.8,top_p=0.95", 1, 3),
    ("raw", 4, 1),
    ("temperature=0.8,top_k=20", 3, 2),
]
modes = pytest.mark.parametrize(("setting", "num_beams", "samples"), MODES)


# A setting's rules on one float64 row, written from their definitions.


def plogp(log_p, values):
    """Σ p·values, where 0·anything is 0."""
    inside = log_p > -np.inf
    return float((np.exp(log_p[inside]) * values[inside]).sum())


def reference_penalties(settings, ids, vocab):
    """DRY's, one place of the history after another."""
    ids, taken = [int(id_) for id_ in ids], np.zeros(vocab)
    for place in range(1, len(ids)):
        run = 0  # tokens before this place that are those at the end of the history
        while run < min(place, 50):
            if ids[place - 1 - run] != ids[-1 - run] or ids[-1 - run] in settings.dry_breakers:
                break
            run += 1
        if run >= settings.dry_allowed_length and ids[place] not in settings.dry_breakers:
            beyond = run - settings.dry_allowed_length
            with np.errstate(over="ignore"):
                size = settings.dry_multiplier * np.float64(settings.dry_base) ** beyond
            taken[ids[place]] = max(taken[ids[place]], size)
    return taken


def entropy_at(z, temperature):
    log_p = log_softmax((z - z.max()) / temperature)
    with np.errstate(invalid="ignore"):
        return plogp(log_p, -log_p)


def reference_temperature(z, settings):
    """What one row is divided by, T > 0."""
    base = settings.temperature
    if settings.edt_theta:
        return base * settings.edt_base ** (settings.edt_theta / max(entropy_at(z, 1), 1e-300))
    if settings.dynatemp_range:
        allowed = np.isfinite(z).sum()
        share = entropy_at(z, 1) / np.log(allowed) if allowed > 1 else 0.0
        low, high = max(0.0, base - settings.dynatemp_range), base + settings.dynatemp_range
        return max(low + (high - low) * share**settings.dynatemp_exponent, 1e-30)
    if settings.target_entropy:
        low, high = np.log(1e-12), np.log(1e12)
        for _ in range(60):
            middle = (low + high) / 2
            below = entropy_at(z, np.exp(middle)) < settings.target_entropy
            low, high = (middle, high) if below else (low, middle)
        return np.exp(low)
    return base


def reference_scaled(logits, settings, ids=()):
    """One row after penalties and temperature; of greedy, after penalties."""
    z = np.array(logits, dtype=np.float64)
    if settings.dry_multiplier:
        z = z - reference_penalties(settings, ids, len(z))
    return z if settings.greedy else z / reference_temperature(z, settings)


def without_top_choices(p, threshold):
    """XTC when the coin falls on it: tokens by probability, the last that reaches first of all."""
    order = np.argsort(-p, kind="stable")
    last = 0
    for place, token in enumerate(order):
        if p[token] < threshold:
            break
        last = place
    left = p.copy()
    left[order[:last]] = 0
    return left / left.sum()


def reference_log_q(logits, settings, slack=0.0, ids=(), memory=None):
    """log q of one row; `slack` moves every threshold towards keeping more.

    A setting that looks back needs the `ids` so far, and its `memory` where it has moved.
    """
    z = reference_scaled(logits, settings, ids)
    steps = [(rule.field, rule.value) for rule in settings.rules]
    if settings.greedy:
        steps = [("top_k", 1)]
    for name, value in steps:
        if name in ("dry_multiplier", "temperature", *STEERING):
            continue
        if name == "xtc_probability":
            p = np.exp(log_softmax(z))
            left = np.where(without_top_choices(p, settings.xtc_threshold + slack) > 0, p, 0)
            spared = list(settings.xtc_spared)
            left[spared] = p[spared]
            with np.errstate(divide="ignore"):
                z = np.log((1 - value) * p + value * left / left.sum())
            continue
        if name == "temperature_last":
            z = z / value
            continue
        if name == "adaptive_p":
            total, weight = memory or adaptive_start(settings)
            goal = np.clip(2 * value - total / weight, 0, 1)
            distance = np.abs(np.exp(log_softmax(z)) - goal) / 0.3
            z = np.where(np.isfinite(z), -10 * distance**2 / (1 + distance), -np.inf)
            continue
        if name == "min_k":  # its number is one of logits at temperature 1
            z_raw = reference_scaled(logits, replace(settings, temperature=1.0), ids)
            value = value * np.ptp(z[np.isfinite(z)]) / max(np.ptp(z_raw[np.isfinite(z)]), 1e-300)
        if name == "mirostat_tau":
            most = 2 * value if memory is None else memory
            kept = -log_softmax(z) <= most + slack
            kept[by_logit(z)[0]] = True
        else:
            kept = ORACLES[name](z, value, slack).kept
        z = np.where(kept, z, -np.inf)
    return log_softmax(z)


def adaptive_start(settings):
    """Of adaptive_p: the sum of probabilities drawn, and its weight."""
    weight = 1 / (1 - settings.adaptive_p_decay)
    return settings.adaptive_p * weight, weight


def reference_memory(settings, memory, z, token, surprisal, ids=()):
    """What a setting remembers after a token that had this surprisal under q."""
    if settings.mirostat_tau:
        before = 2 * settings.mirostat_tau if memory is None else memory
        return before - settings.mirostat_eta * (surprisal - settings.mirostat_tau)
    if settings.adaptive_p:
        total, weight = memory or adaptive_start(settings)
        decay = settings.adaptive_p_decay
        before = replace(settings, adaptive_p=0.0, adaptive_p_decay=0.9)
        drawn = np.exp(reference_log_q(z, before, ids=ids)[token])
        return drawn + decay * total, 1 + decay * weight
    return None


def reference_row(logits, token, settings, slack=0.0, ids=(), memory=None):
    """What a trace should say about one token, by the record's names."""
    z = np.array(logits, dtype=np.float64)
    log_p, log_q = log_softmax(z), reference_log_q(z, settings, slack, ids, memory)
    scaled = log_softmax(reference_scaled(z, settings, ids))
    with np.errstate(invalid="ignore"):
        row = {
            "surprisal_nats": -log_q[token],
            "entropy_nats": plogp(log_q, -log_q),
            "raw_surprisal_nats": -log_p[token],
            "raw_entropy_nats": plogp(log_p, -log_p),
            "kept": int(np.isfinite(log_q).sum()),
            "kept_mass": float(np.exp(scaled[np.isfinite(log_q)]).sum()),
            "kl_nats": plogp(log_q, log_q - log_p),
        }
    if any(getattr(settings, name) for name in STEERING):
        penalised = z - reference_penalties(settings, ids, len(z))
        row["temperature"] = reference_temperature(penalised, settings)
    return row


def teacher_forced(model, prompt, ids):
    """Float64 logits of each generated token, from one unpadded pass over the whole sequence."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
    return logits[len(prompt) - 1 : -1].double().numpy()


def assert_rows_match(trace, rows, settings, prompt=()):
    """Every number of the trace equals its recomputation from the rows of logits.

    A setting that looks back needs the ids of the prompt.
    """
    before, memory = list(prompt), None
    for step, (z, record) in enumerate(zip(rows, trace.records(), strict=True)):
        token = record["id"]
        past = {"ids": before, "memory": memory}
        want = reference_row(z, token, settings, **past)
        if record["kept"] != want["kept"]:
            either = [reference_row(z, token, settings, slack, **past) for slack in (-CUT, CUT)]
            counts = [row["kept"] for row in either]
            assert min(counts) <= record["kept"] <= max(counts), (step, want["kept"], record)
            want = next((row for row in either if row["kept"] == record["kept"]), want)
            want["kept"] = record["kept"]
        for name, value in want.items():
            assert record[name] == pytest.approx(value, abs=TOLERANCE, rel=0), (step, name)
        fewest, most = (z > z[token] + LOGIT_NOISE).sum(), (z > z[token] - LOGIT_NOISE).sum()
        assert fewest <= record["rank"] < most, (step, "rank")
        surprisal = want["surprisal_nats"]
        memory = reference_memory(settings, memory, z, token, surprisal, tuple(before))
        before.append(token)


def assert_oracle(model, prompt, trace, settings):
    assert len(trace) > 0
    assert_rows_match(trace, teacher_forced(model, prompt, trace.ids.tolist()), settings, prompt)


# Plain `model.generate`, watched.


def left_padded(prompts, pad):
    width = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[pad] * (width - len(p)) + p for p in prompts]),
        "attention_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
    }


def call(model, inputs, settings, monitor, *, eos=None, new_tokens=12, samples=1, **kwargs):
    """The outputs of one watched call."""
    torch.manual_seed(0)
    return model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        eos_token_id=eos,
        pad_token_id=0 if eos is None else int(np.min(eos)),
        num_return_sequences=samples,
        return_dict_in_generate=True,
        **settings.generate_kwargs(num_beams=monitor.num_beams, monitor=monitor),
        **kwargs,
    )


def watch(
    model, prompts, settings, *, eos=None, num_beams=1, samples=1, alternatives=0,
    certainty=False, **kwargs,
):  # fmt: skip
    """`(prompt, trace)` of each sequence that a left-padded batch of prompts gives."""
    monitor = EntropyMonitor(num_beams=num_beams, alternatives=alternatives, certainty=certainty)
    inputs = left_padded(prompts, 0 if eos is None else int(np.min(eos)))
    outputs = call(model, inputs, settings, monitor, eos=eos, samples=samples, **kwargs)
    traces = monitor.traces(outputs, eos_token_id=eos)
    assert len(traces) == len(prompts) * samples
    return [(prompts[i // samples], trace) for i, trace in enumerate(traces)]


def editing(model, edit):
    """A model with the same weights whose logits pass through `edit(step, logits)`."""
    twin = copy.copy(model)
    steps = itertools.count()

    @functools.wraps(model.forward)
    def forward(*args, **kwargs):
        output = model.forward(*args, **kwargs)
        output.logits = edit(next(steps), output.logits)
        return output

    twin.forward = forward
    return spared(twin)


def spared(model):
    """A model that is not probed: the passes of a probe would count as its steps."""
    probing._in_front[model] = 0
    batching._found[model] = AnyRows()
    return model


class AnyRows(dict):
    """What is found of a model whose rows may all run together, whatever the padding."""

    def __contains__(self, key):
        return True

    def __missing__(self, key):
        return batching.Together("padded", None, "")


def scripted(model, *rows):
    """A model that is nearly certain of the given ids, one row of the batch each."""

    def edit(step, logits):
        logits = torch.zeros_like(logits)
        for row, ids in enumerate(rows):
            logits[row, -1, ids[min(step, len(ids) - 1)]] = 30.0
        return logits

    return editing(model, edit)


# What a checkpoint's generation configuration may hold; each changes scores when left alone.
HOSTILE = {
    "temperature": 0.3,
    "top_k": 5,
    "top_p": 0.5,
    "min_p": 0.3,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.3,
    "repetition_penalty": 1.7,
    "encoder_repetition_penalty": 1.7,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[3], [1, 2]],
    "suppress_tokens": [4, 8],
    "begin_suppress_tokens": [5, 6],
    "min_new_tokens": 4,
    "min_length": 8,
    "forced_bos_token_id": 2,
    "forced_eos_token_id": 0,
    "sequence_bias": [[[6], 5.0]],
    "exponential_decay_length_penalty": (1, 1.5),
    "guidance_scale": 1.5,
    "renormalize_logits": True,
    "watermarking_config": WatermarkingConfig(bias=2.5, context_width=1),
}


def with_config(model, **values):
    """A model with the same weights and other values in its generation configuration."""
    twin = copy.copy(model)
    twin.generation_config = copy.deepcopy(model.generation_config)
    for name, value in values.items():
        setattr(twin.generation_config, name, value)
    return spared(twin) if isinstance(batching._found.get(model), AnyRows) else twin


# Texts.


def saying(language_model, *rows):
    """A twin that says these ids, row by row; see `scripted`."""
    return replace(language_model, model=scripted(language_model.model, *rows))


def spoken(language_model, prompt, continuation, **kwargs):
    """The generation of a model that is made to say one continuation of one prompt."""
    tokenizer = language_model.tokenizer
    start = list(tokenizer(prompt)["input_ids"])
    ids = list(tokenizer(prompt + continuation)["input_ids"])
    assert ids[: len(start)] == start
    ids = ids[len(start) :]
    kwargs = {"max_new_tokens": len(ids)} | kwargs
    return ids, generate(saying(language_model, ids), prompt, GREEDY, seed=0, **kwargs)[0]


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def ece(confidence, correct, bins=15):
    """Expected calibration error in bins of equal mass, by hand."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [len(p) * abs(correct[p].mean() - confidence[p].mean()) for p in parts]
    return sum(gaps) / len(order)
