"""Networks and bundles: load, fingerprint, codecs, text encoders, and the denoiser that speaks noise to every path.

Names are resolved on first use, so importing this package costs nothing (no torch).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Bundle": "bundle",
    "load": "bundle",
    "list_bundles": "listing",
    "Listing": "listing",
    "Card": "description",
    "Description": "description",
    "describe": "description",
    "fingerprint": "files",
    "widen": "denoiser",
    "Denoiser": "denoiser",
    "Codec": "codec",
    "KLCodec": "codec",
    "TinyCodec": "codec",
    "PixelUnshuffleCodec": "codec",
    "LinearCodec": "codec",
    "TextEncoder": "text",
    "CLIPText": "text",
    "SentenceText": "text",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
