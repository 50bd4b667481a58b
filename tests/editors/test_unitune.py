"""`unitune`: what the paper promises, by identities and beside diffusers' pipeline on the same tuned weights."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from paintover.conditions.prompt import prompts
from paintover.editors.dial import dial
from paintover.editors.editor import Context
from paintover.editors.unitune import UniTune, UniTuneKnobs
from paintover.engine.engine import Engine
from paintover.errors import KnobError
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.redo import redo
from paintover.orders.run import edit_one
from paintover.path.schedule import Schedule
from paintover.path.start import noise, start_leaving
from paintover.tuning import loss, rare
from paintover.tuning.weights import part, with_weights

SHAPE = (1, 4, 8, 8)
SOURCE = noise(3, SHAPE) * 0.8
OTHER = noise(8, SHAPE) * 0.8
EDITOR = UniTune()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("sd"), "text-to-image")


@pytest.fixture(scope="module")
def bundle(folder) -> Bundle:
    return load(folder, "cpu")


def context(
    bundle: Bundle, words: str = "a cow", source_prompt: str | None = None, source: Tensor = SOURCE, **fields: Any
) -> Context[UniTuneKnobs]:
    asked = {"seed": fields.pop("seed", 1), "steps": fields.pop("steps", 4), "preserve": fields.pop("preserve", True)}
    request = request_for(instruction=words, source_prompt=source_prompt, editor="unitune", **asked)
    knobs = UniTuneKnobs(**{"iterations": 2, "batch": 2, "rate": 1e-3, "interpolation": 0.0, **fields})
    made = Context(bundle, request, EDITOR.settled(knobs, bundle), tuple(source.shape), source)
    EDITOR.check(made)
    return made


def tuned(of: Context[UniTuneKnobs]) -> dict[str, Tensor]:
    engine = Engine(of.bundle.denoiser)
    return engine.result(engine.add(EDITOR.prepare(of)))


def walked(of: Context[UniTuneKnobs], prepared: dict[str, Tensor]) -> tuple[Tensor, int]:
    """The edited latents, and the evaluations that they took."""
    engine = Engine(of.bundle.denoiser)
    return engine.result(engine.add(EDITOR.path(of, prepared))), engine.counters.rows


@pytest.fixture(scope="module")
def prepared(bundle) -> dict[str, Tensor]:
    return tuned(context(bundle))


# Sampling


def test_a_full_walk_is_diffusers_pipeline_with_the_tuned_weights(bundle, folder, prepared):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.load_state_dict({name.removeprefix("unet."): tensor for name, tensor in prepared.items()}, strict=True)
    here = context(bundle, strength=1.0, share=1.0, guidance=5.0, rare_token="q", negative_prompt="-- ##", steps=10)
    theirs = pipe(
        "q a cow",
        negative_prompt="-- ##",
        latents=noise(1, SHAPE),
        num_inference_steps=10,
        guidance_scale=5.0,
        output_type="latent",
    ).images
    torch.testing.assert_close(walked(here, prepared)[0], theirs, rtol=0, atol=2e-4)


def test_strength_0_is_the_picture_and_asks_nothing(bundle, prepared):
    end, rows = walked(context(bundle, strength=0.0), prepared)
    assert torch.equal(end, SOURCE)
    assert rows == 0


def test_a_late_start_is_the_noised_picture(bundle, prepared):
    """SDEdit's statistics: over seeds, x at the first step has mean sqrt(a) x_b and variance 1 - a."""
    first = []
    for seed in range(200):
        here = context(bundle, strength=0.5, steps=10, seed=seed)
        path = EDITOR.path(here, prepared)
        asked, *_ = next(path)
        path.close()
        assert asked.t == 401  # the fifth of ten steps from the end
        first.append(asked.x_BCHW)
    a = bundle.denoiser.alphas_cumprod[401]
    rest = torch.cat(first) - a.sqrt() * SOURCE
    assert abs(rest.mean()) < 4 * ((1 - a) / rest.numel()).sqrt()
    assert rest.mean(dim=0).abs().max() < 5 * ((1 - a) / 200).sqrt()
    torch.testing.assert_close(rest.var(), 1 - a, rtol=0.03, atol=0)


def test_less_than_one_step_is_refused(bundle):
    with pytest.raises(KnobError, match=r"strength of 0\.25 or more"):
        context(bundle, strength=0.2)


def told(of: Context[UniTuneKnobs], prepared: dict[str, Tensor]) -> list[Tensor]:
    path = EDITOR.path(of, prepared)
    asked = [one.condition.tokens_BLD for one in next(path)]
    path.close()
    return asked


def test_what_guidance_is_held_against(bundle, prepared):
    """[rare] source prompt where there is one, else the negative prompt, else nothing."""
    says = {words: bundle.text.encode([words])[0] for words in ("q a cow", "q a field", "the sea", "")}
    for fields, away in (
        ({"source_prompt": "a field", "negative_prompt": "the sea"}, "q a field"),
        ({"source_prompt": "  ", "negative_prompt": "the sea"}, "the sea"),
        ({"negative_prompt": "the sea"}, "the sea"),
        ({}, ""),
    ):
        wanted, other = told(context(bundle, rare_token="q", **fields), prepared)
        assert torch.equal(wanted, says["q a cow"])
        assert torch.equal(other, says[away])


@pytest.mark.parametrize("guidance", [-3.0, 0.0, 1.0, 30.0])
def test_prompt_guidance_between_equal_prompts_is_plain(guidance, bundle, prepared):
    end, rows = walked(context(bundle, source_prompt="a cow", guidance=guidance), prepared)
    plain, _ = walked(context(bundle, guidance=1.0), prepared)
    assert torch.equal(end, plain)
    assert rows == 3  # one at each of the last 3 of 4 steps


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_prompt_guidance_without_a_base_is_classifier_free(guidance, bundle, prepared):
    end, _ = walked(context(bundle, source_prompt="", guidance=guidance), prepared)
    assert torch.equal(end, walked(context(bundle, guidance=guidance), prepared)[0])
    other, _ = walked(context(bundle, source_prompt="a field", guidance=guidance), prepared)
    assert not torch.equal(end, other)


# Tuning


def state(bundle: Bundle) -> dict[str, Tensor]:
    """Every weight of the text encoder, the codec and the denoiser."""
    networks = {"text": bundle.text.model, "codec": bundle.codec.vae, "denoiser": bundle.denoiser.unet}
    return {f"{part}.{name}": w.clone() for part, network in networks.items() for name, w in network.state_dict().items()}


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_nothing_of_the_model_is_changed(tune, bundle):
    before, base = state(bundle), walked(context(bundle, share=0.0), {})[0]
    learnt = tuned(context(bundle, tune=tune, rate=0.01))
    walked(context(bundle), learnt)
    after = state(bundle)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(w.requires_grad for w in bundle.denoiser.unet.parameters())
    assert torch.equal(walked(context(bundle, share=0.0), learnt)[0], base)
    # All of the denoiser's weights, or low-rank additions to its attentions, and nothing of codec and text encoder.
    own = set(bundle.denoiser.unet.state_dict())
    if tune == "full":
        assert {name.removeprefix("unet.") for name in learnt} == own
    else:
        assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in learnt)
        assert {name.removeprefix("unet.").split(".lora_")[0] + ".weight" for name in learnt} <= own


@pytest.mark.parametrize(("tune", "rate"), [("full", 1e-3), ("lora", 1e-2)])
def test_the_model_learns_the_picture(tune, rate, bundle):
    """The error at timesteps and noises that it was not tuned on falls, for the rare word and this picture."""
    here = context(bundle, tune=tune, rate=rate, iterations=20, batch=4)
    learnt = tuned(here)

    @torch.no_grad()
    def error(share: float, picture: Tensor) -> float:
        network = with_weights(bundle.denoiser, part(bundle.denoiser, learnt, share))
        [word] = prompts(bundle.text, [EDITOR.word(here)])
        return loss.denoising(
            network, picture.expand(32, -1, -1, -1), *loss.drawn(99, 0, (32, *SHAPE[1:]), 1000, picture.device), word
        ).item()

    errors = [error(share, SOURCE) for share in (0.0, 0.5, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.9 * errors[0]
    if tune == "full":  # another picture is not what it learnt
        assert errors[0] - errors[2] > error(0.0, OTHER) - error(1.0, OTHER)


def test_only_the_one_picture_is_looked_at(bundle, monkeypatch):
    seen: list[tuple[Tensor, Tensor]] = []
    real = loss.denoising

    def spy(learner, x0_BCHW, t_B, noise_BCHW, c):
        seen.append((x0_BCHW, c.tokens_BLD))
        return real(learner, x0_BCHW, t_B, noise_BCHW, c)

    monkeypatch.setattr(loss, "denoising", spy)
    tuned(context(bundle, batch=3, rare_token="q"))
    assert [x0.shape[0] for x0, _ in seen] == [3, 3]
    assert all(torch.equal(row, SOURCE[0]) for x0, _ in seen for row in x0)
    assert all(torch.equal(tokens, bundle.text.encode(["q"])[0]) for _, tokens in seen)


def test_the_tuning_knows_neither_words_nor_seed_nor_dial(bundle, prepared):
    other = context(bundle, "a pig", "a field", seed=9, steps=7, fidelity=0.9, negative_prompt="x", interpolation=1.0)
    again = tuned(other)
    assert again.keys() == prepared.keys()
    assert all(torch.equal(again[name], prepared[name]) for name in again)
    assert EDITOR.prepared_from(other) == EDITOR.prepared_from(context(bundle))
    elsewhere = tuned(context(bundle, source=-SOURCE))
    assert not all(torch.equal(elsewhere[name], prepared[name]) for name in prepared)
    for fields in ({"iterations": 3}, {"rare_token": "q"}, {"rate": 1e-4}, {"tune": "lora"}, {"batch": 1}):
        assert EDITOR.prepared_from(context(bundle, **fields)) != EDITOR.prepared_from(context(bundle)), fields


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_share_lies_between_the_model_and_its_tuned_self(tune, bundle):
    learnt = tuned(context(bundle, tune=tune, rate=0.01))
    ends = [walked(context(bundle, share=share), learnt)[0] for share in (0.0, 0.5, 1.0)]
    assert len({end.sum().item() for end in ends}) == 3
    states = [
        with_weights(bundle.denoiser, part(bundle.denoiser, learnt, share)).unet.state_dict() for share in (0.0, 0.5, 1.0)
    ]
    for name, half in states[1].items():
        torch.testing.assert_close(half, (states[0][name] + states[2][name]) / 2)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_edits_by_one_share_walk_through_one_network(share, bundle, prepared):
    paths = [EDITOR.path(context(bundle, words, share=share), prepared) for words in ("a cow", "a dog")]
    one, other = (next(path)[0].network for path in paths)
    assert one is other
    another = EDITOR.path(context(bundle, share=0.7), prepared)
    assert next(another)[0].network is not one


# The dial, the rare word


def test_the_dial_sets_what_is_left_open(bundle):
    left = UniTuneKnobs(fidelity=0.8)
    settled = EDITOR.settled(left, bundle)
    by_dial = dial(0.8, 7.5)._asdict()
    by_dial["strength"] = start_leaving(Schedule.from_config(bundle.scheduler_config), by_dial.pop("left"))
    assert {name: getattr(settled, name) for name in by_dial} == by_dial
    for name in by_dial:
        own = EDITOR.settled(left.model_copy(update={name: 0.25}), bundle)
        assert {knob: getattr(own, knob) for knob in by_dial} == by_dial | {name: 0.25}


def test_the_dial_goes_by_the_models_usual_guidance(bundle):
    card = replace(bundle.description, defaults={"imagine": {"guidance": 2.0}})
    assert EDITOR.settled(UniTuneKnobs(), replace(bundle, description=card)).guidance == 2.0
    assert EDITOR.settled(UniTuneKnobs(), bundle).guidance == 7.5


def test_more_fidelity_is_nearer_to_the_picture(bundle, prepared):
    away = []
    for fidelity in (0.0, 0.5, 1.0):
        ends = [walked(context(bundle, fidelity=fidelity, seed=seed), prepared)[0] for seed in range(2)]
        away.append(sum((end - SOURCE).square().mean().item() for end in ends))
    assert away == sorted(away, reverse=True)


@pytest.mark.parametrize(("tune", "codec", "rate"), [("full", "AutoencoderKL", 1e-5), ("lora", "AutoencoderKL", 1e-4)])
def test_the_rate_goes_by_the_model(tune, codec, rate, bundle):
    of = UniTuneKnobs(tune=tune)
    assert EDITOR.settled(of, bundle).rate == rate
    pixels = replace(bundle, description=replace(bundle.description, codec="SmallerCodec"))
    assert EDITOR.settled(of, pixels).rate == 1e-4
    assert EDITOR.settled(of.model_copy(update={"rate": 0.5}), pixels).rate == 0.5


def test_the_rare_word_is_one_token_and_always_the_same(bundle):
    word = rare.choose(bundle.text)
    assert bundle.text.count(word) == 1
    assert rare.choose(bundle.text) == word
    assert EDITOR.settled(UniTuneKnobs(), bundle).rare_token == word
    assert EDITOR.settled(UniTuneKnobs(rare_token="q"), bundle).rare_token == "q"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rare_token": "beikkpic"}, "8 tokens"),
        ({"rare_token": "a cow"}, "letters and digits"),
        ({"rare_token": "?"}, "letters and digits"),
        ({"rare_token": "q", "words": "a Q, twice"}, "caption says 'q'"),
        ({"rare_token": "Q", "words": "a q, twice"}, "caption says 'Q'"),
        ({"rare_token": "q", "source_prompt": "q"}, "source prompt says 'q'"),
    ],
)
def test_a_word_that_means_something_is_refused(fields, message, bundle):
    with pytest.raises(KnobError, match=message):
        context(bundle, **fields)
    context(bundle, "aqua", rare_token="q")  # a part of a word is none


# Interpolation


def given(latents: Tensor):
    """An edit that is made already."""
    yield from ()
    return latents


def interpolated(of: Context[UniTuneKnobs], edited: Tensor) -> Tensor:
    engine = Engine(of.bundle.denoiser)
    return engine.result(engine.add(EDITOR._interpolated(of, given(edited))))


@pytest.fixture(scope="module")
def pixels(tiny_bundle) -> tuple[Bundle, Tensor, Tensor]:
    """A model whose latents are pixels in another order; a picture, and an edit of its left half."""
    bundle = load(tiny_bundle, "cpu")
    source = torch.zeros(1, 3, 64, 64)
    edited = source.clone()
    edited[..., :32] = 0.8
    return bundle, *(bundle.codec.encode(one) for one in (source, edited))


def test_what_changed_little_is_the_source_bit_for_bit(pixels):
    bundle, source, edited = pixels
    faint = edited + 0.01
    here = context(bundle, source=source, interpolation=1.0, preserve=False)
    end = interpolated(here, faint)
    mask = here.shown["mask"]
    assert mask.shape == (64, 64)
    assert (mask[:, :28] == 1).all()
    assert (mask[:, 40:] == 0).all()
    assert torch.equal(end[..., :3], faint[..., :3])  # the latents' grid has 8 places
    assert torch.equal(end[..., 5:], source[..., 5:])
    assert here.remarks == []


@pytest.mark.parametrize(("amount", "wanted"), [(1.0, 0.0), (0.25, 0.75)])
def test_how_much_of_the_source_comes_back(amount, wanted, pixels):
    bundle, source, edited = pixels
    here = context(bundle, source=source, interpolation=amount)
    assert torch.equal(interpolated(here, edited), edited)  # the pixels are mixed when the picture is put together
    assert here.shown["mask"].min() == wanted
    assert here.shown["mask"].max() == 1


def test_interpolation_off_or_a_mask_of_ones_own_shows_no_mask(pixels):
    bundle, source, edited = pixels
    off = context(bundle, source=source, interpolation=0.0, preserve=False)
    own = replace(context(bundle, source=source, interpolation=1.0, preserve=False), mask_HW=torch.ones(8, 8))
    for here in (off, own):
        assert torch.equal(interpolated(here, edited), edited)
        assert here.shown == {}


def test_an_edit_of_everything_is_told_and_left_alone(pixels):
    bundle, source, _ = pixels
    here = context(bundle, source=source, interpolation=1.0, preserve=False)
    everywhere = source + 1
    assert torch.equal(interpolated(here, everywhere), everywhere)
    assert here.shown == {}
    assert EDITOR.notes(here) == ["nothing was interpolated: the edit changes 100% of the picture"]


# As it is used


@pytest.fixture
def order(folder, photo):
    def make(words: str = "a cow", **fields: Any) -> Order:
        fields = {"picture": str(photo), "model": str(folder), "steps": 4, **fields}
        fields["knobs"] = {"iterations": 2, "batch": 2, "tune": "lora", **fields.get("knobs", {})}
        return Order(request_for(instruction=words, editor="unitune", **fields))

    return make


def test_two_edits_pay_for_one_tuning(order):
    seen: list[str] = []
    for words, fields, wanted in (
        ("a cow", {}, ["tuning", "tuning", "", "", ""]),
        ("a pig", {"seed": 5, "knobs": {"fidelity": 0.9}}, [""] * 2),
        ("a pig", {"knobs": {"rare_token": "q"}}, ["tuning", "tuning", "", "", ""]),
    ):
        seen.clear()
        edit_one(replace(order(words, **fields), on_step=lambda report: seen.append(report.what)))
        assert seen == wanted


def test_the_record_says_everything_and_redo_repeats_it(order, tmp_path, folder):
    out = tmp_path / "out.png"
    made = edit_one(replace(order(), out=out))
    knobs = made.request.knobs
    assert not [name for name, value in knobs.items() if value is None]
    assert knobs["rare_token"] == rare.choose(load(folder, "cpu").text)
    assert (knobs["rate"], knobs["guidance"], knobs["strength"]) == (1e-4, 7.5, 0.902)
    assert json.loads(made.request.model_dump_json())["knobs"] == knobs
    assert redo(out).identical


@pytest.mark.parametrize(("amount", "kept"), [(1.0, True), (0.5, False)])
def test_pixels_outside_of_the_mask_that_it_shows_are_the_originals(amount, kept, order, tmp_path, tiny_bundle, monkeypatch):
    """In place of a walk an edit that is known: the left half much brighter, and the right half a little."""

    def brighter(x_BCHW, steps, guide):
        middle = x_BCHW.shape[3] // 2
        return given(torch.cat([x_BCHW[..., :middle] + 1.2, x_BCHW[..., middle:] + 0.1], dim=3))

    monkeypatch.setattr("paintover.path.walk.walk", brighter)
    before = np.random.default_rng(0).integers(90, 110, (80, 120, 3), dtype=np.uint8)  # nothing of it saturates
    Image.fromarray(before).save(tmp_path / "grey.png")
    fields = {"picture": str(tmp_path / "grey.png"), "model": str(tiny_bundle)}
    made = edit_one(order(**fields, knobs={"strength": 0.0, "interpolation": amount}))
    mask = made.shown["mask"]
    assert made.rgb_HWC[:, :50].mean() > before[:, :50].mean() + 40
    assert (mask[:, :50] == 255).all()
    assert (mask[:, 75:] == round(255 * (1 - amount))).all()
    assert np.array_equal(made.rgb_HWC[:, 75:], before[:, 75:]) == kept


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"knobs": {"strength": 0.0}}, "strength 0 is the picture itself"),
        ({"knobs": {"share": 0.0, "interpolation": 0.0}}, "share 0 leaves the tuning out"),
        ({"knobs": {"negative_prompt": "x", "interpolation": 0.0}, "source_prompt": "a pig"}, "beside a source prompt"),
        ({"knobs": {"negative_prompt": "x", "guidance": 1.0, "interpolation": 0.0}}, "at guidance 1"),
        ({"words": "a" * 75, "knobs": {"interpolation": 0.0}}, "with its rare word"),
    ],
)
def test_what_surprises_is_told(fields, says, order):
    [warning] = edit_one(order(**fields)).record["warnings"]
    assert says in warning
