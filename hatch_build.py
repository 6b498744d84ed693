"""The README as a package index shows it, where what lies beside it is not at hand."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


def long_description(readme: str, source: str | None, version: str) -> str:
    """The README with links and pictures that lead to the public repository.

    Args:
        readme: Markdown, with paths from the root of the repository.
        source: the address of the repository; without it, links become their words, and pictures
            what they show.
        version: that of the tag.
    """

    def absolute(link: re.Match[str]) -> str:
        mark, words, path = link.groups()
        if source is None:
            return f"*{words}*" if mark else words
        return f"{mark}[{words}]({source}/{'raw' if mark else 'blob'}/v{version}/{path})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)", absolute, readme)


class LongDescription(MetadataHookInterface):
    """Puts it into the metadata."""

    def update(self, metadata: dict) -> None:
        """Set `readme`."""
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = long_description(readme, metadata.get("urls", {}).get("Source"), metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
