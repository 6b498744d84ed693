"""Chromium, and pages in it that may ask for nothing and say nothing."""

import shutil

import pytest
from opening import TEXT, run, visited


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
    pages, seen = [], []

    def open_(path, width=1280, **options):
        pages.append(visited(browser, path, seen, width, **options))
        return pages[-1]

    yield open_
    for page in pages:
        page.close()
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
