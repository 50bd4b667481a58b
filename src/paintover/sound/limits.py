"""Limits on what may be heard. Bytes, channels and rates over them are refused before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

RATES = (1000, 384_000)  # Hz of a file: what is slower is no sound, what is faster nothing records
MOST_CHANNELS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one sound may be: `max_bytes` on disk, over which `open` raises SoundError.

    `max_seconds` are decoded, whatever the file's header says of its length; of a longer sound the first ones, with a note.
    """

    max_bytes: int = 200 << 20
    max_seconds: float = 600


DEFAULT = Limits()
