"""`paintover train unpack`: the same pairs, as a table with a file for each picture."""

from __future__ import annotations

import json
import os

import pytest

from paintover import cli
from paintover.datasets import RowError, open_dataset
from paintover.datasets.unpack import unpack
from paintover.picture import Limits


def words(sample):
    return (
        sample.id,
        sample.instruction,
        sample.expressive,
        sample.source_caption,
        sample.target_caption,
        sample.session,
        sample.turn,
    )


@pytest.mark.parametrize("kind", ["magicbrush", "parquet", "mgie"])
def test_what_is_unpacked_is_what_was_packed(layouts, tmp_path, kind):
    folder = tmp_path / "data"
    if kind == "parquet":
        layouts.parquet(folder / "train-00000-of-00001.parquet")
    elif kind == "magicbrush":
        layouts.magicbrush(folder / "train", captions=True)
    else:
        layouts.mgie(folder)
    before = open_dataset(folder, masks=True)
    after = open_dataset(unpack(before, tmp_path / "out"), masks=True)
    assert [words(sample) for sample in after] == [words(sample) for sample in before]
    assert len(after) == len(before) >= 3
    for old, new in zip(before, after, strict=True):
        assert (new.source.sha256, new.target.sha256) == (old.source.sha256, old.target.sha256)
        assert (new.mask and new.mask.sha256) == (old.mask and old.mask.sha256)
    assert after.splits == ("train",)
    with pytest.raises(RowError, match=r"train\.jsonl exists"):
        unpack(before, tmp_path / "out")


def test_broken_rows_stop_it_or_are_left_out(layouts, tmp_path, capsys):
    folder = layouts.magicbrush(tmp_path / "train")
    (folder / "images" / "205" / "205-input.png").unlink()
    words = ["train", "unpack", str(folder), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    out, errors = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "edit_turns.json, row 2: " in errors
    assert "205-input.png: no such file" in errors
    assert not (tmp_path / "out" / "train.jsonl").exists()
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--skip-broken"])
    out, errors = capsys.readouterr()
    assert (ended.value.code, out) == (0, f"{tmp_path / 'out' / 'train.jsonl'}\n")
    assert "2 pairs, 1 broken and left out" in errors
    assert [sample.id for sample in open_dataset(tmp_path / "out")] == ["100-1", "205-2"]


def test_what_is_no_picture_is_not_copied(layouts, tmp_path):
    folder = tmp_path / "data"
    names = ["good", "empty", "words", "cut", "pipe", "link", "other"]
    for n, name in enumerate(names):
        layouts.save(folder / f"{name}.png", n)
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.png").write_text("root:x:0:0")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    (folder / "pipe.png").unlink()
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").rename(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    rows = [{"id": name, "source": f"{name}.png", "target": "other.png", "instruction": "x"} for name in names]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = open_dataset(folder, skip_broken=True)
    unpack(data, tmp_path / "out")
    assert [sample.id for sample in open_dataset(tmp_path / "out")] == ["good", "other"]
    assert len(list((tmp_path / "out" / "train").iterdir())) == 4
    (folder / "pairs.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(RowError, match=r"row 1: .*good\.png: the file is over the limit of 40 bytes"):
        unpack(open_dataset(folder, limits=Limits(max_bytes=40)), tmp_path / "small")
    with pytest.raises(RowError, match="cannot hold the pictures"):
        unpack(open_dataset(folder), folder / "good.png")
