"""CLIP and SigLIP, as transformers writes them: pictures and words in one space."""

from __future__ import annotations

import re
import string
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paintover.errors import ModelError
from paintover.models import hub
from paintover.models.files import complete, read_json, signature, weights
from paintover.models.media import Pixels
from paintover.models.quiet import quiet

_WORDS = (
    *("config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
)
_MOST_SQUARES = 4
_SIGNS = str.maketrans("", "", string.punctuation)


class ClipScorer:
    """A `scorer.Judge`. CLIP looks at the middle square of a picture, SigLIP squeezes a picture into a square; here each is
    shown as many squares along the longer side as cover it (4 at most), and what it sees in them is averaged.

    model: transformers' CLIPModel or SiglipModel. see: its image processor: rgb_HWC -> pixels_CHW. read: texts -> ids_BL.
    """

    def __init__(self, model: Any, see: Callable[[Pixels], Tensor], read: Callable[[Sequence[str]], dict[str, Tensor]]) -> None:
        self.model = model.eval().requires_grad_(False)
        self._see, self._read = see, read

    @torch.no_grad()
    def see(self, pictures: Sequence[Pixels]) -> Tensor:
        seen = [self._seen(picture) for picture in pictures]
        return functional.normalize(torch.stack(seen), dim=-1)

    def _seen(self, picture: Pixels) -> Tensor:
        pixels_BCHW = torch.stack([self._see(square) for square in squares(picture)]).to(self.model.device)
        seen_BE = self.model.get_image_features(pixel_values=pixels_BCHW).pooler_output.float()
        return functional.normalize(seen_BE, dim=-1).mean(dim=0)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Tensor:
        told = {name: tensor.to(self.model.device) for name, tensor in self._read(texts).items()}
        return functional.normalize(self.model.get_text_features(**told).pooler_output.float(), dim=-1)


def squares(picture: Pixels) -> list[Pixels]:
    """As many squares of the shorter side as cover the longer one, evenly spread; a picture that is square is its own."""
    height, width = picture.shape[:2]
    side, longer = min(height, width), max(height, width)
    count = min(_MOST_SQUARES, -(-longer // side))
    starts = [round(k * (longer - side) / (count - 1)) for k in range(count)] if count > 1 else [0]
    return [picture[:, a : a + side] if width > height else picture[a : a + side] for a in starts]


def fetch(name: str) -> tuple[Path, str]:
    """The folder of "owner/name[@revision]", and the name with its commit; see `hub.snapshot`. Raises ModelError."""
    if not hub.is_hub_name(name):
        raise ModelError(f"no scorer {name!r}: expected builtin, an existing folder, or a hub name such as owner/name")
    return hub.snapshot(name, "scorer", _choose, _complete, "or give a folder")


def load(folder: Path, device: torch.device) -> ClipScorer:
    """The CLIP or SigLIP in `folder`; the last one is kept and shared. Raises ModelError."""
    with _one_at_a_time:
        return _load(folder, signature(folder), device)


_one_at_a_time = threading.Lock()  # transformers changes settings of the whole process while it loads


@lru_cache(maxsize=1)
def _load(folder: Path, _signature: object, device: torch.device) -> ClipScorer:
    config = read_json(folder, "config.json")
    kind = config.get("model_type")
    if kind not in ("clip", "siglip") or "auto_map" in config or "quantization_config" in config:
        raise ModelError(f"config.json in {folder} describes no plain CLIP or SigLIP, but {kind!r}; name another scorer")
    read_json(folder, "preprocessor_config.json")
    _, variant = weights(folder.parent, folder.name, "model")
    try:
        with quiet():
            scorer = (_clip if kind == "clip" else _siglip)(folder, config, variant, device)
            if not (scorer.see([np.full((8, 8, 3), 127, np.uint8)]) @ scorer.read(["grey"]).T).isfinite().all():
                raise ValueError("what it computes is not finite; its weights are broken")
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"scorer {folder} could not be loaded: {type(error).__name__}: {line}") from error
    return scorer


def _clip(folder: Path, config: dict[str, Any], variant: str | None, device: torch.device) -> ClipScorer:
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.clip.modeling_clip import CLIPModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    model = _model(CLIPModel, CLIPConfig, folder, config, variant, device)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    length = model.config.text_config.max_position_embeddings

    def read(texts: Sequence[str]) -> dict[str, Tensor]:
        told = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return {"input_ids": told["input_ids"], "attention_mask": told["attention_mask"]}

    return ClipScorer(model, _processed(CLIPImageProcessorPil, folder), read)


def _siglip(folder: Path, config: dict[str, Any], variant: str | None, device: torch.device) -> ClipScorer:
    from transformers import PreTrainedTokenizerFast
    from transformers.models.siglip.configuration_siglip import SiglipConfig
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.siglip.modeling_siglip import SiglipModel

    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"scorer {folder} has no tokenizer.json; use an edition with one")
    model = _model(SiglipModel, SiglipConfig, folder, config, variant, device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    length = model.config.text_config.max_position_embeddings

    def read(texts: Sequence[str]) -> dict[str, Tensor]:
        # It was taught lower-case words without signs, filled up to its full length, the filling being attended to.
        words = [" ".join(text.lower().translate(_SIGNS).split()) for text in texts]
        told = tokenizer(words, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return {"input_ids": told["input_ids"]}

    return ClipScorer(model, _processed(SiglipImageProcessorPil, folder), read)


def _model(kind: Any, settings: Any, folder: Path, config: dict[str, Any], variant: str | None, device: torch.device) -> Any:
    model, info = kind.from_pretrained(
        folder,
        config=settings.from_dict(config),
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        attn_implementation="sdpa",  # named here, so that a config cannot name a kernel to be downloaded and run
        dtype=torch.float32,
    )
    complete(info, folder.name)
    return model.to(device)


def _processed(kind: Any, folder: Path) -> Callable[[Pixels], Tensor]:
    processor = kind.from_pretrained(folder, local_files_only=True)

    def see(picture: Pixels) -> Tensor:
        found: Tensor = processor(np.ascontiguousarray(picture), input_data_format="channels_last", return_tensors="pt")[
            "pixel_values"
        ][0]
        return found

    return see


def _choose(names: list[str], scorer: str) -> list[str]:
    """Which of a repository's files make the scorer: no pickles, full precision before half."""
    if "config.json" not in names:
        raise ModelError(f"{scorer} on the hub has no config.json: it is no CLIP or SigLIP in transformers' layout")
    for stem in ("model", r"model\.fp16"):
        stored = [name for name in names if re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.safetensors(\.index\.json)?", name)]
        if stored:
            return [name for name in names if name in _WORDS] + stored
    raise ModelError(f"{scorer} on the hub has no safetensors; pickled weights are never loaded; use an edition with some")


def _complete(folder: Path) -> bool:
    try:
        weights(folder.parent, folder.name, "model")
    except ModelError:
        return False
    return (folder / "config.json").is_file() and (folder / "preprocessor_config.json").is_file()
