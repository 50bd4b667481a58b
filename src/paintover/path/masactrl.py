"""MasaCtrl: the edit's own layout, painted with what the source looks like (mutual self-attention)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from paintover.models.taps import Site, Taps
from paintover.path.attention import WordMap
from paintover.path.schedule import Step


def layer(site: Site) -> float:
    """A self-attention's place among Stable Diffusion's sixteen: 0 to 5 encoder, 6 middle, 7 to 15 decoder."""
    before, count = {"down": (0, 6), "mid": (6, 1), "up": (7, 9)}[site.part]
    return before + site.index * count / site.of


class KeepLooks(Taps):
    """Keeps keys and values of self-attention from a layer on at a step, and where a word is."""

    def __init__(self, step: Step, layer: int, word: WordMap | None = None) -> None:
        self.step, self.layer, self.word = step, layer, word
        self.kept: dict[Site, tuple[Tensor, Tensor]] = {}

    def qkv(self, site: Site, q_HND: Tensor, k_HLD: Tensor, v_HLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if site.kind == "self" and layer(site) >= self.layer:
            self.kept[site] = k_HLD, v_HLD
        return q_HND, k_HLD, v_HLD

    def wants_maps(self, site: Site) -> bool:
        return self.word is not None and self.word.wants(site)

    def maps(self, site: Site, maps_HNL: Tensor) -> Tensor:
        if self.word is not None:
            self.word.add(self.step, site, maps_HNL)
        return maps_HNL


@dataclass(frozen=True, eq=False)
class Masks:
    """Where the words are, 0 or 1 on the maps' grid: in the source by its maps up to this step, in the edit up to the last.

    What is the word in the edit looks at what is the word in the source, and the rest at the rest.
    """

    there_HW: Tensor
    here_HW: Tensor

    def at(self, size_HW: tuple[int, int]) -> tuple[Tensor, Tensor]:
        there, here = (functional.interpolate(m[None, None], size=size_HW).flatten() for m in (self.there_HW, self.here_HW))
        return there, here


@dataclass(frozen=True, eq=False)
class TakeLooks(Taps):
    """MasaCtrl: one's own queries attend to the source's keys and values (`source`; None: to one's own).

    masks:  what may be attended to from where; None: everything.
    record: where a word is, to be added to; None: not looked at.
    """

    step: Step
    source: KeepLooks | None
    masks: Masks | None = None
    record: WordMap | None = None

    def qkv(self, site: Site, q_HND: Tensor, k_HLD: Tensor, v_HLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = None if self.source is None else self.source.kept.get(site)
        return (q_HND, k_HLD, v_HLD) if kept is None else (q_HND, *kept)

    def wants_maps(self, site: Site) -> bool:
        masked = self.masks is not None and self.source is not None and site in self.source.kept
        return masked or (self.record is not None and self.record.wants(site))

    def maps(self, site: Site, maps_HNL: Tensor) -> Tensor:
        if site.kind == "cross":
            if self.record is not None:
                self.record.add(self.step, site, maps_HNL)
            return maps_HNL
        assert self.masks is not None
        there_L, here_N = self.masks.at(site.size_HW)
        # softmax over a part of the pixels is softmax over all, cut to these and made to sum to 1 again
        allowed_NL = torch.where(here_N[:, None] > 0, there_L, 1 - there_L)
        cut_HNL = maps_HNL * allowed_NL
        mass_HN1 = cut_HNL.sum(-1, keepdim=True)
        return torch.where(mass_HN1 > 1e-12, cut_HNL / mass_HN1.clamp_min(1e-12), maps_HNL)


def masks(there: WordMap | None, here: WordMap | None, threshold: float) -> Masks | None:
    """Each word's map, stretched to 0 .. 1, against the threshold; None where there are no maps (yet)."""
    means = [None if word is None else word.mean_HW() for word in (there, here)]
    if means[0] is None or means[1] is None:
        return None
    stretched = ((m - m.min()) / (m.max() - m.min()).clamp_min(1e-12) for m in means if m is not None)
    return Masks(*((m >= threshold).float() for m in stretched))
