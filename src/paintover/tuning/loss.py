"""What tuning lowers: how badly the denoiser knows these pictures, told these words."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from paintover.models.denoiser import Denoiser, seen
from paintover.path.predict import Condition
from paintover.tuning.half import half, supported


def drawn(seed: int, i: int, shape: tuple[int, ...], timesteps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Timesteps t_B, uniform, and noise_BCHW of iteration i: its own stream, so that a resumed run draws the same."""
    stream = int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(stream)
    t_B = torch.randint(0, timesteps, (shape[0],), generator=generator)
    return t_B.to(device), torch.randn(shape, generator=generator).to(device)


def denoising(denoiser: Denoiser, x0_BCHW: Tensor, t_B: Tensor, noise_BCHW: Tensor, c: Condition) -> Tensor:
    """The mean squared error of what the network predicts, for pictures x0 that noise has been put on (DDPM, equation 14).

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise. Of the noise where it predicts noise (UniTune's loss), of v or of x0 where it
    predicts those: what it was trained to. c: told to every row, its tokens B = 1 or one a row, its source picture likewise.
    """
    rows = len(x0_BCHW)
    a_B111 = denoiser.alphas_cumprod[t_B].view(-1, 1, 1, 1)
    x_BCHW = a_B111.sqrt() * x0_BCHW + (1 - a_B111).sqrt() * noise_BCHW
    pooled = None if c.pooled_BD is None else c.pooled_BD.expand(rows, -1)
    beside = None if c.image_BCHW is None else c.image_BCHW.expand(rows, -1, -1, -1)
    with autocast(denoiser.device):
        output_BDHW = denoiser.output(x_BCHW, t_B, c.tokens_BLD.expand(rows, -1, -1), pooled, beside)
    said_BCHW = output_BDHW[:, : denoiser.channels]
    if denoiser.sigma_data is not None:
        said_BCHW = seen(said_BCHW, x_BCHW, a_B111, denoiser.sigma_data, beside)
    if denoiser.prediction == "epsilon":
        wanted_BCHW = noise_BCHW
    elif denoiser.prediction == "v_prediction":
        wanted_BCHW = a_B111.sqrt() * noise_BCHW - (1 - a_B111).sqrt() * x0_BCHW
    else:
        wanted_BCHW = x0_BCHW
    return torch.nn.functional.mse_loss(said_BCHW, wanted_BCHW)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the machine computes in it (the weights stay float32): half the time there, and slower elsewhere."""
    return half(device.type) if supported(device) else nullcontext()
