"""What tuning lowers: how badly the denoiser knows these pictures, told these words."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor

from paintover.models.denoiser import Denoiser, seen
from paintover.path.predict import Condition
from paintover.tuning.half import half, supported


@unique
class Stream(IntEnum):
    """Where chance comes from in a tuning: what is drawn for one of these is independent of all the others."""

    PICTURE = 0
    SECOND = 1  # Imagic's weights after its caption, DreamBooth's class beside the thing, textual inversion's contexts
    BLURRING = 2  # a cascade's second stage: what its source is noised by
    LARGE = 3  # a cascade's second stage: what its picture is noised by
    OTHER_SHAPES = 16  # and beyond: DreamBooth's pictures of a second shape in one step, of a third one, ...


def drawn(stream: int, i: int, shape: tuple[int, ...], timesteps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Timesteps t_B, uniform, and noise_BCHW of iteration i: the same whatever was drawn before, as a resumed run needs it."""
    seed = int(np.random.SeedSequence([stream, i]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(seed)
    t_B = torch.randint(0, timesteps, (shape[0],), generator=generator)
    return t_B.to(device), torch.randn(shape, generator=generator).to(device)


def denoising(denoiser: Denoiser, x0_BCHW: Tensor, t_B: Tensor, noise_BCHW: Tensor, c: Condition) -> Tensor:
    """The mean squared error of what the network predicts, for pictures x0 that noise has been put on (DDPM, equation 14).

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise. Of the noise where it predicts noise (UniTune's loss), of v or of x0 where it
    predicts those: what it was trained to. c: told to every row, its tokens B = 1 or one a row, its source picture likewise.
    """
    rows = len(x0_BCHW)
    x_BCHW = denoiser.noised(x0_BCHW, noise_BCHW, t_B)
    pooled = None if c.pooled_BD is None else c.pooled_BD.expand(rows, -1)
    beside = None if c.image_BCHW is None else c.image_BCHW.expand(rows, -1, -1, -1)
    with autocast(denoiser.device):
        output_BDHW = denoiser.output(x_BCHW, t_B, c.tokens_BLD.expand(rows, -1, -1), pooled, beside)
    said_BCHW = output_BDHW[:, : denoiser.channels]
    if denoiser.sigma_data is not None:
        a_B111 = denoiser.alphas_cumprod[t_B].view(-1, 1, 1, 1)
        said_BCHW = seen(said_BCHW, x_BCHW, a_B111, denoiser.sigma_data, beside)
    return torch.nn.functional.mse_loss(said_BCHW, denoiser.target(x0_BCHW, noise_BCHW, t_B))


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the machine computes in it (the weights stay float32): half the time there, and slower elsewhere."""
    return half(device.type) if supported(device) else nullcontext()
