"""Taps: what a path records and replaces inside the network, for rows of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["self", "cross", "feature"]
Part = Literal["down", "mid", "up"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place inside the network where rows can be tapped.

    kind:  "self" or "cross" attention, or "feature": what a residual block's convolutions add to its input.
    part:  the side of the network: "down", "mid" or "up".
    index: counts the sites of this kind and part in the order of execution, from 0.
    of:    how many there are of this kind and part.
    size_HW: height and width of the grid there; an attention's N pixels are these, row by row.
    """

    kind: Kind
    part: Part
    index: int
    of: int
    size_HW: tuple[int, int]

    def beyond(self, index: int, of: int) -> bool:
        """Whether this is as deep in its part, or deeper, as site `index` is in a network that has `of` such sites.

        Papers name layers of Stable Diffusion's network; this says where they are in another one.
        """
        return self.index * of >= index * self.of


class Taps:
    """What is done inside the network for one row of a call; this one does nothing. Subclasses record, replace, or both.

    A row's taps see that row alone: rows with taps and rows without share a denoiser call. Tensors are the network's own:
    return others, and never write into them. H heads, N pixels, L what is attended to (the pixels again, or the text's
    tokens), D width of a head.
    """

    def qkv(self, site: Site, q_HND: Tensor, k_HLD: Tensor, v_HLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of an attention, before they are used. Another L may be returned."""
        return q_HND, k_HLD, v_HLD

    def wants_maps(self, site: Site) -> bool:
        """Whether `maps` is to be called here: maps that nobody looks at are never written out."""
        return False

    def maps(self, site: Site, maps_HNL: Tensor) -> Tensor:
        """Attention maps softmax(Q K^T / sqrt(D)), float32, each row a distribution over L."""
        return maps_HNL

    def feature(self, site: Site, feature_CHW: Tensor) -> Tensor:
        """What the convolutions of a residual block have computed, before the block's input is added."""
        return feature_CHW
