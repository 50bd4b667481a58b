"""A folder that is made beside its place: what fails leaves the old one, and says what failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from paintover.errors import ModelError
from paintover.models.beside import whole


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model_index.json").write_text("old")
    return folder


def test_the_new_one_takes_the_place_of_the_old_one(out):
    with whole(out, force=True) as part:
        (part / "model_index.json").write_text("new")
    assert (out / "model_index.json").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("at", [1, 2])
def test_where_it_cannot_the_old_one_stays(at, out, monkeypatch):
    renamed, calls = Path.rename, []

    def failing(self, target):
        calls.append(self)
        if len(calls) == at:
            raise PermissionError(13, "Permission denied", str(self))
        return renamed(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ModelError, match="out could not be written: Permission denied"), whole(out, force=True) as part:
        (part / "model_index.json").write_text("new")
    assert (out / "model_index.json").read_text() == "old"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_cannot_be_read_is_named(out, tmp_path):
    with pytest.raises(ModelError, match=r"gone[.]safetensors cannot be read: No such file"), whole(out, force=True):
        (tmp_path / "gone.safetensors").read_bytes()
    with pytest.raises(ModelError, match="out could not be written: No space"), whole(out, force=True):
        raise OSError(28, "No space left on device", str(tmp_path / "from"))
    assert (out / "model_index.json").read_text() == "old"
