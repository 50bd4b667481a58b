"""Where a reference's subject is in what was painted, and the picture painted anew there, told of it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paintover.editors.editor import Context

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.models.media import MediaEncoder, Pixels
    from paintover.path.guidance import Guide
    from paintover.path.predict import Path
    from paintover.path.schedule import Step

SIDES = (1 / 4, 1 / 3, 1 / 2, 2 / 3)  # of the windows, in the picture's shorter side
WIDER = 0.15  # of a window's side, on each of its sides: a subject reaches out of the window that it is found in
_AT_ONCE = 32

Box = tuple[int, int, int, int]  # top, left, bottom, right


def repainted(x0_BCHW: Tensor, context: Context[Any], e_E: Tensor, strength: float, guide: Guide, n: int = 0) -> Path:
    """The last part of the way walked anew where the subject e_E (a unit vector) is; elsewhere the latents stay as they are.

    InstructAny2Pix finds a subject with GroundingDINO and SAM; here the bundle's own encoder looks through windows. n: which
    subject it is, each of which has noise of its own.
    """
    import torch

    from paintover.path.start import late, noise
    from paintover.path.walk import walk

    steps = context.schedule.steps(context.steps, start=strength)
    if not steps:
        return x0_BCHW
    with torch.no_grad():
        pixels_CHW = (context.bundle.codec.decode(x0_BCHW)[0].float().cpu().clamp(-1, 1) + 1) * 127.5
    rgb_HWC = pixels_CHW.permute(1, 2, 0).round().to(torch.uint8).numpy()
    box = found(context.bundle.encoder(), rgb_HWC, e_E)
    mask_HW = mask(box, (rgb_HWC.shape[0], rgb_HWC.shape[1]), context.shape[2:]).to(x0_BCHW)
    if context.mask_HW is not None:
        mask_HW = mask_HW * context.mask_HW
    context.shown[f"subject {n + 1}"] = mask_HW
    fresh = noise(_seed(context.request.seed, n), context.shape, context.device)
    last = steps[-1]

    def outside(step: Step, x_BCHW: Tensor) -> Tensor:
        """Outside of the mask: the picture, as noisy as the step has come to be."""
        there = x0_BCHW if step is last else steps[step.i - steps[0].i + 1].noised(x0_BCHW, fresh)
        return there + mask_HW * (x_BCHW - there)

    return (yield from walk(late(x0_BCHW, fresh, steps, strength), steps, guide, after=outside))


def windows(height: int, width: int) -> list[Box]:
    """Squares of several SIDES all over a picture, each half over the next."""
    boxes = []
    for share in SIDES:
        side = max(1, round(share * min(height, width)))
        tops, lefts = (sorted({*range(0, size - side, max(1, side // 2)), size - side}) for size in (height, width))
        boxes += [(top, left, top + side, left + side) for top in tops for left in lefts]
    return boxes


def found(encoder: MediaEncoder, rgb_HWC: Pixels, e_E: Tensor) -> Box:
    """The window whose content is nearest to the unit vector e_E."""
    import torch

    boxes = windows(*rgb_HWC.shape[:2])
    crops = [rgb_HWC[top:bottom, left:right] for top, left, bottom, right in boxes]
    seen_KE = torch.cat([encoder.see(crops[k : k + _AT_ONCE]).float().cpu() for k in range(0, len(crops), _AT_ONCE)])
    return boxes[int((seen_KE @ e_E.float().cpu()).argmax())]


def mask(box: Box, size_HW: tuple[int, int], grid_HW: tuple[int, ...]) -> Tensor:
    """1 in the box, made WIDER, on a grid of latents that covers size_HW; its edge is soft."""
    import torch

    from paintover.path.masks import smooth

    top, left, bottom, right = box
    more = WIDER * (bottom - top)
    mask_HW = torch.zeros(*grid_HW)
    rows, columns = (
        slice(max(0, int((low - more) * cells / size)), max(1, -int(-(high + more) * cells // size)))
        for low, high, cells, size in ((top, bottom, grid_HW[0], size_HW[0]), (left, right, grid_HW[1], size_HW[1]))
    )
    mask_HW[rows, columns] = 1.0
    return smooth(mask_HW)


def _seed(seed: int, n: int) -> int:
    """Of another stream than the first pass's noises, which are the seed's own."""
    import numpy as np

    return int(np.random.SeedSequence([seed, 4, n]).generate_state(1, np.uint64)[0] >> 1)
