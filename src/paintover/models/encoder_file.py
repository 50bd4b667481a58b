"""A bundle's media encoder on disk: any2pix/encoder/, the built-in kind of it or ImageBind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file, save_file

from paintover.errors import ModelError
from paintover.models.any2pix_settings import EncoderKind
from paintover.models.files import STEMS, read_json, weights
from paintover.models.imagebind_file import KIND as IMAGEBIND
from paintover.models.imagebind_file import load_imagebind
from paintover.models.media import MediaEncoder
from paintover.models.small_encoder import SmallEncoder
from paintover.models.text import TextEncoder

_PART = "any2pix/encoder"
SMALL = "small"


def save_encoder(encoder: SmallEncoder, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes config.json and model.safetensors into folder/any2pix/encoder; its sentence encoder is the bundle's."""
    place = folder / _PART
    place.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to(dtype).contiguous().cpu() for name, tensor in encoder.state_dict().items()}
    save_file(state, place / f"{STEMS[_PART]}.safetensors")
    (place / "config.json").write_text(json.dumps({"kind": SMALL, **encoder.config}, indent=1) + "\n", encoding="utf-8")


def load_encoder(folder: Path, text: TextEncoder, device: torch.device) -> MediaEncoder:
    """That of the bundle in `folder`, the caller's own: `Bundle.encoder` shares one. text: the bundle's sentence encoder.

    Raises ModelError, one line, for what is missing, damaged, or of a kind that is not known.
    """
    told = read_json(folder, f"{_PART}/config.json")
    kind = told.pop("kind", None)
    if kind == IMAGEBIND:
        return load_imagebind(folder, device)
    if kind != SMALL:
        raise ModelError(
            f"{_PART}/config.json in bundle {folder} describes an encoder of kind {kind!r}, which is not known here"
        )
    if text.pooled_width is None:
        raise ModelError(
            f"the media encoder of bundle {folder} reads words by a sentence encoder, and this one makes no vector"
        )
    files, _ = weights(folder, _PART, STEMS[_PART])
    try:
        encoder = SmallEncoder(text, **told)
        encoder.load_state_dict({name: tensor.float() for file in files for name, tensor in load_file(file).items()})
        encoder.to(device).eval().requires_grad_(False)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"the media encoder of bundle {folder} could not be loaded: {type(error).__name__}: {line}") from error
    return encoder


def describe_encoder(part: Path) -> tuple[EncoderKind, int]:
    """Which kind the encoder in this folder is, and its width E. Raises ModelError."""
    told = read_json(part, "config.json")
    kind: Any = told.get("kind")
    width = told.get("width") if kind == SMALL else dict(told.get("sizes") or {}).get("out")
    if kind not in get_args(EncoderKind) or type(width) is not int or width < 1:
        raise ModelError(f"{part} is no media encoder; name a folder as bundles have it in any2pix/encoder")
    return kind, width
