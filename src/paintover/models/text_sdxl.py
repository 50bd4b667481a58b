"""What SDXL reads words with: two CLIP encoders, its refiner with the second one alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paintover.models.text import rare_of_clip

if TYPE_CHECKING:
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    Clip = tuple[CLIPTextModel | CLIPTextModelWithProjection, CLIPTokenizer]


class SDXLText:
    """CLIP-L and CLIP-bigG read the same text (Podell et al. 2023, section 2.1); the last of `clips` has a projection.

    tokens: the last but one hidden states of all, side by side. pooled: the last one's projected text vector.
    silent: "" is told as zeros, as SDXL was trained without words (`force_zeros_for_empty_prompt` in model_index.json).
    """

    def __init__(self, clips: Sequence[Clip], silent: bool) -> None:
        self.clips = [(model.float().eval().requires_grad_(False), tokenizer) for model, tokenizer in clips]
        self.silent = silent
        self.length: int = min(min(t.model_max_length, model.config.max_position_embeddings) for model, t in self.clips)
        self.width: int = sum(model.config.hidden_size for model, _ in self.clips)
        self.pooled_width: int | None = self.clips[-1][0].config.projection_dim

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        return self.states(texts)

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """As `encode`, with gradients where the models' own inputs ask for them."""
        tokens, pooled_BD = [], torch.empty(0)
        for model, tokenizer in self.clips:
            batch = tokenizer(list(texts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
            # No attention mask: trained with its padding attended to.
            answer = model(batch["input_ids"].to(model.device), output_hidden_states=True)
            tokens.append(answer.hidden_states[-2].float())
            pooled_BD = getattr(answer, "text_embeds", pooled_BD)
        tokens_BLD, pooled_BD = torch.cat(tokens, dim=-1), pooled_BD.float()
        unsaid_B = torch.tensor([self.silent and text == "" for text in texts], device=tokens_BLD.device)
        return tokens_BLD.masked_fill(unsaid_B[:, None, None], 0), pooled_BD.masked_fill(unsaid_B[:, None], 0)

    def cuts(self, text: str) -> bool:
        return any(len(tokenizer(text, verbose=False)["input_ids"]) > self.length for _, tokenizer in self.clips)

    def count(self, text: str) -> int:
        """Of either: they cut words alike."""
        return len(self.clips[0][1](text, truncation=True, max_length=self.length)["input_ids"]) - 2

    def rare(self) -> Iterator[str]:
        return rare_of_clip(self.clips[0][1])
