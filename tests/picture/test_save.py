from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import paintover.picture as picture
from paintover.errors import PictureError, RequestError
from paintover.picture import Metadata

PIXELS = np.random.default_rng(1).integers(0, 256, (13, 17, 4), dtype=np.uint8)
WORDS: dict[str, Any] = {"instruction": 'make it "<night>" & ]]> çß 夜', "seed": 7, "knobs": {"strength": 0.5}, "none": None}


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tiff", "a.TIF"])
@pytest.mark.parametrize("channels", [3, 4])
def test_every_bit_comes_back(tmp_path: Path, name: str, channels: int) -> None:
    pixels = PIXELS[..., :channels].copy()
    pixels[:3, ..., -1] = 0  # colours under full transparency count too
    opened = picture.open(picture.save(tmp_path / name, picture.open(pixels), Metadata(), WORDS))
    assert (opened.rgb_HWC == pixels[..., :3]).all()
    assert (opened.alpha_HW is None) if channels == 3 else (opened.alpha_HW == pixels[..., 3]).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.tif"])
def test_provenance_and_made_with_ai(tmp_path: Path, name: str) -> None:
    for metadata, kind in ((Metadata(), b"compositeWithTrainedAlgorithmicMedia"), (None, b"/trainedAlgorithmicMedia")):
        path = picture.save(tmp_path / name, PIXELS[..., :3], metadata, WORDS, force=True)
        assert picture.read_provenance(path) == WORDS
        with Image.open(path) as image:
            assert kind in image.info["xmp"]
    picture.save(path, PIXELS[..., :3], None, None, force=True)
    with pytest.raises(PictureError, match="no paintover provenance"):
        picture.read_provenance(path)


def test_what_the_encoder_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **named: Any) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(RequestError, match=r"a\.png: cannot be written as PNG \(no room\)"):
        picture.save(tmp_path / "a.png", PIXELS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4), st.sampled_from([".png", ".jpg", ".webp"]))
def test_any_request_survives(tmp_path_factory: pytest.TempPathFactory, words: dict[str, Any], suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    picture.save(path, PIXELS[..., :3], None, words, force=True)
    assert picture.read_provenance(path) == words


def test_long_request_fits_png_and_is_refused_by_jpeg(tmp_path: Path) -> None:
    words = {"instruction": "é" * 40_000}
    assert picture.read_provenance(picture.save(tmp_path / "a.png", PIXELS, None, words)) == words
    with pytest.raises(RequestError, match="too long"):
        picture.save(tmp_path / "a.jpg", PIXELS[..., :3], None, words)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_hostile_provenance_is_damaged_not_obeyed(tmp_path: Path) -> None:
    entity = (
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x xmlns:p="urn:paintover:1"><p:request>&a;</p:request></x>'
    )
    for packet in (
        entity,
        b'<x xmlns:p="urn:paintover:1"><p:request>{',
        b'<x xmlns:p="urn:paintover:1"><p:request>[1]</p:request></x>',
        b'<x xmlns:p="urn:paintover:1"><p:request>{"seed":NaN}</p:request></x>',
        b'<?xml version="1.0" encoding="utf-7"?><x xmlns:p="urn:paintover:1"/>',
        b'<?xml version="1.0" encoding="no-such"?><x xmlns:p="urn:paintover:1"/>',
    ):
        Image.new("RGB", (4, 4)).save(tmp_path / "a.webp", xmp=packet)
        with pytest.raises(PictureError, match="damaged"):
            picture.read_provenance(tmp_path / "a.webp")


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.tif"])
def test_metadata_goes_back_and_the_place_does_not(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0110], exif[0x8298] = 6, "Camera", "Owner"
    exif[0x8769] = {0x829D: 2.8, 0x927C: b"maker's own"}
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 30.0)}
    icc = picture_icc()
    source = tmp_path / "source.jpg"
    Image.fromarray(PIXELS[..., :3]).save(source, exif=exif.tobytes(), icc_profile=icc, dpi=(300, 300))
    opened = picture.open(source)
    for keep in (False, True):
        path = picture.save(tmp_path / name, opened, opened.metadata, WORDS, force=True, keep_location=keep)
        again = picture.open(path).metadata
        with Image.open(path) as image:
            found = image.getexif()
            assert found.get(0x0112, 1) == 1
            assert (found[0x0110], found[0x8298]) == ("Camera", "Owner")
            assert float(found.get_ifd(0x8769)[0x829D]) == pytest.approx(2.8)
            assert 0x927C not in found.get_ifd(0x8769)
            assert bool(found.get_ifd(0x8825)) == keep
            assert image.info["icc_profile"] == icc
            assert image.size == (13, 17)
        if not name.endswith(".webp"):  # which has no field for it
            assert again.dpi == pytest.approx((300, 300), abs=0.1)


def picture_icc() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(("name", "side"), [("a.webp", 16_384), ("a.jpg", 65_501)])
def test_a_side_longer_than_the_format_can_hold_is_refused(tmp_path: Path, name: str, side: int) -> None:
    with pytest.raises(RequestError, match="pixels a side"):
        picture.check_target(tmp_path / name, size_HW=(side, 1))
    picture.save(tmp_path / name, np.zeros((1, side - 1, 3), np.uint8))
    picture.save(tmp_path / "a.png", np.zeros((1, side, 3), np.uint8))


def test_exif_too_long_for_a_jpeg_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "long " * 20_000
    metadata = Metadata(exif=exif.tobytes())
    with pytest.raises(RequestError, match="EXIF"):
        picture.save(tmp_path / "a.jpg", PIXELS[:, :, :3], metadata)
    picture.save(tmp_path / "a.png", PIXELS, metadata)


def test_the_longest_name_that_the_folder_takes_can_be_written(tmp_path: Path) -> None:
    assert picture.save(tmp_path / ("\u65e5" * 83 + ".png"), PIXELS).is_file()  # 253 bytes


def test_bad_targets_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"old")
    (tmp_path / "folder.png").mkdir()
    bad = ["there.png", "folder.png", "no/such/folder.png", "a.gif", "a", "there.png/a.png", "x\0.png", "n" * 300 + ".png"]
    for name in bad:
        with pytest.raises(RequestError) as caught:
            picture.check_target(tmp_path / name)
        assert "\n" not in str(caught.value)
        with pytest.raises(RequestError):
            picture.save(tmp_path / name, PIXELS)
    with pytest.raises(RequestError, match="device"):
        picture.check_target(tmp_path / "folder.png", force=True)
    with pytest.raises(RequestError, match="transparency"):
        picture.save(tmp_path / "a.jpg", PIXELS)
    assert picture.check_target(tmp_path / "there.png", force=True) == tmp_path / "there.png"
    assert (tmp_path / "there.png").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "there.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_save_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    small = np.zeros((4, 4, 3), np.uint8)
    picture.save(target, small)
    # It saves ever new pictures over the file until it is killed, at a moment of its own.
    program = (
        "import sys, numpy as np, paintover.picture as p\nrng = np.random.default_rng(0)\nprint('go', flush=True)\n"
        "while True: p.save(sys.argv[1], rng.integers(0, 256, (300, 300, 3), dtype=np.uint8), force=True)"
    )
    for delay in (0.0, 0.013, 0.05, 0.1):
        process = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert picture.open(target).size_HW in ((4, 4), (300, 300))


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = picture.save(tmp_path / "a.png", PIXELS)
    before = target.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="No space left"):
        picture.save(target, PIXELS[::-1], force=True)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]
