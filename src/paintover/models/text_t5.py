"""What DeepFloyd IF reads words with: T5, alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.files import complete
from paintover.models.text import rarest_first

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    from paintover.models.description import Description

LENGTH = 77  # T5 reads on, but IF was trained with so many
_START = "\u2581"  # of a word, in T5's vocabulary


class T5Text:
    """T5's last hidden states of the text in lower case, padded to 77 tokens that the text does not attend to; no pooled."""

    def __init__(self, model: T5EncoderModel, tokenizer: Tokenizer) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.tokenizer.enable_truncation(max_length=LENGTH)
        self.tokenizer.enable_padding(length=LENGTH, pad_id=model.config.pad_token_id or 0, pad_token="<pad>")
        self.length = LENGTH
        self.width: int = model.config.d_model
        self.pooled_width: int | None = None

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        rows = self.tokenizer.encode_batch([_plain(text) for text in texts])
        ids_BL = torch.tensor([row.ids for row in rows], device=self.model.device)
        mask_BL = torch.tensor([row.attention_mask for row in rows], device=self.model.device)
        return self.model(ids_BL, attention_mask=mask_BL).last_hidden_state.float(), None

    def cuts(self, text: str) -> bool:
        return bool(self.tokenizer.encode(_plain(text)).overflowing)

    def count(self, text: str) -> int:
        """Without the mark of its end; T5 has none of its start."""
        return sum(self.tokenizer.encode(_plain(text)).attention_mask) - 1

    def rare(self) -> Iterator[str]:
        whole = {piece[1:]: i for piece, i in self.tokenizer.get_vocab().items() if piece.startswith(_START)}
        return (word for word in rarest_first(whole) if self.count(word) == 1)


def load_t5(description: Description, options: dict[str, Any], device: torch.device, dtype: torch.dtype) -> T5Text:
    """In the denoiser's dtype: a T5 is larger than all the rest. options: of transformers' `from_pretrained`."""
    from tokenizers import Tokenizer
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    folder = description.folder
    file = folder / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"bundle {description.name} has no tokenizer/tokenizer.json; save the T5's tokenizer in that form")
    # Its kernel named here, so that a config cannot name one to be downloaded and run.
    t5, info = T5EncoderModel.from_pretrained(
        folder / "text_encoder", **options | {"dtype": dtype, "attn_implementation": "eager"}
    )
    complete(info, "text_encoder")
    return T5Text(t5.to(device), Tokenizer.from_file(str(file)))


def _plain(text: str) -> str:
    """As diffusers' pipelines prepare a text, where they are not asked to clean captions from the web."""
    return text.lower().strip()
