"""Held-out ambiguous instructions with an exact answer, and how near a picture comes to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from paintover.evaluation.compare import Picture, as_uint8
from paintover.evaluation.metrics import l1, ssim
from paintover.models.mllm import Mllm
from paintover.scenes import edits
from paintover.scenes.ambiguous import AMBIGUOUS
from paintover.scenes.assets import Assets

MEASURES = ("l1", "l1_inside", "l1_outside", "ssim", "similarity")


@dataclass(frozen=True, eq=False)
class Held:
    """A case as it is edited: uint8 pictures HWC, and what the true edit changes."""

    n: int
    case: edits.Case
    source: Picture
    target: Picture
    inside: NDArray[np.bool_]

    def measure(self, picture: Picture) -> dict[str, float]:
        """All of MEASURES but the similarity; nan where a region is empty."""
        made, goal = picture / 255, self.target / 255
        return {
            "l1": l1(made, goal),
            "l1_inside": l1(made, goal, self.inside),
            "l1_outside": l1(made, goal, ~self.inside),
            "ssim": ssim(made, goal),
        }


def held(assets: Assets, count: int, size: int, seed: int) -> list[Held]:
    """The cases, every kind in turn: the n-th depends on seed and n alone (and on whether there are photographs)."""
    made = []
    for n in range(count):
        case = edits.make(AMBIGUOUS[n % len(AMBIGUOUS)], assets, np.random.default_rng([seed, n]))
        source, target = (as_uint8(pixels) for pixels in case.render(size))
        made.append(Held(n, case, source, target, edits.changed(source / np.float32(255), target / np.float32(255))))
    return made


class Eye:
    """How alike pictures are to a vision tower: the cosine of the means over their patches, in the layer that the language
    model reads (which one, its config says: the last in the built-in model, the last but one in LLaVA).

    It is the eye of the model that is judged: that can favour it, and two models' similarities are not to be compared.
    """

    def __init__(self, mllm: Mllm) -> None:
        self.mllm = mllm

    @torch.no_grad()
    def features(self, pictures: Sequence[Picture]) -> Tensor:
        """features_BD, of length 1."""
        config = self.mllm.model.config
        looked = self.mllm.look(torch.stack([self.mllm.see(picture) for picture in pictures]))
        states_BPD = looked.hidden_states[config.vision_feature_layer].float()
        if config.vision_feature_select_strategy == "default":  # the first is no patch
            states_BPD = states_BPD[:, 1:]
        return functional.normalize(states_BPD.mean(dim=1), dim=-1)

    def alike(self, pictures: Sequence[Picture], goals: Sequence[Picture]) -> list[float]:
        """The cosine of each picture and its goal, -1..1."""
        return (self.features(pictures) * self.features(goals)).sum(dim=-1).tolist()
