"""Pixels to latents and back: five codecs that look the same to a path."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from paintover.errors import ModelError

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny


class Codec(Protocol):
    """Latents are 1/factor of the picture's size on each side and have about unit variance: latents = scale * unscaled.

    A codec is deterministic and works in float32 whatever the denoiser's dtype: it runs once or twice in an edit, and
    nobody can edit better than the codec.
    """

    scale: float
    factor: int
    channels: int

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """RGB pixels in [-1, 1], height and width multiples of `factor` -> scaled latents, float32, codec's device."""

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Scaled latents -> RGB pixels, nominally in [-1, 1] but not clamped; float32."""


class KLCodec:
    """diffusers' AutoencoderKL (Stable Diffusion's VAE). Encodes to the distribution's mode, never to a sample."""

    def __init__(self, vae: AutoencoderKL) -> None:
        self.vae = vae.float().eval().requires_grad_(False)
        self.scale: float = vae.config.scaling_factor
        self.shift: float = vae.config.shift_factor or 0.0
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels: int = vae.config.latent_channels

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        pixels_BCHW = _checked(pixels_BCHW, self.factor).to(self.vae.device)
        return self.scale * (self.vae.encode(pixels_BCHW).latent_dist.mode() - self.shift)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        latents_BCHW = latents_BCHW.to(self.vae.device, torch.float32)
        return self.vae.decode(latents_BCHW / self.scale + self.shift, return_dict=False)[0]


class TinyCodec:
    """diffusers' AutoencoderTiny (TAESD). Its latents are those of the VAE that it was distilled from, already scaled.

    Raises ModelError for unequal stage widths: diffusers builds such a network, which then fails in its first forward.
    """

    def __init__(self, vae: AutoencoderTiny) -> None:
        for side in ("encoder", "decoder"):
            widths = tuple(vae.config[f"{side}_block_out_channels"])
            if len(set(widths)) != 1:
                raise ModelError(f"an AutoencoderTiny's {side} needs equal stage widths, got {widths}; diffusers cannot run it")
        self.vae = vae.float().eval().requires_grad_(False)
        self.scale: float = vae.config.scaling_factor
        self.factor: int = 2 ** (len(vae.config.encoder_block_out_channels) - 1)
        self.channels: int = vae.config.latent_channels

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        return self.scale * self.vae.encode(_checked(pixels_BCHW, self.factor).to(self.vae.device)).latents

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        latents_BCHW = latents_BCHW.to(self.vae.device, torch.float32)
        return self.vae.decode(latents_BCHW / self.scale, return_dict=False)[0]


class PixelUnshuffleCodec(nn.Module):
    """No codec at all: every factor x factor block of pixels becomes 3 * factor^2 channels. Lossless.

    latents = scale * pixel_unshuffle(pixels - mean), `mean` one value for each of R, G, B.
    """

    def __init__(self, factor: int = 8, scale: float = 2.0, mean: Iterable[float] = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        if factor < 1 or not scale > 0:
            raise ModelError(f"a PixelUnshuffleCodec needs factor >= 1 and scale > 0, got {factor} and {scale}")
        self.factor = int(factor)
        self.scale = float(scale)
        self.channels = 3 * self.factor**2
        self.mean_C11: Tensor
        self.register_buffer("mean_C11", torch.tensor(list(mean), dtype=torch.float32).view(3, 1, 1))

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        pixels_BCHW = _checked(pixels_BCHW, self.factor).to(self.mean_C11.device)
        return self.scale * functional.pixel_unshuffle(pixels_BCHW - self.mean_C11, self.factor)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        latents_BCHW = latents_BCHW.to(self.mean_C11.device, torch.float32)
        return functional.pixel_shuffle(latents_BCHW / self.scale, self.factor) + self.mean_C11

    def save(self, folder: str | Path) -> None:
        _write_config(folder, self, factor=self.factor, scale=self.scale, mean=self.mean_C11.flatten().tolist())

    @classmethod
    def load(cls, folder: str | Path) -> PixelUnshuffleCodec:
        return cls(**_read_config(folder))


class SmallerCodec:
    """The first stage of a cascade: its latents are the pixels of a picture `factor` times smaller on each side."""

    scale = 1.0
    channels = 3

    def __init__(self, factor: int, device: torch.device) -> None:
        self.factor, self.device = factor, device

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        pixels_BCHW = _checked(pixels_BCHW, self.factor).to(self.device)
        size_HW = pixels_BCHW.shape[2] // self.factor, pixels_BCHW.shape[3] // self.factor
        return functional.interpolate(pixels_BCHW, size_HW, mode="bicubic", antialias=True).clamp(-1, 1)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Merely larger: what it shows in detail, the second stage paints."""
        latents_BCHW = latents_BCHW.to(self.device, torch.float32)
        return functional.interpolate(latents_BCHW, scale_factor=self.factor, mode="bicubic")


class LinearCodec(nn.Module):
    """The best linear codec of its size: principal components of factor x factor pixel patches, in closed form.

    unscaled_C = basis_CP (patch_P - mean_P), P = 3 * factor^2, the rows of the basis orthonormal, so distances among
    unscaled latents are distances among (projected) pixels; `scale` gives the latents unit variance over all channels.
    """

    def __init__(self, factor: int, basis_CP: Tensor, mean_P: Tensor, scale: float) -> None:
        super().__init__()
        self.factor = int(factor)
        self.scale = float(scale)
        self.channels = basis_CP.shape[0]
        if basis_CP.shape[1] != 3 * self.factor**2 or mean_P.shape != basis_CP.shape[1:]:
            raise ModelError(f"a LinearCodec with factor {factor} cannot have basis {tuple(basis_CP.shape)}")
        self.basis_CP: Tensor
        self.mean_P: Tensor
        self.register_buffer("basis_CP", basis_CP.float().contiguous())
        self.register_buffer("mean_P", mean_P.float().contiguous())

    @classmethod
    def fit(cls, batches: Iterable[Tensor], channels: int, factor: int = 8) -> LinearCodec:
        """From batches of pixels_BCHW in [-1, 1]: eigenvectors of the patches' covariance, largest first."""
        size = 3 * factor**2
        if not 1 <= channels <= size:
            raise ModelError(f"a LinearCodec with factor {factor} needs 1 to {size} channels, got {channels}")
        count, sum_P, square_PP = 0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        for pixels_BCHW in batches:
            patches_NP = functional.pixel_unshuffle(_checked(pixels_BCHW, factor).double(), factor)
            patches_NP = patches_NP.permute(0, 2, 3, 1).reshape(-1, size)
            count += len(patches_NP)
            sum_P += patches_NP.sum(dim=0)
            square_PP += patches_NP.T @ patches_NP
        if count == 0:
            raise ModelError("a LinearCodec cannot be fitted to no pictures; give at least one batch")
        mean_P = sum_P / count
        variance, vectors_PP = torch.linalg.eigh(square_PP / count - torch.outer(mean_P, mean_P))
        variance_C, basis_CP = variance.flip(0)[:channels], vectors_PP.T.flip(0)[:channels]
        scale = float(variance_C.mean().clamp_min(1e-12) ** -0.5)
        return cls(factor, basis_CP, mean_P, scale)

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        pixels_BCHW = _checked(pixels_BCHW, self.factor).to(self.mean_P.device)
        patches_BPHW = functional.pixel_unshuffle(pixels_BCHW, self.factor) - self.mean_P.view(-1, 1, 1)
        return self.scale * torch.einsum("cp,bphw->bchw", self.basis_CP, patches_BPHW)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        latents_BCHW = latents_BCHW.to(self.mean_P.device, torch.float32) / self.scale
        patches_BPHW = torch.einsum("cp,bchw->bphw", self.basis_CP, latents_BCHW) + self.mean_P.view(-1, 1, 1)
        return functional.pixel_shuffle(patches_BPHW, self.factor)

    def save(self, folder: str | Path) -> None:
        _write_config(folder, self, factor=self.factor, scale=self.scale)
        tensors = {"basis_CP": self.basis_CP.cpu(), "mean_P": self.mean_P.cpu()}
        save_file(tensors, Path(folder) / "codec.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> LinearCodec:
        config, tensors = _read_config(folder), load_file(Path(folder) / "codec.safetensors")
        return cls(config["factor"], tensors["basis_CP"], tensors["mean_P"], config["scale"])


def _checked(pixels_BCHW: Tensor, factor: int) -> Tensor:
    """The pixels as float32, if they are RGB and fit the codec's grid."""
    if pixels_BCHW.ndim != 4 or pixels_BCHW.shape[1] != 3 or pixels_BCHW.shape[2] % factor or pixels_BCHW.shape[3] % factor:
        raise ValueError(
            f"a codec of factor {factor} needs pixels (B, 3, H, W) with H and W multiples of it, got {tuple(pixels_BCHW.shape)}"
        )
    return pixels_BCHW.float()


def _write_config(folder: str | Path, codec: nn.Module, **values: Any) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps({"_class_name": type(codec).__name__, **values}, indent=2)
    (Path(folder) / "config.json").write_text(text + "\n", encoding="utf-8")


def _read_config(folder: str | Path) -> dict[str, Any]:
    values = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if key != "_class_name"}
