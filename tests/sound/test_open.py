"""Sounds in: any file, one mono wave at one rate; whatever is none is one clear line."""

from __future__ import annotations

import io
import os
import struct
import threading
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from paintover import sound
from paintover.errors import SoundError
from paintover.sound import Limits
from paintover.sound.resample import resampled


def tone(seconds: float = 1.0, rate: int = 16_000, hertz: float = 440, loud: float = 0.5) -> np.ndarray[Any, Any]:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(wave: np.ndarray[Any, Any], rate: int = 16_000, kind: str = "WAV", bits: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=bits)
    return buffer.getvalue()


def strength(wave: np.ndarray[Any, Any], rate: int, hertz: float) -> float:
    """How loud the wave is at a frequency, whatever the phase."""
    angles = 2 * np.pi * hertz * np.arange(len(wave)) / rate
    return 2 * abs(np.mean(wave * np.exp(-1j * angles)))


@pytest.mark.parametrize(
    ("kind", "bits", "most"),
    [
        ("WAV", "PCM_U8", 1 / 128),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("FLAC", "PCM_24", 1e-6),
        ("AIFF", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.07),  # it overshoots at the beginning, so the whole is made a little quieter
        ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_every_format_sounds_alike(kind, bits, most, tmp_path):
    wave = tone()
    (tmp_path / "a.x").write_bytes(encoded(wave, kind=kind, bits=bits))
    heard = sound.open(tmp_path / "a.x")
    assert heard.wave.dtype == np.float32
    assert heard.rate == sound.RATE
    assert heard.notes == ()
    assert heard.name.endswith("a.x")
    assert abs(heard.seconds - 1) < 0.1  # lossy ones may be padded
    if kind in ("OGG", "MP3"):
        assert abs(strength(heard.wave, 16_000, 440) - 0.5) < most
    else:
        assert heard.wave.shape == wave.shape
        assert np.abs(heard.wave - wave).max() <= most


def test_a_path_and_its_bytes_are_the_same(tmp_path):
    data = encoded(tone())
    (tmp_path / "a.wav").write_bytes(data)
    by_path, by_bytes = sound.open(str(tmp_path / "a.wav")), sound.open(data)
    assert by_path.sha256 == by_bytes.sha256
    assert np.array_equal(by_path.wave, by_bytes.wave)
    assert by_path.sha256 != sound.open(encoded(tone(hertz=441))).sha256


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_mixed_evenly(channels):
    levels = np.arange(1, channels + 1) / channels
    heard = sound.open(encoded(tone()[:, None] * levels, bits="FLOAT"))
    assert np.abs(heard.wave - tone() * levels.mean()).max() < 1e-6


@pytest.mark.parametrize("rate", [1000, 8000, 11_025, 22_050, 44_100, 48_000, 96_000, 384_000])
def test_other_rates_keep_the_tone_and_how_long_it_is(rate):
    heard = sound.open(encoded(tone(0.5, rate, 250), rate, bits="FLOAT"))
    assert abs(len(heard.wave) - 8000) <= 1
    assert abs(strength(heard.wave[1000:7000], 16_000, 250) - 0.5) < 0.01
    other = sound.open(encoded(tone(0.5, rate, 250), rate, bits="FLOAT"), 8000)
    assert (other.rate, abs(len(other.wave) - 4000) <= 1) == (8000, True)
    assert abs(strength(heard.at(8000)[500:3500], 8000, 250) - 0.5) < 0.01
    assert heard.at(16_000) is not heard.wave


def test_what_a_slower_rate_cannot_hold_is_gone():
    heard = sound.open(encoded(tone(1, 48_000, 11_000), 48_000, bits="FLOAT"))
    assert np.abs(heard.wave[2000:-2000]).max() < 0.01  # not folded back to 5 kHz


@given(
    sizes=st.lists(st.integers(1, 400_000), min_size=1, max_size=4),
    source=st.sampled_from([8000, 11_025, 22_050, 44_100, 48_000, 44_101]),
)
@settings(max_examples=12, deadline=None)
def test_block_by_block_is_what_the_whole_is(sizes, source):
    from scipy.signal import resample_poly

    whole = np.random.default_rng(0).standard_normal(sum(sizes)).astype(np.float32)
    joined = np.concatenate(list(resampled(np.split(whole, np.cumsum(sizes)[:-1]), source, 16_000)))
    divisor = np.gcd(16_000, source)
    expected = resample_poly(whole, 16_000 // divisor, source // divisor)
    assert joined.shape == expected.shape
    assert np.abs(joined - expected).max() < 1e-4


@given(st.binary(max_size=300), st.sampled_from(["", "WAV", "FLAC", "OGG", "MP3", "AIFF"]), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_it_is_a_sound_or_a_line(junk, kind, seed):
    """Noise, and good files with junk put over some place of them."""
    data = bytearray(encoded(tone(0.1), kind=kind) if kind else b"")
    at = seed % (len(data) + 1)
    data[at : at + len(junk)] = junk
    try:
        heard = sound.open(bytes(data))
    except SoundError as error:
        assert "\n" not in str(error)  # noqa: PT017 (it may be a sound as well)
    else:
        assert np.isfinite(heard.wave).all()
        assert np.abs(heard.wave).max(initial=0) <= 1


def wav(frames: int, rate: int, data: bytes, channels: int = 1) -> bytes:
    """A 16-bit WAV whose header claims what it likes."""
    size = min(frames * channels * 2, 2**32 - 1)
    head = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2 % 2**32, channels * 2, 16)
    return (
        b"RIFF" + struct.pack("<I", min(size + 36, 2**32 - 1)) + b"WAVEfmt " + head + b"data" + struct.pack("<I", size) + data
    )


def test_a_header_that_claims_much_is_not_believed():
    heard = sound.open(wav(2**31 - 1, 16_000, tone().astype(np.float32).tobytes()[:3200]))
    assert heard.wave.shape == (1600,)
    assert heard.seconds == 0.1


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "OGG", "MP3"])
def test_a_file_that_was_cut_off(kind):
    """What there is of it is heard, or it is refused; the rest is never made up."""
    data = encoded(tone(2), kind=kind)
    try:
        heard = sound.open(data[: len(data) // 2])
    except SoundError as error:
        assert "broken or cut off" in str(error)  # noqa: PT017 (likewise)
    else:
        assert len(heard.wave) < 1.2 * 16_000
        assert np.abs(heard.wave).max() > 0.4


def test_of_a_long_sound_the_first_minutes_are_heard():
    heard = sound.open(encoded(tone(20, 8000), 8000), limits=Limits(max_seconds=7.5))
    assert heard.wave.shape == (7.5 * 16_000,)
    assert heard.seconds == 20
    assert heard.notes == ("the sound is longer than 7.5 seconds; the first 7.5 are heard",)
    whole = sound.open(encoded(tone(7.5, 8000), 8000), limits=Limits(max_seconds=7.5))
    assert (whole.seconds, whole.notes) == (7.5, ())


def test_an_hour_is_not_held_as_a_whole():
    """A file of a few hundred kilobytes that decodes to an hour: what is decoded, is decoded in blocks and to the limit."""
    data = encoded(np.zeros(3600 * 8000, np.int16), 8000, "FLAC")
    heard = sound.open(data)
    assert heard.wave.shape == (600 * 16_000,)
    assert heard.seconds == 3600


def test_silence_is_a_sound_with_a_note():
    heard = sound.open(encoded(np.zeros(1600)))
    assert not heard.wave.any()
    assert heard.notes == ("the sound is silent",)
    assert sound.open(encoded(tone(0.1, loud=1e-3))).notes == ()


def test_what_is_too_loud_is_made_quieter_as_a_whole():
    heard = sound.open(encoded(tone(0.1, loud=0.5) * 5, bits="FLOAT"))
    assert np.abs(heard.wave - tone(0.1, loud=1)).max() < 1e-3
    assert "2.5 times louder than full scale" in heard.notes[0]
    square = np.sign(tone(0.5, 48_000, 100) + 1e-9)  # a filter overshoots where it falls
    heard = sound.open(encoded(square, 48_000, bits="FLOAT"))
    assert np.abs(heard.wave).max() == 1
    assert heard.notes == ()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.wav", b"", "the file is empty"),
        ("words.wav", b"just some words\n" * 20, "not a sound that can be opened"),
        ("picture.ogg", b"\x89PNG\r\n\x1a\n" + bytes(200), "not a sound that can be opened"),
        ("none.wav", encoded(np.zeros(0)), "holds no sound, it is 0 seconds long"),
        ("nan.wav", encoded(np.array([0, np.nan, 0.5]), bits="FLOAT"), "not finite"),
        ("inf.wav", encoded(np.array([0, np.inf, 0.5]), bits="FLOAT"), "not finite"),
        ("double.wav", encoded(np.array([0, 1e300, 0.5]), bits="DOUBLE"), "not finite"),
        ("slow.wav", wav(100, 1, bytes(200)), "its rate is 1 Hz"),
        ("fast.wav", wav(100, 1_000_000, bytes(200)), "its rate is 1000000 Hz"),
        ("wide.wav", wav(100, 16_000, bytes(2 * 100 * 100), 100), "has 100 channels"),
        ("header.wav", wav(100, 16_000, b"")[:30], "broken or cut off"),
    ],
)
def test_what_is_no_sound_is_told_in_a_line(name, data, says, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SoundError, match=says) as told:
        sound.open(tmp_path / name)
    assert str(tmp_path / name) in str(told.value)
    assert "\n" not in str(told.value)
    assert ";" in str(told.value) or "broken" in str(told.value)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name, says in {"gone.wav": "no such file", "folder.wav": "directory", "pipe.wav": "not a regular file"}.items():
        done = threading.Event()

        def ask(name: str = name, says: str = says, done: threading.Event = done) -> None:
            with pytest.raises(SoundError, match=says):
                sound.open(tmp_path / name)
            done.set()

        threading.Thread(target=ask, daemon=True).start()
        assert done.wait(30), name
    with pytest.raises(SoundError, match="cannot be read"):
        sound.open("nul\0.wav")
    with pytest.raises(SoundError, match="cannot be a int"):
        sound.open(3)  # type: ignore[arg-type]


def test_limits_on_bytes(tmp_path):
    data = encoded(tone(0.1))
    (tmp_path / "a.wav").write_bytes(data)
    limits = Limits(max_bytes=len(data) - 1)
    with pytest.raises(SoundError, match="--max-bytes"):
        sound.open(tmp_path / "a.wav", limits=limits)
    with pytest.raises(SoundError, match="max_bytes"):
        sound.open(data, limits=limits)
    assert len(sound.open(data, limits=Limits(max_bytes=len(data))).wave) == 1600


def test_sounds_in_memory():
    wave = tone(0.1, 8000)
    heard = sound.open((wave, 8000))
    assert np.array_equal(heard.wave, sound.open(encoded(wave, 8000, bits="FLOAT")).wave)
    assert np.abs(sound.open(((wave * 32768).astype(np.int16), 8000)).wave - heard.wave).max() < 1e-4
    assert np.abs(sound.open(((wave * 128 + 128).astype(np.uint8), 8000)).wave - heard.wave).max() < 0.02
    stereo = sound.open((np.stack([wave, 0 * wave], axis=1), 8000))
    assert np.abs(stereo.wave - heard.wave / 2).max() < 1e-6
    assert len({heard.sha256, stereo.sha256, sound.open((wave, 8001)).sha256}) == 3
    for wrong in ((wave, 8000.0), (wave, True), (wave, 1), ([0.1], 8000), (wave[None, None], 8000), (wave > 0, 8000)):
        with pytest.raises(SoundError, match="sound"):
            sound.open(wrong)
    with pytest.raises(SoundError, match="0 seconds"):
        sound.open((wave[:0], 8000))
