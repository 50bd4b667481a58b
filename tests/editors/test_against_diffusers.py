"""Our editors' latents are those of vanilla diffusers' pipelines: same small random weights, words, pixels and seed."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline
from torch import Tensor

from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.engine import run
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.orders.order import request_for

PICTURE = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(5))
WORDS, SEED = "make it winter", 11


@pytest.fixture(scope="module")
def instruct(tmp_path_factory):
    folder = tiny(tmp_path_factory.mktemp("instruct"), kind="instruct")
    return StableDiffusionInstructPix2PixPipeline.from_pretrained(folder), load(folder, device="cpu")


@pytest.fixture(scope="module")
def text_to_image(tmp_path_factory):
    folder = tiny(tmp_path_factory.mktemp("text"), kind="text-to-image")
    components = StableDiffusionPipeline.from_pretrained(folder).components
    return StableDiffusionImg2ImgPipeline(**components, requires_safety_checker=False), load(folder, device="cpu")


@torch.no_grad()
def ours(name: str, bundle: Bundle, steps: int, **knobs) -> Tensor:
    """What the editor of that name makes of the picture: latents."""
    editor = registry.get(name)
    request = request_for(instruction=WORDS, editor=name, seed=SEED, steps=steps)
    source = bundle.codec.encode(PICTURE * 2 - 1)
    context = Context(bundle, request, editor.Knobs(**knobs), tuple(source.shape), source)
    return run(editor.path(context, {}), bundle.denoiser)


def theirs(pipe, image: Tensor, **asked) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(WORDS, image=image, generator=torch.Generator().manual_seed(SEED), output_type="latent", **asked).images


@pytest.mark.parametrize(("steps", "text", "image"), [(3, 7.5, 1.5), (10, 3.0, 3.0), (20, 7.5, 1.0)])
def test_instruct(instruct, steps, text, image):
    pipe, bundle = instruct
    asked = {"num_inference_steps": steps, "guidance_scale": text, "image_guidance_scale": image}
    latents = ours("instruct", bundle, steps, guidance=text, image_guidance=image)
    torch.testing.assert_close(latents, theirs(pipe, PICTURE, **asked), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("steps", "strength", "guidance", "negative"),
    [(5, 0.8, 7.5, ""), (10, 0.35, 1.0, ""), (25, 0.6, 7.5, "a cow")],
)
def test_sdedit(text_to_image, steps, strength, guidance, negative):
    pipe, bundle = text_to_image
    with torch.no_grad():  # latents, not pixels: img2img draws from the codec's distribution where we take its mode
        x0 = pipe.vae.encode(PICTURE * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    asked = {"num_inference_steps": steps, "guidance_scale": guidance, "strength": strength, "negative_prompt": negative}
    latents = ours("sdedit", bundle, steps, strength=strength, guidance=guidance, negative_prompt=negative)
    torch.testing.assert_close(latents, theirs(pipe, x0, **asked), rtol=0, atol=1e-4)
