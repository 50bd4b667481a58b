"""What a multimodal language model imagined, as conditions for the denoiser (MGIE)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from paintover.models.denoiser import Denoiser
from paintover.models.mllm import Mllm


def told(mllm: Mllm, denoiser: Denoiser, hidden_BND: Tensor) -> tuple[Tensor, Tensor | None]:
    """U as tokens_BLD, and for a denoiser that takes one the vector of the whole, pooled_BD: their mean, of unit variance.

    hidden_BND: the states that predict the [IMG] tokens; zeros for the null condition, the same for every picture and text.
    """
    tokens_BLD = mllm.guide(hidden_BND).float()
    if denoiser.pooled_width is None:
        return tokens_BLD, None
    return tokens_BLD, functional.normalize(tokens_BLD.mean(dim=1), dim=-1) * tokens_BLD.shape[-1] ** 0.5


def nothing(mllm: Mllm, rows: int = 1) -> Tensor:
    """hidden_BND of the null condition."""
    return torch.zeros(rows, *mllm.embeddings_ND.shape, device=mllm.device)
