"""Batches for MGIE's joint training from the built-in world: the batch of a step depends on nothing but seed and step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from paintover.models.answering import beside, question
from paintover.models.mllm import Mllm
from paintover.models.text import TextEncoder
from paintover.scenes import ambiguous, edits
from paintover.scenes.assets import Assets
from paintover.scenes.edits import Case
from paintover.scenes.looks import Pixels
from paintover.training.batches import LENGTHS, LEVELS, Share, pixels, weighed
from paintover.training.mgie_recipe import MgieRecipe
from paintover.training.states import States

_TOKENS = 512  # that a row has at most, as MGIE's; more where the picture alone takes most of them
SORTS = ("captions", "instruct", "unseen", "seen")


@dataclass(frozen=True, eq=False)
class Row:
    """Pictures HWC in 0..1, weight HW, whether there is a source, noise levels; the words, and what they mean."""

    source: Pixels
    target: Pixels
    weight: NDArray[np.float32]
    shown: float
    levels: tuple[float, float]
    words: str
    meant: str


class MgieBatches(Dataset[dict[str, Any]]):
    """Item `step` is this process's share of that step's rows: SORTS in their order, as many of each as the recipe says.

    source_BCHW, target_BCHW: pixels in [-1, 1], size × size. weight_B1HW: of the error. shown_B: 1 where a source is shown.
    levels_B2: from which to which noise level, 0 to 1, the row is learnt. tokens_KLD, pooled_KD: the text encoder's states of
    the first rows, and one more of no words at all. asked: `models.mllm.Asked` of the others by field, or None. pixels_SCHW: of
    the last S rows, as the vision tower takes them, or None.
    """

    def __init__(
        self,
        root: Path,
        photos: Path | None,
        mllm: Mllm,
        text: TextEncoder,
        recipe: MgieRecipe,
        share: Share = Share(),
    ) -> None:
        self.assets = Assets(root, "train", photos)
        self.mllm, self.recipe, self.share = mllm, recipe, share
        self.sorts = [sort for sort in SORTS for _ in range(recipe.rows()[sort])]
        self._states = States(text)

    def __getitem__(self, step: int) -> dict[str, Any]:
        mine = range(self.share.rank, self.recipe.batch, self.share.world)
        rows = [(self.sorts[r], self.row(self.sorts[r], np.random.default_rng([self.recipe.seed, step, r]))) for r in mine]
        return together(rows, self.mllm, self._states, self.recipe.silent)

    def row(self, sort: str, rng: np.random.Generator) -> Row:
        case = self._case(sort, rng)
        source, target, weight = weighed(case, self.recipe.size)
        levels = LEVELS.get(case.kind, (0.0, 1.0))
        return Row(source, target, weight, float(case.before is not None), levels, case.instruction, case.meant)

    def _case(self, sort: str, rng: np.random.Generator) -> Case:
        if sort == "captions":
            kind = "settled" if rng.random() < edits.SETTLED else "free"
        elif rng.random() < self.recipe.ambiguous:
            kind = str(rng.choice(ambiguous.AMBIGUOUS, p=ambiguous.SHARES))
        else:
            kind = edits.drawn(edits.train_mix(0.0), rng)
        return edits.make(kind, self.assets, rng, self.recipe.sides)


def together(rows: list[tuple[str, Row]], mllm: Mllm, states: States, silent: bool = False) -> dict[str, Any]:
    """Rows, by sort in the order of SORTS, as one batch. Where it is `silent`, answers are [IMG] tokens alone."""
    read = [row for sort, row in rows if sort in ("captions", "instruct")]
    asked = [(sort == "seen", row) for sort, row in rows if sort in ("unseen", "seen")]
    every = [row for _, row in rows]
    batch: dict[str, Any] = {
        "source_BCHW": pixels([row.source for row in every]),
        "target_BCHW": pixels([row.target for row in every]),
        "weight_B1HW": torch.from_numpy(np.stack([row.weight for row in every]))[:, None],
        "shown_B": torch.tensor([row.shown for row in every]),
        "levels_B2": torch.tensor([row.levels for row in every]),
        "tokens_KLD": None, "pooled_KD": None, "asked": None, "pixels_SCHW": None,
    }  # fmt: skip
    if read:
        tokens, pooled = zip(*(states(words) for words in [*(row.words for row in read), ""]), strict=True)
        batch["tokens_KLD"] = torch.stack(tokens)
        batch["pooled_KD"] = torch.stack(pooled) if pooled[0] is not None else None
    if asked:
        # As when the model is used: special tokens in a dataset's words are no words, and what is too long is cut.
        length = min(mllm.length, max(_TOKENS, mllm.patches + _TOKENS // 2))
        questions = [question(mllm, row.words, seen, length)[0] for seen, row in asked]
        told = [beside(mllm, ids, "" if silent else row.meant, length) for ids, (_, row) in zip(questions, asked, strict=True)]
        batch["asked"] = asdict(mllm.asked(questions, told, multiple=LENGTHS))
        views = [mllm.see(np.rint(row.source * 255).astype(np.uint8)) for seen, row in asked if seen]
        batch["pixels_SCHW"] = torch.stack(views) if views else None
    return batch
