"""Out of memory, however the allocator that ran out says it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from paintover.errors import PaintoverError, RequestError


def out_of_memory(error: Exception) -> bool:
    """True for an allocator's failure, of a CPU or of any accelerator; False for what we made of one already."""
    if isinstance(error, PaintoverError):
        return False
    words = str(error).lower()
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "out of memory" in words or "can't allocate memory" in words


@contextmanager
def enough_memory(doing: str) -> Iterator[None]:
    """Raises RequestError, in one line, where what is done inside runs out of memory. Decorates functions, too."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise RequestError(f"out of memory while {doing}; ask for a smaller picture or model") from None
