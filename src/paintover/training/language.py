"""Teaches the small multimodal language model to look at pictures and to say in full what an instruction means.

Visual instruction tuning (MGIE's equation 1) of the whole model, with two helps that a model which starts from nothing needs:
each patch of the picture is told which thing covers it, and the edit head is told what the denoiser's own text encoder says
to the expressive instruction. `train mgie` then takes the pictures themselves as the measure.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paintover.models.mllm import Asked, Mllm
from paintover.models.text import SentenceText
from paintover.training.answers import cross_entropy, predicted
from paintover.training.language_batches import LanguageBatches
from paintover.training.language_network import as_module, begin_from, build
from paintover.training.language_recipe import LanguageRecipe
from paintover.training.loop import begin, learn

GROUND = 0.25  # weight of a patch that no thing covers, as most are


def train(
    out: Path, recipe: LanguageRecipe, root: Path, photos: Path | None, text: SentenceText, tokenizer: Path, *, workers: int = 1
) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint. As `training.denoiser.train` does.

    tokenizer: the tokenizer.json of `text`, the denoiser's sentence encoder, whose words the language model shares.
    """
    accelerator, share = begin(recipe, unused=True)
    mllm = build(tokenizer, text, recipe)
    if accelerator.device.type == "cpu":
        mllm.model.set_attn_implementation("eager")  # its backward is faster on a CPU than that of the fused kernel
    batches = LanguageBatches(root, photos, mllm, text, recipe, share)
    net = as_module(mllm)
    net["patches"] = nn.Linear(recipe.vision[-1], 1 + len(batches.assets.classes))
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)

    def losses(learner: nn.Module, batch: dict[str, Any], _: int) -> tuple[Tensor, dict[str, Tensor]]:
        counts_3: Tensor = accelerator.reduce(counted(batch).to(accelerator.device), "mean")
        loss, parts = learner(batch, counts_3)
        return loss, parts

    return learn(
        out, recipe, accelerator, net, Learner(net, mllm, recipe), optimiser, batches, losses,
        from_init=partial(begin_from, net, Path(recipe.init)) if recipe.init else None, workers=workers,
    )  # fmt: skip


class Learner(nn.Module):
    """What is learnt, as one module whose forward pass is the loss: several devices need it so."""

    def __init__(self, net: nn.ModuleDict, mllm: Mllm, recipe: LanguageRecipe) -> None:
        super().__init__()
        self.net, self.mllm, self.recipe = net, mllm, recipe

    def forward(self, batch: dict[str, Any], counts_3: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighed sum, and its parts: words (L_ins), align, patches, each a mean over what `counted` counts.

        counts_3: of this batch; where several processes share one, the mean of theirs, so that the mean of their losses is
        the whole batch's.
        """
        device = self.mllm.device
        words, align, patches = torch.zeros(3, device=device).unbind()
        for rows in (batch["seen"], batch["unseen"]):
            if rows is None:
                continue
            rows = {name: value if value is None else value.to(device) for name, value in rows.items()}
            asked = Asked(rows["ids_BL"], rows["mask_BL"], rows["labels_BL"], rows["images_BN"])
            looked = None if rows["pixels_BCHW"] is None else self.mllm.look(rows["pixels_BCHW"])
            if looked is not None:
                seen_BNC = self.net["patches"](looked.last_hidden_state).float()
                weight_C = torch.ones(seen_BNC.shape[-1], device=device)
                weight_C[0] = GROUND
                patches = functional.cross_entropy(
                    seen_BNC.flatten(0, 1), rows["patches_BN"].flatten(), weight_C, reduction="sum"
                )
            if not (self.recipe.instruction_loss or self.recipe.align_loss):
                continue  # it learns to look and nothing else
            states_BLD = self.mllm.hidden(asked, looked)
            words = words + cross_entropy(self.mllm.model.lm_head, states_BLD, asked.labels_BL)
            if rows["tokens_BLD"] is not None:
                count = len(rows["tokens_BLD"])
                u_BLD = self.mllm.guide(self.mllm.at_images(states_BLD, asked)[:count]).float()
                align = align + (u_BLD - rows["tokens_BLD"]).square().mean(dim=(1, 2)).sum()
        means_3 = torch.stack((words, align, patches)) / counts_3.clamp(min=1)
        weights_3 = torch.tensor((self.recipe.instruction_loss, self.recipe.align_loss, self.recipe.patch_loss), device=device)
        return (weights_3 * means_3).sum(), dict(zip(("words", "align", "patches"), means_3, strict=True))


def counted(batch: dict[str, Any]) -> Tensor:
    """counts_3 of a batch: tokens that are answered, rows with [IMG] tokens, patches by their weight."""
    counts_3 = torch.zeros(3)
    for rows in filter(None, (batch["seen"], batch["unseen"])):
        told, patches = rows["tokens_BLD"], rows["patches_BN"]
        counts_3[0] += len(predicted(rows["labels_BL"])[1])
        counts_3[1] += 0 if told is None else len(told)
        counts_3[2] += 0 if patches is None else torch.where(patches > 0, 1.0, GROUND).sum()
    return counts_3
