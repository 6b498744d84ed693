"""`uncertainty` and its command: what is put together from parts that have tests of their own."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from decoding import DecodingSettings, generate
from decoding_evals.reading.prompts import read_prompt_rows
from decoding_evals.showing.terminal import WIDEST, to_text
from decoding_evals.uncertainty.estimators.epistemic import checkpoint_members, dropout_members
from decoding_evals.uncertainty.estimators.probabilities import answer
from decoding_evals.uncertainty.evaluation import uncertainty
from decoding_evals.uncertainty.result import PromptRow
from decoding_evals.uncertainty.tables import prompt_lines
from oracle import TOLERANCE, log_softmax, plogp, teacher_forced

SHORT = {"num_samples": 3, "max_new_tokens": 6, "seed": 4}
PROMPTS = ["Once upon a time", "Tom and his dog", "The", "Lily saw a big"]


def plain(results):
    """Records as JSON has them."""
    return [json.loads(json.dumps(result.record(), allow_nan=False)) for result in results]


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory, stories):
    """An untrained model with dropout and the embedded vocabulary, in a folder."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=2048, n_positions=64, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.3,
        initializer_range=0.3, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "small"
    GPT2LMHeadModel(config).save_pretrained(path)
    stories.tokenizer.save_pretrained(path)
    return path


def test_a_result_depends_on_the_seed_and_the_row_alone(stories):
    want = plain(uncertainty(stories, PROMPTS, **SHORT))
    found = plain(uncertainty(stories, [*PROMPTS[::-1], PROMPTS[0]], batch_size=7, **SHORT))
    for index, row in enumerate([*want[::-1], want[0]]):
        assert found[index]["samples"] == row["samples"]
        assert found[index]["estimators"] == pytest.approx(row["estimators"], abs=TOLERANCE)
        assert found[index]["index"] == index


def test_answers_are_those_of_generate(stories):
    settings = DecodingSettings(temperature=0.8, top_k=50)
    [result] = uncertainty(stories, ["Tom was"], settings, **SHORT)
    options = {"max_new_tokens": 6, "seed": 4}
    [greedy] = generate(stories, "Tom was", DecodingSettings(temperature=0), **options)
    samples = generate(stories, "Tom was", settings, num_return_sequences=3, **options)
    record = result.record()
    assert record["greedy"] == answer(greedy)
    assert record["samples"] == [answer(sample) for sample in samples]
    assert record["settings"] == "temperature=0.8,top_k=50"


def test_the_next_token_is_that_of_the_model(stories):
    [record] = plain(uncertainty(stories, ["Tom was"], **SHORT))
    ids = stories.tokenizer("Tom was")["input_ids"]
    [row] = teacher_forced(stories.model, ids, [0])
    log_p = log_softmax(row)
    best = np.argsort(-log_p)[:5]
    assert record["next_token_entropy_nats"] == pytest.approx(plogp(log_p, -log_p), abs=TOLERANCE)
    assert [token["id"] for token in record["next_token_candidates"]] == best.tolist()
    found = [token["probability"] for token in record["next_token_candidates"]]
    assert found == pytest.approx(np.exp(log_p[best]), abs=TOLERANCE)


def test_errors_are_those_of_the_samples(stories):
    [record] = plain(uncertainty(stories, ["Tom was"], num_samples=5, max_new_tokens=6, seed=1))
    for name, column in (
        ("MonteCarloSequenceEntropy", "sample_surprisal_nats"),
        ("RaoBlackwellSequenceEntropy", "sample_entropy_nats"),
    ):
        values = np.array(record[column])
        assert record["estimators"][name] == pytest.approx(values.mean())
        want = values.std(ddof=1) / math.sqrt(5)
        assert record["standard_errors"][name] == pytest.approx(want)
    errors = record["standard_errors"]
    assert record["better_sequence_entropy"] == min(errors, key=errors.get)


def test_epistemic_parts_are_in_the_record(stories, with_dropout):
    from decoding import load_model

    small = load_model(str(with_dropout))
    rows = [PromptRow("Tom was", paraphrases=("Tom is", "The boy was")), PromptRow("Tom was")]
    found = plain(
        uncertainty(
            small, rows, members=checkpoint_members([small, stories]),
            dropout=dropout_members(small, 3), **SHORT,
        )
    )  # fmt: skip
    assert list(found[0]["epistemic"]) == ["phrasing", "members", "dropout"]
    assert list(found[1]["epistemic"]) == ["members", "dropout"]
    for record in found:
        for name, part in record["epistemic"].items():
            of_token = [row["mutual_information_nats"] for row in part["continuation"]["per_token"]]
            mean = record["estimators"][f"MutualInformation_{name}"]
            assert mean == pytest.approx(np.mean(of_token)) and mean > 0


def test_a_context_stands_before_the_prompt(stories):
    row = PromptRow("Her name was", ("Sue",), context="There was a girl named Sue.")
    [record] = plain(uncertainty(stories, [row], **SHORT))
    [greedy] = generate(
        stories, "There was a girl named Sue.\nHer name was",
        DecodingSettings(temperature=0), max_new_tokens=6,
    )  # fmt: skip
    assert record["greedy"] == answer(greedy)
    assert record["context_gain"]["answer"] == " Sue"
    assert record["context_gain"]["gain_nats"] > 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_samples": 1}, "num_samples must be >= 2, got 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"chat": True}, "chat needs a tokenizer with a chat template"),
        ({"correctness": "luck"}, "correctness must be one of contains"),
        ({"settings": DecodingSettings(temperature=0)}, "greedy"),
        ({"max_new_tokens": 2000}, "prompt 1 has"),
    ],
)
def test_what_cannot_work_is_refused_first(stories, change, problem):
    with pytest.raises(ValueError, match=problem):
        next(uncertainty(stories, ["Tom"], **(SHORT | change)))


def test_a_paraphrase_that_does_not_fit_is_named(stories):
    rows = [PromptRow("a"), PromptRow("a", paraphrases=("b", "word " * 2000))]
    with pytest.raises(ValueError, match="prompt 2, paraphrase 2 has"):
        next(uncertainty(stories, rows, **SHORT))


# At the shell.

FLAGS = ("--num-samples", 2, "--max-new-tokens", 4, "--seed", 1)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_is_one_record_a_prompt(run, stories):
    code, out, err = run("uncertainty", "Tom was", "The", *FLAGS, "--json")
    assert (code, err) == (0, "")
    want = uncertainty(stories, ["Tom was", "The"], num_samples=2, max_new_tokens=4, seed=1)
    assert lines(out) == plain(want)


def test_ten_answers_are_drawn_unless_told_otherwise(run):
    code, out, _ = run("uncertainty", "Tom was", "--max-new-tokens", 1, "--json")
    assert code == 0 and len(json.loads(out)["samples"]) == 10
    assert "[default: 10" in run("uncertainty", "--help")[1]


def test_answers_are_shown_between_quotes(run, stories):
    [result] = uncertainty(stories, ["Tom was"], num_samples=2, max_new_tokens=4, seed=1)
    assert result.greedy.text.replace(" ", "").isalpha()
    assert f"greedy      “{result.greedy.text.strip()}”" in run("uncertainty", "Tom was", *FLAGS)[1]


def test_the_report_names_what_matters(run):
    code, out, err = run("uncertainty", "Tom \x1b[31m was", *FLAGS)
    assert code == 0 and "\x1b" not in out
    for words in ("next token", "the smaller error", "choices", "differ by normalised text"):
        assert words in out
    assert "seed 1" in out and err == ""


def test_a_figure_is_recommended_only_where_no_sample_was_cut_off(stories):
    [result] = uncertainty(stories, "Tom said \"He's", num_samples=3, max_new_tokens=4, seed=1)
    cut = str(result)
    assert "3 of 3 samples were cut off" in cut and "the smaller error)" in cut
    [result] = uncertainty(stories, "Tom", num_samples=2, max_new_tokens=90, seed=1, stop=["."])
    assert result.record()["samples_cut_off"] == 0
    assert "the smaller error: read this one)" in str(result)


def test_answers_are_shown_as_they_are(stories):
    [result] = uncertainty(stories, "Tom", num_samples=2, max_new_tokens=4, seed=1)
    record = result.record() | {"greedy": 'He\'s "in" C:\\new می‌خواهم\n', "context": None}
    shown = to_text(prompt_lines(record), WIDEST)
    assert '“He\'s "in" C:\\new می‌خواهم\\n”' in shown


def test_a_file_with_references_gets_an_evaluation(run, tmp_path):
    rows = write(
        tmp_path / "rows.jsonl",
        {"q": "Once upon a", "references": ["time"]},
        {"q": "Tom", "references": "zebra"},
        {"q": "The", "references": None},
        {"q": "A"},
    )
    code, out, err = run(
        "uncertainty", "--prompts-file", rows, "--column", "q", *FLAGS, "--evaluation", "e.json",
        "--plot", "risk.png", "--output", "out.parquet",
    )  # fmt: skip
    assert code == 0 and out == ""
    assert err.startswith("2 prompts of 4 not judged: no references\n")
    assert "2 prompts judged, 2 not" in err and "AUROC" in err
    [summary] = json.loads((tmp_path / "e.json").read_text())
    assert summary["evaluation"]["prompts"] == 2
    assert (tmp_path / "risk.png").stat().st_size > 10_000
    assert (tmp_path / "out.parquet").exists()


def test_constant_correctness_has_no_auroc(run, tmp_path):
    rows = write(tmp_path / "rows.jsonl", *({"prompt": "Tom", "references": "zebra"},) * 2)
    code, out, err = run("uncertainty", "--prompts-file", rows, *FLAGS)
    assert (code, err) == (0, "") and "nan" not in out.lower()
    assert "every answer is wrong" in out


def test_truthfulqa_style_csv(run, tmp_path):
    (tmp_path / "qa.csv").write_text(
        'Question,Right,Wrong\nOnce upon a,time; day,"banana; zebra"\n"Tom and, his",dog,\n'
    )
    code, out, err = run(
        "uncertainty", "--prompts-file", "qa.csv", "--column", "Question", "--separator", ";",
        "--references-column", "Right", "--incorrect-column", "Wrong", *FLAGS,
        "--correct-by", "likelihood", "--json",
    )  # fmt: skip
    first, second = lines(out)
    assert code == 0
    assert first["references"] == ["time", "day"] and first["correct"] is True
    assert second["references"] == ["dog"] and second["correct"] is None
    assert "1 prompt of 2 not judged: no references and incorrect answers\n" in err


def test_what_looks_like_a_list_is_a_text_where_a_file_has_lists_of_its_own(tmp_path):
    """Only .csv writes lists as JSON, and a context is no list anywhere."""
    columns = {"context": None, "references": None}
    row = {"prompt": "a", "context": "[1, 2]", "references": "[2020]"}
    file = write(tmp_path / "rows.jsonl", row, row | {"context": "[]", "references": ["b", "c"]})
    first, second = read_prompt_rows((), file, None, columns, None)
    assert first == {"prompt": "a", "context": "[1, 2]", "references": ("[2020]",)}
    assert second == {"prompt": "a", "context": "[]", "references": ("b", "c")}
    (tmp_path / "rows.csv").write_text('prompt,context,references\na,[],"[""b"", ""c""]"\n')
    [row] = read_prompt_rows((), tmp_path / "rows.csv", None, columns, None)
    assert row == {"prompt": "a", "context": "[]", "references": ("b", "c")}


def test_members_answer_and_disagree(run, with_dropout):
    code, out, _ = run(
        "uncertainty", "Tom", *FLAGS, "--members", with_dropout, "--members", "builtin:stories",
        "--mc-dropout", 2, "--json",
    )  # fmt: skip
    [record] = lines(out)
    assert code == 0 and record["model"] == str(with_dropout)
    assert list(record["epistemic"]) == ["members", "dropout"]


def test_ctrl_c_keeps_finished_rows(run, monkeypatch, tmp_path):
    from decoding_evals.uncertainty.evaluation import _Run

    results = _Run.results

    def third(self, rows):
        if rows[0][0] == 2:
            raise KeyboardInterrupt
        return results(self, rows)

    monkeypatch.setattr(_Run, "results", third)
    code, _, err = run(
        "uncertainty", "a", "b", "c", "d", *FLAGS, "--batch-size", 2, "--output", "out.jsonl"
    )
    assert code == 130 and "interrupted; 2 prompts of 4 finished" in err
    assert [row["prompt"] for row in lines((tmp_path / "out.jsonl").read_text())] == ["a", "b"]


def test_a_row_that_fails_late_costs_no_finished_ones(run, tmp_path):
    long = {"prompt": "b", "references": ["word " * 2000], "context": "c"}
    rows = write(tmp_path / "rows.jsonl", {"prompt": "a"}, long)
    code, _, err = run(
        "uncertainty", "--prompts-file", rows, *FLAGS, "--batch-size", 2, "--output", "out.jsonl"
    )
    assert code == 1
    assert "prompt 2: context, prompt and answer must fit" in err
    assert "1 prompt of 2 finished" in err.splitlines()[-1]
    assert [row["prompt"] for row in lines((tmp_path / "out.jsonl").read_text())] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a", "--num-samples", 1], 2, "--num-samples"),
        (["a", "--temperature", 0], 2, "greedy"),
        (["a", "--members", "builtin:stories"], 2, "at least two"),
        (["a", "--mc-dropout", 1], 2, "--mc-dropout"),
        (["a", "--mc-dropout", 4], 2, "--mc-dropout needs a model with dropout"),
        (["a", "--nli-model", "./nothing"], 1, "entailment model"),
        (["a", "--similarity-model", "./nothing"], 1, "similarity model"),
        (["a", "--similarity-model", "builtin:stories"], 1, "similarity model"),
        (["a", "--plot", "x.png"], 2, "references"),
        (["a", "--evaluation", "e.json"], 2, "references"),
        (["a", "--correct-by", "likelihood"], 2, "--correct-by needs prompts with references"),
        (
            ["--prompts-file", "right.jsonl", "--correct-by", "likelihood"],
            2,
            "and incorrect answers",
        ),
        (["--prompts-file", "rows.jsonl", "--correct-by", "exact"], 2, "with references"),
        (["a", "--references-column", "x"], 2, "--references-column needs"),
        (["--prompts-file", "rows.jsonl", "--references-column", "answers"], 1, "'answers'"),
        (["--prompts-file", "rows.jsonl", "--column", "x"], 1, "no column 'x'"),
        (["--prompts-file", "bad.jsonl"], 1, "line 2: references is int"),
        (["--prompts-file", "none.jsonl"], 1, "none.jsonl"),
        (["--prompts-file", "empty.jsonl"], 1, "no rows"),
        (["--prompts-file", "rows.jsonl", "a"], 2, "not both"),
        (["a", "--stop", ""], 2, "--stop"),
        (["a", "--separator", "|"], 2, "--separator needs a --prompts-file"),
        (["--prompts-file", "twice.csv"], 1, "more than one column 'prompt'"),
        (["--prompts-file", "list.jsonl"], 1, "references holds int"),
        (["a", "--evaluation", "out.jsonl"], 2, "different files"),
        (["a", "--separator", ""], 2, "--separator"),
        (["word " * 2000], 1, "prompt 1 has"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, code, message):
    write(tmp_path / "rows.jsonl", {"prompt": "a"})
    write(tmp_path / "bad.jsonl", {"prompt": "a"}, {"prompt": "b", "references": 3})
    write(tmp_path / "right.jsonl", {"prompt": "a", "references": ["b"]})
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "twice.csv").write_text("prompt,prompt\na,b\n")
    write(tmp_path / "list.jsonl", {"prompt": "a", "references": ["b", 5]})
    found, out, err = run("uncertainty", *arguments, "--output", "out.jsonl")
    assert (found, out) == (code, "")
    assert message in err.splitlines()[-1] and "Traceback" not in err
    assert not (tmp_path / "out.jsonl").exists()


def test_members_with_another_vocabulary_are_refused(run, tmp_path, random_gpt2):
    random_gpt2.model.save_pretrained(tmp_path / "gpt2")
    random_gpt2.tokenizer.save_pretrained(tmp_path / "gpt2")
    code, _, err = run("uncertainty", "a", "--members", "builtin:stories", "--members", "gpt2")
    assert code == 1 and "the vocabularies of 'builtin:stories' and 'gpt2' differ" in err
