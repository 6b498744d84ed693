"""Which module may import which, and what start-up must not pay for."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import decoding
from commands import each_alone

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "decoding": ROOT / "decoding",
    "decoding_evals": ROOT / "evals/decoding_evals",
    "decoding_cli": ROOT / "cli/decoding_cli",
}
ALLOWED = {
    "decoding": {"decoding"},
    "decoding_evals": {"decoding", "decoding_evals"},
    "decoding_cli": {"decoding", "decoding_evals", "decoding_cli"},
}
HEAVY = {
    "datasets", "matplotlib", "numpy", "pandas", "pyarrow", "rich", "scipy", "torch",
    "transformers",
}  # fmt: skip
# What serves one command, or an option, and would delay all others.
SPECIAL = {"datasets", "jinja2", "matplotlib", "nltk", "pandas", "pyarrow", "scipy"}
# Each folder imports only from those above it.
FOLDERS = {
    "decoding": [
        "rows",
        "rules",
        "models",
        "passes",
        "texts",
        "settings",
        "scoring",
        "showing",
        "tracing",
        "information",
        "inference",
        "sampling",
        "generation",
        "engines",
    ],
    "decoding_evals": [
        "showing",
        "mapping",
        "shell",
        "reading",
        "engines",
        "score",
        "judging",
        "perplexity",
        "compare",
        "uncertainty",
        "calibrate",
        "identify",
        "attention",
        "mismatch",
        "doctor",
    ],
}
PURE = sorted(
    f"decoding.{folder}.{path.stem}"
    for folder in ("rows", "rules", "information")
    for path in (ROOT / "decoding" / folder).glob("*.py")
    if path.stem != "__init__"
)


def at_start(node):
    """The nodes that run when a module is imported."""
    if isinstance(node, ast.FunctionDef) or (
        isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from at_start(child)


def imports(path, nodes=ast.walk):
    """Names of all the modules that a file imports."""
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_one_way(package):
    files = list(PACKAGES[package].rglob("*.py"))
    assert files
    for file in files:
        ours = {name.split(".")[0] for name in imports(file)} & set(PACKAGES)
        assert ours <= ALLOWED[package], file


def test_pure_mathematics_knows_nothing_of_transformers():
    """Each module is imported alone, which also shows that imports are no circle."""
    asked = [f"import {name}; print({name!r}, 'transformers' in sys.modules)" for name in PURE]
    assert each_alone("torch", asked) == [f"{name} False" for name in PURE]


@pytest.mark.parametrize("statement", ["import decoding", "import decoding.settings.policy"])
def test_importing_the_surface_does_not_import_torch(statement):
    script = f"import sys; {statement}; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "generate --help",
        "score --help",
        "perplexity --help",
        "compare --help",
        "uncertainty --help",
        "calibrate --help",
        "identify --help",
        "attention --help",
        "doctor --help",
        "settings greedy",
    ],
)
def test_the_command_answers_without_torch(arguments):
    script = (
        "import sys; from decoding_cli.app import main\n"
        f"sys.argv = ['decoding', *{arguments.split()!r}]\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        f"assert not {HEAVY} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_serves_one_command_waits_for_it(package):
    """Some packages are imported within functions, or for type checking alone."""
    for file in PACKAGES[package].rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(file, at_start)} & SPECIAL, file


def test_every_public_name_resolves():
    folders = [path.parent.name for path in (ROOT / "decoding").glob("*/__init__.py")]
    for name in (*decoding.__all__, *folders):
        assert getattr(decoding, name) is not None
    assert {*decoding.__all__, *folders} <= {*dir(decoding), "__version__"}
    listed = re.findall(r"^    (\w+) {2,}\S", decoding.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted([*folders, "stories"])
    for package in (decoding, *(getattr(decoding, folder) for folder in folders)):
        for name in dir(package):
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="nonsense"):
            _ = package.nonsense
