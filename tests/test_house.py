"""The rules of the house: short files, short functions, and imports that point one way.

A function's body is counted in lines from the line after its docstring (or after its signature,
where it has none) to its last line, comments, blank lines and inner functions included.
"""

import ast
from graphlib import TopologicalSorter

import pytest
from test_architecture import FOLDERS, PACKAGES, ROOT

MOST_LINES, MOST_OF_A_BODY = 400, 60
SOURCES = ("benchmarks", "cli", "decoding", "docs", "evals", "tests", "training")
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for folder in SOURCES
    for path in sorted((ROOT / folder).rglob("*.py"))
}

# What does not keep to the rules yet; only to be shortened.
LONG_FILES: set[str] = set()
LONG_BODIES: set[str] = set()
IMPORTS: set[tuple[str, str]] = set()


def modules():
    """The path of each module of the three packages, by its name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(name, path, known):
    """The modules that a module imports, wherever in its text; a package offers all it holds."""
    if path.name == "__init__.py":
        yield from (other for other in known if other.rpartition(".")[0] == name)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (whole if whole in known else node.module for whole in names)


def graph():
    """What each module imports of the three packages."""
    known = modules()
    return {
        name: {
            other
            for other in imported(name, path, known)
            if other in known and (name, other) not in IMPORTS
        }
        for name, path in known.items()
    }


def body(function):
    """How many lines it has."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - (first.end_lineno if documented else first.lineno - 1)


def test_a_body_is_counted_behind_its_docstring():
    source = [
        "@decorated(",
        "    1)",
        "def f(",
        "    a,",
        "):",
        '    """What it',
        '    does."""',
        "",
        "    # why",
        "    def g():",
        "        return a",
        "    return (g",
        "    )",
    ]
    outer, inner = (node for node in ast.walk(ast.parse("\n".join(source)))
                    if isinstance(node, ast.FunctionDef))  # fmt: skip
    assert (body(outer), body(inner)) == (6, 1)


def test_files_are_short():
    lengths = {name: len(text.splitlines()) for name, text in TEXTS.items()}
    assert len(lengths) > 100
    assert {name for name, lines in lengths.items() if lines > MOST_LINES} <= LONG_FILES


def test_functions_are_short():
    long = {
        f"{name}: {node.name}"
        for name, text in TEXTS.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body(node) > MOST_OF_A_BODY
    }
    assert long <= LONG_BODIES


def test_modules_import_in_no_circle():
    """Imports within functions and those for type checking included."""
    TopologicalSorter(graph()).prepare()


def folder_of(module):
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", FOLDERS)
def test_folders_import_from_those_above(package):
    places = {f"{package}.{name}": place for place, name in enumerate(FOLDERS[package])}
    found = {name: others for name, others in graph().items() if name.count(".") > 1}
    assert {folder_of(name) for name in found if name.startswith(f"{package}.")} == set(places)
    wrong = [
        (name, other)
        for name, others in found.items()
        for other in others
        if folder_of(name) in places and places.get(folder_of(other), 0) > places[folder_of(name)]
    ]
    assert wrong == []
