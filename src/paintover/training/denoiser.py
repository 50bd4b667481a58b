"""Trains the built-in denoiser on the built-in world: instruction edits and text to picture in one network.

The network predicts the change, x0 = scale * source + f(x_t, t, words, source), or the blend (`models.denoiser.clean`).
The loss is the squared error of x0 in latent space, weighed up where an edit of a part of the picture changes it. With
`sigma_data` x0 is what is made of the network's guess and the noisy picture (`models.denoiser.seen`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from paintover.models.codec import PixelUnshuffleCodec
from paintover.models.denoiser import clean, seen
from paintover.models.text import TextEncoder
from paintover.path.schedule import Schedule
from paintover.training.batches import SceneBatches, Share
from paintover.training.loop import begin, learn
from paintover.training.network import SCHEDULER, begin_from, build_unet
from paintover.training.recipe import Recipe

TIMESTEPS = 1000
ALPHAS_CUMPROD = torch.tensor(Schedule.from_config(SCHEDULER).alphas_cumprod, dtype=torch.float32)


def train(out: Path, recipe: Recipe, root: Path, photos: Path | None, text: TextEncoder, *, workers: int = 1) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint.

    The same recipe in the same folder continues where it stopped, bit-equal on one CPU. SIGTERM and Ctrl-C write a
    checkpoint first. Logs go to out/log.jsonl and, for TensorBoard, out/board. Under `accelerate launch` each process
    makes and learns its share of every batch. Raises PaintoverError when the folder holds a run of another recipe.
    """
    accelerator, share = begin(recipe)
    unet = build_unet(recipe, text.width)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    codec = PixelUnshuffleCodec(recipe.factor).to(accelerator.device)

    def losses(learner: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return _loss(learner, codec, batch, recipe, step, share, accelerator), {}

    return learn(
        out, recipe, accelerator, unet, unet, optimiser, SceneBatches(root, photos, text, recipe, share), losses,
        from_init=partial(begin_from, unet, Path(recipe.init)) if recipe.init else None, workers=workers,
    )  # fmt: skip


def _loss(
    unet: nn.Module,
    codec: PixelUnshuffleCodec,
    batch: dict[str, Tensor],
    recipe: Recipe,
    step: int,
    share: Share,
    accelerator: Accelerator,
) -> Tensor:
    """Weighed squared error of x0 at random timesteps, more of them near pure noise, where the edit is decided.

    Timesteps and noise are drawn for the whole batch of the step on the CPU, and this process takes its rows' share: they
    are the same however many processes there are.
    """
    device = accelerator.device
    batch = {k: v.to(device) for k, v in batch.items()}
    generator = torch.Generator().manual_seed(noise_seed(recipe.seed, step))
    rows, mine = recipe.batch, slice(share.rank, recipe.batch, share.world)
    near = torch.rand(rows, generator=generator) < 0.2
    low = torch.where(near, 0.9, 0.0)
    level_B = (low + torch.rand(rows, generator=generator) * (1 - low))[mine]  # of a row's own range, 0 to 1
    t_B = timesteps(level_B, batch["levels_B2"])
    shown_B111 = batch["shown_B"].view(-1, 1, 1, 1)
    target_BCHW = codec.encode(batch["target_BCHW"])
    image_BCHW = codec.encode(batch["source_BCHW"]) / codec.scale * shown_B111  # unscaled: InstructPix2Pix's convention
    noise_BCHW = torch.randn((rows, *target_BCHW.shape[1:]), generator=generator)[mine].to(device)
    a_B111 = ALPHAS_CUMPROD[t_B].view(-1, 1, 1, 1).to(device)
    x_BCHW = a_B111.sqrt() * target_BCHW + (1 - a_B111).sqrt() * noise_BCHW
    with accelerator.autocast():
        sample_BCHW = torch.cat([x_BCHW, image_BCHW], dim=1)
        output_BDHW = unet(sample_BCHW, t_B.to(device), batch["tokens_BLD"], class_labels=batch["pooled_BD"]).sample
    x0_BCHW = clean(output_BDHW.float(), codec.scale * image_BCHW)
    weight_BCHW = nn.functional.pixel_unshuffle(batch["weight_B1HW"], recipe.factor).repeat(1, 3, 1, 1)
    if recipe.sigma_data is not None:
        x0_BCHW = seen(x0_BCHW, x_BCHW, a_B111, recipe.sigma_data, image_BCHW)
        # EDM's 1 / c_out^2, which is 1 where noise is strong: at low noise little is left of the error of a guess.
        weight_BCHW = weight_BCHW * torch.where(shown_B111 > 0, 1.0, 1 + a_B111 * recipe.sigma_data**2 / (1 - a_B111))
    return (weight_BCHW * (x0_BCHW - target_BCHW).square()).mean()


def timesteps(level_B: Tensor, levels_B2: Tensor) -> Tensor:
    """t_B, on the CPU: `level_B` (0 to 1) of each row's own range of noise levels."""
    first_B, last_B = levels_B2.cpu().unbind(1)
    return ((first_B + level_B * (last_B - first_B)) * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)


def noise_seed(seed: int, step: int) -> int:
    """Of a step's timesteps and noise: the same with every version of Python, which `hash` does not promise."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
