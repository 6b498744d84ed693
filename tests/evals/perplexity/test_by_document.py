"""Perplexity of each document, their mean, and of what `generate` recorded."""

import json
import math

import numpy as np
import pytest

from decoding.generation import generate
from decoding.scoring.teacher_forcing import TokenDocument
from decoding.scoring.windows import Windows
from decoding_evals.perplexity.evaluation import perplexity

TEXTS = ["Once upon a time, Lily saw a dog.", "", "Tom ran.", "The 日本 dog was big. " * 9]


@pytest.mark.parametrize("protocol", ["default", "lm-eval"])
def test_each_document_is_scored_as_alone(stories, protocol):
    result = perplexity(stories, TEXTS, protocol=protocol)
    rows = result.per_document(["a", "b", "c", "d"])
    assert [(row["name"], row["index"]) for row in rows] == list(zip("abcd", range(4), strict=True))
    assert rows[1]["tokens_scored"] == 0 and rows[1]["nll_nats"] is rows[1]["perplexity"] is None
    alone = {i: perplexity(stories, [TEXTS[i]], protocol=protocol) for i in (0, 2, 3)}
    for index, one in alone.items():
        row = rows[index]
        assert row["tokens_scored"] == one.account.tokens_scored
        assert row["nll_nats"] == pytest.approx(one.nll_nats, abs=2e-5)
        assert row["perplexity"] == pytest.approx(one.perplexity, rel=2e-5)
        assert row["bits_per_byte"] == pytest.approx(one.bits_per_byte, abs=2e-5)
        assert row["surprisal_nats"] == pytest.approx(row["nll_nats"] * row["tokens_scored"])
    record = result.record()
    nlls = np.array([one.nll_nats for one in alone.values()])
    assert record["mean_document_nll_nats"] == pytest.approx(nlls.mean(), abs=2e-5)
    error = nlls.std(ddof=1) / math.sqrt(3)
    assert record["mean_document_nll_standard_error"] == pytest.approx(error, abs=1e-4)
    assert record["mean_document_perplexity"] == pytest.approx(np.exp(nlls).mean(), rel=1e-4)
    total = sum(row["surprisal_nats"] or 0 for row in rows)
    scored = sum(row["tokens_scored"] for row in rows)
    assert record["nll_nats"] == pytest.approx(total / scored) and scored == record["tokens_scored"]
    assert json.loads(json.dumps([record, rows], allow_nan=False)) == [record, rows]


@pytest.mark.parametrize("protocol", ["huggingface", "llama.cpp", "gpt2-paper"])
def test_protocols_that_join_or_change_documents_have_none(stories, protocol):
    texts = TEXTS if protocol != "llama.cpp" else [TEXTS[3] * 10]
    result = perplexity(stories, texts, protocol=protocol)
    record = result.record()
    assert record["mean_document_nll_nats"] is record["mean_document_perplexity"] is None
    with pytest.raises(ValueError, match="joins or changes documents"):
        result.per_document()


def test_what_was_generated_has_the_surprisal_that_generate_recorded(run, tmp_path, stories):
    prompts = ["Once upon a time", "Tom and the 日"]
    drawn = list(
        generate(stories, prompts, "top_p=0.9", seed=4, max_new_tokens=12, num_return_sequences=2)
    )
    records = [one.record() for one in drawn]
    (tmp_path / "drawn.jsonl").write_text("\n".join(map(json.dumps, records)))
    code, out, err = run("perplexity", "drawn.jsonl", "--json")
    [record] = map(json.loads, out.splitlines())
    total = sum(one["summary"]["raw_surprisal_nats"] for one in records)
    tokens = sum(one["summary"]["tokens"] for one in records)
    assert (code, err, record["tokens_scored"]) == (0, "", tokens)
    assert record["nll_nats"] == pytest.approx(total / tokens, abs=2e-5)
    assert record["bytes"] == sum(len(one["text"].encode()) for one in records)
    code, out, _ = run("perplexity", "drawn.jsonl", "--per", "document", "--json")
    for row, one in zip(map(json.loads, out.splitlines()), records, strict=True):
        assert row["surprisal_nats"] == pytest.approx(
            one["summary"]["raw_surprisal_nats"], abs=2e-5 * row["tokens_scored"]
        )
        bits = row["surprisal_nats"] / math.log(2) / len(one["text"].encode())
        assert row["bits_per_byte"] == pytest.approx(bits)
    code, out, _ = run("score", "drawn.jsonl", "--per", "token", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    want = [(i, j, token["id"], token["text"], token["raw_surprisal_nats"])
            for i, one in enumerate(records) for j, token in enumerate(one["tokens"])]  # fmt: skip
    assert [(r["document"], r["index"], r["id"], r["text"]) for r in rows] == [w[:4] for w in want]
    assert [r["surprisal_nats"] for r in rows] == pytest.approx([w[4] for w in want], abs=2e-5)
    code, out, _ = run("compare", "drawn.jsonl", "--setting", "top_p=0.9", "--json")
    [record] = map(json.loads, out.splitlines())
    drawn_nats = sum(t["surprisal_nats"] for one in records for t in one["tokens"])
    assert record["cross_entropy_nats"] == [pytest.approx(drawn_nats / tokens, abs=2e-5)]


def test_ids_without_a_context_begin_as_texts_do(stories):
    ids = stories.tokenizer(TEXTS[0])["input_ids"]
    want = perplexity(stories, [TEXTS[0]])
    for some in (ids, [stories.tokenizer.bos_token_id, *ids]):
        found = perplexity(stories, [TokenDocument(some)])
        assert found.nll_nats == pytest.approx(want.nll_nats, abs=1e-6)
        assert (found.bytes, found.account.tokens_scored) == (want.bytes, len(ids))


@pytest.mark.parametrize(
    ("bos", "said"),
    [
        ("auto", "BOS before each document"), ("never", "no BOS"),
        ("every", "BOS before each window"),
    ],
)  # fmt: skip
def test_the_rules_say_where_bos_stands(stories, bos, said):
    result = perplexity(stories, TEXTS[:1], windows=Windows(bos=bos))
    assert result.rules == f"every token once, {said}"


def test_records_of_another_model_are_told_or_refused(run, tmp_path):
    record = {"prompt": "Tom", "prompt_ids": [5], "tokens": [{"id": 7}], "model": "gpt2"}
    for command in ("score", "perplexity", "compare"):
        (tmp_path / "r.jsonl").write_text(json.dumps(record))
        code, out, err = run(command, "r.jsonl", "--json")
        assert code == 0 and "records by another model, 'gpt2': 1" in err
        (tmp_path / "r.jsonl").write_text(json.dumps(record | {"tokens": [{"id": 40000}]}))
        code, out, err = run(command, "r.jsonl", "--json")
        assert (code, out) == (1, "") and "another model wrote it" in err
    # Rows that merely have a column of that name are texts.
    (tmp_path / "r.jsonl").write_text(json.dumps({"text": "Tom ran.", "tokens": ["Tom", "ran."]}))
    code, out, err = run("score", "r.jsonl", "--json")
    assert (code, err) == (0, "") and json.loads(out)["tokens_scored"] > 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--per", "document", "--protocol", "all"], 2, "--per document is of one protocol"),
        (["--per", "document", "--protocol", "llama.cpp"], 2, "joins or changes documents"),
        (["--per", "token"], 2, "--per"),
        (["--bos", "every", "--context", "1"], 2, "--context must be at least 2"),
        (["--bos", "every", "--context", "8", "--stride", "8"], 2, "--stride must be from 1 to 7"),
        (["--bos", "every", "--protocol", "lm-eval"], 2, "--bos cannot be chosen"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(run, arguments, code, says):
    found, out, err = run("perplexity", *arguments, stdin=b"Once upon a time")
    assert (found, out) == (code, "") and says in err and "Traceback" not in err
