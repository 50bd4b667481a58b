"""Batches for MGIE's joint training from a dataset of edits: the batch of a step depends on nothing but seed and step."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from paintover import datasets
from paintover.errors import PaintoverError
from paintover.models.mllm import Mllm
from paintover.models.text import TextEncoder
from paintover.scenes.looks import Pixels
from paintover.training.batches import Share
from paintover.training.mgie_batches import SORTS, Row, together
from paintover.training.mgie_recipe import MgieRecipe
from paintover.training.states import States


class PairBatches(Dataset[dict[str, Any]]):
    """Item `step` is this process's share of that step's rows, as `training.mgie_batches.together` makes them.

    Every epoch is the dataset in another order. Of a pair both pictures are cut to the same square, at random along the longer
    side, and scaled to the recipe's size. What is meant is the pair's expressive instruction, or its instruction where there is
    none. Raises PaintoverError for an empty dataset, or a recipe with captions.
    """

    def __init__(
        self, pairs: datasets.Dataset, mllm: Mllm, text: TextEncoder, recipe: MgieRecipe, share: Share = Share()
    ) -> None:
        if not len(pairs):
            raise PaintoverError("the dataset holds no pairs; name another one, or another split")
        if recipe.rows()["captions"]:
            raise PaintoverError("a dataset of edits is no text to picture; set captions to 0")
        self.pairs, self.mllm, self.recipe, self.share = pairs, mllm, recipe, share
        self.sorts = [sort for sort in SORTS for _ in range(recipe.rows()[sort])]
        self._states = States(text)
        self._order: tuple[int, Any] = (-1, ())

    def __getitem__(self, step: int) -> dict[str, Any]:
        mine = range(self.share.rank, self.recipe.batch, self.share.world)
        rows = [(self.sorts[r], self.row(step, r)) for r in mine]
        return together(rows, self.mllm, self._states, self.recipe.silent)

    def row(self, step: int, r: int) -> Row:
        epoch, i = divmod(step * self.recipe.batch + r, len(self.pairs))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.pairs))
        try:
            sample = self.pairs[int(self._order[1][i])]
        except datasets.RowError as error:
            raise PaintoverError(
                f"{error}; mend it" + ("" if self.pairs.skip_broken else ", or train with --skip-broken")
            ) from None
        along = float(np.random.default_rng([self.recipe.seed, step, r]).random())
        source, target = (_square(p.rgb_HWC, along, self.recipe.size) for p in (sample.source, sample.target))
        weight = np.ones(source.shape[:2], np.float32)
        return Row(source, target, weight, 1.0, (0.0, 1.0), sample.instruction, sample.expressive or sample.instruction)


def _square(rgb_HWC: np.ndarray[Any, Any], along: float, size: int) -> Pixels:
    """The square that lies `along` (0 to 1) the longer side, size × size, HWC in 0..1."""
    image = Image.fromarray(rgb_HWC)
    side = min(image.size)
    left, top = (image.width - side) * along, (image.height - side) * along
    cut = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return np.asarray(cut, dtype=np.float32) / np.float32(255)
