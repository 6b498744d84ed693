"""Rows of a batch on made-up logits: what is drawn, forgotten, written down, complained of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, NonFiniteLogitsError
from decoding.engines import vllm as engine
from decoding.engines.batch import FIRST_POINTS, Batch, Draws, packed, unpacked
from decoding.engines.requests import Request
from decoding.engines.vllm_worker import SettingProcessor
from decoding.sampling.seeds import uniforms
from drawing import assert_inverse_cdf
from fake_vllm import Parameters

VOCAB, PROMPT = 11, [3, 1, 4]
SETTINGS = ["raw", "temperature=0.5,top_p=0.9", "mirostat_tau=1", "dry_multiplier=2", "greedy"]


def rows_of(count, steps):
    return torch.from_numpy(3 * np.random.default_rng(4).standard_normal((steps, count, VOCAB)))


def batch_of(settings, **further):
    """A batch of one row for each setting, and the lists of what the engine has committed."""
    batch, lists = Batch(), []
    for row, text in enumerate(settings):
        draws = Draws(Request(settings=text, seed=row, trace=str(row), **further), PROMPT)
        lists.append([])
        draws.committed = lists[-1]
        batch.add(row, draws)
    return batch, lists


def drawn(batch, logits):
    """The tokens of a step, each the only one that is left."""
    left = batch.draw(logits.float())
    assert ((left == 0).sum(-1) == 1).all() and ((left == -torch.inf).sum(-1) == VOCAB - 1).all()
    return left.argmax(-1).tolist()


def test_each_row_follows_its_own_setting_and_stream(arrays):
    logits = rows_of(len(SETTINGS), 70)
    batch, lists = batch_of(SETTINGS)
    for step in logits:
        for own, token in zip(lists, drawn(batch, step), strict=True):
            own.append(token)
    assert len(logits) > FIRST_POINTS
    for row, (text, ids) in enumerate(zip(SETTINGS, lists, strict=True)):
        # As of a `Sampler`: the ids of the prompt are its name.
        points = uniforms(row, "3 1 4", 0, len(ids)).tolist()
        rows = logits[:, row].numpy()
        assert_inverse_cdf(rows, ids, points, DecodingSettings.parse(text), PROMPT)


def test_what_is_thrown_away_is_forgotten(arrays):
    """Each step is seen twice, and on other logits before; placeholders stand for tokens."""
    logits = rows_of(len(SETTINGS), 12)
    kept, lists = batch_of(SETTINGS, certainty=True)
    thrown, placeholders = batch_of(SETTINGS, certainty=True)
    for step, other in zip(logits, logits.flip(0), strict=True):
        drawn(thrown, other)
        tokens = drawn(kept, step)
        assert drawn(thrown, step) == tokens
        for own, hidden, token in zip(lists, placeholders, tokens, strict=True):
            own.append(token)
            hidden.append(-1)
    names = [str(row) for row in range(len(SETTINGS))]
    one, other = unpacked(kept.take(names)), unpacked(thrown.take(names))
    for own, again in zip(one, other, strict=True):
        assert own.keys() == again.keys() >= {"ids", "columns", "certainty"}
        for name, values in own.items():
            np.testing.assert_array_equal(values, again[name])


def test_rows_that_move_take_what_they_have_drawn_along():
    logits = rows_of(3, 4)
    batch, lists = batch_of(["mirostat_tau=1", "raw", "greedy"])
    still, others = batch_of(["mirostat_tau=1", "raw", "greedy"])
    places = [0, 1, 2]
    for step, (source, target) in zip(logits, [(0, 2), (1, 0), (2, 1), (0, 1)], strict=True):
        batch.move(source, target, swap=True)
        places[source], places[target] = places[target], places[source]
        moved, unmoved = drawn(batch, step[places]), drawn(still, step)
        assert moved == [unmoved[place] for place in places]
        for row, token in enumerate(unmoved):
            lists[row].append(token)
            others[row].append(token)
    batch.move(2, 0, swap=False)
    batch.remove(1)
    left = batch.draw(logits[0].float())
    assert (left[1:] == logits[0, 1:].float()).all() and (left[0] == 0).sum() == 1


def test_a_request_without_a_trace_leaves_nothing(arrays):
    batch, own = Batch(), []
    draws = Draws(Request(settings="raw", seed=1), PROMPT)
    draws.committed = own
    batch.add(0, draws)
    for step in rows_of(1, 3):
        own += drawn(batch, step)
    batch.remove(0)
    assert vars(batch) == {"_rows": {}, "_kept": {}}
    assert own == draws.ids and "columns" not in draws.columns()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_no_distribution_is_named(value):
    logits = rows_of(3, 2)
    batch, lists = batch_of(["raw"] * 3)
    for own, token in zip(lists, drawn(batch, logits[0]), strict=True):
        own.append(token)
    logits[1, 2, 5] = value
    with pytest.raises(NonFiniteLogitsError, match=r"^step 1, request '2': the model's logits"):
        batch.draw(logits[1].float())


def test_on_an_accelerator_it_is_complained_of_at_the_end(monkeypatch):
    monkeypatch.setattr("decoding.rows.arrays.numpy_sees", lambda _: False)
    logits = rows_of(2, 3)
    logits[1, 1, 5] = torch.nan
    batch, lists = batch_of(["top_p=0.9"] * 2)
    for step in logits:
        for own, token in zip(lists, drawn(batch, step), strict=True):
            own.append(token)
    [found] = engine.traces([batch.take(["0"])], [lists[0]])
    assert found.ids.tolist() == lists[0]
    with pytest.raises(NonFiniteLogitsError, match="step 1"):
        engine.traces([batch.take(["1"])], [lists[1]])


def test_a_worker_that_draws_nothing_is_passed_over():
    batch, [own] = batch_of(["raw"])
    own += drawn(batch, rows_of(1, 1)[0])
    [found] = engine.traces([Batch().take(["0"]), batch.take(["0"])], [own])
    assert found.ids.tolist() == own


def test_tokens_of_another_engine_are_refused():
    batch, [own] = batch_of(["mirostat_tau=1"])
    own += [1, 2]
    with pytest.raises(ValueError, match="has 2 tokens, of which 0 were drawn under mirostat_tau"):
        batch.draw(rows_of(1, 1)[0].float())


def test_arrays_come_back_as_they_went():
    given = [{"ids": np.arange(3), "a b": np.ones((2, 2), np.float32)}, {}]
    back = unpacked(packed(given))
    assert back[1] == {} and back[0].keys() == given[0].keys()
    for name, values in given[0].items():
        assert back[0][name].dtype == values.dtype and (back[0][name] == values).all()


def test_the_processor_follows_the_engine_and_knows_its_limits():
    config = SimpleNamespace(model_config=SimpleNamespace(enable_prompt_embeds=True))
    with pytest.raises(ValueError, match="enable_prompt_embeds must be off"):
        SettingProcessor(config, "cpu", False)
    config.model_config.enable_prompt_embeds = False
    processor = SettingProcessor(config, "cpu", False)
    assert not processor.is_argmax_invariant()
    asked = Request(settings="raw", seed=0).extra_args()
    with pytest.raises(ValueError, match="temperature must be 0"):
        processor.validate_params(Parameters(extra_args=asked, temperature=0.7))
    processor.validate_params(Parameters(temperature=0.7))
