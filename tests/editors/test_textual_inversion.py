"""Textual inversion learns what diffusers' training script does, moves nothing else, and is said as captions say it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional

from paintover.conditions.prompt import prompts
from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.editors.textual_inversion import TEMPLATES
from paintover.engine.engine import run
from paintover.errors import KnobError, ModelError
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.orders.order import request_for
from paintover.tuning.loss import Stream, drawn
from paintover.tuning.words import with_words

EDITOR = registry.get("textual-inversion")
BRIEF = {"iterations": 4, "batch": 2, "vectors": 2, "initial": "q"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("sd"), "text-to-image")


@pytest.fixture(scope="module")
def bundle(folder) -> Bundle:
    return load(folder, "cpu")


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """float32 throughout, as on machines that have no bfloat16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


def context(bundle: Bundle, words: str = "a pig", **knobs) -> Context:
    shape = (1, bundle.codec.channels, 8, 8)
    source = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.7
    request = request_for(instruction=words, editor=EDITOR.name, seed=11, steps=4)
    settled = EDITOR.settled(EDITOR.Knobs(**{**BRIEF, **knobs}), bundle)
    return Context(bundle, request, settled, shape, source)


def learnt(asked: Context) -> dict[str, Tensor]:
    return run(EDITOR.prepare(asked), asked.bundle.denoiser)


def theirs(folder, x0: Tensor, count: int, iterations: int, batch: int) -> Tensor:
    """examples/textual_inversion/textual_inversion.py's loop, but for the streams that chance comes from."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    tokenizer, encoder, unet = pipe.tokenizer, pipe.text_encoder, pipe.unet
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    [initial] = tokenizer.encode("q", add_special_tokens=False)
    names = ["newthing", *(f"newthing_{n}" for n in range(1, count))]
    tokenizer.add_tokens(names)
    ids = tokenizer.convert_tokens_to_ids(names)
    encoder.resize_token_embeddings(len(tokenizer))
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[ids] = table[initial].clone()
    unet.requires_grad_(False)
    unet.set_default_attn_processor()
    encoder.requires_grad_(False)
    table.requires_grad_(True)
    optimiser = torch.optim.AdamW([table], lr=5e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    before = table.detach().clone()
    others = torch.ones(len(tokenizer), dtype=torch.bool)
    others[ids] = False
    for i in range(iterations):
        chosen = np.random.default_rng([Stream.SECOND, i]).integers(len(TEMPLATES["object"]), size=batch)
        texts = [TEMPLATES["object"][k].format(" ".join(names)) for k in chosen]
        read = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        t_B, noise = drawn(Stream.PICTURE, i, (batch, *x0.shape[1:]), 1000, x0.device)
        noisy = scheduler.add_noise(x0.expand(batch, -1, -1, -1), noise, t_B)
        states = encoder(read)[0]
        functional.mse_loss(unet(noisy, t_B, states).sample, noise).backward()
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            table[others] = before[others]
    return table.detach()[ids]


@pytest.mark.parametrize("count", [1, 2])
def test_it_learns_what_diffusers_training_script_learns(count, folder, bundle):
    asked = context(bundle, vectors=count)
    assert asked.knobs.rate == 5e-3
    found = learnt(asked)
    assert list(found) == ["words.newthing"]
    expected = theirs(folder, asked.source, count, 4, 2)
    torch.testing.assert_close(found["words.newthing"], expected, rtol=0, atol=1e-4)
    [q] = bundle.text.tokenizer.encode("q", add_special_tokens=False)
    assert ((expected - bundle.text.model.get_input_embeddings().weight[q]).abs().amax(dim=1) > 5e-3).all()


def test_nothing_moves_but_the_new_words_vectors(bundle):
    parts = {"unet": bundle.denoiser.unet, "text": bundle.text.model}
    before = {name: copy.deepcopy(model.state_dict()) for name, model in parts.items()}
    asked = context(bundle)
    run(EDITOR.path(asked, learnt(asked)), bundle.denoiser)
    for name, model in parts.items():
        after = model.state_dict()
        assert after.keys() == before[name].keys()
        assert all(torch.equal(after[key], before[name][key]) for key in after), name
        assert not any(weight.requires_grad for weight in model.parameters())


def test_its_file_is_read_by_diffusers_as_it_is_here(folder, bundle, tmp_path):
    from paintover.tuning import keep

    found = learnt(context(bundle))
    keep.write(tmp_path / "word", found, bundle)
    assert keep.read(tmp_path / "word").keys() == found.keys()
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.load_textual_inversion(tmp_path / "word")
    expected, _ = pipe.encode_prompt("a newthing in snow", "cpu", 1, False)
    [told] = prompts(with_words(bundle.text, {"newthing": found["words.newthing"]}), ["a newthing in snow"])
    torch.testing.assert_close(told.tokens_BLD, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a painting of *", "a painting of zwx"),
        ("A Zwx at night", "A Zwx at night"),
        ("in the snow", "zwx, in the snow"),
        ("a zwxy", "zwx, a zwxy"),
        ("* and *", "zwx and zwx"),
    ],
)
def test_captions_say_the_word_or_have_it_put_in_front(caption, said):
    assert EDITOR.prompt("zwx", caption) == said


def test_it_learns_from_each_of_several_pictures(bundle):
    asked = context(bundle)
    one, other = asked.source, asked.source.flip(-1)
    alone = learnt(asked)["words.newthing"]
    assert torch.equal(learnt(replace(asked, examples=(one,)))["words.newthing"], alone)
    both = learnt(replace(asked, examples=(one, other)))["words.newthing"]
    wide = learnt(replace(asked, examples=(one, torch.cat([other, other], dim=3))))["words.newthing"]
    assert not torch.equal(both, alone)
    assert not torch.equal(both, wide)


def test_styles_are_learnt_in_other_contexts(bundle):
    thing, style = (learnt(context(bundle, learn=learn))["words.newthing"] for learn in ("object", "style"))
    assert not torch.equal(thing, style)


def test_at_strength_1_nothing_of_the_picture_is_left(bundle):
    asked = context(bundle, strength=1)
    found = learnt(asked)
    blank = replace(asked, source_BCHW=torch.zeros(asked.shape))
    assert torch.equal(*(run(EDITOR.path(one, found), bundle.denoiser) for one in (asked, blank)))


def test_what_makes_no_sense_is_refused(bundle, tmp_path):
    for knobs, says in (
        ({"word": "two words"}, "not one word"),
        ({"initial": " "}, "means nothing"),
        ({"strength": 0.1}, "step"),
    ):
        with pytest.raises(KnobError, match=says):
            EDITOR.check(context(bundle, **knobs))
    flow = load(tiny(tmp_path / "flow", "flow"), "cpu")
    with pytest.raises(ModelError, match="cannot be taught"):
        EDITOR.check(replace(context(bundle), bundle=flow))
