"""InstructAny2Pix's fourth stage: the denoiser and its adapter learn what embeddings of pictures and objects mean.

Diffusion realignment (Li et al. 2023; methods.md D.3): the denoiser is told the embedding of the very picture that it is to
make, with Gaussian noise on it, and those of the objects in it, each left out half of the time; the error is the diffusion
model's own. UNet and adapter learn, all else stays as it is.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paintover.errors import PaintoverError
from paintover.models.adapter_file import load_adapter
from paintover.models.bundle import Bundle
from paintover.models.denoiser import Denoiser
from paintover.training.any2pix_realign_batches import RealignBatches
from paintover.training.any2pix_realign_recipe import RealignRecipe
from paintover.training.batches import Share
from paintover.training.loop import begin, learn, moved
from paintover.training.mgie import drawn_for, latents_of
from paintover.training.mgie_network import edit_loss


class Learner(nn.Module):
    """UNet and adapter, float32, as one module whose forward pass is the loss; they alone learn."""

    def __init__(self, bundle: Bundle, recipe: RealignRecipe) -> None:
        super().__init__()
        if not isinstance(bundle.denoiser, Denoiser):
            raise PaintoverError(f"any2pix tells its embeddings to a diffusion model with a UNet; {bundle.name} is none")
        self.unet = copy.deepcopy(bundle.denoiser.unet).float().requires_grad_(True)
        self.adapter = load_adapter(bundle.folder, self.unet, torch.float32).requires_grad_(True).train()
        self.denoiser = bundle.denoiser.around(self.unet).adapted(self.adapter)
        self.recipe = recipe

    def groups(self) -> list[dict[str, Any]]:
        """For the optimiser: each part at its own learning rate."""
        both = ((self.adapter, self.recipe.lr), (self.unet, self.recipe.denoiser_lr))
        return [{"params": list(part.parameters()), "lr": lr, "most": lr} for part, lr in both]

    @property
    def net(self) -> nn.ModuleDict:
        return nn.ModuleDict({"unet": self.unet, "adapter": self.adapter})

    def forward(
        self, batch: dict[str, Any], x0_BCHW: Tensor, image_BCHW: Tensor, weight_BCHW: Tensor, drawn: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean error of the rows with embeddings and of those without, and both."""
        told: Tensor | None = batch["media_MSE"]
        count = 0 if told is None else len(told)
        losses: dict[str, Tensor] = {}
        for name, rows, media_BSE in (("media", slice(0, count), told), ("words", slice(count, None), None)):
            if not len(x0_BCHW[rows]):
                continue
            pooled_BD = None if batch["pooled_BD"] is None else batch["pooled_BD"][rows]
            losses[name] = edit_loss(
                self.denoiser, x0_BCHW[rows], image_BCHW[rows], weight_BCHW[rows],
                {key: value[rows] for key, value in drawn.items()}, batch["tokens_BLD"][rows], pooled_BD, media_BSE,
            )  # fmt: skip
        shares = {"media": count / len(x0_BCHW), "words": 1 - count / len(x0_BCHW)}
        return torch.stack([shares[name] * loss for name, loss in losses.items()]).sum(), losses


def train(
    out: Path,
    recipe: RealignRecipe,
    bundle: Bundle,
    root: Path,
    photos: Path | None,
    recordings: Path | None,
    *,
    workers: int = 1,
) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint. As `training.denoiser.train` does.

    bundle: where it begins, on the CPU, with any2pix in it. Raises PaintoverError where it is no model of this kind.
    """
    bundle.require("any2pix", "instruct", "unet")
    accelerator, _ = begin(recipe, unused=True)
    learner = Learner(bundle, recipe)
    if accelerator.device.type == "cpu":
        from diffusers.models.attention_processor import AttnProcessor

        learner.unet.set_attn_processor(AttnProcessor())  # its backward is faster on a CPU than that of the fused kernel
    share = Share(accelerator.process_index, accelerator.num_processes)
    settings, encoder = bundle.any2pix().settings, bundle.encoder()
    batches = RealignBatches(
        root, photos, recordings, encoder, bundle.text, settings.norm, learner.adapter.locals, recipe, share
    )
    optimiser = torch.optim.AdamW(learner.groups(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def losses(wrapped: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = moved(batch, accelerator.device)
        latents = latents_of(bundle, batch)
        drawn = drawn_for(recipe, step, batch, latents[0], accelerator)
        with accelerator.autocast():
            loss: tuple[Tensor, dict[str, Tensor]] = wrapped(batch, *latents, drawn)
        return loss

    return learn(out, recipe, accelerator, learner.net, learner, optimiser, batches, losses, workers=workers)
