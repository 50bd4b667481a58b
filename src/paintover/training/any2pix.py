"""InstructAny2Pix's training but for the denoiser's: stages 1, 2, 3 and 5 (methods.md D.3).

1: "describe the [image1]" is answered with its caption; of all networks only the input projector learns. 2: "generate
[audio1]", or words, is answered with the embedding of such a picture; both projectors learn. 3: the prior learns to make of a
corrupted embedding, and a score, that of the picture which was judged so. 5: instructions are answered in full, their control
tokens by the embeddings of base, references and result; the whole language model learns, and the denoiser is not asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paintover.models.any2pix_file import load_any2pix
from paintover.models.bundle import Bundle
from paintover.training.any2pix_batches import Any2PixBatches
from paintover.training.any2pix_network import Learner, frozen, summed
from paintover.training.any2pix_recipe import Any2PixRecipe
from paintover.training.loop import begin, learn, moved


def train(
    out: Path,
    recipe: Any2PixRecipe,
    root: Path,
    photos: Path | None,
    recordings: Path | None,
    bundle: Bundle,
    *,
    workers: int = 1,
) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint. As `training.denoiser.train` does.

    bundle: where it begins, on the CPU: the workers that make batches ask its encoder, and have no accelerator.
    """
    bundle.require("any2pix")
    accelerator, share = begin(recipe, unused=True)
    device = accelerator.device if accelerator.device.type != "cpu" else torch.device("cpu")  # it may be called cpu:0
    parts = load_any2pix(bundle.folder, device, dtype=torch.float32)
    if device.type == "cpu":
        parts.language.model.set_attn_implementation("eager")  # its backward is faster on a CPU than the fused kernel's
    unlearnt = frozen(parts, bundle.encoder(), recipe)
    learner = Learner(parts, recipe)
    batches = Any2PixBatches(root, photos, recordings, parts.language, bundle.encoder(), recipe, share)
    optimiser = torch.optim.AdamW(learner.net.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def losses(wrapped: nn.Module, batch: dict[str, Any], _: int) -> tuple[Tensor, dict[str, Tensor]]:
        with accelerator.autocast():
            parts: dict[str, Tensor] = wrapped(moved(batch, device))
        return summed(parts, recipe), parts

    return learn(out, recipe, accelerator, learner.net, learner, optimiser, batches, losses, frozen=unlearnt, workers=workers)
