"""What SDXL's UNet is told beside words: how large a picture is, and its refiner how good it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paintover.errors import ModelError


@dataclass(frozen=True, slots=True)
class Sizes:
    """SDXL's conditions on size and crop (Podell et al. 2023, section 2.2), told as numbers beside the text's vector.

    (height, width) of the original, (top, left) of the part that was cut out of it, (height, width) of what is painted, in
    pixels. Here all of a picture is seen as large as it is painted, `factor` times its latents on each side. With `scored`
    (the refiner's) the aesthetic score that is wanted, pooled_BD's last column, stands where the last two are.
    """

    text_width: int
    factor: int = 8
    scored: bool = False

    @staticmethod
    def of(config: Any, factor: int = 8, scored: bool = False) -> Sizes | None:
        """What a UNet of this config is told; None where it is told no sizes. Raises ModelError for one of other numbers."""
        if config.addition_embed_type != "text_time":
            return None
        width, each = config.projection_class_embeddings_input_dim, config.addition_time_embed_dim
        count = 5 if scored else 6
        if not isinstance(width, int) or not isinstance(each, int) or width <= count * each or config.class_embed_type:
            raise ModelError(
                f"a UNet that is told sizes has {count} numbers of width addition_time_embed_dim beside a text vector; this "
                f"one has {each} and projection_class_embeddings_input_dim {width}"
            )
        return Sizes(width - count * each, factor, scored)

    @property
    def pooled_width(self) -> int:
        return self.text_width + self.scored

    def told(self, pooled_BD: Tensor, size_HW: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
        """As diffusers' UNet takes it, for latents of this size; the numbers in float32, where none is rounded."""
        height, width = (self.factor * side for side in size_HW)
        ids_6 = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=pooled_BD.device)
        ids_BN = ids_6.expand(len(pooled_BD), -1)
        if self.scored:
            ids_BN = torch.cat([ids_BN[:, :4], pooled_BD[:, -1:].float()], dim=1)
        return {"text_embeds": pooled_BD[:, : self.text_width].to(dtype), "time_ids": ids_BN}
