"""LoRA files: read whoever wrote them (diffusers' scripts of all years, peft, kohya), written as diffusers' scripts do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paintover.errors import ModelError
from paintover.tuning.names import UNET
from paintover.tuning.weights import LORA

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_ABOUT = "lora_adapter_metadata"  # where diffusers puts peft's settings


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A safetensors file's tensors and facts. Raises ModelError for anything else."""
    if path.suffix in PICKLES:
        raise ModelError(refusal(path))
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"{path} cannot be read as a safetensors file: {line}") from None


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(own, path, metadata={"format": "pt", **(facts or {})})


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Of `tuning.weights`' names: alpha is the rank of each, so that every reader adds B A as it is."""
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers

    save(path, convert_state_dict_to_diffusers(dict(tensors)))


def is_lora(tensors: Mapping[str, Tensor]) -> bool:
    """Of whatever kind."""
    return any(re.search(r"lora[._]|hada_|lokr_", name) for name in tensors)


def named(tensors: Mapping[str, Tensor], facts: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """Such a file's additions to the UNet by `tuning.weights`' names, what multiplies them (alpha / rank) put into B.

    Raises ModelError, in one line, for what cannot be said by A and B alone, or is for other parts than the UNet.
    """
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    for sort, mark in (("DoRA", "dora_scale"), ("DoRA", "lora_magnitude_vector"), ("LoHa", "hada_"), ("LoKr", "lokr_")):
        if any(mark in name for name in tensors):
            raise ModelError(f"{path} is a {sort}, which is not supported; only plain LoRAs are")
    try:
        # Kohya's names to diffusers'; of SDXL by way of those that it was published under, its blocks counted through.
        convert = StableDiffusionLoraLoaderMixin.lora_state_dict
        converted, alphas = convert(dict(tensors), unet_config=SimpleNamespace(layers_per_block=2))
        # Files of 2023 name the UNet's modules without a prefix.
        plain = not any(name.startswith((UNET, "text_encoder")) for name in converted)
        converted = convert_unet_state_dict_to_peft({UNET + name if plain else name: t for name, t in converted.items()})
        alphas = convert_unet_state_dict_to_peft(alphas or {})
    except Exception as error:  # of many kinds: what it holds is anybody's
        line = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"{path} is no LoRA that can be read ({type(error).__name__}: {line})") from None
    found = {name: tensor for name, tensor in converted.items() if name.startswith(UNET) and name.endswith(LORA)}
    strange = sorted(set(converted) - set(found))
    if strange:
        where = "the text encoder" if strange[0].startswith("text_encoder") else f"{strange[0]!r}"
        raise ModelError(f"{path} also changes {where}, which is not supported; only LoRAs of the UNet alone are")
    scale = _scales(facts, {str(name): float(alpha) for name, alpha in alphas.items()}, path)
    for name in [name for name in found if name.endswith(LORA[1])]:
        by = scale(name.removesuffix(LORA[1]), found[name].shape[1])
        found[name] = found[name] if by == 1 else (found[name].float() * by).to(found[name].dtype)
    return found


def _scales(facts: Mapping[str, str], alphas: Mapping[str, float], path: Path) -> Any:
    """(module, rank) -> alpha / rank, by peft's settings, or by kohya's alphas; 1 where neither says anything."""
    try:
        about: dict[str, Any] = json.loads(facts.get(_ABOUT, "{}"))
        said = {key.removeprefix(UNET): value for key, value in about.items() if key.startswith(UNET)}
        patterns = {str(key): float(value) for key, value in (said.get("alpha_pattern") or {}).items()}
        alpha = float(said["lora_alpha"]) if "lora_alpha" in said else None
    except (ValueError, TypeError, AttributeError):
        raise ModelError(f"{path} says of itself ({_ABOUT}) what cannot be read") from None
    if said.get("use_dora"):
        raise ModelError(f"{path} is a DoRA, which is not supported; only plain LoRAs are")
    by_module = {name.removesuffix(".alpha").split(".lora_A")[0]: value for name, value in alphas.items()}

    def scale(module: str, rank: int) -> float:
        plain = module.removeprefix(UNET)
        # A pattern is peft's: the end of a module's name.
        own = next((value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", plain)), alpha)
        own = by_module.get(module, own)
        if own is None:
            return 1.0
        return own / (rank**0.5 if said.get("use_rslora") else rank)

    return scale


def refusal(path: Path) -> str:
    return f"{path} is a pickle, which can run code and is never opened; use an edition in safetensors, or convert it first"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
