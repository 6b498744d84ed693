"""What a model has read is kept, copied and read on from, whatever its layers keep."""

import pytest
import torch
from kept import LAYERS, VOCABULARY, Counted, model_of
from transformers import OpenAIGPTConfig

from decoding.models.caches import Reader, common, read_in_parts, read_on, stacked


def ids_of(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()


def whole(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.fixture(params=LAYERS)
def model(request):
    return model_of(LAYERS[request.param])


def test_texts_that_begin_alike_are_read_from_where_they_part(model):
    assert read_in_parts(model) is None
    counted = Counted(model)
    reader = Reader(model)
    begin = ids_of(40)
    texts = [begin + ids_of(8, seed) for seed in (1, 2, 3, 4)]
    for text in texts:
        got = reader.last_logits(text, 3)
        torch.testing.assert_close(got, whole(model, text)[-3:], atol=2e-5, rtol=1e-4)
    of_oracle = 4 * 48
    # The second reveals what is common, which is read once more and kept.
    assert counted.tokens - of_oracle == 48 + 48 + 8 + 8


def test_what_is_kept_is_not_written_into(model):
    reader = Reader(model)
    ids = ids_of(20)
    cache = reader.read(ids)
    for seed in (1, 2, 1):
        more = ids_of(5, seed)
        got = read_on(model, stacked([cache]), more, 5)
        torch.testing.assert_close(got, whole(model, ids + more)[-5:], atol=2e-5, rtol=1e-4)
    assert cache.get_seq_length() == 20


def test_rows_of_other_lengths_are_padded_on_the_left(model):
    """Beside each other, texts go on as alone: beyond the window of those that have one."""
    reader = Reader(model)
    texts = [ids_of(length, length) for length in (9, 17, 9, 4)]
    cache = stacked([reader.read(text) for text in texts])
    width, token = 17, 5
    mask = torch.tensor([[0] * (width - len(t)) + [1] * (len(t) + 1) for t in texts])
    with torch.no_grad():
        got = model(
            torch.full((4, 1), token), attention_mask=mask, past_key_values=cache,
            position_ids=torch.tensor([[len(text)] for text in texts]), use_cache=True,
        ).logits[:, -1]  # fmt: skip
    for row, text in zip(got, texts, strict=True):
        torch.testing.assert_close(row, whole(model, [*text, token])[-1], atol=2e-5, rtol=1e-4)


def test_only_the_last_texts_are_kept():
    model = model_of(LAYERS["attention"])
    reader = Reader(model)
    texts = [ids_of(10, seed) for seed in range(6)]
    for text in texts:
        reader.read(text)
    assert [reader.known(text) for text in texts] == [0, 0, 10, 10, 10, 10]


def test_a_model_that_keeps_nothing_reads_texts_whole():
    config = OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4)
    model = model_of(config)
    assert "past_key_values" in read_in_parts(model)
    ids = ids_of(12)
    torch.testing.assert_close(Reader(model).last_logits(ids, 4), whole(model, ids)[-4:])


def test_a_model_that_reads_parts_otherwise_is_found_out():
    """Its positions begin anew with each part."""
    model = model_of(LAYERS["attention"])
    inner = model.model.forward

    def forward(*args, **kwargs):
        count = kwargs["input_ids"].shape[1]
        return inner(*args, **kwargs | {"position_ids": torch.arange(count).unsqueeze(0)})

    model.model.forward = forward
    assert "reads text otherwise in parts" in read_in_parts(model)


@pytest.mark.parametrize(
    ("first", "second", "shared"), [([1, 2, 3], [1, 2, 4], 2), ([], [1], 0), ([1, 2], [1, 2, 3], 2)]
)
def test_common_beginnings(first, second, shared):
    assert common(first, second) == shared


@pytest.mark.parametrize("begin", [40, 0])
def test_texts_are_read_at_once_behind_what_they_begin_with(model, begin):
    """What is kept of each is what it is alone, and what follows may be read from there."""
    texts = [ids_of(begin) + ids_of(length, length) for length in (5, 9, 3, 8, 6)]
    assert read_in_parts(model) is None  # a probe
    reader = Reader(model)
    counted = Counted(model)
    caches = reader.read_each(texts)
    counted.stop()
    for text, cache in zip(texts, caches, strict=True):
        assert cache.get_seq_length() == len(text)
        got = read_on(model, stacked([cache]), ids_of(4), 4)
        torch.testing.assert_close(got, whole(model, text + ids_of(4))[-4:], atol=2e-5, rtol=1e-4)
    if model.config.model_type in ("llama", "gpt2"):
        assert counted.passes == [*[(1, begin)] * bool(begin), (5, 9)]
    again = Counted(model)
    reader.read(texts[-1])
    reader.read(ids_of(begin) + ids_of(7, 7))
    again.stop()
    if begin and model.config.model_type in ("llama", "gpt2"):
        assert again.passes == [(1, 7)]


def test_long_texts_are_read_one_by_one():
    """Together they would leave a CPU's cache; and one alone is as `read` has it."""
    model = model_of(LAYERS["attention"])
    texts = [ids_of(250, seed) for seed in range(5)]
    assert read_in_parts(model) is None
    counted = Counted(model)
    Reader(model).read_each(texts)
    Reader(model).read_each(texts[:1])
    assert counted.passes == [(1, 250)] * 6
