"""SDXL and its refiner in small: what diffusers' own pipelines make of the same folders, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from paintover.conditions.mgie import pooled
from paintover.conditions.prompt import prompts
from paintover.editors import registry
from paintover.editors.editor import Context, schedule_of
from paintover.editors.refined import refined
from paintover.engine.engine import Engine, run
from paintover.errors import ModelError
from paintover.models import Denoiser, load
from paintover.models.description import describe
from paintover.models.files import fingerprint
from paintover.models.hub import choose
from paintover.models.kept import KeptLinear
from paintover.models.sizes import Sizes
from paintover.models.taps import Site, Taps
from paintover.orders.order import request_for
from paintover.path.guidance import classifier_free, dual, plain
from paintover.path.predict import Condition
from paintover.path.refine import refine
from paintover.path.start import late, noise
from paintover.path.walk import walk

WORDS, SEED = "a cow on a hill", 11
SHAPE = (1, 4, 6, 14)  # of no square picture, so that height and width are told apart
SIZE = {"height": 48, "width": 112}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load(tiny_bundle("sdxl-refiner"), device="cpu")


@pytest.fixture(scope="module")
def pipeline(tiny_bundle):
    return quiet(StableDiffusionXLPipeline.from_pretrained(tiny_bundle("sdxl-refiner"), add_watermarker=False))


@pytest.fixture(scope="module")
def finisher(tiny_bundle, pipeline):
    """The refiner as diffusers has it: a pipeline of its own, sharing what the base has as well."""
    parts = {name: part for name, part in pipeline.components.items() if name not in ("text_encoder", "tokenizer", "unet")}
    unet = UNet2DConditionModel.from_pretrained(tiny_bundle("sdxl-refiner") / "refiner", subfolder="unet")
    asked = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False, "add_watermarker": False}
    return quiet(StableDiffusionXLImg2ImgPipeline(**parts, unet=unet, text_encoder=None, tokenizer=None, **asked))


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle("sdxl-refiner"), tmp_path / "bundle")


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def draw():
    return torch.Generator().manual_seed(SEED)


def test_the_bundle_is_what_diffusers_loads(bundle, pipeline, finisher):
    assert bundle.capabilities == {"text-to-image", "unet"}
    assert (bundle.size, bundle.multiple, bundle.codec.scale, bundle.most) == (64, 16, 0.13025, None)
    assert (bundle.denoiser.text_width, bundle.denoiser.pooled_width, bundle.denoiser.sizes.factor) == (56, 24, 8)
    for ours, pipe in ((bundle.denoiser, pipeline), (bundle.refiner.denoiser, finisher)):
        state = ours.unet.state_dict()
        assert all(torch.equal(state[name], value) for name, value in pipe.unet.state_dict().items())
    assert load(bundle.folder, "cpu", torch.bfloat16).codec.vae.dtype == torch.float32  # SDXL's overflows in float16


@pytest.mark.parametrize("words", [WORDS, "Cows!! ", "a cow " * 40])
def test_words_become_what_the_pipeline_makes_of_them(bundle, pipeline, words):
    theirs = pipeline.encode_prompt(words, device="cpu", negative_prompt=words)
    tokens, vector = bundle.text.encode([words])
    for ours, others in ((tokens, theirs[:2]), (vector, theirs[2:])):
        for other in others:
            torch.testing.assert_close(ours, other, rtol=0, atol=1e-6)
    assert (tokens.shape, vector.shape) == ((1, 77, 56), (1, 24))
    assert bundle.text.cuts(words) == (len(words) > 77)
    assert bundle.text.count(words) == len(words.replace(" ", "")[:75])


def test_no_words_are_zeros_where_the_model_was_trained_so(bundle, pipeline, copy):
    _, tokens, _, vector = pipeline.encode_prompt(WORDS, device="cpu")
    ours = bundle.text.encode(["", WORDS])
    for one, other in zip(ours, (tokens, vector), strict=True):
        assert torch.equal(one[:1], other)
        assert not other.any()
        assert one[1].any()
    rewrite(copy / "model_index.json", force_zeros_for_empty_prompt=False)
    said, spoken = load(copy, device="cpu").text.encode([""])
    pipe = StableDiffusionXLPipeline.from_pretrained(copy)
    _, tokens, _, vector = pipe.encode_prompt(WORDS, device="cpu")
    torch.testing.assert_close(said, tokens, rtol=0, atol=1e-6)
    torch.testing.assert_close(spoken, vector, rtol=0, atol=1e-6)
    assert said.any()


@pytest.mark.parametrize(("steps", "g", "unwanted"), [(5, 7.5, ""), (10, 1.0, ""), (7, 5.0, "a pig")])
def test_a_walk_from_noise_is_that_of_the_pipeline(bundle, pipeline, steps, g, unwanted):
    asked = {"num_inference_steps": steps, "guidance_scale": g, "negative_prompt": unwanted or None, **SIZE}
    theirs = pipeline(WORDS, generator=draw(), output_type="latent", **asked).images
    wanted, null = prompts(bundle.text, [WORDS, unwanted])
    engine = Engine(bundle.denoiser)
    x_T, route = noise(SEED, SHAPE), schedule_of(bundle).steps(steps)
    ours = engine.result(engine.add(walk(x_T, route, classifier_free(wanted, null, g))))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert engine.counters.rows == steps * (1 if g == 1 else 2)
    other = bundle.denoiser.around(bundle.denoiser.unet)
    other.sizes = Sizes(24, factor=16)
    ends = run(walk(x_T, route, classifier_free(wanted, null, g)), other)
    assert (ends - theirs).abs().max() > 1e-3, "sizes that are told are heard"


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.6), (7, 0.9)])
def test_a_late_start_is_that_of_the_pipeline(bundle, pipeline, steps, strength):
    pipe = quiet(StableDiffusionXLImg2ImgPipeline(**pipeline.components, add_watermarker=False))
    picture = torch.rand((1, 3, 48, 112), generator=draw())
    x0 = bundle.codec.encode(picture * 2 - 1)
    asked = {"num_inference_steps": steps, "strength": strength, "guidance_scale": 5.0}
    theirs = pipe(WORDS, image=x0, generator=draw(), output_type="latent", **asked).images
    route = schedule_of(bundle).steps(steps, start=strength)
    x = late(x0, noise(SEED, SHAPE), route, strength)
    ours = run(walk(x, route, classifier_free(*prompts(bundle.text, [WORDS, ""]), 5.0)), bundle.denoiser)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_pictures_come_out_of_the_codec_as_out_of_the_pipelines(bundle, pipeline):
    latents = noise(SEED, SHAPE)
    with torch.no_grad():
        theirs = pipeline.vae.decode(latents / 0.13025, return_dict=False)[0]
        torch.testing.assert_close(bundle.codec.decode(latents), theirs, rtol=0, atol=1e-5)


def test_an_instruction_is_followed_as_by_the_pipeline(tiny_bundle):
    folder = tiny_bundle("sdxl-instruct")
    bundle = load(folder, device="cpu")
    pipe = quiet(StableDiffusionXLInstructPix2PixPipeline.from_pretrained(folder, add_watermarker=False))
    picture = torch.rand((1, 3, 48, 112), generator=draw())
    asked = {"num_inference_steps": 5, "guidance_scale": 7.5, "image_guidance_scale": 1.5, **SIZE}
    theirs = pipe(WORDS, image=picture, generator=draw(), output_type="latent", **asked).images
    image = bundle.codec.encode(picture * 2 - 1) / bundle.codec.scale
    told, null = prompts(bundle.text, [WORDS, ""], image)
    ours = run(walk(noise(SEED, SHAPE), schedule_of(bundle).steps(5), dual(told, null, 7.5, 1.5)), bundle.denoiser)
    assert bundle.capabilities == {"instruct", "unet"}
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_language_models_guidance_tells_no_vector_of_the_whole(tiny_bundle):
    """MGIE's is as wide as the tokens, SDXL's is not: then it is told what it is told without words."""
    denoiser = load(tiny_bundle("sdxl-instruct"), device="cpu").denoiser
    tokens = torch.randn(2, 77, 56, generator=draw())
    told = pooled(denoiser, tokens)
    assert torch.equal(told, torch.zeros(2, 24))
    assert denoiser(torch.randn(2, 4, 8, 8), torch.tensor([4, 800]), tokens, told).isfinite().all()


def context(bundle, steps):
    editor = registry.get("imagine")
    request = request_for(instruction=WORDS, editor="imagine", seed=SEED, steps=steps)
    return Context(bundle, request, editor.Knobs(), SHAPE)


NEVER = plain(Condition(torch.zeros(1, 1, 1)))  # what the base would follow, had the bundle no refiner


@pytest.mark.parametrize(
    ("steps", "strength", "g", "unwanted"), [(10, 0.3, 5.0, ""), (6, 0.9, 7.5, "a pig"), (5, 0.4, 1.0, "")]
)
def test_a_refiners_pass_is_that_of_the_pipeline(bundle, finisher, steps, strength, g, unwanted, monkeypatch):
    x0 = noise(3, SHAPE) * 0.7
    asked = {"num_inference_steps": steps, "strength": strength, "guidance_scale": g, "output_type": "latent"}
    theirs = finisher(WORDS, negative_prompt=unwanted or None, image=x0, generator=draw(), **asked).images
    monkeypatch.setattr("paintover.editors.refined._seed", lambda seed: seed)  # the pipeline's own draw
    engine = Engine(bundle.denoiser)
    path = refined(x0, context(bundle, steps), strength, WORDS, unwanted, g, NEVER)
    ours = engine.result(engine.add(path))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert engine.counters.rows == int(steps * strength) * (1 if g == 1 else 2)


def test_a_refiners_noise_is_of_another_stream_than_the_seeds_own(bundle):
    x0 = torch.zeros(SHAPE)
    starts = [next(refined(x0, context(bundle, 10), 1.0, WORDS, "", 1.0, NEVER))[0].x_BCHW for _ in range(2)]
    assert torch.equal(*starts)
    assert not torch.allclose(starts[0], noise(SEED, SHAPE))


def test_the_score_that_is_asked_for_is_heard(bundle):
    refiner, x, t = bundle.refiner, noise(1, SHAPE), torch.tensor([200])
    [c] = prompts(refiner.text, [WORDS])
    good, bad = (refiner.denoiser(x, t, c.tokens_BLD, refiner.told(c.pooled_BD, score)) for score in (6.0, 2.5))
    assert (good - bad).abs().max() > 1e-4
    assert refiner.text.encode([""])[0].any(), "a refiner reads the empty text"
    told = c.tokens_BLD, refiner.told(c.pooled_BD, 6.0)
    tuned = refiner.denoiser.around(refiner.denoiser.unet)
    assert torch.equal(tuned(x, t, *told), good), "a door to other weights tells the same"
    with pytest.raises(ModelError, match="pooled text vector of width 25"):
        refiner.denoiser(x, t, c.tokens_BLD)


@pytest.mark.parametrize("kind", ["sdxl", "text-to-image", "flow"])
def test_without_a_refiner_the_bundles_own_network_refines(kind, tiny_bundle):
    bundle = load(tiny_bundle(kind), device="cpu")
    assert bundle.refiner is None
    shape = (1, bundle.codec.channels, 8, 8)
    x0 = noise(3, shape) * 0.7
    about = Context(bundle, context(bundle, 10).request, registry.get("imagine").Knobs(), shape)
    own = classifier_free(*prompts(bundle.text, [WORDS, ""]), 3.0)
    engine = Engine(bundle.denoiser)
    end = engine.result(engine.add(refined(x0, about, 0.5, WORDS, "", 3.0, own)))
    assert engine.counters.rows == 10
    assert (end - x0).abs().max() > 1e-2
    untouched = engine.result(engine.add(refined(x0, about, 0.0, WORDS, "", 3.0, own)))
    assert torch.equal(untouched, x0)
    route = schedule_of(bundle).steps(10, start=0.5)
    again = run(refine(x0, route, 0.5, noise(SEED, shape), own), bundle.denoiser)
    torch.testing.assert_close(again, run(walk(late(x0, noise(SEED, shape), route, 0.5), route, own), bundle.denoiser))


class Recording(Taps):
    def __init__(self):
        self.seen: dict[Site, tuple[int, ...]] = {}

    def wants_maps(self, site):
        return True

    def maps(self, site, maps_HNL):
        self.seen[site] = tuple(maps_HNL.shape)
        return maps_HNL


def test_taps_reach_every_block_of_its_transformers(bundle):
    x, t = noise(1, SHAPE), torch.tensor([400])
    [c] = prompts(bundle.text, [WORDS])
    plain_answer = bundle.denoiser(x, t, c.tokens_BLD, c.pooled_BD)
    recording = Recording()
    tapped = bundle.denoiser(x, t, c.tokens_BLD, c.pooled_BD, taps=[recording])
    torch.testing.assert_close(tapped, plain_answer, rtol=0, atol=1e-5)
    # One transformer below, one in the middle, two above; each of two blocks, at the coarser of two grids.
    assert sorted((s.kind, s.part, s.index, s.of) for s in recording.seen) == [
        (kind, part, index, of)
        for kind in ("cross", "self")
        for part, of in (("down", 2), ("mid", 2), ("up", 4))
        for index in range(of)
    ]
    assert {s.size_HW for s in recording.seen} == {(3, 7)}
    assert {shape[1:] for s, shape in recording.seen.items() if s.kind == "cross"} == {(21, 77)}


def test_what_words_are_to_the_attentions_is_kept(bundle):
    kept = [name for name, module in bundle.denoiser.unet.named_modules() if isinstance(module, KeptLinear)]
    assert len(kept) == 2 * 8
    assert len([name for name, _ in bundle.refiner.denoiser.unet.named_modules() if name.endswith("attn2")]) == 8


# As published in the configs of SDXL base 1.0 and of its refiner.
BASE = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = {
    **BASE,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}


@pytest.mark.parametrize(
    ("config", "weights", "width", "pooled", "multiple"),
    [(BASE, 2_567_463_684, 2048, 1280, 4), (REFINER, 2_259_526_660, 1280, 1281, 8)],
    ids=["base", "refiner"],
)
def test_shapes_at_the_published_size(config, weights, width, pooled, multiple):
    """Without memory: the network takes what the door hands it, and in half precision is as large as the files published
    (5.14 and 4.52 GB)."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=4, out_channels=4, **config)
        sizes = Sizes.of(unet.config, scored=pooled == 1281)
        door = Denoiser(unet, "epsilon", torch.linspace(0.9, 0.1, 1000), sizes=sizes)
        x, t = torch.empty(2, 4, 128, 128), torch.zeros(2, dtype=torch.long)
        answer = door(x, t, torch.empty(2, 77, width), torch.empty(2, pooled))
    assert (door.text_width, door.pooled_width, door.multiple, answer.shape) == (width, pooled, multiple, x.shape)
    assert sum(p.numel() for p in unet.parameters()) == weights


def one_encoder(folder):
    shutil.rmtree(folder / "text_encoder_2")


def swapped(folder):
    (folder / "text_encoder").rename(folder / "third")
    (folder / "text_encoder_2").rename(folder / "text_encoder")
    (folder / "third").rename(folder / "text_encoder_2")


def narrower(folder):
    rewrite(folder / "unet" / "config.json", addition_time_embed_dim=16)


def other_tokens(folder):
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / f"{part}")
        shutil.copytree(folder / f"{part}_2", folder / part)
    rewrite(folder / "text_encoder" / "config.json", architectures=["CLIPTextModel"])


def refiner_alone(folder):
    shutil.copytree(folder / "refiner", folder / "whole")
    for part in ("vae", "scheduler"):
        shutil.copytree(folder / part, folder / "whole" / part, dirs_exist_ok=True)
    for path in [path for path in folder.iterdir() if path.name != "whole"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(folder / "whole", folder, dirs_exist_ok=True)


def another_base(folder):
    shutil.rmtree(folder / "refiner" / "unet")
    shutil.copytree(folder / "unet", folder / "refiner" / "unet")


def pickled_refiner(folder):
    file = folder / "refiner" / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def flowing_refiner(folder):
    rewrite(folder / "refiner" / "scheduler" / "scheduler_config.json", prediction_type="flow")


def plain_refiner(folder):
    rewrite(folder / "refiner" / "unet" / "config.json", addition_embed_type=None)


def shifted(folder):
    rewrite(folder / "vae" / "config.json", latents_mean=[0.0] * 4, latents_std=[1.0] * 4)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (one_encoder, r"has no text_encoder_2/config\.json"),
        (swapped, "describes 'CLIPTextModelWithProjection'; supported: CLIPTextModel$"),
        (narrower, "is told sizes has 6 numbers"),
        (other_tokens, r"does not fit together: text width 48 \(pooled 24\), denoiser 56"),
        (refiner_alone, "is SDXL's refiner.* as refiner/"),
        (another_base, r"refiner/ of bundle .* does not fit it: text width 24 \(pooled 24\), refiner 56 \(pooled 32\)"),
        (pickled_refiner, "only pickled weights"),
        (flowing_refiner, "predicts 'flow'"),
        (plain_refiner, "is for SDXL alone"),
        (shifted, "latents_mean"),
    ],
)
def test_a_broken_bundle_is_one_line(copy, spoil, says):
    spoil(copy)
    with pytest.raises(ModelError, match=says) as caught:
        load(copy, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_refiner_belongs_to_sdxl(tiny_bundle, copy, tmp_path):
    folder = shutil.copytree(tiny_bundle("text-to-image"), tmp_path / "sd")
    shutil.copytree(copy / "refiner", folder / "refiner")
    with pytest.raises(ModelError, match="beside an SDXL base"):
        describe(folder, "sd")


def test_a_refiner_without_a_schedule_of_its_own_walks_the_bases(copy):
    shutil.rmtree(copy / "refiner" / "scheduler")
    (copy / "refiner" / "model_index.json").unlink()
    bundle = load(copy, device="cpu")
    assert bundle.refiner.scheduler_config == bundle.scheduler_config
    assert not bundle.refiner.text.silent


def test_the_fingerprint_and_the_hub_know_every_part(copy):
    before = fingerprint(copy)
    names = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    stray = ["sd_xl_base_1.0.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "vae_1_0/config.json"]
    assert set(choose([*names, *stray], "owner/name")) == set(names)
    assert set(describe(copy, "xl").weighty) == {"unet", "vae", "text_encoder", "text_encoder_2", "refiner/unet"}
    file = copy / "refiner" / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert fingerprint(copy) != before
