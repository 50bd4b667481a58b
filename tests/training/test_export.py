"""A run becomes a bundle: ours to edit with, and diffusers' own to load."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import paintover
from paintover.errors import PaintoverError
from paintover.models.bundle import load
from paintover.training import checkpoint
from paintover.training.denoiser import train
from paintover.training.export import export
from paintover.training.text import load as load_text
from paintover.training.text import texts

CARD = "---\nlicense: apache-2.0\n---\n# Small\n\nKnows nothing.\n"


@pytest.fixture(scope="module")
def bundle(straight, text_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "small"
    fingerprint = export(straight, text_folder, out, card=CARD, size=16, defaults={"instruct": {"steps": 2, "guidance": 1.5}})
    return out, fingerprint


def test_it_loads_and_edits(bundle):
    out, fingerprint = bundle
    loaded = load(out)
    assert loaded.fingerprint == fingerprint
    assert loaded.capabilities == {"text-to-image", "instruct", "unet"}
    assert loaded.card.summary == "Knows nothing."
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    result = paintover.edit(picture, "remove the cow", model=str(out))
    assert result.request.steps == 2
    assert result.rgb_HWC.shape == (16, 16, 3)


def test_vanilla_diffusers_loads_its_parts_with_the_averaged_weights(bundle, straight):
    from diffusers import DDIMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(bundle[0], subfolder="unet", local_files_only=True)
    state = load_file(checkpoint.latest(straight / "state") / "state.safetensors")
    for key, value in unet.state_dict().items():
        assert torch.equal(value.half(), state[f"ema.{key}"].half()), key
    scheduler = DDIMScheduler.from_pretrained(bundle[0], subfolder="scheduler", local_files_only=True)
    scheduler.set_timesteps(8)
    assert scheduler.timesteps[0] == 999


def test_a_new_edition_takes_the_place_of_the_old(bundle, straight, text_folder, tmp_path):
    out = tmp_path / "small"
    shutil.copytree(bundle[0], out)
    (out / "left.over").write_text("x")
    export(straight, text_folder, out, card=CARD, size=32, defaults={})
    assert json.loads((out / "paintover.json").read_text())["size"] == 32
    assert not (out / "left.over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_how_far_off_it_was_told_to_be_goes_with_it(bundle, tiny_recipe, tiny_world, text, text_folder, tmp_path):
    """A run with `sigma_data` learns otherwise than one without, and its bundle corrects what it says."""
    recipe = tiny_recipe.model_copy(update={"steps": 2, "sigma_data": 0.3, "captions": 1.0})
    train(tmp_path / "run", recipe, *tiny_world, text, workers=0)
    train(tmp_path / "plain", recipe.model_copy(update={"sigma_data": None}), *tiny_world, text, workers=0)
    states = [load_file(checkpoint.latest(tmp_path / run / "state") / "state.safetensors") for run in ("run", "plain")]
    assert not torch.equal(*(state["model.conv_out.weight"] for state in states))
    export(tmp_path / "run", text_folder, tmp_path / "out", card=CARD, size=16, defaults={})
    assert json.loads((tmp_path / "out" / "paintover.json").read_text())["sigma_data"] == 0.3
    assert load(tmp_path / "out").denoiser.sigma_data == 0.3
    assert "sigma_data" not in (bundle[0] / "paintover.json").read_text()
    assert load(bundle[0]).denoiser.sigma_data is None


def test_what_is_missing_is_said(straight, text_folder, tmp_path):
    with pytest.raises(PaintoverError, match="no checkpoint"):
        export(tmp_path, text_folder, tmp_path / "out", card=CARD, size=16, defaults={})
    with pytest.raises(PaintoverError, match="train text"):
        export(straight, tmp_path, tmp_path / "out", card=CARD, size=16, defaults={})
    with pytest.raises(PaintoverError, match="train text"):
        load_text(tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_encoders_texts_say_every_class_and_colour():
    said = " ".join(texts())
    for word in ("ladybug", "purple", "in the bottom left corner", "plain grey", "moonlight", "mountains"):
        assert word in said
    assert "{" not in said
