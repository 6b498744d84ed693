"""The rules of the house: short files, short functions, and imports that point one way.

A function's body is counted in lines from the line after its docstring (or after its signature,
where it has none) to its last line, comments, blank lines and inner functions included.
"""

import ast
import subprocess
from graphlib import TopologicalSorter

import pytest
from test_architecture import FOLDERS, PACKAGES, ROOT

MOST_LINES, MOST_OF_A_BODY = 400, 60
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
    cwd=ROOT, capture_output=True, text=True, check=True,
)  # fmt: skip
TEXTS = {name: (ROOT / name).read_text() for name in sorted(set(LISTED.stdout.split()))
         if (ROOT / name).is_file()}  # fmt: skip

# What does not keep to the rules yet; only to be shortened.
LONG_FILES = {
    "decoding/generation/sampler.py",
    "decoding/information/comparison.py",
    "decoding/settings/settings.py",
    "decoding/tracing/monitor.py",
    "tests/decoding/generation/test_sampler_calls.py",
    "tests/decoding/information/test_comparison.py",
    "tests/decoding/rules/test_truncation.py",
    "tests/decoding/settings/test_policy.py",
    "tests/decoding/settings/test_settings.py",
    "tests/evals/calibrate/test_calibrate.py",
    "tests/evals/compare/test_compare.py",
    "tests/evals/compare/test_compare_models.py",
    "tests/evals/identify/test_identify.py",
    "tests/evals/perplexity/test_perplexity.py",
    "tests/evals/perplexity/test_protocols.py",
    "tests/evals/reading/test_inputs.py",
    "tests/evals/showing/test_plots.py",
}
LONG_BODIES = {
    "evals/decoding_evals/compare/command.py: compare",
    "evals/decoding_evals/compare/evaluation.py: compare",
    "evals/decoding_evals/compare/models.py: compare_models",
    "evals/decoding_evals/identify/command.py: _tables",
    "evals/decoding_evals/identify/likelihoods.py: likelihoods",
    "evals/decoding_evals/perplexity/evaluation.py: perplexity",
    "evals/decoding_evals/uncertainty/command.py: uncertainty",
    "tests/evals/compare/test_compare.py: expected_record",
}
IMPORTS = {
    ("decoding.models.attention", "decoding.information.measures"),
    ("decoding.rows.distribution", "decoding.information.measures"),
    ("decoding.rules.history", "decoding.information.measures"),
    ("decoding.rules.history", "decoding.settings.policy"),
    ("decoding.rules.history", "decoding.settings.settings"),
    ("decoding.rules.steering", "decoding.settings.settings"),
    ("decoding.scoring.teacher_forcing", "decoding.tracing.monitor"),
    ("decoding.settings.policy", "decoding.settings.applying"),
    ("decoding.settings.processor", "decoding.information.measures"),
    ("decoding.settings.processor", "decoding.tracing.monitor"),
    ("decoding.settings.settings", "decoding.settings.applying"),
    ("decoding.settings.settings", "decoding.settings.processor"),
    ("decoding.settings.settings", "decoding.tracing.monitor"),
    ("decoding_evals.shell.delivery", "decoding_evals.reading.texts"),
    ("decoding_evals.showing.figures", "decoding_evals.shell.output"),
}


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
