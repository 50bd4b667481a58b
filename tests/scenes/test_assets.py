"""The split, and the files that the world is made of."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from paintover.errors import PaintoverError
from paintover.scenes import assets as module
from paintover.scenes import edits
from paintover.scenes.assets import WORLD, Assets, fetch

WORLD_LIST = json.loads(WORLD.read_text())


def _files(split):
    groups = (*WORLD_LIST["classes"].values(), *WORLD_LIST["places"].values(), WORLD_LIST["unnamed_places"])
    return [file for group in groups for file in group[split]]


def test_no_file_is_in_both_lists_or_twice():
    files = _files("train") + _files("held_out")
    assert len(files) == len(set(files))
    assert all(group["train"] for group in (*WORLD_LIST["classes"].values(), *WORLD_LIST["places"].values()))


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_split_needs_none_of_the_other_ones_files(tiny_world, tmp_path, split):
    """With the other split's files gone every kind can still be made: so they are never read."""
    root, photos = tmp_path / "world", tmp_path / "photos"
    shutil.copytree(tiny_world[0], root)
    shutil.copytree(tiny_world[1], photos)
    canonical = {files["train"][0] for files in WORLD_LIST["classes"].values()}  # how a class looks when it is put in
    for file in set(_files("held_out" if split == "train" else "train")) - canonical:
        (root / file).unlink()
    held_out = set(WORLD_LIST["photos"]["held_out"])
    for subject in list(photos.iterdir()):
        if (subject.name in held_out) == (split == "train"):
            shutil.rmtree(subject)
    assets = Assets(root, split, photos)
    assert assets.photographs
    sources = set()
    for n, kind in enumerate((*edits.KINDS, *edits.CAPTIONS) * 4):
        case = edits.make(kind, assets, np.random.default_rng(n))
        case.render(16)
        sources |= {thing.stamp.name for thing in case.before.objects} if case.before else set()
    own = {Path(file).stem for files in WORLD_LIST["classes"].values() for file in files[split]}
    assert sources <= own


def test_photographs_are_split_by_subject(tiny_world):
    seen = {split: {p.name for p in Assets(tiny_world[0], split, tiny_world[1]).photographs} for split in ("train", "held_out")}
    assert seen == {"train": {"one", "two"}, "held_out": set(WORLD_LIST["photos"]["held_out"])}


def test_pictures_are_trimmed_and_small(tiny_world):
    assets = Assets(tiny_world[0], "train", tiny_world[1])
    stamp = assets.canonical["cow"]
    assert stamp.rgba.size == (26, 20)  # the ellipse alone, of a stamp of 30 x 24
    assert stamp.aspect == pytest.approx(1.3)
    assert stamp.rgba.mode == "RGBa"
    assert {place.label for place in assets.places} == {*WORLD_LIST["places"], None}
    assert all(min(place.rgb.size) <= module.PLACE_SIDE for place in assets.places)


def test_the_fingerprint_tells_photographs_apart(tiny_world):
    root, photos = tiny_world
    with_photos, without = Assets(root, "held_out", photos).fingerprint, Assets(root, "held_out").fingerprint
    assert with_photos != without
    assert Assets(root, "held_out", photos).fingerprint == with_photos


def test_what_is_missing_is_said(tiny_world, tmp_path):
    with pytest.raises(PaintoverError, match="fetch-world"):
        Assets(tmp_path, "train")
    with pytest.raises(PaintoverError, match="no folder of photographs"):
        Assets(tiny_world[0], "train", tmp_path / "nowhere")
    (tmp_path / "usr" / "share").mkdir(parents=True)
    with pytest.raises(PaintoverError, match="lacks"):
        _ = Assets(tmp_path, "train").canonical


def _tool(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_fetch_unpacks_what_the_list_names(tmp_path, monkeypatch):
    tools, root = tmp_path / "tools", tmp_path / "new" / "world"
    tools.mkdir()
    _tool(tools, "apt-get", 'touch "$2.deb"')
    _tool(tools, "dpkg-deb", 'touch "$3/$(basename $2)"')
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    fetch(root)
    assert sorted(path.stem for path in root.iterdir()) == sorted(WORLD_LIST["packages"])
    _tool(tools, "apt-get", 'echo "E: Unable to locate package" >&2; exit 100')
    with pytest.raises(PaintoverError, match=r"could not download .* Unable to locate package"):
        fetch(root)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PaintoverError, match="Debian"):
        fetch(root)
