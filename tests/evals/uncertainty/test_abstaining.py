"""`--risk` finds a threshold, `--abstain-by` applies it: at the shell."""

import json

import pytest

from decoding_evals.judging.abstention import abstention_threshold

NAME = "MonteCarloSequenceEntropy"
FLAGS = ("--num-samples", 2, "--max-new-tokens", 3, "--seed", 1)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(surprisals, references=(), **more):
    """One stored answer to each of some prompts."""
    return [
        {
            "prompt": f"q{number}", "references": list(references),
            "choices": [{
                "text": "yes" if surprisal < 5 else "no", "finish_reason": "stop",
                "logprobs": {"tokens": ["x"], "token_logprobs": [-surprisal]},
            }],
        } | more
        for number, surprisal in enumerate(surprisals)
    ]  # fmt: skip


@pytest.fixture
def calibrated(run, tmp_path):
    """The file of a threshold, and what was printed: answers are wrong from 5 nats on."""
    surprisals = [number / 10 for number in range(100)]
    file = write(tmp_path / "judged.jsonl", *answers(surprisals, ["yes"]))
    code, out, err = run(
        "uncertainty", "--answers", file, "--risk", 0.2, "--estimator", NAME,
        "--evaluation", "e.json", "--output", "o.jsonl",
    )  # fmt: skip
    assert (code, out) == (0, "")
    found = abstention_threshold(surprisals, [s < 5 for s in surprisals], risk=0.2)
    return found, err


def test_the_evaluation_carries_the_threshold(calibrated, tmp_path):
    found, err = calibrated
    [summary] = json.loads((tmp_path / "e.json").read_text())
    abstention = summary["evaluation"]["abstention"]
    assert {name: abstention[name] for name in found.record()} == found.record()
    assert abstention["estimator"] == NAME and abstention["correct_by"] == "contains"
    assert abstention["confidence"] == 0.9 and 0.4 < abstention["coverage"] < 0.6
    kept = f"{found.kept} of 100 kept ({found.coverage:.1%}), {found.wrong} wrong"
    assert f"answers with {NAME} < {found.threshold:.6g} are wrong at most 20.0%" in err
    assert kept in err


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_a_later_run_abstains_by_it(run, calibrated, tmp_path, suffix):
    threshold = calibrated[0].threshold
    [summary] = json.loads((tmp_path / "e.json").read_text())
    if suffix == "csv":
        cell = json.dumps(summary["evaluation"]).replace('"', '""')
        (tmp_path / "e.csv").write_text(f'model,evaluation\nm,"{cell}"\n')
    file = write(tmp_path / "new.jsonl", *answers([threshold - 0.01, threshold, threshold + 1]))
    code, out, err = run("uncertainty", "--answers", file, "--abstain-by", f"e.{suffix}", "--json")
    assert code == 0
    assert [json.loads(line)["abstained"] for line in out.splitlines()] == [False, True, True]
    assert f"abstained from 2 of 3 answers: {NAME} >= " in err


def test_what_has_no_uncertainty_is_abstained_from(run, calibrated, tmp_path):
    rows = answers([1.0, 1.0])
    rows[1]["choices"][0]["logprobs"] = None
    code, out, _ = run(
        "uncertainty", "--answers", write(tmp_path / "n.jsonl", *rows), "--abstain-by", "e.json"
    )
    assert code == 0
    assert "abstained  no" in out and "abstained  yes: this answer is too uncertain" in out


def test_an_estimator_that_only_some_rows_have(run, tmp_path):
    """It is undefined for the others; where too few are left, no record is lost."""
    row = {"prompt": "Tom", "references": ["zebra"]}
    rows = [row | {"paraphrases": ["Tim"]}, row, row]
    code, _, err = run(
        "uncertainty", "--prompts-file", write(tmp_path / "rows.jsonl", *rows), *FLAGS,
        "--risk", 0.6, "--confidence", 0.4, "--estimator", "MutualInformation_phrasing",
        "--output", "o.jsonl",
    )  # fmt: skip
    assert code == 1 and "at least 2 judged answers with an uncertainty, got 1" in err
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 3


def test_without_a_threshold_nothing_is_answered(run, tmp_path):
    file = write(tmp_path / "judged.jsonl", *answers([6.0 + n / 100 for n in range(50)], ["yes"]))
    code, out, _ = run(
        "uncertainty", "--answers", file, "--risk", 0.2, "--estimator", NAME, "--evaluation",
        "e.json",
    )  # fmt: skip
    assert code == 0 and f"no threshold of {NAME} keeps answers wrong at most 20.0%" in out
    new = write(tmp_path / "new.jsonl", *answers([0.0]))
    code, out, err = run("uncertainty", "--answers", new, "--abstain-by", "e.json", "--json")
    assert json.loads(out)["abstained"] is True and "it found no threshold" in err


def test_drawn_answers_are_abstained_from_too(run, tmp_path):
    """And a threshold of other conditions is refused."""
    rows = write(
        tmp_path / "rows.jsonl", *({"prompt": "Tom", "references": "zebra"} for _ in range(8))
    )
    code, _, err = run(
        "uncertainty", "--prompts-file", rows, *FLAGS, "--risk", 0.8, "--confidence", 0.5,
        "--estimator", "Perplexity", "--evaluation", "e.jsonl", "--output", "o.jsonl",
    )  # fmt: skip
    assert code == 0 and "no threshold of Perplexity" in err
    code, out, _ = run("uncertainty", "Tom", *FLAGS, "--abstain-by", "e.jsonl", "--json")
    assert code == 0 and json.loads(out)["abstained"] is True
    for change, said in (
        (["--temperature", 0.5], "of settings 'raw', and this run is of 'temperature=0.5'"),
        (["--answer", "line"], "of answer 'whole', and this run is of 'line'"),
    ):
        given = dict(zip(FLAGS[::2], FLAGS[1::2], strict=True)) | {change[0]: change[1]}
        flags = [part for pair in given.items() for part in pair]
        code, out, err = run("uncertainty", "Tom", *flags, "--abstain-by", "e.jsonl")
        assert (code, out) == (1, "")
        assert f"--abstain-by: its threshold is {said}" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--risk", 0.2], 2, "--risk needs --estimator"),
        (["--risk", 0, "--estimator", NAME], 2, "--risk"),
        (["--risk", 1, "--estimator", NAME], 2, "--risk"),
        (["--risk", "nan", "--estimator", NAME], 2, "--risk"),
        (["--risk", 0.2, "--confidence", 1, "--estimator", NAME], 2, "--confidence"),
        (["--confidence", 0.9], 2, "--confidence needs --risk"),
        (["--estimator", NAME], 2, "--estimator needs --risk or --abstain-by"),
        (["--risk", 0.1, "--estimator", NAME], 1, "takes at least 23 judged answers with an"),
        (["--risk", 0.5, "--estimator", "Perplexty"], 2, "there is no 'Perplexty'; there are Max"),
        (["--risk", 0.5, "--estimator", NAME, "--abstain-by", "t.json"], 2, "give one"),
        (["--abstain-by", "none.json"], 1, "cannot read"),
        (["--abstain-by", "t.txt"], 2, "--abstain-by takes .jsonl"),
        (["--abstain-by", "t.json"], 1, "holds no threshold"),
        (["--abstain-by", "empty.jsonl"], 1, "holds no threshold"),
        (["--abstain-by", "odd.json"], 1, "holds no threshold"),
        (["--abstain-by", "of.json", "--estimator", "Perplexity"], 2, "is of LabelProb, not of"),
        (["--abstain-by", "of.json"], 1, "of answer none, and this run is of 'whole'"),
        (["--abstain-by", "of.jsonl"], 1, "'of.jsonl' has several rows"),
        (["--abstain-by", "none.jsonl"], 2, "--abstain-by: there is no 'X'; there are Max"),
        (["--abstain-by", "of.json", "--evaluation", "of.json"], 2, "files that are read"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, code, message):
    file = write(tmp_path / "a.jsonl", *answers([1.0] * 10, ["yes"]))
    (tmp_path / "t.json").write_text('[{"evaluation": {}}]')
    (tmp_path / "empty.jsonl").write_text("")
    abstention = {"estimator": "LabelProb", "threshold": "5", "conditions": {}}
    write(tmp_path / "odd.json", [{"evaluation": {"abstention": abstention}}])
    known = abstention | {"threshold": 5}
    write(tmp_path / "of.json", [{"evaluation": {"abstention": known}}])
    write(tmp_path / "of.jsonl", *[{"evaluation": {"abstention": known}}] * 2)
    write(tmp_path / "none.jsonl", {"evaluation": {"abstention": known | {"estimator": "X"}}})
    found, out, err = run("uncertainty", "--answers", file, *arguments)
    assert (found, out) == (code, "")
    assert message in err.splitlines()[-1] and "Traceback" not in err


def test_risk_needs_references(run):
    code, _, err = run("uncertainty", "Tom", "--risk", 0.2, "--estimator", NAME)
    assert code == 2 and "--risk needs prompts with references" in err
