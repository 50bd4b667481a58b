"""Editors on a rectified-flow bundle: the same as diffusers' pipeline, and as the published loops on its transformer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from torch import Tensor

from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.engine import Engine
from paintover.errors import KnobError, ModelError, RequestError
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one
from paintover.path.inversion import INVERSIONS
from paintover.path.start import noise

WORDS, FIELD, SEED = "a cow", "a field", 11
SHAPE = (1, 16, 8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("flow"), "flow")


@pytest.fixture(scope="module")
def bundle(folder) -> Bundle:
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ours(name: str, bundle: Bundle, steps: int, shape=SHAPE, source: Tensor | None = None, **knobs) -> tuple[Tensor, int]:
    """The editor's latents, and the evaluations they took."""
    editor = registry.get(name)
    prompt = FIELD if editor.takes_source_prompt else None
    request = request_for(instruction=WORDS, source_prompt=prompt, editor=name, seed=SEED, steps=steps)
    context = Context(bundle, request, editor.Knobs(**knobs), shape, source)
    editor.check(context)
    engine = Engine(bundle.denoiser)
    prepared = engine.result(engine.add(editor.prepare(context)))
    return engine.result(engine.add(editor.path(context, prepared))), engine.counters.rows


@pytest.mark.parametrize("guidance", [1.0, 7.0])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 12)])
def test_imagine_is_the_pipelines(bundle, pipeline, guidance, height, width):
    shape = (1, 16, height, width)
    latents, rows = ours("imagine", bundle, 6, shape, guidance=guidance)
    asked = {"height": 8 * height, "width": 8 * width, "num_inference_steps": 6, "guidance_scale": guidance}
    theirs = pipeline(WORDS, latents=noise(SEED, shape), output_type="latent", **asked).images
    torch.testing.assert_close(latents, theirs, rtol=0, atol=1e-4)
    assert rows == (6 if guidance == 1 else 12)


@torch.no_grad()
def velocities(pipeline, t: float, *asked: tuple[Tensor, str, float]) -> list[Tensor]:
    """Guided velocities of diffusers' transformer: for each (latents, words, guidance scale)."""
    answers = []
    for x, words, scale in asked:
        tokens, null, pooled, null_pooled = pipeline.encode_prompt(words, words, words)
        time = torch.tensor([t])
        with_words = pipeline.transformer(x, tokens, pooled, time).sample
        without = pipeline.transformer(x, null, null_pooled, time).sample
        answers.append(without + scale * (with_words - without))
    return answers


@pytest.mark.parametrize(("n_max", "n_min", "n_avg"), [(30, 0, 1), (50, 0, 2), (40, 20, 1), (30, 30, 1)])
def test_flowedit_is_the_published_algorithm(bundle, pipeline, n_max, n_min, n_avg):
    """Algorithm 1 of the paper with the n_min of its appendix, on diffusers' scheduler and transformer."""
    steps, x_src = 5, noise(1, SHAPE)
    pipeline.scheduler.set_timesteps(steps)
    times, sigmas = pipeline.scheduler.timesteps, pipeline.scheduler.sigmas
    generator = torch.Generator().manual_seed(SEED)
    z_edit, z_tar = x_src.clone(), None
    for i in range(steps):
        left, sigma, onward = steps - i, sigmas[i], sigmas[i + 1]
        if left > n_max * steps / 50:
            continue
        if left > n_min * steps / 50:
            total = torch.zeros_like(x_src)
            for _ in range(n_avg):
                z_src = (1 - sigma) * x_src + sigma * torch.randn(SHAPE, generator=generator)
                v_src, v_tar = velocities(pipeline, times[i].item(), (z_src, FIELD, 3.5), (z_edit + z_src - x_src, WORDS, 13.5))
                total += (v_tar - v_src) / n_avg
            z_edit = z_edit + (onward - sigma) * total
        else:
            if z_tar is None:
                z_tar = z_edit + (1 - sigma) * x_src + sigma * torch.randn(SHAPE, generator=generator) - x_src
            [v] = velocities(pipeline, times[i].item(), (z_tar, WORDS, 13.5))
            z_tar = z_tar + (onward - sigma) * v
    latents, rows = ours("flowedit", bundle, steps, source=x_src, n_max=n_max, n_min=n_min, n_avg=n_avg)
    torch.testing.assert_close(latents, z_edit if z_tar is None else z_tar, rtol=0, atol=1e-4)
    assert rows == (n_max - n_min) // 10 * 4 * n_avg + n_min // 10 * 2


def test_rf_inversion_is_the_published_algorithm(bundle, pipeline):
    """Algorithms 1 and 2 of the paper, the velocity asked at the timesteps of the walk down (see the manual)."""
    steps, x0, y1 = 7, noise(1, SHAPE), noise(SEED, SHAPE)
    pipeline.scheduler.set_timesteps(steps)
    times, sigmas = pipeline.scheduler.timesteps, pipeline.scheduler.sigmas
    y = x0
    for i in reversed(range(steps)):
        [v] = velocities(pipeline, times[i].item(), (y, FIELD, 1.0))
        y = y + (sigmas[i] - sigmas[i + 1]) * (v + 0.5 * ((y1 - y) / (1 - sigmas[i + 1]) - v))
    x = y
    for i in range(steps):
        eta = 0.9 if i < 2 else 0.0
        [v] = velocities(pipeline, times[i].item(), (x, WORDS, 3.5))
        x = x + (sigmas[i] - sigmas[i + 1]) * (-v + eta * ((x0 - x) / sigmas[i] + v))
    latents, rows = ours("rf-inversion", bundle, steps, source=x0)
    torch.testing.assert_close(latents, x, rtol=0, atol=1e-4)
    assert rows == 3 * steps


def needs(name: str) -> set[str]:
    return set(registry.get(name).needs)


ON_FLOWS = [name for name in registry.names() if needs(name) <= {"text-to-image", "flow"}]
NOT_ON_FLOWS = [name for name in registry.names() if "unet" in needs(name)]


def order(folder, photo, name: str, **fields) -> Order:
    picture = str(photo) if registry.get(name).picture != "never" else None
    return Order(
        request_for(instruction=WORDS, editor=name, **{"picture": picture, "model": str(folder), "steps": 5, **fields})
    )


@pytest.mark.parametrize("name", ON_FLOWS)
def test_runs_on_a_flow(name, folder, photo):
    result = edit_one(order(folder, photo, name))
    assert result.rgb_HWC.shape == ((64, 64, 3) if name == "imagine" else (80, 120, 3))
    other = edit_one(order(folder, photo, name, seed=3, knobs={"guidance": 1.0}))
    assert not np.array_equal(result.rgb_HWC, other.rgb_HWC)


def test_most_editors_run_on_a_flow():
    assert {"imagine", "sdedit", "mdp-noise", "flowedit", "rf-inversion"} <= set(ON_FLOWS)


@pytest.mark.parametrize("name", NOT_ON_FLOWS)
def test_what_needs_a_unet_says_so(name, folder, photo):
    with pytest.raises(ModelError, match="needs a diffusion model with a UNet") as caught:
        edit_one(order(folder, photo, name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inversion", sorted(INVERSIONS))
def test_inversions_run_on_a_flow_or_say_why_not(inversion, folder, photo):
    asked = order(folder, photo, "mdp-noise", knobs={"inversion": inversion}, source_prompt=FIELD)
    if INVERSIONS[inversion].eta:
        with pytest.raises(KnobError, match="flow's steps add no noise"):
            edit_one(asked)
    else:
        assert edit_one(asked).rgb_HWC.shape == (80, 120, 3)


def test_a_picture_too_elongated_for_the_positions_is_refused_before_anything_is_computed(folder, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (1000, 20)).save(wide)
    asked = order(folder, wide, "flowedit")
    assert edit_one(asked).rgb_HWC.shape == (20, 1000, 3)  # 4 x 64 pixels, as wide as pictures get, are just allowed
    smaller = tiny(tmp_path / "small", "flow")
    config = smaller / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"pos_embed_max_size": 16', '"pos_embed_max_size": 8'))
    cut_positions(smaller / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(RequestError, match="at most 128 pixels a side"):
        edit_one(order(smaller, wide, "flowedit"))


def cut_positions(file) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    tensors["pos_embed.pos_embed"] = tensors["pos_embed.pos_embed"][:, :64].clone()
    save_file(tensors, file)


@pytest.mark.parametrize("name", ["flowedit", "rf-inversion"])
@pytest.mark.parametrize("kind", ["flow", "builtin"])
def test_the_users_mask_holds_on_the_latents(name, kind, folder, tiny_bundle, photo, tmp_path):
    """Not only the pixels: with preserve they are kept anyway, so the codec's own picture is compared."""
    mask = np.zeros((80, 120), np.uint8)
    mask[:, :40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    model = str(folder if kind == "flow" else tiny_bundle)
    bundle = load(model, device="cpu")
    from paintover.engine.cache import PrepareCache
    from paintover.orders.order import check
    from paintover.orders.work import begin

    work = begin(check(order(model, photo, name, mask=str(tmp_path / "mask.png"))), bundle, PrepareCache())
    engine = Engine(bundle.denoiser)
    end = engine.result(engine.add(work.path(engine.result(engine.add(work.preparation())))))
    change = (end - work.context.source).abs().amax(dim=(0, 1))
    inside = work.context.mask_HW > 0
    assert change[~inside].max() < 1e-5
    assert change[inside].min() > 1e-3


@pytest.mark.parametrize("kind", ["flow", "builtin"])
def test_rf_inversion_held_at_every_step_returns_the_picture(kind, folder, tiny_bundle):
    bundle = load(folder if kind == "flow" else tiny_bundle, device="cpu")
    source = noise(1, (1, bundle.codec.channels, 8, 8))
    held, rows = ours("rf-inversion", bundle, 6, tuple(source.shape), source, eta=1.0, stop=28)
    torch.testing.assert_close(held, source, rtol=0, atol=1e-5)
    assert rows == 6  # of the way up; none down


def test_rf_inversion_of_a_picture_is_made_once_for_all_words(folder, photo):
    first = edit_one(order(folder, photo, "rf-inversion"))
    second = edit_one(order(folder, photo, "rf-inversion", knobs={"guidance": 5.0, "eta": 0.5, "stop": 10}))
    third = edit_one(order(folder, photo, "rf-inversion", knobs={"gamma": 0.4}))
    assert [r.record["evaluations"] for r in (first, second, third)] == [15, 10, 15]


@pytest.mark.parametrize(
    ("name", "knobs", "says"),
    [
        ("flowedit", {"n_max": 10, "n_min": 20}, "n_min 20 is more than n_max 10"),
        ("flowedit", {"n_max": 0}, "n_max 0 walks no steps"),
        ("flowedit", {"n_max": 4}, "n_max 4 of 50 steps .* ask for 7 steps or more"),
        ("flowedit", {"n_min": 4}, "n_min 4 of 50"),
        ("rf-inversion", {"start": 9, "stop": 8}, "start 9 comes after stop 8"),
        ("rf-inversion", {"start": 10, "stop": 11}, "the same step of 5"),
        ("rf-inversion", {"stop": 2}, "stop 2 of 28"),
    ],
)
def test_windows_that_do_not_fit_are_one_line(name, knobs, says, folder, photo):
    with pytest.raises(KnobError, match=says) as caught:
        edit_one(order(folder, photo, name, knobs=knobs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["flowedit", "rf-inversion"])
@pytest.mark.parametrize(
    ("steps", "size_HW", "dtype"), [(2, (8, 8), "bfloat16"), (3, (4, 14), "float32"), (11, (12, 6), "bfloat16")]
)
@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_any_size_steps_precision_and_guidance(name, steps, size_HW, dtype, guidance, folder):
    bundle = load(folder, "cpu", getattr(torch, dtype))
    shape = (1, 16, *size_HW)
    end, rows = ours(name, bundle, steps, shape, noise(1, shape), guidance=guidance)
    assert (end.shape, end.dtype) == (shape, torch.float32)
    assert end.isfinite().all()
    again, more = ours(name, bundle, steps, shape, noise(1, shape), guidance=2.0)
    assert torch.equal(again, ours(name, bundle, steps, shape, noise(1, shape), guidance=2.0)[0])
    assert rows <= more
