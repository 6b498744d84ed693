"""A seeded row draws by what its prompt is, also where the prompt is no row of ids."""

import copy
import functools

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from decoding import DecodingSettings, Sampler
from decoding.sampling.rows import prompts_of
from drawing import points_for

WARM = DecodingSettings(temperature=1.5)
SOURCES = [[3, 9, 4, 4, 2, 7, 5], [8, 2], [6, 6, 1, 5], [8, 2]]


@functools.cache
def encoding(kind):
    torch.manual_seed(0)
    if kind == "t5":
        config = T5Config(
            vocab_size=17, d_model=16, d_ff=16, num_layers=2, num_heads=2, d_kv=8,
            decoder_start_token_id=0, initializer_factor=1.5,
        )  # fmt: skip
        return T5ForConditionalGeneration(config).eval()
    config = BartConfig(
        vocab_size=17, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, init_std=0.5,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()


def drawn(model, inputs, sampler, samples=1):
    return model.generate(
        **inputs, custom_generate=sampler, max_new_tokens=10, eos_token_id=None, pad_token_id=0,
        num_return_sequences=samples, **sampler.settings.generate_kwargs(),
    )  # fmt: skip


def padded(sources):
    width = max(map(len, sources))
    return {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids in sources]),
        "attention_mask": torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i in sources]),
    }


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_rows_of_an_encoder_draw_the_same_alone_and_in_a_batch(kind):
    model = encoding(kind)
    together = drawn(model, padded(SOURCES), Sampler(WARM, seed=4)).tolist()
    for place in range(3):
        alone = drawn(model, padded(SOURCES[place : place + 1]), Sampler(WARM, seed=4)).tolist()
        assert alone == [together[place]]
    # The last is the second sample of the second.
    two = drawn(model, padded(SOURCES[1:2]), Sampler(WARM, seed=4), samples=2).tolist()
    assert two == [together[1], together[3]] and together[1] != together[3]


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_embeddings_for_an_encoder_are_told_apart_too(kind):
    model = encoding(kind)
    embeddings = model.get_input_embeddings()(torch.tensor([[3, 9, 4], [8, 2, 2]])).detach()
    inputs = {"inputs_embeds": embeddings, "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    together = drawn(model, inputs, Sampler(WARM, seed=4)).tolist()
    alone = {name: value[1:] for name, value in inputs.items()}
    assert drawn(model, alone, Sampler(WARM, seed=4)).tolist() == [together[1]]


def test_a_seed_without_what_an_encoder_has_read_is_refused():
    model = encoding("t5")
    states = model.get_encoder()(**padded(SOURCES)).last_hidden_state.detach()
    inputs = {"encoder_outputs": BaseModelOutput(last_hidden_state=states)}
    with pytest.raises(
        ValueError, match="give what an encoder reads, one row at a time, or points"
    ):
        drawn(model, copy.copy(inputs), Sampler(WARM, seed=4))
    drawn(model, copy.copy(inputs), Sampler(WARM, points=points_for(4, 10)))


def test_prompts_of_the_same_ids_beside_pictures_are_not_told_apart(toy_gpt2):
    ids, pictures = torch.tensor([[3, 1, 4]] * 2), {"pixel_values": torch.zeros(2, 3, 4, 4)}
    assert prompts_of(toy_gpt2, ids, ids, pictures).names is None
    assert prompts_of(toy_gpt2, ids, ids[:1], pictures).names == ["3 1 4"] * 2  # two samples
    ids = torch.tensor([[3, 1, 4], [3, 1, 5]])
    assert prompts_of(toy_gpt2, ids, ids, pictures).names == ["3 1 4", "3 1 5"]


def test_decoders_that_begin_at_different_lengths_are_right_or_refused():
    """BART counts its decoder's padding as positions."""
    inputs = padded(SOURCES[:2]) | {
        "decoder_input_ids": torch.tensor([[0, 5, 6, 7, 8], [0, 0, 0, 3, 2]]),
        "decoder_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]),
    }
    with pytest.raises(ValueError, match="cannot run together: BartForConditionalGeneration does"):
        drawn(encoding("bart"), inputs, Sampler(WARM, seed=4))
    together = drawn(encoding("t5"), inputs, Sampler(WARM, seed=4)).tolist()
    alone = {name: value[1:] for name, value in inputs.items()}
    for name in ("decoder_input_ids", "decoder_attention_mask"):
        alone[name] = alone[name][:, 2:]
    assert drawn(encoding("t5"), alone, Sampler(WARM, seed=4))[0, 3:].tolist() == together[1][5:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
def test_padding_is_no_part_of_an_embedded_prompt(name, dtype, request):
    model = copy.deepcopy(request.getfixturevalue(name)).to(dtype)
    embeddings = model.get_input_embeddings()(torch.tensor([[5, 1, 4, 2], [0, 0, 7, 3]])).detach()
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    names = []
    for rows in (slice(None), slice(1, 2)):
        given = embeddings[rows, 2 * (rows != slice(None)) :]
        sampler = Sampler(WARM, seed=1)
        names.append(
            drawn(
                model,
                {"inputs_embeds": given, "attention_mask": mask[rows, -given.shape[1] :]},
                sampler,
            )[-1].tolist()
        )
    if dtype == torch.float32:  # what is promised; in half precision padding changes rounding
        assert names[0] == names[1]
