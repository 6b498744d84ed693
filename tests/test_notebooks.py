"""The notebooks in docs/ are listed, and state no number that a cell beside it does not hold.

They run when the site is built (`make docs`), where an assertion that fails ends the build.
"""

import re
from itertools import groupby, pairwise
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.py"))
NUMBER = r"\d+\.\d+|\d{2,}"


def parts(path):
    """Its prose and its code, by turns: whether it is prose, and the text of the cells together."""
    first, *cells = re.split(r"^# %%(.*)\n", path.read_text(), flags=re.MULTILINE)
    assert not first, "a notebook begins with a cell"
    kinds = zip(cells[::2], cells[1::2], strict=True)
    for prose, group in groupby(kinds, key=lambda cell: cell[0].strip() == "[markdown]"):
        yield prose, "".join(text for _, text in group)


def numbers(text):
    return {float(number) for number in re.findall(NUMBER, text)}


def unheld(turns):
    """The numbers of the prose that neither the code before it nor the code behind it holds."""
    for (_, before), (prose, text), (_, after) in zip(turns, turns[1:], turns[2:], strict=False):
        if prose:
            yield from sorted(numbers(text) - numbers(before) - numbers(after))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_the_prose_states_is_held_by_a_cell_beside_it(path):
    turns = [(False, ""), *parts(path), (False, "")]
    assert all(prose != other for (prose, _), (other, _) in pairwise(turns[1:-1]))
    assert list(unheld(turns)) == []


def test_a_number_that_is_wrong_is_found():
    turns = [(False, "assert isclose(h, 3.33)"), (True, "H is 3.34, of 2048."), (False, "2048")]
    assert list(unheld(turns)) == [3.34]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asserts_and_names_no_place_on_a_machine(path):
    text = path.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    assert text.count("\nassert ") >= 5
    assert not re.search(r"(?<![\w.])(?:/(?:home|root|tmp|Users|mnt|opt|work)/|[A-Z]:\\)", text)


def test_every_notebook_is_listed_and_can_be_downloaded():
    page = (DOCS / "notebooks.md").read_text()
    stems = [path.stem for path in NOTEBOOKS]
    assert len(stems) >= 4
    assert sorted(re.findall(r"\(notebooks/(\w+)\.py\)", page)) == stems
    assert sorted(re.findall(r"<notebooks/(\w+)\.ipynb>", page)) == stems
    assert sorted(re.findall(r"^notebooks/(\w+)$", page, re.MULTILINE)) == stems


def test_no_outputs_are_kept():
    """Nothing but scripts, and the files for readers that `make docs` makes of them."""
    kept = {path.name for path in DOCS.glob("notebooks/*") if path.is_file()}
    scripts = {path.name for path in NOTEBOOKS}
    assert kept - scripts <= {f"{path.stem}.ipynb" for path in NOTEBOOKS}
    assert "/notebooks/*.ipynb" in (DOCS / ".gitignore").read_text().splitlines()
