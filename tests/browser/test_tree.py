"""The page of `generate --branch-at-entropy`: a tree that unfolds."""

import json

import pytest
from opening import INJECTION, opened, percents, run, violations

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A page of a tree of 20 ends, and its record."""
    folder = tmp_path_factory.mktemp("tree")
    command = ["generate", f"Once upon a time {INJECTION}", "--branch-at-entropy", "1.5"]
    command += ["--max-leaves", "20", "--max-new-tokens", "14", "--seed", "1", "--output"]
    run(*command, folder / "page.html")
    run(*command, folder / "out.jsonl")
    return folder / "page.html", json.loads((folder / "out.jsonl").read_text())


def branches_of(branch):
    yield branch
    for child in branch["children"]:
        yield from branches_of(child)


def test_each_branch_is_shown_with_its_figures(browser, grown):
    path, record = grown
    with opened(browser, path) as page:
        items = page.locator("[role=treeitem] > .branch").all()
        for item, branch in zip(items, branches_of(record["tree"]), strict=True):
            text = item.text_content()
            assert item.locator(".t").all_text_contents() == [
                one["text"] for one in branch["tokens"]
            ]
            if branch is not record["tree"]:
                assert percents(text)[0] == pytest.approx(branch["probability"], abs=6e-4)
            if branch["children"]:
                assert f"H(p) {branch['hesitation_nats']:.2f} nats" in text
            starts = [0, 0.25, 0.75, 1.5, 2.5, 3.5, 5, 7]
            for token, one in zip(item.locator(".t").all(), branch["tokens"], strict=True):
                shade = sum(one["entropy_nats"] >= start for start in starts) - 1
                assert token.get_attribute("class") == f"t s{shade}"


def test_ends_stand_by_probability_and_show_their_tokens(browser, grown):
    path, record = grown
    want = sorted(record["leaves"], key=lambda leaf: -leaf["probability"])
    with opened(browser, path) as page:
        ends = page.locator(".clusters > li").all()
        for end, leaf in zip(ends, want, strict=True):
            assert end.locator("bdi").text_content() == leaf["text"]
            shown = end.locator("b").inner_text()
            assert shown == "<0.05%" or percents(shown)[0] == pytest.approx(
                leaf["probability"], abs=6e-4
            )
        total = sum(leaf["probability"] for leaf in want)
        said = page.locator("p", has_text="Together").inner_text()
        assert percents(said)[0] == pytest.approx(total, abs=6e-4)
        ends[3].locator("button").click()
        assert page.locator("#text").text_content() == want[3]["text"]


def test_keys_open_close_and_walk(browser, grown):
    path, record = grown

    def at():
        return page.evaluate("document.activeElement.querySelector('.branch').id")

    with opened(browser, path, width=360) as page:
        assert page.locator("[role=tree] [tabindex='0']").count() == 1
        page.focus("[role=treeitem]")
        shown = page.locator("[role=treeitem] >> visible=true").count()
        assert shown == sum(1 for _ in branches_of(record["tree"]))
        page.keyboard.press("ArrowRight")
        assert at() == "branch-0"
        page.keyboard.press("ArrowLeft")  # closes it
        assert page.locator("#branch-0-0 >> visible=true").count() == 0
        page.keyboard.press("ArrowDown")
        assert at() == "branch-1"
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowRight")  # opens it
        page.keyboard.press("ArrowRight")
        assert at() == "branch-0-0"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert at() == "branch-0"
        page.keyboard.press("End")
        last = [*branches_of(record["tree"])][-1]
        page.keyboard.press("Enter")
        assert page.locator("#text").text_content().endswith(last["text"])
        page.keyboard.press("Home")
        assert at() == "branch-"
        assert page.locator("[role=tree] [tabindex='0']").count() == 1


def test_axe_finds_nothing(browser, grown):
    assert violations(browser, grown[0], lambda page: page.focus("[role=treeitem]")) == []
