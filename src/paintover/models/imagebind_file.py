"""ImageBind on disk, as a bundle's media encoder: config.json with its sizes, and safetensors with the released names."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from paintover.errors import ModelError
from paintover.models.files import read_json, weights
from paintover.models.imagebind import ImageBindEncoder
from paintover.models.imagebind_trunk import ImageBind, Sizes

KIND = "imagebind"  # what config.json says that the encoder is
_PART, _STEM = "any2pix/encoder", "model"


def config_of(sizes: Sizes) -> dict[str, Any]:
    return {"kind": KIND, "sizes": asdict(sizes)}


def write_config(sizes: Sizes, part: Path) -> None:
    """Into the encoder's folder, which is there already."""
    (part / "config.json").write_text(json.dumps(config_of(sizes), indent=1) + "\n", encoding="utf-8")


def load_imagebind(folder: Path, device: torch.device, part: str = _PART) -> ImageBindEncoder:
    """The encoder in folder/part: in float32 on a CPU, in float16 on an accelerator. Only safetensors are opened.

    Raises ModelError, one line, for what is missing, damaged, or another kind of encoder.
    """
    told = read_json(folder, f"{part}/config.json")
    if told.get("kind") != KIND:
        raise ModelError(f"{part}/config.json in bundle {folder} describes an encoder of kind {told.get('kind')!r}, not {KIND}")
    files, _ = weights(folder, part, _STEM)
    try:
        with torch.device("meta"):
            network = ImageBind(Sizes.of(told["sizes"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{part}/config.json in bundle {folder} is damaged: {type(error).__name__}: {error}") from None
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    try:
        state = {name: tensor.to(device, dtype) for file in files for name, tensor in load_file(file).items()}
        network.load_state_dict(state, assign=True)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"ImageBind in bundle {folder} could not be loaded: {line}") from None
    except Exception as error:  # safetensors' own is no subclass of these
        raise ModelError(f"ImageBind in bundle {folder} could not be read: {(str(error).splitlines() or [''])[0]}") from None
    return ImageBindEncoder(network.eval().requires_grad_(False))
