"""UniTune's interpolation: where an edit differs from its source, seen in the pixels; elsewhere the source stays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LOW, HIGH = 0.08, 0.20  # differences up to LOW are the source's, from HIGH on the edit's
MOST = 0.7  # of the picture; a change of more is one of the whole picture
_TORN = 0.1  # of the mask's border; where so much of what is mixed there differs by more than HIGH, both would be seen


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """mask_HW, 0..1: 1 where the edit stays, 0 where the source does. unfit: why it should not be used, or ""."""

    mask_HW: Tensor
    unfit: str = ""


def estimate(edited_CHW: Tensor, source_CHW: Tensor) -> Estimate:
    """Where two pictures (0..1) differ: d = mean over channels of |edited - source|, its maximum around each place, blurred,
    from 0 at d = LOW to 1 at d = HIGH (methods.md E.1).

    Windows grow with the picture: at 512 pixels the maximum is over 9 x 9, and the blur's sigma 8. It is unfit where it covers
    more than MOST of the picture, and where its border (weighed by 4 m (1 - m)) runs through what differs strongly: twigs or
    wires that the edit moved would be seen twice, torn. The border of a thing that was changed as a whole lies just outside of
    it. The paper shows such masks and does not say how they are made.
    """
    height, width = source_CHW.shape[-2:]
    reach, sigma = round(min(height, width) / 128), min(height, width) / 64
    d_1HW = (edited_CHW - source_CHW).abs().mean(dim=0, keepdim=True)
    around_1HW = functional.max_pool2d(d_1HW, 2 * reach + 1, stride=1, padding=reach)
    mask_HW = ((blurred(around_1HW, sigma)[0] - LOW) / (HIGH - LOW)).clamp(0, 1)
    share = mask_HW.mean().item()
    if share > MOST:
        return Estimate(mask_HW, f"the edit changes {share:.0%} of the picture")
    border_HW = 4 * mask_HW * (1 - mask_HW)
    if border_HW[d_1HW[0] > HIGH].sum() > _TORN * border_HW.sum():
        return Estimate(mask_HW, "edit and picture do not fit together where they would meet")
    return Estimate(mask_HW)


def mixed(edited: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """m edited + (1 - m) source: bit for bit the one where m is 1, and the other where it is 0."""
    return mask * edited + (1 - mask) * source


def blurred(a_CHW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; the border's values are repeated beyond it."""
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=a_CHW.dtype, device=a_CHW.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(a_CHW[:, None], (reach,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]
