"""Loading what an SDXL bundle has of its own: two text encoders, and beside its network the refiner."""

from __future__ import annotations

from typing import Any

import torch

from paintover.errors import ModelError
from paintover.models.denoiser import Denoiser
from paintover.models.description import Description, Refining
from paintover.models.files import STEMS, complete, weights
from paintover.models.noise import alphas_cumprod
from paintover.models.refiner import Refiner
from paintover.models.sizes import Sizes
from paintover.models.text_sdxl import SDXLText


def load_text(description: Description, device: torch.device) -> SDXLText:
    """Both CLIPs, in float32."""
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    clips: list[Any] = []
    for number, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
        part = f"text_encoder{number}"
        _, variant = weights(description.folder, part, STEMS[part])
        clip, info = kind.from_pretrained(
            description.folder / part,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="sdpa",  # named here, so that a config cannot name a kernel to be downloaded and run
        )
        complete(info, part)
        tokenizer = CLIPTokenizer.from_pretrained(description.folder / f"tokenizer{number}", local_files_only=True)
        clips.append((clip.to(device), tokenizer))
    return SDXLText(clips, description.silent)


def refiner(description: Description, about: Refining, unet: Any, text: SDXLText, factor: int) -> Refiner:
    """Around its network: told words by the second of the bundle's encoders. Raises ModelError where it does not fit."""
    prediction: Any = about.prediction
    sizes = Sizes.of(unet.config, factor, scored=True)
    denoiser = Denoiser(unet, prediction, alphas_cumprod(about.scheduler_config), sizes=sizes)
    own = SDXLText(text.clips[-1:], about.silent)
    said, taken = (own.width, own.pooled_width), (denoiser.text_width, sizes and sizes.text_width)
    if said != taken:
        raise ModelError(
            f"refiner/ of bundle {description.name} does not fit it: text width {said[0]} (pooled {said[1]}), refiner "
            f"{taken[0]} (pooled {taken[1]})"
        )
    return Refiner(denoiser, own, about.scheduler_config)
