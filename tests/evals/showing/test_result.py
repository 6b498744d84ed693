"""Results of all evaluations show themselves: in print, in a notebook, as rows, as a picture."""

import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser

import pandas
import pytest
from matplotlib.figure import Figure
from rich.text import Text

from decoding.settings.policy import parse_setting
from decoding_evals.attention import attention
from decoding_evals.calibrate import calibrate
from decoding_evals.compare import compare, compare_models
from decoding_evals.doctor import doctor
from decoding_evals.identify import identify
from decoding_evals.perplexity import perplexity
from decoding_evals.score import score, score_choices
from decoding_evals.showing.html import to_html
from decoding_evals.showing.result import Result, TextResult
from decoding_evals.showing.terminal import WIDEST, titled, to_text
from decoding_evals.uncertainty.evaluation import uncertainty
from decoding_evals.uncertainty.result import PromptRow
from decoding_evals.uncertainty.summary import EstimatorEvaluation, evaluate

TEXTS = ["Once upon a time there was a cat.", "Tom had a <b>red</b> & big ball.", "Lily ran."]
SETTINGS = [parse_setting(spec) for spec in ("raw", "temperature=0.7", "top_p=0.8")]


@pytest.fixture(scope="module")
def results(stories):
    """One result of each kind, with its number of rows."""
    head_count = sum(len(heads) for heads in next(attention(stories, TEXTS[:1])).normalized_entropy)
    [scored] = score(stories, TEXTS[1:2], setting=SETTINGS[2])
    [chosen] = score_choices(stories, [("Once upon a", [" time", " <i>"])])
    [who] = identify(stories, TEXTS[1:2], SETTINGS)
    [seen] = attention(stories, TEXTS[1:2])
    fitted = calibrate(stories, TEXTS)
    found = doctor(stories)
    rows = [PromptRow(text, ("a cat",)) for text in TEXTS[:2]]
    answers = list(uncertainty(stories, rows, num_samples=2, max_new_tokens=5, seed=1))
    judged = [
        one.record() | {"correct": correct, "quality": float(correct)}
        for one, correct in zip(answers, (True, False), strict=True)
    ]
    summary = EstimatorEvaluation("m", "raw", "exact", evaluate(judged))
    bins = len(fitted.before.reliability.counts) + len(fitted.after.reliability.counts)
    return {
        "score": (scored, len(scored)),
        "choices": (chosen, 2),
        "perplexity": (perplexity(stories, TEXTS), 1),
        "compare": (compare(stories, TEXTS, SETTINGS), len(SETTINGS)),
        "models": (compare_models(stories, stories, TEXTS), 2),
        "identify": (who, len(SETTINGS)),
        "attention": (seen, head_count),
        "calibrate": (fitted, bins),
        "doctor": (found, len(found.checks)),
        "uncertainty": (answers[1], 1),
        "summary": (summary, len(answers[0].estimators)),
    }


KINDS = [
    "score", "choices", "perplexity", "compare", "models", "identify", "attention", "calibrate",
    "doctor", "uncertainty", "summary",
]  # fmt: skip
DRAWN = ["score", "compare", "identify", "attention", "calibrate", "summary"]


class Cells(HTMLParser):
    """The texts of a page and its tags."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self.open = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_repr_is_one_short_line_with_what_it_is_of(results, kind):
    result, _ = results[kind]
    assert re.fullmatch(rf"{type(result).__name__}\([^\n]{{10,120}}\)", repr(result))
    assert "array(" not in repr(result) and "\x1b" not in repr(result)


def test_a_repr_has_the_main_figures(results):
    found = {kind: repr(result) for kind, (result, _) in results.items()}
    perplexity, tokens = results["perplexity"][0].perplexity, results["compare"][0].account.tokens
    assert found["perplexity"] == (
        f"PerplexityResult('builtin:stories', perplexity {perplexity:#.5g}, {tokens} tokens)"
    )
    assert found["compare"].startswith("SettingsComparison('builtin:stories', 3 settings, mean en")
    assert "KL(A‖B) 0.0000 nats" in found["models"] and "2 choices" in found["choices"]
    assert found["choices"].startswith("ChoiceScores('Once upon a', ")
    fit = results["calibrate"][0].fit
    assert f"temperature {fit.temperature:.4f}"[:15] in found["calibrate"]
    assert found["identify"].startswith("Identification(3 candidates, ")
    assert found["doctor"].endswith(" checks, 0 failed)")
    assert found["score"].startswith(f"DocumentScores({TEXTS[1]!r}, ")
    assert found["uncertainty"].startswith(f"PromptUncertainty({TEXTS[1]!r} → ")
    assert found["summary"].startswith("EstimatorEvaluation('m', 23 estimators, 2 prompts, acc")


@pytest.mark.parametrize("kind", KINDS)
def test_print_shows_the_tables_without_colour(results, kind):
    result, _ = results[kind]
    shown = str(result)
    assert isinstance(result, Result) and "\x1b" not in shown and shown.strip()
    # Everything that a pipe would get stands there, folded where it is wide.
    wide = to_text(result.tables(), WIDEST)
    assert Counter("".join(shown.split())) == Counter("".join(wide.split()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_shows_the_same_cells_escaped(results, kind):
    result, _ = results[kind]
    page = Cells(to_html(result.tables()))
    assert to_html(result.tables()) in result._repr_html_()
    assert set(page.tags) <= {"table", "caption", "tr", "th", "td", "div", "span"}
    text = "".join("".join(page.texts).split())
    for line in to_text(result.tables(), WIDEST).splitlines():
        for word in line.split():
            assert word in text


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_a_data_frame(results, kind):
    result, count = results[kind]
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == count
    assert frame.columns.is_unique and list(frame.columns) == list(result.rows()[0])


@pytest.mark.parametrize("kind", DRAWN)
def test_a_picture_is_a_figure(results, kind):
    figure = results[kind][0].plot()
    assert isinstance(figure, Figure)
    # In a notebook, whether or not pyplot was imported.
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_rows_hold_the_figures_of_the_record(results):
    for kind, column in (("score", "surprisal_nats"), ("compare", "covered_cross_entropy_nats")):
        result, _ = results[kind]
        record = result.record()
        want = record[column] if kind == "compare" else [t[column] for t in record["tokens"]]
        assert result.to_pandas()[column].tolist() == pytest.approx(want)
    frame = results["identify"][0].to_pandas()
    assert frame["setting"].tolist() == [str(setting) for setting in SETTINGS]
    assert frame["posterior"].sum() == pytest.approx(1)
    heads = results["attention"][0].to_pandas()
    record = results["attention"][0].record()
    for layer, head, value in zip(heads.layer, heads["head"], heads.sink_weight, strict=True):
        assert value == record["sink_weight"][layer][head]


def test_figures_have_their_names(results, stories):
    ppl = results["perplexity"][0]
    assert ppl.perplexity == pytest.approx(math.exp(ppl.nll_nats))
    size = sum(len(text.encode()) for text in TEXTS)
    nats = ppl.nll_nats * ppl.account.tokens_scored
    assert ppl.bits_per_byte == pytest.approx(nats / size / math.log(2))
    [scores] = score(stories, TEXTS[:1])
    assert scores.perplexity == pytest.approx(math.exp(scores.surprisal_nats.mean()))
    fitted = results["calibrate"][0]
    assert fitted.temperature == fitted.record()["temperature"]
    who = results["identify"][0]
    assert who.posterior.sum() == pytest.approx(1)


def test_a_command_prints_what_the_result_shows(run, results, stories):
    for text in TEXTS:
        [scored] = score(stories, [text])
        code, out, _ = run("score", stdin=text.encode())
        named = to_text(scored.tables(), WIDEST).replace("text 1:", "-:", 1)
        assert (code, out) == (0, named + "\n")


@pytest.mark.parametrize(
    ("package", "method", "extra"),
    [("pandas", "to_pandas", "pandas"), ("matplotlib", "plot", "plot")],
)
def test_what_is_missing_is_named_in_one_line(results, monkeypatch, package, method, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    for kind in DRAWN:
        with pytest.raises(ImportError) as caught:
            getattr(results[kind][0], method)()
        want = f"{method} needs {package}: pip install 'decoding-toolkit[{extra}]'"
        assert str(caught.value) == want


@dataclass(frozen=True)
class Hostile(TextResult):
    """A result whose texts are markup."""

    def record(self):
        return self.heading()

    def tables(self):
        table = titled("<script>alert('title')</script>")
        table.add_column("<u>head</u>")
        table.add_row("[bold]&lt;<img src=x onerror=alert(1)>")
        table.add_row(Text("<i>", style="bold #ff0000"))
        yield table
        yield "</div><b>"


def test_markup_in_texts_is_text():
    page = Cells(to_html(Hostile(index=0).tables()))
    assert set(page.tags) == {"table", "caption", "tr", "th", "td", "div", "span"}
    assert "[bold]&lt;<img src=x onerror=alert(1)>" in page.texts
    assert "</div><b>" in page.texts and "<u>head</u>" in page.texts


def test_a_named_text_says_so_in_its_record():
    assert Hostile(index=3).record() == {"index": 3}
    assert Hostile(index=3, name="a.txt").record() == {"name": "a.txt", "index": 3}


def test_a_wide_table_folds_and_keeps_its_figures():
    table = titled("a")
    table.add_column("text")
    table.add_column("n", justify="right")
    table.add_row("word " * 60, "12,345,678")
    lines = to_text([table]).splitlines()
    assert max(map(len, lines)) <= 100 and sum("12,345,678" in line for line in lines) == 1


@pytest.mark.parametrize("evaluate", [score, identify, attention, uncertainty, perplexity])
def test_one_text_is_one_document_and_not_its_characters(stories, evaluate):
    options = {
        identify: {"settings": SETTINGS},
        uncertainty: {"num_samples": 2, "max_new_tokens": 2, "seed": 1},
    }.get(evaluate, {})
    alone, listed = evaluate(stories, TEXTS[0], **options), evaluate(stories, TEXTS[:1], **options)
    if not isinstance(alone, Result):
        [alone], [listed] = alone, listed
    assert alone.record() == listed.record()
