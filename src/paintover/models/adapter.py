"""The media adapter: a denoiser that attends to pictures and sounds beside the words (decoupled cross-attention)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from paintover.errors import ModelError
from paintover.models.kept import KeptLinear

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


class MediaAdapter(nn.Module):
    """IP-Adapter (Ye et al. 2023) for embeddings of any medium, the first of which is of the whole, all others of objects.

    Every cross-attention of a UNet says Attn(q, K, V) + scale Attn(q, K_ip, V_ip): its words' keys and values, and those of
    `tokens` tokens that each embedding becomes, to which a learnt vector of its slot is added: slots_2D, global and local.
    (So it is in InstructAny2Pix's release.)

    width: E of the embeddings. text_width: D of the tokens. hidden: the widths of the UNet's cross-attentions, in the order
    of diffusers' `attn_processors`. locals: how many embeddings there are beside the first. Parameters are named as in
    IP-Adapter's files, and `slots`. A new adapter changes nothing: its values weigh zero.
    """

    def __init__(self, width: int, text_width: int, hidden: Sequence[int], tokens: int = 4, locals: int = 3) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "width": width, "text_width": text_width, "hidden": list(hidden), "tokens": tokens, "locals": locals,
        }  # fmt: skip
        self.width, self.text_width, self.tokens, self.locals = width, text_width, tokens, locals
        self.scale = 1.0
        self.slots = nn.Parameter(0.02 * torch.randn(2, text_width))
        self.image_proj = nn.ModuleDict({"proj": nn.Linear(width, tokens * text_width), "norm": nn.LayerNorm(text_width)})
        # Numbered as in IP-Adapter's files: every second attention, the first of which is 0, is one to words.
        self.ip_adapter = nn.ModuleDict({str(2 * n + 1): _layer(text_width, size) for n, size in enumerate(hidden)})
        self._kept = WeakTensorKeyDictionary()  # media: (what they and the weights were then, tokens)

    @classmethod
    def of(cls, unet: UNet2DConditionModel, width: int, tokens: int = 4, locals: int = 3) -> MediaAdapter:
        """A new one for this UNet. Raises ModelError for one that attends to words in no block of a transformer's."""
        found = crosses(unet)
        return cls(width, found[0].to_k.in_features, [attn.to_k.out_features for attn in found], tokens, locals)

    def check(self, unet: UNet2DConditionModel) -> None:
        """Raises ModelError where it is of another UNet."""
        found = [(attn.to_k.in_features, attn.to_k.out_features) for attn in crosses(unet)]
        own = [(self.text_width, size) for size in self.config["hidden"]]
        if found != own:
            raise ModelError(
                f"this media adapter is of another model: it has {len(own)} layers for text of width {self.text_width}, the "
                f"UNet {len(found)} for {found[0][0]}, or they differ in width; use the adapter that was trained with it"
            )

    def forward(self, media_BSE: Tensor) -> Tensor:
        """tokens_BTD, of all embeddings one after the other. Kept while the very same media are asked for again.

        Raises ModelError for embeddings of another width, or another number of them.
        """
        if tuple(media_BSE.shape[1:]) != (1 + self.locals, self.width):
            raise ModelError(
                f"the denoiser's adapter takes {1 + self.locals} embeddings of width {self.width} for each row, not "
                f"{' x '.join(str(n) for n in media_BSE.shape[1:])}"
            )
        if torch.is_grad_enabled() or media_BSE.is_inference() or self.slots.is_inference():
            return self._made(media_BSE)
        weights = (self.slots, *self.image_proj.parameters())
        stamp = (media_BSE._version, *((weight.data_ptr(), weight._version) for weight in weights))
        kept = self._kept.get(media_BSE)
        if kept is None or kept[0] != stamp:
            kept = self._kept[media_BSE] = stamp, self._made(media_BSE)
        return kept[1]

    def _made(self, media_BSE: Tensor) -> Tensor:
        slots_SD = self.slots[[0] + [1] * self.locals]
        tokens_BSTD = self.image_proj["proj"](media_BSE.to(self.slots)).unflatten(2, (self.tokens, -1)) + slots_SD[:, None]
        return self.image_proj["norm"](tokens_BSTD.flatten(1, 2))

    def told(self, unet: UNet2DConditionModel, tokens_BLD: Tensor, media_BSE: Tensor) -> Told:
        """What this UNet can be given in the place of tokens_BLD, to be told these media beside them."""
        _prepare(unet)
        return Told(tokens_BLD, self(media_BSE), self)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Tokens of words and of media, on their way through a UNet to its cross-attentions.

    They go the way of the words, as arguments, and are found wherever a block is computed: in training with checkpoints also
    when it is computed again, on another thread.
    """

    tokens_BLD: Tensor
    media_BTD: Tensor
    adapter: MediaAdapter


def crosses(unet: UNet2DConditionModel) -> list[Any]:
    """A UNet's attentions to words, in the order of diffusers' `attn_processors`.

    Raises ModelError where they are none of a transformer's (DeepFloyd IF's), or words are changed before they get there.
    """
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    found: dict[str, Any] = {name: unet.get_submodule(name) for name in names}
    cross = {name: attn for name, attn in found.items() if attn.is_cross_attention}
    if not cross or not all(name.endswith("attn2") for name in cross) or unet.encoder_hid_proj is not None:
        raise ModelError(
            "this model's attentions can be told words alone, and no pictures or sounds; use a model of the Stable Diffusion 1 "
            "or 2 family, or SDXL's"
        )
    return list(cross.values())


def _layer(text_width: int, hidden: int) -> nn.ModuleDict:
    to_k, to_v = (KeptLinear(nn.Linear(text_width, hidden, bias=False)) for _ in range(2))
    nn.init.zeros_(to_v.weight)
    return nn.ModuleDict({"to_k_ip": to_k, "to_v_ip": to_v})


@dataclass(slots=True, eq=False)
class _Attending:
    """A cross-attention under way, which is told media: its layer of the adapter, and its queries once they are made."""

    layer: Any
    media_BTD: Tensor
    heads: int
    scale: float
    q_BNC: Tensor | None = None


class _Here(threading.local):
    attending: _Attending | None = None


_here = _Here()
_prepared: WeakSet[nn.Module] = WeakSet()
_one_at_a_time = threading.Lock()


def _prepare(unet: UNet2DConditionModel) -> None:
    """Hooks, which know no adapter and do nothing without media: between them the attention is anyone's, tapped or not."""
    with _one_at_a_time:
        if unet in _prepared:
            return
        for n, attn in enumerate(crosses(unet)):
            # A deep copy has them already.
            if not any(getattr(hook, "func", None) is _enter for hook in attn._forward_pre_hooks.values()):
                attn.register_forward_pre_hook(partial(_enter, n), with_kwargs=True)
                attn.to_q.register_forward_hook(_queried)
                attn.to_out[0].register_forward_pre_hook(_add)
        _prepared.add(unet)


def _enter(n: int, attn: Any, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    told = named.get("encoder_hidden_states")
    if type(told) is not Told:
        _here.attending = None
        return None
    layer = told.adapter.ip_adapter[str(2 * n + 1)]
    _here.attending = _Attending(layer, told.media_BTD, attn.heads, told.adapter.scale)
    return args, {**named, "encoder_hidden_states": told.tokens_BLD}


def _queried(_to_q: nn.Module, _args: object, q_BNC: Tensor) -> None:
    if _here.attending is not None:
        _here.attending.q_BNC = q_BNC


def _add(_to_out: nn.Module, args: tuple[Tensor]) -> Tensor | None:
    """The media's term, to what the words have answered and before it is projected."""
    here, _here.attending = _here.attending, None
    if here is None or here.q_BNC is None:
        return None
    q_BNC = here.q_BNC
    k_BTC, v_BTC = (here.layer[part](here.media_BTD).to(q_BNC.dtype) for part in ("to_k_ip", "to_v_ip"))
    heads = (states.unflatten(2, (here.heads, -1)).transpose(1, 2) for states in (q_BNC, k_BTC, v_BTC))
    media_BNC = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    return torch.add(args[0], media_BNC, alpha=here.scale)
