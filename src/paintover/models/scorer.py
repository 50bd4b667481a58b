"""The scorer: who says how well a picture and words agree. A bundle's own media encoder, or a real CLIP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from paintover.errors import ModelError
from paintover.models import clip_scorer
from paintover.models.bundle import find, load
from paintover.models.files import fingerprint
from paintover.models.listing import BUILTIN
from paintover.models.media import Pixels

if TYPE_CHECKING:
    import torch

    from paintover.models.bundle import Bundle

ENCODER = "any2pix/encoder"  # where a bundle has its own
ANOTHER = "name a CLIP or SigLIP: its folder, or owner/name of the hub (--scorer openai/clip-vit-large-patch14)"


class Judge(Protocol):
    """What a scorer is asked; a MediaEncoder with a text tower is one. Every answer is media_BE, float32, of length 1."""

    def see(self, pictures: Sequence[Pixels]) -> Tensor:
        """B pictures, the whole of each."""

    def read(self, texts: Sequence[str]) -> Tensor:
        """B texts. Raises ModelError where it reads none."""


@dataclass(frozen=True, eq=False)
class Scorer:
    """A judge, and what it is called: `name` can be given to `load_scorer` again; `fingerprint` stands for its weights."""

    name: str
    fingerprint: str
    judge: Judge

    def agreement(self, pictures: Sequence[Pixels], words: str) -> list[float]:
        """The cosine of each picture and the words, -1..1. Raises ModelError where one is not finite."""
        cosines = (self.judge.see(pictures).cpu() * self.judge.read([words]).cpu()).sum(dim=-1)
        if not cosines.isfinite().all():
            raise ModelError(f"what scorer {self.name} says is not finite; its weights are broken; {ANOTHER}")
        return [float(cosine) for cosine in cosines]


def load_scorer(name: str | None, bundle: Bundle) -> Scorer:
    """The bundle's own media encoder (None), that of another bundle ("builtin", a folder), or a CLIP or SigLIP (its folder, or
    "owner/name[@revision]" of the hub), on the bundle's device; the last one that was named is kept.

    Raises ModelError, in one line, for what is missing, broken, or no scorer; pickles are never opened, no code is run.
    """
    if name is None:
        if not _has_encoder(bundle.folder):
            own = "--scorer builtin, or " if _has_encoder(BUILTIN) else ""
            raise ModelError(f"{bundle.name} has no encoder of its own to score candidates with; use {own}{ANOTHER}")
        return Scorer(bundle.name, bundle.fingerprint, bundle.encoder())
    device = bundle.denoiser.device
    path = Path(os.path.expanduser(name))
    if name == "builtin" or (path / "model_index.json").is_file():
        return _of_bundle(name, device)
    if not os.path.isdir(path):
        path, name = clip_scorer.fetch(name)
    else:
        path = path.resolve()
    return Scorer(name, fingerprint(path), clip_scorer.load(path, device))


def _of_bundle(name: str, device: torch.device) -> Scorer:
    folder, fixed = find(name)
    if not _has_encoder(folder):
        raise ModelError(f"{name} has no encoder to score candidates with; {ANOTHER}")
    bundle = load(fixed, device=device)
    return Scorer(fixed, bundle.fingerprint, bundle.encoder())


def _has_encoder(folder: Path) -> bool:
    return (folder / ENCODER / "config.json").is_file()
