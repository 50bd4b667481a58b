"""Files of learnt words: textual inversion as diffusers writes it, and as it is shared elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from paintover.errors import ModelError
from paintover.tuning import lora_file


def write(path: Path, word: str, vectors_ND: Tensor) -> None:
    """diffusers' form: one tensor, named as the word; (D,) where it is one vector, so that older editions load it too."""
    lora_file.save(path, {word: vectors_ND[0] if len(vectors_ND) == 1 else vectors_ND})


def named(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The word of such a file and its vectors_ND. Raises ModelError for a file that holds no learnt word."""
    if set(tensors) == {"emb_params"}:  # as AUTOMATIC1111's web UI has it: the file's name is the word
        tensors = {path.stem: tensors["emb_params"]}
    [*words] = tensors
    if len(words) != 1 or tensors[words[0]].ndim not in (1, 2) or not tensors[words[0]].is_floating_point():
        some = ", ".join(sorted(words)[:3]) or "nothing"
        raise ModelError(f"{path} holds no LoRA and no learnt word (it holds {some}); name another file")
    vectors = tensors[words[0]]
    return {words[0]: vectors[None] if vectors.ndim == 1 else vectors}
