"""Batches of the built-in world, made on the fly: the batch of a step depends on nothing but the seed and the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from paintover.models.text import TextEncoder
from paintover.scenes import edits
from paintover.scenes.assets import Assets
from paintover.scenes.edits import Case
from paintover.scenes.looks import Pixels
from paintover.training.recipe import Recipe
from paintover.training.states import States

# From which to which noise level (0 to 1) a caption's picture is learnt. A settled one: where the words decide. A free one:
# where something of the picture is still to be seen, for the words alone do not say enough.
LEVELS = {"settled": (0.5, 1.0), "free": (0.0, 0.85)}


LENGTHS = 16  # rows of ids are as long as a multiple of this: kernels are prepared anew for each length that they meet


@dataclass(frozen=True)
class Share:
    """Which rows of a step's batch this process makes: row r of `rank` + k * `world`."""

    rank: int = 0
    world: int = 1


class SceneBatches(Dataset[dict[str, Tensor]]):
    """Item `step` is this process's share of that step's batch.

    source_BCHW, target_BCHW: pixels in [-1, 1], size × size; where `shown` is 0 there is no source (zeros).
    tokens_BLD, pooled_BD: the words, or those of "" where they are dropped. shown_B: 1 where the source is shown.
    weight_B1HW: 1, and more where an edit of a part of the picture changes it, or where a caption's things are.
    levels_B2: from which to which noise level, 0 to 1, the row is to be learnt.
    """

    def __init__(
        self,
        root: Path,
        photos: Path | None,
        text: TextEncoder,
        recipe: Recipe,
        share: Share = Share(),
    ) -> None:
        self.assets = Assets(root, "train", photos)
        self.recipe, self.share = recipe, share
        self._mix = edits.train_mix(recipe.captions)
        self._states = States(text)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        mine = range(self.share.rank, self.recipe.batch, self.share.world)
        rows = [self._row(np.random.default_rng([self.recipe.seed, step, r])) for r in mine]
        sources, targets, weights, texts, shown, levels = zip(*rows, strict=True)
        tokens, pooled = zip(*(self._states(text) for text in texts), strict=True)
        assert pooled[0] is not None, "the built-in denoiser is told a vector for the whole text"
        return {
            "source_BCHW": pixels(sources) * torch.tensor(shown).view(-1, 1, 1, 1),
            "target_BCHW": pixels(targets),
            "weight_B1HW": torch.from_numpy(np.stack(weights))[:, None],
            "tokens_BLD": torch.stack(tokens),
            "pooled_BD": torch.stack(pooled),
            "shown_B": torch.tensor(shown),
            "levels_B2": torch.tensor(levels),
        }

    def _row(self, rng: np.random.Generator) -> tuple[Pixels, Pixels, NDArray[np.float32], str, float, tuple[float, float]]:
        """Source and target HWC in 0..1, weight HW, the words, whether the source is shown, and the noise levels."""
        kind = edits.drawn(self._mix, rng)
        case = edits.make(kind, self.assets, rng, self.recipe.sides, self.recipe.plain)
        source, target, weight = weighed(case, self.recipe.size)
        # Dropped words and sources teach the terms of dual guidance: e(v, 0) and e(0, 0) (InstructPix2Pix, section 3.2.1).
        drop = rng.random()
        text = "" if drop < 0.07 else case.instruction
        shown = 0.0 if case.before is None or drop < 0.02 else 1.0
        return source, target, weight, text, shown, LEVELS.get(kind, (0.0, 1.0))


def weighed(case: Case, size: int) -> tuple[Pixels, Pixels, NDArray[np.float32]]:
    """Source and target HWC in 0..1, and the error's weight HW: 1, and more where an edit of a part of the picture changes it.

    Of a picture made from words alone the part are its things.
    """
    source, target = case.render(size)
    made = case.before is None
    without = replace(case.after, objects=()).render(size) if made else source
    mask = edits.changed(without, target)
    weight = 1 + (3 if made else 5) * mask * (1 - mask.mean())  # a look changes everything, and weighs 1
    return source, target, weight.astype(np.float32)


def pixels(pictures: Sequence[Pixels]) -> Tensor:
    """Pictures HWC in 0..1 as pixels_BCHW in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous() * 2 - 1
