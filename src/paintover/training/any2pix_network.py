"""What each stage of InstructAny2Pix's training lowers: its parts, those of them that learn, and their losses."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paintover.models.any2pix import Asked
from paintover.models.any2pix_file import Any2PixParts
from paintover.models.media import MediaEncoder
from paintover.training.answers import cross_entropy, predicted
from paintover.training.any2pix_recipe import Any2PixRecipe

# By stage: what its losses ask, and what of that learns. Stage 4, of denoiser and adapter: `training.any2pix_denoiser`.
ASKED: dict[int, tuple[str, ...]] = {
    1: ("model", "lm_head", "in"),
    2: ("model", "in", "out"),
    3: ("prior",),
    5: ("model", "lm_head", "in", "out"),
}
LEARNING: dict[int, tuple[str, ...]] = {
    1: ("in",),
    2: ("in", "out"),
    3: ("prior",),
    5: ("model", "lm_head", "in", "out"),
}


def networks(parts: Any2PixParts) -> dict[str, nn.Module]:
    """A bundle's networks under the names that checkpoints have. No lm_head where it is the word embeddings."""
    language = parts.language
    tied = language.model.config.tie_word_embeddings
    return {
        "model": language.model.model,
        **({} if tied else {"lm_head": language.model.lm_head}),
        "in": language.projector_in,
        "out": language.projector_out,
        "prior": parts.prior,
    }


class Learner(nn.Module):
    """What a stage asks, as one module whose forward pass is its losses; only what the stage teaches has gradients."""

    def __init__(self, parts: Any2PixParts, recipe: Any2PixRecipe) -> None:
        super().__init__()
        self.language, self.prior, self.recipe = parts.language, (parts.prior,), recipe  # in a tuple: stages ask it or do not
        found = networks(parts)
        self.asked = nn.ModuleDict({name: found[name] for name in ASKED[recipe.stage] if name in found})
        for module in found.values():
            module.eval().requires_grad_(False)
        for module in self.net.values():
            module.float().requires_grad_(True)

    @property
    def net(self) -> nn.ModuleDict:
        """What learns, alone."""
        return nn.ModuleDict({name: self.asked[name] for name in LEARNING[self.recipe.stage] if name in self.asked})

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The stage's losses by name: "words" is the cross-entropy of the answers' tokens; the others are of embeddings."""
        if self.recipe.stage == 3:
            said_BE = self.prior[0].refine(batch["given_BE"], batch["score_B"])
            return {"picture": self._off(said_BE, batch["target_BE"])}
        asked = Asked(**batch["asked"])
        states_BLD = self.language.hidden(asked, batch["media_NE"])
        losses: dict[str, Tensor] = {}
        if self.recipe.stage in (1, 5):
            count = predicted(asked.labels_BL)[0].sum().clamp(min=1)
            losses["words"] = cross_entropy(self.language.model.lm_head, states_BLD, asked.labels_BL) / count
        if self.recipe.stage in (2, 5):
            for name, places_N2 in (("base", asked.base_N2), ("subs", asked.subs_N2), ("gens", asked.gens_N2)):
                if len(places_N2):
                    losses[name] = self._off(self.language.project(states_BLD, places_N2), batch[f"{name}_NE"])
        return losses

    def _off(self, said_NE: Tensor, unit_NE: Tensor) -> Tensor:
        """How far off these are from unit vectors made `norm` long: the mean over their components."""
        lost = functional.mse_loss if self.recipe.loss == "l2" else functional.l1_loss
        return lost(said_NE.float(), self.language.norm * unit_NE)


def summed(losses: dict[str, Tensor], recipe: Any2PixRecipe) -> Tensor:
    """What is lowered: the words' loss, and the weight of the embeddings' times their sum."""
    weights = {name: 1.0 if name == "words" else recipe.embedding_loss for name in losses}
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def frozen(parts: Any2PixParts, encoder: MediaEncoder, recipe: Any2PixRecipe) -> str:
    """sha256 (hex) over what a stage asks and does not teach, in half precision, as bundles keep it."""
    found = {name: module for name, module in networks(parts).items() if name in ASKED[recipe.stage]}
    unlearnt = {name: module for name, module in found.items() if name not in LEARNING[recipe.stage]}
    total = sha256()
    if isinstance(encoder, nn.Module):
        unlearnt["encoder"] = encoder
    for name, module in unlearnt.items():
        for key, tensor in sorted(module.state_dict().items()):
            total.update(f"{name}.{key} {tuple(tensor.shape)}".encode())
            total.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
