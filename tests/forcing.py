"""What teacher forcing measures, and the plain loops that it must equal."""

import math

import numpy as np
import torch
from numpy.testing import assert_allclose
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from decoding import row_statistics
from oracle import LOGIT_NOISE

WORDS = ["<eos>", *"abcdefghijklmnop"]
SHORT = ["a b c", "", "p o n m l k j i h g f e d c b a " * 9, "d", "e f", "a b c d e f g " * 3, " "]
NATS = 5e-5  # between float32 passes over other batches, on any CPU


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def words(**special):
    """Seventeen words, the first of which is special; spaces between them are nobody's."""
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="p"))
    raw.pre_tokenizer = Whitespace()
    raw.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def said(ids):
    return " ".join(WORDS[i] for i in ids)


def measure(block):
    rows = row_statistics(block.logits, block.targets)
    return {
        "surprisal": -rows.target_log_prob,
        "entropy": rows.entropy,
        "varentropy": rows.variance,
        "rank": rows.rank,
    }


def placed(length, context, stride, first):
    """`(begin, targets)` of each window: each position in the first that reads the one before."""
    found = {}
    for target in range(max(1, first), length):
        k = max(0, math.ceil((target - context) / stride))
        assert k * stride < target <= k * stride + context
        found.setdefault(k * stride, []).append(target)
    return list(found.items())


@torch.no_grad()
def reference(model, ids, context, stride, first=0):
    """Position of each target to its float64 logits, from windows without padding."""
    windows = placed(len(ids), context, stride, first)
    rows = {}
    by_length = {}
    for begin, targets in windows:
        by_length.setdefault(targets[-1] - begin, []).append((begin, targets))
    for length, alike in by_length.items():
        for first_of in range(0, len(alike), 128):
            some = alike[first_of : first_of + 128]
            inputs = torch.tensor([ids[begin : begin + length] for begin, _ in some])
            for logits, (begin, targets) in zip(model(inputs).logits, some, strict=True):
                for target in targets:
                    rows[target] = logits[target - 1 - begin].double()
    return rows


def assert_scored(found, rows, ids, shift):
    """`found` has a measurement of every position of `rows`, which is `shift` further on."""
    assert list(found) == [position - shift for position in rows]
    if not rows:
        return
    tokens = torch.tensor([ids[position] for position in rows])
    assert [values["id"] for values in found.values()] == tokens.tolist()
    logits = torch.stack(list(rows.values()))
    chosen = logits.gather(1, tokens[:, None])
    log_p = torch.log_softmax(logits, -1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    want = {
        "surprisal": -log_p.gather(1, tokens[:, None])[:, 0],
        "entropy": entropy,
        "varentropy": (p * (-log_p - entropy[:, None]) ** 2).sum(-1),
    }
    for name, values in want.items():
        # A sum of squares is as exact as its size allows.
        relative = NATS if name == "varentropy" else 0
        assert_allclose(column(found, name), values, atol=NATS, rtol=relative, err_msg=name)
    assert (column(found, "rank") >= (logits > chosen + LOGIT_NOISE).sum(-1).numpy()).all()
    assert (column(found, "rank") < (logits > chosen - LOGIT_NOISE).sum(-1).numpy()).all()


def column(found, name):
    return np.array([values[name] for values in found.values()])


def scan(forcing, documents):
    """Of each document, index of each scored token to its measurements and id, in order."""
    found = {}
    for window, columns in forcing.scan(documents, measure):
        tokens = found.setdefault(window.document, {})
        assert {len(values) for values in columns.values()} == {len(window.targets)}
        for row, token in enumerate(window.targets):
            assert window.start + row not in tokens
            values = {name: float(column[row]) for name, column in columns.items()}
            tokens[window.start + row] = values | {"id": int(token)}
    assert list(found) == sorted(found)
    assert all(list(tokens) == sorted(tokens) for tokens in found.values())
    return found


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for document, tokens in found.items():
        assert list(tokens) == list(wanted[document])
        for name in ("id", "surprisal", "entropy", "varentropy", "rank"):
            tolerance = 1 if name == "rank" else NATS  # two logits may be nearly alike
            want = column(wanted[document], name)
            assert_allclose(column(tokens, name), want, atol=tolerance, rtol=NATS, err_msg=name)
