"""Rows of one prompt read it once, and prompts that begin alike read that once."""

import numpy as np
import pytest
import torch
from kept import LAYERS, Counted, model_of

from decoding import DecodingSettings, EntropyMonitor, LanguageModel, Sampler, generate
from decoding.generation.branching import branch
from decoding.generation.prefill import read_once
from decoding.generation.run import Run
from decoding.models import caches
from decoding.models.caches import Reader
from decoding.settings.policy import GREEDY, EntropyPolicy
from decoding.texts.prompts import encode_prompt

WARM = DecodingSettings(temperature=0.9, top_p=0.95)
EXAMPLES = "Once upon a time there was a little dog named Max. He had a red ball. " * 4


@pytest.fixture(params=LAYERS)
def kinds(request, stories):
    """Tiny models whose layers keep other things, with the words of the embedded model."""
    vocabulary = stories.model.config.vocab_size
    return LanguageModel(model_of(LAYERS[request.param], vocabulary), stories.tokenizer)


def counted(language_model, read):
    """What a call reads, without the probes of a first one."""
    read()
    count = Counted(language_model.model)
    result = read()
    count.stop()
    return count, result


def alike(generations, others):
    for one, other in zip(generations, others, strict=True):
        assert one.trace.ids.tolist() == other.trace.ids.tolist()
        assert (one.index, one.sample, one.settings) == (other.index, other.sample, other.settings)
        for name in ("surprisal_nats", "raw_surprisal_nats", "raw_entropy_nats", "kl_nats"):
            np.testing.assert_allclose(
                getattr(one.trace, name), getattr(other.trace, name), atol=1e-4, rtol=1e-4
            )


def test_samples_of_one_prompt_read_it_once(kinds):
    options = {"max_new_tokens": 6, "num_return_sequences": 5, "seed": 3}
    count, together = counted(
        kinds, lambda: generate(kinds, EXAMPLES, WARM, **options, batch_size=5)
    )
    prompt = len(together[0].prompt_ids)
    assert count.passes == [(1, prompt - 1), *[(5, 1)] * max(len(g.trace) for g in together)]
    alike(together, generate(kinds, EXAMPLES, WARM, **options, batch_size=1))


def test_prompts_of_other_lengths_share_a_batch_and_what_they_begin_with(kinds):
    prompts = [EXAMPLES + end for end in ("The", "A big dog was", "He")]
    options = {"max_new_tokens": 5, "num_return_sequences": 3, "seed": 1}
    count, together = counted(
        kinds, lambda: generate(kinds, prompts, WARM, **options, batch_size=9)
    )
    lengths = {len(one.prompt_ids) for one in together}
    assert len(lengths) > 1
    read = sum(rows * columns for rows, columns in count.passes if columns > 1)
    # What is common is read with the first prompt, and once more when the second shows it.
    assert read < 2.3 * max(lengths)
    alone = [generate(kinds, prompt, WARM, **options, batch_size=1) for prompt in prompts]
    for number, generations in enumerate(alone):
        for one in generations:
            object.__setattr__(one, "index", number)
    alike(together, [one for generations in alone for one in generations])


def test_batches_share_what_their_prompts_begin_with(stories):
    prompts = [f"{EXAMPLES} {name}" for name in ("Tim", "Lily", "Sam", "Ben", "Tom", "Sue")]
    count, together = counted(
        stories, lambda: generate(stories, prompts, WARM, max_new_tokens=2, seed=0, batch_size=2)
    )
    prompt = len(together[0].prompt_ids)
    assert sum(rows * columns for rows, columns in count.passes) < 3 * prompt + 6 * 20
    alike(together, generate(stories, prompts, WARM, max_new_tokens=2, seed=0, batch_size=1))


def test_short_prompts_are_read_in_one_pass(stories):
    """A pass for each would take longer than what it spares."""
    prompts = ["The", "A cat", "One day a boy"]
    count, _ = counted(stories, lambda: generate(stories, prompts, WARM, max_new_tokens=2, seed=0))
    assert count.passes[0][0] == 3


def test_callers_of_generate_share_it_too(stories):
    ids = torch.tensor([encode_prompt(stories.tokenizer, EXAMPLES)])

    def read():
        monitor = EntropyMonitor()
        outputs = stories.model.generate(
            ids, attention_mask=torch.ones_like(ids), num_return_sequences=4, max_new_tokens=3,
            custom_generate=Sampler(WARM, seed=5, monitor=monitor), eos_token_id=None,
            pad_token_id=0, **WARM.generate_kwargs(),
        )  # fmt: skip
        return outputs, monitor.traces(outputs, eos_token_id=None)

    count, (outputs, traces) = counted(stories, read)
    assert count.passes == [(1, ids.shape[1] - 1), *[(4, 1)] * 3]
    with torch.no_grad():
        logits = stories.model(outputs).logits.double().log_softmax(-1)
    for row, trace in enumerate(traces):
        ones = logits[row, ids.shape[1] - 1 : -1][range(3), trace.ids]
        np.testing.assert_allclose(trace.raw_surprisal_nats, -ones, atol=1e-4, rtol=1e-4)


def test_hidden_states_of_the_prompt_are_those_of_the_prompt(stories):
    ids = torch.tensor([encode_prompt(stories.tokenizer, EXAMPLES)])
    outputs = stories.model.generate(
        ids, attention_mask=torch.ones_like(ids), num_return_sequences=4, max_new_tokens=2,
        custom_generate=Sampler(WARM, seed=5), eos_token_id=None, pad_token_id=0,
        return_dict_in_generate=True, output_hidden_states=True, **WARM.generate_kwargs(),
    )  # fmt: skip
    assert outputs.hidden_states[0][-1].shape[:2] == (4, ids.shape[1])


@pytest.mark.parametrize("more", ["positions", "cache"])
def test_a_call_that_reads_more_than_ids_reads_it_itself(stories, more):
    ids = torch.tensor([encode_prompt(stories.tokenizer, EXAMPLES)])
    given = {}
    past = 0
    if more == "positions":
        given["position_ids"] = torch.arange(ids.shape[1])[None] + 1
    else:
        ids, past = ids.repeat(4, 1), 10

    def read():
        if past:
            with torch.no_grad():
                filled = stories.model(ids[:, :past], use_cache=True)
            given["past_key_values"] = filled.past_key_values
            count.passes.clear()
        return stories.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, eos_token_id=None,
            custom_generate=Sampler(WARM, seed=5), pad_token_id=0, **WARM.generate_kwargs(),
            **{"num_return_sequences": 4} if more == "positions" else {}, **given,
        )  # fmt: skip

    count = Counted(stories.model)
    read()
    count.stop()
    assert count.passes[0] == (4, ids.shape[1] - past)


def test_a_model_that_cannot_share_says_why_and_is_right(stories, monkeypatch):
    monkeypatch.setattr(caches, "_KINDS", ())
    model = model_of(LAYERS["attention"], stories.model.config.vocab_size)
    own = LanguageModel(model, stories.tokenizer)
    assert "layers of another kind" in read_once(model, 0)
    options = {"max_new_tokens": 4, "num_return_sequences": 3, "seed": 3}
    count, together = counted(own, lambda: generate(own, EXAMPLES, WARM, **options))
    assert count.passes[0] == (3, len(together[0].prompt_ids))
    alike(together, generate(own, EXAMPLES, WARM, **options, batch_size=1))


def test_a_prompt_that_forks_is_read_once(stories):
    assert read_once(stories.model, 0) is None
    count = Counted(stories.model)
    tree = branch(
        stories, EXAMPLES, WARM, entropy_above=1.0, max_leaves=5, max_new_tokens=12, seed=2
    )
    count.stop()
    assert len([*tree.root.leaves()]) == 5
    assert max(columns for _, columns in count.passes[1:]) < len(tree.prompt_ids) / 4
    assert count.passes[0] == (1, len(tree.prompt_ids) - 1)


@pytest.mark.parametrize("settings", [WARM, DecodingSettings(mirostat_tau=3.0)], ids=str)
@pytest.mark.parametrize("prompts", [["Once upon a time"], ["The", EXAMPLES, "A cat"]])
def test_a_greedy_row_stands_beside_samples(stories, settings, prompts):
    """Both are what they are in runs of their own, also under a setting that remembers."""
    run = Run(
        language_model=stories, settings=settings, reader=Reader(stories.model),
        max_new_tokens=8, num_return_sequences=2, seed=4, stop=[], alternatives=3, greedy_too=True,
    )  # fmt: skip
    written = [*run.sequences(prompts, 9)]
    assert [one.sample for one in written] == [-1, 0, 1] * len(prompts)
    greedy = generate(stories, prompts, GREEDY, max_new_tokens=8, seed=4, alternatives=3)
    for one, other in zip(written[::3], greedy, strict=True):
        object.__setattr__(other, "sample", -1)
        assert one.alternative_texts == other.alternative_texts
        np.testing.assert_allclose(
            one.trace.alternatives.raw_probability,
            other.trace.alternatives.raw_probability,
            atol=1e-5,
        )
    alike(written[::3], greedy)
    drawn = generate(stories, prompts, settings, max_new_tokens=8, seed=4, num_return_sequences=2)
    samples = [one for one in written if one.sample >= 0]
    alike(samples, drawn)
    assert all(one.trace.alternatives is None for one in samples)


def test_greedy_rows_are_not_for_policies():
    policy = EntropyPolicy(settings=WARM, entropy_above=1.0, then="stop")
    with pytest.raises(ValueError, match="not with a policy"):
        Sampler(policy, seed=1, greedy_rows=1)


def test_samples_beside_a_greedy_row_may_draw_any_token():
    """The first token of the vocabulary, too: what a row has not is no number of it."""
    model = model_of(LAYERS["attention"])
    ids = torch.full((6, 4), 5)
    monitor = EntropyMonitor(alternatives=3)
    settings = DecodingSettings(temperature=100)
    outputs = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, eos_token_id=None,
        custom_generate=Sampler(settings, seed=1, monitor=monitor, greedy_rows=1),
        pad_token_id=0, **settings.generate_kwargs(),
    )  # fmt: skip
    greedy, *drawn = monitor.traces(outputs, eos_token_id=None)
    assert any((trace.ids == 0).any() for trace in drawn)
    assert all(trace.alternatives is None for trace in drawn)
    assert greedy.alternatives is not None and greedy.alternatives.ids.shape == (60, 3)
