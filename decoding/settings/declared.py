"""The fields that `DecodingSettings` declares, against those of the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decoding.rules import Rule


def check_fields(declared: Mapping[str, Any], rules: Mapping[str, type[Rule]]) -> None:
    """Refuse a declared field without a rule, a rule without its fields, and another default.

    Raises:
        ImportError: naming the field.
    """
    owned = {field.name: (rule, field) for rule in rules.values() for field in rule.fields()}
    for name, (rule, field) in owned.items():
        if name not in declared:
            raise ImportError(
                f"DecodingSettings has no field {name!r}, which {rule.__name__} needs"
            )
        if declared[name] != field.default or type(declared[name]) is not type(field.default):
            raise ImportError(
                f"DecodingSettings.{name} is {declared[name]!r} by default, and of "
                f"{rule.__name__} {field.default!r}"
            )
    for name in declared:
        if name not in owned:
            raise ImportError(f"no rule in decoding.rules has the field {name!r}")
