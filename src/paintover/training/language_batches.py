"""Batches that teach a small multimodal language model to look: the batch of a step depends on seed and step alone."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from paintover.models.mllm import Mllm
from paintover.models.text import TextEncoder
from paintover.scenes import ambiguous, edits, words
from paintover.scenes.assets import Assets
from paintover.scenes.scene import COLOURS, Scene, random_scene
from paintover.training.batches import LENGTHS, Share
from paintover.training.language_recipe import LanguageRecipe
from paintover.training.states import States

CAPTION = "what is in this image?{image} :"
# Not the shares of `edits` and `ambiguous`, which are for learning to draw: to be said, a rare kind needs as many examples as
# a common one, and "which" has the most to look at. The shipped model learnt with these.
EXPLICIT = {"remove": 0.2, "replace": 0.2, "recolour": 0.15, "add": 0.15, "place": 0.05, "nothing": 0.05, "look": 0.2}
_AMBIGUOUS = np.array([3.0 if kind == "which" else 0.5 if kind == "later" else 1.0 for kind in ambiguous.AMBIGUOUS])
_AMBIGUOUS /= _AMBIGUOUS.sum()


class LanguageBatches(Dataset[dict[str, Any]]):
    """Item `step`: this process's share of that step's rows, as `seen` and `unseen`, those with and without a picture.

    Each is None or a dict: ids_BL, mask_BL, labels_BL and images_BN of `models.mllm.Asked`, rows with [IMG] tokens first.
    tokens_BLD: for those rows, the denoiser's own text states of what is meant; None where there are none.
    pixels_BCHW: as the vision tower takes it. patches_BN: the class that covers the middle of each patch, counted from 1, and
    0 for none. Both are None without pictures.
    """

    def __init__(
        self,
        root: Path,
        photos: Path | None,
        mllm: Mllm,
        text: TextEncoder,
        recipe: LanguageRecipe,
        share: Share = Share(),
    ) -> None:
        self.assets = Assets(root, "train", photos)
        self.mllm, self.recipe, self.share = mllm, recipe, share
        self._states, self._queries = States(text), int(mllm.head.config["queries"])

    def __getitem__(self, step: int) -> dict[str, Any]:
        unseen = round(self.recipe.unseen * self.recipe.batch)
        mine = range(self.share.rank, self.recipe.batch, self.share.world)
        rows = {r: self._row(np.random.default_rng([self.recipe.seed, step, r]), r >= unseen) for r in mine}
        return {
            "seen": self._together([row for r, row in rows.items() if r >= unseen]),
            "unseen": self._together([row for r, row in rows.items() if r < unseen]),
        }

    def _row(self, rng: np.random.Generator, seen: bool) -> dict[str, Any]:
        if seen and rng.random() < self.recipe.captions:
            scene = self._described(rng)
            return self._asked("", words.caption(scene), scene, CAPTION)
        if rng.random() < self.recipe.explicit:
            kind = edits.drawn(EXPLICIT, rng)
        else:
            kind = str(rng.choice(ambiguous.AMBIGUOUS, p=_AMBIGUOUS))
        case = edits.make(kind, self.assets, rng, self.recipe.sides)
        return self._asked(case.instruction, case.meant, case.before if seen else None, None)

    def _described(self, rng: np.random.Generator) -> Scene:
        """A scene to be described: its things in any colour, so that what they are is told by their shape."""
        if rng.random() < 0.3:
            return edits.make("free", self.assets, rng, self.recipe.sides).after
        scene = random_scene(self.assets, rng, self.recipe.sides)
        colours = [str(rng.choice(list(COLOURS))) if rng.random() < 0.35 else None for _ in scene.objects]
        return replace(scene, objects=tuple(replace(o, colour=c) for o, c in zip(scene.objects, colours, strict=True)))

    def _asked(self, instruction: str, answer: str, scene: Scene | None, prompt: str | None) -> dict[str, Any]:
        pixels = patches = None
        if scene is not None:
            rgb_HWC = np.rint(scene.render(self.mllm.size) * 255).astype(np.uint8)
            pixels, patches = self.mllm.see(rgb_HWC), torch.from_numpy(self._patches(scene))
        question = self.mllm.question(instruction, scene is not None, prompt)
        said = answer if self.recipe.expressive or prompt is not None else ""
        return {
            "question": question, "said": said, "meant": answer, "pixels": pixels, "patches": patches, "tokens": prompt is None,
        }  # fmt: skip

    def _patches(self, scene: Scene) -> NDArray[np.int64]:
        side = round(self.mllm.patches**0.5)
        centre = (np.arange(side) + 0.5) / side
        classes = np.zeros((side, side), np.int64)
        for thing in scene.objects:
            left, top, right, bottom = thing.box()
            inside = ((left < centre) & (centre < right))[None, :] & ((top < centre) & (centre < bottom))[:, None]
            classes[inside] = self.assets.classes.index(thing.cls) + 1
        return classes.reshape(-1)

    def _together(self, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
        if not rows:
            return None
        rows = sorted(rows, key=lambda row: not row["tokens"])  # those with [IMG] tokens first
        asked = self.mllm.asked([r["question"] for r in rows], [r["said"] for r in rows], [r["tokens"] for r in rows], LENGTHS)
        told = [r for r in rows if r["tokens"]]
        return {
            **asdict(asked),
            "tokens_BLD": torch.stack([self._states(r["meant"])[0][: self._queries] for r in told]) if told else None,
            "pixels_BCHW": torch.stack([r["pixels"] for r in rows]) if rows[0]["pixels"] is not None else None,
            "patches_BN": torch.stack([r["patches"] for r in rows]) if rows[0]["pixels"] is not None else None,
        }
