"""Settings on one text by plain loops: one token after the other, in float64."""

import math

import numpy as np
import pytest
import torch

from oracle import log_softmax, reference_log_q

NATS = 2e-5  # between float32 passes over other batches


def encoded(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def rows_of(language_model, documents, context, stride, bos=True):
    """Float64 logits and the true token of every scored position, in the order of the text."""
    front = [language_model.tokenizer.bos_token_id] if bos else []
    if front == [None]:
        front = [language_model.tokenizer.eos_token_id]
    logits, targets = [], []
    for text in documents:
        ids = front + encoded(language_model, text) if text else []
        read = {}
        for target in range(1, len(ids)):
            begin = max(0, math.ceil((target - context) / stride)) * stride
            if begin not in read:
                window = torch.tensor([ids[begin : begin + context]])
                read[begin] = language_model.model(window).logits[0].double().numpy()
            logits.append(read[begin][target - 1 - begin])
            targets.append(ids[target])
    return logits, targets


def plain(logits, targets, settings):
    """Per-token values by name, `(tokens, S)` and `(tokens, S, S)`."""
    size = len(settings)
    found = {name: [] for name in ("entropy", "kept", "kept_mass", "surprisal")}
    pairs = {name: [] for name in ("kl", "js", "total_variation")}
    for z, target in zip(logits, targets, strict=True):
        log_q = np.stack([reference_log_q(z, setting) for setting in settings])
        q = np.exp(log_q)
        inside = np.isfinite(log_q)
        finite = np.where(inside, log_q, 0)
        found["entropy"].append(-(q * finite).sum(-1))
        found["kept"].append(inside.sum(-1))
        scaled = [log_softmax(z if s.greedy else z / s.temperature) for s in settings]
        found["kept_mass"].append([np.exp(p)[k].sum() for p, k in zip(scaled, inside, strict=True)])
        found["surprisal"].append(-log_q[:, target])
        kl, js, tv = np.zeros((3, size, size))
        for i in range(size):
            for j in range(size):
                both = inside[i] & inside[j]
                kl[i, j] = (q[i] * (finite[i] - finite[j]))[both].sum()
                if (inside[i] & ~inside[j]).any():
                    kl[i, j] = math.inf
                tv[i, j] = np.abs(q[i] - q[j]).sum() / 2
                middle = np.log(np.where(q[i] + q[j] > 0, (q[i] + q[j]) / 2, 1))
                js[i, j] = (q[i] * (finite[i] - middle) + q[j] * (finite[j] - middle)).sum() / 2
        for name, values in (("kl", kl), ("js", js), ("total_variation", tv)):
            pairs[name].append(values)
    return {name: np.array(values) for name, values in (found | pairs).items()}


def batch_mean_error(values, weights, length):
    """Cochran's error of Σ values / Σ weights from blocks of consecutive tokens."""
    blocks = [slice(i, i + length) for i in range(0, len(values), length)]
    x = [values[block].sum() for block in blocks]
    n = [weights[block].sum() for block in blocks]
    if len(blocks) < 2 or sum(n) == 0:
        return None
    mean = sum(x) / sum(n)
    spread = sum((a - mean * b) ** 2 for a, b in zip(x, n, strict=True))
    return math.sqrt(spread * len(blocks) / (len(blocks) - 1)) / sum(n)


def close(actual, expected, tolerance=NATS):
    """Nested lists alike, with None in the same places."""
    if isinstance(expected, (list, tuple, np.ndarray)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            close(one, other, tolerance)
    elif expected is None or not np.isfinite(expected):
        assert actual is None
    else:
        assert actual == pytest.approx(float(expected), abs=tolerance, rel=1e-5)


def expected_record(values, length):
    """What the record should say, from per-token values."""
    size = values["entropy"].shape[1]
    covered = np.isfinite(values["surprisal"])
    surprisal = np.where(covered, values["surprisal"], 0)
    finite = np.isfinite(values["kl"])
    kl = np.where(finite, values["kl"], 0)
    ones = np.ones(len(covered))
    everywhere = covered.all(0)

    def each(function):
        return [function(i) for i in range(size)]

    def pair(function):
        return [[function(i, j) for j in range(size)] for i in range(size)]

    def error(name):
        return each(lambda i: batch_mean_error(values[name][:, i], ones, length))

    def pair_error(name):
        return pair(lambda i, j: batch_mean_error(values[name][:, i, j], ones, length))

    covered_mean = each(lambda i: _share(surprisal[:, i].sum(), covered[:, i].sum()))
    difference = surprisal[:, :, None] - surprisal[:, None, :]
    return {
        "entropy_nats": values["entropy"].mean(0),
        "effective_choices": np.exp(values["entropy"].mean(0)),
        "kept": values["kept"].mean(0),
        "kept_mass": values["kept_mass"].mean(0),
        "coverage": covered.mean(0),
        "cross_entropy_nats": each(lambda i: covered_mean[i] if everywhere[i] else None),
        "covered_cross_entropy_nats": covered_mean,
        "entropy_standard_error": error("entropy"),
        "kept_mass_standard_error": error("kept_mass"),
        "coverage_standard_error": each(
            lambda i: batch_mean_error(covered[:, i].astype(float), ones, length)
        ),
        "covered_cross_entropy_standard_error": each(
            lambda i: batch_mean_error(surprisal[:, i], covered[:, i].astype(float), length)
        ),
        "kl_nats": pair(lambda i, j: values["kl"][:, i, j].mean()),
        "kl_finite_share": finite.mean(0),
        "kl_where_finite_nats": pair(
            lambda i, j: _share(kl[:, i, j].sum(), finite[:, i, j].sum())
        ),
        "kl_where_finite_standard_error": pair(
            lambda i, j: batch_mean_error(kl[:, i, j], finite[:, i, j].astype(float), length)
        ),
        "js_nats": values["js"].mean(0),
        "js_standard_error": pair_error("js"),
        "total_variation": values["total_variation"].mean(0),
        "total_variation_standard_error": pair_error("total_variation"),
        "cross_entropy_difference_nats": pair(
            lambda i, j: difference[:, i, j].mean() if everywhere[i] & everywhere[j] else None
        ),
        "cross_entropy_difference_standard_error": pair(
            lambda i, j: batch_mean_error(difference[:, i, j], ones, length)
            if everywhere[i] & everywhere[j]
            else None
        ),
    }  # fmt: skip


def _share(sums, counts):
    return sums / counts if counts else None
