"""A bundle's media adapter on disk: any2pix/adapter/, its tensors named as in IP-Adapter's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from paintover.errors import ModelError
from paintover.models.adapter import MediaAdapter
from paintover.models.files import STEMS, read_json, weights

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

_PART = "any2pix/adapter"
_FORMAT = 1
_SIZES = ("width", "text_width", "tokens", "locals")


def save_adapter(adapter: MediaAdapter, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes config.json and model.safetensors into folder/any2pix/adapter."""
    place = folder / _PART
    place.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to(dtype).contiguous().cpu() for name, tensor in adapter.state_dict().items()}
    save_file(state, place / f"{STEMS[_PART]}.safetensors")
    write_config(adapter.config, place)


def write_config(config: Mapping[str, Any], place: Path) -> None:
    """Of an adapter with these arguments, into its folder."""
    (place / "config.json").write_text(json.dumps({"format": _FORMAT, **config}, indent=1) + "\n", encoding="utf-8")


def load_adapter(folder: Path, unet: UNet2DConditionModel, dtype: torch.dtype | None = None) -> MediaAdapter:
    """That of the bundle in `folder`, for this UNet and on its device, the caller's own: `Bundle.adapted` shares one.

    dtype: of its weights; None means the UNet's. Raises ModelError.
    """
    file = f"{_PART}/config.json"
    told = read_json(folder, file)
    if told.pop("format", None) != _FORMAT:
        raise ModelError(
            f"{file} in bundle {folder} is not of format {_FORMAT}, which this version of paintover reads; use a newer one, or "
            "add any2pix anew"
        )
    hidden = told.get("hidden")
    numbers = [*(told.get(name) for name in _SIZES), *(hidden if isinstance(hidden, list) else [None])]
    if set(told) != {*_SIZES, "hidden"} or not all(type(n) is int and 0 <= n <= 65536 for n in numbers) or 0 in numbers[:3]:
        raise ModelError(f"{file} in bundle {folder} is damaged: expected {', '.join(_SIZES)} and hidden, whole numbers")
    own = unet.conv_in.weight
    # Built without memory and filled from the file, as the UNet is.
    with torch.device("meta"):
        adapter = MediaAdapter(**told)
    adapter.check(unet)
    try:
        files, _ = weights(folder, _PART, STEMS[_PART])
        state = {name: tensor for path in files for name, tensor in load_file(path, device=str(own.device)).items()}
        cast = {name: tensor.to(own.dtype if dtype is None else dtype) for name, tensor in state.items()}
        adapter.load_state_dict(cast, strict=True, assign=True)
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"the media adapter of bundle {folder} could not be loaded: {type(error).__name__}: {line}") from error
    if not all(bool(tensor.isfinite().all()) for tensor in cast.values()):
        raise ModelError(f"the media adapter of bundle {folder} is broken: its weights are not finite")
    return adapter.eval().requires_grad_(False)
