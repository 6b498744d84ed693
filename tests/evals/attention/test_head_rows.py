"""The rows of attention that a page shows."""

import base64
import json

import numpy as np
import pytest
import torch

from decoding.scoring.windows import Windows
from decoding_evals.attention import rows as head_rows
from decoding_evals.attention.evaluation import attention
from decoding_evals.attention.view import VIEW

TEXT = "Once upon a time there was a dog. The dog saw a cat, and the cat was sad."


def unpacked(page):
    """Keys and weights, `(layers, heads, queries, kept)`."""
    shape = (len(page["heads"]), page["heads"][0], page["queries"], page["kept"])
    keys, weights = (
        np.frombuffer(base64.b64decode(page[name]), "<u2").reshape(shape)
        for name in ("keys", "weights")
    )
    return keys.astype(int), weights / 65535


@pytest.fixture(scope="module")
def maps(stories):
    """The ids of BOS and the text, and what gives Hugging Face's own weights of ids,
    `(layers, heads, query, key)`."""
    tokens = stories.tokenizer(TEXT, add_special_tokens=False).input_ids
    ids = [stories.tokenizer.bos_token_id, *tokens]
    before = stories.model.config._attn_implementation
    stories.model.set_attn_implementation("eager")
    try:

        def of(part):
            with torch.no_grad():
                found = stories.model(torch.tensor([part]), output_attentions=True).attentions
            return torch.cat(found).numpy()

        yield ids, of
    finally:
        stories.model.set_attn_implementation(before)


@pytest.mark.parametrize("context", [None, 10])
def test_rows_are_the_largest_weights_of_the_models_own(stories, maps, context):
    ids, of = maps
    [got] = attention(stories, [TEXT], windows=Windows(context=context), page=True)
    keys, weights = unpacked(got.record()["page"])
    length = context or len(ids)
    for begin in range(0, len(ids), length):
        want = of(ids[begin : begin + length])
        for query in range(want.shape[2]):
            own = keys[:, :, begin + query] - begin, weights[:, :, begin + query]
            largest = -np.sort(-want[:, :, query], axis=-1)[..., : head_rows.KEPT]
            count = min(query + 1, head_rows.KEPT)
            np.testing.assert_allclose(own[1][..., :count], largest[..., :count], atol=2e-5)
            assert (own[1][..., count:] == 0).all()
            there = np.take_along_axis(want[:, :, query], own[0][..., :count], axis=-1)
            np.testing.assert_allclose(there, largest[..., :count], atol=2e-5)


def test_what_has_no_room_has_no_row(stories, monkeypatch):
    monkeypatch.setattr(head_rows, "MOST_BYTES", 16 * head_rows.KEPT * 4 * 7)  # 7 queries
    for context in (None, 5):
        [got] = attention(stories, [TEXT], windows=Windows(context=context), page=True)
        page = got.record()["page"]
        assert page["queries"] == 7 and unpacked(page)[0].shape == (4, 4, 7, head_rows.KEPT)


def test_records_have_rows_for_a_page_alone(stories, run, tmp_path):
    [plain] = attention(stories, [TEXT])
    assert "page" not in plain.record()
    [asked] = attention(stories, [TEXT], page=True)
    record = asked.record()
    assert record.pop("page")["front"] == [stories.tokenizer.bos_token]
    assert record == plain.record()
    entry = VIEW.shown(plain.record())
    assert entry["data"]["rows"] is None and "".join(entry["data"]["tokens"]) == TEXT
    (tmp_path / "a.txt").write_text(TEXT)
    out = tmp_path / "page.html"
    assert run("attention", str(tmp_path / "a.txt"), "--output", str(out))[0] == 0
    data = json.loads(out.read_text().partition('id="data">')[2].partition("</script>")[0])
    assert data["entries"][0]["data"]["rows"]["queries"] == record["positions"]


def test_nothing_to_look_at_is_no_failure(stories):
    [got] = attention(stories, [""], windows=Windows(bos="never"), page=True)
    assert got.record()["page"]["queries"] == 0
    json.dumps(VIEW.shown(got.record()), allow_nan=False)
