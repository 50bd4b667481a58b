"""The built-in denoiser's network, its noise schedule, and where its weights come from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from paintover.errors import PaintoverError
from paintover.models.files import weights
from paintover.training import checkpoint
from paintover.training.recipe import Recipe

# Linear betas that end in (almost) pure noise: sqrt(alpha_bar) is 0.001 at t = 999. Stable Diffusion's constants leave
# 0.068, and in a latent that is pixels the mean over many of them shows the target through that: the network then reads
# colours from noise that has none (rainbow blobs from a pure-noise start).
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.0275,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "clip_sample": False,
    "set_alpha_to_one": True,  # end at x0 itself: alpha_bar at t = 0 would leave noise of 0.6/255 in every pixel
    "steps_offset": 0,
    "timestep_spacing": "trailing",  # the first step is asked at t = 999: pure noise, as trained
}


def build_unet(recipe: Recipe, text_width: int) -> nn.Module:
    """The denoiser's network: 2 C channels in (noisy and source latents), pooled words beside the time.

    Out come C channels, and one more for each pixel of a latent where the recipe predicts a "blend".
    """
    from diffusers.models.attention_processor import AttnProcessor
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    channels = 3 * recipe.factor**2
    levels = len(recipe.blocks)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=2 * channels,
        out_channels=channels + (recipe.factor**2 if recipe.prediction == "blend" else 0),
        block_out_channels=recipe.blocks,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)),
        up_block_types=(*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=tuple(max(1, w // 64) for w in recipe.blocks),  # diffusers' name for the number of heads
        cross_attention_dim=text_width,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=text_width,
    )
    unet.set_attn_processor(AttnProcessor())  # its backward is twice as fast on a CPU as that of the fused kernel
    nn.init.zeros_(unet.conv_out.weight)  # begin as "no change"
    nn.init.zeros_(unet.conv_out.bias)
    return unet


def begin_from(unet: nn.Module, source: Path) -> None:
    """Fills the network from a run or a bundle. One that predicted "change" may begin one that blends: it hides nothing yet."""
    state = averaged_weights(source)
    own = unet.state_dict()
    for key in ("conv_out.weight", "conv_out.bias"):
        more = len(own[key]) - len(state[key])
        if more > 0:
            state[key] = torch.cat([state[key], torch.zeros_like(own[key][-more:])])
    unet.load_state_dict(state)


def averaged_weights(source: Path) -> dict[str, Tensor]:
    """A run's averaged weights, or a bundle's denoiser, as float32. Raises PaintoverError where there is neither."""
    from safetensors.torch import load_file

    last = checkpoint.latest(source / "state")
    if last:
        state = load_file(last / "state.safetensors")
        return {k.removeprefix("ema."): v for k, v in state.items() if k.startswith("ema.")}
    if not (source / "unet").is_dir():
        raise PaintoverError(f"{source} is neither a run with a checkpoint nor a bundle; name one to take the weights from")
    files, _ = weights(source, "unet", "diffusion_pytorch_model")
    return {k: v.float() for file in files for k, v in load_file(file).items()}
