"""The model's door: whatever a network predicts, a path is handed noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from paintover.errors import ModelError
from paintover.models.adapter import MediaAdapter
from paintover.models.sizes import Sizes
from paintover.models.tapping import tapped
from paintover.models.taps import Taps

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

Prediction = Literal["epsilon", "v_prediction", "sample", "change", "blend"]


class Denoiser:
    """A UNet2DConditionModel seen as eps(x, t, condition), whichever of these its output means (methods.md B.2):

    - "epsilon": the noise itself.
    - "v_prediction": v, with eps = sqrt(a) v + sqrt(1 - a) x.
    - "sample": x0, with eps = (x - sqrt(a) x0) / sqrt(1 - a).
    - "change": x0 minus the source's latents: x0 = codec_scale * image + output (without an image: x0 = output).
    - "blend": the change and, in G more channels, how much of the source it hides: see `clean`.

    With `sigma_data`, what these last three say of a row that has no source is taken as a guess that is so far off, and is
    corrected by what the row shows: see `seen`.

    A UNet with 2C input channels and C output channels is also fed the source's latents (InstructPix2Pix's convention:
    unscaled), or zeros when there is no source. Where it has C more outputs, they are the variance that it learnt (DeepFloyd
    IF), which no walk here asks for. A UNet with class_embed_type "timestep" is the second stage of a cascade: its source is
    the noised picture to be made larger, and pooled_B1 says how noisy that is, as a timestep. A UNet with addition_embed_type
    "text_time" (SDXL) is told `sizes` beside the text's vector. With an `adapter` of this UNet's it can be told media too.

    Attributes: `channels` C of the latents; `multiple`, what the latents' height and width must be multiples of to come
    through the UNet's down- and upsampling unchanged; `takes_image`; `enlarges`, whether it is a second stage;
    `pooled_width`, None when the UNet takes no pooled vector; `text_width`, the width D of the tokens; `alphas_cumprod`
    float32 of length T.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        prediction: Prediction,
        alphas_cumprod: Tensor,
        codec_scale: float = 1.0,
        sigma_data: float | None = None,
        sizes: Sizes | None = None,
        adapter: MediaAdapter | None = None,
    ) -> None:
        config = unet.config
        if prediction not in get_args(Prediction):
            raise ModelError(f"prediction {prediction!r} is unknown; use one of {', '.join(get_args(Prediction))}")
        additions = (None, "text", "text_time")
        if config.class_embed_type not in (None, "projection", "timestep") or config.addition_embed_type not in additions:
            raise ModelError(
                "a UNet with class_embed_type "
                f"{config.class_embed_type!r} and addition_embed_type {config.addition_embed_type!r} is not supported; "
                "use a model of the Stable Diffusion 1 or 2 family, SDXL's, or DeepFloyd IF's"
            )
        enlarges = config.class_embed_type == "timestep"
        channels = latent_channels(config.in_channels, config.out_channels, enlarges, prediction)
        hiding = config.out_channels - channels
        if prediction == "blend" and (hiding < 1 or channels % hiding):
            raise ModelError(
                f"a UNet that blends has 2C channels in and C + G out, C a multiple of G; this one has "
                f"{config.in_channels} and {config.out_channels}"
            )
        if sigma_data is not None and not (prediction in ("sample", "change", "blend") and 0 < sigma_data < math.inf):
            raise ModelError(
                f"sigma_data is {sigma_data} for prediction {prediction!r}; expected a positive number, and one of sample, "
                "change, blend"
            )
        if config.in_channels not in (channels, 2 * channels):
            raise ModelError(
                f"a UNet with {config.in_channels} input and {config.out_channels} output channels is not supported; "
                f"the input needs {config.out_channels} (text to image) or {2 * config.out_channels} (instruction editing)"
            )
        if adapter is not None:
            adapter.check(unet)
        self.unet = unet
        self.adapter = adapter
        self.prediction = prediction
        self.alphas_cumprod = alphas_cumprod.detach().float().to(unet.device)
        self.codec_scale = codec_scale
        self.sigma_data = sigma_data
        self.sizes = sizes or Sizes.of(config)
        self.channels: int = channels
        self.takes_image: bool = config.in_channels == 2 * channels
        self.multiple: int = 2 ** (len(config.down_block_types) - 1)
        self.enlarges = enlarges
        self.text_width: int = config.encoder_hid_dim or config.cross_attention_dim
        pooled = {"projection": config.projection_class_embeddings_input_dim, "timestep": 1}
        self.pooled_width: int | None = self.sizes.pooled_width if self.sizes else pooled.get(config.class_embed_type)

    def around(self, unet: UNet2DConditionModel) -> Denoiser:
        """This door to another network of the same kind: a copy of its own, or one that was tuned."""
        return Denoiser(unet, self.prediction, self.alphas_cumprod, self.codec_scale, self.sigma_data, self.sizes, self.adapter)

    def adapted(self, adapter: MediaAdapter | None) -> Denoiser:
        """This door to the same network, with this adapter. Raises ModelError where it is of another one."""
        unet, abar = self.unet, self.alphas_cumprod
        return Denoiser(unet, self.prediction, abar, self.codec_scale, self.sigma_data, self.sizes, adapter)

    # Of one weight: diffusers' own properties walk through all modules, which took 5 % of a small network's step.
    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def __call__(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        tokens_BLD: Tensor,
        pooled_BD: Tensor | None = None,
        image_BCHW: Tensor | None = None,
        taps: Sequence[Taps | None] | None = None,
        media_BSE: Tensor | None = None,
    ) -> Tensor:
        """The noise eps_BCHW (float32, on the UNet's device) in x_BCHW at integer timesteps t_B, one for each row.

        The network runs in its own dtype; the arithmetic around it is float32. taps: what is recorded and replaced inside the
        network, for each row its own or None. media_BSE: embeddings for the adapter (`MediaAdapter`); None: it takes no part.
        Raises ModelError when the UNet needs a pooled text vector and none is given, or has no channels for a source picture
        and one is given, or no adapter and media are given.
        """
        x_BCHW = x_BCHW.to(self.device, torch.float32)
        tapping = nullcontext() if taps is None else tapped(self.unet, taps, (x_BCHW.shape[2], x_BCHW.shape[3]))
        with tapping:
            output_BCHW = self.output(x_BCHW, t_B, tokens_BLD, pooled_BD, image_BCHW, media_BSE)
        return self.to_noise(output_BCHW, x_BCHW, t_B, image_BCHW)

    def output(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        tokens_BLD: Tensor,
        pooled_BD: Tensor | None = None,
        image_BCHW: Tensor | None = None,
        media_BSE: Tensor | None = None,
    ) -> Tensor:
        """What the network itself says, as float32: the quantity named by `prediction`. Training compares this."""
        if self.pooled_width is not None and pooled_BD is None:
            what = "the noise level of its source" if self.enlarges else f"a pooled text vector of width {self.pooled_width}"
            raise ModelError(f"this denoiser needs {what}; none was given")
        if image_BCHW is not None and not self.takes_image:
            raise ModelError(
                "this denoiser was given a source picture but has no channels for one; use a bundle that can 'instruct'"
            )
        device, dtype = self.device, self.dtype
        sample_BCHW = x_BCHW.to(device, dtype)
        if self.takes_image:
            source_BCHW = torch.zeros_like(sample_BCHW) if image_BCHW is None else image_BCHW.to(device, dtype)
            sample_BCHW = torch.cat([sample_BCHW, source_BCHW], dim=1)
        told = self._told(pooled_BD, (x_BCHW.shape[2], x_BCHW.shape[3]))
        words: Any = tokens_BLD.to(device, dtype)
        if media_BSE is not None:
            if self.adapter is None:
                raise ModelError(
                    "this denoiser was given pictures or sounds to follow but has no adapter; use a bundle that can 'any2pix'"
                )
            words = self.adapter.told(self.unet, words, media_BSE)
        answer = self.unet(sample_BCHW, t_B.to(device), words, **told, return_dict=False)
        return answer[0].float()

    def _told(self, pooled_BD: Tensor | None, size_HW: tuple[int, int]) -> dict[str, Any]:
        """What the UNet is told beside tokens, by its own names."""
        if self.pooled_width is None or pooled_BD is None:
            return {}
        pooled_BD = pooled_BD.to(self.device)
        if self.sizes is not None:
            return {"added_cond_kwargs": self.sizes.told(pooled_BD, size_HW, self.dtype)}
        return {"class_labels": pooled_BD[:, 0] if self.enlarges else pooled_BD.to(self.dtype)}

    def noised(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise, of scaled latents."""
        a_B111 = self.alphas_cumprod[t_B].view(-1, 1, 1, 1)
        return a_B111.sqrt() * x0_BCHW + (1 - a_B111).sqrt() * noise_BCHW

    def target(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What is to be predicted of `noised` latents: the noise, v, or x0 (also of "change" and "blend")."""
        if self.prediction == "epsilon":
            return noise_BCHW
        if self.prediction == "v_prediction":
            a_B111 = self.alphas_cumprod[t_B].view(-1, 1, 1, 1)
            return a_B111.sqrt() * noise_BCHW - (1 - a_B111).sqrt() * x0_BCHW
        return x0_BCHW

    def to_noise(self, output_BCHW: Tensor, x_BCHW: Tensor, t_B: Tensor, image_BCHW: Tensor | None = None) -> Tensor:
        """Turns the network's `output_BCHW` at (x_BCHW, t_B) into eps_BCHW; all float32."""
        if self.prediction == "epsilon":
            return output_BCHW[:, : self.channels]
        a_B111 = self.alphas_cumprod[t_B.to(self.device)].view(-1, 1, 1, 1)
        if self.prediction == "v_prediction":
            return a_B111.sqrt() * output_BCHW[:, : self.channels] + (1 - a_B111).sqrt() * x_BCHW
        x0_BCHW = output_BCHW[:, : self.channels]
        if image_BCHW is not None:
            image_BCHW = image_BCHW.to(self.device, torch.float32)
            if self.prediction in ("change", "blend"):
                x0_BCHW = clean(output_BCHW, self.codec_scale * image_BCHW)
        if self.sigma_data is not None:
            x0_BCHW = seen(x0_BCHW, x_BCHW, a_B111, self.sigma_data, image_BCHW)
        return (x_BCHW - a_B111.sqrt() * x0_BCHW) / (1 - a_B111).sqrt()


def latent_channels(inputs: int, outputs: int, enlarges: bool, prediction: str) -> int:
    """C of the latents that a UNet of so many channels denoises: see `Denoiser`."""
    if enlarges or prediction == "blend":
        return inputs // 2
    return inputs if outputs == 2 * inputs else outputs


def clean(output_BDHW: Tensor, source_BCHW: Tensor) -> Tensor:
    """x0_BCHW that a network means which speaks of the change to the source's scaled latents.

    D = C ("change"):     x0 = source + output.
    D = C + G ("blend"):  x0 = (1 - hidden) source + output_C, each of the G maps hiding C / G channels (every G-th: with
                          pixel-unshuffled latents and G = factor^2, one map a pixel for R, G and B). A thing goes away whole
                          with its silhouette, where "change" must spell out the negative of its every detail.
    """
    channels = source_BCHW.shape[1]
    change_BCHW, hidden_BGHW = output_BDHW[:, :channels], output_BDHW[:, channels:]
    if hidden_BGHW.shape[1]:
        source_BCHW = source_BCHW * (1 - hidden_BGHW.repeat(1, channels // hidden_BGHW.shape[1], 1, 1))
    return source_BCHW + change_BCHW


def seen(guess_BCHW: Tensor, x_BCHW: Tensor, a_B111: Tensor, sigma_data: float, image_BCHW: Tensor | None = None) -> Tensor:
    """x0_BCHW: the mean of pictures that are N(guess, sigma_data^2) before x_BCHW = sqrt(a) x0 + sqrt(1 - a) eps is seen.

    x0 = guess + c_skip (x - sqrt(a) guess), with the c_skip of EDM (Karras et al. 2022, table 1) about the guess. In pure noise
    it is the guess; at low noise it is what is seen there, every detail that the network has no room for included. Rows with
    a source in image_BCHW (any that is not all zeros) keep their guess: there the source has the details, and x only noise.
    """
    c_skip_B111 = a_B111.sqrt() * sigma_data**2 / (a_B111 * sigma_data**2 + 1 - a_B111)
    if image_BCHW is not None:
        c_skip_B111 = torch.where(image_BCHW.flatten(1).any(1).view(-1, 1, 1, 1), 0.0, c_skip_B111)
    return guess_BCHW + c_skip_B111 * (x_BCHW - a_B111.sqrt() * guess_BCHW)


def widen(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of a C-channel UNet with 2C input channels, the new ones weighing zero (InstructPix2Pix, section 3.2).

    Its output does not depend on the source's latents until it is trained to. Raises ModelError if it is wide already.
    """
    channels = unet.config.out_channels
    if unet.config.in_channels != channels:
        raise ModelError(f"a UNet with {unet.config.in_channels} input and {channels} output channels cannot be widened")
    wide = type(unet).from_config({**unet.config, "in_channels": 2 * channels}).to(unet.device, unet.dtype)
    state = unet.state_dict()
    conv_in = state["conv_in.weight"]
    state["conv_in.weight"] = nn.functional.pad(conv_in, (0, 0, 0, 0, 0, channels))
    wide.load_state_dict(state)
    return wide
