"""Pixels in: one Picture from a file, bytes, a Pillow image or an array; one mask that fits it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from paintover.errors import PictureError, RequestError
from paintover.picture import colour
from paintover.picture.limits import DEFAULT, Limits
from paintover.picture.metadata import Metadata, read_dpi, read_exif
from paintover.picture.source import check_size, decode, open_header, read_bytes

Source = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture as it is seen: upright, in 8-bit sRGB.

    `rgb_HWC` is uint8 sRGB, `alpha_HW` uint8 or None (straight, not premultiplied). `native_rgb_HWC` holds the same pixels
    in the file's own colour space when it carries an RGB profile other than sRGB, and is None otherwise: from these,
    untouched pixels are given back. `sha256` is that of the file's bytes, or of the pixels where there is no file.
    `name` is for messages. The output has 8 bits a channel: of a 16-bit file, "untouched" means equal to its 8-bit rounding.
    """

    rgb_HWC: NDArray[np.uint8]
    alpha_HW: NDArray[np.uint8] | None
    sha256: str
    metadata: Metadata = field(default_factory=Metadata)
    warnings: tuple[str, ...] = ()
    native_rgb_HWC: NDArray[np.uint8] | None = None
    name: str = "picture"

    @property
    def size_HW(self) -> tuple[int, int]:
        """Height and width in pixels, upright."""
        return self.rgb_HWC.shape[0], self.rgb_HWC.shape[1]


def open(source: Source, limits: Limits = DEFAULT) -> Picture:
    """Opens a path, a file's bytes, a Pillow image, or an array (HW or HWC with 1, 3, 4 channels; uint8, uint16, bool, or
    float 0..1; taken as sRGB).

    EXIF orientation is applied once; ICC colours become sRGB; of an animation the first frame is taken, with a warning.
    Raises PictureError, one line saying which file and why, for whatever is no picture or over a limit.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    image, name, sha256 = _image_of(source, limits)
    notes = decode(image, name, limits)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # only the orientation is unreadable, the pixels are fine
        upright = image.copy()
    try:
        exif, exif_notes = read_exif(image)
        icc = image.info.get("icc_profile")
        icc = icc if isinstance(icc, bytes) else None
        pixels, alpha_HW, mode_notes = colour.split(upright)
        rgb_HWC, native_HWC, colour_notes = colour.to_srgb(pixels, icc)
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except Exception as error:  # palettes and colour tables out of range surface only in the conversion
        raise PictureError(f"{name}: broken pixels ({str(error)[:100]}); save it anew with another program") from None
    usable_icc = icc if pixels.mode == "RGB" and not colour_notes else None
    metadata = Metadata(format=image.format, mode=image.mode, icc=usable_icc, exif=exif, dpi=read_dpi(image))
    warnings = (*notes, *exif_notes, *mode_notes, *colour_notes)
    if sha256 is None:  # of the pixels as they are seen: palette, profile and orientation have their part in them
        sha256 = _digest(f"{image.mode} {rgb_HWC.shape}", rgb_HWC, alpha_HW, native_HWC)
    return Picture(rgb_HWC, alpha_HW, sha256, metadata, warnings, native_HWC, name)


def open_mask(source: Source, native_HW: tuple[int, int], limits: Limits = DEFAULT) -> NDArray[np.float32]:
    """A mask as float32 0..1 of shape `native_HW`: its brightness, white where the edit may go; transparent counts as black.

    A mask whose largest value is 1 (of 255), as segmentations are kept, is read as 0 and 1. Raises PictureError as `open`
    does, and RequestError when its size (upright) is not the picture's.
    """
    if isinstance(source, np.ndarray) and source.dtype.kind in "iu" and source.size and int(source.max()) == 1:
        source = source.astype(bool)
    mask = open(source, limits)
    if mask.size_HW != tuple(native_HW):
        (height, width), (wanted_height, wanted_width) = mask.size_HW, native_HW
        raise RequestError(
            f"the mask is {width} x {height} but the picture is {wanted_width} x {wanted_height}; give a mask of that size"
        )
    grey = np.array(Image.fromarray(mask.rgb_HWC).convert("L"), dtype=np.float32)
    grey /= np.float32(1 if grey.max() == 1 else 255)
    return grey if mask.alpha_HW is None else grey * mask.alpha_HW.astype(np.float32) / np.float32(255)


def _image_of(source: Any, limits: Limits) -> tuple[Image.Image, str, str | None]:
    """A Pillow image within the limits, its name for messages, and the digest of the file, if it came from one."""
    if isinstance(source, Image.Image):
        check_size(*source.size, "the picture", limits)
        decode(source, "the picture", limits)
        return source, "the picture", None
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), "the picture"
        if not data:
            raise PictureError("the picture is empty (0 bytes)")
        if len(data) > limits.max_bytes:
            raise PictureError(f"the picture is over the limit of {limits.max_bytes} bytes; raise max_bytes if you trust it")
    elif isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        data = read_bytes(Path(name), limits)
    else:
        raise PictureError(f"a picture cannot be a {type(source).__name__}; give a path, bytes, a Pillow image or an array")
    return open_header(data, name, limits), name, hashlib.sha256(data).hexdigest()


def _from_array(array: NDArray[Any], limits: Limits) -> Picture:
    shape = "x".join(map(str, array.shape))
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise PictureError(f"an array of shape {shape} is no picture; give HxW or HxWxC with 1, 3 or 4 channels")
    check_size(array.shape[1], array.shape[0], "the array", limits)
    if array.dtype == np.uint8:
        pixels = array.copy()
    elif array.dtype == np.uint16:
        pixels = (array.astype(np.float32) / 257 + 0.5).astype(np.uint8)
    elif array.dtype == np.bool_:
        pixels = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        pixels = (array * 255 + 0.5).astype(np.uint8)
    else:
        raise PictureError(
            f"an array of {array.dtype} with these values is no picture; give uint8, uint16, bool or floats in 0..1"
        )
    rgb_HWC = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[:, :, :3])
    alpha_HW = np.ascontiguousarray(pixels[:, :, 3]) if pixels.shape[2] == 4 else None
    return Picture(rgb_HWC, alpha_HW, _digest(f"{array.dtype} {shape}", array), name="the array")


def _digest(kind: str, *planes: NDArray[Any] | None) -> str:
    digest = hashlib.sha256(kind.encode() + b"\0")
    for plane in planes:
        digest.update(b"" if plane is None else np.ascontiguousarray(plane).tobytes())
    return digest.hexdigest()
