"""MM-Inst's form, as it is published: what is a reference, what is words, and what is wanted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from paintover.datasets.mm_inst import MMInst
from paintover.datasets.sample import RowError
from paintover.models.any2pix_wording import Answer, Any2PixWording

SWAMP, ALLIGATOR = "A large cypress tree stands in the middle of a swamp.", "an image of a alligator"
RESULT = "an image of a large cypress tree in the middle of a swamp with an alligator in the foreground"
PUBLISHED = {
    "task": "any2any",
    "base": f"[{SWAMP}]",
    "result": RESULT,
    "added": [["alligator", f"[{ALLIGATOR}]"]],
    "conversations": [
        {"from": "human", "value": f"add [{ALLIGATOR}] to [{SWAMP}]"},
        {"from": "gpt", "value": f"Absolutely, its,<base>[{SWAMP}]<im_gen>[{RESULT}]"},
    ],
}
MAP = {
    "a large cypress tree stands in the middle of a swamp": {"fpath": "data/1.jpg.npz", "key": "clip"},
    ALLIGATOR: {"fpath": "data/2.jpg.npz", "key": "clip"},
    RESULT: {"fpath": "data/3.jpg.npz", "key": "clip"},
    "a frog croaking": {"fpath": "data/4.mp3.npz", "key": "clip"},
    "a film of a frog": {"fpath": "data/5.mp4.npz", "key": "clip"},
}


@pytest.fixture
def published(tmp_path):
    """As on the hub: a list of samples, a map, and the media that may be given away."""
    (tmp_path / "data").mkdir()
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.mp3", "5.mp4"):
        (tmp_path / "data" / name).write_bytes(name.encode())
    (tmp_path / "media_map.json").write_text(json.dumps(MAP))

    def write(*samples):
        (tmp_path / "out_any_v5_music_plus.json").write_text(json.dumps([PUBLISHED, *samples]))
        return MMInst(tmp_path)

    return write


def told(human, gpt, **more):
    return {
        **PUBLISHED,
        "added": [],
        "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}],
        **more,
    }


def test_a_published_sample(published, tmp_path):
    [row] = published()
    assert row.instruction == "add [image2] to [image1]"
    assert row.answer == Answer(RESULT, True, ("alligator",))
    assert {name: given.file for name, given in row.media.items()} == {
        "image2": tmp_path / "data" / "2.jpg",
        "image1": tmp_path / "data" / "1.jpg",
    }
    assert (row.base, row.subs) == ("image1", (("alligator", "image2"),))
    assert row.target.file == tmp_path / "data" / "3.jpg"
    assert row.media["image2"].caption == ALLIGATOR
    assert Any2PixWording().answer(row.answer).startswith("<base><video><im_gen>[an image of a large cypress tree")


def test_sounds_and_what_the_map_does_not_know(published):
    said = f"<base>[{SWAMP}]<im_gen>[frogs in a swamp]"
    row = published(told(f"Let [a frog croaking] and [a wild goose] sit <video> in [{SWAMP}] as [a film of a frog]", said))[1]
    assert row.instruction == "Let [audio1] and a wild goose sit in [image1] as a film of a frog"
    assert list(row.media) == ["audio1", "image1"]
    assert (row.answer, row.target) == (Answer("frogs in a swamp"), None)


def test_one_medium_named_twice_is_one(published):
    row = published(told(f"[{ALLIGATOR}] beside [{ALLIGATOR}] in [{SWAMP}]", f"<base>[{SWAMP}]<im_gen>[two]"))[1]
    assert row.instruction == "[image2] beside [image2] in [image1]"


def test_files_that_are_not_there_are_words_unless_their_embedding_is(published, tmp_path):
    (tmp_path / "data" / "2.jpg").unlink()
    [row] = published()
    assert (row.instruction, row.subs, row.answer.subs) == (f"add {ALLIGATOR} to [image1]", (), ())
    np.savez_compressed(tmp_path / "data" / "2.jpg.npz", clip=np.arange(6, dtype=np.float32)[None])
    [row] = published()
    assert (row.instruction, row.media["image2"].file) == ("add [image2] to [image1]", None)
    assert np.array_equal(row.media["image2"].embedded_E(), np.arange(6))
    assert row.media["image1"].embedded_E() is None
    np.savez(tmp_path / "data" / "2.jpg.npz", clip=np.array([{}], dtype=object))
    with pytest.raises(RowError, match="holds no embedding 'clip'"):
        row.media["image2"].embedded_E()


def test_without_a_base_nothing_is_edited(published, tmp_path):
    row = published(told(f"a picture of [{ALLIGATOR}]", f"<base_null><im_gen>[{RESULT}]"))[1]
    assert (row.instruction, row.base, row.answer.base) == ("a picture of [image1]", None, False)
    (tmp_path / "data" / "1.jpg").unlink()
    [row] = published()
    assert (row.instruction, row.base) == (f"add [image1] to {SWAMP}", None)
    assert row.subs == (("alligator", "image1"),)


def test_a_base_that_is_not_spoken_of_comes_last(published):
    row = published(told(f"add [{ALLIGATOR}]", f"<base>[{SWAMP}]<im_gen>[{RESULT}]"))[1]
    assert (row.instruction, list(row.media), row.base) == ("add [image2]", ["image2", "image1"], "image1")


def test_some_are_reworded_and_then_are_no_references(published):
    [row] = published()
    rng = np.random.default_rng(0)
    assert row.reworded(rng, 0, 0) == row
    words = row.reworded(rng, 0, 1)
    assert words.instruction == f"add {ALLIGATOR} to [image1]"
    assert (words.answer, list(words.media), words.subs) == (Answer(RESULT), ["image1"], ())
    nothing = row.reworded(rng, 1, 0)
    assert nothing.instruction == f"add [image2] to {SWAMP}"
    assert (nothing.base, nothing.answer.base, nothing.answer.subs) == (None, False, ("alligator",))
    seen = [row.reworded(rng) for _ in range(600)]
    assert 0.15 < np.mean([one.base is None for one in seen]) < 0.25
    assert 0.15 < np.mean(["image2" not in one.media for one in seen]) < 0.25


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"conversations": []}, "row 2: no conversation of two turns"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "no conversation of two turns"),
        ("text", "no conversation of two turns"),
        (told("add it", "<im_gen>[one thing][another thing]"), "row 2: 2 results in brackets; expected one"),
        (told("add it", "<im_gen>", result=" "), "does not say what the result shows"),
        (told("add it", "<im_gen>[x]", added=[1]), "`added` is no list"),
    ],
)
def test_samples_that_are_none_are_told_in_a_line(sample, said, published):
    with pytest.raises(RowError, match=said):
        published(sample)[1]


@pytest.mark.parametrize("path", ["../1.jpg.npz", "/etc/passwd.npz", "http://x/1.jpg", None])
def test_no_file_outside_of_the_folder_is_read(path, published, tmp_path):
    (tmp_path / "media_map.json").write_text(json.dumps({**MAP, ALLIGATOR: {"fpath": path}}))
    with pytest.raises(RowError, match=r"lies outside|URL|names no file"):
        published()[0]


def test_what_is_no_dataset_is_told(tmp_path):
    with pytest.raises(RowError, match=r"holds no instruction\.json"):
        MMInst(tmp_path)
    (tmp_path / "instruction.json").write_text("[]")
    with pytest.raises(RowError, match=r"holds no media\.json"):
        MMInst(tmp_path)
    (tmp_path / "media.json").write_text("[]")
    with pytest.raises(RowError, match="no JSON object of media"):
        MMInst(tmp_path)
    (tmp_path / "media.json").write_text("{")
    with pytest.raises(RowError, match="not readable JSON"):
        MMInst(tmp_path)
