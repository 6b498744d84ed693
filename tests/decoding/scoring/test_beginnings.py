"""What texts begin with is read once; how many are read together follows their tokens."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from kept import LAYERS, VOCABULARY, Counted, model_of

from decoding.information.statistics import row_statistics
from decoding.passes import caches
from decoding.scoring.blocks import CPU_TOKENS, logit_batches
from decoding.scoring.windows import Window


@pytest.fixture(params=LAYERS)
def model(request):
    return model_of(LAYERS[request.param])


def ids_of(length, seed):
    return np.random.default_rng(seed).integers(3, VOCABULARY, length)


def windows_of(texts, scored):
    """Of each text, its last tokens are scored."""
    return [
        Window(index, len(text) - scored, text[:-1], text[len(text) - scored :])
        for index, text in enumerate(texts)
    ]


def log_probs(model, windows, **options):
    """Of each target of each window, by `logit_batches`."""
    found = {}
    batches = logit_batches(model, windows, **options)
    for block in chain.from_iterable(batch.blocks() for batch in batches):
        values = row_statistics(block.logits, block.targets).target_log_prob.tolist()
        owners = [(w.document, place) for w in block.windows for place in range(len(w.targets))]
        for value, owner in zip(values, owners[block.first :], strict=False):
            found[owner] = value
    return found


def of_oracle(model, windows):
    """The same from a whole pass over each window alone, float64."""
    found = {}
    for w in windows:
        with torch.no_grad():
            logits = model(torch.from_numpy(w.inputs)[None]).logits[0].double()
        rows = logits.log_softmax(-1)[len(w.inputs) - len(w.targets) :]
        for place, target in enumerate(w.targets):
            found[w.document, place] = float(rows[place, target])
    return found


def agree(model, windows, **options):
    got, want = log_probs(model, windows, **options), of_oracle(model, windows)
    assert got.keys() == want.keys()
    np.testing.assert_allclose([got[key] for key in want], [*want.values()], atol=2e-5, rtol=1e-5)


def counted(model, windows, **options):
    log_probs(model, windows, **options)  # probes
    count = Counted(getattr(model, model.base_model_prefix))
    log_probs(model, windows, **options)
    count.stop()
    return count


def test_answers_to_one_prompt_read_it_once(model):
    prompt = ids_of(60, 0)
    windows = windows_of([np.append(prompt, ids_of(n, n)) for n in (3, 5, 2, 7)], 2)
    agree(model, windows)
    # The shortest one's first score needs the row before the prompt's last token.
    assert counted(model, windows).passes == [(1, 59), (4, 66 - 59)]


def test_prompts_with_the_same_examples_read_them_twice_at_most(model):
    examples = ids_of(80, 0)
    texts = [
        np.concatenate([examples, ids_of(40, question), ids_of(4, answer)])
        for question in (1, 2, 3, 4)
        for answer in range(10, 15)
    ]
    windows = windows_of(texts, 3)
    agree(model, windows)
    once = 80 + 4 * 40 + 20 * 4
    assert once <= counted(model, windows).tokens <= once + 80 + 40


def test_texts_between_them_share_nothing(model):
    """Neighbours of other beginnings, and texts whose first tokens are scored, change nothing."""
    long, other = ids_of(50, 0), ids_of(50, 1)
    texts = [np.append(start, ids_of(6, n)) for n, start in enumerate([long, other] * 3)]
    texts += [ids_of(20, 7), ids_of(3, 8), long]
    windows = [*windows_of(texts[:7], 4), *windows_of(texts[7:], 2)]
    windows.append(Window(0, 1, long[:-1], long[1:]))
    agree(model, [replace(window, document=n) for n, window in enumerate(windows)])


def test_what_spares_too_little_is_not_shared():
    model = model_of(LAYERS["attention"])
    windows = windows_of([np.append(ids_of(20, 0), ids_of(6, n)) for n in range(4)], 2)
    assert counted(model, windows).passes == [(4, 25)]


@pytest.mark.parametrize("length", [CPU_TOKENS // 4 + 1, CPU_TOKENS // 2, CPU_TOKENS + 1])
def test_a_batch_has_so_many_tokens_at_most(length):
    model = model_of(LAYERS["attention"])
    model.config.max_position_embeddings = 2 * CPU_TOKENS
    windows = windows_of([ids_of(length + 1, n) for n in range(5)], 1)
    together = max(1, CPU_TOKENS // length)
    rows = [rows for rows, _ in counted(model, windows).passes]
    assert rows == [together] * (5 // together) + [5 % together] * (5 % together > 0)


def test_a_model_that_cannot_read_in_parts_reads_texts_whole(monkeypatch):
    monkeypatch.setattr(caches, "_KINDS", ())
    model = model_of(LAYERS["attention"])
    windows = windows_of([np.append(ids_of(60, 0), ids_of(6, n)) for n in range(4)], 2)
    agree(model, windows)
    assert counted(model, windows).passes == [(4, 65)]


@pytest.mark.parametrize("questions", [1, 3])
def test_a_reader_keeps_what_calls_have_in_common(model, questions):
    """One window a call reads the beginning twice, as nobody knows it the first time; three once
    or, where a later call has less of it in common, again."""
    examples = ids_of(80, 0)
    texts = [np.append(examples, ids_of(12, question)) for question in range(1, 13)]
    windows = windows_of(texts, 2)
    log_probs(model, windows)  # probes
    reader = caches.Reader(model)
    want, got = of_oracle(model, windows), {}
    count = Counted(getattr(model, model.base_model_prefix))
    for begin in range(0, 12, questions):
        got |= log_probs(model, windows[begin : begin + questions], reader=reader)
    count.stop()
    np.testing.assert_allclose([got[key] for key in want], [*want.values()], atol=2e-5, rtol=1e-5)
    assert count.tokens <= (2 if questions == 1 else 1) * 82 + 12 * 13


def test_a_reader_changes_nothing_where_calls_share_nothing(model):
    texts = [ids_of(60 + n, n) for n in range(4)]
    windows = windows_of(texts, 2)
    log_probs(model, windows)
    reader = caches.Reader(model)
    count = Counted(getattr(model, model.base_model_prefix))
    for window in windows:
        log_probs(model, [window], reader=reader)
    count.stop()
    assert count.passes == [(1, len(text) - 1) for text in texts]


def test_a_text_whose_rotary_factors_are_others_is_read_whole(monkeypatch):
    model = model_of(LAYERS["attention"])
    windows = windows_of([np.append(ids_of(60, 0), ids_of(n, n)) for n in (2, 3, 8, 9)], 2)
    monkeypatch.setattr(caches, "rotary_limit", lambda model: 64)
    assert counted(model, windows).passes == [(1, 59), (2, 3), (2, 68)]
