"""A wave at another rate, block by block, so that a long sound of a high rate is never held as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import gcd

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]

_BLOCK = 1 << 18  # samples resampled at a time, about


def resampled(blocks_T: Iterable[Wave], source: int, rate: int) -> Iterator[Wave]:
    """Mono blocks at `source` Hz -> blocks at `rate` Hz; joined, they are what scipy's resample_poly makes of the whole."""
    if source == rate:
        yield from blocks_T
        return
    from scipy.signal import firwin, resample_poly

    up, down = rate // gcd(source, rate), source // gcd(source, rate)
    most = max(up, down)
    half = 10 * most  # resample_poly's own filter, made once
    taps = firwin(2 * half + 1, 1 / most, window=("kaiser", 5.0)).astype(np.float32)
    body = -(-_BLOCK // down) * down  # blocks begin where a sample of either rate is
    margin = (half // up // down + 2) * down  # the filter reaches no further
    held, before = np.zeros(0, np.float32), 0  # what waits, the first `before` samples of it being told already
    for block_T in blocks_T:
        held = np.concatenate([held, block_T])
        while len(held) >= before + body + margin:
            wave_T = resample_poly(held[: before + body + margin], up, down, window=taps)
            yield wave_T[before * up // down : (before + body) * up // down]
            done = before + body
            before = min(done, margin)
            held = held[done - before :]
    if len(held) > before:
        yield resample_poly(held, up, down, window=taps)[before * up // down :]
