"""A bundle's any2pix/ on disk: language model, projectors, tokenizer and prior, and how they are asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paintover.errors import ModelError
from paintover.models.any2pix import Any2Pix, projectors
from paintover.models.any2pix_settings import Any2PixSettings
from paintover.models.any2pix_wording import Answer
from paintover.models.files import STEMS, complete, read_json, weights
from paintover.models.mllm_file import dtype_for, quantised
from paintover.models.prior import Prior
from paintover.models.quiet import quiet

_PART = "any2pix"


@dataclass(frozen=True, eq=False)
class Any2PixParts:
    """What of a bundle's any2pix/ understands: its language model and its prior, and what is to be known beside them."""

    language: Any2Pix
    prior: Prior
    settings: Any2PixSettings


def save_any2pix(parts: Any2PixParts, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes language_model/, tokenizer/, projectors/, prior/ and config.json into folder/any2pix; the rest is others'."""
    part, language = folder / _PART, parts.language
    part.mkdir(parents=True, exist_ok=True)
    with quiet():
        # Not `model.to(dtype)`, which would change the one that is saved.
        state = {name: tensor.detach().to(dtype) for name, tensor in language.model.state_dict().items()}
        if language.model.config.tie_word_embeddings:
            del state["lm_head.weight"]  # it is the embeddings
        language.model.save_pretrained(part / "language_model", state_dict=state)
        language.tokenizer.save_pretrained(part / "tokenizer")
    for name, module in (("projectors", _both(language)), ("prior", parts.prior)):
        (part / name).mkdir(exist_ok=True)
        state = {key: tensor.detach().to(dtype).contiguous().cpu() for key, tensor in module.state_dict().items()}
        save_file(state, part / name / "model.safetensors")
    parts.settings.write(folder)


def load_any2pix(folder: Path, device: torch.device, bits: int = 16, dtype: torch.dtype | None = None) -> Any2PixParts:
    """Those of the bundle in `folder`, the caller's own: `Bundle.any2pix` shares them.

    dtype and bits: of the language model's weights, as of `load_mllm`; projectors and prior are float32. Raises ModelError,
    and what torch does where the memory is not enough.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    place = f"{_PART}/language_model"
    config = read_json(folder, f"{place}/config.json")
    if config.get("model_type") != "llama" or "auto_map" in config or "quantization_config" in config:
        raise ModelError(f"{place}/config.json in {folder} describes no plain LLaMA; its weights cannot be used")
    _, variant = weights(folder, place, STEMS[place])
    settings = Any2PixSettings.read(folder)
    try:
        options: dict[str, Any] = {} if bits == 16 else quantised(bits)
        if bits != 16:
            options["device_map"] = {"": str(device)}
        with quiet():
            model, info = LlamaForCausalLM.from_pretrained(
                folder / place,
                config=LlamaConfig.from_dict(config),
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                attn_implementation="sdpa",
                dtype=dtype_for(folder, place, device) if dtype is None else dtype,
                **options,
            )
            complete(info, place)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / _PART / "tokenizer", local_files_only=True)
        prior = Prior(settings.prior)
        prior.load_state_dict(_tensors(folder, "prior"))
        state = _tensors(folder, "projectors")
        into, out = projectors(state["in.0.weight"].shape[1], state["in.0.weight"].shape[0])
        nn.ModuleDict({"in": into, "out": out}).load_state_dict(state)
        language = Any2Pix(model, tokenizer, into, out, settings.wording, settings.norm)
        if prior.config.width != language.width:
            raise ModelError(f"any2pix's prior is of width {prior.config.width}, its projectors of {language.width}")
        if "device_map" not in options:
            model.to(device)
        for module in (*language.modules, prior):
            module.eval().requires_grad_(False)
        for module in (into, out, prior):
            module.to(device)
        parts = Any2PixParts(language, prior, settings)
        _try(parts)
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"any2pix/ of bundle {folder} could not be loaded: {type(error).__name__}: {line}") from error
    return parts


@torch.no_grad()
def _try(parts: Any2PixParts) -> None:
    """Shows it a reference: what does not go together fails here, and not in an edit."""
    language = parts.language
    if language.model.config.num_hidden_layers < 1:
        raise ValueError("its language model has no layers")
    asked = language.asked([""], [["image1"]], [Answer("")])
    media_1E = torch.ones(1, language.width, device=language.device) / language.width**0.5
    means_NE = language.project(language.hidden(asked, media_1E), asked.gens_N2).float()
    if not parts.prior.guided(means_NE, parts.settings.score, parts.settings.low_score, 2.0).isfinite().all():
        raise ValueError("what it computes is not finite; its weights are broken")


def _both(language: Any2Pix) -> nn.ModuleDict:
    return nn.ModuleDict({"in": language.projector_in, "out": language.projector_out})


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    files, _ = weights(folder, f"{_PART}/{name}", STEMS[f"{_PART}/{name}"])
    return {key: tensor.float() for file in files for key, tensor in load_file(file).items()}
