"""`paintover train variants`: a region of each picture painted anew, the rest the picture's own, bit for bit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from paintover import cli
from paintover.datasets.sample import RowError
from paintover.datasets.variants import Variants
from paintover.engine.cache import PrepareCache
from paintover.engine.engine import Engine
from paintover.models.bundle import load
from paintover.models.tiny import tiny
from paintover.orders.order import Order, check, request_for
from paintover.orders.work import begin
from paintover.training import variants
from paintover.training.variants import make, square

SIZES = {"a.png": (40, 56), "deep/b.png": (48, 32)}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(3)
    for name, (height, width) in SIZES.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def paint(folder, tiny_bundle):
    def run(out, **how):
        return make(folder, out, model=str(tiny_bundle), steps=2, device="cpu", **{"count": 2, **how})

    return run


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def files_of(out):
    """Pixels of pictures, whose files say how long they took, and bytes of all else."""
    files = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: pixels(path).tobytes() if path.suffix == ".png" else path.read_bytes() for name, path in files.items()}


def test_inside_of_the_box_it_is_another_picture_and_outside_the_same(paint, folder, tmp_path):
    assert paint(tmp_path / "out") == (4, 0, 0)
    made = Variants(tmp_path / "out", folder)
    assert [made[i].name for i in range(len(made))] == ["a.png", "deep/b.png"]
    painted = []
    for i in range(len(made)):
        source = pixels(made[i].source)
        for variant in made[i].variants:
            left, top, right, bottom = variant.box
            assert variant.size_HW == source.shape[:2]
            assert right - left == bottom - top
            changed = (pixels(variant.file) != source).any(axis=2)
            assert changed[top:bottom, left:right].mean() > 0.5
            changed[top:bottom, left:right] = False
            assert not changed.any()
            painted.append((variant.box, pixels(variant.file).tobytes()))
    assert len(set(painted)) == 4


def test_what_is_painted_goes_with_what_is_around_it(tiny_bundle):
    """On the latents, before anything is put back into a picture."""
    bundle = load(tiny_bundle, "cpu")
    mask_HW = np.zeros((64, 64), np.uint8)
    mask_HW[16:48, 16:48] = 255

    def painted(rgb_HWC):
        request = request_for(instruction="", editor="repaint", model=str(tiny_bundle), seed=3, steps=3)
        work = begin(check(Order(request, rgb_HWC, mask_HW)), bundle, PrepareCache(max_bytes=0))
        engine = Engine(bundle.denoiser)
        job = engine.add(work.path({}))
        engine.run()
        return engine.result(job), work.context

    pictures = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pictures[1, 16:48, 16:48] = pictures[0, 16:48, 16:48]
    (x, context), (other, of_other) = painted(pictures[0]), painted(pictures[1])
    inside = context.mask_HW.bool()
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(x[..., ~inside], context.source[..., ~inside])
    assert not torch.allclose(x[..., inside], context.source[..., inside], atol=0.1)
    assert torch.equal(context.source[..., inside], of_other.source[..., inside])
    assert (x[..., inside] - other[..., inside]).abs().mean() > 1e-3


@pytest.mark.parametrize("kind", ["instruct", "text-to-image", "flow"])
def test_models_of_every_kind_paint(kind, folder, tmp_path):
    made = make(folder, tmp_path / "out", model=str(tiny(tmp_path / kind, kind)), steps=2, count=1, device="cpu")
    assert made == (2, 0, 0)


def test_whatever_was_there_it_ends_the_same(paint, tmp_path):
    assert paint(tmp_path / "whole", together=3) == (4, 0, 0)
    whole = files_of(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    lines = (tmp_path / "cut" / "variants.jsonl").read_bytes()
    (tmp_path / "cut" / "variants.jsonl").write_bytes(lines[: int(0.7 * len(lines))])
    left = lines[: int(0.7 * len(lines))].count(b"\n") - 1
    assert 0 < left < 4
    assert paint(tmp_path / "cut", together=1) == (4 - left, left, 0)
    assert files_of(tmp_path / "cut") == whole
    assert paint(tmp_path / "cut") == (0, 4, 0)
    (tmp_path / "cut" / "pictures" / "a.png.1.png").unlink()  # a file that was lost is painted again
    assert paint(tmp_path / "cut") == (1, 3, 0)
    assert files_of(tmp_path / "cut")["pictures/a.png.1.png"] == whole["pictures/a.png.1.png"]
    assert len(Variants(tmp_path / "cut", tmp_path / "pictures")[0].variants) == 2


def test_a_variant_does_not_depend_on_what_else_is_there(paint, folder, tmp_path):
    paint(tmp_path / "all")
    (folder / "a.png").unlink()
    paint(tmp_path / "one", count=1)
    name = "pictures/deep/b.png.0.png"
    assert files_of(tmp_path / "one")[name] == files_of(tmp_path / "all")[name]


def test_other_settings_do_not_continue_it(paint, tmp_path):
    paint(tmp_path / "out")
    with pytest.raises(RowError, match="was made with seed 0, not 1; write into another folder"):
        paint(tmp_path / "out", seed=1)


def test_boxes_are_used_in_turn_and_by_share_of_the_picture(paint, folder, tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("picture,left,top,right,bottom\na.png,4,6,20,30\na.png,0.5,0.5,1,1\n")
    paint(tmp_path / "out", count=3, detected=table)
    made = Variants(tmp_path / "out", folder)
    assert [variant.box for variant in made[0].variants] == [(4, 6, 20, 30), (28, 20, 56, 40), (4, 6, 20, 30)]
    assert all(right - left == bottom - top for left, top, right, bottom in (v.box for v in made[1].variants))
    listed = tmp_path / "boxes.jsonl"
    listed.write_text(json.dumps({"file": "a.png", "box": [4, 6, 20, 30]}))
    paint(tmp_path / "listed", count=1, detected=listed)
    assert Variants(tmp_path / "listed", folder)[0].variants[0].box == (4, 6, 20, 30)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.png,90,6,99,30", "the box 90, 6, 99, 30 is not inside the 56 x 40 pixels"),
        ("a.png,20,6,4,30", "boxes.csv, row 1: it says no box"),
        ("a.png,x,6,4,30", "boxes.csv, row 1: it says no box"),
        (",1,2,3,4", "boxes.csv, row 1: it names no picture"),
    ],
)
def test_boxes_that_are_none_are_told_in_a_line(row, said, paint, tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text(f"picture,left,top,right,bottom\n{row}\n")
    with pytest.raises(RowError, match=said):
        paint(tmp_path / "out", detected=table)


def test_broken_pictures_are_told_or_left_out(paint, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(RowError, match=r"broken\.png: not a picture"):
        paint(tmp_path / "out")
    assert paint(tmp_path / "out", skip_broken=True).broken == 1
    assert len(Variants(tmp_path / "out", folder)) == 2


def test_squares_are_all_over_the_picture_and_never_leave_it():
    rng = np.random.default_rng(0)
    boxes = np.array([square((30, 50), rng) for _ in range(400)])
    assert (boxes[:, 2] - boxes[:, 0] == boxes[:, 3] - boxes[:, 1]).all()
    sides = boxes[:, 2] - boxes[:, 0]
    assert (sides.min(), sides.max()) == (9, 21)
    assert (boxes[:, :2].min(), boxes[:, 2].max(), boxes[:, 3].max()) == (0, 50, 30)
    assert square((1, 1), rng) == (0, 0, 1, 1)


def test_the_command(folder, tiny_bundle, tmp_path, capsys):
    command = ["train", "variants", str(folder), "-o", str(tmp_path / "out"), "--count", "1", "--steps", "2"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--model", str(tiny_bundle), "--device", "cpu"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (0, f"{tmp_path / 'out'}\n")
    assert "2 variants made, 0 had been before" in err
    with pytest.raises(SystemExit) as ended:
        cli.main([*command[:2], str(tmp_path / "none"), *command[3:], "--model", str(tiny_bundle)])
    assert ended.value.code == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"box": [0, 0, 99, 9]}, "row 2: no variant of a picture .its box is not inside"),
        ({"variant": "../../secret.png"}, "lies outside"),
        ({"picture": None, "box": None}, "row 2: no variant"),
    ],
)
def test_lines_that_are_none_are_told(line, said, tmp_path):
    whole = {"picture": "a.png", "number": 0, "variant": "b.png", "box": [0, 0, 9, 9], "size": [20, 20]}
    (tmp_path / "variants.jsonl").write_text('{"format": 1}\n' + json.dumps(whole | line) + "\n")
    with pytest.raises(RowError, match=said):
        Variants(tmp_path, tmp_path)


def test_nothing_is_listed_that_it_wrote_itself(folder):
    assert variants.listed(folder, folder / "deep") == ["a.png"]
