"""How much of a picture is left at each timestep: one table for the network's door and for the walk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paintover.errors import ModelError


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """alpha_bar (float64, one per training timestep) from the betas that a diffusers scheduler config describes.

    What the config leaves out is as in Stable Diffusion. Raises ModelError for a beta_schedule that is not known.
    """
    count = config.get("num_train_timesteps", 1000)
    first, last = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    kind = config.get("beta_schedule", "scaled_linear")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64) ** 2
    elif kind == "linear":
        betas = torch.linspace(first, last, count, dtype=torch.float64)
    elif kind == "squaredcos_cap_v2":
        edge = torch.arange(count + 1, dtype=torch.float64) / count
        level = torch.cos((edge + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - level[1:] / level[:-1]).clamp(max=0.999)
    else:
        raise ModelError(f"beta_schedule is {kind!r}; expected scaled_linear, linear, squaredcos_cap_v2 or trained_betas")
    return torch.cumprod(1 - betas, dim=0)
