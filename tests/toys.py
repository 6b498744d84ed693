"""A language of seventeen words; surprisals by a plain loop; a protocol's result."""

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from decoding_evals.perplexity.evaluation import perplexity

WORDS = ["<eos>", *"abcdefghijklmnop"]


def words(**special):
    """Seventeen words, the first of which is special; spaces between them are nobody's."""
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="p"))
    raw.pre_tokenizer = Whitespace()
    raw.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def said(ids):
    return " ".join(WORDS[i] for i in ids)


@torch.no_grad()
def surprisals(model, sequence, context, stride):
    """-log p of each token but the first, float64, window by window.

    Each scores every prediction that no earlier one made.
    """
    windows = [
        (begin, sequence[begin : begin + context + 1])
        for begin in range(0, max(1, len(sequence)), stride)
    ]
    found = {}
    while windows:
        length = len(windows[0][1])
        alike = [window for window in windows if len(window[1]) == length][:64]
        windows = windows[len(alike) :]  # only the last ones are shorter
        if length < 2:
            continue
        tokens = torch.tensor([window for _, window in alike])
        logits = model(tokens[:, :-1]).logits.double()
        log_p = torch.log_softmax(logits, -1).gather(2, tokens[:, 1:, None])[:, :, 0]
        for (begin, _), row in zip(alike, log_p.tolist(), strict=True):
            for place, value in enumerate(row, begin + 1):
                found.setdefault(place, -value)
    assert list(found) == list(range(1, len(sequence)))
    return np.array(list(found.values()))


def text_of(count, seed=0):
    """A text of so many of the toy's tokens."""
    rng = np.random.default_rng(seed + count)
    return " ".join(WORDS[i] for i in rng.integers(1, 17, count))


def ids_of(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


@torch.no_grad()
def log_probs(model, inputs):
    """log p of every next token after every input, float64, `(seq, vocab)`."""
    return torch.log_softmax(model(torch.tensor([inputs])).logits[0].double(), -1)


def result(language_model, texts, protocol, **options):
    got = perplexity(language_model, texts, protocol=protocol, **options)
    got.account.check()
    return got, got.record()
