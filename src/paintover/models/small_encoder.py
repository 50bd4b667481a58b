"""The built-in media encoder: two convolutional towers and the bundle's sentence encoder, trained to agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from paintover.models.conv_tower import ConvTower, ConvTowerConfig
from paintover.models.media import Pixels, Wave
from paintover.models.text import TextEncoder

RATE = 16_000  # Hz
CLIP = 31_000  # samples of a clip: 1.94 s, as many as FRAMES of the spectrogram take
CLIPS = 3  # of a sound, spread over its length
BANDS, FRAMES, WINDOW, HOP = 64, 192, 512, 160


class Pooled(nn.Module):
    """A convolutional tower whose cells one learnt query attends to: pixels_BCHW -> media_BE of length 1."""

    def __init__(self, tower: ConvTower, width: int) -> None:
        super().__init__()
        inside = tower.config.hidden_size
        self.tower, self.norm = tower, nn.LayerNorm(inside)
        self.query = nn.Parameter(torch.randn(1, 1, inside) * 0.02)
        self.attention = nn.MultiheadAttention(inside, 4, batch_first=True)
        self.out = nn.Linear(2 * inside, width)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        cells_BND = self.norm(self.tower(pixels_BCHW).last_hidden_state)
        found_B1D, _ = self.attention(self.query.expand(len(cells_BND), -1, -1), cells_BND, cells_BND, need_weights=False)
        return functional.normalize(self.out(torch.cat([found_B1D[:, 0], cells_BND.mean(dim=1)], dim=1)), dim=-1)


class SmallEncoder(nn.Module):
    """`models.media.MediaEncoder` with about 7 M parameters of its own. text: the bundle's sentence encoder, which is frozen.

    A picture is seen whole, in the middle of a grey square of `config["size"]` pixels. A sound is heard as CLIPS clips of 2
    seconds (fewer where it is shorter), each a log-mel spectrogram of BANDS x FRAMES, and what they say is averaged.
    """

    rate = RATE
    seconds = CLIPS * CLIP / RATE

    def __init__(
        self,
        text: TextEncoder,
        width: int = 256,
        size: int = 96,
        sights: Sequence[int] = (64, 128, 256),
        sounds: Sequence[int] = (32, 64, 128),
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"width": width, "size": size, "sights": list(sights), "sounds": list(sounds)}
        self.width, self.size = width, size
        self._text = (text,)  # in a tuple: it is the bundle's, and no part of what is saved here
        self.sight = Pooled(ConvTower(ConvTowerConfig(size, tuple(sights))), width)
        self.sound = Pooled(ConvTower(ConvTowerConfig(BANDS, tuple(sounds))), width)
        assert text.pooled_width is not None, "a sentence encoder makes a vector of the whole text"
        self.words = nn.Sequential(nn.Linear(text.pooled_width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.scale = nn.Parameter(torch.tensor(2.5))  # log of what cosines are multiplied by while it learns
        self.mel_FM: Tensor
        self.window_N: Tensor
        self.register_buffer("mel_FM", torch.from_numpy(_mel()), persistent=False)
        self.register_buffer("window_N", torch.hann_window(WINDOW), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.scale.device

    @torch.no_grad()
    def see(self, pictures: Sequence[Pixels]) -> Tensor:
        return self.sight(torch.stack([self.fitted(rgb_HWC) for rgb_HWC in pictures]).to(self.device)).float()

    @torch.no_grad()
    def hear(self, waves: Sequence[Wave]) -> Tensor:
        clips = [clips_of(wave) for wave in waves]
        heard_KE = self.sound(self.spectrogram(torch.cat(clips).to(self.device))).float()
        means = [part.mean(dim=0) for part in heard_KE.split([len(part) for part in clips])]
        return functional.normalize(torch.stack(means), dim=-1)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Tensor:
        return self.told(self.pooled(texts)).float()

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """The sentence encoder's vectors, each text read alone: its numbers would depend on its neighbours."""
        rows = [self._text[0].encode([text])[1] for text in texts]
        return torch.cat([row for row in rows if row is not None]).to(self.device)

    def told(self, pooled_BD: Tensor) -> Tensor:
        return functional.normalize(self.words(pooled_BD), dim=-1)

    def fitted(self, rgb_HWC: Pixels) -> Tensor:
        """pixels_CHW in -1..1: the whole picture in the middle of a grey square."""
        image = Image.fromarray(rgb_HWC).convert("RGB")
        scale = self.size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        square = Image.new("RGB", (self.size, self.size), (128, 128, 128))
        square.paste(
            image.resize((width, height), Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC),
            ((self.size - width) // 2, (self.size - height) // 2),
        )
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1

    def spectrogram(self, clips_BN: Tensor) -> Tensor:
        """Log-mel spectrograms as the sound tower takes them: (B, 3, BANDS, FRAMES), three times the same."""
        power_BFT = torch.stft(clips_BN, WINDOW, HOP, window=self.window_N, return_complex=True).abs().square()
        mel_BMT = (power_BFT.mT @ self.mel_FM).mT[:, :, :FRAMES]
        return ((mel_BMT + 1e-6).log10() / 3)[:, None].expand(-1, 3, -1, -1)


def clips_of(wave: Wave, count: int = CLIPS) -> Tensor:
    """clips_KN of a sound, evenly spread over its length, each as loud as the loudest moment allows; one of a short one."""
    samples = torch.from_numpy(np.ascontiguousarray(wave, np.float32))
    samples = samples / samples.abs().max().clamp(min=1e-4) if len(samples) else samples
    if len(samples) <= CLIP:
        return functional.pad(samples, (0, CLIP - len(samples)))[None]
    starts = np.linspace(0, len(samples) - CLIP, min(count, -(-len(samples) // CLIP))).round().astype(int)
    return torch.stack([samples[start : start + CLIP] for start in starts])


def _mel() -> np.ndarray[Any, Any]:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(WINDOW // 2 + 1, BANDS, 40.0, RATE / 2, RATE, norm=None, mel_scale="htk").astype(np.float32)
