"""Attention entropy against plain loops over the maps that the model itself returns."""

import copy
import json
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from decoding.models.loading import LanguageModel
from decoding.passes.attention import attention_entropy, attention_implementation, head_entropies
from decoding.scoring.windows import Windows
from decoding_evals.attention import evaluation as module
from decoding_evals.attention.evaluation import attention
from decoding_evals.attention.figure import plot_attention
from oracle import spared

NATS = 1e-5
TEXT = "Once upon a time, Lily didn't see the 日本 cat 🙂.\n She was  sad!"
FIELDS = ("entropy", "normalized", "without_sink", "without_sink_normalized", "sink_weight")


def entropy_of(weights):
    """H of weights, NaN where fewer than two of them leave a choice."""
    total = sum(weights)
    if len(weights) < 2 or total == 0:
        return math.nan
    return -sum(w / total * math.log(w / total) for w in weights if w > 0)


def plainly(weights, visible):
    """The five columns of one head, from its `(query, key)` weights and who sees what."""
    columns = []
    first = np.flatnonzero(visible.any(0))[0]
    for row, sees in zip(weights.double().numpy(), visible, strict=True):
        keys = np.flatnonzero(sees)
        rest = [key for key in keys if key != first]
        whole, without = entropy_of(row[keys]), entropy_of(row[rest])
        columns.append(
            (
                whole,
                whole / math.log(max(2, len(keys))),
                without,
                without / math.log(max(2, len(rest))),
                row[first] if len(keys) and first in keys else 0 if len(keys) else math.nan,
            )
        )
    return np.array(columns).T


@torch.no_grad()
def maps(model, ids, mask):
    """The model's own maps, `(batch, heads, query, key)` of each layer."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    return eager(ids, attention_mask=mask, position_ids=places, output_attentions=True).attentions


def seen(mask, window=None):
    """`(batch, query, key)`: causal, no padding on either side, within a window."""
    size = mask.shape[1]
    causal = np.tril(np.ones((size, size), dtype=bool))
    if window is not None:
        causal &= ~np.tril(causal, -window)
    tokens = mask.bool().numpy()
    return causal & tokens[:, None, :] & tokens[:, :, None]


def padded(side, lengths=(9, 6, 1), vocab=17):
    torch.manual_seed(4)
    ids = torch.randint(1, vocab, (len(lengths), max(lengths)))
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, slice(-length, None) if side == "left" else slice(length)] = 1
    return ids, mask


@pytest.fixture(scope="module")
def mistral():
    """A Llama that looks at its last four tokens."""
    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=17, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=4, initializer_range=0.5,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


# The mathematics.


def test_an_even_look_is_1_and_a_look_at_one_key_is_0():
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0], [0.5, 0.5, 0, 0]])
    got = attention_entropy(weights[None, None], torch.ones(1, 1, 3, 4, dtype=torch.bool))
    assert_allclose(got.entropy[0, 0], [math.log(4), 0, math.log(2)], atol=1e-6)
    assert_allclose(got.normalized[0, 0], [1, 0, 0.5], atol=1e-6)


def test_what_is_not_visible_does_not_count_and_no_choice_is_nan():
    weights = torch.tensor([[0.2, 0.2, 0.6], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    visible = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]]).bool()
    got = attention_entropy(weights[None, None].half(), visible[None, None])
    assert_allclose(got.entropy[0, 0], [math.log(2), 0, 0, 0], atol=1e-6)
    assert_allclose(got.normalized[0, 0], [1, math.nan, math.nan, math.nan], atol=1e-6)
    assert_allclose(got.mass[0, 0], [0.4, 1, 0, 0], atol=1e-3)


# A model's heads.


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama", "mistral"])
def test_columns_are_those_of_the_models_own_maps(request, name, side):
    model = request.getfixturevalue(name)
    ids, mask = padded(side)
    layers = head_entropies(model, ids, mask)
    visible = seen(mask, 4 if name == "mistral" else None)
    assert len(layers) == model.config.num_hidden_layers
    for layer, weights in zip(layers, maps(model, ids, mask), strict=True):
        for row in range(len(ids)):
            for head in range(weights.shape[1]):
                want = plainly(weights[row, head], visible[row])
                for field, column in zip(FIELDS, want, strict=True):
                    got = getattr(layer, field)[row, head]
                    assert_allclose(got, column, atol=NATS, rtol=0, err_msg=field)


def test_a_row_says_the_same_alone_and_padded(toy_gpt2):
    ids, mask = padded("left")
    together = head_entropies(toy_gpt2, ids, mask)
    alone = head_entropies(toy_gpt2, ids[1:2, 3:])
    for a, b in zip(together, alone, strict=True):
        for field in FIELDS:
            assert_allclose(getattr(a, field)[1:2, :, 3:], getattr(b, field), atol=NATS)


def test_one_layers_map_is_alive_at_a_time(stories260k):
    model = spared(copy.deepcopy(stories260k.model))
    born, alive = [], []

    def watch(layer, args, output):
        alive.append(sum(reference() is not None for reference in born))
        born.append(weakref.ref(output[1]))

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(watch)
    head_entropies(model, torch.arange(3, 23)[None])
    assert alive == [0] * 5
    assert not any(reference() is not None for reference in born)


def test_the_models_own_attention_comes_back(toy_llama):
    before = attention_implementation(toy_llama)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        logits = toy_llama(ids).logits
    head_entropies(toy_llama, ids)
    assert before == "sdpa" == attention_implementation(toy_llama)
    assert not any(layer.self_attn._forward_hooks for layer in toy_llama.model.layers)
    with torch.no_grad():
        assert torch.equal(toy_llama(ids).logits, logits)


def test_a_model_that_gives_weights_to_those_who_ask_is_asked():
    torch.manual_seed(0)
    config = FalconConfig(vocab_size=17, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    model = FalconForCausalLM(config).eval()
    ids, mask = padded("left", (7, 4))
    with torch.no_grad():
        want = model(
            ids, attention_mask=mask, output_attentions=True,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        ).attentions  # fmt: skip
    for layer, weights in zip(head_entropies(model, ids, mask), want, strict=True):
        column = plainly(weights[1, 2], seen(mask)[1])[0]
        assert_allclose(layer.entropy[1, 2], column, atol=NATS)


@pytest.fixture(scope="module")
def mamba(random_gpt2):
    """A model without attention."""
    config = MambaConfig(vocab_size=50257, hidden_size=16, num_hidden_layers=1, state_size=4)
    return LanguageModel(MambaForCausalLM(config).eval(), random_gpt2.tokenizer, "mamba")


def test_without_weights_there_is_one_clear_line(mamba, toy_llama, run):
    with pytest.raises(ValueError, match="must return attention weights: MambaForCausalLM"):
        head_entropies(mamba.model, torch.tensor([[1, 2, 3]]))
    with pytest.raises(ValueError, match="evaluation mode"):
        head_entropies(copy.deepcopy(toy_llama).train(), torch.tensor([[1, 2, 3]]))
    mamba.model.save_pretrained("mamba")
    mamba.tokenizer.save_pretrained("mamba")
    code, out, err = run("attention", "--model", "mamba", stdin=b"Once upon a time")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]  # behind what saving says
    assert last.startswith("Error: model must return attention weights: MambaForCausalLM")


# Documents.


@pytest.mark.parametrize(("name", "context"), [("stories", None), ("stories260k", 16)])
def test_a_documents_means_are_those_of_its_windows(request, name, context):
    language_model = request.getfixturevalue(name)
    tokenizer = language_model.tokenizer
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    [got] = attention(language_model, [TEXT], windows=Windows(context=context))
    sequence = [tokenizer.bos_token_id, *ids]
    step = context or len(sequence)
    columns = []  # (layers, heads, measures, window) of each window
    for begin in range(0, len(sequence), step):
        window = torch.tensor([sequence[begin : begin + step]])
        mask = torch.ones_like(window)
        [visible] = seen(mask)
        columns.append(
            [
                [plainly(head, visible) for head in layer[0]]
                for layer in maps(language_model.model, window, mask)
            ]
        )
    every = np.concatenate(columns, axis=-1)
    assert every.shape[-1] == len(sequence) == got.positions
    choice = ~np.isnan(every[0, 0, 1])
    for name, place in (
        ("entropy_nats", 0),
        ("normalized_entropy", 1),
        ("without_sink_entropy_nats", 2),
        ("without_sink_normalized_entropy", 3),
    ):
        assert_allclose(getattr(got, name), np.nanmean(every[:, :, place], -1), atol=NATS)
    assert_allclose(got.sink_weight, every[:, :, 4, choice].mean(-1), atol=NATS)
    assert got.windows == len(columns) == got.excluded_positions
    assert got.excluded_positions_without_sink == 2 * len(columns)
    assert "".join(got.texts) == TEXT
    assert_allclose(got.token_entropy_nats, every[:, :, 0, 1:].mean((0, 1)), atol=NATS)
    assert_allclose(got.token_normalized_entropy, every[:, :, 1, 1:].mean((0, 1)), atol=NATS)


def test_windows_that_overlap_are_refused(stories):
    with pytest.raises(ValueError, match="stride cannot be chosen"):
        next(attention(stories, [TEXT], windows=Windows(context=8, stride=4)))


def test_bos_is_read_once(stories):
    bos = stories.tokenizer.bos_token
    [plain], [given], [never] = (
        list(attention(stories, [text], windows=Windows(bos=bos_)))
        for text, bos_ in ((TEXT, "auto"), (bos + TEXT, "auto"), (TEXT, "never"))
    )
    assert_allclose(given.entropy_nats, plain.entropy_nats, atol=NATS)
    assert (plain.positions, given.positions) == (len(plain.texts) + 1, len(given.texts))
    assert never.positions == len(never.texts) == len(plain.texts)
    assert np.isnan(never.token_entropy_nats[0])
    assert never.record()["per_token"][0]["entropy_nats"] is None


def test_nothing_to_choose_is_null_everywhere(stories):
    empty, single = attention(stories, ["", "a"], windows=Windows(bos="never"))
    assert json.dumps([empty.record(), single.record()], allow_nan=False)
    nothing = empty.record()
    assert (nothing["layers"], nothing["heads"], nothing["tokens"]) == (0, 0, 0)
    assert nothing["collapsed_share"] is None
    assert single.record()["entropy_nats"] == [[None] * 4] * 4
    assert single.record()["collapsed_share"] is None


@pytest.fixture(scope="module")
def sinking(random_gpt2):
    """One layer of which head 0 looks at the first token alone and the others at all alike."""
    config = GPT2Config(n_layer=1, n_embd=48, n_head=3, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    v = torch.tensor([1.0, -1.0]).repeat(24)
    with torch.no_grad():
        # After the layer norm the first position is v and the others are -v.
        model.transformer.wte.weight.zero_()
        model.transformer.wpe.weight.copy_(torch.cat([v[None], -v.expand(31, -1)]))
        projection = model.transformer.h[0].attn.c_attn
        projection.weight.zero_()
        projection.bias.zero_()
        projection.bias[0] = 1000  # head 0's query
        projection.weight[:, 48] = v  # head 0's key
    return LanguageModel(model, random_gpt2.tokenizer, "sinking")


def test_collapsed_heads_are_named_and_sinks_told_apart(sinking, run, monkeypatch):
    [got] = attention(sinking, ["one two three four five six"])
    assert_allclose(got.normalized_entropy, [[0, 1, 1]], atol=1e-6)
    even = np.mean([1 / n for n in range(2, 8)])  # of BOS and six tokens, but the first
    assert_allclose(got.sink_weight, [[1, even, even]], atol=1e-6)
    record = got.record()
    assert record["collapsed_heads"] == [[0, 0]]
    assert record["collapsed_share"] == pytest.approx(1 / 3)
    # Nothing is left of head 0 without the sink.
    assert record["without_sink_entropy_nats"][0][0] is None
    assert_allclose(record["without_sink_normalized_entropy"][0][1:], 1, atol=1e-6)
    monkeypatch.setattr("decoding.models.loading.load_model", lambda *_, **__: sinking)
    _, out, _ = run("attention", stdin=b"one two three four five six")
    assert "1 of 3 heads collapsed (normalised entropy below 0.05)" in out
    assert out.count("collapsed onto the first token") == 1


# At the shell.


def test_the_shell_prints_the_record(run, stories):
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    code, out, err = run("attention", "a.txt", "--json")
    [want] = attention(stories, [TEXT])
    assert code == 0
    assert json.loads(out) == {"name": "a.txt", **json.loads(json.dumps(want.record()))}
    note = (
        "the model was switched to eager attention for this, and back: its own, 'sdpa', gives the "
        "same up to rounding, but no weights"
    )
    assert want.record()["notes"] == [note] and err == ""
    code, out, _ = run("attention", "a.txt")
    assert note in out
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith(f"a.txt: {len(want.texts)} tokens · ")
    rows = [line.split() for line in lines]
    narrowest = min((v, i, j) for i, row in enumerate(want.normalized_entropy)
                    for j, v in enumerate(row))  # fmt: skip
    after = next(i for i, line in enumerate(lines) if line.startswith("narrowest"))
    assert rows[after + 3][:2] == [str(narrowest[1]), str(narrowest[2])]
    assert rows[after + 3][3] == f"{narrowest[0]:.3f}"
    assert max(len(line) for line in lines if line != note) <= 80


def test_ctrl_c_keeps_the_finished_texts(run, monkeypatch):
    def interrupted(*arguments, **options):
        yield next(attention(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "attention", interrupted)
    Path("a.jsonl").write_text('{"text": "Once upon"}\n' * 1000)
    code, out, err = run("attention", "a.jsonl", "--output", "o.jsonl")
    assert (code, out) == (130, "")
    assert (
        err.splitlines()[-1] == "Error: interrupted; 1 text measured; --resume goes on from there"
    )
    [record] = map(json.loads, Path("o.jsonl").read_text().splitlines())
    assert record["name"] == "a.jsonl:1"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--context", 9999], 2, "--context must be at least 1 and at most"),
        (["--context", 0], 2, "--context"),
        (["--plot", "a.gif"], 2, "--plot takes"),
        (["--stride", 4], 2, "--stride"),
    ],
)
def test_bad_usage_is_one_line(run, arguments, code, says):
    got, out, err = run("attention", *arguments, stdin=b"Once upon a time")
    assert (got, out) == (code, "")
    assert says in err and err.startswith("Error: ") and err.count("\n") == 1


def test_the_plot_has_every_head(run, stories):
    [result] = attention(stories, [TEXT])
    record = {"name": "a.txt", **result.record()}
    record["collapsed_heads"] = [[1, 2]]
    figure = plot_attention(record)
    whole, without, _ = figure.axes
    assert_allclose(whole.images[0].get_array(), record["normalized_entropy"])
    assert_allclose(without.images[0].get_array(), record["without_sink_normalized_entropy"])
    assert [line.get_xydata().tolist() for line in whole.lines] == [[[2, 1]]]
    code, _, _ = run("attention", "--plot", "a.png", stdin=TEXT.encode())
    assert code == 0 and Path("a.png").read_bytes().startswith(b"\x89PNG")


def test_attention_that_is_not_a_number_is_refused(run, tmp_path, stories):
    broken = copy.deepcopy(stories.model)
    with torch.no_grad():
        broken.transformer.h[1].mlp.c_fc.weight[0, 0] = math.nan
    broken.save_pretrained(tmp_path / "nan")
    stories.tokenizer.save_pretrained(tmp_path / "nan")
    code, out, err = run("attention", "--model", "./nan", stdin=TEXT.encode())
    assert (code, out) == (1, "") and "finite attention weights" in err
