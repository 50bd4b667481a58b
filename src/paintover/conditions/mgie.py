"""What a multimodal language model imagined, as conditions for the denoiser (MGIE)."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from paintover.models.denoiser import Denoiser
from paintover.models.flow import FlowDenoiser
from paintover.models.mllm import Mllm


def told(mllm: Mllm, denoiser: Denoiser, hidden_BND: Tensor) -> tuple[Tensor, Tensor | None]:
    """U as tokens_BLD, and for a denoiser that takes one the vector of the whole, pooled_BD: their mean, of unit variance.

    hidden_BND: the states that predict the [IMG] tokens; zeros for the null condition, the same for every picture and text.
    """
    tokens_BLD = mllm.guide(hidden_BND).float()
    return tokens_BLD, pooled(denoiser, tokens_BLD)


def pooled(denoiser: Denoiser | FlowDenoiser, tokens_BLD: Tensor) -> Tensor | None:
    """The vector of the whole, pooled_BD, that `told` tells beside U; None for a denoiser that takes none.

    Where it has another width than U's (SDXL's is of another encoder), it is zeros, which SDXL is told without words.
    """
    if denoiser.pooled_width is None:
        return None
    if denoiser.pooled_width != tokens_BLD.shape[-1]:
        return tokens_BLD.new_zeros(len(tokens_BLD), denoiser.pooled_width)
    return functional.normalize(tokens_BLD.mean(dim=1), dim=-1) * tokens_BLD.shape[-1] ** 0.5


def nothing(mllm: Mllm, rows: int = 1) -> Tensor:
    """hidden_BND of the null condition."""
    return torch.zeros(rows, *mllm.embeddings_ND.shape, device=mllm.device)


_null: WeakKeyDictionary[Mllm, Tensor] = WeakKeyDictionary()


@torch.no_grad()
def null(mllm: Mllm) -> Tensor:
    """U of the null condition, T(0 + e_[IMG]), tokens_BLD with B = 1: once for a model that learns nothing any more."""
    if mllm not in _null:
        _null[mllm] = mllm.guide(nothing(mllm)).float()
    return _null[mllm]
