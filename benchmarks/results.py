"""RESULTS.md: one section per benchmark, each replaced by the run that made it."""

import os
import platform
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("RESULTS.md")


def write_section(title: str, command: str, body: str) -> None:
    """Put a section into RESULTS.md, in the place of its former self where there is one."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    capability = torch.backends.cpu.get_cpu_capability()
    cores = f"{platform.machine()} ({capability}), {os.cpu_count()} cores"
    machine = f"{cores}, Python {platform.python_version()}"
    where = f"{date.today().isoformat()}; {machine}, {packages}."
    section = f"## {title}\n\n`{command}`, {where}\n\n{body.strip()}\n"
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    former = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if former is None:
        text = f"{text.rstrip()}\n\n{section}"
    else:
        text = f"{text[: former.start()]}{section}\n{text[former.end() :]}".rstrip() + "\n"
    RESULTS.write_text(text, encoding="utf-8")
