"""Results in one notebook: frames that work and reach nothing, and text where they are stripped."""

import re

import pytest
from opening import faults_of, visited

from decoding import generate
from decoding.showing.inline import MOST
from decoding_evals.score import score

pytestmark = pytest.mark.browser

INJECTION = "</iframe><script>window.bad=1</script><img src=x onerror=window.bad=1>"
AROUND = '<!doctype html><html lang="en"><meta charset="utf-8"><title>notebook</title><main>'


@pytest.fixture(scope="module")
def results(stories):
    """A generation, its trace and scores with sliders, as a notebook would show them."""
    [story] = generate(stories, INJECTION, "temperature=0.8", max_new_tokens=20, seed=1)
    [scored] = score(stories, [INJECTION], page=16)
    return [story.with_page(stories, 16), story.trace, scored]


@pytest.fixture
def opened(browser, tmp_path):
    """Opens HTML as a file; what it said and asked for stands in a list."""
    pages, seen = [], []

    def open_html(html, **options):
        file = tmp_path / "notebook.html"
        file.write_text(AROUND + html)
        pages.append(visited(browser, file, seen, **options))
        return pages[-1], seen

    yield open_html
    for page in pages:
        page.close()


def seen_of(page, name):
    return page.locator(name).evaluate_all("all => all.map(one => one.checkVisibility())")


def frames_of(page, count):
    """The pages in its frames, each scrolled to."""
    found = []
    for i in range(count):
        frame = page.locator("iframe").nth(i)
        frame.scroll_into_view_if_needed()
        found.append(frame.element_handle().content_frame())
        found[-1].wait_for_selector(".t")
    return found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_three_results_are_three_pages_that_reach_nothing(opened, results, width, scheme):
    html = "".join(one._repr_html_() for one in results)
    page, seen = opened(html, width=width, color_scheme=scheme)
    assert seen_of(page, "iframe") == [True] * 3
    assert seen_of(page, ".decoding-static") == [False] * 3
    story, trace, scored = frames_of(page, 3)
    for frame in (story, trace, scored):
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert frame.evaluate("window.bad") is None and frame.locator("img").count() == 0
        reached = (
            "() => { try { return parent.document.title } catch (error) { return error.name } }"
        )
        assert frame.evaluate(reached) == "SecurityError"
        assert frame.evaluate("origin") == "null"
        with pytest.raises(Exception, match="sandboxed"):
            frame.evaluate("localStorage.length")
    assert page.evaluate("window.bad") is None and page.locator("img").count() == 0

    # Sliders and text are seen together: what would stand between them is folded.
    top = scored.evaluate("document.getElementById('text').getBoundingClientRect().top")
    assert scored.locator("#totals").is_hidden() and (width < 600 or top < MOST - 50)

    # Each has sliders of its own, where it has rows.
    assert story.locator("#computing").is_visible() and scored.locator("#computing").is_visible()
    assert trace.locator("#computing").is_hidden()
    before = scored.input_value("#a-text")
    story.focus("#a-temperature")
    page.keyboard.press("Home")
    assert (story.input_value("#a-text"), scored.input_value("#a-text")) == ("greedy", before)
    trace.focus("#text")
    page.keyboard.press("End")
    card = trace.inner_text("#token")
    assert f"token {len(results[1])} of {len(results[1])}" in card
    assert f"{results[1].entropy_nats[-1]:.3f}" in card
    assert seen == []


def test_where_frames_are_stripped_the_text_is_seen(opened, results):
    html = "".join(one._repr_html_() for one in results)
    stripped = re.sub(r"<iframe .*?</iframe>", "", html, flags=re.DOTALL)
    page, seen = opened(stripped)
    assert seen_of(page, ".decoding-static") == [True] * 3
    assert results[0].text.split()[-1] in page.locator(".decoding-static").first.inner_text()
    assert page.evaluate("window.bad") is None and page.locator("img, script").count() == 0
    assert seen == []


def test_where_scripts_are_off_the_text_is_seen(opened, results):
    page, seen = opened(results[0]._repr_html_(), java_script_enabled=False)
    assert page.locator("iframe").is_hidden() and page.locator(".decoding-static").is_visible()
    assert seen == []


@pytest.mark.parametrize(
    ("scheme", "ground", "ink"), [("light", "fff", "111"), ("dark", "111", "eee")]
)
def test_axe_finds_nothing_around_the_frames(opened, results, scheme, ground, ink):
    shown = [results[0]._repr_html_(), results[1]._repr_html_()]
    static = re.sub(r"<iframe .*?</iframe>", "", shown[0], flags=re.DOTALL)
    style = f"<h1>n</h1><style>body {{ background: #{ground}; color: #{ink} }}</style>"
    page, _ = opened(style + "".join(shown) + static, color_scheme=scheme, bypass_csp=True)
    page.locator("summary").last.click()
    assert faults_of(page) == []
