from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import paintover.picture as picture
from paintover.errors import PictureError, RequestError
from paintover.picture import Limits

RNG = np.random.default_rng(0)


def random_pixels(height: int, width: int, channels: int) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_all_eight_orientations_give_the_same_picture(kind: str) -> None:
    upright = np.zeros((48, 32, 3), np.uint8)
    upright[:16, :16], upright[32:, 16:], upright[:16, 16:] = (250, 20, 20), (20, 250, 20), (20, 20, 250)
    stored_as = {  # what a camera stores so that showing it with this orientation gives the upright picture
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    for orientation, method in stored_as.items():
        image = Image.fromarray(upright)
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010F] = "Maker"
        opened = picture.open(encoded(image if method is None else image.transpose(method), kind, exif=exif.tobytes()))
        assert opened.rgb_HWC.shape == upright.shape, orientation
        assert np.abs(opened.rgb_HWC.astype(int) - upright).mean() < 12, orientation
        assert opened.metadata.exif is not None
        kept = Image.Exif()
        kept.load(opened.metadata.exif)
        assert kept.get(0x0112, 1) == 1
        assert kept[0x010F] == "Maker"


def test_kinds_of_pixels() -> None:
    grey16 = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert (picture.open(encoded(Image.fromarray(grey16), "PNG")).rgb_HWC[..., 1].ravel() == np.arange(256)).all()
    assert (picture.open(encoded(Image.fromarray(grey16), "TIFF")).rgb_HWC[..., 1].ravel() == np.arange(256)).all()
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert (picture.open(encoded(Image.fromarray(unit), "TIFF")).rgb_HWC[..., 0].ravel() == np.arange(256)).all()
    wide = picture.open(encoded(Image.fromarray(unit * 1000 - 3), "TIFF"))
    assert (wide.rgb_HWC.min(), wide.rgb_HWC.max()) == (0, 255)
    assert "stretched" in wide.warnings[0]
    grey = random_pixels(5, 9, 1)
    assert (picture.open(encoded(Image.fromarray(grey[..., 0]), "PNG")).rgb_HWC == grey).all()
    palette = Image.fromarray(random_pixels(9, 9, 3)).quantize(7)
    assert (picture.open(encoded(palette, "PNG")).rgb_HWC == np.asarray(palette.convert("RGB"))).all()
    see_through = picture.open(encoded(palette, "PNG", transparency=bytes([0, 99] + [255] * 5)))
    assert see_through.alpha_HW is not None
    assert set(np.unique(see_through.alpha_HW)) <= {0, 99, 255}
    bits = Image.fromarray(np.eye(9) > 0)
    assert (picture.open(encoded(bits, "PNG")).rgb_HWC[..., 0] == np.eye(9) * 255).all()
    ink = picture.open(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert np.abs(ink.rgb_HWC.astype(int) - (255, 0, 0)).max() < 5
    la = np.dstack([grey[..., 0], grey[::-1, :, 0]])
    opened = picture.open(encoded(Image.fromarray(la, "LA"), "PNG"))
    assert opened.alpha_HW is not None
    assert (opened.alpha_HW == la[..., 1]).all()


def test_sources_agree() -> None:
    pixels = random_pixels(7, 11, 4)
    data = encoded(Image.fromarray(pixels), "PNG")
    for source in (pixels, data, Image.fromarray(pixels), pixels / 255, pixels.astype(np.uint16) * 257):
        opened = picture.open(source)
        assert opened.alpha_HW is not None
        assert (np.dstack([opened.rgb_HWC, opened.alpha_HW]) == pixels).all()
        assert len(opened.sha256) == 64


def test_pictures_in_memory_that_look_different_have_different_digests() -> None:
    first = Image.fromarray(random_pixels(7, 11, 1)[:, :, 0]).convert("P")
    second, turned = first.copy(), first.copy()
    second.putpalette([200] * 768)
    turned.getexif()[0x0112] = 3
    assert len({picture.open(image).sha256 for image in (first, second, turned)}) == 3
    assert picture.open(first).sha256 == picture.open(first.copy()).sha256


def test_a_limit_beyond_all_memory_is_no_limit(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert picture.open(tmp_path / "a.png", Limits(max_bytes=10**30)).size_HW == (4, 4)


def test_animation_gives_the_first_frame_and_a_warning() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        opened = picture.open(data)
        assert np.abs(opened.rgb_HWC.astype(int) - (255, 0, 0)).max() < 9
        assert "3 frames" in opened.warnings[0]
        with pytest.raises(PictureError, match="max_frames"):
            picture.open(data, Limits(max_frames=2))


def display_p3() -> bytes:
    """An RGB profile whose primaries are not sRGB's: sRGB with red and green exchanged and its curve kept."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    where = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = where[b"rXYZ"], where[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(data)


def test_colour_profile_is_applied_and_kept() -> None:
    pixels = random_pixels(6, 6, 3)
    icc = display_p3()
    opened = picture.open(encoded(Image.fromarray(pixels), "PNG", icc_profile=icc))
    assert opened.metadata.icc == icc
    assert opened.native_rgb_HWC is not None
    assert (opened.native_rgb_HWC == pixels).all()
    assert np.abs(opened.rgb_HWC.astype(int) - pixels[..., [1, 0, 2]]).max() <= 2
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = picture.open(encoded(Image.fromarray(pixels), "PNG", icc_profile=srgb))
    assert plain.native_rgb_HWC is None
    assert (plain.rgb_HWC == pixels).all()
    broken = picture.open(encoded(Image.fromarray(pixels), "PNG", icc_profile=b"no profile"))
    assert "profile" in broken.warnings[0]
    assert broken.metadata.icc is None
    assert (broken.rgb_HWC == pixels).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header alone promises width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    good = encoded(Image.fromarray(random_pixels(40, 40, 3)), "PNG")
    cases = {"text.png": b"not a picture", "empty.png": b"", "cut.png": good[:900], "bomb.png": bomb(30_000, 30_000)}
    cases |= {"smaller_bomb.png": bomb(11_000, 10_000), "flat.png": bomb(0, 5), "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n"}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    for name in [*cases, "missing.png", ".", "x\0y", "n" * 300]:
        with pytest.raises(PictureError) as caught:
            picture.open(str(tmp_path / name))
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(PictureError, match="max_pixels"):
        picture.open(tmp_path / "smaller_bomb.png")
    with pytest.raises(PictureError, match="max_bytes"):
        picture.open(good, Limits(max_bytes=100))
    with pytest.raises(PictureError, match="max_pixels"):
        picture.open(good, Limits(max_pixels=1599))
    assert picture.open(good, Limits(max_pixels=1600)).size_HW == (40, 40)
    for source in (None, 7, np.zeros((3, 3, 2)), np.full((3, 3), np.nan), np.zeros((0, 4, 3), np.uint8), b""):
        with pytest.raises(PictureError):
            picture.open(source)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are a POSIX thing")
def test_pipes_and_devices_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused: list[str] = []

    def attempt() -> None:
        for path in (tmp_path / "pipe.png", Path("/dev/zero"), Path("/dev/tty")):
            try:
                picture.open(path)
            except PictureError as error:
                refused.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert len(refused) == 3


def test_mask(tmp_path: Path) -> None:
    mask = np.zeros((6, 9), np.uint8)
    mask[2:4, 3:5] = 255
    for source in (mask, mask > 0, mask // 255, encoded(Image.fromarray(mask), "PNG"), mask / 255):
        found = picture.open_mask(source, (6, 9))
        assert found.dtype == np.float32
        assert (found == mask / 255).all()
    ones = Image.fromarray(mask // 255)
    for source in (ones, encoded(ones, "PNG"), encoded(ones.convert("RGB"), "PNG"), encoded(ones.convert("LA"), "PNG")):
        assert (picture.open_mask(source, (6, 9)) == mask / 255).all()
    hidden = np.dstack([np.full((6, 9, 3), 255, np.uint8), mask])
    assert (picture.open_mask(hidden, (6, 9)) == mask / 255).all()
    with pytest.raises(RequestError, match=r"9 x 6 .* 6 x 9"):
        picture.open_mask(mask, (9, 6))
