"""Plug-and-Play: the layout that the decoder sees in the source, put into the edit's decoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from paintover.models.taps import Site, Taps


class KeepLayout(Taps):
    """Plug-and-Play: keeps a row's features of one residual block, and queries and keys of the decoder's self-attention.

    In Stable Diffusion's decoder of twelve layers: the features of layer 4, the self-attention of layers 4 to 11. Elsewhere:
    what lies as deep in the decoder.
    """

    def __init__(self, feature: bool, attention: bool) -> None:
        self.with_feature, self.with_attention = feature, attention
        self.features: dict[Site, Tensor] = {}
        self.queries_keys: dict[Site, tuple[Tensor, Tensor]] = {}

    def qkv(self, site: Site, q_HND: Tensor, k_HLD: Tensor, v_HLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.with_attention and site.kind == "self" and site.part == "up" and site.beyond(1, 9):
            self.queries_keys[site] = q_HND, k_HLD
        return q_HND, k_HLD, v_HLD

    def feature(self, site: Site, feature_CHW: Tensor) -> Tensor:
        if self.with_feature and site.part == "up" and site.beyond(4, 12) and self.features.keys() <= {site}:
            self.features[site] = feature_CHW
        return feature_CHW


@dataclass(frozen=True, eq=False)
class TakeLayout(Taps):
    """Plug-and-Play: what the source's row kept, in the place of one's own; values stay."""

    source: KeepLayout

    def qkv(self, site: Site, q_HND: Tensor, k_HLD: Tensor, v_HLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return *self.source.queries_keys.get(site, (q_HND, k_HLD)), v_HLD

    def feature(self, site: Site, feature_CHW: Tensor) -> Tensor:
        return self.source.features.get(site, feature_CHW)
