"""Pages in a browser, and what is wrong with them."""

import re
import sys
from contextlib import contextmanager

import pytest

from decoding_cli.app import main

INJECTION = "</script><script>window.bad=1</script><img src=x onerror=window.bad=1>&amp;{{a}}"
TEXT = f"Once upon a time {INJECTION}\n\u05e9\u05dc\u05d5\u05dd \U0001f600 \u202eabc\n\tdef f():\n"


def run(*arguments):
    """Run a command, which has to succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["decoding", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
    assert not exit_.value.code


def visited(browser, path, seen, width=1280, **options):
    """A page in a window of its own; what it says on the console and asks for goes into `seen`."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url))
    page.goto(path.as_uri())
    seen.remove(path.as_uri())
    return page


@contextmanager
def opened(browser, path, width=1280):
    """A page, which must say nothing on the console and ask for nothing."""
    seen = []
    page = visited(browser, path, seen, width)
    yield page
    assert seen == []
    assert page.evaluate("window.bad") is None
    assert page.locator("img").count() == 0
    page.close()


def faults_of(page):
    """What axe finds in a page that was opened with `bypass_csp`, and whether it is too wide."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = [
        (one["id"], one["nodes"][0]["html"][:200]) for one in axe.run(page).response["violations"]
    ]
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append(("wider than the window", ""))
    return found


def violations(browser, path, prepare):
    """The same in light and narrow, and in dark and wide."""
    found = []
    for scheme, width in (("light", 360), ("dark", 1280)):
        page = visited(browser, path, [], width, color_scheme=scheme, bypass_csp=True)
        prepare(page)
        found += [(scheme, width, *one) for one in faults_of(page)]
        page.close()
    return found


def percents(text):
    """The shares that a text names."""
    return [float(one) / 100 for one in re.findall(r"([\d.]+)%", text)]


def scale_of(svg):
    """What a place on the horizontal axis of a picture stands for, from its ticks."""
    svg.locator("text.x").first.wait_for()
    ticks = [
        (float(one.get_attribute("x")), float(one.text_content()))
        for one in svg.locator("text.x").all()
    ]
    (x0, value0), (x1, value1) = ticks[0], ticks[-1]
    return lambda x: value0 + (x - x0) * (value1 - value0) / (x1 - x0)
