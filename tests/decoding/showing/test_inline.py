"""A page within a notebook: the page that a file would be, in a frame, and text in its place."""

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from decoding import DecodingSettings, Generation, Trace, generate
from decoding.generation.view import GENERATION
from decoding.rows.packed import PackedRows
from decoding.showing.inline import LEAST, MOST, inline, static_text
from decoding.showing.packing import pages_of
from decoding.showing.page import View, write_page

HOSTILE = (
    "</div><script>bad()</script>\"'",
    "<img src=x onerror=bad()>",
    "&amp;\u202eabc",
    "\ud800\x00",
    "</style></iframe>\n\t ",
)


def trace(entropies, texts=None):
    entropies, ranks = np.array(entropies, dtype=float), np.arange(len(entropies))
    return Trace(
        ids=ranks + 5, surprisal_nats=entropies + 0.25, entropy_nats=entropies,
        raw_surprisal_nats=entropies, raw_entropy_nats=entropies, kept=ranks + 1000,
        kept_mass=entropies / 10, rank=ranks, kl_nats=entropies, texts=texts,
    )  # fmt: skip


def generation(texts=HOSTILE, prompt="Once <b>upon</b>\n"):
    told = trace(np.linspace(0, 9, len(texts)), texts)
    text = "".join(texts)
    return Generation(prompt, (1,), 0, 0, text, "toy", DecodingSettings(), 1, 0, "eos", told)


class Parsed(HTMLParser):
    """The frames of some HTML, its tags, and the texts of each element that ended."""

    def __init__(self, html):
        super().__init__()
        self.frames, self.tags, self.spans, self.rows, self.open = [], [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "iframe":
            self.frames.append(dict(attrs))
        if tag == "span":
            self.spans.append([dict(attrs)["style"], ""])
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span":
            self.spans[-1][1] += data
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def story(stories):
    [story] = generate(stories, "Once upon", "top_p=0.9", max_new_tokens=12, seed=1, alternatives=2)
    return story


def page_of(view, record):
    file = io.StringIO()
    write_page([view], [view.shown(record)], file)
    return file.getvalue()


def test_the_frame_holds_the_page_that_a_file_would_be(story, stories):
    for shown in (story, story.with_page(stories, 16), generation()):
        [frame] = Parsed(shown._repr_html_()).frames
        assert frame["srcdoc"] == page_of(GENERATION, shown.record())
        assert frame["sandbox"] == "allow-scripts"


def test_a_trace_has_a_page_of_its_own(story):
    [frame] = Parsed(story.trace._repr_html_()).frames
    [data] = re.findall(r'id="data">(.*?)</script>', frame["srcdoc"], re.DOTALL)
    [entry] = json.loads(data)["entries"]
    [text] = entry["texts"]
    assert entry["title"] == frame["title"] == "Trace of 12 tokens"
    assert text["tokens"] == list(story.trace.texts) and text["page"] is None
    assert text["recorded"]["entropy_nats"] == story.trace.entropy_nats.tolist()


def test_what_has_no_text_is_shown_by_its_id_and_what_is_infinite_as_a_dash():
    told = trace([0.5, 1.5])
    told = replace(told, surprisal_nats=np.array([math.inf, 1.0]))
    parsed = Parsed(told._repr_html_())
    assert [text for _, text in parsed.spans] == ["5 ", "6 "]
    assert parsed.rows[1][:2] == ["5 ", "-"] and parsed.rows[2][:2] == ["6 ", "1.000"]
    assert '"surprisal_nats": [null, 1.0]' in parsed.frames[0]["srcdoc"]


def test_markup_in_texts_is_text_in_the_frame_and_beside_it():
    shown = generation(prompt=HOSTILE[0])._repr_html_()
    shown.encode()  # a lone surrogate could not be written
    parsed = Parsed(shown)
    assert set(parsed.tags) == {"div", "style", "iframe", "span", "details", "summary", "table",
                                "tr", "th", "td"}  # fmt: skip
    assert (parsed.tags.count("iframe"), parsed.tags.count("style")) == (1, 1)
    told = [text for _, text in parsed.spans]
    assert told[:3] == [HOSTILE[0], HOSTILE[0], HOSTILE[1]]
    assert told[3:] == ["&amp;\\u202eabc", "\\ud800\\x00", HOSTILE[4]]
    inside = parsed.frames[0]["srcdoc"]
    assert "<img" not in inside and inside.count("<script") == inside.count("</script>") == 2


def test_the_text_is_shaded_by_entropy_and_its_measures_stand_below(story):
    record = story.record()
    parsed = Parsed(static_text(record["tokens"], story.prompt))
    assert not parsed.frames and "script" not in parsed.tags
    assert "".join(text for _, text in parsed.spans) == story.prompt + story.text
    shades = [float(re.findall(r"([\d.]+)\)", style)[0]) for style, _ in parsed.spans[1:]]
    assert sorted(shades) == [
        shades[i] for i in np.argsort(story.trace.entropy_nats, kind="stable")
    ]
    assert max(shades) > min(shades)
    head, *rows = parsed.rows
    assert len(rows) == 12 and head[:3] == ["token", "surprisal (nats)", "entropy (nats)"]
    for row, token in zip(rows, record["tokens"], strict=True):
        told = dict(zip(head, row, strict=True))
        assert float(told["entropy (nats)"]) == pytest.approx(token["entropy_nats"], abs=6e-4)
        assert int(told["kept"].replace(",", "")) == token["kept"]
        assert told["rank"] == str(token["rank"])


def test_a_page_with_sliders_holds_the_rows_of_the_sequence(story, stories):
    paged = story.with_page(stories, 16)
    ids = story.trace.ids.tolist()
    [page] = pages_of(stories, story.prompt, story.prompt_ids, [ids], 16)
    assert paged.record() == {**story.record(), "page": page}
    assert "page" not in story.record() and replace(paged, page=None) == story
    size = PackedRows(2048, 16).layout.itemsize
    assert len(page["rows"]) == pytest.approx(12 * size * 4 / 3, abs=4)
    with pytest.raises(ValueError, match="detail must be from 16 to 4096, got 5"):
        story.with_page(stories, 5)


def test_a_frame_is_as_high_as_what_it_holds():
    def height(**entry):
        view = View("v", frozenset(), lambda record: {"title": "t", "about": "", **entry})
        [frame] = Parsed(inline(view, [{}], "")).frames
        return int(re.findall(r"height: (\d+)px", frame["style"])[0])

    def table(rows):
        return {"title": "", "caption": "", "head": None, "numeric": [], "rows": [["a"]] * rows}

    heights = [height(tables=["a", table(rows)]) for rows in (1, 5, 12, 2000)]
    assert heights == sorted(heights) and heights[0] < heights[1] < heights[2]
    assert (heights[0] >= LEAST, heights[-1]) == (True, MOST)
    assert height() == LEAST < height(data={})
