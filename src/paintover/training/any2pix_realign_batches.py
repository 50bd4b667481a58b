"""Batches for InstructAny2Pix's fourth stage: edits with embeddings of what is wanted, from the built-in world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from paintover.conditions.any2pix import slots
from paintover.models.media import MediaEncoder
from paintover.models.text import TextEncoder
from paintover.scenes import ambiguous, edits, referring
from paintover.scenes.assets import Assets
from paintover.scenes.edits import Case
from paintover.scenes.referring import Referring
from paintover.scenes.scene import Scene
from paintover.scenes.sounds import Recording, Sounds
from paintover.training.any2pix_realign_recipe import RealignRecipe
from paintover.training.batches import LEVELS, Share, pixels, weighed
from paintover.training.mgie_batches import Row
from paintover.training.states import States

MIX = {
    "add": 0.17, "remove": 0.08, "replace": 0.2, "recolour": 0.06, "two": 0.24, "style": 0.04, "fit": 0.05, "look": 0.06,
    "made": 0.1,
}  # fmt: skip
AMBIGUOUS = 0.15  # share of instructions without embeddings that are
SEEN = 96  # pixels of what the encoder is shown
WORDLESS = 0.07  # share of rows that are told no words


class RealignBatches(Dataset[dict[str, Any]]):
    """Item `step` is this process's share of that step's rows: those with embeddings, and then those without.

    source_BCHW, target_BCHW, weight_B1HW, shown_B, levels_B2, tokens_BLD and pooled_BD as in `training.batches`. media_MSE: of
    the first M rows, what the adapter is told.
    """

    def __init__(
        self,
        root: Path,
        photos: Path | None,
        recordings: Path | None,
        encoder: MediaEncoder,
        text: TextEncoder,
        norm: float,
        locals_: int,
        recipe: RealignRecipe,
        share: Share = Share(),
    ) -> None:
        self.assets = Assets(root, "train", photos, heard=True)
        self.plain = Assets(root, "train", photos)
        self.sounds = Sounds(root, "train", recordings)
        self.encoder, self.norm, self.locals, self.recipe, self.share = encoder, norm, locals_, recipe, share
        self.sorts = [sort for sort, count in recipe.rows().items() for _ in range(count)]
        self._states = States(text)
        _ = self.sounds.by_label  # read before the workers are made, which then share it

    def __getitem__(self, step: int) -> dict[str, Any]:
        size, sides = self.recipe.frame(step)
        mine = range(self.share.rank, self.recipe.batch, self.share.world)
        rows, told = [], []
        for r in mine:
            rng = np.random.default_rng([self.recipe.seed, step, r])
            if self.sorts[r] == "media":
                case = self._referring(rng, sides)
                rows.append(_row(_as_case(case), size, case.words, rng))
                told.append(self._media(case, rng))
            else:
                plain = self._plain(self.sorts[r], rng, sides)
                rows.append(_row(plain, size, plain.instruction, rng))
        tokens, pooled = zip(*(self._states(row.words) for row in rows), strict=True)
        return {
            "source_BCHW": pixels([row.source for row in rows]),
            "target_BCHW": pixels([row.target for row in rows]),
            "weight_B1HW": torch.from_numpy(np.stack([row.weight for row in rows]))[:, None],
            "shown_B": torch.tensor([row.shown for row in rows]),
            "levels_B2": torch.tensor([row.levels for row in rows]),
            "tokens_BLD": torch.stack(tokens),
            "pooled_BD": torch.stack(pooled) if pooled[0] is not None else None,
            "media_MSE": torch.cat(told) if told else None,
        }

    def _referring(self, rng: np.random.Generator, sides: tuple[float, float]) -> Referring:
        kind = str(rng.choice(list(MIX), p=list(MIX.values())))
        return referring.make(kind, self.assets, self.sounds, rng, sides)

    def _plain(self, sort: str, rng: np.random.Generator, sides: tuple[float, float]) -> Case:
        if sort == "captions":
            kind = "settled" if rng.random() < edits.SETTLED else "free"
        elif rng.random() < AMBIGUOUS:
            kind = str(rng.choice(ambiguous.AMBIGUOUS, p=ambiguous.SHARES))
        else:
            kind = edits.drawn(edits.train_mix(0.0), rng)
        return edits.make(kind, self.plain, rng, sides)

    def _media(self, case: Referring, rng: np.random.Generator) -> Tensor:
        """media_BSE (B = 1): the wanted picture's embedding, noised, and its objects', each dropped now and then."""
        whole_E = None
        if rng.random() >= self.recipe.drop_global:
            e_E = self.see(case.after)
            noise_E = torch.from_numpy(rng.normal(0, 1, len(e_E))).float() * self.recipe.noise * len(e_E) ** -0.5
            whole_E = self.norm * functional.normalize(e_E + noise_E, dim=0)
        objects: list[Tensor] = []
        if rng.random() >= self.recipe.drop_local:
            objects = [self.norm * self._object(case, noun, name) for noun, name in case.subs]
        return slots(whole_E, objects, self.locals, self.encoder.width)

    def _object(self, case: Referring, noun: str, name: str | None) -> Tensor:
        if name is None:
            return self.encoder.read([noun])[0]
        medium = case.media[name]
        return self.encoder.hear([medium.wave])[0] if isinstance(medium, Recording) else self.see(medium.scene)

    def see(self, scene: Scene) -> Tensor:
        return self.encoder.see([np.rint(scene.render(SEEN) * 255).astype(np.uint8)])[0]


def _as_case(case: Referring) -> Case:
    return Case(case.kind, case.before, case.after, case.words, case.caption, case.target_caption, case.words)


def _row(case: Case, size: int, words: str, rng: np.random.Generator) -> Row:
    source, target, weight = weighed(case, size)
    drop = rng.random()
    shown = 0.0 if case.before is None or drop < 0.02 else 1.0
    levels = (0.3, 1.0) if case.kind == "made" else LEVELS.get(case.kind, (0.0, 1.0))
    return Row(source, target, weight, shown, levels, "" if drop < WORDLESS else words, case.meant)
