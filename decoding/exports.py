"""Names that a package offers, each imported from its module when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def exported(package: str, **names: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose modules are imported on first use.

    Args:
        package: its `__name__`.
        names: of each module or folder, what is offered from it, separated by spaces; modules are
            offered as well.
    """
    homes = {name: module for module, offered in names.items() for name in offered.split()}

    def modules() -> list[str]:
        return [module.name for module in iter_modules(import_module(package).__path__)]

    def attribute(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        if not name.startswith("__") and name in modules():
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute, lambda: sorted({*homes, *modules()})
