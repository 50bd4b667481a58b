"""`diffedit` is diffusers' DiffEdit on the same small random weights and noise, and touches nothing outside of its mask."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline
from diffusers.pipelines.deprecated.stable_diffusion_diffedit import pipeline_stable_diffusion_diffedit as theirs_module
from PIL import Image

from paintover import cli
from paintover.conditions.prompt import prompts
from paintover.engine.engine import run
from paintover.errors import KnobError, RequestError
from paintover.models.bundle import load
from paintover.models.tiny import tiny
from paintover.orders import together
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one
from paintover.path.guidance import classifier_free
from paintover.path.inversion import INVERSIONS, Told
from paintover.path.masks import difference_asks, difference_mask, held_to
from paintover.path.schedule import Schedule
from paintover.path.start import noise
from paintover.path.walk import walk

SOURCE, WANTED = "a red barn in a field", "-- ##"
STEPS, STRENGTH = 10, 0.8


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tiny(tmp_path_factory.mktemp("text"), kind="text-to-image")
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    pipe = StableDiffusionDiffEditPipeline.from_pretrained(
        folder, inverse_scheduler=DDIMInverseScheduler.from_config(scheduler.config), safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe, load(folder, device="cpu")


@pytest.fixture
def x0() -> torch.Tensor:
    return noise(5, (1, 4, 8, 8)) * 0.8


def asked(path):
    """A part of a path that asks once and returns what it is answered."""
    answers = yield path
    return answers


@pytest.mark.parametrize(("guidance", "clamp"), [(3.0, 1.2), (7.5, 1.2), (7.5, 1.05)])
def test_the_mask_is_theirs(models, x0, monkeypatch, guidance, clamp):
    """Whatever their guidance, though they take the negative prompt for the prompt there, and fail without guidance.

    (They divide by the clamp even where nothing reaches it, and then find nothing; we do not.)
    """
    pipe, bundle = models
    noises = noise(1, (6, 4, 8, 8))
    monkeypatch.setattr(theirs_module, "randn_tensor", lambda *_, **__: noises)
    theirs = pipe.generate_mask(
        image=x0,
        target_prompt=WANTED,
        source_prompt=SOURCE,
        num_maps_per_mask=6,
        mask_thresholding_ratio=clamp,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
    )
    [step, *_] = Schedule.from_config(bundle.scheduler_config).steps(STEPS, start=0.5)
    source, wanted = prompts(bundle.text, [SOURCE, WANTED])
    answers = run(asked(difference_asks(x0, step, noises, source, wanted)), bundle.denoiser)
    ours = difference_mask(answers, 0.5, clamp)
    assert 0 < ours.mean() < 1
    assert np.array_equal(ours.numpy(), theirs[0])


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_the_walk_is_theirs(models, x0, guidance):
    """After a step they mix in the picture's latents from before it, one step noisier than they should be; so are ours here."""
    pipe, bundle = models
    mask = torch.zeros(8, 8)
    mask[2:6, 3:] = 1
    inverted = pipe.invert(SOURCE, x0, num_inference_steps=STEPS, inpaint_strength=STRENGTH, guidance_scale=1.0).latents
    theirs = pipe(
        WANTED,
        mask[None],
        inverted,
        num_inference_steps=STEPS,
        inpaint_strength=STRENGTH,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    steps = Schedule.from_config(bundle.scheduler_config).steps(STEPS, start=STRENGTH)
    source, wanted, null = prompts(bundle.text, [SOURCE, WANTED, ""])
    found = run(INVERSIONS["direct"].invert(x0, steps, Told(source, null)), bundle.denoiser)
    torch.testing.assert_close(torch.cat(found.record.x[:-1]), inverted[0], rtol=0, atol=1e-3)
    late = [found.record.x[0], *found.record.x[:-1]]
    guide = classifier_free(wanted, null, guidance)
    ours = run(walk(late[0], steps, guide, after=held_to(mask, late)), bundle.denoiser)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    ours = run(walk(late[0], steps, guide, after=held_to(mask, found.record.x)), bundle.denoiser)
    assert torch.equal(ours[:, :, mask == 0], x0[:, :, mask == 0])
    assert (theirs - x0)[:, :, mask == 0].abs().max() > 1e-3


@pytest.fixture
def order(tiny_bundle, photo):
    def make(**fields) -> Order:
        request = {"picture": str(photo), "model": str(tiny_bundle), "steps": 4, "instruction": "a cow", **fields}
        return Order(request_for(editor="diffedit", **request))

    return make


def test_pixels_outside_of_the_mask_stay(order, photo, tmp_path):
    mine = np.zeros((80, 120), np.uint8)
    mine[10:70, 10:60] = 255
    Image.fromarray(mine).save(tmp_path / "mine.png")
    before = np.asarray(Image.open(photo))
    for fields in ({}, {"mask": str(tmp_path / "mine.png")}):
        result = edit_one(order(knobs={"threshold": 0.6}, **fields))
        mask = result.shown["mask"]
        assert (mask.shape, mask.dtype) == ((80, 120), np.uint8)
        assert 0 < (mask == 0).mean() < 1
        assert np.array_equal(before[mask == 0], result.rgb_HWC[mask == 0])
        assert not np.array_equal(before, result.rgb_HWC)
    assert np.array_equal(before[mine == 0], result.rgb_HWC[mine == 0])


def test_a_mask_of_ones_own_alone(order, tmp_path):
    mine = np.zeros((80, 120), np.uint8)
    mine[20:40, 30:60] = 255
    Image.fromarray(mine).save(tmp_path / "mine.png")
    result = edit_one(order(mask=str(tmp_path / "mine.png"), knobs={"threshold": 0.0}))
    assert result.shown["mask"][mine > 0].min() > 0
    assert result.shown["mask"].mean() < 255 / 2
    assert result.record["evaluations"] == 3 + 2 * 3  # nothing is asked to find a mask


def test_words_that_say_the_same_change_nothing(order, photo):
    result = edit_one(order(source_prompt="a cow"))
    assert np.array_equal(result.rgb_HWC, np.asarray(Image.open(photo)))
    assert not result.shown["mask"].any()
    assert "mask is empty" in result.record["warnings"][0]
    assert result.record["evaluations"] == 3 + 2 * 10


@pytest.mark.parametrize("knob", ["strength", "mask_strength"])
def test_less_than_one_step_is_refused(order, knob):
    with pytest.raises(KnobError, match=rf"{knob} 0\.2 of 4 steps is less than one step; use 0\.25"):
        edit_one(order(knobs={knob: 0.2}))


def test_shown_masks_are_saved_beside(order, photo, tmp_path):
    asked = replace(order(), out=tmp_path / "out.jpg", show=True)
    result = edit_one(asked)
    assert result.files == {"mask": tmp_path / "out.mask.png"}
    with Image.open(tmp_path / "out.mask.png") as mask:
        assert (mask.mode, mask.size) == ("L", (120, 80))
        assert np.array_equal(np.asarray(mask), result.shown["mask"])
    (tmp_path / "out.jpg").unlink()
    with pytest.raises(RequestError, match=r"out\.mask\.png.* exists"):
        edit_one(asked)
    assert not (tmp_path / "out.jpg").exists()
    assert edit_one(replace(asked, force=True)).path == tmp_path / "out.jpg"


def test_the_command_line_shows_masks(tiny_bundle, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = ["edit", str(photo), "a cow; -a pig", "--model", str(tiny_bundle), "--steps", "2", "--show", "-o", "out.png"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*said, "--editor", "ledits", "--json"])
    assert ended.value.code in (0, None)
    shown = json.loads(capsys.readouterr().out)["shown"]
    assert shown == {"mask": "out.mask.png", "mask 1": "out.mask-1.png", "mask 2": "out.mask-2.png"}
    assert all((tmp_path / name).exists() for name in shown.values())
    (tmp_path / "out.png").unlink()
    (tmp_path / "out.mask.png").unlink()
    with monkeypatch.context() as nothing:  # noticed before anything is computed
        nothing.setattr(together, "load", lambda *args, **named: pytest.fail("loaded a model"))
        with pytest.raises(SystemExit) as ended:
            cli.main([*said, "--editor", "ledits"])
    assert ended.value.code == 2
    assert "out.mask-1.png: exists" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
    (tmp_path / "photo.edited.mask-2.png").touch()
    with pytest.raises(SystemExit):
        cli.main([*said[:-2], "--editor", "ledits"])
    names = ("png", "mask.png", "mask-1.png", "mask-2.png")
    assert capsys.readouterr().out.split() == [f"photo.edited-2.{name}" for name in names]
    with pytest.raises(SystemExit):
        cli.main([*said, "--editor", "sdedit", "--force"])
    assert "sdedit finds no mask" in capsys.readouterr().err
