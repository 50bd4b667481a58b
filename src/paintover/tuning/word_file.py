"""Files of learnt words: textual inversion as diffusers writes it, and as it is shared elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.tuning import lora_file

XL = ("clip_l", "clip_g")  # what SDXL's two encoders are taught, as everybody calls it
_WORD = "token"  # where the word itself stands then


def name(n: int) -> str:
    """Of the file of the n-th of some words."""
    return f"learned_embeds_{n}.safetensors" if n else "learned_embeds.safetensors"


def write(path: Path, word: str, vectors_ND: Tensor, widths: Sequence[int]) -> None:
    """diffusers' form: one tensor, named as the word; (D,) where it is one vector, so that older editions load it too.

    widths: of what each of the encoder's readers is taught; SDXL's two get a tensor each.
    """
    if len(widths) == len(XL):
        lora_file.save(path, dict(zip(XL, vectors_ND.split(list(widths), dim=1), strict=True)), {_WORD: word})
    else:
        lora_file.save(path, {word: vectors_ND[0] if len(vectors_ND) == 1 else vectors_ND})


def named(tensors: Mapping[str, Tensor], facts: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """The word of such a file and its vectors_ND. Raises ModelError for a file that holds no learnt word."""
    if set(tensors) == {"emb_params"}:  # as AUTOMATIC1111's web UI has it: the file's name is the word
        tensors = {path.stem: tensors["emb_params"]}
    if set(tensors) == set(XL) and {t.ndim for t in tensors.values()} <= {1, 2}:
        both = [tensors[part].reshape(-1, tensors[part].shape[-1]) for part in XL]
        if len(both[0]) == len(both[1]):
            tensors = {facts.get(_WORD, path.stem): torch.cat(both, dim=1)}
    [*words] = tensors
    if len(words) != 1 or tensors[words[0]].ndim not in (1, 2) or not tensors[words[0]].is_floating_point():
        some = ", ".join(sorted(words)[:3]) or "nothing"
        raise ModelError(f"{path} holds no LoRA and no learnt word (it holds {some}); name another file")
    vectors = tensors[words[0]]
    return {words[0]: vectors[None] if vectors.ndim == 1 else vectors}
