"""Which code it is: what was computed by other code is not taken for what this would compute."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

import paintover

# What makes an edit of a picture. Not the rooms that only ask for one, or look at one.
_EDITS = ("conditions", "editors", "engine", "models", "orders", "path", "picture", "sound", "tuning")


@cache
def code(*more: str) -> str:
    """A fingerprint of the version and of every source file in the rooms that edit, and in those of `more`.

    Of the files, not a number to be raised by hand with each change of an algorithm: a number that is forgotten once mixes two
    algorithms for good, while a fingerprint that changes with a comment costs one preparation more.
    """
    root = Path(__file__).parents[1]
    found = sha256(paintover.__version__.encode())
    for file in sorted(file for room in (*_EDITS, *more) for file in (root / room).rglob("*.py")):
        found.update(f"\0{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return found.hexdigest()[:16]
