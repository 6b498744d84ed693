"""Write the reference: a page for each module and folder, and one for the commands.

Every public function and class stands in one place, the highest that offers it: `decoding`, then a
folder such as `decoding.information`, then the module that defines it. What there is, the packages
say themselves, so a module that moves takes its entry along.
"""

import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import click
from sphinx.ext.napoleon import GoogleDocstring

from decoding_cli.app import cli

PACKAGES = ("decoding", "decoding_evals")
FOLDER = Path(__file__).with_name("api")


def write(app: Any) -> None:
    """Write the pages into `docs/api`; one that stays the same is not touched."""
    FOLDER.mkdir(exist_ok=True)
    pages = modules()
    pages = {"index": index(pages), "commands": commands()} | pages
    for path in FOLDER.glob("*.md"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = FOLDER / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def commands() -> str:
    """What `--help` says of every command."""
    parts = ["# Commands", "What `decoding COMMAND --help` says."]
    with click.Context(cli, info_name="decoding") as parent:
        for name in cli.list_commands(parent):
            command = cli.get_command(parent, name)
            assert command is not None
            context = click.Context(
                command, parent, name, terminal_width=88, help_option_names=["-h", "--help"]
            )
            text = command.get_help(context)
            parts += [f"## decoding {name}", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def index(pages: dict[str, str]) -> str:
    """The list of all pages of modules, with what each holds."""
    parts = [
        "# Reference",
        "Import from the highest place that offers a name: `from decoding import generate`, "
        "`from decoding.information import entropy`. Each name is described once, there.",
        "- [Commands](commands.md): every option of every command.",
    ]
    for package in PACKAGES:
        rows = [
            f"| [`{name}`]({name}.md) | {summary(import_module(name))} |"
            for name in pages
            if name.split(".")[0] == package
        ]
        parts += [f"## {package}", "\n".join(["| module | holds |", "|---|---|", *rows])]
    names = "\n".join(["commands", *pages])
    parts += [f"```{{toctree}}\n:hidden:\n\n{names}\n```"]
    return "\n\n".join(parts) + "\n"


def modules() -> dict[str, str]:
    """A page for each package, and for each folder or module directly in it, by name."""
    described: set[int] = set()
    pages = {}
    for package in PACKAGES:
        whole = import_module(package)
        names = offered(whole, described)
        pages[package] = section(whole, names, "#")
        parts = [import_module(name) for name in submodules(whole)]
        # Folders first offer what their modules define.
        offers = [offered(part, described) for part in parts]
        for part, names in zip(parts, offers, strict=True):
            sections = [section(part, names, "#")]
            for name in submodules(part, deep=True):
                inner = import_module(name)
                if inner_names := offered(inner, described):
                    sections.append(section(inner, inner_names, "##"))
            if names or len(sections) > 1:
                pages[part.__name__] = "\n".join(sections)
    return pages


def submodules(package: ModuleType, deep: bool = False) -> list[str]:
    """Full names of the modules in a package that are meant to be imported."""
    found = []
    for module in iter_modules(getattr(package, "__path__", ())):
        if not module.name.startswith("_"):
            name = f"{package.__name__}.{module.name}"
            found.append(name)
            if deep and module.ispkg:
                found += submodules(import_module(name), deep)
    return found


def offered(module: ModuleType, described: set[int]) -> list[str]:
    """Public functions and classes of a module that no higher one offers; they are now described.

    A package offers what it names, wherever that is defined; a module, what it defines.
    """
    package = hasattr(module, "__path__")
    names = getattr(module, "__all__", dir(module) if package else vars(module))
    found = []
    for name in names:
        thing = None if name.startswith("_") else getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or not thing.__doc__:
            continue
        home = thing.__module__
        ours = home.split(".")[0] in PACKAGES if package else home == module.__name__
        if ours and id(thing) not in described:
            described.add(id(thing))
            found.append(name)
    return found


def section(module: ModuleType, names: list[str], heading: str) -> str:
    """A module's own words, and its functions and classes."""
    directives = [f".. automodule:: {module.__name__}\n   :no-members:"]
    for name in names:
        full = f"{module.__name__}.{name}"
        if inspect.isclass(getattr(module, name)):
            directives.append(f".. autoclass:: {full}\n   :members:")
        else:
            directives.append(f".. autofunction:: {full}")
    body = "\n\n".join(directives)
    return f"{heading} {module.__name__}\n\n```{{eval-rst}}\n{body}\n```\n"


def summary(module: ModuleType) -> str:
    """The first sentence of a module's docstring."""
    first = inspect.getdoc(module) or ""
    return " ".join(first.split("\n\n")[0].split()).replace("|", "\\|")


def as_restructured_text(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Make of a docstring what Sphinx reads: Google's sections, and code as Markdown writes it."""
    text = "\n".join(lines)
    if re.match(r"Alias for field number \d+", text):
        text = ""  # of a named tuple, by Python
    text = re.sub(r"``.+?``|(?<!`)`([^`]+)`(?!`)(\w?)|\|", _escaped, text, flags=re.DOTALL)
    text = re.sub(r"(?<=\S):(\n\n {4})", r"::\1", text)
    text = re.sub(r"^Source: .+?(?=\n\n|\Z)", _paragraph, text, flags=re.DOTALL | re.MULTILINE)
    # Of an attribute, napoleon would take what stands before a colon for its type.
    plain = what in ("attribute", "property")
    lines[:] = text.split("\n") if plain else Docstring(text, what=what).lines()


class Docstring(GoogleDocstring):
    """Where `Returns:` says what is returned and leaves its type to the signature."""

    def _consume_returns_section(self, preprocess_types: bool = False) -> list[Any]:
        return [("", "", self._dedent(self._consume_to_next_section()))]


def _escaped(match: re.Match[str]) -> str:
    code, after = match.groups()
    if code is None:
        return "\\|" if match.group() == "|" else match.group()
    code = " ".join(code.split())
    return f"``{code}``" + (f"\\ {after}" if after else "")


def _paragraph(match: re.Match[str]) -> str:
    return "**Source:** " + " ".join(match.group().split()[1:])
