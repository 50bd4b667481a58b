"""The averaged weights of a run, which are the ones that are exported."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves the average towards the model after its `step`th step; faster at first, when it has little to remember."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), [p.detach() for p in model.parameters()], 1 - decay)
