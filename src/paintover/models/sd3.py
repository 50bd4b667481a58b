"""Loading what a Stable Diffusion 3 bundle has of its own: the flow transformer and three text encoders."""

from __future__ import annotations

from typing import Any

import torch

from paintover.errors import ModelError
from paintover.models.description import Description
from paintover.models.files import STEMS, complete, read_json, weights
from paintover.models.flow import FlowDenoiser
from paintover.models.text_sd3 import SD3Text


def load_denoiser(description: Description, device: torch.device, dtype: torch.dtype) -> FlowDenoiser:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from safetensors.torch import load_file

    folder = description.folder
    paths, _ = weights(folder, "transformer", STEMS["transformer"])
    # Built without memory and filled from the file: no time is lost on random weights, and nothing may be missing.
    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(read_json(folder, "transformer/config.json"))
    state = {}
    for path in paths:
        state.update({key: value.to(dtype) for key, value in load_file(path, device=str(device)).items()})
    transformer.load_state_dict(state, strict=True, assign=True)
    return FlowDenoiser(transformer.eval().requires_grad_(False))


def load_text(description: Description, width: int, device: torch.device, dtype: torch.dtype) -> SD3Text:
    """The CLIPs in float32; the T5, which is larger than all the rest, in the denoiser's dtype."""
    from tokenizers import Tokenizer
    from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
    from transformers.models.clip.tokenization_clip import CLIPTokenizer
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    folder = description.folder
    clips = []
    for number in ("", "_2"):
        part = f"text_encoder{number}"
        clip, info = CLIPTextModelWithProjection.from_pretrained(folder / part, **_options(description, part, torch.float32))
        complete(info, part)
        clips.append((clip.to(device), CLIPTokenizer.from_pretrained(folder / f"tokenizer{number}", local_files_only=True)))
    if "text_encoder_3" not in description.weighty:
        return SD3Text(clips, None, width)
    file = folder / "tokenizer_3" / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"bundle {description.name} has no tokenizer_3/tokenizer.json; save the T5's tokenizer in that form")
    t5, info = T5EncoderModel.from_pretrained(folder / "text_encoder_3", **_options(description, "text_encoder_3", dtype))
    complete(info, "text_encoder_3")
    return SD3Text(clips, (t5.to(device), Tokenizer.from_file(str(file))), width)


def _options(description: Description, part: str, dtype: torch.dtype) -> dict[str, Any]:
    _, variant = weights(description.folder, part, STEMS[part])
    options = {
        "variant": variant,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
        "dtype": dtype,
    }
    # Named here, so that a config cannot name a kernel to be downloaded and run.
    return options | {"attn_implementation": "eager" if part == "text_encoder_3" else "sdpa"}
