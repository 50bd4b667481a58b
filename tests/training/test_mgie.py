"""MGIE's joint training: what learns, what is dropped, two learning rates, and that a run can be killed at any moment."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from paintover.conditions import mgie as conditions
from paintover.datasets import open_dataset
from paintover.errors import PaintoverError
from paintover.models import bundle as bundles
from paintover.models.bundle import load
from paintover.models.mllm import Asked
from paintover.models.mllm_file import load_mllm, save_mllm
from paintover.models.tiny import _mgie, tiny
from paintover.training import checkpoint
from paintover.training.batches import Share
from paintover.training.export import add_language
from paintover.training.mgie import drawn_for, latents_of, train
from paintover.training.mgie_batches import SORTS, MgieBatches, Row, together
from paintover.training.mgie_network import Learner, answered, dropped, frozen
from paintover.training.mgie_pairs import PairBatches
from paintover.training.mgie_recipe import MgieRecipe
from paintover.training.recipe import settle
from paintover.training.states import States

SMALL = {"size": 32, "batch": 8, "warmup": 1, "steps": 4, "checkpoint_every": 2, "seed": 5}
MIXED = {"captions": 0.125, "instruct": 0.25, "unseen": 0.25}  # of 8 rows 1, 2, 2, and 3 that are seen


class _One:
    """What `drawn_for` asks of an Accelerator."""

    process_index, num_processes = 0, 1


@pytest.fixture(scope="module")
def recipe() -> MgieRecipe:
    return MgieRecipe(**SMALL, **MIXED)


@pytest.fixture(scope="module")
def folder(mgie_folder):
    return mgie_folder


@pytest.fixture(scope="module")
def bundle(folder):
    return load(folder, device="cpu")


@pytest.fixture(scope="module", params=["builtin", "latents"])
def any_bundle(request, folder, tmp_path_factory):
    """The built-in model in small, which predicts the change in pixels, and Stable Diffusion, which predicts the noise."""
    return load(folder if request.param == "builtin" else tiny(tmp_path_factory.mktemp("latents"), "mgie"), device="cpu")


@pytest.fixture(autouse=True)
def _own_language_model():
    """No test meets a language model that another one has taught."""
    yield
    bundles._language.clear()


def _batches(world, bundle, recipe, share=None):
    return MgieBatches(*world, load_mllm(bundle.folder, torch.device("cpu")), bundle.text, recipe, share or Share())


def _losses(learner, bundle, batch, recipe, step=0, **told):
    latents = latents_of(bundle, batch)
    drawn = drawn_for(recipe, step, batch, latents[0], _One()) | told
    return learner(batch, *latents, drawn, answered(batch))


def _state(run):
    return load_file(checkpoint.latest(run / "state") / "state.safetensors")


@pytest.fixture
def seen_by():
    """Notes what a learner's UNet is asked: its sample, timesteps and tokens."""

    def note(learner):
        asked = []
        learner.unet.register_forward_pre_hook(lambda _, args, kwargs: asked.append((*args, kwargs)), with_kwargs=True)
        return asked

    return note


@pytest.mark.parametrize("projector", [False, True])
def test_gradients_reach_what_learns_and_nothing_else(tiny_world, any_bundle, recipe, projector):
    learner = Learner(any_bundle, any_bundle.mllm(), recipe.model_copy(update={"projector": projector}))
    losses = _losses(learner, any_bundle, _batches(tiny_world, any_bundle, recipe)[0], recipe)
    (losses["words"] + 0.5 * losses["edit"]).backward()
    llava = learner.mllm.model
    learning = {
        "unet": learner.unet,
        "embeddings": llava.get_input_embeddings(),
        "lm_head": llava.lm_head,
        "head": learner.mllm.head,
    }
    frozen = {"vision": llava.model.vision_tower, "blocks": llava.model.language_model.layers}
    frozen["norm"] = llava.model.language_model.norm
    (learning if projector else frozen)["projector"] = llava.model.multi_modal_projector
    for name, module in learning.items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters()), name
    for name, module in frozen.items():
        assert all(p.grad is None for p in module.parameters()), name
    learnt = {id(p) for group in learner.groups() for p in group["params"]}
    assert learnt == {id(p) for module in learning.values() for p in module.parameters()}
    assert set(dict(learner.named_children())) == set(learning)


def test_words_and_pictures_are_dropped_in_regions_of_5_per_cent_each(recipe):
    chance_B = torch.rand(400_000, generator=torch.Generator().manual_seed(0))
    words, picture = dropped(chance_B)
    shares = {
        "words": (words & ~picture).float().mean(), "both": (words & picture).float().mean(),
        "picture": (~words & picture).float().mean(),
    }  # fmt: skip
    for name, share in shares.items():
        assert float(share) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 400_000) ** 0.5), name
    # What a run draws is as uniform, at every place in the batch.
    latents, batch = torch.zeros(8, 1, 1, 1), {"levels_B2": torch.tensor([[0.0, 1.0]] * 8)}
    chances_SB = torch.stack([drawn_for(recipe, step, batch, latents, _One())["chance_B"] for step in range(2000)])
    words_SB, picture_SB = dropped(chances_SB)
    for regions in (words_SB & ~picture_SB, words_SB & picture_SB, ~words_SB & picture_SB):
        assert regions.float().mean(dim=0).sub(0.05).abs().max() < 5 * (0.05 * 0.95 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("chance", "words", "picture"), [(0.02, False, True), (0.07, False, False), (0.12, True, False), (0.5, True, True)]
)
def test_what_is_dropped_is_not_shown(tiny_world, bundle, recipe, seen_by, chance, words, picture):
    """Without words all instructions and pictures are told one null condition, each by the reader it has."""
    batch = _batches(tiny_world, bundle, recipe)[3]
    learner = Learner(bundle, bundle.mllm(), recipe)
    asked = seen_by(learner)
    _losses(learner, bundle, batch, recipe, chance_B=torch.full((8,), chance))
    sample_BCHW, _, tokens_BLD, more = asked[0]
    image_BCHW = sample_BCHW[:, sample_BCHW.shape[1] // 2 :]
    shown = (image_BCHW != 0).flatten(1).any(dim=1)
    assert shown.tolist() == [False, *[picture] * 7]  # a caption has no source
    nothing, pooled = conditions.told(learner.mllm, learner.denoiser, conditions.nothing(learner.mllm))
    silent, silent_pooled = bundle.text.encode([""])
    for i in range(8):
        expected, whole = (silent, silent_pooled) if i < 3 else (nothing, pooled)
        assert torch.allclose(tokens_BLD[i], expected[0], atol=1e-5) == (not words), i
        assert torch.allclose(more["class_labels"][i], whole[0], atol=1e-4) == (not words), i


def test_the_denoiser_is_told_what_the_editors_will_tell_it(tiny_world, bundle, recipe, seen_by):
    """Training's batch against an edit's own path: one question, one picture, the meaning given."""
    only = recipe.model_copy(update={"captions": 0.0, "instruct": 0.0, "unseen": 0.5})
    batches, mllm = _batches(tiny_world, bundle, only), bundle.mllm()
    learner = Learner(bundle, mllm, only)
    asked = seen_by(learner)
    _losses(learner, bundle, batches[1], only, chance_B=torch.full((8,), 0.5))
    rows = [batches.row(batches.sorts[r], np.random.default_rng([5, 1, r])) for r in range(8)]
    for i, row in enumerate(rows):
        view = np.rint(row.source * 255).astype(np.uint8) if i >= 4 else None
        [answer] = mllm.answer([row.words], [view], [row.meant])
        tokens_BLD, _ = conditions.told(mllm, bundle.denoiser, answer.hidden_ND[None])
        assert torch.allclose(asked[0][2][i], tokens_BLD[0], atol=1e-4), i


def test_the_losses_are_algorithm_1(tiny_world, any_bundle, recipe, seen_by):
    """L_ins row by row; L_edit from what the UNet was shown and said, in the terms that it predicts in."""
    batch = _batches(tiny_world, any_bundle, recipe)[2]
    learner = Learner(any_bundle, any_bundle.mllm(), recipe)
    asked, answered_with = seen_by(learner), []
    learner.unet.register_forward_hook(lambda _, __, output: answered_with.append(output[0]))
    found = _losses(learner, any_bundle, batch, recipe, chance_B=torch.full((8,), 0.5))
    rows, errors, llava = batch["asked"], [], learner.mllm.model
    for i in range(5):
        length = int(rows["mask_BL"][i].sum())
        ids, labels = rows["ids_BL"][i, :length], rows["labels_BL"][i, :length]
        pixels = batch["pixels_SCHW"][i - 2 : i - 1] if i >= 2 else None
        logits_LV = llava(input_ids=ids[None], pixel_values=pixels).logits[0]
        errors += [functional.cross_entropy(logits_LV[k - 1], labels[k]) for k in range(1, length) if labels[k] != -100]
    assert torch.allclose(found["words"], torch.stack(errors).mean(), rtol=1e-4)
    sample, t, *_ = asked[0]
    channels = sample.shape[1] // 2
    a = any_bundle.denoiser.alphas_cumprod[t].view(-1, 1, 1, 1)
    target = any_bundle.codec.encode(batch["target_BCHW"])
    noise = (sample[:, :channels] - a.sqrt() * target) / (1 - a).sqrt()
    said, weight = answered_with[0][:, :channels], batch["weight_B1HW"]
    if any_bundle.denoiser.prediction == "epsilon":
        error, weight = said - noise, functional.avg_pool2d(weight, any_bundle.codec.factor)
    else:
        error = any_bundle.codec.scale * sample[:, channels:] + said - target
        weight = functional.pixel_unshuffle(weight, any_bundle.codec.factor).repeat(1, 3, 1, 1)
    assert torch.allclose(found["edit"], (weight * error.square()).mean(), rtol=1e-3)


def test_rows_are_of_four_sorts_in_their_order(tiny_world, bundle, recipe):
    batches = _batches(tiny_world, bundle, recipe)
    assert batches.sorts == ["captions", "instruct", "instruct", "unseen", "unseen", "seen", "seen", "seen"]
    assert set(batches.sorts) == set(SORTS)
    batch = batches[4]
    assert batch["shown_B"].tolist() == [0.0, *[1.0] * 7]
    assert len(batch["tokens_KLD"]) == 4  # three rows, and no words at all
    assert torch.equal(batch["tokens_KLD"][-1], bundle.text.encode([""])[0][0])
    assert len(batch["asked"]["ids_BL"]) == 5
    assert len(batch["pixels_SCHW"]) == 3
    patches = (batch["asked"]["ids_BL"] == bundle.mllm().model.config.image_token_id).sum(dim=1)
    assert patches.tolist() == [0, 0, *[bundle.mllm().patches] * 3]
    published = MgieRecipe(**SMALL)
    assert published.rows() == {"captions": 0, "instruct": 0, "unseen": 0, "seen": 8}
    batch = _batches(tiny_world, bundle, published)[0]
    assert batch["tokens_KLD"] is None
    assert len(batch["pixels_SCHW"]) == 8


def test_words_of_a_dataset_are_words_and_are_cut(bundle, recipe):
    """What the model has special tokens for shows no picture and teaches no [IMG] token; a long text kills no run."""
    mllm, black = bundle.mllm(), np.zeros((32, 32, 3), np.float32)
    texts = [("<im_patch> make it [IMG0] <im_end> ripe", "paint [IMG1] it <im_patch> red"), ("make it ripe " * 400,) * 2]
    rows = [("seen", Row(black, black, black[..., 0], 1.0, (0.0, 1.0), *words)) for words in texts]
    asked = together(rows, mllm, States(bundle.text))["asked"]
    image_token = mllm.model.config.image_token_id
    for ids, mask, labels, images in zip(
        *(asked[name] for name in ("ids_BL", "mask_BL", "labels_BL", "images_BN")), strict=True
    ):
        assert (ids == image_token).sum() == mllm.patches
        assert [i for i in ids.tolist() if i in mllm.image_ids] == mllm.image_ids
        assert ids[images + 1].tolist() == mllm.image_ids
        assert labels[mask.bool()][-1] == mllm.tokenizer.eos_token_id
    assert asked["mask_BL"].sum(dim=1).max() <= 512
    mllm.hidden(Asked(**asked), mllm.look(torch.zeros(2, 3, mllm.size, mllm.size)))


def test_rows_of_ids_are_filled_up_to_a_multiple_of_16(tiny_world, bundle, recipe):
    mllm, asked = bundle.mllm(), _batches(tiny_world, bundle, recipe)[2]["asked"]
    for name, fill in (("ids_BL", mllm.pad), ("mask_BL", 0), ("labels_BL", -100)):
        assert asked[name].shape[1] % 16 == 0, name
        assert (asked[name][asked["mask_BL"] == 0] == fill).all(), name
    question = mllm.question("make it ripe", False)
    short, whole = (mllm.asked([question], ["paint the pear yellow"], multiple=m) for m in (1, 16))
    more = -short.ids_BL.shape[1] % 16
    assert torch.equal(whole.labels_BL, functional.pad(short.labels_BL, (0, more), value=-100))
    assert torch.equal(whole.images_BN, short.images_BN)


def test_a_batch_depends_on_the_step_alone_and_processes_share_its_rows(tiny_world, bundle, recipe):
    whole = _batches(tiny_world, bundle, recipe)[7]
    again = _batches(tiny_world, bundle, recipe)
    again[6]
    for key in ("source_BCHW", "target_BCHW", "weight_B1HW", "shown_B", "levels_B2"):
        assert torch.equal(again[7][key], whole[key])
        for rank in range(2):
            share = _batches(tiny_world, bundle, recipe, Share(rank, 2))[7]
            assert torch.equal(whole[key][rank::2], share[key]), key


def test_two_processes_learn_what_one_does(tiny_world, bundle, recipe):
    """Timesteps, noise, what is dropped, and how much an answer weighs are the same however many there are."""
    learner = Learner(bundle, bundle.mllm(), recipe)

    class Rank:
        def __init__(self, rank: int) -> None:
            self.process_index, self.num_processes = rank, 2

    shares = [_batches(tiny_world, bundle, recipe, Share(rank, 2))[1] for rank in range(2)]
    answers = sum(answered(share) for share in shares) / 2
    losses = []
    for rank, share in enumerate(shares):
        latents = latents_of(bundle, share)
        found = learner(share, *latents, drawn_for(recipe, 1, share, latents[0], Rank(rank)), answers)
        losses.append({name: float(loss.detach()) for name, loss in found.items()})
    whole = _losses(learner, bundle, _batches(tiny_world, bundle, recipe)[1], recipe, 1)
    for name, loss in whole.items():
        assert float(loss.detach()) == pytest.approx((losses[0][name] + losses[1][name]) / 2, rel=1e-4), name
        assert losses[0][name] != pytest.approx(losses[1][name], rel=1e-3)


def test_a_batch_is_learnt(tiny_world, bundle, recipe):
    batch = _batches(tiny_world, bundle, recipe)[1]
    learner = Learner(bundle, bundle.mllm(), recipe.model_copy(update={"lr": 3e-3, "denoiser_lr": 1e-3}))
    optimiser, seen = torch.optim.AdamW(learner.groups(), weight_decay=0.0), []
    for _ in range(40):
        losses = _losses(learner, bundle, batch, recipe)
        (losses["words"] + 0.5 * losses["edit"]).backward()
        optimiser.step()
        optimiser.zero_grad()
        seen.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert seen[-1]["words"] < 0.7 * seen[0]["words"]
    assert seen[-1]["edit"] < 0.9 * seen[0]["edit"]


def test_the_first_step_is_as_long_as_each_learning_rate(tmp_path, tiny_world, folder, recipe):
    """AdamW's first step is the learning rate itself: one for the denoiser, one for all else; what is frozen stays."""
    bundle = load(folder, device="cpu")
    one = recipe.model_copy(update={"steps": 1, "lr": 5e-4, "denoiser_lr": 1e-4})
    before = {f"unet.{key}": value.clone() for key, value in bundle.denoiser.unet.state_dict().items()}
    llava, head = bundle.mllm().model, bundle.mllm().head
    before |= {"embeddings.weight": llava.get_input_embeddings().weight.clone(), "lm_head.weight": llava.lm_head.weight.clone()}
    before |= {f"head.{key}": value.clone() for key, value in head.state_dict().items()}
    train(tmp_path, one, bundle, _batches(tiny_world, bundle, one), workers=0)
    state = {key.removeprefix("model."): value for key, value in _state(tmp_path).items() if key.startswith("model.")}
    assert state.keys() == before.keys()
    moved = dict.fromkeys(("unet", "embeddings", "lm_head", "head"), 0.0)
    for key, value in state.items():
        part = key.split(".")[0]
        moved[part] = max(moved[part], float((value - before[key]).abs().max()))
    assert moved.pop("unet") == pytest.approx(1e-4, rel=0.02)
    for part, most in moved.items():
        assert most == pytest.approx(5e-4, rel=0.02), part
    # Who asks the bundle after that gets its own language model, not the one that learnt.
    assert torch.equal(bundle.mllm().model.lm_head.weight, before["lm_head.weight"])


def test_a_run_resumes_bit_for_bit(tmp_path, tiny_world, folder, recipe):
    def run(out, recipe, workers):
        bundle = load(folder, device="cpu")
        return train(out, recipe, bundle, _batches(tiny_world, bundle, recipe), workers=workers)

    held = recipe.model_copy(update={"schedule": "hold", "cooldown": 0, "lr": 1e-3, "denoiser_lr": 1e-3})
    run(tmp_path / "straight", held, 0)
    short = held.model_copy(update={"steps": 2})
    assert run(tmp_path / "killed", short, 0).name == "step-00000002"
    assert run(tmp_path / "killed", held, 1).name == "step-00000004"
    found, expected = _state(tmp_path / "killed"), _state(tmp_path / "straight")
    assert found.keys() == expected.keys()
    assert not [key for key in expected if not torch.equal(found[key], expected[key])]
    assert json.loads((tmp_path / "killed" / "recipe.json").read_text())["denoiser_lr"] == 1e-3
    with pytest.raises(PaintoverError, match="another folder"):
        run(tmp_path / "killed", held.model_copy(update={"denoiser_lr": 0.1}), 0)


def test_what_cannot_be_trained_so_is_refused(tmp_path, tiny_world, tiny_bundle, bundle, recipe):
    batches, other = (_batches(tiny_world, one, recipe) for one in (bundle, load(tiny_bundle, device="cpu")))
    with pytest.raises(PaintoverError, match="mgie"):
        train(tmp_path, recipe, load(tiny(tmp_path / "plain", "builtin"), device="cpu"), batches, workers=0)
    with pytest.raises(PaintoverError, match="16 states of an edit, 32 of a text"):
        train(tmp_path, recipe, load(tiny_bundle, device="cpu"), other, workers=0)
    settings = json.loads((tmp_path / "plain" / "paintover.json").read_text())
    _mgie(tmp_path / "plain", queries=32)
    (tmp_path / "plain" / "paintover.json").write_text(json.dumps(settings | {"sigma_data": 0.3}))
    with pytest.raises(PaintoverError, match="sigma_data"):
        train(tmp_path, recipe, load(tmp_path / "plain", device="cpu"), batches, workers=0)


def test_the_rates():
    cosine, held = (MgieRecipe(steps=100, warmup=10, cooldown=20, lr=2.0, schedule=name) for name in ("cosine", "hold"))
    assert [cosine.share(step) for step in (0, 4, 50, 75, 99)] == pytest.approx([0.1, 0.5, 0.5, 0.1464, 0.000247], rel=1e-2)
    assert [held.share(step) for step in (0, 9, 50, 90, 99)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.05])


def _pairs(folder, bundle, recipe, share=None, **more):
    mllm = load_mllm(bundle.folder, torch.device("cpu"))
    return PairBatches(open_dataset(folder / "pairs.csv", **more), mllm, bundle.text, recipe, share or Share())


def test_a_dataset_is_gone_through_in_another_order_each_epoch(pairs_folder, bundle):
    recipe = MgieRecipe(**SMALL)
    batches = _pairs(pairs_folder, bundle, recipe)
    rows = [batches.row(n // 8, n % 8) for n in range(21)]
    epochs = [[int(row.words.removeprefix("make it ")) for row in rows[k : k + 7]] for k in (0, 7, 14)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    for row in rows:
        i = int(row.words.removeprefix("make it "))
        assert row.meant == ("turn all to seven" if i == 3 else row.words)
        assert np.allclose(row.source, 10 * i / 255, atol=1e-3)
        assert np.allclose(row.target, 1 - 10 * i / 255, atol=1e-3)
        assert row.source.shape == row.target.shape == (32, 32, 3)
        assert (row.shown, row.levels, float(row.weight.min()), float(row.weight.max())) == (1.0, (0.0, 1.0), 1.0, 1.0)


def test_both_pictures_of_a_pair_are_cut_alike(bundle, tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 90)[None, :, None], (30, 90, 3)).astype(np.uint8)
    for name in ("source", "target"):
        Image.fromarray(ramp).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("source,target,instruction\nsource.png,target.png,nothing\n")
    batches = _pairs(tmp_path, bundle, MgieRecipe(**SMALL))
    rows = [batches.row(0, r) for r in range(8)]
    assert all(np.array_equal(row.source, row.target) for row in rows)
    lefts = [float(row.source[:, 0].mean()) for row in rows]
    assert max(lefts) - min(lefts) > 0.2  # at random along the longer side
    for row in rows:  # a third of the ramp, undistorted
        assert float(row.source[:, -1].mean() - row.source[:, 0].mean()) == pytest.approx(1 / 3, abs=0.03)


def test_a_dataset_is_trained_on_and_resumed(tmp_path, pairs_folder, folder):
    recipe = MgieRecipe(**SMALL, unseen=0.25, schedule="hold", cooldown=0)

    def run(out, recipe):
        bundle = load(folder, device="cpu")
        return train(out, recipe, bundle, _pairs(pairs_folder, bundle, recipe), workers=0)

    run(tmp_path / "straight", recipe)
    run(tmp_path / "killed", recipe.model_copy(update={"steps": 2}))
    run(tmp_path / "killed", recipe)
    found, expected = _state(tmp_path / "killed"), _state(tmp_path / "straight")
    assert not [key for key in expected if not torch.equal(found[key], expected[key])]


def test_a_broken_row_is_told_by_its_own_line(tmp_path, pairs_folder, bundle):
    """Not by the traceback of the worker that met it."""
    shutil.copytree(pairs_folder, tmp_path / "pairs")
    (tmp_path / "pairs" / "source-3.png").write_text("no picture")
    recipe = MgieRecipe(**SMALL)
    with pytest.raises(PaintoverError, match=r"row.*--skip-broken$") as said:
        train(tmp_path / "run", recipe, bundle, _pairs(tmp_path / "pairs", bundle, recipe), workers=1)
    assert "\n" not in str(said.value)


def test_processes_share_a_datasets_rows(pairs_folder, bundle):
    recipe = MgieRecipe(**SMALL)
    whole = _pairs(pairs_folder, bundle, recipe)[2]
    for rank in range(2):
        share = _pairs(pairs_folder, bundle, recipe, Share(rank, 2))[2]
        assert torch.equal(share["source_BCHW"], whole["source_BCHW"][rank::2])
    with pytest.raises(PaintoverError, match="captions to 0"):
        _pairs(pairs_folder, bundle, recipe.model_copy(update={"captions": 0.5}))
    nothing = open_dataset(pairs_folder / "pairs.csv")
    nothing.rows = type("Filtered", (), {"__len__": lambda self: 0})()  # as scores can leave none
    with pytest.raises(PaintoverError, match="no pairs"):
        PairBatches(nothing, bundle.mllm(), bundle.text, recipe)


def test_computing_activations_again_changes_no_gradient(tiny_world, folder, recipe):
    """And it is done: the blocks of the language model, and of the UNet, run once more on the way back."""
    found = []
    for checkpointing in (False, True):
        bundle = load(folder, device="cpu")
        own = recipe.model_copy(update={"checkpointing": checkpointing})
        mllm = load_mllm(folder, torch.device("cpu"))
        learner = Learner(bundle, mllm, own)
        learner.net.train()
        calls: list[str] = []
        mllm.model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append("block"))
        resnet = learner.unet.down_blocks[0].resnets[0].conv1
        resnet.register_forward_pre_hook(lambda *_, calls=calls: calls.append("unet"))
        losses = _losses(learner, bundle, MgieBatches(*tiny_world, mllm, bundle.text, own)[1], own)
        (losses["words"] + losses["edit"]).backward()
        found.append(([p.grad for p in learner.parameters()], calls))
    assert sorted(found[0][1]) == ["block", "unet"]
    assert sorted(found[1][1]) == ["block", "block", "unet", "unet"]
    for plain, again in zip(found[0][0], found[1][0], strict=True):
        assert plain is again is None or torch.allclose(plain, again, atol=1e-6)


def test_what_does_not_learn_must_stay_what_it_was(tmp_path, tiny_world, folder, recipe):
    """A run goes on, and into a bundle, beside the weights that it was trained on; one from before that was noted does, too."""
    bundle, short = load(folder, device="cpu"), recipe.model_copy(update={"steps": 1})
    run, longer = tmp_path / "run", recipe.model_copy(update={"steps": 2})
    train(run, short, bundle, _batches(tiny_world, bundle, short), workers=0)
    other = load_mllm(folder, torch.device("cpu"))
    noted = checkpoint.facts(checkpoint.latest(run / "state"))["frozen"]
    assert noted == frozen(other, recipe)
    with torch.no_grad():
        other.model.lm_head.weight.add_(1)  # which learns
        assert noted == frozen(other, recipe)
        other.model.model.language_model.norm.weight[0] += 1
    assert noted != frozen(other, recipe)
    batches = MgieBatches(*tiny_world, other, bundle.text, longer)
    with pytest.raises(PaintoverError, match="other frozen weights"):
        train(run, longer, bundle, batches, workers=0)
    copied = tmp_path / "other"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "mgie")
    save_mllm(other, copied)
    with pytest.raises(PaintoverError, match="another language model"):
        add_language(run, copied)
    facts = checkpoint.latest(run / "state") / "facts.json"
    facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if k != "frozen"}))
    add_language(run, copied)


def test_shares_of_a_batch_are_no_more_than_all_of_it(tmp_path):
    assert MgieRecipe(captions=0.1, instruct=0.2, unseen=0.7, batch=10).rows()["seen"] == 0
    with pytest.raises(PaintoverError, match=r"captions 0.6, instruct 0.5, unseen 0 are .* 1.1; expected at most 1$"):
        settle(tmp_path, {"captions": "0.6", "instruct": "0.5"}, MgieRecipe)
    with pytest.raises(PaintoverError, match="batch of 2"):
        settle(tmp_path, {"captions": 1 / 3, "instruct": 1 / 3, "unseen": 1 / 3, "batch": 2}, MgieRecipe)


def test_without_expressive_instructions_the_answer_is_its_tokens_alone(tiny_world, bundle, recipe):
    batch, mllm = _batches(tiny_world, bundle, recipe.model_copy(update={"silent": True}))[0], bundle.mllm()
    for labels in batch["asked"]["labels_BL"]:
        assert labels[labels != -100].tolist() == [*mllm.image_ids, mllm.tokenizer.eos_token_id]
