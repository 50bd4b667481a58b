"""InstructAny2Pix's stages 1, 2, 3 and 5: what learns and what does not, what is dropped and swapped, and resuming."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file

from paintover.errors import PaintoverError
from paintover.models.any2pix_file import load_any2pix
from paintover.models.bundle import load
from paintover.models.encoder_file import load_encoder
from paintover.scenes import referring
from paintover.scenes.assets import Assets
from paintover.scenes.sounds import Recording, Sounds
from paintover.training import checkpoint
from paintover.training.any2pix import train
from paintover.training.any2pix_batches import Any2PixBatches, called, told
from paintover.training.any2pix_damage import damage, damaged
from paintover.training.any2pix_export import add_any2pix, add_encoder
from paintover.training.any2pix_network import LEARNING, Learner, frozen, networks, summed
from paintover.training.any2pix_realign import train as realigned
from paintover.training.any2pix_realign_recipe import RealignRecipe
from paintover.training.any2pix_recipe import Any2PixRecipe
from paintover.training.encoder import train as train_encoder
from paintover.training.encoder_recipe import EncoderRecipe
from paintover.training.recipe import settle

SMALL = {"size": 32, "batch": 6, "warmup": 1, "steps": 2, "cooldown": 0, "checkpoint_every": 1, "lr": 1e-3, "seed": 4}
STAGES = (1, 2, 3, 5)


def _recipe(stage, **other):
    return Any2PixRecipe(**SMALL | {"stage": stage} | other)


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load(tiny_bundle, device="cpu")


@pytest.fixture
def parts(bundle):
    """The caller's own."""
    return load_any2pix(bundle.folder, torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def assets(tiny_world):
    return Assets(tiny_world[0], "train", tiny_world[1], heard=True)


@pytest.fixture(scope="module")
def sounds(tiny_world, tiny_recordings):
    return Sounds(tiny_world[0], "train", tiny_recordings)


@pytest.fixture
def batches_of(bundle, parts, tiny_world, tiny_recordings):
    def make(stage, **other):
        encoder = bundle.encoder()
        return Any2PixBatches(*tiny_world, tiny_recordings, parts.language, encoder, _recipe(stage, **other))

    return make


def _state(run):
    return load_file(checkpoint.latest(run / "state") / "state.safetensors")


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(1, {"in"}), (2, {"in", "out"}), (3, {"prior"}), (5, {"model", "in", "out"})],  # its lm_head is its word embeddings
)
def test_exactly_what_a_stage_teaches_moves(tmp_path, bundle, tiny_bundle, tiny_world, tiny_recordings, stage, expected):
    folder = tmp_path / "taught"
    shutil.copytree(tiny_bundle, folder)
    train(tmp_path / "run", _recipe(stage, ema=0.0, batch=16), *tiny_world, tiny_recordings, bundle, workers=0)
    add_any2pix(tmp_path / "run", folder)
    before, after = (
        networks(load_any2pix(place, torch.device("cpu"), dtype=torch.float32)) for place in (bundle.folder, folder)
    )
    stays = {
        f"{name}.{key}": torch.equal(after[name].state_dict()[key], tensor.half().float())
        for name, module in before.items()
        for key, tensor in module.state_dict().items()
    }
    assert {key.split(".")[0] for key, stayed in stays.items() if not stayed} == expected
    unmoved = {key for key, stayed in stays.items() if stayed and key.split(".")[0] in expected}
    assert unmoved <= {"prior.model.wte.weight"}, "it reads no words"
    same = {path.relative_to(folder) for path in folder.rglob("*.safetensors") if "any2pix" not in path.parts} | {
        path.relative_to(folder) for path in (folder / "any2pix" / "encoder").iterdir()
    }
    assert all((folder / path).read_bytes() == (tiny_bundle / path).read_bytes() for path in same)


@pytest.mark.parametrize("stage", STAGES)
def test_what_does_not_learn_has_no_gradients(parts, batches_of, stage):
    learner = Learner(parts, _recipe(stage))
    summed(learner(batches_of(stage, batch=16)[0]), _recipe(stage)).backward()
    for name, module in networks(parts).items():
        has = any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
        assert has == (name in LEARNING[stage]), name


def test_the_losses_of_each_stage(parts, batches_of):
    names = {stage: set(Learner(parts, _recipe(stage))(batches_of(stage, batch=24)[0])) for stage in STAGES}
    assert names == {1: {"words"}, 2: {"gens"}, 3: {"picture"}, 5: {"words", "base", "subs", "gens"}}


@pytest.mark.parametrize(("loss", "expected"), [("l2", (20 * 0.5) ** 2), ("l1", 20 * 0.5)])
def test_the_loss_of_a_prediction_that_is_half_as_long(parts, loss, expected):
    learner = Learner(parts, _recipe(3, loss=loss))
    unit_NE = torch.ones(3, 4)
    assert_allclose(learner._off(10 * unit_NE, unit_NE), expected)


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_resumed_it_is_bit_for_bit_the_same(tmp_path, bundle, tiny_world, tiny_recordings, stage):
    given = (*tiny_world, tiny_recordings, bundle)
    train(tmp_path / "straight", _recipe(stage), *given, workers=0)
    train(tmp_path / "stopped", _recipe(stage, steps=1), *given, workers=0)
    train(tmp_path / "stopped", _recipe(stage), *given, workers=0)
    straight, stopped = _state(tmp_path / "straight"), _state(tmp_path / "stopped")
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_the_fifth_stage_makes_no_picture(tmp_path, bundle, tiny_world, tiny_recordings):
    def asked(*_):
        raise AssertionError("the denoiser was asked")

    hook = bundle.denoiser.unet.register_forward_pre_hook(asked)
    try:
        train(tmp_path, _recipe(5), *tiny_world, tiny_recordings, bundle, workers=0)
    finally:
        hook.remove()


def test_a_share_of_bases_and_references_is_said_in_words(assets, sounds):
    bases, others = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        case = referring.make("replace", assets, sounds, rng, (0.3, 0.5))
        row = told(case, rng, 0.2, 0.3)
        bases.append(case.base not in row.media)
        others += [name not in row.media for name in case.media if name != case.base]
        assert row.answer.base == (case.base in row.media) == (row.base is not None)
        assert row.answer.caption == (case.words if row.answer.base else case.target_caption)
        for name in case.media:
            assert name in row.media or f"[{name}]" not in row.instruction
    assert len(others) > 200
    assert np.mean(bases) == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / len(bases)) ** 0.5)
    assert np.mean(others) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / len(others)) ** 0.5)


def test_a_base_that_is_not_named_is_said_all_the_same(assets, sounds):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        case = referring.make("remove", assets, sounds, rng, (0.3, 0.5))
        row = told(case, rng, 1.0, 0.0)
        assert case.caption in row.instruction
        assert case.base not in row.media


def test_objects_are_near_their_references_and_words_where_there_are_none(assets, sounds):
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        case = referring.make("two", assets, sounds, rng, (0.3, 0.5))
        row = told(case, rng, 0.0, 0.5)
        assert row.answer.subs == tuple(noun for noun, _ in case.subs)
        for (noun, name), near in zip(case.subs, row.subs, strict=True):
            assert near is row.media[name] if name in row.media else noun in near
            seen.add(type(near))
    assert {str, Recording} < seen


def test_what_takes_a_references_place(assets, sounds):
    recording = next(found[0] for label, found in sounds.by_label.items() if label == "rain")
    assert called(recording) == "rain"


def test_slots_stand_for_the_references_in_their_order(bundle, batches_of):
    batches = batches_of(5, batch=12)
    rows = [batches.row(np.random.default_rng([4, 0, r])) for r in range(12)]
    batch = batches[0]
    assert len(batch["media_NE"]) == len(batch["asked"]["slots_N2"]) == len(batch["asked"]["named"])
    assert_allclose(batch["media_NE"].norm(dim=1), 1, atol=1e-3)
    assert len(batch["base_NE"]) == sum(row.base is not None for row in rows) == len(batch["asked"]["base_N2"])
    assert len(batch["subs_NE"]) == sum(len(row.subs) for row in rows) == len(batch["asked"]["subs_N2"])
    assert len(batch["gens_NE"]) == 12
    row_N, place_N = batch["asked"]["slots_N2"].unbind(dim=1)
    base = {
        int(row): batch["media_NE"][i]
        for i, (row, name) in enumerate(zip(row_N, batch["asked"]["named"], strict=True))
        if rows[row].base is not None and rows[row].media[name] is rows[row].base
    }
    assert_allclose(torch.stack([base[row] for row in sorted(base)]), batch["base_NE"])
    assert (batch["asked"]["ids_BL"][row_N, place_N] == batches.language.slot_id).all()


@pytest.mark.parametrize(("swap", "noise", "share"), [(0.0, 0.0, 0.0), (0.0, 1.0, 1.0), (0.5, 0.0, 0.5), (1.0, 0.0, 1.0)])
def test_a_share_of_the_priors_embeddings_is_corrupted(batches_of, swap, noise, share):
    batch = batches_of(3, swap=swap, noise=noise, batch=60)[0]
    other_B = (batch["given_BE"] - batch["target_BE"]).norm(dim=1) > 1e-4
    assert other_B.float().mean() == pytest.approx(share, abs=0.2)


def test_more_damage_is_further_off_and_undamaged_pictures_are_scored_10(assets):
    rng = np.random.default_rng(0)
    rgb_HWC = np.asarray(assets.places[0].rgb.resize((48, 48)))
    for kind in ("blur", "noise", "grey", "jpeg"):
        off = [np.abs(damage(rgb_HWC, kind, a, rng).astype(float) - rgb_HWC).mean() for a in (0.1, 0.5, 1.0)]
        assert off[0] < off[1] < off[2], kind
    scored = [damaged(rgb_HWC, rng) for _ in range(60)]
    assert {score == 10 for picture, score in scored if picture is rgb_HWC} == {True}
    assert all(0 <= score <= 10 for _, score in scored)


def test_a_run_is_added_only_to_what_it_was_taught_beside(tmp_path, bundle, tiny_bundle, tiny_world, tiny_recordings):
    given = (*tiny_world, tiny_recordings, bundle)
    for stage in (1, 5):
        train(tmp_path / f"run{stage}", _recipe(stage), *given, workers=0)
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    with pytest.raises(PaintoverError, match="holds no checkpoint"):
        add_any2pix(tmp_path, folder)
    add_any2pix(tmp_path / "run5", folder)
    with pytest.raises(PaintoverError, match="has other weights than"):
        add_any2pix(tmp_path / "run1", folder)


def test_frozen_tells_other_frozen_weights_and_not_those_that_learn(bundle, parts):
    encoder, sums = bundle.encoder(), []
    for name in (None, "in", "model"):
        if name:
            with torch.no_grad():
                next(iter(networks(parts)[name].parameters())).add_(1)
        sums.append(frozen(parts, encoder, _recipe(1)))
    assert sums[0] == sums[1] != sums[2]


def test_stage_4_has_a_command_of_its_own(tmp_path):
    with pytest.raises(PaintoverError, match="train realign"):
        settle(tmp_path, {"stage": 4}, Any2PixRecipe)


def test_the_fourth_stages_unet_and_adapter_are_added_and_nothing_else(
    tmp_path, bundle, tiny_bundle, tiny_world, tiny_recordings
):
    recipe = RealignRecipe(sizes=(32,), batch=4, warmup=1, steps=1, cooldown=0, ema=0.0)
    realigned(tmp_path / "run", recipe, bundle, *tiny_world, tiny_recordings, workers=0)
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    add_any2pix(tmp_path / "run", folder)
    changed = {
        path.relative_to(folder).parent.as_posix()
        for path in folder.rglob("*.safetensors")
        if path.read_bytes() != (tiny_bundle / path.relative_to(folder)).read_bytes()
    }
    assert changed == {"unet", "any2pix/adapter"}
    after, learnt = load(folder, device="cpu").adapted(), _state(tmp_path / "run")
    for name, module in (("unet", after.unet), ("adapter", after.adapter)):
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor.half(), learnt[f"ema.{name}.{key}"].half()), key
    shutil.rmtree(folder)
    shutil.copytree(tiny_bundle, folder)
    add_any2pix(tmp_path / "run", folder, 0.0)
    kept = load(folder, device="cpu").denoiser.unet.state_dict()
    assert all(torch.equal(kept[key], tensor.half().to(tensor)) for key, tensor in bundle.denoiser.unet.state_dict().items())


@pytest.mark.parametrize("fresh", [True, False])
def test_an_encoder_is_added_to_a_bundle(tmp_path, tiny_bundle, tiny_world, tiny_recordings, fresh):
    folder, bundle = tmp_path / "bundle", load(tiny_bundle, device="cpu")
    shutil.copytree(tiny_bundle, folder)
    if fresh:
        shutil.rmtree(folder / "any2pix")
    sizes = {"size": 32, "width": 24, "sights": (32, 32), "sounds": (32, 32)}  # the tiny any2pix's
    recipe = EncoderRecipe(init=None, **sizes, labels=3, crops=2, clips=1, scenes=2, steps=1, ema=0.0)
    run = train_encoder(tmp_path / "run", recipe, *tiny_world, tiny_recordings, bundle, workers=0).parent.parent
    add_encoder(run, folder)
    state = load_encoder(folder, bundle.text, torch.device("cpu")).state_dict()
    for name, tensor in _state(run).items():
        if name.startswith("ema."):
            assert torch.equal(state[name.removeprefix("ema.")], tensor.half().float())
    prior = (folder / "any2pix" / "prior" / "model.safetensors").read_bytes()
    assert (prior == (tiny_bundle / "any2pix" / "prior" / "model.safetensors").read_bytes()) != fresh
