"""Imagic is what diffusers' community pipeline does, and its slider ends where the paper says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional

from paintover.conditions.prompt import prompts
from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.cache import PrepareCache
from paintover.engine.engine import run
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one
from paintover.path.guidance import classifier_free
from paintover.path.predict import Condition
from paintover.path.start import noise
from paintover.path.walk import walk
from paintover.tuning import loss
from paintover.tuning.apply import applied
from paintover.tuning.loss import Stream, drawn
from paintover.tuning.weights import with_weights

IMAGIC, IMAGINE = registry.get("imagic"), registry.get("imagine")
WORDS, SEED, STEPS = "a pig in snow", 11, 4
BRIEF = {"embedding_iterations": 4, "iterations": 3, "embedding_rate": 1e-3, "rate": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("sd"), "text-to-image")


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """float32 throughout, as on machines that have no bfloat16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


def context(bundle: Bundle, words: str = WORDS, unfinished=None, editor=IMAGIC, **knobs) -> Context:
    shape = (1, bundle.codec.channels, 8, 8)
    source = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.7
    request = request_for(instruction=words, editor=editor.name, seed=SEED, steps=STEPS)
    knobs = BRIEF | knobs if editor is IMAGIC else knobs
    settled = editor.settled(editor.Knobs(**knobs), bundle)
    return Context(bundle, request, settled, shape, source, unfinished=unfinished)


def tuned(asked: Context) -> dict[str, Tensor]:
    return run(IMAGIC.prepare(asked), asked.bundle.denoiser)


def walked(asked: Context, prepared: dict[str, Tensor]) -> Tensor:
    return run(IMAGIC.path(asked, prepared), asked.bundle.denoiser)


def loop(unet, parameters, rate, iterations, stream, x0, told) -> None:
    """The community pipeline's loop, as it stands there, but for the stream that its noise comes from."""
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    optimiser = torch.optim.Adam(parameters, lr=rate)
    for i in range(iterations):
        t_B, eps = drawn(stream, i, tuple(x0.shape), 1000, x0.device)
        error = functional.mse_loss(unet(scheduler.add_noise(x0, eps, t_B), t_B, told).sample, eps)
        error.backward()
        optimiser.step()
        optimiser.zero_grad()


def test_both_stages_and_the_walk_are_the_community_pipelines(folder):
    bundle, pipe = load(folder, "cpu"), StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    asked = context(bundle, alpha=1.2, guidance=7.5)
    prepared = tuned(asked)

    pipe.text_encoder.requires_grad_(False)
    pipe.unet.set_default_attn_processor()
    target, null = pipe.encode_prompt(WORDS, "cpu", 1, True)
    bent = target.clone().requires_grad_()
    pipe.unet.requires_grad_(False)
    loop(pipe.unet, [bent], 1e-3, 4, Stream.PICTURE, asked.source, bent)
    bent.requires_grad_(False)
    torch.testing.assert_close(prepared["target.tokens_BLD"], bent, rtol=0, atol=1e-4)
    assert (bent - target).abs().max() > 1e-3  # it has gone somewhere

    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    pipe.unet.requires_grad_(True)
    loop(pipe.unet, pipe.unet.parameters(), 1e-4, 3, Stream.SECOND, asked.source, bent)
    after = pipe.unet.state_dict()
    assert {name.removeprefix("unet.") for name in prepared if name.startswith("unet.")} == set(after)
    moved = sum((after[name] - before[name]).abs().sum() for name in after)
    apart = sum((after[name] - prepared[f"unet.{name}"]).abs().sum() for name in after)
    assert apart < 0.01 * moved

    pipe.unet.requires_grad_(False)
    start = torch.randn(asked.shape, generator=torch.Generator().manual_seed(SEED))
    between = 1.2 * target + (1 - 1.2) * bent
    shown = {"num_inference_steps": STEPS, "guidance_scale": 7.5, "output_type": "latent"}
    theirs = pipe(prompt_embeds=between, negative_prompt_embeds=null, latents=start, **shown).images
    torch.testing.assert_close(walked(asked, prepared), theirs, rtol=0, atol=2e-3)


@pytest.fixture(scope="module")
def small(tiny_bundle) -> Bundle:
    """With pooled text vectors."""
    return load(tiny_bundle, "cpu")


@pytest.fixture(scope="module")
def prepared(small) -> dict[str, Tensor]:
    return tuned(context(small))


def test_alpha_1_is_the_tuned_model_told_the_caption(small, prepared):
    bent = applied(small, prepared, "0" * 64)
    theirs = context(bent, editor=IMAGINE, guidance=3.0)
    expected = run(IMAGINE.path(theirs, {}), bent.denoiser)
    assert torch.equal(walked(context(small, alpha=1, guidance=3.0), prepared), expected)


def test_alpha_0_is_the_tuned_model_told_what_was_learnt_whatever_the_caption(small, prepared):
    learnt = Condition(prepared["target.tokens_BLD"], prepared["target.pooled_BD"])
    asked = context(small, alpha=0, guidance=3.0)
    [null] = prompts(small.text, [""])
    start = noise(SEED, asked.shape)
    expected = run(
        walk(start, asked.schedule.steps(STEPS), classifier_free(learnt, null, 3.0)), with_weights(small.denoiser, prepared)
    )
    for words in (WORDS, "the sea"):
        assert torch.equal(walked(context(small, words, alpha=0, guidance=3.0), prepared), expected)
    assert not torch.equal(walked(context(small, alpha=0.5, guidance=3.0), prepared), expected)


def test_what_is_learnt_knows_the_picture_better(small):
    """Of the noises that it was tuned on: told e_opt, the tuned network is nearer than it was when told the caption."""
    asked = context(small, embedding_iterations=20, iterations=20, embedding_rate=0.03, rate=1e-3)
    prepared = tuned(asked)
    learnt = Condition(prepared["target.tokens_BLD"], prepared["target.pooled_BD"])
    [target] = prompts(small.text, [WORDS])
    draws = [drawn(Stream.PICTURE, i, asked.shape, 1000, asked.device) for i in range(20)]

    def error(denoiser, told: Condition) -> float:
        with torch.no_grad():
            return float(np.mean([loss.denoising(denoiser, asked.source, *draw, told) for draw in draws]))

    first, second = error(small.denoiser, target), error(small.denoiser, learnt)
    third = error(with_weights(small.denoiser, prepared), learnt)
    assert third < 0.9 * second < 0.9 * first


def test_the_base_stays_as_it_was(small, prepared):
    fresh = load(small.name, "cpu")
    assert fresh.denoiser is small.denoiser  # kept, so that a change would show in others' edits
    from safetensors.torch import load_file

    for part, model in (("unet", small.denoiser.unet), ("text_encoder", small.text.model)):
        [file] = (small.folder / part).glob("*.safetensors")
        own = model.state_dict()
        assert all(torch.equal(own[name], tensor) for name, tensor in load_file(file).items() if name in own)


@pytest.mark.parametrize("after", [1, 4, 6])
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_what_was_interrupted_in_either_stage_goes_on_bit_for_bit(after, tune, small, tmp_path):
    whole = tuned(context(small, tune=tune, rank=2))
    file = tmp_path / "state.unfinished"
    first = IMAGIC.prepare(context(small, tune=tune, rank=2, unfinished=file))
    for _ in range(after):
        next(first)
    first.close()
    second = IMAGIC.prepare(context(small, tune=tune, rank=2, unfinished=file))
    made = next(second)
    assert (made.what, made.i) == (("caption", after) if after < 4 else ("weights", after - 4))
    rest = run(second, small.denoiser)
    assert rest.keys() == whole.keys()
    assert all(torch.equal(rest[name], whole[name]) for name in whole)


def test_of_a_cascade_the_second_stage_is_bent_too(tmp_path):
    """Told the caption as it is; and what is interrupted there goes on there."""
    cascade = load(tiny(tmp_path / "cascade", "cascade"), "cpu")
    large = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(1)) * 2 - 1
    low, file = cascade.codec.encode(large), tmp_path / "state.unfinished"
    asked = replace(context(cascade, batch=2, rate=0.01), shape=tuple(low.shape), source_BCHW=low, large_BCHW=large)
    whole = tuned(asked)
    assert {name.split(".")[0] for name in whole} == {"target", "unet", "upscaler"}
    own = cascade.upscaler.denoiser.unet.state_dict()
    assert all(not torch.equal(whole[f"upscaler.unet.{name}"], own[name]) for name in ("conv_in.weight", "conv_out.weight"))
    first = IMAGIC.prepare(replace(asked, unfinished=file))
    stages = [next(first).what for _ in range(4 + 3 + 2)]
    first.close()
    assert stages == ["caption"] * 4 + ["weights"] * 3 + ["upscaler"] * 2
    second = IMAGIC.prepare(replace(asked, unfinished=file))
    assert (next(second).i, whole.keys()) == (2, (rest := run(second, cascade.denoiser)).keys())
    assert all(torch.equal(rest[name].cpu(), whole[name]) for name in whole)


def test_one_tuning_serves_every_alpha_guidance_and_seed_and_another_caption_is_another(tiny_bundle, photo, tmp_path):
    cache = PrepareCache(tmp_path)
    seen: list[str] = []

    def edited(words: str = WORDS, seed: int = 0, **knobs) -> np.ndarray:
        brief = {"embedding_iterations": 2, "iterations": 2} | knobs
        request = request_for(
            picture=str(photo), instruction=words, editor="imagic", knobs=brief, seed=seed, steps=2, model=str(tiny_bundle)
        )
        seen.clear()
        order = replace(Order(request), on_step=lambda step: seen.append(step.what))
        return edit_one(order, cache=cache).rgb_HWC

    pictures = [edited()]
    assert seen == ["caption"] * 2 + ["weights"] * 2 + [""] * 2
    for other in ({"alpha": 0.3}, {"guidance": 2.0}, {"strength": 0.5}, {"seed": 1}):
        pictures.append(edited(**other))
        assert set(seen) == {""}, other
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    edited("the sea")
    assert seen[:4] == ["caption"] * 2 + ["weights"] * 2


def test_alpha_0_is_told_to_be_no_edit(small, prepared):
    assert ["no edit" in note for note in IMAGIC.notes(context(small, alpha=0))] == [True]
    assert IMAGIC.notes(context(small)) == []
