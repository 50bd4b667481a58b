"""Masks on the latents' grid: found in what the denoiser says, and held to while walking. 1 is where an edit may go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paintover.models.taps import Site, Taps
from paintover.path.predict import Condition, Predict
from paintover.path.schedule import Step
from paintover.path.walk import After

_AT_ONCE = 8  # noises, asked under two texts each


def difference_asks(x0_BCHW: Tensor, step: Step, noise_SCHW: Tensor, a: Condition, b: Condition) -> list[Predict]:
    """What `difference_mask` is made from: the picture noised S times to where `step` begins, each asked under both texts."""
    xs = [step.noised(x0_BCHW, noise) for noise in noise_SCHW.split(1)]
    return [Predict(x, step.t, c) for c in (a, b) for x in xs]


def differences(x0_BCHW: Tensor, step: Step, noise_SCHW: Tensor, a: Condition, b: Condition) -> Any:
    """A part of a path that returns the answers to `difference_asks`, asked a few noises at a time: it can be cancelled."""
    of_a: list[Tensor] = []
    of_b: list[Tensor] = []
    for some_SCHW in noise_SCHW.split(_AT_ONCE):
        answers = yield difference_asks(x0_BCHW, step, some_SCHW, a, b)
        of_a += answers[: len(some_SCHW)]
        of_b += answers[len(some_SCHW) :]
    return [*of_a, *of_b]


def difference_mask(eps: Sequence[Tensor], threshold: float, clamp: float = 3.0) -> Tensor:
    """DiffEdit's mask_HW (Couairon et al. 2023, step 1) from the answers to `difference_asks`.

    d = mean |e(b) - e(a)| over noises and channels, cut off at clamp times its mean, and divided by what is then the largest:
    where that is above the threshold. A guidance scale would multiply d alone and be divided away, so none is asked for.
    """
    half = len(eps) // 2
    d_HW = (torch.cat(list(eps[half:])) - torch.cat(list(eps[:half]))).abs().mean(dim=(0, 1))
    d_HW = d_HW.clamp(max=d_HW.mean() * clamp)
    return (d_HW > threshold * d_HW.max()).to(d_HW.dtype)  # nowhere, if the texts say the same


def held_to(mask_HW: Tensor, source_x: Sequence[Tensor]) -> After:
    """A walk's `after`: outside of the mask, the latents that step i has reached are the source's, source_x[i + 1]."""
    return lambda step, x_BCHW: source_x[step.i + 1] + mask_HW * (x_BCHW - source_x[step.i + 1])


def strongest(d_HW: Tensor, threshold: float) -> Tensor:
    """1 at the places whose d is at or above the quantile `threshold` of all."""
    return (d_HW >= torch.quantile(d_HW.float().flatten(), threshold)).to(d_HW.dtype)


@dataclass(slots=True, eq=False)
class WordsSeen(Taps):
    """Where a row's first `words` tokens (after the one that starts the text) are attended to: cross-attention, by grid.

    Of the network's way down and way up, whose coarse grids know objects (LEdits++ reads those of a quarter of the latents'
    height and width: 16 x 16 in Stable Diffusion).
    """

    words: int
    size_HW: tuple[int, int]
    found: dict[Site, Tensor] = field(default_factory=dict)  # by site: a call that is made again is seen once

    def wants_maps(self, site: Site) -> bool:
        return site.kind == "cross" and site.part != "mid"

    def maps(self, site: Site, maps_HNL: Tensor) -> Tensor:
        self.found[site] = maps_HNL[:, :, 1 : 1 + self.words].sum(dim=2).mean(dim=0).reshape(site.size_HW)
        return maps_HNL

    def mask(self, threshold: float) -> Tensor | None:
        """mask_HW of the latents' size: the strongest places of the smoothed map; None where nothing was seen.

        Of the grid nearest to a quarter of the latents' sides, for networks that have none there.
        """
        if not self.found:
            return None
        area = math.prod(self.size_HW) / 16
        nearest = min((site.size_HW for site in self.found), key=lambda size_HW: abs(math.log(math.prod(size_HW) / area)))
        seen_HW = torch.stack([map_HW for site, map_HW in self.found.items() if site.size_HW == nearest]).mean(dim=0)
        mask_HW = strongest(smooth(seen_HW), threshold)
        return functional.interpolate(mask_HW[None, None], size=self.size_HW, mode="nearest")[0, 0]


def smooth(d_HW: Tensor) -> Tensor:
    """A 3 x 3 Gaussian of standard deviation sqrt(1/2), weights exp(-distance^2); borders mirrored."""
    w = torch.tensor([math.exp(-1), 1, math.exp(-1)], dtype=d_HW.dtype, device=d_HW.device)
    kernel = torch.outer(w, w) / w.sum() ** 2
    mirrored = functional.pad(d_HW[None, None], (1, 1, 1, 1), mode="reflect" if min(d_HW.shape) > 1 else "replicate")
    return functional.conv2d(mirrored, kernel[None, None])[0, 0]
