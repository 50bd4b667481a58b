"""Prompt-to-Prompt: the edit attends as the source did, word by word; and its local blend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from paintover.models.taps import Site, Taps
from paintover.path.attention import WordMap
from paintover.path.schedule import Step
from paintover.path.walk import Record

if TYPE_CHECKING:
    from paintover.conditions.words import Alignment


class KeepMaps(Taps):
    """Keeps a row's attention maps at a step: all of cross-attention, of self-attention those of `pixels` or fewer; and
    where some words are.
    """

    def __init__(self, step: Step, cross: bool, pixels: float, word: WordMap | None) -> None:
        self.step, self.cross, self.pixels, self.word = step, cross, pixels, word
        self.kept: dict[Site, Tensor] = {}

    def keeps(self, site: Site) -> bool:
        return self.cross if site.kind == "cross" else math.prod(site.size_HW) <= self.pixels

    def wants_maps(self, site: Site) -> bool:
        return self.keeps(site) or (self.word is not None and self.word.wants(site))

    def maps(self, site: Site, maps_HNL: Tensor) -> Tensor:
        if self.keeps(site):
            self.kept[site] = maps_HNL
        if self.word is not None and self.word.wants(site):
            self.word.add(self.step, site, maps_HNL)
        return maps_HNL


class TakeMaps(Taps):
    """Attends as the source's row did.

    Self-attention: M <- M_source. Cross-attention: M <- c * (J M_source + (1 - J) M), where J takes the maps of tokens that
    correspond, and c weighs tokens (equations of the paper's sections "word swap", "adding a new phrase", "re-weighting").
    """

    def __init__(self, source: KeepMaps, alignment: Alignment, weights_L: Tensor, word: WordMap | None) -> None:
        self.source, self.alignment, self.weights_L, self.word = source, alignment, weights_L, word

    def wants_maps(self, site: Site) -> bool:
        return site in self.source.kept or (self.word is not None and self.word.wants(site))

    def maps(self, site: Site, maps_HNL: Tensor) -> Tensor:
        theirs_HNL = self.source.kept.get(site)
        if theirs_HNL is not None:
            maps_HNL = theirs_HNL if site.kind == "self" else self.alignment.take(theirs_HNL, maps_HNL) * self.weights_L
        if self.word is not None and self.word.wants(site):
            self.word.add(self.source.step, site, maps_HNL)
        return maps_HNL


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """Local blend: the edit happens where the words are, in the source (`there`) or in the edit (`here`).

    x <- x_source + m (x - x_source), m = [M_there / max > threshold] or [M_here / max > threshold], M the words' maps, each
    pixel the most of its neighbours (a max-pool of 3), averaged over the steps so far.
    """

    source: Record
    there: WordMap
    here: WordMap
    threshold: float

    def mix(self, step: Step, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The latents that the step has reached, blended; and the mask_HW."""
        mask_HW = self._mask(self.there, x_BCHW) | self._mask(self.here, x_BCHW)
        return torch.where(mask_HW, x_BCHW, self.source.x[step.i + 1]), mask_HW.float()

    def _mask(self, word: WordMap, x_BCHW: Tensor) -> Tensor:
        mean_HW = word.mean_HW()
        assert mean_HW is not None, "both rows are asked at every step"
        wide = functional.max_pool2d(mean_HW[None, None], 3, stride=1, padding=1)
        wide_HW = functional.interpolate(wide, size=x_BCHW.shape[2:])[0, 0]
        return wide_HW / wide_HW.max() > self.threshold
