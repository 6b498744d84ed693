"""Chromium, and pages in it that may ask for nothing and say nothing."""

import shutil

import pytest
from opening import TEXT, run


@pytest.fixture(scope="session")
def command():
    """Run the command in this process."""
    return run


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or pytest.skip("needs chromium on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a file in a window of its own; in the end, it has said nothing and asked for nothing."""
    contexts, seen = [], []

    def open_(path, width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: seen.append(request.url))
        page.goto(path.as_uri())
        seen.remove(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert seen == []


@pytest.fixture(scope="session")
def scored(tmp_path_factory, command):
    """A page of scores of `TEXT`, of which the file's name is markup as well."""
    folder = tmp_path_factory.mktemp("page")
    source = folder / "<img src=x onerror=window.bad=1>.txt"
    source.write_text(TEXT)
    command("score", source, "--output", folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def opened(open_page, scored):
    return open_page(scored)
