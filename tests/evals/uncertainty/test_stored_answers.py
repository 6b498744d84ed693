"""Answers that were drawn elsewhere: the figures are those of answers drawn here."""

import json
import math

import pytest

from decoding import DecodingSettings, generate
from decoding_evals.reading.stored import read_stored
from decoding_evals.uncertainty.evaluation import uncertainty
from decoding_evals.uncertainty.stored import rescored, stored_uncertainty

SETTING = DecodingSettings(temperature=0.8, top_k=20)
DRAWN = {"max_new_tokens": 6, "seed": 4}
PROMPTS = ["Tom was", "Lily saw a big"]
COLUMNS = {"references": None, "incorrect": None, "paraphrases": None, "context": None}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def record(result):
    return json.loads(json.dumps(result.record(), allow_nan=False))


@pytest.fixture(scope="module")
def written(stories):
    """What `generate` draws, three answers a prompt."""
    return [
        one.record() for one in generate(stories, PROMPTS, SETTING, num_return_sequences=3, **DRAWN)
    ]


@pytest.fixture(scope="module")
def file(tmp_path_factory, written):
    return write(tmp_path_factory.mktemp("stored") / "answers.jsonl", *written)


@pytest.mark.parametrize("answer", ["whole", "sentence"])
def test_the_same_answers_have_the_same_figures(stories, file, answer):
    drawn = uncertainty(stories, PROMPTS, SETTING, num_samples=3, answer=answer, **DRAWN)
    found = stored_uncertainty(read_stored(file, COLUMNS, None), answer=answer)
    for one, want in zip(map(record, found), map(record, drawn), strict=True):
        assert one["greedy"] is None and one["next_token_entropy_nats"] is None
        known = {name: value for name, value in one["estimators"].items() if value is not None}
        assert {*want["estimators"]} >= {*known} and len(known) >= 8
        assert known == pytest.approx({name: want["estimators"][name] for name in known})
        assert one["estimators"]["MaximumSequenceProbability"] is None
        for name in ("samples", "clusters", "sample_tokens", "settings", "model", "seed"):
            assert one[name] == want[name]
        assert len(one["votes"]) == 3 and one["votes"].items() <= want["votes"].items()
        for name in ("sample_surprisal_nats", "standard_errors"):
            assert one[name] == pytest.approx(want[name])


def test_a_model_scores_them_anew(stories, file, written):
    """Behind the ids that were read, under the setting that is asked for."""
    stored = read_stored(file, COLUMNS, None)
    for setting, column in ((SETTING, "surprisal_nats"), ("raw", "raw_surprisal_nats")):
        found = [*stored_uncertainty(rescored(stories, stored, setting))]
        sums = [x for one in found for x in one.record()["sample_surprisal_nats"]]
        want = [math.fsum(token[column] for token in one["tokens"]) for one in written]
        assert sums == pytest.approx(want, abs=1e-4)
        assert {one.record()["settings"] for one in found} == {str(setting)}


def test_texts_are_scored_behind_their_prompts(stories, file, tmp_path):
    rows = [
        {"prompt": "Once upon a", "choices": [{"text": " time"}, {"text": " banana"}]},
        {"choices": [{"text": " time"}]},
    ]
    [result] = stored_uncertainty(
        rescored(stories, read_stored(write(tmp_path / "a.jsonl", rows[0]), COLUMNS, None), "raw")
    )
    [scored] = generate(stories, "Once upon a", DecodingSettings(temperature=0), max_new_tokens=1)
    assert scored.text == " time"
    first, second = result.record()["sample_surprisal_nats"]
    assert first == pytest.approx(scored.trace.raw_surprisal_nats[0], abs=1e-4)
    assert second > first + 5
    empty = rows[0] | {"choices": [rows[0]["choices"][0], {"text": ""}, rows[0]["choices"][1]]}
    stored = read_stored(write(tmp_path / "c.jsonl", empty, empty), COLUMNS, None)
    [result] = stored_uncertainty(rescored(stories, stored, "raw"))
    want = [first, None, second]  # nothing says what ended an empty answer
    assert result.record()["sample_surprisal_nats"] == pytest.approx(want * 2, abs=1e-4)
    silent = read_stored(write(tmp_path / "b.jsonl", rows[1]), COLUMNS, None)
    with pytest.raises(ValueError, match="line 1: the model needs the prompt, and no row says it"):
        rescored(stories, silent, "raw")


def response(prompt, texts, surprisals, **more):
    logged = [
        None if one is None else {"content": [{"token": text, "logprob": -one}]}
        for text, one in zip(texts, surprisals, strict=True)
    ]
    choices = [
        {"message": {"content": text}, "finish_reason": "stop", "logprobs": known}
        for text, known in zip(texts, logged, strict=True)
    ]
    return {"prompt": prompt, "choices": choices} | more


def test_what_is_not_known_is_none(tmp_path):
    rows = [
        response("a", ["x", "y", "x"], [1.0, 2.0, 1.0]),
        response("b", ["x", "y"], [1.0, None]),
        response("c", ["x"], [3.0]),
    ]
    whole, part, alone = map(
        record, stored_uncertainty(read_stored(write(tmp_path / "a.jsonl", *rows), COLUMNS, None))
    )
    x, y = 2 * math.exp(-1), math.exp(-2)
    p = x / (x + y)
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert whole["estimators"]["SemanticEntropy"] == pytest.approx(entropy)
    assert whole["estimators"]["MonteCarloSequenceEntropy"] == pytest.approx(4 / 3)
    assert whole["estimators"]["RaoBlackwellSequenceEntropy"] is None
    assert whole["better_sequence_entropy"] == "MonteCarloSequenceEntropy"
    assert whole["votes"]["SequenceProbability"]["text"] == "x"
    assert part["estimators"]["SemanticEntropy"] is None
    assert part["estimators"]["MonteCarloSequenceEntropy"] is None
    assert part["estimators"]["LabelProb"] == 0.5 and [*part["votes"]] == ["MostCommon"]
    assert part["sample_surprisal_nats"] == [1.0, None] and part["sample_tokens"] == [1, None]
    assert alone["estimators"]["MonteCarloSequenceEntropy"] == 3.0
    assert alone["standard_errors"]["MonteCarloSequenceEntropy"] is None
    assert alone["estimators"]["LabelProb"] is alone["estimators"]["SemanticEntropy"] is None


def test_a_cut_among_tokens_that_do_not_spell_the_text_is_not_known(tmp_path):
    row = response("a", ["No. Yes", "No"], [1.0, 2.0])
    row["choices"][0]["logprobs"]["content"][0]["token"] = "N?"
    file = write(tmp_path / "a.jsonl", row)
    [found] = map(record, stored_uncertainty(read_stored(file, COLUMNS, None), answer="sentence"))
    assert found["samples"] == ["No.", "No"]
    assert found["sample_surprisal_nats"] == [None, 2.0]


# At the shell.


def test_a_pipe_from_generate(run, file):
    code, out, err = run("uncertainty", "--answers", "-", "--json", stdin=file.read_bytes())
    assert (code, err) == (0, "")
    want = [record(one) for one in stored_uncertainty(read_stored(file, COLUMNS, None))]
    assert [json.loads(line) for line in out.splitlines()] == want


def test_the_most_common_answer_is_judged(run, tmp_path):
    rows = [
        response("a", ["Paris", "Rome", "Paris"], [1.0, 0.1, 2.0], references=["Paris"]),
        response("b", ["Rome", "Oslo", "Rome"], [1.0, 0.1, 2.0], references=["Oslo"]),
        response("c", ["Oslo"], [None]),
    ]
    code, out, err = run(
        "uncertainty", "--answers", write(tmp_path / "a.jsonl", *rows), "--evaluation", "e.json"
    )
    assert code == 0 and "0.500 of the most common answers correct by contains" in out
    assert "not known of any prompt: MaximumSequenceProbability" in out
    assert "nan" not in out.lower() and "None" not in out
    assert err.splitlines() == [
        "1 prompt of 3 not judged: no references",
        "1 of 7 answers have no log-probabilities: what needs those of all answers to a prompt is "
        "null there",
        "1 of 3 prompts with a single answer: what compares answers is null there",
    ]
    [summary] = json.loads((tmp_path / "e.json").read_text())
    votes = summary["evaluation"]["votes"]
    assert [*votes] == ["MostCommon", "SequenceProbability", "MeanTokenLogProbability"]
    assert votes["MostCommon"]["accuracy"] == 0.5 and votes["MostCommon"]["difference"] is None
    assert votes["SequenceProbability"]["accuracy"] == 0.5  # Rome, and Oslo
    assert summary["evaluation"]["judged"] == "most common"


def test_references_come_from_a_prompts_file(run, tmp_path):
    rows = [response("a", ["Paris", "Rome"], [1.0, 2.0]), response("b", ["Rome", "x"], [1.0, 2.0])]
    asked = write(tmp_path / "asked.jsonl", {"prompt": "b", "references": "Rome"})
    code, out, err = run(
        "uncertainty", "--answers", write(tmp_path / "a.jsonl", *rows), "--prompts-file", asked,
        "--json",
    )  # fmt: skip
    first, second = map(json.loads, out.splitlines())
    assert code == 0 and "1 of 2 answered prompts are not in --prompts-file" in err
    assert first["correct"] is None and second["correct"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--answers", "a.jsonl", "Tom"], 2, "give prompts or --answers, not both"),
        (["--answers", "a.jsonl", "--num-samples", 3], 2, "--num-samples is for answers to be"),
        (["--answers", "a.jsonl", "--stop", "."], 2, "--stop is for answers to be drawn"),
        (["--answers", "a.jsonl", "--top-p", 0.5], 2, "--top-p needs --model"),
        (["--answers", "a.jsonl", "--chat"], 2, "--chat needs --model"),
        (["--answers", "a.jsonl", "--column", "x"], 2, "--column needs a --prompts-file"),
        (["--answers", "a.jsonl", "--correct-by", "likelihood"], 2, "judges given answers"),
        (["--answers", "a.jsonl", "--correct-by", "exact"], 2, "needs prompts with references"),
        (["--answers", "none.jsonl"], 1, "cannot read"),
        (["--answers", "a.txt"], 2, "--answers takes .jsonl"),
        (["--answers", "bare.jsonl"], 1, "nothing says how sure the model was"),
        (["--answers", "bare.jsonl", "--prompts-file", "a.jsonl"], 1, "no answer is to a prompt"),
        (["--answers", "ids.jsonl", "--model", "builtin:stories"], 1, "another model wrote it"),
        (["--answers", "a.jsonl", "--answer", "page"], 2, "'page' is not one of"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, code, message):
    write(tmp_path / "a.jsonl", response("a", ["x", "y"], [1.0, 2.0]))
    write(tmp_path / "bare.jsonl", response("b", ["x"], [None]))
    output = {"text": "x", "token_ids": [90_000], "logprobs": None}
    write(tmp_path / "ids.jsonl", {"prompt_token_ids": [1], "outputs": [output]})
    found, out, err = run("uncertainty", *arguments)
    assert (found, out) == (code, "")
    assert message in err.splitlines()[-1] and "Traceback" not in err
