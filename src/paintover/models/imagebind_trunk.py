"""ImageBind's image and audio branches as networks: modules, and so weights, are called as in the released checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from paintover.models.fbank import HOP, RATE, WINDOW

_EPS = 1e-6  # of every norm but the one behind the audio branch's patches


@dataclass(frozen=True, slots=True)
class Branch:
    """Sizes of a transformer."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """The defaults are ImageBind-huge. size, patch: of a picture, in pixels. A picture is a film of `frames` equal frames.

    bins, length: of a clip's filter bank, which a patch of audio_patch square is cut from every `stride`.
    """

    out: int = 1024
    vision: Branch = field(default_factory=lambda: Branch(1280, 32, 16))
    size: int = 224
    patch: int = 14
    frames: int = 2
    audio: Branch = field(default_factory=lambda: Branch(768, 12, 12))
    bins: int = 128
    length: int = 204
    audio_patch: int = 16
    stride: int = 10
    clips: int = 3
    seconds: int = 2  # of each clip

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Sizes:
        """Those that `asdict` told. Raises KeyError, TypeError or ValueError for what cannot be so."""
        sizes = cls(**{**told, "vision": Branch(**told["vision"]), "audio": Branch(**told["audio"])})
        numbers = asdict(sizes)
        for number in (*numbers.pop("vision").values(), *numbers.pop("audio").values(), *numbers.values()):
            if type(number) is not int or not 0 < number <= 1 << 16:
                raise ValueError(f"a size is {number!r}, expected a whole number above 0")
        if any(branch.width % branch.heads for branch in (sizes.vision, sizes.audio)):
            raise ValueError("a width is no multiple of its heads")
        if sizes.patch > sizes.size or sizes.audio_patch > min(sizes.bins, sizes.length):
            raise ValueError("a patch is larger than what it is cut from")
        if sizes.seconds * RATE < WINDOW + HOP:
            raise ValueError("a clip is shorter than a window")
        return sizes


class ImageBind(nn.Module):
    """`look` and `listen` give each picture's and each clip's own vector, of length 1."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = s = sizes
        patches = (s.size // s.patch) ** 2
        down, along = ((extent - s.audio_patch) // s.stride + 1 for extent in (s.bins, s.length))
        film = nn.Conv3d(3, s.vision.width, (s.frames, s.patch, s.patch), (s.frames, s.patch, s.patch), bias=False)
        strip = nn.Conv2d(1, s.audio.width, s.audio_patch, s.stride, bias=False)
        # nn.Identity holds the places of modules without weights, which the released names count.
        seen = _Stem(nn.Sequential(nn.Identity(), film), None)
        heard = _Stem(strip, nn.LayerNorm(s.audio.width))
        self.modality_preprocessors = nn.ModuleDict(
            {"vision": _Tokens(seen, patches, s.vision.width), "audio": _Tokens(heard, down * along, s.audio.width)}
        )
        self.modality_trunks = nn.ModuleDict(
            {"vision": _Trunk(s.vision, norm=True, spare=False), "audio": _Trunk(s.audio, norm=False, spare=True)}
        )
        self.modality_heads = nn.ModuleDict(
            {name: _head(branch.width, s.out) for name, branch in (("vision", s.vision), ("audio", s.audio))}
        )

    def look(self, pixels_BCHW: Tensor) -> Tensor:
        """Normalised pixels of the size that the network sees -> media_BE."""
        film_BCTHW = pixels_BCHW[:, :, None].expand(-1, -1, self.sizes.frames, -1, -1)
        return self._through("vision", film_BCTHW)

    def listen(self, bank_BMF: Tensor) -> Tensor:
        """Normalised filter banks of clips -> media_BE."""
        return self._through("audio", bank_BMF[:, None])

    def _through(self, name: str, x: Tensor) -> Tensor:
        states_BLD = self.modality_trunks[name](self.modality_preprocessors[name](x))
        return nn.functional.normalize(self.modality_heads[name](states_BLD[:, 0]), dim=-1)


class _Stem(nn.Module):
    def __init__(self, proj: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.proj = proj
        self.norm_layer = norm

    def forward(self, x: Tensor) -> Tensor:
        patches_BLD = self.proj(x).flatten(2).transpose(1, 2)
        return patches_BLD if self.norm_layer is None else self.norm_layer(patches_BLD)


class _Positions(nn.Module):
    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, count, width) * width**-0.5)


class _Tokens(nn.Module):
    """Patches with a class token before them, and with their places."""

    def __init__(self, stem: _Stem, patches: int, width: int) -> None:
        super().__init__()
        self.rgbt_stem = stem  # the released name, for sound too
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.pos_embedding_helper = _Positions(patches + 1, width)

    def forward(self, x: Tensor) -> Tensor:
        patches_BLD = self.rgbt_stem(x)
        tokens_BLD = torch.cat([self.cls_token.expand(len(patches_BLD), -1, -1), patches_BLD], dim=1)
        return tokens_BLD + self.pos_embedding_helper.pos_embed


class _Trunk(nn.Module):
    """norm: before the first block. spare: every attention has one key and value more, learned, behind all tokens."""

    def __init__(self, branch: Branch, *, norm: bool, spare: bool) -> None:
        super().__init__()
        self.pre_transformer_layer = nn.Sequential(nn.LayerNorm(branch.width, eps=_EPS) if norm else nn.Identity())
        self.blocks = nn.Sequential(*(_Block(branch.width, branch.heads, spare) for _ in range(branch.layers)))

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        return self.blocks(self.pre_transformer_layer(tokens_BLD))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, spare: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, add_bias_kv=spare, batch_first=True)
        self.norm_1 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.norm_2 = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x_BLD: Tensor) -> Tensor:
        normed_BLD = self.norm_1(x_BLD)
        x_BLD = x_BLD + self.attn(normed_BLD, normed_BLD, normed_BLD, need_weights=False)[0]
        return x_BLD + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm_2(x_BLD))))


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width, eps=_EPS), nn.Identity(), nn.Linear(width, out, bias=False))
