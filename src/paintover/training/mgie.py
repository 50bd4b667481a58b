"""MGIE's joint training: the language model learns to say what is meant, and with the edit head to guide the denoiser.

Algorithm 1 of Fu et al. 2024: L_all = L_ins + 0.5 L_edit. L_ins is the cross-entropy of the expressive instruction and its
[IMG] tokens, L_edit the denoiser's error when it is told U = T(h + e). Of the language model only the word embeddings and the
LM head learn, of the rest the edit head and the whole denoiser; vision tower, projector and blocks stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from paintover.errors import PaintoverError
from paintover.models.bundle import Bundle
from paintover.training.denoiser import noise_seed, timesteps
from paintover.training.loop import begin, learn, moved
from paintover.training.mgie_batches import MgieBatches
from paintover.training.mgie_network import Learner, answered, frozen
from paintover.training.mgie_pairs import PairBatches
from paintover.training.mgie_recipe import MgieRecipe
from paintover.training.recipe import Run


def train(out: Path, recipe: MgieRecipe, bundle: Bundle, batches: MgieBatches | PairBatches, *, workers: int = 1) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint. As `training.denoiser.train` does.

    bundle: where it begins, on this process's device, with a language model. batches: item `step` is this process's share of
    that step's batch, as `training.mgie_batches.together` makes it; its `mllm`, which is the bundle's, learns. Raises
    PaintoverError where the folder holds a run of another recipe, or the bundle is no model of this kind.
    """
    bundle.require("instruct", "mgie", "unet")
    if bundle.description.sigma_data is not None:
        raise PaintoverError(f"{bundle.name} corrects its pictures by sigma_data, which this training does not; name another")
    accelerator, _ = begin(recipe, unused=True)
    mllm = batches.mllm
    if mllm.device.type == "cpu":
        mllm.model.set_attn_implementation("eager")  # its backward is faster on a CPU than that of the fused kernel
    made, read = mllm.head.config["queries"], bundle.text.length
    if made != read and (recipe.rows()["captions"] or recipe.rows()["instruct"]):
        raise PaintoverError(f"{bundle.name} says {made} states of an edit, {read} of a text: set captions and instruct to 0")
    unlearnt = frozen(mllm, recipe)
    learner = Learner(bundle, mllm, recipe)
    if mllm.device.type == "cpu":
        from diffusers.models.attention_processor import AttnProcessor

        learner.unet.set_attn_processor(AttnProcessor())  # likewise
    optimiser = torch.optim.AdamW(learner.groups(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def losses(wrapped: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = moved(batch, accelerator.device)
        latents = latents_of(bundle, batch)
        drawn = drawn_for(recipe, step, batch, latents[0], accelerator)
        answers = accelerator.reduce(answered(batch).to(accelerator.device), "mean")
        with accelerator.autocast():
            parts: dict[str, Tensor] = wrapped(batch, *latents, drawn, answers)
        return recipe.instruction_loss * parts["words"] + recipe.edit_loss * parts["edit"], parts

    return learn(out, recipe, accelerator, learner.net, learner, optimiser, batches, losses, frozen=unlearnt, workers=workers)


@torch.no_grad()
def latents_of(bundle: Bundle, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The target's scaled latents, the source's unscaled ones (zeros where there is no source), and the error's weight."""
    x0_BCHW = bundle.codec.encode(batch["target_BCHW"])
    image_BCHW = bundle.codec.encode(batch["source_BCHW"]) / bundle.codec.scale * batch["shown_B"].view(-1, 1, 1, 1)
    weight_B1HW = batch["weight_B1HW"]
    if bundle.in_pixels:  # as the pixels are put into channels: three of each, for R, G and B
        weight_BCHW = functional.pixel_unshuffle(weight_B1HW, bundle.codec.factor).repeat(1, 3, 1, 1)
    else:
        weight_BCHW = functional.avg_pool2d(weight_B1HW, bundle.codec.factor)
    return x0_BCHW, image_BCHW, weight_BCHW


def drawn_for(recipe: Run, step: int, batch: dict[str, Any], x0_BCHW: Tensor, accelerator: Accelerator) -> dict[str, Tensor]:
    """Timesteps, noise and what is dropped: drawn for the whole step, of which this process takes its rows' share."""
    generator = torch.Generator().manual_seed(noise_seed(recipe.seed, step))
    rows, mine = recipe.batch, slice(accelerator.process_index, recipe.batch, accelerator.num_processes)
    level_B, chance_B = torch.rand(rows, generator=generator)[mine], torch.rand(rows, generator=generator)[mine]
    t_B = timesteps(level_B, batch["levels_B2"])
    noise_BCHW = torch.randn((rows, *x0_BCHW.shape[1:]), generator=generator)[mine]
    return {name: v.to(x0_BCHW.device) for name, v in {"t_B": t_B, "noise_BCHW": noise_BCHW, "chance_B": chance_B}.items()}
