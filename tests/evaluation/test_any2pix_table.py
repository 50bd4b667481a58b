"""any2pix's comparison: cases that are the same however they are told, numbers that can be checked by hand, and the command."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from paintover import cli
from paintover.errors import RequestError
from paintover.evaluation import any2pix_page
from paintover.evaluation.any2pix import run
from paintover.evaluation.any2pix_bench import clip, understood
from paintover.evaluation.any2pix_cases import Held, heard, held
from paintover.evaluation.any2pix_columns import COLUMNS, CURVES, NOTHING, PAIRS, Column
from paintover.scenes.assets import Assets
from paintover.scenes.referring import Shown
from paintover.scenes.sounds import Recording, Sounds


@pytest.fixture(scope="module")
def world(tiny_world, tiny_recordings):
    return (
        Assets(tiny_world[0], "held_out", tiny_world[1], heard=True),
        Sounds(tiny_world[0], "held_out", tiny_recordings),
    )


def test_an_edit_is_the_same_however_it_is_told(world):
    cases = held("ways", 6, *world, size=32, seed=5)
    assert [one.kind for one in cases] == ["add", "replace", "remove"] * 2
    for one in cases:
        text, image, audio = (one.told[how] for how in ("text", "image", "audio"))
        assert text.words == image.words == audio.words
        for told in (image, audio):
            assert np.array_equal(told.before.render(32), text.before.render(32))
            assert np.array_equal(told.after.render(32), text.after.render(32))
        assert heard(audio)
        assert not heard(text)
        assert not heard(image)
        assert len(image.media) > len(text.media) == 1
        assert any(isinstance(medium, Shown) for name, medium in image.media.items() if name != image.base)
    [first, *_] = held("ways", 1, *world, size=32, seed=5)
    assert first.told["audio"].instruction == cases[0].told["audio"].instruction


def test_two_operations_come_apart(world):
    for one in held("two", 6, *world, size=32, seed=5):
        for told in one.told.values():
            assert " and ".join(told.parts) == told.words
            assert len(told.said) == len(told.parts) == 2
            bare = re.sub(r"[^a-z0-9 \[\]]", "", told.instruction.lower())
            assert all(said.lower().replace("'", "") in bare for said in told.said)
            spoken = {name for said in told.said for name in re.findall(r"\[(\w+)\]", said)}
            assert spoken | {told.base} == set(told.media)


def test_without_a_sound_of_anything_ways_cannot_be_told(world, monkeypatch):
    assets, sounds = world
    silent = Sounds(sounds.root, "held_out")
    silent.__dict__["by_label"] = {}
    with pytest.raises(RequestError, match="--recordings"):
        held("ways", 1, assets, silent, size=16, seed=5)
    assert {one.kind for one in held("whole", 4, assets, silent, size=16, seed=5)} == {"style", "made"}


def _case(told=None, source=0, target=100):
    inside = np.zeros((8, 8), bool)
    inside[:, :4] = True
    before = np.full((8, 8, 3), source, np.uint8)
    after = before.copy()
    after[:, :4] = target
    return Held(0, "add", before, after, inside, told or {})


def test_errors_inside_and_outside():
    one = _case()
    made = one.source.copy()
    made[:, 4:] = 51
    found = one.measure(made)
    assert found["l1_inside"] == pytest.approx(100 / 255)
    assert found["l2_inside"] == pytest.approx((100 / 255) ** 2)
    assert found["l1_outside"] == pytest.approx(0.2)
    assert found["l1"] == pytest.approx((100 / 255 + 0.2) / 2)


class _Told:
    caption, target_caption, words, base = "x", "y", "add a cow", "image1"
    subs = (("cow", "audio1"),)


class _Encoder:
    """A picture is (its brightness, 1), x is (0, 1), y is (1, 1), each of length 1."""

    width = 2

    def see(self, pictures):
        rows = torch.tensor([[float(p.mean() / 255), 1.0] for p in pictures])
        return torch.nn.functional.normalize(rows, dim=1)

    def read(self, texts):
        return torch.nn.functional.normalize(torch.tensor([[float(text == "y"), 1.0] for text in texts]), dim=1)


def test_clips_measures_by_hand():
    one = _case({"mixed": _Told()}, source=0)
    white, same = np.full((8, 8, 3), 255, np.uint8), one.source
    found = clip(_Encoder(), [one, one], [white, same])
    assert found["clip_im"][:, 0] == pytest.approx([math.sqrt(0.5), 1])
    assert found["clip_out"][:, 0] == pytest.approx([1, math.sqrt(0.5)])
    assert found["clip_dir"][0, 0] == pytest.approx(1)
    assert math.isnan(found["clip_dir"][1, 0])  # nothing changed, so there is no direction


def test_what_was_understood():
    one = _case({"mixed": _Told()})
    right = {"caption": "Add a cow.", "base": "image1", "subs": [{"name": "cow", "reference": "audio1"}],
             "control_tokens_forced": False}  # fmt: skip
    wrong = {"caption": "add a dog", "base": "image2", "subs": [{"name": "cow", "reference": None}],
             "control_tokens_forced": True}  # fmt: skip
    found = understood([one, one], Column("c"), [right, wrong])
    assert {name: values[:, 0].tolist() for name, values in found.items()} == {
        "caption": [1, 0], "base": [1, 0], "subs": [1, 0], "forced": [0, 1],
    }  # fmt: skip


def test_curves_and_pairs_name_columns_that_there_are():
    names = {group: {NOTHING, *(column.name for column in columns)} for group, columns in COLUMNS.items()}
    assert all(len(names[group]) == len(columns) + 1 for group, columns in COLUMNS.items())
    assert {name for line in CURVES.values() for name in line} == names["control"] - {NOTHING}
    assert all({a, b} <= names[group] for group, pairs in PAIRS.items() for a, b in pairs)


def test_the_command_goes_on_where_it_was(tiny_bundle, tiny_world, tiny_recordings, tmp_path, capsys):
    out = tmp_path / "r"
    told = ["evaluate", "any2pix", "--out", str(out), "--model", str(tiny_bundle), "--world", str(tiny_world[0])]
    told += ["--photos", str(tiny_world[1]), "--recordings", str(tiny_recordings), "--count", "2", "--steps", "1"]
    told += ["--device", "cpu", "--size", "32"]
    with pytest.raises(SystemExit, match="0"):
        cli.main(told)
    capsys.readouterr()
    found = json.loads((out / "report.json").read_text())
    assert set(found["groups"]) == set(COLUMNS)
    for group, one in found["groups"].items():
        assert set(one["measures"]["all"]) == {NOTHING, *(column.name for column in COLUMNS[group])}
        assert one["paired"] or group == "control"
    ways = found["groups"]["ways"]
    assert ways["measures"]["all"][NOTHING]["clip_im"]["mean"] == pytest.approx(1, abs=1e-5)
    assert ways["measures"]["all"][NOTHING]["l1_outside"]["mean"] < 0.01
    assert ways["columns"]["by a sound"]["steps"] == 1
    assert set(ways["understood"]) == {"by words", "by a picture", "by a sound"}
    with Image.open(out / "sheet.jpg") as sheet:
        assert sheet.width > 500
    table = (out / "table.md").read_text()
    assert any2pix_page.markdown(found) == table
    assert "| words, two passes |" in table
    picture = next((out / "columns" / "two" / "mixed, two passes" / "cases").glob("*.png"))
    stamp = picture.stat().st_mtime_ns
    made, again = run(*tiny_world, tiny_recordings, out=out, model=str(tiny_bundle), count=2, steps=1, size=32, device="cpu")
    assert picture.stat().st_mtime_ns == stamp
    assert again["groups"] == found["groups"]
    with Image.open(picture) as kept:
        assert any(np.array_equal(np.asarray(kept), shown) for shown in made["two"][1]["mixed, two passes"].pictures)
    with pytest.raises(RequestError, match="no group"):
        run(*tiny_world, tiny_recordings, out=out, model=str(tiny_bundle), groups=["way"])


def test_two_passes_edit_what_the_first_one_made(world, tiny_bundle, tmp_path):
    """The second order's base is the first one's result, told of what it speaks of and nothing else."""
    from paintover.evaluation.any2pix_bench import Bench
    from paintover.models.bundle import load

    bench = Bench(
        bundle=load(tiny_bundle, device="cpu"), model=str(tiny_bundle), out=tmp_path, about={}, steps=1, size=32,
        force=False, device="cpu", on_edits=lambda more: None,
    )  # fmt: skip
    between = np.full((32, 32, 3), 7, np.uint8)
    for one in held("two", 4, *world, size=32, seed=5):
        order = bench.order(Column("c", apart=True), one, 1, between)
        told = one.told["mixed"]
        assert order.picture is between
        assert order.references[told.base] is between
        assert order.request.instruction == told.said[1]
        for name, medium in order.references.items():
            assert name == told.base or f"[{name}]" in told.said[1]
            assert isinstance(medium, tuple) == isinstance(told.media[name], Recording)
        words = bench.order(Column("c", "instruct", told="text", apart=True), one, 1, between)
        assert words.request.instruction == one.told["text"].parts[1]
        assert not words.references
