"""What Stable Diffusion 3 reads words with: two CLIP encoders and, where it is there, T5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from paintover.errors import ModelError
from paintover.models.text import rare_of_clip

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
    from transformers.models.clip.tokenization_clip import CLIPTokenizer
    from transformers.models.t5.modeling_t5 import T5EncoderModel

T5_LENGTH = 256


class SD3Text:
    """CLIP-L, CLIP-bigG and T5 read the same text (Esser et al. 2024, section 4).

    tokens: the last but one hidden states of both CLIPs side by side, padded with zeros to the T5's width, then its 256 last
            hidden states; without a T5, zeros in its place, as the model was trained (diffusers does so, too).
    pooled: the projected text vectors of both CLIPs, one after the other.
    """

    def __init__(
        self,
        clips: Sequence[tuple[CLIPTextModelWithProjection, CLIPTokenizer]],
        t5: tuple[T5EncoderModel, Tokenizer] | None,
        width: int,
    ) -> None:
        widths = [model.config.hidden_size for model, _ in clips]
        if sum(widths) > width or (t5 is not None and t5[0].config.d_model != width):
            own = "none" if t5 is None else str(t5[0].config.d_model)
            raise ModelError(f"text encoders of widths {widths} and {own} (T5) do not make tokens of width {width}")
        for model, _ in clips:
            model.eval().requires_grad_(False)
        self.clips, self.t5 = tuple(clips), t5
        if t5 is not None:
            model, tokenizer = t5
            model.eval().requires_grad_(False)
            tokenizer.enable_truncation(max_length=T5_LENGTH)
            tokenizer.enable_padding(length=T5_LENGTH, pad_id=model.config.pad_token_id or 0, pad_token="<pad>")
        self.clip_length: int = min(clips[0][1].model_max_length, clips[0][0].config.max_position_embeddings)
        self.length: int = self.clip_length if t5 is None else T5_LENGTH
        self.width = width
        self.pooled_width: int | None = sum(model.config.projection_dim for model, _ in clips)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        read = [self._clip(model, tokenizer, texts) for model, tokenizer in self.clips]
        clip_BLD = torch.cat([states_BLD for states_BLD, _ in read], dim=-1)
        clip_BLD = functional.pad(clip_BLD, (0, self.width - clip_BLD.shape[-1]))
        if self.t5 is None:
            t5_BLD = clip_BLD.new_zeros((len(texts), T5_LENGTH, self.width))
        else:
            model, tokenizer = self.t5
            ids_BL = torch.tensor([row.ids for row in tokenizer.encode_batch(list(texts))], device=model.device)
            t5_BLD = model(ids_BL).last_hidden_state.float()  # no attention mask: trained with its padding attended to
        return torch.cat([clip_BLD, t5_BLD], dim=1), torch.cat([pooled_BD for _, pooled_BD in read], dim=-1)

    def _clip(
        self, model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        batch = tokenizer(list(texts), padding="max_length", truncation=True, max_length=self.clip_length, return_tensors="pt")
        answer = model(batch["input_ids"].to(model.device), output_hidden_states=True)
        return answer.hidden_states[-2].float(), answer.text_embeds.float()

    def cuts(self, text: str) -> bool:
        """Where there is a T5, what is beyond the CLIPs' 77 tokens is read by it."""
        if self.t5 is not None:
            return bool(self.t5[1].encode(text).overflowing)
        return any(len(tokenizer(text, verbose=False)["input_ids"]) > self.clip_length for _, tokenizer in self.clips)

    def count(self, text: str) -> int:
        """Of the CLIPs, whose tokens come first."""
        return len(self.clips[0][1](text, truncation=True, max_length=self.clip_length)["input_ids"]) - 2

    def rare(self) -> Iterator[str]:
        return rare_of_clip(self.clips[0][1])
