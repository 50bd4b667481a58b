"""MGIE before it is trained, of any size: a LLaVA and a diffusion model that have not met yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.beside import copy_base, whole
from paintover.models.denoiser import widen
from paintover.models.description import describe
from paintover.models.edit_head import EditHead
from paintover.models.files import STEMS, complete, read_json, weights
from paintover.models.llava_import import mean_and_std
from paintover.models.mgie_tokens import read_tokenizer, with_tokens
from paintover.models.mllm import Mllm
from paintover.models.mllm_file import save_mllm
from paintover.models.quiet import quiet
from paintover.models.shards import Plan, write
from paintover.models.wording import VICUNA, Wording, image_tokens

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

_CARD = """\
---
license: other
tags: [mgie, untrained]
---
# MGIE before training

A multimodal language model with new [IMG] tokens and a new edit head, beside a diffusion model that does not know them yet:
what `paintover train mgie` starts from. Its edits mean nothing. The licences of both models bind whoever uses it.
"""


def fresh(llava: Path, base: Path, tokens: int = 8, seed: int = 0) -> tuple[Mllm, UNet2DConditionModel | None]:
    """A multimodal language model that is told apart [IMG0] ..., and the UNet of `base` widened, or None if it is wide.

    llava: a folder in transformers' layout (LlavaForConditionalGeneration), whose weights keep their dtype. New tokens get the
    mean of the others' embeddings, and of their rows in the head. The edit head is new: MGIE's shape, as wide as `base` has
    its text. Raises ModelError, one line, for folders of another kind.
    """
    about = describe(base, str(base))
    unet = read_json(base, "unet/config.json") if about.unet else {}
    wide = unet.get("in_channels") != unet.get("out_channels")
    if not about.unet or about.upscaling is not None or (wide and "instruct" not in about.capabilities):
        raise ModelError(
            f"{base} has no UNet that could take a source picture; name a model of the Stable Diffusion 1 or 2 family, or SDXL"
        )
    if tokens < 1:
        raise ModelError(f"MGIE has one [IMG] token or more, not {tokens}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mllm = _language(llava, image_tokens(tokens), unet.get("encoder_hid_dim") or unet["cross_attention_dim"])
    return mllm, None if wide else widen(_unet(base, unet))


def new_mgie(llava: Path, base: Path, out: Path, tokens: int = 8, seed: int = 0, force: bool = False) -> None:
    """Writes `fresh` as a bundle, in half precision, beside the rest of `base`. Raises ModelError."""
    mllm, unet = fresh(llava, base, tokens, seed)
    with whole(out, force) as part:
        copy_base(base, part, unet=unet is None)
        save_mllm(mllm, part)
        if unet is not None:
            plan: Plan = {name: (tuple(t.shape), partial(_itself, t)) for name, t in unet.state_dict().items()}
            write(part / "unet", STEMS["unet"], plan)
            _change(part / "unet" / "config.json", in_channels=unet.config.in_channels)
            family = "StableDiffusionXL" if (base / "text_encoder_2").is_dir() else "StableDiffusion"
            _change(part / "model_index.json", _class_name=f"{family}InstructPix2PixPipeline")
            own = part / "paintover.json"
            if own.is_file() and (can := read_json(part, own.name).get("capabilities")) is not None:
                _change(own, capabilities=[*can, "instruct"])
        (part / "README.md").write_text(_CARD, encoding="utf-8")


def _language(folder: Path, images: tuple[str, ...], text_width: int) -> Mllm:
    from transformers import LlavaForConditionalGeneration

    config = read_json(folder, "config.json") if (folder / "config.json").is_file() else {}
    if config.get("model_type") != "llava" or {"auto_map", "quantization_config"} & set(config):
        raise ModelError(f"{folder} is no plain LLaVA in transformers' layout (config.json with model_type llava)")
    if "mm_hidden_size" in config:
        raise ModelError(f"{folder} is LLaVA in its first layout; convert it with `paintover models import llava`")
    weights(folder, ".", "model")
    tokenizer = read_tokenizer(folder)
    known = dict(tokenizer.get_vocab())
    try:
        with quiet():
            model, info = LlavaForConditionalGeneration.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                attn_implementation="sdpa",
                dtype="auto",
            )
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"the language model in {folder} could not be loaded: {type(error).__name__}: {line}") from error
    complete(info, str(folder))
    patch = next((token for token, place in known.items() if place == model.config.image_token_id), None)
    if patch is None or model.config.vision_feature_select_strategy != "default":
        raise ModelError(
            f"{folder} has no token for a picture's patches, or leaves none of them out; MGIE's LLaVA is of that kind"
        )
    wording = Wording(VICUNA, images, patch=patch)
    tokenizer = with_tokens(tokenizer, (*wording.picture_tokens, *images))
    _add_rows(model, tokenizer.get_vocab(), known)
    width = model.config.text_config.hidden_size
    heads = 4
    hidden = max(1, round(text_width * 2 / 3 / heads)) * heads  # 512 for 768
    head = EditHead(width, hidden, out=text_width, heads=heads, feedforward=4 * hidden)
    return Mllm(model, tokenizer, head, wording, *mean_and_std(folder))


@torch.no_grad()
def _add_rows(model: Any, vocabulary: Mapping[str, int], known: Mapping[str, int]) -> None:
    """Rows for the tokens that were not known, in embeddings and head: the mean of the others."""
    new = [place for token, place in vocabulary.items() if token not in known]
    if not new:
        return
    rows = model.get_input_embeddings().weight.shape[0]
    if max(new) >= rows:
        with quiet():
            model.resize_token_embeddings(max(new) + 1, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        old = [place for place in known.values() if place < rows]
        module.weight[new] = module.weight[old].float().mean(dim=0).to(module.weight.dtype)


def _unet(base: Path, config: dict[str, Any]) -> UNet2DConditionModel:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from safetensors.torch import load_file

    files, _ = weights(base, "unet", STEMS["unet"])
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    unet.load_state_dict({name: tensor for file in files for name, tensor in load_file(file).items()}, strict=True, assign=True)
    return unet


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _change(file: Path, **changes: object) -> None:
    value = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
