"""What a setting is made of: one class for each rule, in a module for each kind.

Every module of this folder is imported, so a rule that is written here is known everywhere. The
classes are offered by their names: `from decoding.rules import Temperature, TopP`.
"""

from importlib import import_module
from pkgutil import iter_modules

from decoding.rules.rule import (
    CUT,
    NOT_NEGATIVE,
    POSITIVE,
    RULES,
    SHARE,
    SHARE_OR_NONE,
    TOKENS,
    Cut,
    Field,
    InTransformers,
    Mixture,
    Past,
    Penalty,
    Range,
    Reweighting,
    Rule,
    Tempering,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

BUILT_IN = {rule.__name__: rule for rule in RULES.values()}

__all__ = [
    "BUILT_IN", "CUT", "NOT_NEGATIVE", "POSITIVE", "RULES", "SHARE", "SHARE_OR_NONE", "TOKENS",
    "Cut", "Field", "InTransformers", "Mixture", "Past", "Penalty", "Range", "Reweighting", "Rule",
    "Tempering",
]  # fmt: skip


def __getattr__(name: str) -> type[Rule]:
    if name in BUILT_IN:
        return BUILT_IN[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *BUILT_IN])
