"""How well a language model says the answers of a batch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def predicted(labels_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Which positions predict a token of the answer (but for the last, which predicts nothing), and those tokens."""
    said_BL = labels_BL[:, 1:] != -100
    return said_BL, labels_BL[:, 1:][said_BL]


def cross_entropy(lm_head: nn.Module, states_BLD: Tensor, labels_BL: Tensor) -> Tensor:
    """L_ins of hidden states, summed over the tokens of the answers."""
    said_BL, labels_K = predicted(labels_BL)
    return functional.cross_entropy(lm_head(states_BLD[:, :-1][said_BL]).float(), labels_K, reduction="sum")
