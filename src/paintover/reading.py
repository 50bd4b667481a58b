"""The bytes of a file that somebody names, read safely: regular files only, no more than the limit, no wait on a pipe."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from paintover.errors import PaintoverError


def read_bytes(path: Path, most: int, what: str, known: str, error: type[PaintoverError]) -> bytes:
    """The file's bytes, at most `most`. what: "picture", known: the formats of it that can be read; both for messages.

    Raises `error` when the file is missing, no regular file, empty, unreadable or too large.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(f"{path}: no such file; give the path of a {what}") from None
    except (OSError, ValueError) as failed:
        raise error(f"{path}: cannot be read ({reason(failed)}); give the path of a readable {what}") from None
    try:
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise error(f"{path}: not a regular file; give the path of a {what}")
            # No more than the file is long: Python sets aside at once what it is asked to read at most.
            data = file.read(min(about.st_size, most) + 1)
    except (OSError, MemoryError) as failed:
        raise error(f"{path}: cannot be read ({reason(failed)}); give the path of a readable {what}") from None
    if not data:
        raise error(f"{path}: the file is empty; give a {what} ({known})")
    if len(data) > most:
        raise error(f"{path}: the file is over the limit of {most} bytes; raise max_bytes (--max-bytes) if you trust it")
    return data


def reason(error: BaseException) -> str:
    """What went wrong, in a line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
