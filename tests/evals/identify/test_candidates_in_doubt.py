"""What may rule a candidate out by accident, and candidates of several models."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from candidates import drawn, ids_of, parsed
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import TokenDocument
from decoding.settings.settings import DecodingSettings
from decoding_evals.identify.evaluation import identify
from decoding_evals.identify.likelihoods import ROUNDING, _measured
from oracle import reference_log_q, teacher_forced

NATS = 1e-4
SPECS = ["raw", "temperature=0.6", "top_p=0.8", "top_k=5", "min_p=0.2", "typical_p=0.6", "greedy"]
WIKI = "In 2006, the committee ratified its amended constitution; senators from Ohio dissented."


# Rounding, and tokens that the tokenizer would not choose.


def block(row):
    return LogitBlock(row, torch.tensor([2]), [], 0)


@pytest.mark.parametrize(
    ("spec", "edge"),
    [("greedy", 3.0), ("top_k=2", 2.0), ("min_p=0.2", 3 + math.log(0.2)),
     ("epsilon_cutoff=0.2", None)],
)  # fmt: skip
def test_a_token_that_rounding_may_have_moved_over_the_edge_is_inside(spec, edge):
    setting = DecodingSettings.parse(spec)
    z = torch.tensor([[3.0, 2.0, 0.0, -1.0]])
    if edge is None:  # p = 0.2 beside the others' mass
        edge = float(z[0, [0, 1, 3]].logsumexp(0) + math.log(0.2 / 0.8))
    slack = ROUNDING[torch.float32]
    for distance, inside in ((slack / 2, True), (slack * 4, False), (0.5, False)):
        row = z.clone()
        row[0, 2] = edge - distance
        log_q = _measured(block(row), [Follower([setting])])["log_q_nats 0"]
        assert bool(log_q.isfinite()) is inside
        half = _measured(block(row.bfloat16()), [Follower([setting])])["log_q_nats 0"]
        assert bool(half.isfinite()) is (distance < 0.1)


def explained_by_brute_force(language_model, ids, place, setting):
    """Whether another kept token writes the text at a token or up to 4 before: all are tried."""
    tokenizer = language_model.tokenizer

    def text(tokens):
        return tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    bos = tokenizer.bos_token_id
    rows = teacher_forced(language_model.model, [bos], ids)
    whole = text(ids)
    for position in range(max(0, place - 4), place + 1):
        log_q = reference_log_q(rows[position], setting)
        before = text(ids[:position])
        for other in np.flatnonzero(np.isfinite(log_q)):
            written = text([*ids[:position], int(other)])
            longer = len(written) > len(before)
            if other != ids[position] and whole.startswith(written) and longer:
                return True
    return False


def test_a_ruling_out_that_other_tokens_could_explain_is_marked(stories):
    specs = ["raw", "temperature=1.4,top_p=0.85", "top_k=20"]
    settings = parsed(specs)
    texts = ["The rockier boat was unhappiest.", "Tom Timmyed the sandcastles", "She playfully"]
    marks = []
    for text, result in zip(texts, identify(stories, texts, settings), strict=True):
        ids = ids_of(stories, text)
        for k in (1, 2):
            outside = np.flatnonzero(np.isneginf(result.log_q_nats[:, k]))[:8].tolist()
            firm = [
                i for i in outside if not explained_by_brute_force(stories, ids, i, settings[k])
            ]
            entry = result.candidates[k].ruled_out
            assert (entry is None) == (not outside)
            if entry is not None:
                assert entry.retokenisation is (not firm)
                assert entry.token == (firm or outside)[0]
                assert entry.retokenisation or entry.others_log_prob_nats == -math.inf
                assert entry.others_log_prob_nats <= 0
                marks.append(entry.retokenisation)
    assert True in marks and False in marks


def test_text_written_in_other_tokens_is_not_held_against_its_setting(stories):
    """Drawn under the setting, from BOS; the tokenizer cuts the name in it in another way."""
    setting = DecodingSettings(temperature=1.4, top_p=0.85)
    ids = [421, 429, 259, 386, 395, 437, 912, 500, 485, 311, 1796, 65, 291, 855, 266, 1331, 14, 622]
    text = stories.tokenizer.decode(ids)
    assert ids_of(stories, text) != ids
    settings = [DecodingSettings(), setting]
    [drawn] = identify(stories, [TokenDocument(ids, [stories.tokenizer.bos_token_id])], settings)
    assert drawn.candidates[1].ruled_out is None
    [read] = identify(stories, [text], settings)
    record = read.record()
    [entry] = record["ruled_out"]
    assert entry["retokenisation"] and entry["setting"] == str(setting)
    assert record["posterior"] == [1, 0] and record["log_odds_nats"] is None
    assert record["decided"] is None and "cut into other tokens" in record["abstained_because"]
    # Where the token could not be worth what it would have to be, it decides nothing.
    [read] = identify(stories, [text], settings, prior=[1, 1e-12])
    assert read.record()["decided"] == "raw"


# Several models.


@pytest.fixture(scope="module")
def sharper(stories260k):
    """The same model with its logits doubled."""
    model = copy.deepcopy(stories260k.model)
    head = torch.nn.Linear(64, 512, bias=False)
    head.weight.data = model.lm_head.weight.data * 2
    model.lm_head = head
    return dataclasses.replace(stories260k, model=model, name="sharper")


def test_models_are_candidates_too(stories260k, sharper):
    """A model with doubled logits is the other at half the temperature."""
    [document] = drawn(stories260k, "temperature=0.5", tokens=80)
    settings = parsed(["raw", "temperature=2"])
    [result] = identify([stories260k, sharper], [document], settings)
    record = result.record()
    assert record["settings"] == ["raw", "temperature=2"] * 2
    assert record["models"] == [stories260k.name] * 2 + ["sharper"] * 2
    raw, hot, sharp, again = record["log_likelihood_nats"]
    assert again == pytest.approx(raw, abs=1e-3) and sharp > raw > hot
    assert (record["decided"], record["decided_model"]) == ("raw", "sharper")
    shares = record["model_posterior"]
    assert shares[stories260k.name] == pytest.approx(sum(record["posterior"][:2]))
    assert shares["sharper"] == pytest.approx(sum(record["posterior"][2:]))


def test_models_that_cut_a_text_differently_meet_where_both_end_a_token(stories, stories260k):
    text = 'Once upon a time, Lily saw the 日本 cat 🙂. It unhappily said: "Blorp!"'
    settings = parsed(["raw", "temperature=1.3"])
    _, got = identify([stories, stories260k], ["", text], settings)
    assert "".join(got.tokens) == text
    bounds = np.cumsum([len(piece) for piece in got.tokens])
    for place, language_model in enumerate((stories, stories260k)):
        [alone] = identify(language_model, [text], settings)
        ends = np.cumsum([len(piece) for piece in alone.tokens])
        assert set(bounds) <= set(ends) and len(got.tokens) < len(alone.tokens)
        own = got.log_q_nats[:, 2 * place : 2 * place + 2]
        cumulative = alone.log_q_nats.cumsum(0)
        last = [np.flatnonzero(ends == bound)[-1] for bound in bounds]
        assert_allclose(own.cumsum(0), cumulative[last], atol=1e-3)
        for mine, theirs in zip(got.candidates[2 * place :], alone.candidates, strict=False):
            assert mine.z == pytest.approx(theirs.z, abs=1e-3)
    with pytest.raises(ValueError, match=r"the vocabularies of 'builtin:stories' and .* differ"):
        list(identify([stories, stories260k], [TokenDocument([5, 6])], settings))
