"""The page of `attention`: heads by layer, and where a head's tokens look."""

import json

import numpy as np
import pytest
import torch
from opening import INJECTION, opened, percents, run, violations

from decoding.models.loading import load_model

pytestmark = pytest.mark.browser

TEXT = f"Once upon a time {INJECTION} there was a dog. The dog saw a cat."


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """A page, the record, and the model's own weights, `(layers, heads, query, key)`."""
    folder = tmp_path_factory.mktemp("attention")
    source = folder / "<img src=x onerror=window.bad=1>.txt"
    source.write_text(TEXT)
    run("attention", source, "--output", folder / "page.html")
    run("attention", source, "--output", folder / "out.jsonl")
    stories = load_model()
    stories.model.set_attn_implementation("eager")
    ids = [
        stories.tokenizer.bos_token_id,
        *stories.tokenizer(TEXT, add_special_tokens=False).input_ids,
    ]
    with torch.no_grad():
        maps = stories.model(torch.tensor([ids]), output_attentions=True).attentions
    return (
        folder / "page.html",
        json.loads((folder / "out.jsonl").read_text()),
        torch.cat(maps).numpy(),
    )


def test_heads_are_shaded_by_what_is_chosen(browser, looked):
    path, record, _ = looked
    starts = np.array([0, 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9])
    with opened(browser, path) as page:
        for name in ("normalized_entropy", "without_sink_normalized_entropy", "sink_weight"):
            page.select_option("#drawing select", name)
            for layer, heads in enumerate(record[name]):
                for head, value in enumerate(heads):
                    cell = page.locator(f"td[data-layer='{layer}'][data-head='{head}']")
                    assert f"s{(starts <= value).sum() - 1}" in cell.get_attribute("class").split()
                    assert f"{value:.3f}" in cell.get_attribute("aria-label")
                    marked = [layer, head] in record["collapsed_heads"]
                    assert (cell.inner_text() == "×") == marked


def test_the_row_of_a_head_is_the_models_own(browser, looked):
    path, record, maps = looked
    with opened(browser, path) as page:
        page.focus("td.head")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert "layer 1, head 2" in page.locator("h2", has_text="Where").inner_text()
        page.focus(".looks")
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        query = len(record["per_token"]) - 1  # BOS is before them
        row = maps[1, 2, query]
        order = np.argsort(-row, kind="stable")[:12]
        items = page.locator("#drawing .choices li").all()
        assert len(items) == 12
        for item, key in zip(items, order, strict=True):
            assert item.locator(".place").inner_text().strip() == str(key)
            assert percents(item.locator("b").inner_text())[0] == pytest.approx(row[key], abs=6e-4)
        said = page.locator("p", has_text="largest weights are shown").inner_text()
        assert percents(said)[0] == pytest.approx(1 - row[order].sum(), abs=6e-4)
        assert f"token {query} of {len(record['per_token'])}" in page.inner_text("#live")
        starts = np.array([0, 0.01, 0.03, 0.08, 0.15, 0.3, 0.5, 0.75])
        for key in order:
            shade = (starts <= round(row[key] * 65535) / 65535).sum() - 1
            assert f"s{shade}" in page.locator(".looks .t").nth(key).get_attribute("class")


def test_a_token_is_chosen_by_pointer(browser, looked):
    path, _, maps = looked
    with opened(browser, path, width=360) as page:
        page.locator("td[data-layer='2'][data-head='1']").click()
        token = page.locator(".looks .t").nth(4)
        token.click()
        assert token.get_attribute("aria-selected") == "true"
        first = page.locator("#drawing .choices b").first.inner_text()
        assert percents(first)[0] == pytest.approx(maps[2, 1, 4].max(), abs=6e-4)


def test_axe_finds_nothing(browser, looked):
    assert violations(browser, looked[0], lambda page: page.focus(".looks")) == []
