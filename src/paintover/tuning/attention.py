"""The attention that learns fastest on a CPU, with no more memory than that takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

FEW = 16 * 16  # pixels of a grid


def quick(unet: nn.Module) -> None:
    """On small grids attention as it is written down, whose backward pass is quicker there; on larger ones the fused kernel.

    Written down it keeps every map of N x N for the backward pass, which on a grid of 64 x 64 are gigabytes.
    """
    from diffusers.models.attention_processor import AttnProcessor

    network: Any = unet
    network.set_default_attn_processor()
    own = network.attn_processors.items()
    network.set_attn_processor({name: _BySize() if type(one) is AttnProcessor else one for name, one in own})


class _BySize:
    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self.small, self.large = AttnProcessor(), AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **named: Any) -> Tensor:
        """hidden_states BNC, or BCHW."""
        pixels = hidden_states[0].numel() // hidden_states.shape[-1 if hidden_states.ndim == 3 else 1]
        answer: Tensor = (self.small if pixels <= FEW else self.large)(attn, hidden_states, *args, **named)
        return answer
