"""dreambooth: equation 2 of the paper, class pictures of the model's own making, and the thing's name in captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paintover.conditions.prompt import prompts
from paintover.editors import registry
from paintover.editors.dreambooth import prompt
from paintover.editors.editor import Context
from paintover.engine.engine import Engine
from paintover.errors import Cancelled, KnobError
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one
from paintover.path.guidance import classifier_free
from paintover.path.start import noise
from paintover.tuning import loss
from paintover.tuning.prior import class_pictures, square
from paintover.tuning.unfinished import Unfinished
from paintover.tuning.weights import trainable, tuned_of, with_weights

EDITOR = registry.get("dreambooth")
THING = noise(3, (1, 4, 8, 8)) * 0.7
BRIEF = {"iterations": 3, "class_word": "cow", "class_pictures": 3, "rare_token": "q", "rate": 1e-3}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """It recommends few steps for pictures made from words, and so for class pictures."""
    folder = tiny(tmp_path_factory.mktemp("sd"), "text-to-image")
    (folder / "paintover.json").write_text('{"format": 1, "defaults": {"imagine": {"steps": 4, "guidance": 3.0}}}')
    return load(folder, "cpu")


def context(bundle: Bundle, pictures: tuple[Tensor, ...] = (), seed: int = 0, unfinished: Path | None = None, **knobs: Any):
    request = request_for(instruction="a cow in snow", editor="dreambooth", seed=seed, steps=4)
    settled = EDITOR.settled(EDITOR.Knobs(**{**BRIEF, **knobs}), bundle)
    return Context(bundle, request, settled, THING.shape, THING, examples=pictures, unfinished=unfinished)


def prepared(of: Context) -> tuple[dict[str, Tensor], Engine]:
    engine = Engine(of.bundle.denoiser)
    return engine.result(engine.add(EDITOR.prepare(of))), engine


def classes(of: Context, count: int) -> list[Tensor]:
    """As `imagine` makes them, one alone after the other."""
    editor = registry.get("imagine")
    made = []
    for n in range(count):
        request = request_for(instruction=f"a photo of {of.knobs.class_word}", editor="imagine", seed=(1 << 62) + n, steps=4)
        engine = Engine(of.bundle.denoiser)
        path = editor.path(Context(of.bundle, request, editor.Knobs(guidance=3.0), THING.shape), {})
        made.append(engine.result(engine.add(path)))
    return made


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_lowers_equation_2_by_adamw(bundle, tune):
    """Against a loop of torch's own: one optimiser over all weights, gradients kept, both terms as the paper has them."""
    pictures = (THING, noise(4, (1, 4, 4, 12)), noise(5, THING.shape))
    of = context(bundle, pictures, tune=tune, rank=2, batch=2, prior_weight=0.5)
    found, _ = prepared(of)
    learner = trainable(bundle.denoiser, tune, 2)
    own = classes(of, 3)
    thing, cow = prompts(bundle.text, ["a photo of q cow", "a photo of cow"])
    optimiser = torch.optim.AdamW(tuned_of(learner).values(), lr=1e-3, weight_decay=1e-2)
    for i, (first, second) in enumerate([(0, 1), (2, 0), (1, 2)]):
        if i == 1:  # of one shape: one batch
            parts = [torch.cat([pictures[first], pictures[second]])]
        else:
            parts = [pictures[first], pictures[second]]
        error = torch.zeros(())
        for k, x0_BCHW in enumerate(parts):
            error = error + len(x0_BCHW) / 2 * error_of(
                learner, x0_BCHW, (loss.Stream.PICTURE, loss.Stream.OTHER_SHAPES)[k], i, thing
            )
        error = error + 0.5 * error_of(learner, torch.cat([own[2 * i % 3], own[(2 * i + 1) % 3]]), loss.Stream.SECOND, i, cow)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert set(found) == set(tuned_of(learner))
    for name, parameter in tuned_of(learner).items():
        assert (found[name] - parameter).abs().max() < 2e-5, name
    start = tuned_of(trainable(bundle.denoiser, tune, 2))
    assert max((found[name] - start[name]).abs().max() for name in found) > 1e-3


def error_of(learner: Any, x0_BCHW: Tensor, stream: int, i: int, told: Any) -> Tensor:
    t_B, eps_BCHW = loss.drawn(stream, i, tuple(x0_BCHW.shape), 1000, torch.device("cpu"))
    a_B111 = learner.alphas_cumprod[t_B].view(-1, 1, 1, 1)
    x_BCHW = a_B111.sqrt() * x0_BCHW + (1 - a_B111).sqrt() * eps_BCHW
    with loss.autocast(torch.device("cpu")):
        said = learner.unet(x_BCHW, t_B, told.tokens_BLD.expand(len(x_BCHW), -1, -1)).sample
    return (said.float() - eps_BCHW).square().mean()


def test_class_pictures_are_what_imagine_makes_in_shared_calls(bundle, tmp_path):
    of = context(bundle, unfinished=tmp_path / "state")
    _, engine = prepared(of)
    assert engine.counters.rows == 3 * 4 * 2
    assert engine.counters.calls == 4
    unfinished = Unfinished(tmp_path / "made")
    guide = classifier_free(*prompts(bundle.text, ["a photo of cow", ""]), 3.0)
    path = class_pictures(3, (1, 4, 8, 8), of.schedule.steps(4), guide, unfinished, torch.device("cpu"))
    engine = Engine(bundle.denoiser)
    made = engine.result(engine.add(path))
    for one, other in zip(made, classes(of, 3), strict=True):
        assert (one - other).abs().max() < 1e-4
    assert not torch.equal(made[0], made[1])


def test_class_pictures_are_square_and_as_large_as_the_pictures():
    assert square((1, 4, 8, 8), 2) == (1, 4, 8, 8)
    assert square((1, 4, 48, 88), 8) == (1, 4, 64, 64)
    assert square((1, 192, 1, 1), 4) == (1, 192, 4, 4)


def test_a_bundle_that_recommends_nothing_walks_25_steps(tmp_path):
    plain = load(tiny(tmp_path, "text-to-image"), "cpu")
    _, engine = prepared(context(plain, class_pictures=1, iterations=1))
    assert engine.counters.rows == 25 * 2


@pytest.mark.parametrize("knobs", [{"class_word": ""}, {"prior_weight": 0.0}, {"class_pictures": 0}])
def test_without_a_class_to_keep_none_is_made(bundle, knobs):
    _, engine = prepared(context(bundle, **knobs))
    assert engine.counters.rows == 0


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_what_is_interrupted_goes_on_and_makes_no_class_picture_twice(bundle, tmp_path, after, monkeypatch):
    """Cancelled after `after` reports: two of class pictures, then the iterations."""
    from paintover.tuning import prior

    monkeypatch.setattr(prior, "_TOGETHER", 2)
    whole, engine = prepared(context(bundle, iterations=4))
    everything = engine.counters.rows
    file = tmp_path / "state"
    reports: list[str] = []
    engine = Engine(bundle.denoiser)
    job = engine.add(
        EDITOR.prepare(context(bundle, iterations=4, unfinished=file)),
        on_step=lambda report: reports.append(report.what),
        cancelled=lambda: len(reports) >= after,
    )
    with pytest.raises(Cancelled):
        engine.result(job)
    assert reports == ["class pictures", "class pictures", "tuning", "tuning", "tuning"][:after]
    resumed = []
    again = Engine(bundle.denoiser)
    job = again.add(
        EDITOR.prepare(context(bundle, iterations=4, unfinished=file)), on_step=lambda report: resumed.append(report.what)
    )
    found = again.result(job)
    assert len(reports) + len(resumed) == 6
    assert engine.counters.rows + again.counters.rows == everything
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_of_a_cascade_both_stages_are_tuned_and_go_on_where_they_were(tmp_path):
    cascade = load(tiny(tmp_path / "cascade", "cascade"), "cpu")
    assert cascade.upscaler is not None

    def of(unfinished: Path | None = None) -> Context:
        settled = EDITOR.settled(EDITOR.Knobs(**{**BRIEF, "class_pictures": 1, "batch": 2}), cascade)
        assert settled.rate == 1e-3
        request = request_for(instruction="a cow", editor="dreambooth", steps=4)
        low, large = noise(3, (1, 3, 8, 8)) * 0.5, noise(4, (1, 3, 32, 32)) * 0.5
        return Context(cascade, request, settled, low.shape, low, large_BCHW=large, unfinished=unfinished)

    whole, _ = prepared(of())
    assert {name.split(".")[0] for name in whole} == {"unet", "upscaler"}
    reports: list[str] = []
    engine = Engine(cascade.denoiser)
    job = engine.add(
        EDITOR.prepare(of(tmp_path / "state")),
        on_step=lambda report: reports.append(report.what),
        cancelled=lambda: "upscaler" in reports,
    )
    with pytest.raises(Cancelled):
        engine.result(job)
    found, again = prepared(of(tmp_path / "state"))
    assert again.counters.rows == 0
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_the_requests_seed_has_no_part_in_tuning(bundle):
    one, other = (prepared(context(bundle, seed=seed))[0] for seed in (0, 7))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert EDITOR.prepared_from(context(bundle, seed=0)) == EDITOR.prepared_from(context(bundle, seed=7))


def test_it_learns_the_thing_and_prior_preservation_keeps_the_class(bundle):
    """The error of the thing falls; that of the class pictures rises less with them than without."""
    of = context(bundle)
    thing, cow = prompts(bundle.text, ["a photo of q cow", "a photo of cow"])
    own = torch.cat(classes(of, 3))

    def errors(network: Any) -> tuple[float, float]:
        told = ((THING.expand(3, -1, -1, -1), thing), (own, cow))
        with torch.no_grad():
            return tuple(sum(error_of(network, x0, 50, i, c).item() for i in range(4)) for x0, c in told)  # type: ignore[return-value]

    untuned = errors(bundle.denoiser)
    held, free = (
        errors(with_weights(bundle.denoiser, prepared(context(bundle, iterations=12, rate=3e-3, prior_weight=weight))[0]))
        for weight in (1.0, 0.0)
    )
    assert held[0] < untuned[0]
    assert free[0] < untuned[0]
    assert held[1] < free[1]


@pytest.mark.parametrize(
    ("class_word", "caption", "told"),
    [
        ("dog", "a dog in the snow", "a ktn dog in the snow"),
        ("dog", "A Dog beside another dog", "A ktn Dog beside another dog"),
        ("dog", "dogs and a hotdog", "ktn dog, dogs and a hotdog"),
        ("dog", "in the snow", "ktn dog, in the snow"),
        ("dog", "a watercolour of ktn", "a watercolour of ktn"),
        ("dog", "two KTN dogs", "two KTN dogs"),
        ("toy car", "a toy car on the moon", "a ktn toy car on the moon"),
        ("c++ (book)", "a c++ (book) on a desk", "a ktn c++ (book) on a desk"),
        ("", "a dog in the snow", "ktn a dog in the snow"),
    ],
)
def test_captions_say_the_things_name(class_word, caption, told):
    assert prompt("ktn", class_word, caption) == told


def test_the_walk_is_told_the_name_and_made_by_the_tuned_weights(bundle):
    of = context(bundle, iterations=3, class_pictures=0, guidance=1.0)
    found, _ = prepared(of)
    engine = Engine(bundle.denoiser)
    end = engine.result(engine.add(EDITOR.path(of, found)))
    imagine = registry.get("imagine")
    request = request_for(instruction="a q cow in snow", editor="imagine", seed=0, steps=4)
    engine = Engine(with_weights(bundle.denoiser, found))
    alone = imagine.path(Context(bundle, request, imagine.Knobs(guidance=1.0), THING.shape), {})
    assert torch.equal(end, engine.result(engine.add(alone)))


def test_what_the_record_says(tiny_bundle, photo):
    def edit(caption: str, **knobs: Any) -> Any:
        brief = {"iterations": 1, "class_word": " toy  cow ", "class_pictures": 0, **knobs}
        order = request_for(
            picture=str(photo), instruction=caption, editor="dreambooth", knobs=brief, model=str(tiny_bundle), steps=2
        )
        return edit_one(Order(order))

    plain = edit("a toy cow at night")
    assert plain.record["warnings"] == []
    assert plain.request.knobs["class_word"] == "toy cow"
    assert plain.request.knobs["rate"] == 1e-5  # of a model that walks in pixels
    word = plain.request.knobs["rare_token"]
    assert load(tiny_bundle, "cpu").text.count(word) == 1
    [warning] = edit("a goat at night").record["warnings"]
    assert f'"{word} toy cow, a goat at night"' in warning
    assert edit(f"{word} at night").record["warnings"] == []
    with pytest.raises(KnobError, match="rare_token"):
        edit("a toy cow", rare_token="several words")
    with pytest.raises(KnobError, match=r"strength of 0\.5"):
        edit("a toy cow", strength=0.1)
