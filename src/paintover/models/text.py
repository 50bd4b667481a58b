"""Words to what the denoiser is told: token states for cross-attention, and one vector for the whole text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from paintover.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers.models.bert.modeling_bert import BertModel
    from transformers.models.clip.modeling_clip import CLIPTextModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer


class TextEncoder(Protocol):
    """`length` tokens of a text are read, longer ones are cut; every text becomes as many token states, of `width` D.

    pooled_width: of the vector for the whole text; None where the encoder makes none.
    """

    length: int
    width: int
    pooled_width: int | None

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """B texts -> tokens_BLD and pooled_BD (None where the encoder makes none); float32, without gradients."""

    def cuts(self, text: str) -> bool:
        """Whether the text has more tokens than `length`, so that its end is not read."""

    def count(self, text: str) -> int:
        """How many tokens of its own are read of a text: those at 1 .. count, between the marks of its start and end."""

    def rare(self) -> Iterator[str]:
        """Words that are one token each and mean as little as possible to the encoder, the best first."""


class CLIPText:
    """Stable Diffusion's encoder: CLIP's last hidden states after the final layer norm, padded to 77 tokens, no pooled."""

    def __init__(self, model: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.length: int = model.config.max_position_embeddings
        self.width: int = model.config.hidden_size
        self.pooled_width: int | None = None

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        return self.states(texts)

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """As `encode`, with gradients where the model's own inputs ask for them."""
        batch = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        # No attention mask: Stable Diffusion was trained with its padding attended to.
        states_BLD = self.model(batch["input_ids"].to(self.model.device)).last_hidden_state
        return states_BLD.float(), None

    def cuts(self, text: str) -> bool:
        return len(self.tokenizer(text, verbose=False)["input_ids"]) > self.length

    def count(self, text: str) -> int:
        return len(self.tokenizer(text, truncation=True, max_length=self.length)["input_ids"]) - 2

    def rare(self) -> Iterator[str]:
        return rare_of_clip(self.tokenizer)


class SentenceText:
    """A BERT sentence encoder (MiniLM family): token states and their normalised mean, both of unit variance.

    tokens = hidden * token_scale, zero at padding; pooled = sqrt(D) * m / |m| with m the mean over the text's tokens
    (its own [CLS] and [SEP] included, as sentence-transformers does).
    """

    def __init__(self, model: BertModel, tokenizer: Tokenizer, length: int = 32, token_scale: float = 1.0) -> None:
        if not 3 <= length <= model.config.max_position_embeddings:
            raise ModelError(
                f"a sentence encoder with {model.config.max_position_embeddings} positions cannot have length {length}"
            )
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.tokenizer.enable_truncation(max_length=length)
        self.tokenizer.enable_padding(length=length, pad_id=model.config.pad_token_id or 0, pad_token="[PAD]")
        self.length = length
        self.token_scale = token_scale
        self.width: int = model.config.hidden_size
        self.pooled_width: int | None = self.width

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        return self.states(texts)

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """As `encode`, with gradients where the model's own inputs ask for them."""
        rows = self.tokenizer.encode_batch(list(texts))
        ids_BL = torch.tensor([row.ids for row in rows], device=self.model.device)
        mask_BL = torch.tensor([row.attention_mask for row in rows], device=self.model.device)
        # Only as long as the longest text: padding is masked out, so what it would cost buys nothing.
        used = int(mask_BL.sum(dim=1).max())
        mask_BL1 = mask_BL[:, :, None].float()
        states_BLD = self.model(input_ids=ids_BL[:, :used], attention_mask=mask_BL[:, :used]).last_hidden_state
        states_BLD = torch.nn.functional.pad(states_BLD, (0, 0, 0, self.length - used)) * mask_BL1
        mean_BD = states_BLD.sum(dim=1) / mask_BL1.sum(dim=1)
        pooled_BD = torch.nn.functional.normalize(mean_BD, dim=-1) * self.width**0.5
        return states_BLD * self.token_scale, pooled_BD

    def cuts(self, text: str) -> bool:
        return bool(self.tokenizer.encode(text).overflowing)

    def count(self, text: str) -> int:
        return sum(self.tokenizer.encode(text).attention_mask) - 2

    def rare(self) -> Iterator[str]:
        return (word for word in rarest_first(self.tokenizer.get_vocab()) if self.count(word) == 1)


def rare_of_clip(tokenizer: CLIPTokenizer) -> Iterator[str]:
    """`TextEncoder.rare` of a vocabulary of CLIP's, whose pieces say where a word ends."""
    ends = {piece.removesuffix("</w>"): i for piece, i in tokenizer.get_vocab().items() if piece.endswith("</w>")}
    return (word for word in rarest_first(ends) if len(tokenizer(word)["input_ids"]) == 3)


def rarest_first(vocabulary: Mapping[str, int]) -> list[str]:
    """Words of letters, those without a vowel first (they are hardly names of anything), then as vocabularies are sorted: from
    what is frequent to what is rare."""
    words = [word for word in vocabulary if re.fullmatch("[a-z]+", word)]
    return sorted(words, key=lambda word: (len(word) < 3, bool(re.search("[aeiouy]", word)), -vocabulary[word]))
