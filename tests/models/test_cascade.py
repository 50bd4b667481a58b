"""DeepFloyd IF in small: what diffusers' own pipelines ask of the same folders and make of them, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, IFImg2ImgPipeline, IFPipeline, IFSuperResolutionPipeline

from paintover.conditions.prompt import prompts
from paintover.editors.editor import schedule_of
from paintover.engine.engine import Engine, run
from paintover.errors import ModelError
from paintover.models import load
from paintover.models.description import describe
from paintover.models.files import fingerprint
from paintover.models.hub import choose
from paintover.models.taps import Taps
from paintover.path.guidance import classifier_free
from paintover.path.predict import Condition
from paintover.path.start import late, noises
from paintover.path.upscale import upscale
from paintover.path.walk import walk

WORDS, SEED = "A cow on a hill ", 11
LOW = (1, 3, 8, 8)


class Clipped(DDIMScheduler):
    """diffusers' DDIM, which re-derives the noise from the thresholded picture where it is told to; its pipelines cannot."""

    def step(self, *args, **named):
        return super().step(*args, **named, use_clipped_model_output=True)


def walking_ddim(pipe):
    """The scheduler's own settings, walked by DDIM; "fixed_small" makes the pipeline leave the learnt variance out."""
    config = {**pipe.scheduler.config, "variance_type": "fixed_small", "set_alpha_to_one": True, "steps_offset": 0}
    pipe.scheduler = Clipped.from_config(config)
    pipe.scheduler.register_to_config(variance_type="fixed_small")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load(tiny_bundle("cascade"), device="cpu")


@pytest.fixture(scope="module")
def first(tiny_bundle):
    return walking_ddim(IFPipeline.from_pretrained(tiny_bundle("cascade")))


@pytest.fixture(scope="module")
def second(tiny_bundle):
    return walking_ddim(IFSuperResolutionPipeline.from_pretrained(tiny_bundle("cascade") / "upscaler"))


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle("cascade"), tmp_path / "bundle")


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def draw():
    return torch.Generator().manual_seed(SEED)


def theirs(first, words):
    tokens, null = first.encode_prompt(words, True)
    return tokens, null


def test_the_bundle_is_what_diffusers_loads(bundle, first, second):
    assert bundle.capabilities == {"text-to-image", "unet"}
    assert (bundle.size, bundle.multiple, bundle.codec.factor, bundle.codec.channels) == (32, 8, 4, 3)
    about = bundle.upscaler.about
    assert (about.factor, about.noise_level, about.guidance) == (4, 250, 4.0)
    for ours, pipe in ((bundle.denoiser, first), (bundle.upscaler.denoiser, second)):
        state = ours.unet.state_dict()
        assert all(torch.equal(state[name], value) for name, value in pipe.unet.state_dict().items())
        torch.testing.assert_close(ours.alphas_cumprod, pipe.scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        bundle.upscaler.noising_alphas, second.image_noising_scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("words", [WORDS, "", "a cow " * 40])
def test_words_become_what_the_pipeline_makes_of_them(bundle, first, words):
    ours, pooled = bundle.text.encode([words])
    torch.testing.assert_close(ours, theirs(first, words)[0], rtol=0, atol=1e-5)
    assert (ours.shape, pooled) == ((1, 77, 24), None)
    assert bundle.text.cuts(words) == (len(words) > 77)


def test_words_are_counted_and_rare_ones_known(bundle):
    assert bundle.text.count("") == 0
    assert bundle.text.count("Z x") == 2
    rare = next(bundle.text.rare())
    assert bundle.text.count(rare) == 1


def test_the_first_stage_predicts_what_its_unet_does(bundle, first):
    x, t = torch.randn(3, *LOW[1:], generator=draw()), torch.tensor([3, 400, 980])
    tokens = theirs(first, WORDS)[0].expand(3, -1, -1)
    with torch.no_grad():
        said = first.unet(x, t, encoder_hidden_states=tokens).sample
        ours = bundle.denoiser(x, t, tokens)
    assert said.shape[1] == 6
    torch.testing.assert_close(ours, said[:, :3], rtol=0, atol=1e-5)


def test_the_second_stage_predicts_what_its_unet_does(bundle, first, second):
    """Called as IFSuperResolutionPipeline calls it: the stretched and noised picture beside the latents, its level as label."""
    low, level = torch.rand(3, *LOW[1:], generator=draw()) * 2 - 1, torch.tensor([0, 250, 999])
    x, noise = torch.randn(2, 3, 3, 32, 32, generator=draw())
    t, tokens = torch.tensor([3, 400, 980]), theirs(first, WORDS)[0].expand(3, -1, -1)
    stretched = torch.nn.functional.interpolate(low, (32, 32), mode="bilinear", align_corners=True)
    noised = second.image_noising_scheduler.add_noise(stretched, noise, timesteps=level)
    source = bundle.upscaler.source(low, noise, level)
    torch.testing.assert_close(source, noised, rtol=0, atol=1e-5)
    with torch.no_grad():
        said = second.unet(torch.cat([x, noised], dim=1), t, encoder_hidden_states=tokens, class_labels=level).sample
        ours = bundle.upscaler.denoiser(x, t, tokens, bundle.upscaler.told(level), source)
        unaware = bundle.upscaler.denoiser(x, t, tokens, bundle.upscaler.told(0 * level), source)
    torch.testing.assert_close(ours, said[:, :3], rtol=0, atol=1e-5)
    assert (unaware - ours)[1:].abs().max() > 1e-3
    with pytest.raises(ModelError, match="the noise level of its source"):
        bundle.upscaler.denoiser(x, t, tokens, None, source)


@pytest.mark.parametrize(("steps", "g"), [(6, 7.0), (10, 1.0)])
def test_a_base_walk_is_that_of_the_pipeline(bundle, first, steps, g):
    asked = {"num_inference_steps": steps, "guidance_scale": g, "clean_caption": False}
    image = first(WORDS, generator=draw(), output_type="pt", **asked).images
    wanted, null = prompts(bundle.text, [WORDS, ""])
    x_T = torch.randn(LOW, generator=draw())
    ours = run(walk(x_T, schedule_of(bundle).steps(steps), classifier_free(wanted, null, g)), bundle.denoiser)
    torch.testing.assert_close(ours, image, rtol=0, atol=1e-4)
    assert ours.abs().max() <= 1


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.6), (7, 0.9)])
def test_a_late_start_is_that_of_the_pipeline(bundle, first, steps, strength):
    pipe = IFImg2ImgPipeline(**first.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(LOW, generator=draw()) * 2 - 1
    asked = {"num_inference_steps": steps, "strength": strength, "guidance_scale": 7.0, "clean_caption": False}
    image = pipe(WORDS, image=[picture], generator=draw(), output_type="pt", **asked).images
    route = schedule_of(bundle).steps(steps, start=strength)
    x = late(picture, torch.randn(LOW, generator=draw()), route, strength)
    ours = run(walk(x, route, classifier_free(*prompts(bundle.text, [WORDS, ""]), 7.0)), bundle.denoiser)
    torch.testing.assert_close(ours, image, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("steps", "g", "level"), [(5, 4.0, 250), (4, 1.0, 0)])
def test_the_second_walk_is_that_of_the_pipeline(bundle, first, second, steps, g, level):
    low = torch.rand(LOW, generator=draw()) * 2 - 1
    tokens, null = theirs(first, WORDS)
    asked = {"num_inference_steps": steps, "guidance_scale": g, "noise_level": level, "output_type": "pt"}
    told = {"prompt_embeds": tokens, "negative_prompt_embeds": null}
    image = second(image=low, generator=draw(), **told, **asked).images
    engine = Engine(bundle.denoiser)
    path = upscale(low, bundle.upscaler, Condition(tokens), Condition(null), g, level, steps, noises(SEED, (1, 3, 32, 32)))
    torch.testing.assert_close(engine.result(engine.add(path)), image, rtol=0, atol=1e-4)
    assert engine.counters.rows == steps * (1 if g == 1 else 2)


def test_the_codec_shows_the_second_stages_size(bundle):
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    low = bundle.codec.encode(ramp)
    assert low.shape == LOW
    torch.testing.assert_close(bundle.codec.decode(low)[..., 8:-8], ramp[..., 8:-8], rtol=0, atol=2e-2)
    torch.testing.assert_close(bundle.upscaler.codec.decode(bundle.upscaler.codec.encode(ramp)), ramp, rtol=0, atol=0)


def test_a_first_stage_alone_is_a_bundle(copy):
    shutil.rmtree(copy / "upscaler")
    bundle = load(copy, device="cpu")
    assert bundle.upscaler is None
    assert (bundle.size, bundle.codec.factor, bundle.codec.scale) == (8, 1, 1.0)
    pixels = torch.rand(1, 3, 16, 16, generator=draw())
    assert torch.equal(bundle.codec.decode(bundle.codec.encode(pixels)), pixels)


def test_a_second_stage_alone_says_where_it_belongs(copy):
    shutil.copytree(copy / "text_encoder", copy / "upscaler" / "text_encoder")
    with pytest.raises(ModelError, match=r"put it into the folder of a first stage, as upscaler/"):
        describe(copy / "upscaler", "second")


def test_it_is_described_without_weights_and_its_settings_are_read(copy):
    for weights in copy.rglob("*.safetensors"):
        weights.unlink()
    (copy / "paintover.json").write_text(json.dumps({"format": 1, "upscaler": {"noise_level": 100, "guidance": 2}}))
    about = describe(copy, "cascade")
    assert (about.upscaling.noise_level, about.upscaling.guidance) == (100, 2.0)
    assert about.weighty == ("unet", "text_encoder", "upscaler/unet")


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("upscaler/unet/config.json", {"class_embed_type": None}, "does not make its pictures larger"),
        ("upscaler/unet/config.json", {"in_channels": 3}, "does not make its pictures larger"),
        ("upscaler/unet/config.json", {"sample_size": 28}, "sample_size 8 and 28"),
        ("upscaler/scheduler/scheduler_config.json", {"prediction_type": "change"}, "predicts 'change'"),
        ("paintover.json", {"format": 1, "upscaler": {"noise_level": 1000}}, "noise_level"),
        ("paintover.json", {"format": 1, "upscaler": {"guidance": "much"}}, "malformed"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(copy, file, changes, said):
    path = copy / file
    if not path.is_file():
        path.write_text("{}")
    rewrite(path, **changes)
    with pytest.raises(ModelError, match=said) as raised:
        describe(copy, "cascade")
    assert "\n" not in str(raised.value)


def test_a_second_stage_of_other_words_does_not_fit(copy):
    other = load(copy, device="cpu").upscaler.denoiser.unet
    wider = type(other).from_config({**other.config, "encoder_hid_dim": 40})
    wider.save_pretrained(copy / "upscaler" / "unet")
    with pytest.raises(ModelError, match=r"stages .* do not fit together: .* text width 40, the first 3 and 24"):
        load(copy, device="cpu")


def test_the_fingerprint_and_the_hub_know_both_stages(copy):
    before = fingerprint(copy)
    names = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    chosen = choose([*names, "upscaler/text_encoder/pytorch_model.bin", "upscaler/unet/old.ckpt"], "owner/name")
    assert set(chosen) == set(names)
    rewrite(copy / "upscaler" / "image_noising_scheduler" / "scheduler_config.json", num_train_timesteps=500)
    assert fingerprint(copy) != before


def test_it_cannot_be_looked_into(bundle):
    x, t = torch.randn(LOW, generator=draw()), torch.tensor([400])
    with pytest.raises(ModelError, match="cannot be looked into"):
        bundle.denoiser(x, t, prompts(bundle.text, [WORDS])[0].tokens_BLD, taps=[Taps()])


def test_a_smaller_picture_is_the_mean_of_what_it_shows(bundle):
    pixels = torch.rand(1, 3, 32, 64, generator=draw()) * 2 - 1
    low = bundle.codec.encode(pixels)
    assert low.shape == (1, 3, 8, 16)
    assert np.isclose(float(low.mean()), float(pixels.mean()), atol=0.02)
    assert low.abs().max() <= 1
