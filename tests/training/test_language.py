"""The small multimodal language model learns to look and to say what is meant; its runs resume as the denoiser's do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from paintover.errors import PaintoverError
from paintover.scenes import edits
from paintover.scenes.assets import Assets
from paintover.scenes.scene import Backdrop, Object, Scene
from paintover.training import checkpoint
from paintover.training.batches import Share
from paintover.training.language import Learner, counted, train
from paintover.training.language_batches import CAPTION, LanguageBatches
from paintover.training.language_network import as_module, build
from paintover.training.language_recipe import LanguageRecipe


@pytest.fixture(scope="module")
def recipe(language_recipe) -> LanguageRecipe:
    return language_recipe


@pytest.fixture(scope="module")
def tokenizer(text_folder):
    return text_folder / "tokenizer" / "tokenizer.json"


@pytest.fixture
def mllm(tokenizer, text, recipe):
    torch.manual_seed(0)
    return build(tokenizer, text, recipe)


@pytest.fixture
def learner(mllm, recipe):
    net = as_module(mllm)
    net["patches"] = nn.Linear(recipe.vision[-1], 22)
    return Learner(net, mllm, recipe)


def _batches(world, mllm, text, recipe, share=None):
    return LanguageBatches(*world, mllm, text, recipe, share or Share())


def _state(run):
    return load_file(checkpoint.latest(run / "state") / "state.safetensors")


def test_a_batch_depends_on_the_step_alone(tiny_world, mllm, text, recipe):
    one, other = (_batches(tiny_world, mllm, text, recipe) for _ in range(2))
    for step in range(3):
        one[step]
    for part in ("seen", "unseen"):
        for key, value in other[3][part].items():
            assert value is None or torch.equal(one[3][part][key], value), key
    assert not torch.equal(one[2]["seen"]["pixels_BCHW"], one[3]["seen"]["pixels_BCHW"])


def test_rows_are_what_they_say(tiny_world, mllm, text, recipe):
    """Of 10 rows 3 are asked without a picture; a question is no part of what is learnt, an answer is, with its end."""
    for step in range(5):
        batch = _batches(tiny_world, mllm, text, recipe)[step]
        assert (len(batch["seen"]["ids_BL"]), len(batch["unseen"]["ids_BL"])) == (7, 3)
        assert batch["unseen"]["pixels_BCHW"] is None
        assert batch["seen"]["pixels_BCHW"].shape == (7, 3, 32, 32)
        assert batch["seen"]["patches_BN"].shape == (7, 16)
        for rows in batch.values():
            told = 0 if rows["tokens_BLD"] is None else len(rows["tokens_BLD"])
            for i, (ids, mask, labels) in enumerate(zip(rows["ids_BL"], rows["mask_BL"], rows["labels_BL"], strict=True)):
                said = labels != -100
                assert torch.equal(labels[said], ids[said])
                assert mask[said].all()
                assert labels[mask.bool()][-1] == mllm.tokenizer.eos_token_id
                question = mllm.tokenizer.decode(ids[mask.bool() & ~said])
                assert question.count("<im_patch>") == (16 if rows is batch["seen"] else 0)
                images = [token for token in labels.tolist() if token in mllm.image_ids]
                assert images == (mllm.image_ids if i < told else [])
                for position, image in zip(rows["images_BN"][i] if i < told else (), mllm.image_ids, strict=False):
                    assert ids[position + 1] == image  # the state that predicts it


def test_its_own_text_states_are_what_the_denoiser_is_told(tiny_world, mllm, text, recipe):
    rows = _batches(tiny_world, mllm, text, recipe)[0]["unseen"]
    for labels, states in zip(rows["labels_BL"], rows["tokens_BLD"], strict=False):
        words = [token for token in labels.tolist() if token not in (-100, mllm.tokenizer.eos_token_id, *mllm.image_ids)]
        said = mllm.tokenizer.decode(words).replace(" ##", "")  # its pieces are single letters
        assert torch.allclose(states, text.encode([said])[0][0, :4], atol=1e-5)


def test_some_questions_are_what_is_in_the_picture(tiny_world, mllm, text, recipe):
    batches = _batches(tiny_world, mllm, text, recipe.model_copy(update={"captions": 0.5}))
    asked = [batches._row(np.random.default_rng([1, n]), True) for n in range(120)]
    captions = [row for row in asked if not row["tokens"]]
    assert 0.35 < len(captions) / len(asked) < 0.65
    assert all(row["question"] == mllm.question("", True, CAPTION) for row in captions)
    assert not [row for n in range(30) if not (row := batches._row(np.random.default_rng([2, n]), False))["tokens"]]


def test_a_patch_is_of_the_thing_in_front_that_covers_its_middle(tiny_world, mllm, text, recipe):
    """Stamps here are 26 x 20 pixels or so: the cow covers x 0 to 0.5 and y 0.3 to 0.7 of the frame, the pig its right half."""
    assets = Assets(tiny_world[0], "train")
    cow, pig = (assets.stamps[cls][0] for cls in ("cow", "pig"))
    things = (Object(cow, 0.25, 0.5, 0.5), Object(pig, 0.4, 0.5, 0.25))
    seen = _batches(tiny_world, mllm, text, recipe)._patches(Scene(Backdrop(None, None, plain="white"), things))
    a, b = (assets.classes.index(cls) + 1 for cls in ("cow", "pig"))
    assert seen.reshape(4, 4).tolist() == [[0, 0, 0, 0], [a, a, 0, 0], [a, a, 0, 0], [0, 0, 0, 0]]
    larger = (things[0], Object(pig, 0.4, 0.5, 0.4))
    seen = _batches(tiny_world, mllm, text, recipe)._patches(Scene(Backdrop(None, None, plain="white"), larger))
    assert seen.reshape(4, 4).tolist() == [[0, 0, 0, 0], [a, b, 0, 0], [a, b, 0, 0], [0, 0, 0, 0]]


def test_a_patch_shows_what_its_label_says(tiny_world, mllm, text, recipe):
    """The picture and the labels are the same way round: where a thing is put, the picture changes, and so does the label."""
    batches, rng = _batches(tiny_world, mllm, text, recipe), np.random.default_rng(0)
    agreed = []
    for _ in range(20):
        case = edits.make("remove", batches.assets, rng, (0.4, 0.6))
        changed = edits.changed(*case.render(32))
        centres = changed[4::8, 4::8].reshape(-1)
        labels = batches._patches(case.before) != batches._patches(case.after)
        agreed.append((centres == labels).mean())
    assert np.mean(agreed) > 0.9


def test_the_loss_is_what_its_parts_say(tiny_world, learner, mllm, text, recipe):
    """Against a row by row computation."""
    batch = _batches(tiny_world, mllm, text, recipe)[1]
    words, aligned, patches = [], [], []
    for rows in batch.values():
        for i in range(len(rows["ids_BL"])):
            length = int(rows["mask_BL"][i].sum())
            ids, labels = rows["ids_BL"][i, :length], rows["labels_BL"][i, :length]
            pixels = None if rows["pixels_BCHW"] is None else rows["pixels_BCHW"][i : i + 1]
            out = mllm.model(input_ids=ids[None], pixel_values=pixels, output_hidden_states=True)
            for k in range(1, length):
                if labels[k] != -100:
                    words.append(functional.cross_entropy(out.logits[0, k - 1], labels[k]))
            if rows["tokens_BLD"] is not None and i < len(rows["tokens_BLD"]):
                first = ids.tolist().index(mllm.image_ids[0])
                u_BLD = mllm.guide(out.hidden_states[-1][:, first - 1 : first + 1])
                aligned.append((u_BLD[0] - rows["tokens_BLD"][i]).square().mean())
            if pixels is not None:
                said_NC = learner.net["patches"](mllm.model.model.vision_tower(pixels).last_hidden_state[0])
                for said_C, cls in zip(said_NC, rows["patches_BN"][i], strict=True):
                    patches.append((1.0 if cls else 0.25, functional.cross_entropy(said_C, cls)))
    loss, parts = learner(batch, counted(batch))
    for name, expected in {"words": words, "align": aligned}.items():
        assert torch.allclose(parts[name], torch.stack(expected).mean(), rtol=1e-4), name
    weights = [weight for weight, _ in patches]
    assert torch.allclose(parts["patches"], sum(weight * error for weight, error in patches) / sum(weights), rtol=1e-4)
    assert counted(batch).tolist() == [len(words), len(aligned), sum(weights)]
    assert torch.allclose(loss, parts["words"] + parts["align"] + 0.5 * parts["patches"])


def test_two_processes_learn_what_one_does(tiny_world, learner, mllm, text, recipe):
    """Each makes its share of the rows, and the mean of their losses is the whole batch's, though the shares are unlike."""
    whole = _batches(tiny_world, mllm, text, recipe)[2]
    shares = [_batches(tiny_world, mllm, text, recipe, Share(rank, 2))[2] for rank in range(2)]
    assert sorted(len(share["unseen"]["ids_BL"]) for share in shares) == [1, 2]
    counts_3 = sum(map(counted, shares)) / 2
    assert torch.equal(2 * counts_3, counted(whole))
    losses = [float(learner(share, counts_3)[0].detach()) for share in shares]
    assert float(learner(whole, counted(whole))[0].detach()) == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def _learns(learner) -> set[str]:
    """The parts that some gradient reaches."""
    parts = {
        "vision": learner.mllm.model.model.vision_tower,
        "projector": learner.mllm.model.model.multi_modal_projector,
        "language": learner.mllm.model.model.language_model,
        "lm_head": learner.mllm.model.lm_head,
        "head": learner.net["head"],
        "patches": learner.net["patches"],
    }
    return {
        name for name, part in parts.items() if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    }


@pytest.mark.parametrize(
    ("weights", "reached"),
    [
        ({}, {"vision", "projector", "language", "lm_head", "head", "patches"}),
        ({"align_loss": 0.0, "patch_loss": 0.0}, {"vision", "projector", "language", "lm_head"}),
        ({"instruction_loss": 0.0, "patch_loss": 0.0}, {"vision", "projector", "language", "head"}),
        ({"instruction_loss": 0.0, "align_loss": 0.0}, {"vision", "patches"}),
    ],
)
def test_gradients_reach_what_they_should(tiny_world, learner, mllm, text, recipe, weights, reached):
    batch = _batches(tiny_world, mllm, text, recipe)[1]
    learner.recipe = recipe.model_copy(update=weights)
    learner(batch, counted(batch))[0].backward()
    assert _learns(learner) == reached


def test_a_batch_is_learnt(tiny_world, learner, mllm, text, recipe):
    batch = _batches(tiny_world, mllm, text, recipe)[1]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    seen = []
    for _ in range(60):
        loss, parts = learner(batch, counted(batch))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seen.append({name: float(part.detach()) for name, part in parts.items()})
    for name, share in {"words": 0.6, "align": 0.95, "patches": 0.6}.items():
        assert seen[-1][name] < share * seen[0][name], name


def test_its_words_begin_where_the_sentence_encoders_are(mllm, text):
    """Distances between word embeddings are the encoder's, up to scale, for as many dimensions as both have."""
    words_VD = text.model.get_input_embeddings().weight.float()
    own_VD = mllm.model.get_input_embeddings().weight[: len(words_VD)]
    ratio = torch.pdist(own_VD[4:40]) / torch.pdist(words_VD[4:40])
    assert ratio.std() / ratio.mean() < 1e-3
    assert float(own_VD.detach().std()) == pytest.approx(0.02, rel=0.01)


def test_a_run_resumes_bit_for_bit(tmp_path, straight_language, recipe, tiny_world, text, tokenizer):
    short = recipe.model_copy(update={"steps": 4, "cooldown": 0})
    train(tmp_path, short, *tiny_world, text, tokenizer, workers=0)
    state = checkpoint.latest(tmp_path / "state")
    assert state.name == "step-00000004"
    train(tmp_path, recipe, *tiny_world, text, tokenizer, workers=1)
    found, expected = _state(tmp_path), _state(straight_language)
    assert found.keys() == expected.keys()
    assert not [key for key in expected if not torch.equal(found[key], expected[key])]
    assert {".".join(key.split(".")[:2]) for key in found if key.startswith(("model", "ema"))} == {
        f"{kind}.{part}" for kind in ("model", "ema") for part in ("model", "head", "patches")
    }


def test_asked_to_stop_it_goes_on_later(tmp_path, straight_language, recipe, tiny_world, text, tokenizer):
    import os
    import signal

    class Interrupting:
        model, width, length, calls = text.model, text.width, text.length, 0

        def encode(self, texts):
            self.calls += 1
            if self.calls == 12:
                os.kill(os.getpid(), signal.SIGTERM)
            return text.encode(texts)

    last = train(tmp_path, recipe, *tiny_world, Interrupting(), tokenizer, workers=0)
    assert 0 < int(last.name.removeprefix("step-")) < recipe.steps
    train(tmp_path, recipe, *tiny_world, text, tokenizer, workers=0)
    found, expected = _state(tmp_path), _state(straight_language)
    assert not [key for key in expected if not torch.equal(found[key], expected[key])]


def test_a_run_begins_from_another_ones_averaged_weights(tmp_path, straight_language, recipe, tiny_world, text, tokenizer):
    begun = recipe.model_copy(update={"init": str(straight_language), "steps": 1, "lr": 1e-12, "ema": 0.0})
    train(tmp_path / "begun", begun, *tiny_world, text, tokenizer, workers=0)
    state, source = _state(tmp_path / "begun"), _state(straight_language)
    for key in (key for key in source if key.startswith("ema.")):
        assert torch.allclose(state[key.replace("ema.", "model.")], source[key], atol=1e-6), key
    fewer = begun.model_copy(update={"image_tokens": 1})
    train(tmp_path / "fewer", fewer, *tiny_world, text, tokenizer, workers=0)
    kept = [key for key, tensor in _state(tmp_path / "fewer").items() if key.startswith("ema.") and tensor.equal(source[key])]
    assert any("layers.0" in key for key in kept)
    assert not any("embed_tokens" in key for key in kept)
    other = begun.model_copy(update={"layers": 2})
    with pytest.raises(PaintoverError, match="another network"):
        train(tmp_path / "other", other, *tiny_world, text, tokenizer, workers=0)


def test_a_run_begins_from_one_with_other_tokens_or_another_head(
    tmp_path, straight_language, recipe, tiny_world, text, tokenizer
):
    """What fits is taken over; the vocabulary, or the edit head, begins anew."""
    changes = {"image_tokens": 4, "init": str(straight_language), "steps": 1, "lr": 1e-12, "ema": 0.0}
    train(tmp_path, recipe.model_copy(update=changes), *tiny_world, text, tokenizer, workers=0)
    state, source = _state(tmp_path), _state(straight_language)
    tower = [key for key in source if key.startswith("ema.model.model.vision_tower")]
    assert tower
    for key in tower:
        assert torch.allclose(state[key.replace("ema.", "model.", 1)], source[key], atol=1e-6), key
    words = "model.model.lm_head.weight"
    assert len(state[words]) == len(source[words]) + 2


def test_without_the_expressive_instruction_the_tokens_are_all_that_is_said(tiny_world, mllm, text, recipe):
    batch = _batches(tiny_world, mllm, text, recipe.model_copy(update={"expressive": False}))[0]
    said = _batches(tiny_world, mllm, text, recipe)[0]
    for part in ("seen", "unseen"):
        told = len(batch[part]["tokens_BLD"])
        for labels in batch[part]["labels_BL"][:told]:
            assert labels[labels != -100].tolist() == [*mllm.image_ids, mllm.tokenizer.eos_token_id]
        assert torch.equal(batch[part]["tokens_BLD"], said[part]["tokens_BLD"])  # what the head is told to say stays


def test_what_it_is_asked_for_must_fit():
    for wrong, said in (({"vision": (33,)}, "vision"), ({"width": 12}, "width"), ({"unseen": 2}, "unseen")):
        with pytest.raises(ValueError, match=said):
            LanguageRecipe(**wrong)


def test_without_expressive_instructions_the_answer_is_its_tokens_alone(recipe, tiny_world, text, tokenizer):
    silent = recipe.model_copy(update={"expressive": False, "captions": 0.0})
    mllm = build(tokenizer, text, silent)
    batch = LanguageBatches(*tiny_world, mllm, text, silent)[0]
    for rows in filter(None, (batch["seen"], batch["unseen"])):
        said = rows["labels_BL"][rows["labels_BL"] != -100].reshape(len(rows["labels_BL"]), -1)
        assert said.tolist() == [[*mllm.image_ids, mllm.tokenizer.eos_token_id]] * len(said)
        assert rows["tokens_BLD"].shape[0] == len(said)  # what is meant is still what the head shall say
