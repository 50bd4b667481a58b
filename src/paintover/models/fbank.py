"""Log mel filter banks of sound, as Kaldi makes them and ImageBind's audio branch was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATE = 16_000  # Hz
WINDOW, HOP, SIZE = 400, 160, 512  # samples: 25 ms every 10 ms, transformed at the next power of two
_LOWEST = 20.0  # Hz
_EMPHASIS = 0.97
_FLOOR = torch.finfo(torch.float32).eps  # of the energies, so that silence has a logarithm


def fbank(wave_T: Tensor, bins: int = 128) -> Tensor:
    """Mono sound at 16 kHz -> log mel energies bank_FM, float32, one row every 10 ms: 1 + (T - 400) // 160, whole windows only.

    Kaldi's filter bank without dither and energy: each window loses its own mean (so the sound's mean is of no consequence),
    is pre-emphasised by 0.97, and weighed by a symmetric Hann window; `bins` triangles in mel between 20 Hz and 8 kHz take the
    power spectrum. A sound shorter than a window is continued by silence.
    """
    wave_T = wave_T.to(torch.float32)
    if len(wave_T) < WINDOW:
        wave_T = torch.nn.functional.pad(wave_T, (0, WINDOW - len(wave_T)))
    frames_FT = wave_T.unfold(0, WINDOW, HOP)
    frames_FT = frames_FT - frames_FT.mean(dim=1, keepdim=True)
    before_FT = torch.cat([frames_FT[:, :1], frames_FT[:, :-1]], dim=1)
    hann_T = torch.hann_window(WINDOW, periodic=False, device=wave_T.device)
    power_FK = torch.fft.rfft((frames_FT - _EMPHASIS * before_FT) * hann_T, n=SIZE).abs() ** 2
    return (power_FK @ filters(bins).to(power_FK).T).clamp(min=_FLOOR).log()


def filters(bins: int) -> Tensor:
    """filters_MK: the weight of each frequency k * 16000 / 512 Hz in each triangle, which are even and half overlap in mel.

    A triangle may be narrower than the step between frequencies, and then stay empty.
    """
    low, high = _mel(_LOWEST), _mel(RATE / 2)
    edges = torch.linspace(low, high, bins + 2, dtype=torch.float64)
    left_M1, middle_M1, right_M1 = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    mel_K = torch.tensor([_mel(k * RATE / SIZE) for k in range(SIZE // 2 + 1)], dtype=torch.float64)
    rising_MK = (mel_K - left_M1) / (middle_M1 - left_M1)
    falling_MK = (right_M1 - mel_K) / (right_M1 - middle_M1)
    return torch.minimum(rising_MK, falling_MK).clamp(min=0).to(torch.float32)


def _mel(hertz: float) -> float:
    return 1127 * math.log1p(hertz / 700)
