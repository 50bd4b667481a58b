"""Limits on what may be opened. They are read from the header, before any pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one picture may be; over one of them `open` raises PictureError and names the field that raises it.

    `max_bytes` on disk, `max_pixels` (width x height of one frame), `max_frames` (of an animation or a multi-page file).
    """

    max_bytes: int = 200 << 20
    max_pixels: int = 100_000_000
    max_frames: int = 1000


DEFAULT = Limits()
