"""The page of `uncertainty`: answers by cluster, estimators, and how well they tell."""

import json
from collections import Counter

import numpy as np
import pytest
from opening import INJECTION, opened, percents, run, scale_of, violations

from decoding.showing.page import write_page
from decoding_evals.judging.selective import evaluate_estimators
from decoding_evals.uncertainty.view import EVALUATION

pytestmark = pytest.mark.browser

ROWS = [
    {"prompt": "Once upon a time, there was a little", "references": ["girl", "boy"]},
    {"prompt": f"A cat {INJECTION}", "references": [INJECTION], "context": INJECTION},
    {"prompt": "Lily saw a big", "references": ["dog"]},
    {"prompt": "Tom and his", "references": ["mum", "mom"]},
]


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A page of answers, its records, and the evaluation."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    command = ["uncertainty", "--prompts-file", folder / "asked.jsonl", "--num-samples", "6"]
    command += ["--max-new-tokens", "4", "--seed", "3"]
    run(*command, "--output", folder / "page.html")
    out = folder / "out.jsonl"
    run(*command, "--page-data", "--output", out, "--evaluation", folder / "evaluation.json")
    [evaluation] = json.loads((folder / "evaluation.json").read_text())
    return folder / "page.html", [*map(json.loads, out.open())], evaluation["evaluation"]


@pytest.mark.parametrize("index", [0, 1])
def test_answers_stand_in_their_clusters_and_show_their_tokens(browser, answered, index):
    path, records, _ = answered
    record = records[index]
    with opened(browser, path) as page:
        page.select_option("#which-entry", str(index))
        assert page.locator(".prose").last.inner_text() == record["prompt"]
        sizes = [count for _, count in Counter(record["clusters"]).most_common()]
        items = page.locator(".clusters > li")
        assert items.count() == len(sizes)
        for item, size in zip(items.all(), sizes, strict=True):
            text = item.inner_text()
            assert percents(text)[0] == pytest.approx(size / 6, abs=6e-4)
            bar = item.locator(".bar i").evaluate(
                "e => e.offsetWidth / e.parentElement.offsetWidth"
            )
            assert bar == pytest.approx(size / 6, abs=0.02)
            named = [one.inner_text() for one in item.locator("bdi").all()]
            label = record["clusters"][record["samples"].index(named[0])]
            own = [
                text
                for text, cluster in zip(record["samples"], record["clusters"], strict=True)
                if cluster == label
            ]
            assert set(named) == set(own) and len(own) == size
        for button in page.locator("button.answer").all():
            button.click()
            at = int(button.get_attribute("data-text"))
            tokens = [token["text"] for token in record["page"][at]["tokens"]]
            assert page.locator("#text .t").all_text_contents() == tokens
            assert button.get_attribute("aria-pressed") == "true"
            assert page.locator("button[aria-pressed=true]").count() == 1
            assert button.locator("bdi").inner_text() in ("".join(tokens).strip(), "(empty)")


def test_rows_of_all_answers_give_their_entropies(browser, answered):
    path, records, _ = answered
    want = [
        token["entropy_nats"] if at else token["raw_entropy_nats"]
        for record in records
        for at, answer in enumerate(record["page"])
        for token in answer["tokens"]
    ]
    with opened(browser, path) as page:
        found = page.evaluate("decodingReport.evaluate('raw')")
    assert len(want) == len(found["entropy_nats"]) > 50
    np.testing.assert_allclose(found["entropy_nats"], want, atol=1e-4)


def test_prompts_stand_together_the_least_sure_first_and_lead_to_their_answers(browser, answered):
    path, records, _ = answered
    with opened(browser, path) as page:
        for shown in (0, len(records)):  # a prompt, and the evaluation
            page.select_option("#which-entry", str(shown))
            page.locator(".overview").evaluate("e => { e.open = true; }")
            for name in ("MaximumSequenceProbability", "RaoBlackwellSequenceEntropy"):
                page.select_option(".overview select", name)
                values = [record["estimators"][name] for record in records]
                order = sorted(range(len(records)), key=lambda i: -values[i])
                rows = [one.locator("th, td") for one in page.locator(".overview tbody tr").all()]
                found = [row.all_inner_texts() for row in rows]
                assert [int(prompt.split(":")[0]) - 1 for prompt, *_ in found] == order
                assert [(value, sign) for _, value, sign in found] == [
                    (f"{values[i]:.4f}", "✓" if records[i]["correct"] else "✗") for i in order
                ]
            page.locator(".overview .way").nth(1).focus()
            page.keyboard.press("Enter")
            assert page.input_value("#which-entry") == str(order[1])
            assert page.evaluate("document.activeElement.id") == "which-entry"
            assert page.inner_text("#title").startswith(f"{order[1] + 1}: ")


def test_estimators_and_the_verdict_are_read_as_recorded(browser, answered):
    path, records, _ = answered
    with opened(browser, path) as page:
        page.locator("#drawing summary").first.click()
        rows = page.locator("#drawing details:not(.overview) tbody tr").all()
        cells = [[cell.strip() for cell in row.inner_text().split("\t")] for row in rows]
        assert {line[0]: line[1] for line in cells} == {
            name: "-" if value is None else f"{value:.4f}"
            for name, value in records[0]["estimators"].items()
        }
        errors = {line[0]: line[2] for line in cells if line[2] != "-"}
        assert errors == {
            name: f"{value:.4f}" for name, value in records[0]["standard_errors"].items()
        }
        facts = page.locator("#drawing > table").inner_text()
        assert ("✓" in facts, "✗" in facts) == (records[0]["correct"], not records[0]["correct"])
        assert records[0]["most_common_answer"]["text"] in facts


def test_the_evaluation_is_the_last_entry_and_its_pictures_are_in_place(browser, answered):
    path, _, evaluation = answered
    with opened(browser, path) as page:
        page.select_option("#which-entry", str(len(ROWS)))
        known = {name: one for name, one in evaluation["estimators"].items() if one["prompts"]}
        for by in ("auroc", "prr"):
            page.locator("#drawing > label select").first.select_option(by)
            svg = page.locator("#drawing svg").first
            value_at = scale_of(svg)
            dots = [value_at(float(one.get_attribute("cx"))) for one in svg.locator("circle").all()]
            want = [one[by] for one in known.values() if one[by] is not None]
            np.testing.assert_allclose(dots, sorted(want, reverse=True), atol=0.005)
        choice = page.locator("#drawing > label select").nth(1)
        for name in ("Perplexity", "SemanticEntropy"):
            choice.select_option(name)
            curve = known[name]["risk_coverage"]
            svg = page.locator("#drawing svg").nth(1)
            svg.locator("text.x").first.wait_for()
            svg.focus()
            for key, at in (("Home", 0), ("ArrowRight", 1), ("End", -1)):
                page.keyboard.press(key)
                said = page.inner_text("#live")
                assert percents(said)[0] == pytest.approx(curve["coverage"][at], abs=6e-4)
                assert f"risk {curve['risk'][at]:.3f};" in said
            ticks = {
                axis: [
                    (float(one.get_attribute(axis)), float(one.text_content()))
                    for one in svg.locator(f"text.{axis}").all()
                ]
                for axis in ("x", "y")
            }
            points = svg.locator("polyline.curve.a").get_attribute("points").split()
            for point, *want in zip(points, curve["coverage"], curve["risk"], strict=True):
                for place, value, axis, off in zip(
                    point.split(","), want, "xy", (0, 4), strict=True
                ):
                    (from_, low), *_, (to, high) = ticks[axis]
                    share = (float(place) + off - from_) / (to - from_)
                    assert low + share * (high - low) == pytest.approx(value, abs=0.005)


def test_a_threshold_has_its_line_and_its_promise(browser, tmp_path):
    draws = np.random.default_rng(0)
    right = [bool(one) for one in draws.random(40) < 0.6]
    unsure = {name: list(draws.normal(size=40)) for name in ("Perplexity", INJECTION)}
    unsure["Perplexity"][0] = None  # so 39 stand on its curve
    found = {
        "estimator": "Perplexity", "threshold": 0.3, "risk": 0.2, "confidence": 0.9, "kept": 13,
        "coverage": 13 / 40, "prompts": 40, "prompts_undefined": 1, "wrong": 1, "bound": 0.19,
    }  # fmt: skip
    evaluation = evaluate_estimators(unsure, right) | {"abstention": found, "votes": {}}
    evaluation |= {"judged": "most common", "samples": 80, "samples_cut_off": 0}
    record = {"model": None, "settings": None, "correct_by": "contains", "evaluation": evaluation}
    with (tmp_path / "page.html").open("w") as file:
        write_page([EVALUATION], [EVALUATION.shown(record)], file)
    with opened(browser, tmp_path / "page.html") as page:
        page.locator("#drawing svg").first.locator("text").first.wait_for()
        assert INJECTION in page.locator("#drawing svg").first.text_content()
        svg = page.locator("#drawing svg").nth(1)
        value_at = scale_of(svg)
        place = float(svg.locator("line.kept").get_attribute("x1"))
        assert value_at(place) == pytest.approx(13 / 39, abs=0.005)
        assert "The 13 surest of 39" in page.locator("#drawing .figures").inner_text()
        assert "at most 19.0%" in page.locator(".promise").inner_text()
        said = page.locator("p", has_text="Undefined for")
        assert said.count() == 0
        page.locator("#drawing > label select").nth(1).select_option(INJECTION)
        svg.locator("text.x").first.wait_for()
        assert svg.locator("line.kept").count() == 0


def test_what_is_not_known_is_not_drawn(browser, tmp_path):
    evaluation = evaluate_estimators({"Perplexity": [0.1, 0.2, 0.3]}, [True, True, True])
    evaluation |= {"judged": "greedy", "samples": 6, "samples_cut_off": 0, "votes": {}}
    record = {"model": "m", "settings": "raw", "correct_by": "exact", "evaluation": evaluation}
    with (tmp_path / "page.html").open("w") as file:
        write_page([EVALUATION], [EVALUATION.shown(record)], file)
    with opened(browser, tmp_path / "page.html") as page:
        said = page.locator("p", has_text="Undefined for Perplexity").inner_text()
        assert "every answer is right" in said
        assert page.locator("#drawing svg").count() == 1  # risk and coverage
    stored = tmp_path / "stored.jsonl"
    stored.write_text('{"prompt": "Her", "choices": [{"text": " Sue"}, {"text": "X"}]}')
    run("uncertainty", "--answers", stored, "--output", tmp_path / "stored.html")
    with opened(browser, tmp_path / "stored.html") as page:
        assert page.locator("#text .t").get_attribute("class") == "t s0"
        assert page.locator("#legend").is_hidden()


def test_axe_finds_nothing(browser, answered):
    path, *_ = answered

    def look(page):
        page.locator("#drawing summary").first.click()

    assert violations(browser, path, look) == []
    assert violations(browser, path, lambda page: page.select_option("#which-entry", "4")) == []
