"""A part of what was tuned: weights on the way from the model's own to the tuned ones."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from paintover.models.denoiser import Denoiser
from paintover.tuning.weights import LORA, PREFIX


def part(denoiser: Denoiser, tensors: Mapping[str, Tensor], share: float) -> Mapping[str, Tensor]:
    """W + share (W_tuned - W) for each weight of `tensors`, as `tuning.weights` names them; of a LoRA's, W + share B A.

    share 1 is the tensors themselves, 0 the untuned model. What is no weight of this denoiser stays as it is.
    """
    if share == 1:
        return tensors
    own: dict[str, Tensor] = denoiser.unet.state_dict()

    def scaled(name: str, tensor: Tensor) -> Tensor:
        if not name.startswith(PREFIX) or name.endswith(LORA[0]):
            return tensor
        if name.endswith(LORA[1]):
            return share * tensor
        before = own[name.removeprefix(PREFIX)].float()
        return before + share * (tensor.to(before.device).float() - before)

    return {name: scaled(name, tensor) for name, tensor in tensors.items()}
