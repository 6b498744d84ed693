"""Body and head apart against the model whole, for the heads that models have."""

import copy
import functools
import math

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from decoding.passes.head import LogitHead
from oracle import editing

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "initializer_range": 0.4,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
OPT = {"ffn_dim": 48, "init_std": 0.4, "word_embed_proj_dim": 16}
MAMBA = {"state_size": 8, "expand": 2, "conv_kernel": 4, "time_step_rank": 4}

# model type, further configuration, whether that changes the logits behind the head's product
FAMILIES = [
    ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, False),
    ("llama", {}, False),
    ("gemma2", {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}, True),
    ("gemma2", {"final_logit_softcapping": None, "query_pre_attn_scalar": 8}, False),
    ("cohere", {"logit_scale": 0.0625}, True),
    ("granite", {"logits_scaling": 8.0}, True),
    ("opt", OPT, False),
    ("gpt_neox", {}, False),
    ("bloom", {"n_layer": 2, "n_head": 4}, False),
    ("mamba", MAMBA, False),
    ("qwen2", {}, False),
    ("qwen3", {}, False),
]
NAMES = [f"{name}{'+' if changes else ''}" for name, _, changes in FAMILIES]
EPS = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


every_family = pytest.mark.parametrize(("kind", "further", "changes"), FAMILIES, ids=NAMES)
dtypes = pytest.mark.parametrize("dtype", EPS, ids=str)


@functools.cache
def tiny(kind, further=()):
    torch.manual_seed(3)
    config = CONFIG_MAPPING[kind](**{**SMALL, **dict(further)})
    return AutoModelForCausalLM.from_config(config).eval()


def some_ids(*shape):
    return torch.randint(1, 61, shape, generator=torch.Generator().manual_seed(5))


def whole_logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def assert_near(found, want):
    size = want.float().abs().max()
    assert found.shape == want.shape
    assert found.dtype == want.dtype
    assert ((found.float() - want.float()).abs() <= EPS[found.dtype] * size).all()


@every_family
@dtypes
def test_rows_are_the_model_s_logits(kind, further, changes, dtype):
    model = copy.deepcopy(tiny(kind, tuple(further.items()))).to(dtype)
    ids = some_ids(2, 23)
    want = whole_logits(model, ids)
    assert want.float().std() > 0.05  # rows that say something
    with torch.no_grad():
        product = model.get_output_embeddings()(model.base_model(ids)[0].to(dtype))
    far = (product.float() - want.float()).abs().max() > 0.2 * want.float().abs().max()
    assert bool(far) == changes

    head = LogitHead(model)
    hidden = head.hidden(ids, torch.ones_like(ids))
    assert hidden.shape[:2] == ids.shape
    if (kind, dtype) == ("mamba", torch.bfloat16):  # its body's output is float32
        assert (head.full_logits or "its head").startswith("its head")
    else:
        assert head.full_logits is None
        assert hidden.shape[-1] < want.shape[-1]
    rows = torch.tensor([0, 1, 22, 23, 40, 45, 7])
    assert_near(head.logits(hidden.flatten(0, 1)[rows]).to(want.dtype), want.flatten(0, 1)[rows])


@every_family
def test_padding_on_the_right_changes_nothing(kind, further, changes):
    model = tiny(kind, tuple(further.items()))
    long, short = some_ids(19), some_ids(7)
    head = LogitHead(model)
    ids, mask = torch.zeros(2, 2, 19, dtype=torch.int64)
    ids[0], mask[0] = long, 1
    ids[1, :7], mask[1, :7] = short, 1
    hidden = head.hidden(ids, mask)
    # Other kernels than for one row alone, so not to the last bit.
    for row, alone in enumerate((long, short)):
        found = head.logits(hidden[row, : len(alone)])
        want = whole_logits(model, alone.unsqueeze(0))[0]
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


# Heads that the configuration does not tell of.


def scaled(factor):
    return lambda step, logits: logits * factor


def one_token_raised(step, logits):
    logits = logits.clone()
    logits[..., 5] += 0.01
    return logits


UNKNOWN = {
    "a scale": scaled(1.7),
    "a very small scale": scaled(1.0001),
    "a soft-cap": lambda step, logits: 3 * torch.tanh(logits / 3),
    "a token raised": one_token_raised,
    "one vocabulary entry more": lambda step, logits: torch.cat([logits, logits[..., :1]], -1),
    "NaN": lambda step, logits: logits * torch.nan,
}


@pytest.mark.parametrize("edit", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_head_gives_the_model_s_own_logits(toy_llama, edit):
    model = editing(toy_llama, edit)
    ids = some_ids(2, 9) % 17
    head = LogitHead(model)
    assert head.full_logits.startswith("body and head ")
    want = edit(0, whole_logits(toy_llama, ids))
    found = head.hidden(ids, torch.ones_like(ids))
    assert found.shape == want.shape
    torch.testing.assert_close(head.logits(found[0]), want[0], rtol=1e-6, atol=1e-6, equal_nan=True)


def test_the_reason_tells_how_far_the_halves_are_off(toy_llama):
    head = LogitHead(editing(toy_llama, lambda step, logits: logits + 0.25))
    assert head.full_logits == "body and head differ from the model by 0.25 in a logit"


def test_the_reason_tells_the_shape(toy_llama):
    model = editing(toy_llama, UNKNOWN["one vocabulary entry more"])
    assert LogitHead(model).full_logits == "body and head give logits of shape (16, 17)"


@pytest.mark.parametrize("factor", [1.02, 1.01])
def test_an_unknown_scale_in_half_precision(toy_llama, factor):
    half = copy.deepcopy(toy_llama).to(torch.bfloat16)
    assert LogitHead(editing(half, scaled(factor))).full_logits is not None


def without(model, **methods):
    twin = copy.copy(model)
    for name, value in methods.items():
        setattr(twin, name, value)
    return twin


@pytest.mark.parametrize(
    "lacking", [{"get_output_embeddings": lambda: None}, {"base_model_prefix": ""}]
)
def test_a_model_without_a_head_or_a_body_gives_its_own_logits(toy_gpt2, lacking):
    head = LogitHead(without(toy_gpt2, **lacking))
    assert head.full_logits == "the model has no separate head"
    ids = torch.tensor([[1, 2, 3]])
    found = head.logits(head.hidden(ids, torch.ones_like(ids))[0])
    assert torch.equal(found, whole_logits(toy_gpt2, ids)[0])


def test_a_head_of_another_width_gives_the_model_s_own_logits(toy_gpt2):
    model = without(toy_gpt2, get_output_embeddings=lambda: torch.nn.Linear(5, 17))
    head = LogitHead(model)
    assert head.full_logits.startswith("its head cannot be applied to its body's output (")


def test_a_model_in_training_mode_is_refused(toy_gpt2):
    model = copy.deepcopy(toy_gpt2).train()
    with pytest.raises(ValueError, match=r"evaluation mode: call model\.eval\(\)"):
        LogitHead(model)


@pytest.mark.parametrize("value", [-math.inf, torch.finfo(torch.float32).min, -1e30, -1e4])
def test_a_model_that_masks_a_logit_is_not_its_halves(toy_llama, value):
    def mask(step, logits):
        logits = logits.clone()
        logits[..., 7] = value
        return logits

    model = editing(toy_llama, mask)
    head = LogitHead(model)
    assert head.full_logits is not None
