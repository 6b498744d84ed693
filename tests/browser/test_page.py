"""Pages in a browser: what they compute, how they are used, and that they ask for nothing."""

import json
import re
import sys

import numpy as np
import pytest

from decoding_cli.app import main

pytestmark = pytest.mark.browser

INJECTION = "</script><script>window.bad=1</script><img src=x onerror=window.bad=1>&amp;{{a}}"
TEXT = f"Once upon a time {INJECTION}\n\u05e9\u05dc\u05d5\u05dd \U0001f600 \u202eabc\n\tdef f():\n"


def run(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["decoding", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
    assert not exit_.value.code


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A page of scores, the text's file, and its records under the settings of `SETTINGS`."""
    folder = tmp_path_factory.mktemp("page")
    source = folder / "<img src=x onerror=alert(1)>.txt"
    source.write_text(TEXT)
    run("score", source, "--output", folder / "page.html")
    return folder / "page.html", source


@pytest.fixture
def opened(browser, scored):
    """The page, and a list of what it said or asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    seen = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url))
    page.goto(scored[0].as_uri())
    seen.remove(scored[0].as_uri())
    yield page, seen
    page.close()


SETTINGS = (
    "temperature=0.5",
    "temperature=1.7",
    "top_k=9",
    "top_p=0.9",
    "temperature=1.3,min_p=0.02",
)


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_computes_what_score_does(opened, scored, tmp_path, setting):
    page, seen = opened
    out = tmp_path / "scores.jsonl"
    run("score", scored[1], "--setting", setting, "--output", out)
    tokens = json.loads(out.read_text())["tokens"]
    found = page.evaluate(f"decodingReport.evaluate({setting!r})")
    assert len(tokens) == len(found["bound_nats"]) > 20
    bound = np.array(found["bound_nats"])
    entropy = np.array([token["q_entropy_nats"] for token in tokens])
    assert (abs(entropy - found["entropy_nats"]) <= bound).all()
    for token, surprisal, most in zip(tokens, found["surprisal_nats"], bound, strict=True):
        assert token["covered"] == (surprisal is not None)
        if surprisal is not None:
            assert abs(surprisal - token["q_surprisal_nats"]) <= most
    if setting.startswith("temperature") and "," not in setting:
        assert abs(entropy - found["entropy_nats"]).max() < 1e-4
    assert seen == []


def test_texts_stay_texts(opened):
    page, seen = opened
    assert page.locator("#text").evaluate("e => e.textContent") == TEXT
    assert page.evaluate("window.bad") is None
    assert page.locator("img, #text script").count() == 0
    assert "<img src=x onerror=alert(1)>.txt" in page.locator("#about").inner_text()
    assert seen == []


def test_the_keyboard_reaches_everything(opened):
    page, seen = opened
    page.focus("#a-temperature")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#a-text") == "temperature=0.99"
    page.keyboard.press("Home")
    assert page.input_value("#a-text") == "greedy"
    page.fill("#a-text", "top_k=3,top_p=0.5")
    assert page.get_attribute("#a-top_k", "aria-valuetext") == "3"
    page.fill("#a-text", "top_p=7")
    assert "top_p must be in (0, 1], got 7" in page.inner_text("#settings .a .wrong")
    page.focus("#text")
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    last = page.locator(".t").count()
    assert f"token {last - 1} of {last}" in page.inner_text("#token")
    assert "surprisal" in page.inner_text("#live")
    for value in ("surprisal", "residual", "kl"):
        page.select_option("#shading", value)
        assert page.locator("#legend span").count() == 9
    assert seen == []


def test_pointing_at_a_token_shows_its_card(opened):
    page, _ = opened
    page.locator(".t").nth(2).hover()
    card = page.inner_text("#token")
    assert "token 3 of" in card and "cut off" in card
    shares = [float(one) for one in re.findall(r"([\d.]+)%", card)]
    assert all(0 <= share <= 100 for share in shares)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(browser, scored, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True
    )
    page = context.new_page()
    page.goto(scored[0].as_uri())
    page.focus("#text")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = axe.run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:100]) for one in found] == []
    context.close()
