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
from paintover.models import mllm_file
from paintover.models.bundle import load
from paintover.models.listing import BUILTIN
from paintover.models.mllm_file import load_mllm, save_mllm
from paintover.models.tiny import tiny
from paintover.training import checkpoint
from paintover.training.denoiser import train
from paintover.training.export import add_language, export
from paintover.training.mgie import train as train_mgie
from paintover.training.mgie_batches import MgieBatches
from paintover.training.mgie_recipe import MgieRecipe
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


@pytest.fixture
def taught(bundle, straight_language, tmp_path):
    """A bundle with a language model, and what `add_language` returned."""
    out = tmp_path / "taught"
    shutil.copytree(bundle[0], out)
    return out, *add_language(straight_language, out)


def test_a_language_model_is_added(taught, bundle, straight_language, text):
    out, fingerprint, size = taught
    loaded = load(out)
    assert loaded.fingerprint == fingerprint != bundle[1]
    assert loaded.capabilities == {"text-to-image", "instruct", "unet", "mgie"}
    state = load_file(checkpoint.latest(straight_language / "state") / "state.safetensors")
    own = {f"model.{k}": v for k, v in loaded.mllm().model.state_dict().items()}
    own |= {f"head.{k}": v for k, v in loaded.mllm().head.state_dict().items()}
    assert own.keys() == {key.removeprefix("ema.") for key in state if key.startswith("ema.") and "patches" not in key}
    for key, value in own.items():
        assert torch.equal(value.half(), state[f"ema.{key}"].half()), key
    assert size == sum(file.stat().st_size for file in (out / "mgie").rglob("*") if file.is_file())
    assert size < 4 * sum(value.numel() for value in own.values()) + 100_000  # half precision, and a tokenizer
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert loaded.mllm().guide(torch.zeros(1, 2, 32)).shape == (1, 4, text.width)
    result = paintover.edit(picture, "make it ripe", model=str(out), editor="mgie")
    assert result.rgb_HWC.shape == (16, 16, 3)
    assert result.request.steps == 2


def test_adding_a_language_model_leaves_all_else_as_it_was(taught, bundle, straight_language):
    out = taught[0]
    before, after = ({str(f.relative_to(at)): f.read_bytes() for f in at.rglob("*") if f.is_file()} for at in (bundle[0], out))
    added = {name for name in after if name.startswith("mgie/")}
    assert {name for name in after if after[name] != before.get(name)} == {"paintover.json", *added}
    assert before.keys() == after.keys() - added
    defaults = json.loads(after["paintover.json"])["defaults"]
    instruct = json.loads(before["paintover.json"])["defaults"]["instruct"]
    assert defaults == {"instruct": instruct, "mgie": instruct, "lgie": instruct}
    # Again: an older one is replaced, what the bundle recommends by then stays.
    (out / "mgie" / "left.json").write_text("{}")
    defaults["mgie"] = {"steps": 7}
    (out / "paintover.json").write_text(json.dumps(json.loads(after["paintover.json"]) | {"defaults": defaults}))
    add_language(straight_language, out)
    assert not (out / "mgie" / "left.json").exists()
    assert json.loads((out / "paintover.json").read_text())["defaults"] == defaults
    assert [path.name for path in out.parent.iterdir()] == ["taught"]


@pytest.mark.parametrize("projector", [False, True])
def test_what_was_trained_together_goes_into_the_bundle_that_it_began_with(mgie_folder, tiny_world, tmp_path, projector):
    out = tmp_path / "joint"
    shutil.copytree(mgie_folder, out)
    before = load(out, device="cpu")
    old = {k: v.clone() for k, v in before.mllm().model.state_dict().items()}
    recipe = MgieRecipe(size=32, batch=2, warmup=1, steps=2, ema=0.0, lr=1e-2, projector=projector)
    batches = MgieBatches(*tiny_world, before.mllm(), before.text, recipe)
    train_mgie(tmp_path / "run", recipe, before, batches, workers=0)
    fingerprint, _ = add_language(tmp_path / "run", out)
    state = load_file(checkpoint.latest(tmp_path / "run" / "state") / "state.safetensors")
    after = load(out, device="cpu")
    assert after.fingerprint == fingerprint
    own = {f"unet.{k}": v for k, v in after.denoiser.unet.state_dict().items()}
    own |= {f"head.{k}": v for k, v in after.mllm().head.state_dict().items()}
    new = after.mllm().model.state_dict()
    words, head = "model.language_model.embed_tokens.weight", "lm_head.weight"
    own |= {"embeddings.weight": new.pop(words), "lm_head.weight": new.pop(head)}
    assert not torch.equal(own["lm_head.weight"], old[head])
    if projector:
        prefix = "model.multi_modal_projector."
        own |= {f"projector.{k.removeprefix(prefix)}": new.pop(k) for k in list(new) if k.startswith(prefix)}
    assert own.keys() == {key.removeprefix("ema.") for key in state if key.startswith("ema.")}
    for key, value in own.items():
        assert torch.equal(value.half(), state[f"ema.{key}"].half()), key
    for key, value in new.items():  # what is frozen
        assert torch.equal(value.half(), old[key].half()), key
    halfway = tmp_path / "halfway"
    shutil.copytree(mgie_folder, halfway)
    add_language(tmp_path / "run", halfway, share=0.5)
    for key, value in load(halfway, device="cpu").denoiser.unet.state_dict().items():
        middle = (before.denoiser.unet.state_dict()[key].float() + state[f"ema.unet.{key}"].float()) / 2
        assert torch.equal(value.half(), middle.half()), key
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert paintover.edit(picture, "make it ripe", model=str(out), editor="mgie").rgb_HWC.shape == (16, 16, 3)
    with pytest.raises(PaintoverError, match="another network"):
        add_language(tmp_path / "run", tiny(tmp_path / "other", "mgie"))
    with pytest.raises(PaintoverError, match="mgie"):
        add_language(tmp_path / "run", tiny(tmp_path / "plain", "builtin"))


def test_what_never_learnt_is_not_rounded(mgie_folder, tiny_world, tmp_path, monkeypatch):
    """On a CPU a large model computes in bfloat16, which has three bits less than what is stored."""
    out, cpu = tmp_path / "joint", torch.device("cpu")
    shutil.copytree(mgie_folder, out)
    save_mllm(load_mllm(out, cpu), out)
    before = load_file(out / "mgie" / "language_model" / "model.safetensors")
    begun = load(out, device="cpu")
    recipe = MgieRecipe(size=32, batch=2, warmup=1, steps=1, ema=0.0, lr=1e-2)
    batches = MgieBatches(*tiny_world, load_mllm(out, cpu), begun.text, recipe)
    train_mgie(tmp_path / "run", recipe, begun, batches, workers=0)
    monkeypatch.setattr(mllm_file, "_LARGE", 1)
    assert load_mllm(out, cpu).model.dtype == torch.bfloat16
    add_language(tmp_path / "run", out)
    after = load_file(out / "mgie" / "language_model" / "model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[-2] for name in changed} == {"embed_tokens", "lm_head"}


def test_a_language_model_that_does_not_fit_is_refused(bundle, straight, straight_language, tmp_path):
    out = tmp_path / "bundle"
    shutil.copytree(bundle[0], out)
    fewer = json.loads((out / "tokenizer" / "tokenizer.json").read_text())
    del fewer["model"]["vocab"]["##~"]
    (out / "tokenizer" / "tokenizer.json").write_text(json.dumps(fewer))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(PaintoverError, match="other words"):
        add_language(straight_language, out)
    with pytest.raises(PaintoverError, match="otherwise"):
        add_language(straight_language, tiny(tmp_path / "clip", "instruct"))
    with pytest.raises(PaintoverError, match="no checkpoint"):
        add_language(tmp_path, out)
    with pytest.raises(PaintoverError, match="no recipe"):
        add_language(straight, out)
    assert set(tmp_path.rglob("*")) - {*(tmp_path / "clip").rglob("*"), tmp_path / "clip"} == before


def test_the_shipped_bundle_is_small():
    """It goes with the package. What is not half precision, or more than once there, would show here first."""
    files = [file for file in BUILTIN.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 150e6
    for file in files:
        if file.suffix == ".safetensors":
            assert {str(value.dtype) for value in load_file(file).values()} == {"torch.float16"}, file


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
