"""Teaches the built-in media encoder that pictures, sounds and words mean the same: contrastively, on the built-in world.

Everything of a step that has the same label is drawn together and away from all else, whatever it is (supervised contrastive
learning, Khosla et al. 2020, over all three kinds at once): so sounds, pictures and words of a thing end up beside each other,
and none of the kinds keeps a corner of its own. Whole pictures are told from each other by their captions (CLIP's loss).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paintover.errors import PaintoverError
from paintover.models.bundle import Bundle
from paintover.models.mllm_file import load_mllm
from paintover.models.small_encoder import SmallEncoder
from paintover.training.denoiser import noise_seed
from paintover.training.encoder_batches import EncoderBatches
from paintover.training.encoder_recipe import EncoderRecipe
from paintover.training.loop import begin, learn, moved
from paintover.training.network import averaged_weights

STEEPEST = 4.0  # log of the most that cosines are multiplied by


def train(
    out: Path,
    recipe: EncoderRecipe,
    root: Path,
    photos: Path | None,
    recordings: Path | None,
    bundle: Bundle,
    *,
    workers: int = 1,
) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint. As `training.denoiser.train` does.

    bundle: whose sentence encoder reads the words, and whose language model's vision tower a new run begins with.
    """
    accelerator, share = begin(recipe)
    net = SmallEncoder(bundle.text, recipe.width, recipe.size, recipe.sights, recipe.sounds)
    batches = EncoderBatches(root, photos, recordings, net, recipe, share)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)

    def losses(learner: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        chance = torch.Generator().manual_seed(noise_seed(recipe.seed, step))  # a resumed run draws what the first one did
        loss: tuple[Tensor, dict[str, Tensor]] = learner(moved(batch, accelerator.device), chance)
        return loss

    return learn(
        out, recipe, accelerator, net, Learner(net, recipe), optimiser, batches, losses,
        from_init=partial(begin_from, net, bundle, recipe.init) if recipe.init else None, workers=workers,
    )  # fmt: skip


class Learner(nn.Module):
    """The encoder as one module whose forward pass is the loss."""

    def __init__(self, net: SmallEncoder, recipe: EncoderRecipe) -> None:
        super().__init__()
        self.net, self.recipe = net, recipe

    def forward(self, batch: dict[str, Tensor], chance: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighed sum, and its parts: labels (all kinds by label), same (crops by thing), scenes (against captions)."""
        net, count = self.net, len(batch["crops_KCHW"])
        seen_NE = net.sight(torch.cat([batch["crops_KCHW"], batch["scenes_BCHW"]])).float()
        crops_KE, scenes_BE = seen_NE[:count], seen_NE[count:]
        heard_SE = (
            net.sound(masked(net.spectrogram(batch["clips_SN"]), chance)).float() if len(batch["clips_SN"]) else crops_KE[:0]
        )
        scale = net.scale.clamp(max=STEEPEST).exp()
        all_NE = torch.cat([crops_KE, heard_SE, net.told(batch["pooled_LD"]).float()])
        labels = contrast(all_NE, torch.cat([batch["crop_K"], batch["clip_S"], batch["word_L"]]), scale)
        same = contrast(crops_KE, batch["stamp_K"], scale)
        agreed_BB = scale * scenes_BE @ net.told(batch["captions_BD"]).float().T
        each_B = torch.arange(len(agreed_BB), device=agreed_BB.device)
        scenes = (functional.cross_entropy(agreed_BB, each_B) + functional.cross_entropy(agreed_BB.T, each_B)) / 2
        loss = labels + self.recipe.same * same + self.recipe.scene_loss * scenes
        return loss, {"labels": labels, "same": same, "scenes": scenes}


def contrast(rows_NE: Tensor, label_N: Tensor, scale: Tensor) -> Tensor:
    """The supervised contrastive loss: for each row, minus the mean log-probability of those that share its label.

    Rows that share theirs with none have no part in it but as what others are told from.
    """
    agreed_NN = scale * rows_NE @ rows_NE.T
    itself_NN = torch.eye(len(rows_NE), dtype=torch.bool, device=rows_NE.device)
    alike_NN = (label_N[:, None] == label_N[None]) & ~itself_NN
    said_NN = agreed_NN.masked_fill(itself_NN, -torch.inf).log_softmax(dim=1).masked_fill(itself_NN, 0.0)
    count_N = alike_NN.sum(dim=1)
    has_N = count_N > 0
    return -((said_NN * alike_NN).sum(dim=1)[has_N] / count_N[has_N]).mean()


def masked(mel_BCMT: Tensor, chance: torch.Generator) -> Tensor:
    """Some bands and some moments of each spectrogram left out (SpecAugment, Park et al. 2019)."""
    rows, _, bands, moments = mel_BCMT.shape
    kept = torch.ones(rows, 1, bands, moments, device=mel_BCMT.device)
    for size, most, axis in ((bands, 12, 2), (moments, 32, 3)):
        shape = [1, 1, 1, 1]
        shape[axis] = size
        at = torch.arange(size, device=mel_BCMT.device).view(shape)
        width = torch.randint(0, most, (rows, 1, 1, 1), generator=chance).to(mel_BCMT.device)
        start = (torch.rand(rows, 1, 1, 1, generator=chance).to(mel_BCMT.device) * (size - width)).long()
        kept = kept * ~((at >= start) & (at < start + width))
    return mel_BCMT * kept - 2.0 * (1 - kept)


def begin_from(net: SmallEncoder, bundle: Bundle, source: str) -> None:
    """Fills the network from another run of this kind, or its eyes from the vision tower of the bundle's language model."""
    if (Path(source) / "recipe.json").exists():
        net.load_state_dict(averaged_weights(Path(source)))
        return
    bundle.require("mgie")
    tower: Any = load_mllm(bundle.folder, torch.device("cpu")).model.model.vision_tower
    own, found = net.sight.tower.state_dict(), tower.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in found.items()}:
        raise PaintoverError(
            f"the vision tower of {source} has other sizes than this recipe's; leave init out, or change sights"
        )
    net.sight.tower.load_state_dict(found)
