"""Texts that may follow a prompt: their probabilities, over one event, and their ranking."""

import json
import math

import numpy as np
import pytest
import torch

from decoding.scoring.teacher_forcing import Document, TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.score.evaluation import score, score_choices

NATS = 1e-5


def continued(language_model, prompt, choices):
    """log p(choice | prompt) by one softmax over the whole sequence, and the choice's tokens.

    The choices' sequences and the prompt's own share a beginning; what follows it is summed.
    """
    tokenizer = language_model.tokenizer
    whole = [tokenizer(text)["input_ids"] for text in (prompt, *(prompt + c for c in choices))]
    if not prompt and tokenizer.bos_token_id not in whole[1]:  # an empty prompt is BOS
        whole = [[tokenizer.bos_token_id, *ids] for ids in whole]
    shared = 0
    while all(ids[: shared + 1] == whole[0][: shared + 1] for ids in whole):
        shared += 1
        if shared == len(whole[0]):
            break
    found = []
    for ids in whole[1:]:
        with torch.no_grad():
            log_p = language_model.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total = sum(float(log_p[place - 1, ids[place]]) for place in range(shared, len(ids)))
        found.append((total, ids[shared:]))
    return found


ROWS = [
    ("Once upon a", [" time", " dog", " time there was a little girl"]),
    ("Once upon a ti", ["me", "ny cat"]),  # a token of both
    ("Lily said: ", ["日本", "🙂", "no"]),
    ("", ["She", "He was sad."]),
    ("The", [" end."]),
]


@pytest.mark.parametrize("name", ["stories260k", "stories"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_choices_have_their_log_probability_and_are_ranked(request, name, batch_size):
    language_model = request.getfixturevalue(name)
    got = list(score_choices(language_model, ROWS, windows=Windows(batch_size=batch_size)))
    assert [row.index for row in got] == list(range(len(ROWS)))
    for row, (prompt, choices) in zip(got, ROWS, strict=True):
        assert (row.prompt, [choice.text for choice in row.choices]) == (prompt, choices)
        want = continued(language_model, prompt, choices)
        for choice, (log_prob, ids) in zip(row.choices, want, strict=True):
            assert choice.ids.tolist() == ids
            assert math.fsum(choice.surprisal_nats) == pytest.approx(-log_prob, abs=NATS * len(ids))
            assert "".join(choice.texts()) == choice.text
            assert choice.starts[0] == 0 and choice.ends[-1] == len(choice.text)
        log_probs = [log_prob for log_prob, _ in want]
        per_byte = [p / len(c.encode()) for p, c in zip(log_probs, choices, strict=True)]
        record = row.record()
        assert row.log_probs_nats() == pytest.approx(log_probs, abs=NATS, rel=NATS)
        assert record["ranking"] == np.argsort(-np.array(log_probs)).tolist()
        assert record["ranking_per_byte"] == np.argsort(-np.array(per_byte)).tolist()
        found = [choice["log_prob_nats_per_byte"] for choice in record["choices"]]
        assert found == pytest.approx(per_byte, abs=NATS, rel=NATS)
        assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_choices_are_compared_over_the_same_event(stories):
    """The prompt ends in a token of its own that one choice keeps and the other does not."""
    prompt, choices = "Once upon a time there was a ", ["3", "big"]
    [row] = score_choices(stories, [(prompt, choices)])
    # After the ids that generate reads; plain transformers in float64 gives these.
    assert row.log_probs_nats() == pytest.approx([-6.66, -3.33], abs=0.01)
    assert row.record()["ranking"] == [1, 0]
    assert [choice.texts() for choice in row.choices] == [["", "3"], ["big"]]


def test_rankings_differ_where_a_long_choice_is_likelier_by_the_byte(stories260k):
    choices = [" very", " very happy and they played together all"]
    [row] = score_choices(stories260k, [("They were", choices)])
    record = row.record()
    assert (record["ranking"], record["ranking_per_byte"]) == ([0, 1], [1, 0])


def test_choices_under_a_setting(stories260k):
    setting = DecodingSettings(top_k=1)
    [row] = score_choices(stories260k, [("Once upon a", [" time", " dog"])], setting=setting)
    likely, other = row.record()["choices"]
    assert likely["coverage"] == 1 > other["coverage"]


@pytest.mark.parametrize("context", [[7], [7, 8, 9], list(range(100, 130))])
def test_ids_after_a_context_are_scored_by_themselves(stories, context):
    ids = [410, 342, 12]
    [got] = score(stories, [TokenDocument(ids, context)])
    with torch.no_grad():
        logits = stories.model(torch.tensor([[*context, *ids]])).logits[0].double()
    log_p = logits.log_softmax(-1)
    want = [-float(log_p[len(context) + i - 1, one]) for i, one in enumerate(ids)]
    assert got.ids.tolist() == ids
    np.testing.assert_allclose(got.surprisal_nats, want, atol=NATS)
    assert "".join(got.texts()) == got.text == stories.tokenizer.decode(ids)


def test_a_prompt_is_no_part_of_the_text(stories260k):
    prompt, text = "Once upon a time", " there was a cat."
    [got] = score(stories260k, [Document(text, prompt)])
    assert got.text == "".join(got.texts()) == text
    assert got.totals()["tokens_not_scored"] == got.tokens - len(got) > 0
    [(want, _)] = continued(stories260k, prompt, [text])
    assert got.totals()["surprisal_nats"] == pytest.approx(-want, rel=NATS)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Once upon a time", " there was a cat."),
        ("Once upon a ti", "me there was a cat."),  # a token of both
        ("Once upon a time ", "there was a cat."),
        ("Hi ", "😀 yes"),
    ],
)
@pytest.mark.parametrize("name", ["stories260k", "stories", "random_gpt2"])
def test_spans_partition_the_text_after_a_prompt(request, name, prompt, text):
    """A token that begins in the prompt has what it holds of the text."""
    [got] = score(request.getfixturevalue(name), [Document(text, prompt)])
    starts, ends = got.starts.tolist(), got.ends.tolist()
    assert (starts[0], ends[-1]) == (0, len(text))
    assert starts[1:] == ends[:-1] and starts == sorted(starts)
    assert "".join(got.texts()) == text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("Once", [" upon", ""])], "row 1: choice 2 has no token to score"),
        ([("Once", [" upon"]), ("a", [""])], "row 2: choice 1 has no token to score"),
        ([("a", []), ("Once", [" upon"])], "row 1 has no choices"),
    ],
)
def test_choices_without_tokens_and_rows_without_choices_are_refused(stories260k, rows, message):
    with pytest.raises(ValueError, match=message):
        list(score_choices(stories260k, rows))
