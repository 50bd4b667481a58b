"""The door of a rectified-flow network: a path on a flow is handed velocities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paintover.errors import ModelError, RequestError
from paintover.models.taps import Taps

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel


class FlowDenoiser:
    """An SD3Transformer2DModel seen as v(x, t, condition), v = noise - x0 (Esser et al. 2024, rectified flow).

    A path need not know: what a denoiser answers is what the steps of its schedule walk on (`path/flow.py`).

    Attributes: `channels` C of the latents; `multiple` of the latents' height and width (the patch); `most`, the largest
    height and width that there are position embeddings for; `text_width`, `pooled_width`: D of tokens and pooled vector.
    """

    takes_image = False

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        config = transformer.config
        outputs = config.out_channels if config.out_channels is not None else config.in_channels
        if outputs != config.in_channels:
            raise ModelError(
                f"a flow transformer with {config.in_channels} input and {outputs} output channels is not supported; "
                "they must be as many"
            )
        if not config.pos_embed_max_size:
            raise ModelError("a flow transformer without pos_embed_max_size is not supported; Stable Diffusion 3's have it")
        self.transformer = transformer
        self.channels: int = config.in_channels
        self.multiple: int = config.patch_size
        self.most: int = config.patch_size * config.pos_embed_max_size
        self.text_width: int = config.joint_attention_dim
        self.pooled_width: int = config.pooled_projection_dim

    @property
    def device(self) -> torch.device:
        return self.transformer.proj_out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.proj_out.weight.dtype

    def __call__(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        tokens_BLD: Tensor,
        pooled_BD: Tensor | None = None,
        image_BCHW: Tensor | None = None,
        taps: Sequence[Taps | None] | None = None,
        media_BSE: Tensor | None = None,
    ) -> Tensor:
        """The velocity v_BCHW (float32, on the network's device) at x_BCHW and timesteps t_B = 1000 sigma, one for each row.

        Raises ModelError where it is asked for what it cannot do: taps, media, a source picture, no pooled vector.
        """
        if pooled_BD is None:
            raise ModelError(f"this denoiser needs a pooled text vector of width {self.pooled_width}; none was given")
        if image_BCHW is not None:
            raise ModelError(
                "this denoiser was given a source picture but has no channels for one; use a bundle that can 'instruct'"
            )
        if taps is not None and any(tap is not None for tap in taps):
            raise ModelError("a flow transformer cannot be tapped; use a bundle with a UNet")
        if media_BSE is not None:
            raise ModelError("a flow transformer cannot be told pictures or sounds; use a bundle that can 'any2pix'")
        if max(x_BCHW.shape[-2:]) > self.most:
            raise RequestError(
                f"latents of {x_BCHW.shape[-2]} x {x_BCHW.shape[-1]} are larger than the {self.most} on a side that this "
                "model has positions for; use a smaller or less elongated picture"
            )
        device, dtype = self.device, self.dtype
        answer = self.transformer(
            hidden_states=x_BCHW.to(device, dtype),
            timestep=t_B.to(device),
            encoder_hidden_states=tokens_BLD.to(device, dtype),
            pooled_projections=pooled_BD.to(device, dtype),
            return_dict=False,
        )
        return answer[0].float()
