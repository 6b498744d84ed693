"""The command `identify`, its tables and its plot."""

import json
import math
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from candidates import parsed
from conftest import shared
from decoding.scoring.teacher_forcing import TokenDocument
from decoding.texts.prompts import encode_prompt
from decoding_evals.identify import evaluation as module
from decoding_evals.identify.evaluation import identify
from decoding_evals.identify.figure import plot_identification

NATS = 1e-4
SPECS = ["raw", "temperature=0.6", "top_p=0.8", "top_k=5", "min_p=0.2", "typical_p=0.6", "greedy"]
WIKI = "In 2006, the committee ratified its amended constitution; senators from Ohio dissented."


# The command.


def test_the_command_reads_what_generate_records(run, stories):
    code, out, _ = run("generate", "Once upon a time", "--top-k", 3, "--json", "--num-samples", 2,
                       "--seed", 4, "--max-new-tokens", 60)  # fmt: skip
    assert code == 0
    Path("g.jsonl").write_text(out)
    specs = ["raw", "top_k=3"]
    options = [word for spec in specs for word in ("--setting", spec)]
    code, piped, err = run("identify", "--json", *options, stdin=out.encode())
    assert (code, err) == (0, "")
    code, out, err = run("identify", "g.jsonl", "--json", *options, "--prior", "3,1")
    assert (code, err) == (0, "")
    context = encode_prompt(stories.tokenizer, "Once upon a time")
    records = [json.loads(line) for line in Path("g.jsonl").read_text().splitlines()]
    documents = [TokenDocument([t["id"] for t in r["tokens"]], context) for r in records]
    for place, want in enumerate(identify(stories, documents, parsed(specs), prior=[3, 1])):
        got = json.loads(out.splitlines()[place])
        assert got.pop("name") == f"g.jsonl:{place + 1}"
        assert got == json.loads(json.dumps(want.record()))
        assert got["decided"] == "top_k=3" and json.loads(piped.splitlines()[place])["decided"]
    code, out, err = run("identify", "g.jsonl", "--output", "o.csv", "--plot", "o.svg", *options)
    assert (code, out) == (0, "") and err == "'o.svg' shows the first of 2 texts\n"
    assert Path("o.csv").read_text().count("top_k=3") and "</svg>" in Path("o.svg").read_text()


def test_the_table_says_who_wrote_it_and_what_ruled_the_others_out(run):
    code, out, err = run("identify", "--setting", "raw", "--setting", "top_k=2",
                         "--setting", "temperature=0.9", stdin=b"Once upon a zebra")  # fmt: skip
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("-: ") and "none is named: " in lines[0]
    [row] = [line for line in lines if line.startswith("top_k=2")]
    assert re.search(
        r"top_k=2 +0\.0000 +- +infinite +0\.\d+ +- +\d+ “.+” \(rank [\d,]+, 2 kept\)", row
    )
    assert any(line.startswith("what moved the odds of raw to temperature=0.9") for line in lines)
    _, out, _ = run("identify", "--setting", "raw", "--setting", "top_k=2", "--setting",
                    "temperature=0.9", "--json", stdin=b"Once upon a zebra")  # fmt: skip
    record = json.loads(out)
    [entry] = record["ruled_out"]
    assert f" {entry['token'] + 1} “{entry['text']}” (rank" in row
    begin = next(i for i, line in enumerate(lines) if line.startswith("token  text"))
    shown = [int(line.split()[0]) for line in lines[begin + 1 :]]
    assert shown == [token["token"] + 1 for token in record["deciding_tokens"]]
    code, out, _ = run(
        "identify", "--setting", "greedy", "--setting", "top_k=2", stdin=WIKI.encode()
    )
    assert code == 0 and "every candidate is ruled out" in out.splitlines()[0]


def test_pieces_that_two_tokenizers_share_are_not_called_tokens(run, stories, stories260k):
    text = "Once upon a zebra"
    arguments = ["identify", "--setting", "raw", "--models", "builtin:stories", stories260k.name]
    _, out, _ = run(*arguments, "--json", stdin=text.encode())
    record = json.loads(out)
    counts = [
        len(each.tokenizer(text, add_special_tokens=False)["input_ids"])
        for each in (stories, stories260k)
    ]
    assert record["pieces"] and record["tokens"] <= min(counts)
    _, out, _ = run(*arguments, stdin=text.encode())
    assert out.startswith(f"-: {record['tokens']} shared pieces · ")
    assert "\npiece " in out and "a piece ends where all of them end a token" in out
    _, out, _ = run("identify", "--json", stdin=text.encode())
    assert not json.loads(out)["pieces"]


def test_the_default_candidates_leave_foreign_text_alone(run, tmp_path):
    Path("wiki.txt").write_text(WIKI * 3)
    code, out, err = run("identify", "wiki.txt", "--json")
    record = json.loads(out)
    assert (code, err) == (0, "") and "raw" in record["settings"] and record["decided"] is None
    code, out, err = run("identify", "wiki.txt", "--json", "--setting", "raw", "--models",
                         "builtin:stories", shared("models/stories260K"))  # fmt: skip
    record = json.loads(out)
    assert (code, err) == (0, "") and len(set(record["models"])) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--setting", "row"], "did you mean 'raw'?"),
        (["--setting", "raw"], "2 to 1000 candidates are needed, got 1"),
        (["--setting", "raw", "--setting", "raw"], "setting 'raw' is given twice"),
        (["--prior", "1,2"], "one weight for each of the 6 candidates, got 2"),
        (["--prior", "a"], "--prior takes numbers"),
        (["--prior", "1,1,1,1,1,0"], "positive, finite weights, got 0"),
        (["--min-odds", "0.5"], "'--min-odds'"),
        (["--grid", "temperature=1:0:1"], "holds no value"),
        (["--model", "a", "--models", "a", "b"], "give --model or --models, not both"),
        (["--plot", "a.gif"], "--plot takes"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, message):
    code, out, err = run("identify", *arguments, stdin=b"Once")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and message in err


def test_ctrl_c_keeps_what_is_finished(run, monkeypatch):
    Path("a.jsonl").write_text('{"text": "Once upon"}\n' * 4)
    real = module.identify

    def interrupted(*args, **options):
        for place, result in enumerate(real(*args, **options)):
            if place == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(module, "identify", interrupted)
    code, out, err = run("identify", "a.jsonl", "--output", "o.jsonl")
    assert (code, out) == (130, "")
    assert err == "Error: interrupted; 2 texts identified; --resume goes on from there\n"
    assert len(Path("o.jsonl").read_text().splitlines()) == 2


# The plot.


def plotted(language_model, text, specs):
    [result] = identify(language_model, [text], parsed(specs))
    record = {"name": "a/story.txt", **result.record()}
    figure = plot_identification(record, result.tokens, result.running_log_odds())
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    return result, figure.axes[0]


def test_a_line_ends_where_its_candidate_is_ruled_out(stories260k):
    result, axes = plotted(stories260k, "Once upon a zebra", ["raw", "top_k=5", "temperature=0.9"])
    odds = result.running_log_odds() / math.log(10)
    lines = {line.get_label(): line for line in axes.lines}
    assert_allclose(lines["raw"].get_ydata(), odds[:, 0].clip(-6, 6))
    end = result.candidates[1].ruled_out.token
    assert len(lines["top_k=5"].get_ydata()) == end + 1 < len(odds)
    assert len(axes.get_xticklabels()) == len(result.tokens)


def test_the_likeliest_lies_above_the_others_and_the_legend_covers_nothing(stories260k):
    result, axes = plotted(stories260k, "Once upon a time there was a dog.", SPECS[:4])
    lines = {line.get_label(): line for line in axes.lines}
    heights = [lines[SPECS[k]].get_zorder() for k in result.ranking()]
    assert len(heights) > 1 and heights == sorted(set(heights), reverse=True)
    legend, figure = axes.get_legend().get_window_extent(), axes.figure
    assert legend.x0 >= axes.bbox.x1 and legend.x1 <= figure.bbox.x1


def test_odd_inputs_are_drawn_without_a_warning(stories260k, recwarn):
    grid = [f"temperature={0.5 + place / 10:g}" for place in range(12)]
    _, axes = plotted(stories260k, "She saw a dog. " * 30, grid)
    assert "5 more" in [text.get_text() for text in axes.get_legend().get_texts()]
    plotted(stories260k, "", ["raw", "greedy"])
    plotted(stories260k, WIKI, ["greedy", "top_k=2"])
    assert not recwarn.list
