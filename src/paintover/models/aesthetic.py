"""LAION's aesthetic predictor: how people would rate a picture, 1..10, by what CLIP sees in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from paintover.errors import ModelError
from paintover.models.media import Pixels
from paintover.models.scorer import Judge

WIDTH = 768  # of what CLIP ViT-L/14 says
_SIZES = (WIDTH, 1024, 128, 64, 16, 1)
_PLACES = (0, 2, 4, 6, 7)  # of the linear layers: dropout stood between the others


class AestheticHead(nn.Module):
    """768 -> 1024 -> 128 -> 64 -> 16 -> 1, called as in the released file: linear layers, between them nothing but dropout."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Identity() for _ in range(max(_PLACES) + 1)]
        for place, (before, after) in zip(_PLACES, pairwise(_SIZES), strict=True):
            layers[place] = nn.Linear(before, after)
        self.layers = nn.Sequential(*layers)

    def forward(self, seen_BE: Tensor) -> Tensor:
        """scores_B of CLIP's image embeddings of length 1."""
        return self.layers(seen_BE)[:, 0]


class Aesthetic:
    """The head, and the CLIP ViT-L/14 that it was trained on."""

    def __init__(self, head: AestheticHead, clip: Judge) -> None:
        self.head, self.clip = head.eval().requires_grad_(False), clip

    @torch.no_grad()
    def scores(self, pictures: Sequence[Pixels]) -> list[float]:
        """Raises ModelError where the CLIP is another one, or a score is not finite."""
        if not pictures:
            return []
        seen_BE = self.clip.see(pictures).cpu().float()
        if seen_BE.shape[1] != WIDTH:
            raise ModelError(
                f"the aesthetic predictor reads {WIDTH} numbers of CLIP ViT-L/14, this scorer says {seen_BE.shape[1]}; "
                "use openai/clip-vit-large-patch14"
            )
        found_B = self.head(seen_BE)
        if not found_B.isfinite().all():
            raise ModelError("what the aesthetic predictor says is not finite; its weights are broken; fetch them again")
        return [float(score) for score in found_B]


def load_aesthetic(file: Path) -> AestheticHead:
    """The head in a safetensors file, in float32 on the CPU. Raises ModelError, one line."""
    if file.suffix != ".safetensors":
        raise ModelError(
            f"{file} is no safetensors file; pickles can run code and are not opened; `paintover models import aesthetic` "
            "converts the released one"
        )
    try:
        state = {name: tensor.float() for name, tensor in load_file(file).items()}
    except FileNotFoundError:
        raise ModelError(f"there is no {file}") from None
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{file} cannot be read as safetensors ({line}); fetch it again") from None
    head = AestheticHead()
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{file} holds no aesthetic predictor: {' '.join(str(error).split())[:300]}") from None
    return head.eval().requires_grad_(False)


def import_aesthetic(released: Path, out: Path, force: bool = False) -> None:
    """Writes the released .pth, which is opened as tensors alone, as safetensors. Raises ModelError, one line."""
    from paintover.models.shards import Shards, fitting
    from paintover.models.tensors import put, whole

    if out.suffix != ".safetensors":
        raise ModelError(f"{out} must end with .safetensors")
    if out.exists() and not force:
        raise ModelError(f"{out} exists; name another file, or replace it with --force")
    found = Shards(released)
    expected = {name: tuple(tensor.shape) for name, tensor in AestheticHead().state_dict().items()}
    fitting(found.shapes, expected, f"the aesthetic predictor in {released}")
    try:
        with whole(out) as file:
            put(file, {name: found[name].float().contiguous() for name in expected}, {"format": "pt"})
    except OSError as error:
        raise ModelError(f"{out} could not be written: {error.strerror or error}") from None
