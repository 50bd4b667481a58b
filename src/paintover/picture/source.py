"""The bytes of a picture file, read safely: regular files only, never more than the limit, never a wait on a pipe."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path

from PIL import Image

from paintover import reading
from paintover.errors import PictureError
from paintover.picture.limits import Limits
from paintover.reading import reason

# Formats that Pillow decodes by itself. EPS is left out because Pillow runs Ghostscript for it.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX",
    "PNG", "PPM", "PSD", "QOI", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
KNOWN = "PNG, JPEG, WebP, AVIF, TIFF, GIF, BMP, JPEG 2000 and a few more"
_pillow_limit = threading.Lock()


def read_bytes(path: Path, limits: Limits) -> bytes:
    """The file's bytes. Raises PictureError when it is missing, no regular file, empty, unreadable or too large."""
    return reading.read_bytes(path, limits.max_bytes, "picture", KNOWN, PictureError)


def open_header(data: bytes, name: str, limits: Limits) -> Image.Image:
    """A Pillow image whose header has been read and found within the limits; no pixel is decoded yet.

    Raises PictureError for anything that Pillow cannot identify and for pixels or frames over the limit.
    """
    try:
        # Pillow's own bomb check is a global below our default limit: raised for the moment of reading the header.
        with _pillow_limit, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = max(limits.max_pixels, before or 0)
            try:
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = before
        width, height = image.size
    except Image.DecompressionBombError:
        raise PictureError(
            f"{name}: over twice the limit of {limits.max_pixels} pixels; raise max_pixels (--max-pixels) if you trust it"
        ) from None
    except Image.UnidentifiedImageError:
        raise PictureError(f"{name}: not a picture that can be opened; give one of {KNOWN}") from None
    except Exception as error:  # Pillow's readers raise almost anything on a malformed header
        raise PictureError(f"{name}: malformed picture ({reason(error)}); save it anew with another program") from None
    check_size(width, height, name, limits)
    return image


def check_size(width: int, height: int, name: str, limits: Limits) -> None:
    """Raises PictureError for a picture without pixels or with more than the limit."""
    if width < 1 or height < 1:
        raise PictureError(f"{name}: the picture is {width} x {height}, it has no pixels")
    if width * height > limits.max_pixels:
        raise PictureError(
            f"{name}: {width} x {height} is over the limit of {limits.max_pixels} pixels; "
            "raise max_pixels (--max-pixels) if you trust it"
        )


def decode(image: Image.Image, name: str, limits: Limits) -> tuple[str, ...]:
    """Decodes the first frame in place and returns warnings. Raises PictureError when that fails or is over a limit."""
    notes = []
    try:
        frames = int(getattr(image, "n_frames", 1))
    except Exception:  # a broken second frame does not hurt the first, which is all we need
        frames = 1
    if frames > limits.max_frames:
        raise PictureError(
            f"{name}: {frames} frames are over the limit of {limits.max_frames}; "
            "raise max_frames (--max-frames) if you trust it"
        )
    if frames > 1 and image.format not in ("MPO", "PSD", "ICO"):  # there, the further ones are previews and layers
        notes.append(f"{name} has {frames} frames; the first is edited")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # Pillow's decoders raise almost anything on broken data
        raise PictureError(f"{name}: broken or cut off ({reason(error)}); save it anew with another program") from None
    check_size(*image.size, name, limits)  # an icon's real size is known only now
    return tuple(notes)
