"""Windows against the rule applied token by token, and against lm-evaluation-harness's."""

import itertools

import numpy as np
import pytest

from decoding.scoring.windows import Window, sliding_windows, split_at

FIRST_ID = 100  # ids are positions in the sequence, moved, so that either is never the other


def pieces_of(length, size):
    """The sequence's ids in pieces of one size, with empty ones between."""
    ids = np.arange(FIRST_ID, FIRST_ID + length)
    for begin in range(0, length, size):
        yield ids[begin : begin + size]
        yield ids[:0]


def rule(length, context, stride, first_position, full_last):
    """Each token in the first window that reads its predecessor: `(inputs, targets)` of each."""
    windows = {}
    for target in range(max(1, first_position), length):
        predecessor = target - 1
        for k in range(length):
            if k * stride <= predecessor < k * stride + context:
                windows.setdefault(k, []).append(target)
                break
    found = []
    for k, targets in sorted(windows.items()):
        begin, end = k * stride, targets[-1]  # what is read last is the last target's predecessor
        if full_last and targets[-1] == length - 1:
            begin = max(0, end - context)
        found.append((list(range(begin, end)), targets))
    return found


def actual(windows):
    return [
        ((window.inputs - FIRST_ID).tolist(), (window.targets - FIRST_ID).tolist())
        for window in windows
    ]


def rolling(tokens, prefix, max_seq_len, context_len):
    """`get_rolling_token_windows` of lm-evaluation-harness, retold."""
    pred_len = max_seq_len - context_len + 1
    predicted = min(max_seq_len, len(tokens))
    yield [prefix, *tokens[: predicted - 1]], tokens[:predicted]
    while predicted < len(tokens):
        window_pred_len = min(len(tokens) - predicted, pred_len)
        window_end = predicted + window_pred_len
        yield (
            tokens[window_end - max_seq_len - 1 : window_end - 1],
            tokens[window_end - window_pred_len : window_end],
        )
        predicted += window_pred_len


def cases(strides):
    for length, context, bos in itertools.product(range(10), range(1, 6), (False, True)):
        for stride in strides(context):
            yield length, context, stride, bos


@pytest.mark.parametrize("full_last", [False, True])
def test_every_token_is_scored_in_the_first_window_that_predicts_it(full_last):
    for length, context, stride, bos in cases(lambda context: range(1, context + 1)):
        for first_target in range(0, length + 2):
            wants = rule(length, context, stride, first_target + bos, full_last)
            for size in (1, 2, 3, 20):
                windows = list(
                    sliding_windows(
                        7, pieces_of(length, size), context, stride,
                        front=bos, first_target=first_target, full_last=full_last,
                    )
                )  # fmt: skip
                case = (length, context, stride, bos, first_target, size)
                assert actual(windows) == wants, case
                assert all(len(window.inputs) <= context for window in windows)
                scored = [int(i) - FIRST_ID for window in windows for i in window.targets]
                assert scored == list(range(max(1, first_target + bos), length)), case
                for window, (inputs, targets) in zip(windows, wants, strict=True):
                    assert window.document == 7
                    assert (window.begin, window.start) == (inputs[0] - bos, targets[0] - bos)
                    assert window.end == targets[-1] + 1 - bos


def test_documents_without_bos_score_all_but_their_first_token():
    (window,) = sliding_windows(0, pieces_of(4, 2), 8, 4, front=0)
    assert actual([window]) == [([0, 1, 2], [1, 2, 3])]
    assert (window.begin, window.start, window.end) == (0, 1, 4)


def test_bos_predicts_the_first_token_and_is_itself_no_target():
    (window,) = sliding_windows(0, pieces_of(4, 2), 8, 4, front=1)
    assert actual([window]) == [([0, 1, 2], [1, 2, 3])]
    assert (window.begin, window.start, window.end) == (-1, 0, 3)


@pytest.mark.parametrize("size", [1, 20])
def test_strides_beyond_the_context_by_one_leave_gaps(size):
    found = sliding_windows(0, pieces_of(8, size), 2, 3, front=0)
    assert actual(found) == rule(8, 2, 3, 0, False)


def test_strides_beyond_the_context_leave_gaps():
    for length, context, stride, bos in cases(lambda context: range(context + 2, context + 5)):
        for size in (1, 2, 3, 20):
            windows = sliding_windows(0, pieces_of(length, size), context, stride, front=bos)
            case = (length, context, stride, bos, size)
            assert actual(windows) == rule(length, context, stride, bos, False), case


def test_full_last_windows_are_those_of_the_evaluation_harness():
    for length, context in itertools.product(range(1, 14), range(1, 7)):
        for context_len in range(1, context + 1):
            tokens = list(range(1, length + 1))
            wants = list(rolling(tokens, 0, context, context_len))
            for size in (1, 4, 20):
                windows = sliding_windows(
                    0, pieces_of(length + 1, size), context, context - context_len + 1,
                    front=1, full_last=True,
                )  # fmt: skip
                case = (length, context, context_len, size)
                assert actual(windows) == wants, case


@pytest.mark.parametrize("full_last", [False, True])
def test_an_endless_sequence_is_read_no_further_than_needed(full_last):
    context, stride, size = 6, 4, 3
    taken = 0

    def endless():
        nonlocal taken
        for begin in itertools.count(FIRST_ID, size):
            taken += size
            yield np.arange(begin, begin + size)

    windows = sliding_windows(0, endless(), context, stride, front=1, full_last=full_last)
    for k, window in enumerate(itertools.islice(windows, 200)):
        assert (window.inputs - FIRST_ID).tolist() == list(range(k * stride, k * stride + context))
        assert taken <= k * stride + context + 1 + size


def test_a_long_prompt_is_context_of_the_windows_that_score():
    # Tokens 0 to 19 are a prompt; windows that score nothing are not made.
    found = sliding_windows(0, pieces_of(23, 4), 6, 3, front=0, first_target=20)
    assert actual(found) == [(list(range(15, 21)), [20, 21]), (list(range(18, 22)), [22])]


@pytest.mark.parametrize("limit", [None, 1, 3, 5, 6, 9])
def test_no_window_scores_on_both_sides_of_a_limit(limit):
    whole = Window(0, 2, np.arange(8), np.arange(3, 9))  # reads 3 to 8 tokens for its targets
    parts = list(split_at([whole], limit))
    assert np.concatenate([part.targets for part in parts]).tolist() == whole.targets.tolist()
    for part in parts:
        reads = range(len(part.inputs) - len(part.targets) + 1, len(part.inputs) + 1)
        assert limit is None or len({read > limit for read in reads}) == 1
        assert part.begin == whole.begin
        assert part.inputs.tolist() == whole.inputs[: len(part.inputs)].tolist()
    assert [part.start for part in parts] == [2, parts[0].end][: len(parts)]
    assert len(parts) == (2 if limit in (3, 5, 6) else 1)
