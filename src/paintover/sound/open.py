"""Sounds in: one Sound from a file, its bytes, or an array with its rate."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover.errors import SoundError
from paintover.reading import read_bytes, reason
from paintover.sound.limits import DEFAULT, MOST_CHANNELS, RATES, Limits
from paintover.sound.resample import Wave, resampled

RATE = 16_000  # Hz at which sounds are opened unless told otherwise: what media encoders hear
KNOWN = "WAV, FLAC, Ogg, Opus, MP3, AIFF, AU, CAF and a few more"
_QUIET = 2**-15  # the least that 16 bits can say
_BLOCK = 1 << 18  # samples decoded at a time, of all channels together

Source = str | os.PathLike[str] | bytes | tuple[NDArray[Any], int]


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A sound as it is heard: mono, in -1..1.

    `wave` is float32, of shape T, at `rate` Hz: the mean of the file's channels. It holds at most `Limits.max_seconds` of it;
    `seconds` is how long the file is. `sha256` is that of the file's bytes, or of the samples where there is no file. `notes`
    say what may surprise. `name` is for messages.
    """

    wave: Wave
    rate: int
    seconds: float
    sha256: str
    notes: tuple[str, ...] = ()
    name: str = "sound"

    def at(self, rate: int) -> Wave:
        """The wave at another rate: what an encoder hears that has one of its own."""
        return _fitting(list(resampled([self.wave], self.rate, rate)), 1.0)


def open(source: Source, rate: int = RATE, limits: Limits = DEFAULT) -> Sound:
    """Opens a path, a file's bytes, or (samples, their rate): T or TC, floats in -1..1 or integers of the whole range.

    Channels are mixed evenly and resampled to `rate`; what is louder than full scale is made quieter as a whole; of a long
    sound the first `limits.max_seconds` are heard. Raises SoundError, one line saying which file and why, for whatever is no
    sound (no samples, none that are finite, a rate that is none), or is over a limit.
    """
    if isinstance(source, tuple):
        return _from_array(source, rate, limits)
    data, name = _bytes_of(source, limits)
    with _decoding(name):
        import soundfile

        with soundfile.SoundFile(io.BytesIO(data)) as file:
            claimed, own = max(file.frames, 0), file.samplerate
            _check(own, file.channels, name)
            most = int(limits.max_seconds * own)
            heard = _Heard(name)
            waves = list(resampled(heard.mixed(_blocks(file, most)), own, rate))
            whole = heard.samples < most or not len(file.read(1, always_2d=True))
    seconds = (heard.samples if whole else max(heard.samples, claimed)) / own
    return heard.sound(waves, rate, seconds, hashlib.sha256(data).hexdigest(), None if whole else limits.max_seconds)


def _blocks(file: Any, most: int) -> Iterator[NDArray[Any]]:
    """The samples TC, at most `most` T: by what comes, never by what the header says will come."""
    size = max(1, _BLOCK // file.channels)
    while most > 0 and len(block_TC := file.read(min(size, most), dtype="float32", always_2d=True)):
        most -= len(block_TC)
        yield block_TC


class _Heard:
    """Blocks on their way from the file to a wave: how many samples there were, and how loud."""

    def __init__(self, name: str) -> None:
        self.name, self.samples, self.peak = name, 0, 0.0

    def mixed(self, blocks_TC: Iterator[NDArray[Any]]) -> Iterator[Wave]:
        """The channels' mean. Raises SoundError where a sample is not finite."""
        for block_TC in blocks_TC:
            mono_T = block_TC.mean(axis=1, dtype=np.float64)
            if not np.isfinite(mono_T).all() or np.abs(mono_T).max() > np.finfo(np.float32).max:
                raise SoundError(f"{self.name}: has samples that are not finite; save it anew with another program")
            self.samples += len(mono_T)
            self.peak = max(self.peak, float(np.abs(mono_T).max()))
            yield mono_T.astype(np.float32)

    def sound(self, waves: list[Wave], rate: int, seconds: float, sha256: str, cut: float | None) -> Sound:
        if not self.samples:
            raise SoundError(f"{self.name}: holds no sound, it is 0 seconds long; give another file")
        notes = []
        if cut is not None:
            notes.append(f"{self.name} is longer than {cut:g} seconds; the first {cut:g} are heard")
        if self.peak > 2:  # lossy files overshoot by less than that
            notes.append(f"{self.name} is {self.peak:.3g} times louder than full scale; it is heard at full scale")
        if self.peak < _QUIET:
            notes.append(f"{self.name} is silent")
        return Sound(_fitting(waves, self.peak), rate, seconds, sha256, tuple(notes), self.name)


def _fitting(waves: list[Wave], peak: float) -> Wave:
    """Joined, and within -1..1: a filter overshoots where a wave is cut at full scale."""
    wave_T = np.concatenate([np.zeros(0, np.float32), *waves])
    wave_T = wave_T / np.float32(peak) if peak > 1 else wave_T
    return np.clip(wave_T, -1, 1).astype(np.float32)


def _bytes_of(source: Any, limits: Limits) -> tuple[bytes, str]:
    """The file's bytes, and its name for messages."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not source:
            raise SoundError("the sound is empty (0 bytes)")
        if len(source) > limits.max_bytes:
            raise SoundError(f"the sound is over the limit of {limits.max_bytes} bytes; raise max_bytes if you trust it")
        return bytes(source), "the sound"
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return read_bytes(Path(name), limits.max_bytes, "sound", KNOWN, SoundError), name
    raise SoundError(f"a sound cannot be a {type(source).__name__}; give a path, bytes, or (samples, rate)")


def _check(own: int, channels: int, name: str) -> None:
    if not RATES[0] <= own <= RATES[1]:
        raise SoundError(f"{name}: its rate is {own} Hz; save it anew at {RATES[0]} to {RATES[1]}, for example {RATE}")
    if not 1 <= channels <= MOST_CHANNELS:
        raise SoundError(f"{name}: has {channels} channels; 1 to {MOST_CHANNELS} are heard, so save it anew in stereo")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """What libsndfile and its reader raise on a file that is none, or is broken, becomes a SoundError."""
    try:
        yield
    except SoundError:
        raise
    except ImportError:
        raise SoundError(f"{name}: sounds are read by soundfile, which is not installed; pip install soundfile") from None
    except Exception as error:
        why = reason(error).rpartition(">: ")[2].rstrip(".")
        if "not recognised" in why:
            raise SoundError(f"{name}: not a sound that can be opened; give one of {KNOWN}") from None
        raise SoundError(f"{name}: broken or cut off ({why}); save it anew with another program") from None


def _from_array(source: tuple[NDArray[Any], int], rate: int, limits: Limits) -> Sound:
    name = "the sound"
    if len(source) != 2 or not isinstance(source[0], np.ndarray) or isinstance(source[1], bool):
        raise SoundError("a sound in memory is (samples, rate): an array T or TC, and a whole number of Hz")
    samples, own = source
    if not isinstance(own, (int, np.integer)) or samples.ndim not in (1, 2):
        raise SoundError("a sound in memory is (samples, rate): an array T or TC, and a whole number of Hz")
    samples_TC: NDArray[Any] = samples.reshape(len(samples), -1) if samples.size else np.zeros((0, 1), np.float32)
    own = int(own)
    _check(own, samples_TC.shape[1], name)
    most = int(limits.max_seconds * own)
    scaled_TC = _scaled(samples_TC[:most])
    heard = _Heard(name)
    waves = list(resampled(heard.mixed(iter([scaled_TC] if len(scaled_TC) else [])), own, rate))
    digest = hashlib.sha256(f"{samples.dtype} {samples.shape} {own}\0".encode() + np.ascontiguousarray(samples).tobytes())
    cut = None if len(samples_TC) <= most else limits.max_seconds
    return heard.sound(waves, rate, len(samples_TC) / own, digest.hexdigest(), cut)


def _scaled(samples_TC: NDArray[Any]) -> NDArray[Any]:
    """Integers of the whole range as floats in -1..1; unsigned ones are silent in the middle."""
    kind = samples_TC.dtype.kind
    if kind == "f":
        return samples_TC
    if kind not in "iu":
        raise SoundError(f"an array of {samples_TC.dtype} is no sound; give floats in -1..1, or integers")
    half = 2.0 ** (8 * samples_TC.dtype.itemsize - 1)
    return samples_TC / half - (1.0 if kind == "u" else 0.0)
