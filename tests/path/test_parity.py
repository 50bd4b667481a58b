"""The same small random weights give the same latents as vanilla diffusers' pipelines, float32, DDIM."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from paintover.engine.engine import Engine
from paintover.models.denoiser import Denoiser
from paintover.models.tiny import tiny
from paintover.path.guidance import classifier_free, dual
from paintover.path.predict import Condition
from paintover.path.schedule import Schedule
from paintover.path.start import late, noise
from paintover.path.walk import walk

PICTURE = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(5))
WORDS, SEED, SHAPE = "make it winter", 11, (1, 4, 8, 8)


@pytest.fixture(scope="module")
def instruct(tmp_path_factory):
    folder = tiny(tmp_path_factory.mktemp("instruct"), kind="instruct")
    return quiet(StableDiffusionInstructPix2PixPipeline.from_pretrained(folder))


@pytest.fixture(scope="module")
def text_to_image(tmp_path_factory):
    folder = tiny(tmp_path_factory.mktemp("text"), kind="text-to-image")
    return quiet(StableDiffusionImg2ImgPipeline(**StableDiffusionPipeline.from_pretrained(folder).components, **SAFE))


SAFE = {"requires_safety_checker": False}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def parts(pipe) -> tuple[Schedule, Engine, Tensor, Condition, Condition]:
    """Our schedule and engine over the pipeline's own networks; the picture's unscaled latents; the two texts."""
    schedule = Schedule.from_config(pipe.scheduler.config)
    denoiser = Denoiser(pipe.unet, "epsilon", torch.tensor(schedule.alphas_cumprod))
    with torch.no_grad():
        latents = pipe.vae.encode(PICTURE * 2 - 1).latent_dist.mode()
        ids = pipe.tokenizer([WORDS, ""], padding="max_length", max_length=77, return_tensors="pt").input_ids
        words, null = pipe.text_encoder(ids)[0].split(1)
    return schedule, Engine(denoiser), latents, Condition(words), Condition(null)


@pytest.mark.parametrize(
    ("steps", "g_text", "g_image", "rows"),
    [(3, 7.5, 1.5, 3), (10, 3.0, 3.0, 2), (7, 7.5, 1.0, 2), (5, 12.0, 2.25, 3), (25, 7.5, 1.5, 3)],
)
def test_instruct(instruct, steps, g_text, g_image, rows):
    asked = {"guidance_scale": g_text, "image_guidance_scale": g_image, "num_inference_steps": steps}
    draw = torch.Generator().manual_seed(SEED)
    theirs = instruct(WORDS, image=PICTURE, generator=draw, output_type="latent", **asked).images
    schedule, engine, image, words, null = parts(instruct)
    guided = dual(Condition(words.tokens_BLD, None, image), null, g_text, g_image)
    ours = engine.result(engine.add(walk(noise(SEED, SHAPE), schedule.steps(steps), guided)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert (engine.counters.rows, engine.counters.calls) == (rows * steps, steps)


@pytest.mark.parametrize(("steps", "strength", "g"), [(5, 0.8, 7.5), (10, 0.35, 1.0), (50, 0.29, 2.0), (25, 0.6, 7.5)])
def test_sdedit(text_to_image, steps, strength, g):
    schedule, engine, image, words, null = parts(text_to_image)
    x0 = image * text_to_image.vae.config.scaling_factor
    asked = {"guidance_scale": g, "num_inference_steps": steps, "strength": strength}
    draw = torch.Generator().manual_seed(SEED)
    theirs = text_to_image(WORDS, image=x0, generator=draw, output_type="latent", **asked).images
    route = schedule.steps(steps, start=strength)
    x = late(x0, noise(SEED, SHAPE), route, strength)
    ours = engine.result(engine.add(walk(x, route, classifier_free(words, null, g))))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert engine.counters.rows == len(route) * (1 if g == 1 else 2)


@pytest.mark.parametrize("config", [{"steps_offset": 0, "set_alpha_to_one": True}, {"timestep_spacing": "trailing"}])
def test_other_schedules(instruct, config):
    before = instruct.scheduler
    instruct.scheduler = DDIMScheduler.from_config(before.config, **config)
    try:
        test_instruct(instruct, 10, 7.5, 1.5, 3)
    finally:
        instruct.scheduler = before
