"""The folder for the hub: what is in it, where it may go, whole or not at all."""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from huggingface_hub import ModelCard

from decoding import DecodingSettings, EntropyPolicy
from decoding.engines.custom_generate import NAMES, write_folder
from decoding.rules import CUT, Cut

pytestmark = pytest.mark.usefixtures("own_modules")

SETTING = "temperature=0.7,top_p=0.9"


class Floor(Cut):
    """Keep tokens with probability at least c."""

    field, neutral, range, example = "floor_of_folders", 0.0, CUT, "0.1"

    def keep(self, rows, c):
        return rows.within_surprisal(-rows.log(c))


def files(place):
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_it_is_what_the_hub_takes(tmp_path):
    write_folder(SETTING, tmp_path / "hub")
    assert files(tmp_path / "hub") == {*NAMES}
    card = ModelCard.load(tmp_path / "hub/README.md")
    assert "custom_generate" in card.data.tags and SETTING in card.text
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]
    assert (tmp_path / "hub").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_where_the_toolkit_is_missing_transformers_says_so(toy_gpt2, tmp_path, monkeypatch):
    write_folder(SETTING, tmp_path / "hub")
    version = importlib.metadata.version

    def without(name):
        if name == "decoding-toolkit":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    with pytest.raises(ImportError, match="decoding-toolkit>="):
        toy_gpt2.generate(
            torch.tensor([[5]]), custom_generate=str(tmp_path / "hub"), trust_remote_code=True
        )


def test_where_another_package_has_the_name_the_folder_says_so(tmp_path, monkeypatch):
    write_folder(SETTING, tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "decoding", ModuleType("decoding"))
    for name in [name for name in sys.modules if name.startswith("decoding.")]:
        monkeypatch.delitem(sys.modules, name)
    text = (tmp_path / "hub/custom_generate/generate.py").read_text()
    with pytest.raises(ImportError, match="install decoding-toolkit"):
        exec(compile(text, "generate.py", "exec"), {})


def make(place, what):
    place.mkdir()
    if what == "weights beside":
        write_folder(SETTING, place.parent / "other")
        shutil.copytree(place.parent / "other", place, dirs_exist_ok=True)
        (place / "model.safetensors").write_text("weights")
    elif what == "somebody's code":
        (place / "custom_generate").mkdir()
        (place / "custom_generate/generate.py").write_text("def generate(): ...")
    elif what == "a card alone":
        (place / "README.md").write_text("mine")
    elif what == "a file":
        place.rmdir()
        place.write_text("mine")
    elif what == "a link to a file":
        place.rmdir()
        (place.parent / "file").write_text("mine")
        place.symlink_to(place.parent / "file")


@pytest.mark.parametrize(
    "what", ["weights beside", "somebody's code", "a card alone", "a file", "a link to a file"]
)
def test_what_is_not_ours_is_left_alone(tmp_path, what):
    place = tmp_path / "hub"
    make(place, what)
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds something else: give a new folder"):
        write_folder("greedy", place)
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write_folder(SETTING, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and files(tmp_path / "empty") == {*NAMES}


@pytest.mark.parametrize("before", ["nothing", "one of ours"])
@pytest.mark.parametrize("fails", ["a file", "the last step"])
def test_it_is_written_whole_or_not_at_all(tmp_path, before, fails, monkeypatch):
    place = tmp_path / "hub"
    if before == "one of ours":
        write_folder("greedy", place)
    texts = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    write_text, rename = Path.write_text, Path.rename

    def full(path, text, **kwargs):
        if path.name == "requirements.txt":
            raise OSError(28, "No space left on device")
        return write_text(path, text, **kwargs)

    def stuck(path, target):
        if path.name == "new":
            raise OSError(13, "Permission denied")
        return rename(path, target)

    if fails == "a file":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(Path, "rename", stuck)
    with pytest.raises(OSError, match=r"No space|Permission"):
        write_folder(SETTING, place)
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == texts
    assert [path.name for path in tmp_path.iterdir()] == (["hub"] if texts else [])


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("raw while entropy<=1 else stop", "cannot end or ask"),
        (EntropyPolicy(entropy_above=1, then=lambda _: None), "cannot end or ask"),
        ('dry_multiplier=1,dry_breakers="."', r"by ids, got '\.'"),
        (DecodingSettings(extra=(Floor(0.1),)), r"floor_of_folders=0.1 is a rule of one's own"),
        ("top_q=1", "unknown setting"),
    ],
)
def test_a_setting_that_others_cannot_read_is_refused(tmp_path, setting, why):
    with pytest.raises(ValueError, match=why):
        write_folder(setting, tmp_path / "hub")
    assert not [*tmp_path.iterdir()]
