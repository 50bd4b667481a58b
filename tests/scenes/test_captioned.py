"""Scenes for text to picture: a settled one is what its caption says and nothing else, a free one is any."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from paintover.scenes import captioned, words
from paintover.scenes.assets import Assets
from paintover.scenes.captioned import free, settled, view
from paintover.scenes.scene import Scene

DRAWS = 300


@pytest.fixture(scope="module", params=["train", "held_out"])
def assets(request, tiny_world):
    return Assets(tiny_world[0], request.param, tiny_world[1])


def _settled(assets, plain):
    return [settled(assets, np.random.default_rng(n), 0.5, plain) for n in range(DRAWS)]


def test_a_settled_caption_determines_the_picture(assets):
    """But for the mottling of a plain ground."""
    pictures: dict[str, list[np.ndarray]] = {}
    for scene in _settled(assets, plain=0.0):
        if scene.backdrop.place:
            pictures.setdefault(words.caption(scene), []).append(scene.render(24))
    same = [group for group in pictures.values() if len(group) > 1]
    assert len(same) > 10
    assert all(np.array_equal(*two) for group in same for two in pairwise(group))
    named = [words.caption(scene) for scene in _settled(assets, plain=1.0)]
    assert len(set(named)) > DRAWS / 2


@pytest.mark.parametrize("plain", [0.0, 1.0])
def test_settled_grounds(assets, plain):
    scenes = _settled(assets, plain)
    labels = [scene.backdrop.label for scene in scenes if scene.backdrop.label]
    assert all(label.startswith("plain ") == bool(plain) for label in labels)
    assert len(set(labels)) == (9 if plain else len(assets.labels))
    unnamed = [scene for scene in scenes if not scene.backdrop.label]
    assert 0 < len(unnamed) < DRAWS / 8
    assert {scene.backdrop.plain for scene in unnamed} == {"white"}


def test_settled_things_are_the_classes_own_and_hide_nothing(assets):
    scenes = _settled(assets, plain=0.5)
    assert {len(scene.objects) for scene in scenes} == {0, 1, 2}
    for scene in scenes:
        assert all(thing.stamp is assets.canonical[thing.cls] for thing in scene.objects)
        edges = [edge for thing in scene.objects for edge in (thing.box()[0], thing.box()[2])]
        assert edges == sorted(edges)
        assert all(0 <= edge <= 1 for edge in edges)


def test_free_scenes_are_of_every_kind(assets):
    scenes = [free(assets, np.random.default_rng(n), (0.2, 0.5), 0.5) for n in range(DRAWS)]
    assert {len(scene.objects) for scene in scenes} == {0, 1, 2, 3}
    assert {scene.look is None for scene in scenes} == {True, False}
    assert {scene.backdrop.label is None for scene in scenes} == {True, False}
    things = [thing for scene in scenes for thing in scene.objects]
    assert {thing.colour is None for thing in things} == {True, False}
    assert any(thing.stamp is assets.canonical[thing.cls] for thing in things)
    assert {thing.cls for thing in things} <= set(assets.classes)


def test_settled_things_move_about_without_meeting(assets):
    sides, places = (0.2, 0.5), set()
    for n, scene in enumerate(_settled(assets, plain=1.0)):
        rng = np.random.default_rng(n)
        moved = [captioned._moved(thing, rng, sides) for thing in scene.objects]
        boxes = [thing.box() for thing in moved]
        assert all(-0.05 < edge < 1.05 for box in boxes for edge in box)
        assert all(sides[0] <= thing.side <= sides[1] for thing in moved)
        assert all(left[2] <= right[0] for left, right in pairwise(boxes))
        places |= {(round(thing.x, 1), round(thing.y, 1)) for thing in moved}
    assert len(places) > 30


def test_a_view_is_the_middle_of_a_photograph(assets):
    for label in assets.labels:
        drop = view(assets, label)
        assert drop.label == label
        x, y, side = drop.crop
        width, height = drop.place.rgb.size
        assert (2 * x + side, 2 * y + side) == pytest.approx((width / min(width, height), height / min(width, height)))
        assert side == 1
        assert Scene(drop).render(16).shape == (16, 16, 3)
