"""Teaches the small multimodal language model to look at pictures and to say in full what an instruction means.

Visual instruction tuning (MGIE's equation 1) of the whole model, with two helps that a model which starts from nothing needs:
each patch of the picture is told which thing covers it, and the edit head is told what the denoiser's own text encoder says
to the expressive instruction. `train mgie` then takes the pictures themselves as the measure.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset

from paintover.models.mllm import Asked, Mllm
from paintover.models.text import SentenceText
from paintover.training import checkpoint
from paintover.training.language_batches import LanguageBatches
from paintover.training.language_network import as_module, build
from paintover.training.language_recipe import LanguageRecipe
from paintover.training.log import Log
from paintover.training.recipe import check_resumes, write
from paintover.training.stopping import asked_to_stop, ignore_signals


def train(
    out: Path, recipe: LanguageRecipe, root: Path, photos: Path | None, text: SentenceText, tokenizer: Path, *, workers: int = 1
) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint. As `training.denoiser.train` does."""
    torch.manual_seed(recipe.seed)
    mllm = build(tokenizer, text, recipe.image_tokens)
    mllm.model.set_attn_implementation("eager")  # its backward is faster on a CPU than that of the fused kernel
    net = as_module(mllm)
    net["patches"] = nn.Linear(mllm.model.config.vision_config.hidden_size, 1 + len(_classes(root, photos)))
    ema = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    last = checkpoint.latest(out / "state")
    if last:
        check_resumes(out, recipe)
    step = checkpoint.load(last, net, ema, optimiser)["step"] if last else 0
    write(out, recipe)
    batches = LanguageBatches(root, photos, mllm, text, recipe)
    loader = DataLoader(
        Subset(batches, range(step, recipe.steps)),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_signals,
    )
    log = Log(out, step, recipe.batch)
    net.train()
    with asked_to_stop() as asked:
        for batch in loader:
            loss, parts = loss_of(net, mllm, batch, recipe)
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            decay = min(recipe.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(ema.parameters()), [p.detach() for p in net.parameters()], 1 - decay)
            log.add(step, loss, parts)
            if step % recipe.checkpoint_every == 0 or step == recipe.steps or asked:
                checkpoint.save(out / "state", step, net, ema, optimiser, {"recipe": recipe.model_dump()})
            if asked:
                break
    found = checkpoint.latest(out / "state")
    assert found is not None
    return found


def loss_of(net: nn.ModuleDict, mllm: Mllm, batch: dict[str, Any], recipe: LanguageRecipe) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighed sum, and its parts: words (L_ins), align, patches."""
    words, answers, aligned, told = torch.zeros(()), 0, torch.zeros(()), 0
    patches = torch.zeros(())
    for rows in (batch["seen"], batch["unseen"]):
        if rows is None:
            continue
        asked = Asked(rows["ids_BL"], rows["mask_BL"], rows["labels_BL"], rows["images_BN"])
        with torch.autocast(mllm.device.type, torch.bfloat16, enabled=recipe.bf16):
            looked = None if rows["pixels_BCHW"] is None else mllm.look(rows["pixels_BCHW"])
            states_BLD = mllm.hidden(asked, looked)
            labels_BL = asked.labels_BL[:, 1:]
            said = labels_BL != -100
            logits_KV = mllm.model.lm_head(states_BLD[:, :-1][said]).float()
            words = words + functional.cross_entropy(logits_KV, labels_BL[said], reduction="sum")
            answers += int(said.sum())
            if rows["tokens_BLD"] is not None:
                count = len(rows["tokens_BLD"])
                u_BLD = mllm.guide(mllm.at_images(states_BLD, asked)[:count]).float()
                aligned = aligned + (u_BLD - rows["tokens_BLD"]).square().mean(dim=(1, 2)).sum()
                told += count
            if looked is not None:
                seen_BNC = net["patches"](looked.hidden_states[-2][:, 1:]).float()
                patches = functional.cross_entropy(seen_BNC.flatten(0, 1), rows["patches_BN"].flatten())
    parts = {"words": words / max(1, answers), "align": aligned / max(1, told), "patches": patches}
    weights = {"words": recipe.instruction_loss, "align": recipe.align_loss, "patches": recipe.patch_loss}
    return sum((weights[name] * part for name, part in parts.items()), torch.zeros(())), parts


def _classes(root: Path, photos: Path | None) -> tuple[str, ...]:
    from paintover.scenes.assets import Assets

    return Assets(root, "train", photos).classes
