"""The second stage of a cascade: it paints a small picture larger, told the same words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from paintover.models.codec import PixelUnshuffleCodec
from paintover.models.denoiser import Denoiser
from paintover.models.description import Upscaling


@dataclass(frozen=True, eq=False)
class Upscaler:
    """A network of its own, and what its source is like: the small picture, stretched, and noised to hide what it lacks.

    That noise, which the network is told the level of, is its noise conditioning augmentation (Ho et al. 2021, Cascaded
    Diffusion Models): trained to mistrust its source, it mends what the first stage did wrong. noising_alphas: alpha_bar of
    its levels, float32, beginning at the cleanest.
    """

    denoiser: Denoiser
    codec: PixelUnshuffleCodec
    about: Upscaling
    noising_alphas: Tensor

    @property
    def levels(self) -> int:
        return len(self.noising_alphas)

    def source(self, low_BCHW: Tensor, noise_BCHW: Tensor, level_B: Tensor) -> Tensor:
        """What its extra channels are fed: the small picture (pixels in [-1, 1]) as large as `noise`, noised to the levels."""
        a_B111 = self.noising_alphas[level_B.to(self.denoiser.device)].view(-1, 1, 1, 1)
        # Corners aligned, as diffusers' pipelines stretch it.
        large_BCHW = functional.interpolate(low_BCHW.float(), noise_BCHW.shape[2:], mode="bilinear", align_corners=True)
        return a_B111.sqrt() * large_BCHW + (1 - a_B111).sqrt() * noise_BCHW

    def told(self, level_B: Tensor) -> Tensor:
        """The levels as `pooled_B1` of a condition."""
        return level_B.float()[:, None].to(self.denoiser.device)


def levels(level: int, rows: int = 1) -> Tensor:
    """One level for every row."""
    return torch.full((rows,), level)
