"""Colours: every kind of pixel that a file can hold to 8-bit sRGB, and edited sRGB back to the file's own colour space."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from paintover.errors import PictureError

Pixels = NDArray[np.uint8]


def split(image: Image.Image) -> tuple[Image.Image, Pixels | None, tuple[str, ...]]:
    """A decoded image as one of the modes L, RGB or CMYK with 8 bits a channel, its alpha, and warnings.

    16-bit values are scaled to 8 bits (divided by 257, or by 256 where Pillow's reader does it), not clipped. 32-bit integers
    are read as 16-bit when they fit, floats as 0..1 or 0..255 when they fit; otherwise their range is stretched to 0..255, with
    a warning. Palettes are looked up; a fully opaque alpha is kept, so that the output has the same channels as the input.
    """
    mode = image.mode
    if mode in ("1", "L", "RGB", "P") and "transparency" in image.info:
        image = image.convert("RGBA")
    elif mode.startswith("I") or mode == "F":
        grey, notes = _deep_grey(np.asarray(image))
        return Image.fromarray(grey), None, notes
    elif mode in ("P", "RGBX", "YCbCr", "LAB", "HSV"):
        palette_alpha = mode == "P" and image.palette is not None and image.palette.mode == "RGBA"
        image = image.convert("RGBA" if palette_alpha else "RGB")
    elif mode == "1":
        image = image.convert("L")
    elif mode in ("PA", "RGBa"):
        image = image.convert("RGBA")
    elif mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "RGBA"):
        alpha = np.array(image.getchannel("A"))
        return image.convert(image.mode[:-1]), alpha, ()
    if image.mode not in ("L", "RGB", "CMYK"):
        raise PictureError(f"pixels of the kind {mode!r} cannot be read; save the picture as 8-bit RGB")
    return image, None, ()


def _deep_grey(values: NDArray[Any]) -> tuple[Pixels, tuple[str, ...]]:
    """16- and 32-bit grey to 8 bits: by its nominal range if the values fit it, else stretched."""
    if values.dtype.itemsize == 2:
        return (values.astype(np.float32) / 257 + 0.5).astype(np.uint8), ()
    wide = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(wide.min()), float(wide.max())
    for nominal in (1.0, 255.0) if values.dtype.kind == "f" else (65535.0,):
        if low >= 0 and high <= nominal:
            return (wide * (255 / nominal) + 0.5).astype(np.uint8), ()
    note = f"grey values from {low:g} to {high:g} were stretched to 0..255"
    return ((wide - low) * (255 / max(high - low, 1e-300)) + 0.5).astype(np.uint8), (note,)


def to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Pixels, Pixels | None, tuple[str, ...]]:
    """(sRGB pixels, the RGB pixels as the file has them when its profile is not sRGB else None, warnings), HWC uint8.

    A profile that cannot be used is ignored with a warning, as picture viewers do.
    """
    plain = image.convert("RGB")
    if not icc:
        return np.array(plain), None, ()
    try:
        transform = _transform(icc, image.mode, to_file=False)
        if image.mode == "RGB" and _is_identity(transform):
            return np.array(plain), None, ()
        converted = ImageCms.applyTransform(image, transform)
        if converted is None:
            raise ValueError("no transform")
        if image.mode == "RGB":
            _transform(icc, "RGB", to_file=True)  # a profile that leads only one way could not be kept
    except Exception as error:  # littlecms reports every defect of a profile in its own words
        return (
            np.array(plain),
            None,
            (f"the colour profile cannot be used and is dropped ({' '.join(str(error).split())[:100]})",),
        )
    if image.mode == "RGB":
        return np.array(converted), np.array(plain), ()
    return np.array(converted), None, (f"the {image.mode} colours were converted to sRGB",)


def from_srgb(rgb_HWC: Pixels, icc: bytes) -> Pixels:
    """sRGB pixels in the colour space of an RGB profile that `to_srgb` accepted."""
    converted = ImageCms.applyTransform(Image.fromarray(rgb_HWC), _transform(icc, "RGB", to_file=True))
    assert converted is not None
    return np.asarray(converted)


def _transform(icc: bytes, mode: str, *, to_file: bool) -> ImageCms.ImageCmsTransform:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    srgb = ImageCms.createProfile("sRGB")
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    if to_file:
        return ImageCms.buildTransform(srgb, profile, "RGB", mode, intent, flags)
    return ImageCms.buildTransform(profile, srgb, mode, "RGB", intent, flags)


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether the profile is sRGB in all but name: no colour of a coarse cube moves by more than one level."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(27, 27, 3)
    moved = ImageCms.applyTransform(Image.fromarray(cube), transform)
    return moved is not None and int(np.abs(np.asarray(moved).astype(np.int16) - cube).max()) <= 1
