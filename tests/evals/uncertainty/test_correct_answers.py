"""Which answers count as correct, and by which rule."""

import json
import math

import pytest

from decoding import DecodingSettings, generate
from decoding_evals.judging.answers import normalized, rouge_l
from decoding_evals.judging.correctness import comparable, judged
from decoding_evals.reading.prompts import read_prompt_rows
from decoding_evals.uncertainty.estimators import answer
from decoding_evals.uncertainty.evaluation import uncertainty
from decoding_evals.uncertainty.result import PromptRow
from decoding_evals.uncertainty.summary import evaluate
from oracle import log_softmax, teacher_forced

SHORT = {"num_samples": 3, "max_new_tokens": 6, "seed": 4}


def records(results):
    return [json.loads(json.dumps(result.record(), allow_nan=False)) for result in results]


def test_correctness_and_rows_without_references(stories):
    rows = [PromptRow("Tom was", ("zebra zebra",)), PromptRow("Tom was"), PromptRow("Tom was")]
    [greedy] = generate(
        stories, "Tom was", DecodingSettings(temperature=0),
        max_new_tokens=6,
    )  # fmt: skip
    text = answer(greedy)
    rows[2] = PromptRow("Tom was", ("zebra", f"The {text.upper()}!"))
    for correctness in ("exact", "f1", "rouge-l"):
        found = records(uncertainty(stories, rows, correctness=correctness, **SHORT))
        assert [record["correct"] for record in found] == [False, None, True]
        assert [record["quality"] for record in found[:2]] == [0, None]
        evaluation = evaluate(found)
        assert (evaluation["prompts"], evaluation["prompts_left_out"]) == (2, 1)
    assert found[2]["quality"] == pytest.approx(rouge_l(text, f"The {text}"))


def test_the_rule_goes_by_the_shape_of_the_references(stories):
    [greedy] = generate(stories, "Tom was", DecodingSettings(temperature=0), max_new_tokens=6)
    first = normalized(answer(greedy)).split()[0]
    short = [PromptRow("Tom was", (first,)), PromptRow("Tom was", ("zebra",)), PromptRow("Tom")]
    right, wrong, unknown = records(uncertainty(stories, short, **SHORT))
    assert [r["correct"] for r in (right, wrong, unknown)] == [True, False, None]
    said = normalized(answer(greedy))
    assert right["compared"] == {"by": "contains", "answer": said, "reference": first}
    long = [*short, PromptRow("Tom was", ("one two three four five six",))]
    found = records(uncertainty(stories, long, **SHORT))
    assert [r["compared"] and r["compared"]["by"] for r in found] == [
        "rouge-l", "rouge-l", None, "rouge-l",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("references", "by", "left"),
    [
        (["The", "A.", "Lily"], "contains", ["Lily"]),
        (["The", "!"], "exact", []),
        (["The", "!"], "f1", []),
        (["The", "!", "巴黎", "Paris 巴黎"], "rouge-l", ["The", "Paris 巴黎"]),
        (["The", "巴黎"], "contains", ["巴黎"]),
        (["The", "!"], "likelihood", ["The", "!"]),
    ],
)
def test_references_without_a_word_are_left_out(references, by, left):
    assert comparable(references, by) == left
    if by != "likelihood":
        found = judged((*left, "")[0], references, by)
        assert found is None if not left else found.correct and found.quality == 1


def test_a_reference_of_stop_words_alone_costs_its_prompt_alone(run, tmp_path):
    """Its answer is neither right nor wrong, the rule stays that of the others, and it is said."""
    file = tmp_path / "rows.jsonl"
    rows = [("the",), ("dog",), ("the", "cat"), ()]
    lines = [json.dumps({"prompt": "Tom", "references": references}) for references in rows]
    file.write_text("\n".join(lines))
    asked = "uncertainty", "--prompts-file", file, "--num-samples", 2, "--max-new-tokens", 2
    code, out, err = run(*asked, "--json", "--evaluation", "e.json")
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert [record["correct"] is None for record in found] == [True, False, False, True]
    assert found[0]["votes"]["MostCommon"]["correct"] is None
    assert [found[place]["compared"]["reference"] for place in (1, 2)] == ["dog", "cat"]
    assert "2 prompts of 4 not judged: no references with a word that contains compares" in err
    [evaluation] = json.loads((tmp_path / "e.json").read_text())
    assert evaluation["evaluation"]["prompts"] == 2
    assert evaluation["evaluation"]["prompts_left_out"] == 2
    file.write_text(lines[0])
    code, out, err = run(*asked, "--correct-by", "contains")
    assert (code, out) == (2, "")
    assert "--correct-by needs prompts with references with a word that contains compares" in err


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Tom", "answer": ["dog", "cat"]},  # Natural Questions
        {"question": "Tom", "correct_answers": ["dog", "cat"], "incorrect_answers": ["x"]},
        {"prompt": "Tom", "question": "no", "references": ["dog", "cat"], "answer": "no"},
    ],
)
def test_columns_of_usual_data_sets_are_found(tmp_path, row):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    [found] = read_prompt_rows((), file, None, {"references": None, "incorrect": None}, None)
    assert (found["prompt"], found["references"]) == ("Tom", ("dog", "cat"))
    assert found["incorrect"] == tuple(row.get("incorrect_answers", ()))


def test_answers_of_truthfulqas_file_are_told_apart(tmp_path):
    """By `; `, as it has them; other columns hold what they hold."""
    file = tmp_path / "qa.csv"
    file.write_text(
        "Question,Correct Answers,Incorrect Answers,other\n"
        '"Tom, who?",A dog; A big cat,"An ox; Nobody, really",a; b\n'
    )
    columns = {"references": None, "incorrect": None}
    [found] = read_prompt_rows((), file, None, columns, None)
    assert found["references"] == ("A dog", "A big cat")
    assert found["incorrect"] == ("An ox", "Nobody, really")
    [found] = read_prompt_rows((), file, None, columns | {"references": "other"}, None)
    assert found["references"] == ("a; b",)


def test_likelihood_prefers_what_the_model_finds_likelier(stories):
    rows = [
        PromptRow("Once upon a", ("time",), ("banana", "zebra")),
        PromptRow("Once upon a", ("banana",), ("time",)),
        PromptRow("Once upon a", ("time",)),
    ]
    found = records(uncertainty(stories, rows, correctness="likelihood", **SHORT))
    assert [record["correct"] for record in found] == [True, False, None]
    ids = [stories.tokenizer(f"Once upon a {word}")["input_ids"] for word in ("time", "banana")]
    start = len(stories.tokenizer("Once upon a")["input_ids"])
    p = [
        math.exp(
            sum(
                log_softmax(row)[token]
                for row, token in zip(
                    teacher_forced(stories.model, path[:start], path[start:]),
                    path[start:],
                    strict=True,
                )
            )
        )
        for path in ids
    ]
    assert found[1]["quality"] == pytest.approx(p[1] / sum(p), rel=1e-3)


def test_records_stay_where_the_evaluation_cannot_be_written(run, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Tom", "references": "dog"}) + "\n")
    code, _, err = run(
        "uncertainty", "--prompts-file", file, "--num-samples", 2, "--max-new-tokens", 2,
        "--output", "o.jsonl", "--evaluation", "/dev/full",
    )  # fmt: skip
    assert code == 1 and "cannot write '/dev/full'" in err
    [record] = (tmp_path / "o.jsonl").read_text().splitlines()
    assert json.loads(record)["prompt"] == "Tom"
    code, _, err = run(
        "uncertainty", "--prompts-file", file, "--evaluation", "e.txt", "--model", "/no/model"
    )
    assert code == 2 and "--evaluation takes .jsonl" in err
