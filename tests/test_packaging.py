"""What is uploaded: the source distribution holds what the README speaks of, and builds."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from test_architecture import PACKAGES, imports

from hatch_build import long_description

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Of those who use it; `dev` and `docs` are for those who work on it.
EXTRAS = {
    extra: wanted
    for extra, wanted in PROJECT["optional-dependencies"].items()
    if extra not in ("dev", "docs")
}
RELATIVE = r"\]\((?!https?:)([^)#\s]+)"


def build(folder, target, into):
    """Build with the back end that `pip` would use; gives what it wrote."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    [built] = into.iterdir()
    return built


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder that the source distribution unpacks to."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(folder, filter="data")
    [inner] = folder.iterdir()
    return inner


def test_the_source_distribution_holds_what_its_pages_speak_of(unpacked):
    pages = [unpacked / "README.md", unpacked / "CONTRIBUTING.md", *unpacked.glob("docs/*.md")]
    assert len(pages) > 15
    for page in pages:
        text = re.sub(r"^```\w*\n.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(RELATIVE, text):
            assert target.startswith("api/") or (page.parent / target).is_file(), target
        for target in re.findall(r"\{include\} (\S+)", page.read_text()):
            assert (page.parent / target).is_file()


def test_the_source_distribution_holds_what_make_uses(unpacked):
    used = set(re.findall(r"[\w./-]+\.(?:py|txt|toml|md)\b", (ROOT / "Makefile").read_text()))
    in_checkout = {name for name in used if (ROOT / name).is_file()}
    assert {"constraints-oldest.txt", "pyproject.toml", "docs/picture.py"} <= in_checkout
    assert {name for name in in_checkout if not (unpacked / name).is_file()} == set()
    assert (unpacked / ".ci/run").is_file() and (unpacked / "tests/conftest.py").is_file()


def test_the_source_distribution_holds_the_code_and_nothing_of_a_checkout(unpacked):
    for folder in ("decoding", "cli", "evals", "tests", "benchmarks", "training", "docs"):
        listed, packed = (
            {path.relative_to(root) for path in (root / folder).rglob("*.py")}
            for root in (ROOT, unpacked)
        )
        assert listed == packed
    assert not [path for path in unpacked.rglob("*") if path.name in (".venv", ".git", "build")]


def test_a_wheel_built_from_it_describes_itself_without_what_lies_beside_it(unpacked, tmp_path):
    with zipfile.ZipFile(build(unpacked, "wheel", tmp_path)) as wheel:
        [name] = (name for name in wheel.namelist() if name.endswith("METADATA"))
        description = message_from_bytes(wheel.read(name)).get_payload(decode=True).decode()
        assert "decoding/stories/model.safetensors" in wheel.namelist()
        assert "decoding/showing/parts/chart.js" in wheel.namelist()
        assert "decoding_evals/compare/view.js" in wheel.namelist()
        assert {name.partition("/")[0] for name in wheel.namelist()} == {
            "decoding", "decoding_cli", "decoding_evals",
            f"decoding_toolkit-{PROJECT['version']}.dist-info",
        }  # fmt: skip
    assert "Decode with a Hugging Face causal language model" in description
    assert re.findall(RELATIVE, description) == []


def test_links_and_pictures_of_the_readme_lead_to_the_public_repository():
    readme = (
        "![A story](docs/generate.svg) [Words](docs/words.md#bits) [there](https://a.b) [x](#y)"
    )
    assert long_description(readme, "https://example.org/d", "1.2") == (
        "![A story](https://example.org/d/raw/v1.2/docs/generate.svg) "
        "[Words](https://example.org/d/blob/v1.2/docs/words.md#bits) [there](https://a.b) [x](#y)"
    )
    assert long_description(readme, None, "1.2") == "*A story* Words [there](https://a.b) [x](#y)"


def test_what_is_imported_is_declared():
    declared = {Requirement(text).name for text in sum(EXTRAS.values(), PROJECT["dependencies"])}
    with_transformers = {"huggingface_hub", "safetensors", "tokenizers", "yaml"}
    # Which vLLM, depends on the machine: who draws inside it has it.
    named_otherwise = {"upath"} if "universal-pathlib" in declared else set()
    known = {*PACKAGES, *declared, *with_transformers, *named_otherwise, "vllm"}
    known |= sys.stdlib_module_names
    for folder in PACKAGES.values():
        for file in folder.rglob("*.py"):
            assert {name.split(".")[0] for name in imports(file)} <= known, file


def test_the_oldest_environment_has_every_lower_bound():
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {name: Version(version) for name, version in pins}
    wanted = {
        requirement.name: Version(specifier.version)
        for text in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
        for requirement in [Requirement(text)]
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    assert len(wanted) > 20
    assert {name: pinned.get(name) for name in wanted} == wanted
