"""What runs together: a row's numbers in a batch are its numbers alone, whatever the model."""

import functools
from functools import partial

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from decoding import DecodingSettings, LanguageModel, Sampler, Windows, generate
from decoding.passes.batching import Together, batches
from decoding.sampling.stepping import generated_together
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding_evals.compare.models import compare_models
from decoding_evals.perplexity.evaluation import perplexity
from drawing import RAW, sample
from oracle import left_padded, log_softmax
from toys import ids_of, surprisals, words

SMALL = {
    "vocab_size": 17, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
DECODER = {
    "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_attention_heads": 4,
    "init_std": 0.4, "is_decoder": True, "is_encoder_decoder": False,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.5, 2.0], "original_max_position_embeddings": 16,
}  # fmt: skip
ROTARY = "rope_parameters" if hasattr(CONFIG_MAPPING["llama"](), "rope_parameters") else (
    "rope_scaling"
)  # fmt: skip
LONG = {ROTARY: LONGROPE, "original_max_position_embeddings": 16, "sliding_window": None}

# Whose rows of different lengths may share a batch, and whose may not.
APART = {
    "rwkv": ("rwkv", {"attention_hidden_size": 32, "context_length": 128}),
    "bart": ("bart", DECODER),
    "pegasus": ("pegasus", DECODER),
    "marian": ("marian", DECODER),
    "blenderbot": ("blenderbot", DECODER),
}
TOGETHER = {
    "llama": ("llama", {}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "opt": ("opt", {"ffn_dim": 48, "init_std": 0.4, "word_embed_proj_dim": 32}),
    "mamba": ("mamba", {"state_size": 8, "time_step_rank": 4}),
    "bert": ("bert", {"is_decoder": True, "type_vocab_size": 1}),
}
LIMITED = {"phi3": ("phi3", LONG), "llama, longrope": ("llama", LONG)}
MODELS = APART | TOGETHER | LIMITED

TEXTS = ["a b c d e f g h i j k l m n o p a c e", "c", "b a d c f e", "p o n m l k j i h g f e d"]
every_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def tiny(name):
    kind, further = MODELS[name]
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SMALL | further)).eval()
    return LanguageModel(model, words(bos_token="<eos>", eos_token="<eos>"), name)


def strict(model, read):
    """log p of what follows every prefix, each from a pass of its own, in float64."""
    with torch.no_grad():
        rows = [model(torch.tensor([read[: end + 1]])).logits[0, -1] for end in range(len(read))]
    return [log_softmax(row.double().numpy()) for row in rows]


@every_model
def test_a_sequence_is_the_same_alone_and_in_a_batch(name):
    language_model = tiny(name)
    options = {"max_new_tokens": 9, "seed": 5}
    together = generate(language_model, TEXTS, batch_size=4, num_return_sequences=2, **options)
    for text in TEXTS:
        alone = generate(language_model, text, batch_size=1, num_return_sequences=2, **options)
        for one, other in zip(alone, (g for g in together if g.prompt == text), strict=True):
            assert one.trace.ids.tolist() == other.trace.ids.tolist()
            surprisal = other.trace.surprisal_nats
            np.testing.assert_allclose(one.trace.surprisal_nats, surprisal, atol=1e-4)


@every_model
def test_traces_are_what_strict_prefixes_give(name):
    language_model = tiny(name)
    for one in generate(language_model, TEXTS, max_new_tokens=9, seed=6):
        ids = one.trace.ids.tolist()
        rows = strict(language_model.model, [*one.prompt_ids, *ids[:-1]])[len(one.prompt_ids) - 1 :]
        want = [-row[id_] for row, id_ in zip(rows, ids, strict=True)]
        np.testing.assert_allclose(one.trace.raw_surprisal_nats, want, atol=1e-4)


@every_model
@pytest.mark.parametrize("windows", [Windows(), Windows(context=24, stride=20), Windows(context=9)])
def test_scores_are_what_strict_prefixes_give(name, windows):
    language_model = tiny(name)
    forcing = TeacherForcing(language_model, windows)
    generator = torch.Generator().manual_seed(8)
    ids = [torch.randint(1, 17, (size,), generator=generator).tolist() for size in (30, 3, 12, 12)]

    def measure(block):
        log_p = block.logits.float().log_softmax(-1)
        return {"surprisal": -log_p.gather(1, block.targets[:, None])[:, 0]}

    scored = dict.fromkeys(range(len(ids)), 0)
    for window, columns in forcing.scan([TokenDocument(one) for one in ids], measure):
        rows = strict(language_model.model, window.inputs.tolist())[-len(window.targets) :]
        want = [-row[id_] for row, id_ in zip(rows, window.targets, strict=True)]
        np.testing.assert_allclose(columns["surprisal"], want, atol=1e-4)
        scored[window.document] += len(window.targets)
    assert scored == {place: len(one) for place, one in enumerate(ids)}


@pytest.mark.parametrize("name", TOGETHER)
def test_rows_that_a_model_can_bear_beside_each_other_share_a_batch(name):
    assert generated_together(tiny(name).model, 0)[:2] == ("padded", None)


def test_two_models_read_the_same_windows_where_one_cannot_bear_padding():
    reference, other = tiny("llama"), tiny("rwkv")
    together = compare_models(reference, other, TEXTS, windows=Windows(batch_size=4))
    one_by_one = compare_models(reference, other, TEXTS, windows=Windows(batch_size=1))
    assert together.kl_ab.mean == pytest.approx(one_by_one.kl_ab.mean, abs=1e-6)
    assert together.nll_b.mean == pytest.approx(one_by_one.nll_b.mean, abs=1e-6)


def test_batches_hold_what_may_run_together_and_no_more_than_their_size():
    lengths = [1, 1, 2, 4, 4, 4, 7, 9, 9]

    def cut(rows, limit=None, growth=0, size=3):
        key = partial(Together(rows, limit, "").key, growth=growth)
        return list(batches(lengths, size, lambda length: length, lambda: key))

    assert cut("padded") == [[1, 1, 2], [4, 4, 4], [7, 9, 9]]
    assert cut("equal") == [[1, 1], [2], [4, 4, 4], [7], [9, 9]]
    assert cut("single") == [[length] for length in lengths]
    assert cut("padded", limit=4) == [[1, 1, 2], [4, 4, 4], [7], [9, 9]]
    assert cut("padded", limit=4, growth=1) == [[1, 1, 2], [4, 4, 4], [7], [9, 9]]
    assert cut("padded", limit=4, growth=3) == [[1, 1], [2], [4, 4, 4], [7], [9, 9]]
    assert cut("padded", size=1) == [[length] for length in lengths]


# Rows that influence each other.


class Mixed(torch.nn.Module):
    """An embedding whose rows see the mean of all rows."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, ids):
        rows = self.inner(ids)
        return rows + rows.mean(0, keepdim=True)


def mixed():
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**SMALL)).eval()
    model.model.embed_tokens = Mixed(model.model.embed_tokens)
    return LanguageModel(model, tiny("llama").tokenizer, "mixed")


def test_rows_that_mix_run_alone():
    language_model = mixed()
    together = generate(language_model, TEXTS, batch_size=4, max_new_tokens=5, seed=1)
    alone = [generate(language_model, text, max_new_tokens=5, seed=1)[0] for text in TEXTS]
    assert [g.trace.ids.tolist() for g in together] == [g.trace.ids.tolist() for g in alone]
    with pytest.raises(ValueError, match="cannot run together: LlamaForCausalLM mixes the rows"):
        generate(language_model, TEXTS[0], num_beams=2, max_new_tokens=3)


# In a call of `model.generate`.


@pytest.mark.parametrize("name", APART)
def test_a_sampler_refuses_rows_that_change_each_other(name):
    model = tiny(name).model
    inputs = left_padded([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3]], 0)
    with pytest.raises(ValueError, match="cannot run together: "):
        sample(model, inputs, Sampler(RAW, seed=0))
    equal = left_padded([[3, 1, 4], [5, 3, 2]], 0)
    if name == "rwkv":  # in steps, it mixes also rows of one length
        with pytest.raises(
            ValueError, match=r"RwkvForCausalLM mixes the rows of a batch .* one row"
        ):
            sample(model, equal, Sampler(RAW, seed=0))
    else:
        sample(model, equal, Sampler(RAW, seed=0))


@pytest.mark.parametrize("name", LIMITED)
def test_a_sampler_refuses_rows_on_both_sides_of_a_limit(name):
    model = tiny(name).model
    long, short = [*range(1, 17), 1, 2], [5, 3]
    with pytest.raises(ValueError, match="where a row has more than 16 positions; run rows of one"):
        sample(model, left_padded([long, short], 0), Sampler(RAW, seed=0))
    with pytest.raises(ValueError, match="more than 16 positions"):
        sample(model, left_padded([long[:9], short], 0), Sampler(RAW, seed=0), new_tokens=12)
    sample(model, left_padded([long[:9], short], 0), Sampler(RAW, seed=0), new_tokens=7)


def test_a_draw_of_a_padded_batch_that_may_run_together_is_not_refused():
    model, prompts = tiny("gpt2").model, [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3]]
    together = sample(model, left_padded(prompts, 0), Sampler(RAW, seed=3))
    for row, prompt in zip(together.tolist(), prompts, strict=True):
        alone = sample(model, left_padded([prompt], 0), Sampler(RAW, seed=3))
        assert row[8:] == alone[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
def test_embedded_rows_draw_the_same_alone_and_in_a_batch(name):
    model = tiny(name).model
    embeddings = model.get_input_embeddings()(torch.tensor([[3, 1, 4], [5, 9, 2], [3, 1, 4]]))
    settings = DecodingSettings(temperature=1.5)
    rows = sample(model, {"inputs_embeds": embeddings.detach()}, Sampler(settings, seed=2))
    assert rows[0].tolist() != rows[2].tolist()  # samples of one prompt
    for row in (0, 1):
        alone = {"inputs_embeds": embeddings[row : row + 1].detach()}
        assert sample(model, alone, Sampler(settings, seed=2)).tolist() == [rows[row].tolist()]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mpt", "gpt_bigcode"])
@pytest.mark.parametrize("room", [1, 2, 3, 4, 5, 6])
def test_a_model_of_a_few_positions_is_scored_as_it_is_token_by_token(kind, room):
    torch.manual_seed(0)
    values = SMALL | {"max_position_embeddings": room, "max_seq_len": room}
    config = CONFIG_MAPPING[kind](**values)
    language_model = LanguageModel(
        AutoModelForCausalLM.from_config(config).eval(), words(eos_token="<eos>")
    )
    got = perplexity(language_model, ["a b c d e f g", "b c a"]).record()
    want = [
        surprisals(
            language_model.model, [0, *ids_of(language_model, text)], room, max(1, room // 2)
        )
        for text in ("a b c d e f g", "b c a")
    ]
    np.testing.assert_allclose(got["nll_nats"], np.mean(np.concatenate(want)), rtol=1e-5)
    if room > 1:
        options = {"seed": 1, "max_new_tokens": room - 1}
        together = generate(language_model, ["a", "b"], RAW, **options)
        assert together[0].text == generate(language_model, ["a"], RAW, **options)[0].text
