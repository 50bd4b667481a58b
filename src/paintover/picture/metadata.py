"""What a picture file says besides its pixels, cleaned so that it can be written into another file."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

GPS = int(ExifTags.IFD.GPSInfo)
_EXIF = int(ExifTags.IFD.Exif)
# Of the main directory only what describes the photograph: the rest describes the old file's layout or holds its thumbnail.
_KEPT = {
    int(tag)
    for tag in (
        ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software,
        ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright,
        ExifTags.Base.Rating, ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor,
        ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject,
    )
}  # fmt: skip
_MAKER_NOTE, _INTEROP = 0x927C, 0xA005  # both hold offsets into the old file


@dataclass(frozen=True, slots=True)
class Metadata:
    """`icc` is the profile that the output pixels are in (None: sRGB); `exif` a block without orientation or thumbnail."""

    format: str | None = None
    mode: str = "RGB"
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None


def exif_block(source: Image.Exif, *, keep_location: bool) -> bytes | None:
    """The descriptive part of an EXIF block, or None when nothing is left. Raises what Pillow raises on malformed ones."""
    kept = Image.Exif()
    for tag in _KEPT & set(source):
        kept[tag] = source[tag]
    photo = {tag: value for tag, value in source.get_ifd(_EXIF).items() if tag not in (_MAKER_NOTE, _INTEROP)}
    if photo:
        kept[_EXIF] = photo
    location = dict(source.get_ifd(GPS))
    if location and keep_location:
        kept[GPS] = location
    return kept.tobytes() if len(kept) else None


def read_exif(image: Image.Image) -> tuple[bytes | None, tuple[str, ...]]:
    """An opened image's EXIF block with its location, ready to be written back, and warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            block = exif_block(image.getexif(), keep_location=True)
        if block is not None:
            Image.Exif().load(block)
        return block, ()
    except Exception:  # malformed metadata must not cost the user the picture
        return None, ("the EXIF data is malformed and will not be written back",)


def exif_to_write(block: bytes, *, keep_location: bool) -> bytes | None:
    """The block of a Metadata with its location dropped unless it is to be kept."""
    exif = Image.Exif()
    exif.load(block)
    return exif_block(exif, keep_location=keep_location)


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Resolution in dots per inch (x, y), or None when the file states none that makes sense."""
    value: Any = image.info.get("dpi")
    try:
        x, y = (float(v) for v in value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (x, y) if all(math.isfinite(v) and 1 < v <= 65535 for v in (x, y)) else None
