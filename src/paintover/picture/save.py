"""Pixels out: one file, written whole or not at all, with everything it carried and how it was made."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from paintover.errors import RequestError
from paintover.picture import provenance as words
from paintover.picture.metadata import Metadata, exif_to_write

_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True, "quality": 50},  # quality: here the effort spent on a smaller file
    "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
    "TIFF": {"compression": None},  # Pillow's compressing TIFF writer cannot hold the EXIF directories
}
_XMP_TAG = 700
_JPEG_BYTES = 65_000  # of EXIF, and of XMP: one APP1 segment each
_MOST_SIDE = {"WEBP": 16_383, "JPEG": 65_500}


class Pixels(Protocol):
    """What can be saved: a Picture, a Closed, an EditResult."""

    @property
    def rgb_HWC(self) -> NDArray[Any]: ...
    @property
    def alpha_HW(self) -> NDArray[Any] | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """One file to write: see `save`. `pixels` of two axes are grey, for PNG alone."""

    path: str | os.PathLike[str]
    pixels: Pixels | NDArray[Any]
    metadata: Metadata | None = None
    provenance: dict[str, Any] | None = None


def check_target(
    path: str | os.PathLike[str], force: bool = False, alpha: bool = False, size_HW: tuple[int, int] = (1, 1)
) -> Path:
    """The path, if a picture (of that size; with transparency, if `alpha`) can be written there; for before any model work.

    Raises RequestError for an unknown suffix, a JPEG that should hold transparency, a side longer than the format can hold, a
    missing or unwritable folder, a folder or device in the place of the file, and a file that exists unless `force`.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in _FORMATS:
        raise RequestError(f"{target}: cannot write {suffix or 'a file without a suffix'}; use one of {', '.join(_FORMATS)}")
    if alpha and _FORMATS[suffix] == "JPEG":
        raise RequestError(f"{target}: JPEG holds no transparency and the picture has some; use .png, .webp or .tiff")
    side = max(size_HW)
    if side > (most := _MOST_SIDE.get(_FORMATS[suffix], side)):
        raise RequestError(f"{target}: {suffix} holds up to {most} pixels a side, the picture has {side}; use .png or .tiff")
    try:
        if not target.parent.is_dir():
            raise RequestError(f"{target}: the folder {target.parent} does not exist; make it or choose another")
        if target.exists():
            if not target.is_file():
                raise RequestError(f"{target}: is a folder or a device, not a file that can be replaced; choose another name")
            if not force:
                raise RequestError(f"{target}: exists already; use --force (force=True) or another name")
        probe = _temporary(target)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
    except (OSError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{target}: cannot be written ({_reason(error)}); choose another place") from None
    return target


def check_words(
    path: str | os.PathLike[str], metadata: Metadata | None, provenance: dict[str, Any], keep_location: bool = False
) -> None:
    """Raises RequestError where the format has no room for what goes with the pixels; to be called before any model work."""
    target = Path(path)
    kind = _FORMATS[target.suffix.lower()]
    _encoded(Image.new("RGB", (1, 1)), kind, target, _options(kind, target, metadata, provenance, keep_location))


def save(
    path: str | os.PathLike[str],
    pixels: Pixels | NDArray[Any],
    metadata: Metadata | None = None,
    provenance: dict[str, Any] | None = None,
    force: bool = False,
    keep_location: bool = False,
) -> Path:
    """Writes uint8 pixels (a Picture, Closed or EditResult, or an array HWC with 3 or 4 channels) and returns the path.

    PNG, WebP (lossless), TIFF (uncompressed) keep every bit; JPEG is written at quality 95 without colour subsampling.
    `metadata` is that of the picture which was edited, None for one made from words: its colour profile, resolution and EXIF go
    into the file, the GPS position only with `keep_location`. `provenance` is JSON, found again by `provenance.read`, and marks
    the file as made with AI. The old file, if any, stays whole until the new one is on the disk. Raises RequestError as
    `check_target` does, and when EXIF or provenance are too long for a JPEG.
    """
    [saved] = save_all([File(path, pixels, metadata, provenance)], force, keep_location)
    return saved


def save_all(files: Sequence[File], force: bool = False, keep_location: bool = False) -> list[Path]:
    """Files that belong together, as `save` writes one: they take their places only once all of them are on the disk."""
    ready = [_ready(file, force, keep_location) for file in files]
    _replace(ready)
    return [target for target, _ in ready]


def _ready(file: File, force: bool, keep_location: bool) -> tuple[Path, memoryview]:
    pixels = file.pixels
    if isinstance(pixels, np.ndarray) and pixels.ndim == 2:
        target = check_target(file.path, force, size_HW=(pixels.shape[0], pixels.shape[1]))
        return target, _encoded(Image.fromarray(pixels), "PNG", target, _OPTIONS["PNG"])
    if isinstance(pixels, np.ndarray):
        rgb_HWC, alpha_HW = pixels[:, :, :3], pixels[:, :, 3] if pixels.shape[2] == 4 else None
    else:
        rgb_HWC, alpha_HW = pixels.rgb_HWC, pixels.alpha_HW
    if rgb_HWC.dtype != np.uint8:
        raise ValueError(f"pixels to save must be uint8, not {rgb_HWC.dtype}")
    alpha = alpha_HW is not None and int(alpha_HW.min()) < 255
    target = check_target(file.path, force, alpha, (rgb_HWC.shape[0], rgb_HWC.shape[1]))
    kind = _FORMATS[target.suffix.lower()]
    if alpha_HW is None or kind == "JPEG":
        image = Image.fromarray(np.ascontiguousarray(rgb_HWC))
    else:
        image = Image.fromarray(np.dstack([rgb_HWC, alpha_HW]))
    return target, _encoded(image, kind, target, _options(kind, target, file.metadata, file.provenance, keep_location))


def _encoded(image: Image.Image, kind: str, target: Path, options: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except Exception as error:  # Pillow's encoders raise almost anything where a format has no room
        raise RequestError(f"{target}: cannot be written as {kind} ({_reason(error)}); use another format") from None
    return buffer.getbuffer()


def _options(
    kind: str, target: Path, metadata: Metadata | None, provenance: dict[str, Any] | None, keep_location: bool
) -> dict[str, Any]:
    """Pillow's options for one format."""
    options = dict(_OPTIONS[kind])
    if metadata is not None:
        exif = exif_to_write(metadata.exif, keep_location=keep_location) if metadata.exif else None
        found = {"icc_profile": metadata.icc, "dpi": metadata.dpi, "exif": exif}
        options |= {key: value for key, value in found.items() if value}
        if kind == "JPEG" and exif is not None and len(exif) > _JPEG_BYTES:
            raise RequestError(f"{target}: the picture's EXIF is too long to be kept in a JPEG; use .png or .webp")
    if provenance is not None:
        packet = words.to_xmp(provenance, composite=metadata is not None)
        if kind == "PNG":
            options["pnginfo"] = chunks = PngInfo()
            chunks.add_itxt(words.KEYWORD, words.to_json(provenance), zip=len(packet) > 2000)
            chunks.add_itxt("XML:com.adobe.xmp", packet.decode())
        elif kind == "TIFF":
            tags = Image.Exif()  # Pillow's TIFF writer takes either EXIF or single tags, not both
            tags.load(options.get("exif", b""))
            tags[_XMP_TAG] = packet
            options["exif"] = tags
        elif kind == "JPEG" and len(packet) > _JPEG_BYTES:
            raise RequestError(f"{target}: the request is too long to be kept in a JPEG; use .png or .webp")
        else:
            options["xmp"] = packet
    return options


def _replace(files: Sequence[tuple[Path, memoryview]]) -> None:
    """Atomic write: a file beside each target, all flushed to the disk, then renamed over the targets."""
    written: list[tuple[Path, Path]] = []
    target = files[0][0]
    try:
        try:
            for target, data in files:
                beside = _temporary(target)
                descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
                written.append((beside, target))
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            for beside, target in written:
                os.replace(beside, target)
        except BaseException:
            for beside, _ in written:
                beside.unlink(missing_ok=True)
            raise
        if hasattr(os, "O_DIRECTORY"):  # the rename itself must reach the disk too
            for place in {target.parent for target, _ in files}:
                folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
    except OSError as error:
        raise RequestError(f"{target}: cannot be written ({_reason(error)}); choose another place") from None


def _temporary(target: Path) -> Path:
    """A hidden name beside the target: the same disk, so that the rename is one step."""
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")  # 40 characters: up to 160 of 255 bytes


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
