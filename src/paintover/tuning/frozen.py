"""A denoiser to learn through: in float32, its own weights still."""

from __future__ import annotations

from typing import Any

import torch

from paintover.models.denoiser import Denoiser


def frozen(denoiser: Denoiser) -> Denoiser:
    """The denoiser once more, in float32, so that small gradients of what it is told do not vanish. Weights that are in
    float32 are shared with `denoiser`; none records gradients."""
    unet: Any = denoiser.unet
    with torch.device("meta"):
        copy = type(unet).from_config(unet.config)
    copy.load_state_dict({name: w.detach().float() for name, w in unet.state_dict().items()}, strict=True, assign=True)
    copy.eval().requires_grad_(False)
    if denoiser.device.type == "cpu":
        from diffusers.models.attention_processor import AttnProcessor

        copy.set_attn_processor(AttnProcessor())  # its backward is twice as fast there as that of the fused kernel
    return denoiser.around(copy)
