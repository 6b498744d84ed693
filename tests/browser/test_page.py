"""How pages are used: by keyboard, mouse, finger, and on paper; what they show stays text."""

import json
import re

import pytest
from opening import INJECTION, TEXT, faults_of

pytestmark = pytest.mark.browser


def shares(card):
    """The percentages on a card."""
    return [float(one) for one in re.findall(r"([\d.]+)%", card)]


def test_texts_stay_texts(opened):
    assert opened.locator("#text").evaluate("e => e.textContent") == TEXT
    assert opened.evaluate("window.bad") is None
    assert opened.locator("img, #text script").count() == 0
    assert "<img src=x onerror=window.bad=1>.txt" in opened.locator("#about").inner_text()


def test_prompts_and_records_stay_text(open_page, tmp_path, command):
    prompt, record, path = tmp_path / "prompts.jsonl", tmp_path / "x.jsonl", tmp_path / "x.html"
    prompt.write_text("".join(json.dumps({"prompt": INJECTION + end}) + "\n" for end in (" a", "")))
    command("generate", "--prompts-file", prompt, "--max-new-tokens", 3, "--output", record)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    lines[0] |= {"model": INJECTION, "finish_reason": INJECTION, "settings": INJECTION}
    lines[0]["tokens"][0]["text"] = INJECTION
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command("show", record, "--output", path)
    page = open_page(path)
    assert page.evaluate("window.bad") is None and page.locator("img").count() == 0
    assert page.locator(".t").first.inner_text() == INJECTION
    for part in ("#title", "#about", "#which-entry"):
        assert INJECTION[:30] in page.locator(part).evaluate("e => e.textContent")
    page.locator(".t").first.hover()
    assert INJECTION in page.inner_text("#token")


def test_sliders_go_by_keyboard(opened):
    for side, other in ("ab", "ba"):
        before = opened.input_value(f"#{other}-text")
        opened.fill(f"#{side}-text", "raw")
        opened.focus(f"#{side}-temperature")
        opened.keyboard.press("ArrowLeft")
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.id") == f"{side}-top_k"
        opened.keyboard.press("ArrowRight")
        opened.keyboard.press("Tab")
        opened.keyboard.press("ArrowLeft")
        opened.keyboard.press("Tab")
        opened.keyboard.press("ArrowRight")
        expected = "temperature=0.99,top_k=1,top_p=0.99,min_p=0.005"
        assert opened.input_value(f"#{side}-text") == expected
        assert opened.get_attribute(f"#{side}-min_p", "aria-valuetext") == "0.005"
        assert opened.input_value(f"#{other}-text") == before
    opened.focus("#a-temperature")
    opened.keyboard.press("Home")
    assert opened.input_value("#a-text") == "greedy,top_k=1,top_p=0.99,min_p=0.005"


def test_a_setting_can_be_typed(opened):
    opened.fill("#a-text", "top_k=3,top_p=0.5")
    assert opened.get_attribute("#a-top_k", "aria-valuetext") == "3"
    opened.fill("#a-text", "top_p=7")
    assert "top_p must be in (0, 1], got 7" in opened.inner_text("#settings .a .wrong")
    opened.fill("#a-text", "greedy")
    assert opened.inner_text("#settings .a .wrong") == ""
    opened.wait_for_function("() => /mean number kept\\s+1\\.0/.test(totals.innerText)")


def test_tokens_are_read_by_keyboard(opened):
    opened.focus("#text")
    opened.keyboard.press("End")
    opened.keyboard.press("ArrowUp")
    last = opened.locator(".t").count()
    assert f"token {last - 1} of {last}" in opened.inner_text("#token")
    assert "surprisal" in opened.inner_text("#live")
    selected = opened.locator("[aria-selected=true]")
    assert selected.count() == 1
    assert selected.get_attribute("id") == opened.get_attribute("#text", "aria-activedescendant")
    for value in ("surprisal", "residual", "kl"):
        opened.select_option("#shading", value)
        assert opened.locator("#legend span").count() == 10


def test_landmarks_lead_to_what_is_looked_for(opened):
    setting = "temperature=0.7,top_p=0.9"
    assert opened.input_value("#b-text") == setting
    entropy = opened.evaluate("decodingReport.evaluate('raw').entropy_nats")
    surprisal = opened.evaluate("s => decodingReport.evaluate(s).surprisal_nats", setting)
    cut = [i for i, one in enumerate(surprisal) if one is None]
    least, of_b = opened.locator("#landmarks button").all()  # raw, which is A, cuts off nothing
    least.click()
    assert f"token {entropy.index(max(entropy)) + 1} of" in opened.inner_text("#token")
    assert of_b.inner_text() == f"Next of {len(cut)} cut off by B"
    marked = opened.locator("#text .cut-b").evaluate_all("all => all.map(e => +e.dataset.i)")
    assert marked == cut
    opened.focus("#text")
    opened.keyboard.press("End")
    for i in cut[:3]:  # after the end comes the beginning
        of_b.click()
        assert f"token {i + 1} of" in opened.inner_text("#token")


def test_a_token_is_computed_when_it_is_looked_at(opened):
    opened.set_viewport_size({"width": 1280, "height": 200})
    opened.evaluate("scrollTo(0, 0); { let t = 0; performance.now = () => (t += 20); }")
    opened.evaluate("window.setTimeout = () => 0")  # what is left to be computed stays so
    # Scrolling computes what comes into sight, which is not what is tried here.
    opened.evaluate("addEventListener('scroll', (e) => e.stopImmediatePropagation(), true)")
    opened.fill("#a-text", "temperature=0.5,top_k=7")
    assert "Computing" in opened.inner_text("#bound")
    opened.focus("#text")
    opened.keyboard.press("End")
    entropy = opened.evaluate("decodingReport.evaluate('temperature=0.5,top_k=7').entropy_nats")
    rows = [row.split("\t") for row in opened.inner_text("#token").splitlines() if "\t" in row]
    card = {name: of_a for name, of_a, *_ in rows}
    assert card["entropy (nats)"] == f"{entropy[-1]:.3f}"
    assert card["tokens kept"] == "7"


def test_tokens_are_computed_when_they_come_into_sight(opened):
    last = opened.locator(".t").last
    opened.set_viewport_size({"width": 1280, "height": 200})
    opened.evaluate("scrollTo(0, 0); { let t = 0; performance.now = () => (t += 20); }")
    opened.evaluate("window.setTimeout = () => 0")
    assert "s0" not in last.get_attribute("class").split()
    opened.fill("#a-text", "greedy")
    assert "s0" not in last.get_attribute("class").split()
    last.scroll_into_view_if_needed()
    opened.wait_for_function("() => [...document.querySelectorAll('.t')].at(-1).matches('.s0')")


def test_pointing_at_a_token_shows_its_card(opened):
    opened.fill("#b-text", "top_k=2")
    opened.locator(".t").nth(2).hover()
    card = opened.inner_text("#token")
    assert "token 3 of" in card and "cut off" in card
    assert all(0 <= share <= 100 for share in shares(card))
    names = opened.locator("#token .choices li")
    assert names.count() >= 12 and opened.locator("#token .choices li .came").count() == 1
    of_b = [shares(text)[0] for text in names.locator(".bar.b").all_inner_texts()[:2]]
    assert sum(of_b) == pytest.approx(100, abs=0.11)
    opened.locator(".t").nth(2).click()
    opened.locator(".t").nth(4).hover()
    assert "token 3 of" in opened.inner_text("#token")  # it is kept until the next click


def test_a_finger_is_enough(open_page, scored):
    page = open_page(scored, width=360, has_touch=True, is_mobile=True)
    page.locator(".t").nth(4).tap()
    assert "token 5 of" in page.inner_text("#token")
    box = page.locator("#token .said").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and 0 <= box["y"] < 900
    page.locator("#a-temperature").tap()
    assert page.input_value("#a-text") == "raw"  # it stands in the middle


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_who_does_not_want_it(open_page, scored, motion):
    page = open_page(scored, reduced_motion=motion)
    page.locator(".t").nth(2).hover()
    moving = page.evaluate(
        "[...document.querySelectorAll('*')].map(e => getComputedStyle(e)).filter(s =>"
        " s.transitionDuration !== '0s' || s.animationName !== 'none'"
        " || s.scrollBehavior !== 'auto').length"
    )
    assert (moving == 0) == (motion == "reduce")


def test_it_prints(open_page, scored):
    page = open_page(scored)
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.locator("#text").is_visible() and not page.locator("button").first.is_visible()
    assert page.evaluate(
        "[...document.querySelectorAll('#text, #text *')].every(e => {"
        " const style = getComputedStyle(e);"
        " return style.overflow === 'visible' && style.contentVisibility === 'visible'; })"
    )
    assert page.locator("#text").evaluate("e => e.innerText").startswith("Once upon a time")


def test_several_records_are_listed(open_page, tmp_path, command):
    for name, text in (("one.txt", "Once upon a time"), ("two.txt", "there was a dog")):
        (tmp_path / name).write_text(text)
    command("score", tmp_path / "one.txt", tmp_path / "two.txt", "--output", tmp_path / "x.html")
    page = open_page(tmp_path / "x.html")
    assert page.locator("#which-entry option").count() == 2
    page.select_option("#which-entry", "1")
    assert page.locator("#text").evaluate("e => e.textContent") == "there was a dog"
    found = page.evaluate("decodingReport.evaluate('raw').entropy_nats.length")
    assert found == len(page.evaluate("data.entries.flatMap(e => e.texts[0].tokens)"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(open_page, scored, scheme, width):
    page = open_page(scored, width, color_scheme=scheme, bypass_csp=True)
    page.focus("#text")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults_of(page) == []
