"""Half precision whose copies of the weights are not kept from the forward pass to the backward one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_WEIGHTED = {functional.linear, functional.conv2d}


def supported(device: torch.device) -> bool:
    """Whether the machine computes in bfloat16 by itself: emulated, it would be slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        tells = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch's own; it may be gone in a later edition
        return tells is not None and bool(tells())
    return False


@contextmanager
def half(device_type: str) -> Iterator[None]:
    """bfloat16 autocast, the weights staying as they are. What it computes is what `torch.autocast` computes.

    Autocast keeps a bfloat16 copy of every weight for the backward pass, half as much again as the weights. Here the weight
    itself is kept, and cast once more when its gradient is due; it must not change in between.
    """
    casting = _Casting()
    with (
        torch.autocast(device_type, torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(casting.pack, casting.unpack),
        casting,
    ):
        yield


class _Casting(TorchFunctionMode):
    """Casts a layer's weight before autocast does, so that the copy is known where the graph is about to keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor | None = None  # whose copy a layer is working with
        self.copy = 0  # where that lies

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _WEIGHTED or len(args) < 2 or args[1].dtype not in (torch.float32, torch.float16):
            return func(*args, **(kwargs or {}))
        copy = args[1].to(torch.bfloat16)
        self.weight, self.copy = args[1], copy.untyped_storage().data_ptr()
        try:
            return func(args[0], copy, *args[2:], **(kwargs or {}))
        finally:
            self.weight = None

    def pack(self, kept: Tensor) -> Any:
        """What is kept of a tensor: of a weight's copy, how it is made again."""
        if self.weight is None or kept.untyped_storage().data_ptr() != self.copy:
            return kept
        return self.weight, kept.size(), kept.stride(), kept.storage_offset()

    @staticmethod
    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        weight, size, stride, offset = kept
        return weight.detach().to(torch.bfloat16).as_strided(size, stride, offset)
