"""The bundles that are known here: the built-in one, those in the hub's cache, and well-known ones to fetch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import paintover
from paintover.errors import ModelError
from paintover.models import hub
from paintover.models.description import describe

BUILTIN = Path(paintover.__file__).parent / "builtin"


@dataclass(frozen=True)
class Listing:
    """One line of `paintover models`. `where`: in the package, in the local cache, or to be downloaded from the hub."""

    name: str
    where: Literal["package", "cache", "hub"]
    capabilities: frozenset[str]
    summary: str
    licence: str


_HUB = (
    Listing(
        "timbrooks/instruct-pix2pix",
        "hub",
        frozenset({"instruct", "unet"}),
        "InstructPix2Pix: Stable Diffusion 1.5 taught to follow editing instructions (512 px).",
        "mit",
    ),
    Listing(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "hub",
        frozenset({"text-to-image", "unet"}),
        "Stable Diffusion 1.5: pictures from words (512 px).",
        "creativeml-openrail-m",
    ),
    Listing(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "hub",
        frozenset({"text-to-image", "unet"}),
        "SDXL base 1.0: pictures from words (1024 px).",
        "openrail++",
    ),
    Listing(
        "stabilityai/stable-diffusion-3.5-medium",
        "hub",
        frozenset({"text-to-image", "flow"}),
        "Stable Diffusion 3.5 medium: a rectified flow (1024 px; its licence must first be accepted on the hub).",
        "stabilityai-ai-community",
    ),
)


def list_bundles() -> list[Listing]:
    """What `load` can be asked for, best first; reads no weights and no network. A broken bundle is left out."""
    found = [("builtin", "package", BUILTIN)] if (BUILTIN / "model_index.json").is_file() else []
    found += [(name, "cache", folder) for name, folder in hub.cached()]
    listings: list[Listing] = []
    for name, where, folder in found:
        try:
            about = describe(folder, name)
        except ModelError:
            continue
        licence = str(about.card.data.get("license", ""))
        place: Literal["package", "cache"] = "package" if where == "package" else "cache"
        listings.append(Listing(name, place, about.capabilities, about.card.summary, licence))
    here = {listing.name.partition("@")[0] for listing in listings}
    return listings + [listing for listing in _HUB if listing.name not in here]


def recommended(name: str) -> Mapping[str, Mapping[str, Any]]:
    """What steps and knobs a bundle recommends for each editor. Reads no weights; raises ModelError for what is not here."""
    if name == "builtin":
        return describe(BUILTIN, name).defaults if (BUILTIN / "model_index.json").is_file() else {}
    if os.path.isdir(os.path.expanduser(name)):
        return describe(Path(os.path.expanduser(name)).resolve(), name).defaults
    for known, folder in hub.cached():
        if name in (known, known.partition("@")[0]):
            return describe(folder, name).defaults
    raise ModelError(
        f"model {name!r} is not here; name one that `paintover models` lists as in the package or cache, or a folder"
    )
