"""Write the table of samplers in `settings-and-samplers.md` from the rules themselves."""

from pathlib import Path

from decoding.rules.rule import format_value
from decoding.settings.settings import RULES_IN_ORDER

PAGE = Path(__file__).with_name("settings-and-samplers.md")
BEGIN, END = "<!-- rules -->\n", "<!-- /rules -->"


def table() -> str:
    """A row for each rule, in the order in which they are applied."""
    lines = ["| field | what it does | values | off | source |", "|---|---|---|---|---|"]
    for rule in RULES_IN_ORDER:
        own, *further = rule.fields()
        names = [f"`{own.name}`", *(f"with `{field.name}`" for field in further)]
        values = [
            f"{field.range.text}{f', {field.unit}' * bool(field.unit)}" for field in (own, *further)
        ]
        cells = [
            ", ".join(names),
            rule.summary(),
            "; ".join(values),
            format_value(own.default),
            rule.source,
        ]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with its table made anew."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page())
