"""What the page of `uncertainty` is made of: answers by cluster, their tokens and rows."""

import base64
import json
from collections import defaultdict

import numpy as np
import pytest

from decoding.passes.caches import Reader
from decoding.rows.packed import PackedRows
from decoding.showing.packing import pages_of
from decoding_evals.uncertainty.evaluation import uncertainty
from decoding_evals.uncertainty.result import PromptRow
from decoding_evals.uncertainty.view import EVALUATION, PROMPT, clusters, facts

ASKED = PromptRow("Once upon a time, there was a little", references=("girl",))
SHORT = {"num_samples": 5, "max_new_tokens": 4, "seed": 2}


@pytest.fixture(scope="module")
def answered(stories):
    [result] = uncertainty(stories, [ASKED], "temperature=1.2", answer="sentence", page=64, **SHORT)
    return result


def rows_of(page, vocab, detail=64):
    return np.frombuffer(base64.b64decode(page["rows"]), PackedRows(vocab, detail).layout)


def test_the_rows_of_each_answer_are_those_it_was_drawn_from(stories, answered):
    vocab = stories.model.config.vocab_size
    answers = [answered.greedy, *answered.samples]
    for answer, page in zip(answers, answered.record()["page"], strict=True):
        assert [token["text"] for token in page["tokens"]] == list(answer.trace.texts)
        np.testing.assert_array_equal(rows_of(page["page"], vocab)["place"], answer.trace.rank)


def test_a_page_costs_the_answers_nothing(stories, answered):
    [plain] = uncertainty(stories, [ASKED], "temperature=1.2", answer="sentence", **SHORT)
    record = answered.record()
    del record["page"]
    assert record == plain.record()


def test_answers_read_together_have_the_rows_of_each_alone(stories):
    ids = stories.tokenizer("Once upon a time there was a").input_ids * 6
    each = [ids[3:9], [], ids[5:6], ids[:14]]
    alone = [next(pages_of(stories, "x", ids, [one], 64)) for one in each]
    reader = Reader(stories.model)
    for _ in range(2):
        together = [*pages_of(stories, "x", ids, each, 64, reader=reader)]
        for one, other, wanted in zip(alone, together, each, strict=True):
            mine, its = (rows_of(page, 2048) for page in (one, other))
            assert len(mine) == len(its) == len(wanted)
            np.testing.assert_array_equal(mine["place"], its["place"])
            np.testing.assert_array_equal(mine["named_id"], its["named_id"])


def test_clusters_are_those_of_the_record():
    record = {
        "greedy": "Lily", "clusters": [0, 1, 0, 2, 1, 0, 1, 1],
        "samples": ["a", "b", "A", "", "b", "a", "B", "b"],
    }  # fmt: skip
    want = defaultdict(list)
    for at, (label, text) in enumerate(zip(record["clusters"], record["samples"], strict=True), 1):
        want[label].append((text, at))
    found = clusters(record)
    assert [one["share"] for one in found] == [4 / 8, 3 / 8, 1 / 8]
    for label, cluster in zip([1, 0, 2], found, strict=True):
        texts = [text for text, _ in want[label]]
        assert {one["text"]: one["count"] for one in cluster["answers"]} == {
            text: texts.count(text) for text in texts
        }
        for one in cluster["answers"]:
            assert one["at"] == min(at for text, at in want[label] if text == one["text"])
    [first, *_] = clusters(record | {"greedy": None})
    assert first["answers"][0]["at"] == 1  # as there is no greedy answer before it


def test_it_says_which_reference_decided_and_whether_it_abstained(answered):
    record = answered.record()
    said = {name: (sign, words) for name, sign, words in facts(record)}
    assert said["correct"][0] == ("✓" if record["correct"] else "✗")
    assert record["compared"]["reference"] in said["correct"][1] and "abstained" not in said
    unknown = {name: rest for name, *rest in facts(record | {"correct": None, "abstained": True})}
    assert "not judged" in unknown["correct"][1] and unknown["abstained"][0] == "⊘"


def test_an_entry_without_tokens_has_no_texts(answered):
    record = answered.record()
    del record["page"]
    entry = PROMPT.shown(json.loads(json.dumps(record, allow_nan=False)))
    assert entry["texts"] == [] and entry["data"]["clusters"]


def test_stored_answers_have_rows_where_a_model_scores_them(run, tmp_path):
    drawn = tmp_path / "drawn.jsonl"
    asked = ["generate", "Her name was", "--num-samples", "3", "--max-new-tokens", "5"]
    assert run(*asked, "--seed", "1", "--output", str(drawn))[0] == 0
    texts = tmp_path / "texts.jsonl"
    with texts.open("w") as file:
        for row in map(json.loads, drawn.open()):
            message = {"choices": [{"text": row["text"]}], "prompt": row["prompt"]}
            file.write(json.dumps(message) + "\n")
    found = {}
    for source, model in ((drawn, False), (drawn, True), (texts, True)):
        command = ["uncertainty", "--answers", str(source), "--page-data", "--json"]
        command += ["--model", "builtin:stories"] if model else []
        code, out, err = run(*command)
        assert code == 0, err
        found[source.stem, model] = json.loads(out)["page"]
    recorded, scored, of_texts = found.values()
    assert [one["page"] for one in recorded] == [None] * 3
    for one, other in zip(recorded, scored, strict=True):
        assert [t["text"] for t in one["tokens"]] == [t["text"] for t in other["tokens"]]
        assert {"surprisal_nats", "entropy_nats"} <= one["tokens"][0].keys()
        assert "rank" not in one["tokens"][0]  # nothing says it
    for one, other in zip(scored, of_texts, strict=True):
        mine, its = (rows_of(answer["page"], 2048, 192) for answer in (one, other))
        # Texts are scored without the token that ended them.
        np.testing.assert_array_equal(mine["named_id"][: len(its)], its["named_id"])
        assert len(its) >= len(mine) - 1


def test_an_answer_of_unknown_tokens_is_one_text(run, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prompt": "Her name was", "choices": [{"text": " Sue"}, {"text": "X"}]}')
    code, out, _ = run("uncertainty", "--answers", str(answers), "--page-data", "--json")
    entry = PROMPT.shown(json.loads(out))
    assert code == 0 and [one["tokens"] for one in entry["texts"]] == [[" Sue"], ["X"]]
    assert all(one["recorded"] == {} and "no row says" in one["about"] for one in entry["texts"])


def test_the_page_has_an_entry_for_the_evaluation(run, tmp_path):
    asked = tmp_path / "asked.jsonl"
    asked.write_text(
        '{"prompt": "Once upon a", "references": ["time"]}\n'
        '{"prompt": "A", "references": ["x"], "index": 0}\n'
    )
    page = tmp_path / "page.html"
    command = ["uncertainty", "--prompts-file", str(asked), "--num-samples", "2", "--detail", "16"]
    code, _, err = run(*command, "--max-new-tokens", "2", "--seed", "1", "--output", str(page))
    assert code == 0 and "AUROC" in err
    data = page.read_text().partition('id="data">')[2].partition("</script>")[0]
    views = [entry["view"] for entry in json.loads(data)["entries"]]
    assert views == [PROMPT.name, PROMPT.name, EVALUATION.name]
    code, _, err = run("uncertainty", "a", "--detail", "16")
    assert code == 2 and "--detail is of a page" in " ".join(err.split())
