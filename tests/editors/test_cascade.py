"""Editors on a cascade: the first stage's walk, then the second stage's, both bent to the picture by unitune."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from paintover.conditions.prompt import prompts
from paintover.editors import registry
from paintover.editors.cascade import onward
from paintover.editors.editor import Context
from paintover.engine.cache import PrepareCache
from paintover.engine.engine import run
from paintover.errors import ModelError
from paintover.models import load
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit, edit_one, imagine
from paintover.tuning import loss, upscaler
from paintover.tuning.names import UPSCALER, below
from paintover.tuning.unfinished import Unfinished

STEPS = 5
QUICK = {"iterations": 2, "batch": 2}
LOOKS_INSIDE = {"prompt-to-prompt", "plug-and-play", "masactrl", "ledits"}
BY_CAPTION = [n for n in registry.names() if registry.get(n).told == "caption" and registry.get(n).picture != "never"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("cascade"), "cascade")


@pytest.fixture(scope="module")
def bundle(folder):
    return load(folder, device="cpu")


@pytest.fixture
def picture(photo):
    return np.asarray(Image.open(photo))


def context(bundle, editor="unitune", **knobs):
    """A square of the bundle's size, as `begin` would give it."""
    request = request_for(instruction="a cow", editor=editor, picture="x.png", steps=STEPS, seed=3)
    model = registry.get(editor).Knobs(**knobs)
    model = registry.get(editor).settled(model, bundle)
    large = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    low = bundle.codec.encode(large)
    return Context(bundle, request, model, tuple(low.shape), low, large_BCHW=large)


def test_a_picture_made_from_words_is_as_large_as_the_second_stage_makes_it(folder, bundle):
    result = imagine("a cow on a hill", model=folder, steps=STEPS)
    assert result.rgb_HWC.shape == (32, 32, 3)
    assert result.record["evaluations"] == 2 * STEPS + 2 * STEPS
    assert result.record["working_size"] == [32, 32]
    told = [imagine(words, model=folder, steps=STEPS, seed=seed).rgb_HWC for words, seed in (("a cow", 0), ("a cow", 1))]
    assert not np.array_equal(*told)


def test_the_second_stage_is_told_the_caption_and_the_small_picture(bundle):
    def large(instruction, low, **knobs):
        asked = context(bundle, "sdedit", strength=0.0001 + 1 / STEPS, **knobs)
        asked = replace(asked, request=asked.request.model_copy(update={"instruction": instruction}))
        editor = registry.get("sdedit")

        class Still(type(editor)):
            def path(self, context, prepared):
                yield from ()
                return low

        return run(onward(Still(), asked, {}), bundle.denoiser)

    low = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(2)) * 2 - 1
    first = large("a cow", low)
    assert first.shape == (1, 3, 32, 48)
    assert torch.equal(large("a cow", low), first)
    for other in (large("a dog", low), large("a cow", -low), large("a cow", low, negative_prompt="a dog")):
        assert (other - first).abs().max() > 1e-3


def test_an_edit_is_put_back_at_the_pictures_own_size(folder, picture):
    result = edit(picture, "a cow", editor="sdedit", model=folder, steps=STEPS, strength=0.6, preserve=False)
    assert result.rgb_HWC.shape == picture.shape
    assert result.record["evaluations"] == 2 * 3 + 2 * STEPS  # the late start is the first stage's alone
    width, height = result.record["working_size"]
    assert width % 8 == height % 8 == 0
    assert abs(width * height - 32 * 32) < 32 * 32 / 2


@pytest.mark.parametrize("name", BY_CAPTION)
def test_every_editor_runs_or_says_why_not(name, folder, picture, bundle):
    knobs = {**QUICK, "embedding_iterations": 2, "pictures": 2}
    knobs = {knob: value for knob, value in knobs.items() if knob in registry.get(name).Knobs.model_fields}
    asked = {"editor": name, "model": folder, "steps": 10, "preserve": False, **knobs}
    if name in LOOKS_INSIDE | {"textual-inversion"}:
        with pytest.raises(ModelError, match="cannot be") as raised:
            edit(picture, "a cow", **asked)
        assert "\n" not in str(raised.value)
        return
    if name == "dreambooth":
        asked |= {"word": "q", "noun": "cow"} if "noun" in registry.get(name).Knobs.model_fields else {}
    result = edit(picture, "a cow", **asked)
    assert result.rgb_HWC.shape == picture.shape
    assert result.rgb_HWC.std() > 1


def test_unitune_bends_both_stages_and_the_text_encoder_stays(bundle):
    before = {name: value.clone() for name, value in bundle.text.model.state_dict().items()}
    own = {name: value.clone() for name, value in bundle.upscaler.denoiser.unet.state_dict().items()}
    asked = context(bundle, **QUICK)
    tuned = run(registry.get("unitune").prepare(asked), bundle.denoiser)
    names = set(tuned)
    assert {f"upscaler.unet.{name}" for name, _ in bundle.upscaler.denoiser.unet.named_parameters()} <= names
    assert names == {f"unet.{n}" for n, _ in bundle.denoiser.unet.named_parameters()} | {
        f"upscaler.unet.{n}" for n, _ in bundle.upscaler.denoiser.unet.named_parameters()
    }
    assert not torch.equal(tuned["upscaler.unet.conv_in.weight"], own["conv_in.weight"])
    after = bundle.text.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    after = bundle.upscaler.denoiser.unet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in own.items())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_tuning_lowers_both_losses(bundle, kind):
    """On noises that the tuning has not seen."""
    from paintover.tuning.apply import network

    quick = {"full": {"rate": 1e-3, "iterations": 8}, "lora": {"rate": 2e-2, "iterations": 24}}[kind]
    asked = context(bundle, tune=kind, rank=4, batch=2, **quick)
    tuned = run(registry.get("unitune").prepare(asked), bundle.denoiser)
    assert any(name.startswith("upscaler.unet.") for name in tuned)
    [told] = prompts(bundle.text, [registry.get("unitune").word(asked)])
    low, large = asked.source.expand(8, -1, -1, -1), asked.large_BCHW.expand(8, -1, -1, -1)

    def losses(first, second):
        drawn = loss.drawn(7, 0, tuple(low.shape), 1000, low.device)
        with torch.no_grad():
            base = loss.denoising(first, low, *drawn, told)
            return float(base), float(upscaler.denoising(second, bundle.upscaler, low, large, told, 10_000))

    before = losses(bundle.denoiser, bundle.upscaler.denoiser)
    after = losses(network(bundle.denoiser, tuned), network(bundle.upscaler.denoiser, below(tuned, UPSCALER)))
    assert after[0] < 0.9 * before[0]
    assert after[1] < 0.9 * before[1]


def test_the_second_stages_loss_is_that_of_its_own_training(bundle):
    """Against its bare UNet, called as it was trained: the noisy large picture, the noised small one, and that one's level."""
    stage, told = bundle.upscaler, prompts(bundle.text, ["q"])[0]
    unet, asked, i = stage.denoiser.unet, context(bundle), 5
    low, large = asked.source.expand(4, -1, -1, -1), asked.large_BCHW.expand(4, -1, -1, -1)
    t, noise = loss.drawn(loss.Stream.LARGE, i, tuple(large.shape), 1000, large.device)
    level, blur = loss.drawn(loss.Stream.BLURRING, i, tuple(large.shape), 1000, large.device)
    assert len(set(level.tolist())) > 1

    def level_of(at):  # the cosine schedule in closed form
        return torch.cos((at.double() / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2

    def noised(x, z, at):
        a = (level_of(at + 1) / level_of(torch.zeros(1)))[:, None, None, None]
        return (a.sqrt() * x + (1 - a).sqrt() * z).float()

    stretched = torch.nn.functional.interpolate(low, (32, 32), mode="bilinear", align_corners=True)
    fed = torch.cat([noised(large, noise, t), noised(stretched, blur, level)], dim=1)
    with torch.no_grad():
        said = unet(fed, t, told.tokens_BLD.expand(4, -1, -1), class_labels=level).sample[:, :3]
        ours = upscaler.denoising(stage.denoiser, stage, low, large, told, i)
    # Where the machine computes in bfloat16, the loss does.
    torch.testing.assert_close(float(ours), float(((said - noise) ** 2).mean()), rtol=6e-4, atol=0)


def test_the_tuned_second_stage_walks_the_edit_told_the_rare_word(bundle):
    asked, editor = context(bundle, **QUICK, rate=0.01, interpolation=0), registry.get("unitune")
    assert editor.caption(asked) == f"{editor.word(asked)} a cow"
    tuned = run(editor.prepare(asked), bundle.denoiser)
    first = {name: tensor for name, tensor in tuned.items() if name.startswith("unet.")}
    both, without = (run(onward(editor, asked, learnt), bundle.denoiser) for learnt in (tuned, first))
    assert torch.equal(run(onward(editor, asked, tuned), bundle.denoiser), both)
    assert (both - without).abs().max() > 1e-3
    none = context(bundle, **QUICK, rate=0.01, interpolation=0, share=0)
    assert torch.equal(*(run(onward(editor, none, learnt), bundle.denoiser) for learnt in (tuned, first)))


def test_one_tuning_serves_many_edits(folder, picture, tmp_path):
    knobs = {**QUICK, "interpolation": 0}
    asked = {"model": str(folder), "steps": STEPS, "editor": "unitune", "preserve": False, "knobs": knobs}
    cache = PrepareCache(tmp_path)
    cow, dog, cow_again = (
        edit_one(Order(request_for(instruction=said, **asked), picture), cache) for said in ("a cow", "a dog", "a cow")
    )
    assert np.array_equal(cow.rgb_HWC, cow_again.rgb_HWC)
    assert not np.array_equal(cow.rgb_HWC, dog.rgb_HWC)
    assert len(list(tmp_path.glob("??/*.entry"))) == 2  # the encoded picture, and the tuning


def test_tuning_that_was_interrupted_in_the_second_stage_goes_on_there(bundle, tmp_path):
    whole = run(registry.get("unitune").prepare(context(bundle, **QUICK)), bundle.denoiser)
    asked = replace(context(bundle, **QUICK), unfinished=tmp_path / "state")
    half = registry.get("unitune").prepare(asked)
    seen = [next(half).what for _ in range(3)]
    assert seen == ["tuning", "tuning", "upscaler"]
    half.close()
    assert Unfinished(asked.unfinished).carried()
    steps = []
    resumed = run(registry.get("unitune").prepare(asked), bundle.denoiser, on_step=lambda report: steps.append(report.what))
    assert steps == ["upscaler"]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_was_learnt_is_kept_of_both_stages_and_put_in_their_places(bundle, tmp_path):
    from diffusers import IFSuperResolutionPipeline

    from paintover.tuning.apply import applied
    from paintover.tuning.keep import read, write

    tuned = run(registry.get("unitune").prepare(context(bundle, **QUICK)), bundle.denoiser)
    kept = write(tmp_path / "kept", tuned, bundle)
    again = read(kept)
    assert again.keys() == tuned.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tuned.items())
    bent = applied(bundle, tuned, "digest")
    theirs = IFSuperResolutionPipeline.from_pretrained(kept / "upscaler").unet.state_dict()
    for loaded in (bent.upscaler, load(kept, device="cpu").upscaler):
        state = loaded.denoiser.unet.state_dict()
        assert all(torch.equal(state[name], value) for name, value in theirs.items())
    assert bundle.upscaler.denoiser.unet is not bent.upscaler.denoiser.unet
    only = write(tmp_path / "first", {n: t for n, t in tuned.items() if n.startswith("unet.")}, bundle)
    state = load(only, device="cpu").upscaler.denoiser.unet.state_dict()
    assert all(torch.equal(state[name], value) for name, value in bundle.upscaler.denoiser.unet.state_dict().items())


def test_settings_of_the_bundle_matter(folder, tmp_path):
    import shutil

    before = imagine("a cow", model=folder, steps=STEPS).rgb_HWC
    other = shutil.copytree(folder, tmp_path / "other")
    for setting in ({"noise_level": 900}, {"guidance": 1.0}):
        (other / "paintover.json").write_text(json.dumps({"format": 1, "upscaler": setting}))
        assert not np.array_equal(imagine("a cow", model=other, steps=STEPS).rgb_HWC, before)
