"""The MDP editors on a small network: identities 1 to 3 and 5 beside a picture that is made, knobs, notes, costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paintover.editors import knobs as knobs_of
from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.engine import Engine
from paintover.errors import KnobError
from paintover.models.bundle import load
from paintover.orders.order import Order, check, request_for
from paintover.orders.run import edit_one

FOUR = ["mdp-noise", "mdp-condition", "mdp-latent", "mdp-guidance"]
EVERY = pytest.mark.parametrize("name", FOUR)
A, B = "a field", "a cow in the snow"


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bundle(request, tiny_bundle):
    return load(tiny_bundle, "cpu", request.param)


def made(bundle, name: str, steps: int = 6, words: str = B, **knobs: Any) -> tuple[Tensor, Tensor]:
    """The source that is made from A, and the edit towards `words` beside it."""
    return walked(bundle, name, steps, words, **knobs)[:2]


def walked(bundle, name: str, steps: int = 6, words: str = B, **knobs: Any) -> tuple[Tensor, Tensor, int]:
    """Likewise, and what the edit asked for."""
    editor = registry.get(name)
    request = request_for(instruction=words, source_prompt=A, editor=name, seed=1, steps=steps)
    context = Context(bundle, request, knobs_of.read(name, editor.Knobs, knobs), (1, bundle.codec.channels, 8, 8))
    editor.check(context)
    engine = Engine(bundle.denoiser)
    prepared = engine.result(engine.add(editor.prepare(context)))
    job = engine.add(editor.path(context, prepared))
    edited = engine.result(job)
    return context.shown["source"], edited, job.rows


def apart(x: Tensor, y: Tensor) -> float:
    return ((x - y).norm() / y.norm()).item()


@EVERY
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_identities_beside_a_made_picture(name, guidance, bundle):
    near = 1e-5 if bundle.denoiser.dtype == torch.float32 else 0.03
    source, whole = made(bundle, name, t_max=50, t_m=50, guidance=guidance)
    assert apart(whole, source) < near
    _, none = made(bundle, name, t_m=0, guidance=guidance)
    assert apart(none, source) > 2 * near
    assert torch.equal(none, made(bundle, "mdp-noise", share=0.0, guidance=guidance)[1])
    _, same = made(bundle, name, schedule="cosine", guidance=guidance, words=A)
    assert apart(same, source) < near


@EVERY
@pytest.mark.parametrize("steps", [2, 7, 60])
def test_any_number_of_steps(name, steps, tiny_bundle):
    _, edited = made(load(tiny_bundle, "cpu"), name, steps)
    assert edited.isfinite().all()


def test_each_is_its_own_algorithm(tiny_bundle):
    """By what they ask for, and by what comes out: a random network tells only the mixed conditions well from the others."""
    bundle = load(tiny_bundle, "cpu")
    walks = {name: walked(bundle, name, steps=10, schedule="linear", guidance=3.0) for name in FOUR}
    # Of ten steps the second to sixth take 1, 3/4, 1/2, 1/4 and 0 of the source.
    assert {name: rows for name, (_, _, rows) in walks.items()} == {
        "mdp-noise": 2 * 9,
        "mdp-condition": 2 * 10,
        "mdp-latent": 2 * 8,
        "mdp-guidance": 2 * 7 + 3 * 3,
    }
    ends = [end for _, end, _ in walks.values()]
    assert not any(torch.equal(p, q) for n, p in enumerate(ends) for q in ends[:n])
    assert apart(walks["mdp-condition"][1], walks["mdp-guidance"][1]) > 1e-4


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("cosine", "cosine"),
        ("1,0.8,0.5", "1,0.8,0.5"),
        (" 1.0, .8,5e-1", "1,0.8,0.5"),
        ([1, 0.8, 0.5], "1,0.8,0.5"),
        (f"{1 / 3}", "0.3333333333333333"),
    ],
)
def test_shares_of_ones_own_are_read(told, read):
    model = registry.get("mdp-noise").Knobs
    assert knobs_of.read("mdp-noise", model, {"schedule": told}).schedule == read
    assert knobs_of.read("mdp-noise", model, {"schedule": read}).schedule == read


@pytest.mark.parametrize("told", ["steep", "", "1,,1", "1,1.5", "nan", "-1", [], [2], 3, None, {"a": 1}])
def test_what_is_no_schedule_is_refused(told):
    with pytest.raises(KnobError, match=r"schedule .* takes constant or linear or cosine or exponential or 1,0\.8,0\.5"):
        knobs_of.read("mdp-noise", registry.get("mdp-noise").Knobs, {"schedule": told})


def test_a_long_schedule_is_taken_and_a_nonsense_one_is_said_in_short():
    model = registry.get("mdp-noise").Knobs
    read = knobs_of.read("mdp-noise", model, {"schedule": [1 / 3] * 1000})
    assert read.schedule.count(",") == 999
    assert knobs_of.read("mdp-noise", model, {"schedule": read.schedule}) == read
    with pytest.raises(KnobError, match=r"schedule is \[7.*\.\.\., but takes") as refused:
        knobs_of.read("mdp-noise", model, {"schedule": [7] * 1000})
    assert len(str(refused.value)) < 400


def test_a_long_schedule_passes_all_checks_as_text_too(photo, tmp_path):
    shares = {"schedule": ",".join([repr(1 / 3)] * 500)}
    request = request_for(picture=str(photo), instruction="a cow", editor="mdp-noise", knobs=shares)
    assert check(Order(request, out=tmp_path / "out.jpg")).editor.name == "mdp-noise"


@EVERY
def test_shares_of_ones_own_are_walked(name, tiny_bundle):
    bundle = load(tiny_bundle, "cpu")
    linear = made(bundle, name, steps=10, t_max=50, t_m=25, schedule="linear")[1]
    assert torch.equal(made(bundle, name, steps=10, t_max=50, t_m=25, schedule="1,0.75,0.5,0.25,0")[1], linear)
    with pytest.raises(KnobError, match="3 weights were given for a window of 5 steps"):
        made(bundle, name, steps=10, t_max=50, t_m=25, schedule="1,0.5,0")


@EVERY
@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"t_max": 10, "t_m": 20}, "expected t_m 0 to 10"),
        ({"t_max": 60}, "0 to 50"),
        ({"t_m": 4}, "ask for 7 steps or more"),
    ],
)
def test_windows_that_cannot_be_are_refused(name, knobs, says, tiny_bundle):
    with pytest.raises(KnobError, match=says):
        made(load(tiny_bundle, "cpu"), name, **knobs)


@pytest.mark.parametrize(
    ("name", "knobs", "says"),
    [
        ("mdp-latent", {"t_max": 5, "t_m": 5}, ["returns the picture"]),
        ("mdp-latent", {"t_max": 50, "t_m": 50}, ["returns the picture"]),
        ("mdp-latent", {"t_max": 25, "t_m": 25, "schedule": "exponential"}, ["mixes the picture itself"]),
        ("mdp-latent", {"t_max": 25, "t_m": 25, "schedule": "linear"}, []),
        ("mdp-noise", {"t_max": 5, "t_m": 5}, []),
        ("mdp-noise", {"t_max": 50, "t_m": 50}, ["the words have no effect"]),
        ("mdp-guidance", {"t_max": 50, "t_m": 50, "share": 0.5}, []),
    ],
)
def test_windows_that_surprise_are_told(name, knobs, says, photo, tiny_bundle):
    request = request_for(
        picture=str(photo), instruction=B, source_prompt=A, editor=name, knobs=knobs, model=str(tiny_bundle), steps=10
    )
    warnings = edit_one(Order(request)).record["warnings"]
    assert len(warnings) == len(says)
    assert all(part in warning for part, warning in zip(says, warnings, strict=True))


def test_a_window_at_the_end_of_mdp_latent_gives_the_picture_back(photo, tiny_bundle):
    knobs = {"t_max": 5, "t_m": 5}
    pictures = [
        edit_one(Order(request_for(
            picture=str(photo), instruction=words, editor="mdp-latent", knobs=knobs, model=str(tiny_bundle), steps=10,
            preserve=False,
        ))).rgb_HWC
        for words in (B, "the sea")
    ]  # fmt: skip
    assert np.array_equal(*pictures)


@EVERY
def test_the_four_share_one_inversion(name, photo, tiny_bundle):
    def evaluations(editor: str) -> int:
        request = request_for(picture=str(photo), instruction=B, editor=editor, model=str(tiny_bundle), steps=10)
        return edit_one(Order(request)).record["evaluations"]

    first = evaluations(name)
    assert [evaluations("mdp-noise"), evaluations(name)] == [10, first - 10]
