"""`--output x.html`: what the page of score and generate holds, and what is refused."""

import base64
import json
import re

import numpy as np
import pytest

from decoding.generation.run import generate
from decoding.rows.packed import PackedRows
from decoding.showing.packing import pages_of
from decoding.showing.page import write_page
from decoding_evals.score.evaluation import score
from decoding_evals.score.view import DOCUMENT


def rows_of(page, vocab, detail):
    layout = PackedRows(vocab, detail).layout
    assert page["format"]["bytes"] == layout.itemsize
    return np.frombuffer(base64.b64decode(page["rows"]), layout)


def test_rows_are_those_of_the_scores(stories):
    [scores] = score(stories, ["Once upon a time there was a dog."], page=64)
    rows = rows_of(scores.page, stories.model.config.vocab_size, 64)
    np.testing.assert_array_equal(rows["place"], scores.rank)
    names = scores.page["names"]
    for row, text, place in zip(rows, scores.texts(), scores.rank, strict=True):
        if place < len(row["named_id"]):
            assert names[str(row["named_id"][place])] == text


def test_rows_of_a_sequence_are_those_it_was_drawn_from(stories):
    [drawn] = generate(stories, ["One day"], max_new_tokens=12, seed=1, settings="temperature=1.3")
    ids = drawn.trace.ids.tolist()
    [page] = pages_of(stories, drawn.prompt, drawn.prompt_ids, [ids], 64)
    rows = rows_of(page, stories.model.config.vocab_size, 64)
    np.testing.assert_array_equal(rows["place"], drawn.trace.rank)
    assert page["before"] == "One day"


def test_a_page_holds_its_texts_as_data(stories, tmp_path):
    text = "A cat </script><script>bad</script> <!-- sat."
    records = [scores.record() for scores in score(stories, [text, "Two."], page=16)]
    with (tmp_path / "page.html").open("w") as file:
        write_page([DOCUMENT], map(DOCUMENT.shown, records), file)
    html = (tmp_path / "page.html").read_text()
    assert html.count("</script>") == 2 and "<!--" not in html
    asked = html.replace("http://www.w3.org/2000/svg", "")  # the name of a kind of elements
    assert "http:" not in asked and "https:" not in asked
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    assert [
        "".join([one["before"], *one["tokens"]])
        for entry in data["entries"]
        for one in entry["texts"]
    ] == [text, "Two."]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["score", "a.txt", "--detail", "5"],
            "--detail is of a page: give --output FILE.html or --page-data too",
        ),
        (
            ["score", "a.txt", "--detail", "5", "--output", "o.html"],
            "--detail must be from 16 to 4096, got 5",
        ),
        (
            ["generate", "a", "--branch-at-entropy", "1", "--page-data"],
            "--branch-at-entropy cannot be used with --page-data",
        ),
        (["score", "a.txt", "--page-data"], "--page-data adds to records"),
        (["score", "a.txt", "--page-data", "--output", "o.html"], "a page has it"),
        (["score", "a.txt", "--page-data", "--per", "word"], "--page-data is of documents"),
    ],
)
def test_what_has_no_page_says_so(run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("A cat.")
    code, _, err = run(*arguments)
    assert code == 2 and says in " ".join(err.split()) and not (tmp_path / "o.html").exists()
