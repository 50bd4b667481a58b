"""Where taps reach into a UNet: its attentions, through diffusers' processors, and its residual blocks, by forward hooks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional

from paintover.errors import ModelError
from paintover.models.taps import Kind, Part, Site, Taps


@dataclass(frozen=True, slots=True)
class _Call:
    """The network's call under way: its rows' taps and the size of its latents."""

    taps: Sequence[Taps | None]
    size_HW: tuple[int, int]

    def grid(self, pixels: int) -> tuple[int, int]:
        """Height and width of a grid of so many pixels: the latents' size, halved (and rounded up) some times."""
        height, width = self.size_HW
        while height * width > pixels:
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


# Of this thread alone: another thread may be calling the same network.
_under_way: ContextVar[_Call | None] = ContextVar("taps", default=None)
_prepared: WeakSet[nn.Module] = WeakSet()
_one_at_a_time = threading.Lock()


@contextmanager
def tapped(unet: nn.Module, taps: Sequence[Taps | None], size_HW: tuple[int, int]) -> Iterator[None]:
    """Inside, a call of the UNet with latents of this size has its rows tapped, one of `taps` for each row.

    The network is prepared when it is first tapped, and computes what it did before wherever nothing is. Raises ModelError
    for a network that attends to words in no block of a transformer's (DeepFloyd IF's).
    """
    with _one_at_a_time:
        if unet not in _prepared:
            if not any(name.endswith("attn2") for name, _ in unet.named_modules()):
                raise ModelError(
                    "this model's attentions cannot be looked into; use an editor that does not, or a model of the Stable "
                    "Diffusion 1 or 2 family"
                )
            _prepare(unet)
            _prepared.add(unet)
    token = _under_way.set(_Call(taps, size_HW))
    try:
        yield
    finally:
        _under_way.reset(token)


def coarsest(denoiser: Any, size_HW: tuple[int, int]) -> tuple[int, int]:
    """The coarsest grid on which a denoiser's UNet attends to words, for latents of this size; their own if it never does."""
    grid = found = size_HW
    for block in filter(None, [*denoiser.unet.down_blocks, denoiser.unet.mid_block]):
        if any(name.endswith("attn2") for name, _ in block.named_modules()):
            found = grid
        if getattr(block, "downsamplers", None) is not None:
            grid = (grid[0] + 1) // 2, (grid[1] + 1) // 2
    return found


def _prepare(unet: nn.Module) -> None:
    for part in get_args(Part):
        blocks = getattr(unet, "mid_block" if part == "mid" else f"{part}_blocks")
        found: dict[Kind, list[Any]] = {kind: [] for kind in get_args(Kind)}
        for name, module in () if blocks is None else blocks.named_modules():
            if name.rpartition(".")[2] in ("attn1", "attn2"):  # as diffusers calls them within a transformer's block
                found["cross" if module.is_cross_attention else "self"].append(module)
            elif name.endswith("conv2"):
                found["feature"].append(module)
        for kind, modules in found.items():
            for index, module in enumerate(modules):
                site = partial(Site, kind, part, index, len(modules))
                if kind == "feature":
                    module.register_forward_hook(_Feature(site))
                else:
                    module.set_processor(_Attention(module.processor, site))


class _Attention:
    """An attention processor: the network's own one, but for calls in which rows are tapped."""

    def __init__(self, own: Any, site: Callable[[tuple[int, int]], Site]) -> None:
        self.own, self.site = own, site

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **named: Any,
    ) -> Tensor:
        call = _under_way.get()
        if call is None:
            return self.own(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **named)
        # What follows is AttnProcessor2_0 for the attentions of transformer blocks, which have no norms of their own.
        attended = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = [to(states) for to, states in ((attn.to_q, hidden_states), (attn.to_k, attended), (attn.to_v, attended))]
        q_BHND, k_BHLD, v_BHLD = (states.unflatten(2, (attn.heads, -1)).transpose(1, 2) for states in heads)
        answer_BHND = self._attend(call, q_BHND, k_BHLD, v_BHLD)
        return attn.to_out[1](attn.to_out[0](answer_BHND.transpose(1, 2).flatten(2)))

    def _attend(self, call: _Call, q_BHND: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> Tensor:
        site = self.site(call.grid(q_BHND.shape[2]))
        answers: dict[int, Tensor] = {}
        for row, taps in enumerate(call.taps):
            if taps is None:
                continue
            own = q_BHND[row], k_BHLD[row], v_BHLD[row]
            q, k, v = (told.to(mine.dtype) for told, mine in zip(taps.qkv(site, *own), own, strict=True))
            if taps.wants_maps(site):
                maps_HNL = (q.float() @ k.float().mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
                answers[row] = taps.maps(site, maps_HNL).to(v.dtype) @ v
            elif any(told is not mine for told, mine in zip((q, k, v), own, strict=True)):
                answers[row] = functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        plain = [row for row in range(len(q_BHND)) if row not in answers]
        if len(plain) == len(q_BHND):
            return functional.scaled_dot_product_attention(q_BHND, k_BHLD, v_BHLD)
        if plain:
            together = functional.scaled_dot_product_attention(q_BHND[plain], k_BHLD[plain], v_BHLD[plain])
            answers |= zip(plain, together, strict=True)
        return torch.stack([answers[row] for row in range(len(q_BHND))])


class _Feature:
    """A forward hook on a residual block's second convolution."""

    def __init__(self, site: Callable[[tuple[int, int]], Site]) -> None:
        self.site = site

    def __call__(self, _module: nn.Module, _args: object, feature_BCHW: Tensor) -> Tensor | None:
        call = _under_way.get()
        if call is None:
            return None
        height, width = feature_BCHW.shape[2:]
        site = self.site((height, width))
        rows = list(feature_BCHW)
        told = [row if taps is None else taps.feature(site, row) for row, taps in zip(rows, call.taps, strict=True)]
        if all(one is other for one, other in zip(told, rows, strict=True)):
            return None
        return torch.stack([row.to(feature_BCHW.dtype) for row in told])
