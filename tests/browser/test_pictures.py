"""Drawings of evaluations in a browser: what they show is what the record says."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from opening import INJECTION, faults_of, visited

from decoding.settings.policy import parse_setting
from decoding.showing.page import write_page
from decoding_evals.calibrate import calibrate
from decoding_evals.compare import compare, compare_models
from decoding_evals.doctor.evaluation import Check, DoctorResult
from decoding_evals.identify import identify
from decoding_evals.perplexity import perplexity
from decoding_evals.showing.view import subject_of

pytestmark = pytest.mark.browser

TEXT = "Once upon a time there was a dog. The dog saw a cat and ran to the park. Lily was sad."
TEXTS = [f"{TEXT} {INJECTION} Tom had a red ball.", "Lily ran to her mom.", "The bird sang."]
SETTINGS = [
    parse_setting(text)
    for text in ("raw", "temperature=0.7", "top_k=20", "top_p=0.8", "min_p=0.1", "greedy")
]
GRID = [parse_setting(f"temperature={0.6 + k / 10:.1f},top_p=0.95") for k in range(10)]


class Pictures:
    """Pages of records by name, opened; what they say or ask for fails the test."""

    def __init__(self, browser, folder, results):
        self.browser, self.results = browser, results
        self.files = {name: folder / f"{name}.html" for name in results}
        self.records = {name: result.page_record() for name, result in results.items()}
        for name, result in results.items():
            with self.files[name].open("w") as file:
                write_page([result.view], [result.view.shown(self.records[name])], file)

    def open(self, name, seen, width=1280, **how):
        page = visited(self.browser, self.files[name], seen, width, **how)
        if page.locator(".picture").count():
            page.wait_for_selector(".picture svg > *")
        return page


@pytest.fixture(scope="module")
def pictures(browser, stories, tmp_path_factory):
    named = replace(stories, name=INJECTION)
    tempered = replace(stories, name="other")
    texts = TEXTS[:1]
    checks = (
        Check("head", "pass", 1.54e-6, 5.53e-4, "as the model's"),
        Check("causality", "fail", None, None, INJECTION),
        Check("cache", "skipped", None, None, "not enough memory"),
        Check("dtype", "pass", 0.0, 1.0, "float32: exact"),
    )
    results = {
        "compare": compare(named, texts, SETTINGS),
        "models": compare_models(named, tempered, texts),
        "calibrate": calibrate(named, TEXTS * 3),
        "identify": next(identify(named, texts, SETTINGS)),
        "grid": next(identify(named, texts, GRID)),
        "perplexity": perplexity(named, TEXTS),
        "doctor": DoctorResult(INJECTION, checks, (INJECTION,)),
    }
    return Pictures(browser, tmp_path_factory.mktemp("pictures"), results)


@pytest.fixture
def opened(pictures):
    """Opens the page of a result, which is to say and ask for nothing."""
    seen, pages = [], []

    def open_(name, **how):
        pages.append(pictures.open(name, seen, **how))
        return pages[-1], pictures.records[name]

    yield open_
    for page in pages:
        page.close()
    assert seen == []


def attributes(page, selector, *names, picture=0):
    """Some attributes of each element of a picture, and its text."""
    return (
        page.locator(".picture svg")
        .nth(picture)
        .locator(selector)
        .evaluate_all(
            "(all, names) => all.map(e => [names.map(n => e.getAttribute(n)), e.textContent])",
            list(names),
        )
    )


def axis(page, which, picture=0, *, log=False):
    """From places in a picture to values, by the ticks that it shows."""
    ticks = attributes(page, f"text.{which}", which, picture=picture)
    away = 0 if which == "x" else -4  # of a text's line from the tick
    places = [float(place) + away for [place], _ in ticks]
    values = [float(text.replace(",", "")) for _, text in ticks]
    assert len(values) >= 2
    values = np.log10(values) if log else np.array(values)
    slope, start = np.polyfit(places, values, 1)
    assert np.allclose(slope * np.array(places) + start, values, atol=1e-6)

    def value(at):
        found = slope * float(at) + start
        return 10**found if log else found

    return value


def points(page, selector, picture=0, *, log=False):
    """The values at which marks stand, `(marks, 2)`."""
    x, y = axis(page, "x", picture), axis(page, "y", picture, log=log)
    marks = attributes(page, selector, "cx", "cy", picture=picture)
    return np.array([(x(cx), y(cy)) for [cx, cy], _ in marks])


def press(page, picture, *keys):
    page.locator(".picture svg").nth(picture).focus()
    for key in keys:
        page.keyboard.press(key)
    return page.inner_text(".panel")


def test_a_point_stands_at_its_entropy_and_cross_entropy(opened):
    page, record = opened("compare")
    marks = [at for at, _ in attributes(page, "circle.mark", "data-setting", "r", "class")]
    places = [int(place) for place, _, _ in marks]
    costs = record["covered_cross_entropy_nats"]
    assert sorted(places) == [i for i, cost in enumerate(costs) if cost is not None]
    expected = [(record["entropy_nats"][i], costs[i]) for i in places]
    np.testing.assert_allclose(points(page, "circle.mark"), expected, atol=1e-6)
    cut = [1 - share for share in record["coverage"]]
    areas = [float(radius) ** 2 for _, radius, _ in marks]
    assert np.corrcoef(areas, [cut[i] for i in places])[0, 1] > 1 - 1e-9
    figures = {i: (record["entropy_nats"][i], costs[i], cut[i]) for i in places}
    best = {
        i
        for i in places
        if not any(
            other != figures[i] and all(a <= b for a, b in zip(other, figures[i], strict=True))
            for other in figures.values()
        )
    }
    assert {int(place) for place, _, name in marks if "best" in name.split()} == best
    names = " · ".join(f"[{i + 1}] {record['settings'][i]}" for i in sorted(best))
    assert page.get_by_text(f"On the frontier: {names}", exact=True).is_visible()


@pytest.mark.parametrize(
    ("symbol", "key"), [("KL", "kl_nats"), ("JS", "js_nats"), ("TV", "total_variation")]
)
def test_a_cell_has_the_shade_of_its_value(opened, symbol, key):
    page, record = opened("compare")
    page.locator(".chooser label", has_text=symbol).click()
    bounds = []
    for text in page.locator(".shades span:not(.hatched)").all_inner_texts():
        words = text.removesuffix(" nats").split()
        low = float(words[1] if words[0] == "from" else 0 if words[0] == "below" else words[0])
        bounds.append((low, math.inf if words[0] == "from" else float(words[-1])))
    cells = attributes(page, "rect.cell", "data-pair", "class", picture=1)
    assert len(cells) == len(SETTINGS) ** 2
    for [pair, name], _ in cells:
        i, j = map(int, pair.split())
        value, shade = record[key][i][j], name.split()[1]
        if value is None:
            assert shade == "infinite"
            continue
        low, high = bounds[int(shade[1:])]
        assert low <= value < high
    assert page.locator(".hatched").count() == any(None in row for row in record[key])


def test_point_row_and_column_are_shown_together(opened):
    page, record = opened("compare")
    text = press(page, 0, "Home", "ArrowRight")
    order = np.argsort(record["entropy_nats"], kind="stable")
    chosen = int(order[1])
    assert f"[{chosen + 1}] {record['settings'][chosen]}" in text
    assert f"{record['entropy_nats'][chosen]:.3f}" in text
    assert record["settings"][chosen] in page.inner_text("#live")
    assert page.locator("rect.band").count() == 2 and page.locator(".seen").count() == 2
    press(page, 1, "Home")
    text = press(page, 1, "ArrowDown", "End", "ArrowLeft")
    pair = page.locator("rect.seen").evaluate(
        """seen => [...document.querySelectorAll("rect.cell")].find((cell) => ["x", "y"].every(
        (one) => cell.getAttribute(one) === seen.getAttribute(one))).dataset.pair"""
    )
    i, j = map(int, pair.split())
    rings = attributes(page, "circle.seen", "cx", "class")
    points_at = {int(k): cx for [k, cx], _ in attributes(page, "circle.mark", "data-setting", "cx")}
    assert [cx for [cx, _], _ in rings] == [points_at[i], points_at[j]]
    assert ["other" in name for [_, name], _ in rings] == [False, True]
    assert j == len(SETTINGS) - 2 and f"i = [{i + 1}]" in text and f"j = [{j + 1}]" in text
    for first, second in ((i, j), (j, i)):
        value = record["kl_nats"][first][second]
        assert f"KL([{first + 1}]‖[{second + 1}])" in text
        assert ("infinite" if value is None else f"{value:.3f}") in text
    page.locator("circle.mark").first.hover()
    place = int(page.locator("circle.mark").first.get_attribute("data-setting"))
    assert f"[{place + 1}] {record['settings'][place]}" in page.inner_text(".panel")


def test_reliability_stands_at_its_bins(opened):
    page, record = opened("calibrate")
    x, y = axis(page, "x", 1), axis(page, "y", 1)
    for when, side in (("before", "b"), ("after", "a")):
        line = page.locator(f"polyline.{side}").get_attribute("points").split()
        found = [(x(at.split(",")[0]), y(at.split(",")[1])) for at in line]
        bins = [(one["confidence"], one["accuracy"]) for one in record[f"reliability_{when}"]]
        np.testing.assert_allclose(found, bins, atol=5e-5)
    text = press(page, 1, "End")
    last = record["reliability_after"][-1]
    excess = last["accuracy"] - last["confidence"]
    sign = "-" if excess < 0 else "+"
    for figure in (f"{last['confidence']:.3f}", f"{last['accuracy']:.3f}", str(last["count"])):
        assert figure in text
    assert f"{sign}{abs(excess):.3f}" in text or abs(excess) < 0.0005
    page.locator("#drawing summary").click()
    assert page.locator("details tbody tr").count() == sum(
        len(record[f"reliability_{when}"]) for when in ("before", "after")
    )


def test_the_temperature_stands_in_its_intervals(opened):
    page, record = opened("calibrate")
    x = axis(page, "x")
    dots = [x(cx) for [cx], _ in attributes(page, "circle.mark", "cx")]
    expected = [record["temperature"]] * 2 + [record["map_temperature"]]
    np.testing.assert_allclose(dots, expected, atol=1e-6)
    names = ("confidence_interval", "bootstrap_interval", "map_interval")
    for [ends, _], name in zip(attributes(page, ".interval", "x1", "x2"), names, strict=True):
        found = [*map(x, ends)]
        np.testing.assert_allclose(found, record[name], atol=1e-6)


@pytest.mark.parametrize("picture", [0, 1])
def test_percentiles_of_two_models(browser, stories, tmp_path, picture):
    other = replace(stories, model=copy.deepcopy(stories.model), name="B")
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in other.model.parameters():
            weights.add_(torch.randn_like(weights) * 0.05 * weights.std())
    made = Pictures(browser, tmp_path, {"models": compare_models(stories, other, TEXTS)})
    seen = []
    page, record = made.open("models", seen), made.records["models"]
    key = ("kl_percentiles_nats", "delta_p_percentiles")[picture]
    names = ["min", "1", "5", "10", "25", "50", "75", "90", "95", "99", "99.9", "max"]
    y = axis(page, "y", picture, log=picture == 0)
    found = [y(cy) for [cy], _ in attributes(page, "circle.mark", "cy", picture=picture)]
    expected = [record[key][name] for name in names]
    np.testing.assert_allclose(found, expected, rtol=1e-5 if picture == 0 else 0, atol=1e-6)
    text = press(page, picture, "End", "ArrowLeft")
    assert "99.9 % of the tokens" in text
    assert f"{abs(record[key]['99.9']):.4f}" in text
    assert seen == []
    page.close()


@pytest.mark.parametrize("name", ["identify", "grid"])
def test_odds_along_a_text_are_those_of_the_result(opened, pictures, name):
    page, record = opened(name)
    result = pictures.results[name]
    texts = page.locator(".tokens .t").all_inner_texts()
    assert page.locator(".tokens").evaluate("e => e.textContent") == "".join(result.tokens)
    assert len(texts) == record["tokens"]
    marked = page.locator(".tokens .deciding").evaluate_all("all => all.map(e => +e.dataset.i)")
    assert marked == sorted(one["token"] for one in record["deciding_tokens"])
    odds = result.running_log_odds()
    shown = record["page"]["candidates"]
    text = press(page, 0, "Home", *["ArrowRight"] * 11)
    assert f"token 12 of {record['tokens']}" in text
    rows = page.locator(".panel tbody tr").all()
    assert len(rows) == len(shown) + bool(record["page"]["others"])
    for k, row in zip(shown, rows, strict=False):
        title, *_, after = row.locator("th, td").all_inner_texts()
        assert title.strip() == record["settings"][k]
        share = 1 / (1 + math.exp(-odds[12, k])) if math.isfinite(odds[12, k]) else 0.0
        if odds[12, k] == -math.inf:
            assert after == "ruled out"
        elif abs(odds[12, k]) < 7:
            assert abs(float(after.rstrip("%").lstrip("<")) / 100 - share) < 0.00051
    y = axis_of_odds(page)
    line = page.locator(".picture svg").first.locator("polyline.line0").get_attribute("points")
    found = [y(float(at.split(",")[1])) for at in line.split()]
    expected = np.clip(odds[: len(found), shown[0]] / math.log(10), -6, 6)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def axis_of_odds(page):
    """From places to powers of ten."""
    ticks = attributes(page, "text.y", "y")
    places = [float(place) - 4 for [place], _ in ticks]
    powers = []
    for _, text in ticks:
        left, right = (float(part.strip(" ≤≥").replace(",", "")) for part in text.split(":"))
        powers.append(math.log10(left / right))
    slope, start = np.polyfit(places, powers, 1)
    return lambda at: slope * at + start


def test_keys_lead_to_the_tokens_that_decided(opened):
    page, record = opened("identify")
    deciding = sorted(one["token"] for one in record["deciding_tokens"])
    page.locator(".tokens").focus()
    for place in deciding[:2]:
        page.keyboard.press("PageDown")
        assert f"token {place + 1} of" in page.inner_text(".panel")
        [ratio] = [
            one["log_ratio_nats"] for one in record["deciding_tokens"] if one["token"] == place
        ]
        assert f"{abs(ratio):.3f} nats" in page.inner_text(".panel")
    page.keyboard.press("PageUp")
    assert f"token {deciding[0] + 1} of" in page.inner_text(".panel")
    assert page.locator(".tokens .t[aria-selected=true]").count() == 1
    page.locator(".tokens .t").nth(3).hover()
    assert f"token {deciding[0] + 1} of" in page.inner_text(".panel")  # kept by the key
    page.locator(".tokens .t").nth(3).click()
    assert "token 4 of" in page.inner_text(".panel")


def test_checks_that_failed_come_first(opened):
    page, record = opened("doctor")
    items = page.locator(".checks li").all_inner_texts()
    assert len(items) == len(record["checks"])
    words = ["✗ FAIL", "– skipped", *["✓ pass"] * (len(items) - 2)]
    for item, word in zip(items, words, strict=True):
        assert item.startswith(word)
    assert INJECTION in items[0]
    assert f"{len(items) - 2} checks passed, 1 failed, 1 skipped" in page.inner_text("#about")


def test_a_perplexity_is_said_in_a_sentence(opened):
    page, record = opened("perplexity")
    assert f"Perplexity {record['perplexity']:.5g}"[:15] in page.inner_text("#about")


NAMES = ("compare", "models", "calibrate", "identify", "grid", "perplexity", "doctor")


@pytest.mark.parametrize("name", NAMES)
def test_texts_stay_texts(opened, pictures, name):
    page, record = opened(name)
    assert page.evaluate("window.bad") is None
    assert page.locator("img, main script").count() == 0
    assert subject_of(record).split(" · ")[0] in page.inner_text("#title")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "grid"])
def test_axe_finds_nothing(pictures, name):
    for scheme, width in (("light", 360), ("dark", 1280)):
        page = pictures.open(name, [], width, color_scheme=scheme, bypass_csp=True)
        for picture in range(page.locator(".picture svg[tabindex]").count()):
            page.locator(".picture svg[tabindex]").nth(picture).focus()
            page.keyboard.press("End")
        assert faults_of(page) == []
        page.close()


def test_pictures_keep_their_text_readable_on_a_phone(opened):
    page, _ = opened("compare", width=360)
    heights = page.locator(".picture text").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().height)"
    )
    assert min(heights) >= 11
