"""Traces of a tuned picture in the prepare cache: its encoding, and what was made of it. They go when the tuning goes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from paintover.tuning import store
from paintover.tuning.store import Record

if TYPE_CHECKING:
    from paintover.engine.cache import PrepareCache


def forget(records: Iterable[Record], cache: PrepareCache | None = None, besides: Iterable[str] = ()) -> None:
    """Gives up what the cache holds of these tunings, on the disk and in memory.

    It is the cache that each was tuned with; and also `cache`, which may hold some of it in memory. besides: keys that stay.
    """
    stay = set(besides)
    for record in records:
        keys = [key for key in record.traces if key not in stay]
        if not keys:
            continue
        from paintover.engine.cache import PrepareCache, shared

        own = shared() if record.cache is None else PrepareCache(Path(record.cache))
        for key in keys:
            for one in (own,) if cache is None else (own, cache):
                one.forget(key)


def sweep() -> list[Record]:
    """Deletes tunings that have expired, with their traces, and says which."""
    gone = store.sweep()
    forget(gone)
    return gone
