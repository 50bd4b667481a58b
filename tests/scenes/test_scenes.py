"""Scenes and edits: the same seed is the same picture, and an edit changes what it says and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from paintover.scenes import edits, words
from paintover.scenes.assets import Assets
from paintover.scenes.looks import LOOKS, apply
from paintover.scenes.scene import Scene, random_scene

SEEDS = range(12)


@pytest.fixture(scope="module", params=["train", "held_out"])
def assets(request, tiny_world):
    return Assets(tiny_world[0], request.param, tiny_world[1])


def _case(assets, kind, seed):
    return edits.make(kind, assets, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", [*edits.KINDS, *edits.CAPTIONS])
def test_the_same_seed_is_the_same_case(assets, kind):
    one, other = _case(assets, kind, 3), _case(assets, kind, 3)
    assert (one.instruction, one.caption, one.target_caption) == (other.instruction, other.caption, other.target_caption)
    for a, b in zip(one.render(32), other.render(32), strict=True):
        assert np.array_equal(a, b)
        assert a.shape == (32, 32, 3)
        assert a.dtype == np.float32
        assert 0 <= a.min() <= a.max() <= 1
    assert _case(assets, kind, 4).instruction != one.instruction or not np.array_equal(
        _case(assets, kind, 4).render(32)[1], one.render(32)[1]
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scene_is_the_same_at_any_resolution(assets, seed):
    scene = random_scene(assets, np.random.default_rng(seed), (0.3, 0.5))
    large = Image.fromarray((scene.render(192) * 255).astype(np.uint8)).resize((48, 48), Image.Resampling.BOX)
    assert np.abs(np.asarray(large) / 255 - scene.render(48)).mean() < 0.02


@pytest.mark.parametrize("kind", edits.LOCAL)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_local_edit_changes_nothing_outside_its_things(assets, kind, seed):
    case, size = _case(assets, kind, seed), 96
    touched = {*case.before.objects} ^ {*case.after.objects}
    assert touched
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    near = np.zeros((size, size), bool)
    for thing in touched:
        left, top, right, bottom = thing.box()
        reach = math.hypot(right - left, bottom - top) / 2 + 2 / size  # whichever way it is turned
        near |= np.hypot(x - thing.x, y - thing.y) <= reach
    source, target = case.render(size)
    assert np.array_equal(source[~near], target[~near])
    assert edits.changed(source, target).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_remove_is_the_scene_without_the_thing(assets, seed):
    case = _case(assets, "remove", seed)
    (gone,) = {*case.before.objects} - {*case.after.objects}
    without = Scene(case.before.backdrop, tuple(thing for thing in case.before.objects if thing is not gone))
    assert np.array_equal(case.render(64)[1], without.render(64))
    assert gone.cls in case.instruction.lower() or assets.split == "train"  # training now and then mistypes


def test_nothing_changes_nothing_and_a_look_leaves_the_things(assets):
    source, target = _case(assets, "nothing", 1).render(64)
    assert np.array_equal(source, target)
    case = _case(assets, "sepia", 1)
    assert (case.after.objects, case.after.backdrop) == (case.before.objects, case.before.backdrop)
    assert np.array_equal(case.render(64)[1], apply("sepia", case.render(64)[0]))


def test_replace_and_add_put_the_classes_own_stamp(assets):
    for kind in ("replace", "add"):
        case = _case(assets, kind, 2)
        (new,) = {*case.after.objects} - {*case.before.objects}
        assert new.stamp is assets.canonical[new.cls]
        assert new.cls not in {thing.cls for thing in case.before.objects}


@pytest.mark.parametrize("kind", [*edits.LOCAL, "place"])
def test_an_edit_of_a_part_or_a_place_begins_with_the_scene_that_was_drawn_first(assets, kind):
    drawn = random_scene(assets, np.random.default_rng(7), edits.SIDES)
    assert np.array_equal(_case(assets, kind, 7).render(32)[0], drawn.render(32))


@pytest.mark.parametrize("seed", SEEDS)
def test_captions_differ_in_what_the_edit_changes_alone(assets, seed):
    case = _case(assets, "night", seed)
    assert case.target_caption == f"{case.caption} at night"
    case = _case(assets, "replace", seed)
    (old,), (new,) = ({*a.objects} - {*b.objects} for a, b in ((case.before, case.after), (case.after, case.before)))
    names = [thing.cls if thing.cls == "grapes" else words.article(thing.cls) for thing in (old, new)]
    assert case.caption.replace(*names) == case.target_caption


def test_add_puts_a_thing_of_middling_size(assets):
    case = edits.make("add", assets, np.random.default_rng(2), (0.4, 0.7))
    (new,) = {*case.after.objects} - {*case.before.objects}
    assert new.side == pytest.approx(0.55)


R, G, B = 0.2, 0.5, 0.8
Y = 0.299 * R + 0.587 * G + 0.114 * B
LOOKED = {
    "brighter": [1 - 0.8**1.9, 1 - 0.5**1.9, 1 - 0.2**1.9],
    "darker": [0.1, 0.25, 0.4],
    "contrast": [0.0, 0.5, 1.0],
    "saturated": [0.0, 2 * G - Y, 1.0],
    "black-and-white": [Y, Y, Y],
    "sepia": [1.07 * Y + 0.04, 0.86 * Y + 0.02, 0.62 * Y],
    "warmer": [0.244, 0.5, 0.544],
    "cooler": [0.144, 0.485, 1.0],
    "night": [
        (0.55 * R + 0.45 * Y) ** 1.3 * 0.30,
        (0.55 * G + 0.45 * Y) ** 1.3 * 0.36,
        (0.55 * B + 0.45 * Y) ** 1.3 * 0.55,
    ],
    "fog": [0.38 * R + 0.62 * 0.80, 0.38 * G + 0.62 * 0.82, 0.38 * B + 0.62 * 0.84],
    # of one row: the violet end
    "dusk": [(0.7 * R + 0.3 * Y) * 0.62 + 0.06, (0.7 * G + 0.3 * Y) * 0.45 + 0.02, (0.7 * B + 0.3 * Y) * 0.62 + 0.04],
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_has_its_closed_form(name):
    seen = apply(name, np.array([[[R, G, B]]], np.float32))
    assert seen.dtype == np.float32
    assert seen[0, 0] == pytest.approx(LOOKED[name], abs=1e-6)


def test_changed_sees_any_channel():
    source = np.zeros((2, 2, 3), np.float32)
    target = source.copy()
    target[0, 1, 2] = 3 / 255
    target[1, 0, 0] = 1 / 255
    assert edits.changed(source, target).tolist() == [[False, True], [False, False]]
