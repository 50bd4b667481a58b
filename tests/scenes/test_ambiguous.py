"""Ambiguous edits: what is meant, said in full, is what is done, and the picture leaves no other choice."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from paintover.errors import PaintoverError
from paintover.scenes import ambiguous, edits, words
from paintover.scenes.ambiguous import AMBIGUOUS, ANIMALS, CATEGORIES, FRUIT, GROWN, RIPE
from paintover.scenes.assets import Assets
from paintover.scenes.scene import Object, Scene

DRAWS = 60
SAYS = {
    "remove": re.compile(r"remove the (?P<a>\w+)$"),
    "replace": re.compile(r"replace the (?P<a>\w+) with an? (?P<b>\w+)$"),
    "recolour": re.compile(r"paint the (?P<a>\w+) (?P<c>\w+)$"),
    "add": re.compile(r"add an? (?P<b>\w+) (?P<w>on the (left|right))$"),
}
LOOKS = {"make it cooler": "cooler", "make it look like dusk": "dusk", "make it look like night": "night"}
CURES = {
    "darker": "make it brighter",
    "cooler": "make it warmer",
    "warmer": "make it cooler",
    "fog": "clear the fog away",
}


@pytest.fixture(scope="module", params=["train", "held_out"])
def assets(request, tiny_world):
    return Assets(tiny_world[0], request.param, tiny_world[1])


def _cases(kind, assets, draws=DRAWS, sides=edits.SIDES):
    return [edits.make(kind, assets, np.random.default_rng(seed), sides) for seed in range(draws)]


def _done(meant: str, scene: Scene, assets: Assets, sides: tuple[float, float]) -> Scene:
    """What the words ask for, by a reader who knows nothing of how they came about."""
    for clause in meant.split(" and "):
        if clause in LOOKS:
            scene = replace(scene, look=LOOKS[clause])
            continue
        [(edit, said)] = [(edit, found) for edit, says in SAYS.items() if (found := says.match(clause))]
        things = list(scene.objects)
        if edit == "add":
            x, y = {"on the left": (0.25, 0.55), "on the right": (0.75, 0.55)}[said["w"]]
            things.append(Object(assets.canonical[said["b"]], x, y, sum(sides) / 2))
        else:
            [i] = [i for i, thing in enumerate(things) if thing.cls == said["a"]]  # there must be one, and only one
            old = things.pop(i)
            if edit == "replace":
                things.insert(i, Object(assets.canonical[said["b"]], old.x, old.y, old.side))
            if edit == "recolour":
                things.insert(i, replace(old, colour=said["c"]))
        scene = replace(scene, objects=tuple(things))
    return scene


def _rendered_alike(one: Scene, other: Scene) -> bool:
    return np.array_equal(one.render(24), other.render(24))


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_the_same_seed_is_the_same_case(assets, kind):
    for seed in range(5):
        one, other = (edits.make(kind, assets, np.random.default_rng(seed)) for _ in range(2))
        assert (one.instruction, one.meant, one.caption) == (other.instruction, other.meant, other.caption)
        for a, b in zip(one.render(24), other.render(24), strict=True):
            assert np.array_equal(a, b)
    cases = _cases(kind, assets, 8)
    assert len({(case.instruction, case.meant, case.caption) for case in cases}) > 4


@pytest.mark.parametrize("kind", [kind for kind in AMBIGUOUS if kind != "fix"])
@pytest.mark.parametrize("sides", [edits.SIDES, (0.36, 0.68)])
def test_what_is_meant_is_what_is_done(assets, kind, sides):
    """Every thing it speaks of is there once: the words leave nothing open."""
    for case in _cases(kind, assets, sides=sides):
        assert _rendered_alike(_done(case.meant, case.before, assets, sides), case.after), case.meant
        assert not _rendered_alike(case.before, case.after)


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_the_instruction_alone_does_not_say_it(assets, kind):
    """Or there would be no need to look: the same words mean something else in another picture."""
    meanings: dict[str, list[str]] = {}
    for case in _cases(kind, assets, 400):
        plain = re.sub(r"^(please|now|could you|can you) |,? please$|[.?]", "", case.instruction.lower())
        meanings.setdefault(plain, []).append(case.meant)
    assert any(len(set(meant)) > 1 for meant in meanings.values())
    often = [set(meant) for meant in meanings.values() if len(meant) > 12]
    assert all(len(meant) > 1 for meant in often)
    assert often or kind == "which"  # which has more to say than can be met often


FITS = {
    "big thing": lambda thing, others: all(thing.side > other.side for other in others),
    "small thing": lambda thing, others: all(thing.side < other.side for other in others),
    "thing on the left": lambda thing, others: all(thing.x < other.x for other in others),
    "thing on the right": lambda thing, others: all(thing.x > other.x for other in others),
}
FITS |= {"larger thing": FITS["big thing"], "smaller thing": FITS["small thing"]}


def test_which_calls_a_thing_by_what_fits_no_other(assets):
    met, mistyped = set(), 0
    for case in _cases("which", assets, 300):
        names = [name for name in (*CATEGORIES, *FITS) if re.search(rf"\b{name}\b", case.instruction.lower())]
        if not names:
            mistyped += 1
            continue
        name = max(names, key=len)  # "animal" is in "farm animal"
        met.add(name)
        things = case.before.objects
        if name in CATEGORIES:
            fitting = [thing for thing in things if thing.cls in CATEGORIES[name]]
        else:
            assert len(things) > 1
            fitting = [thing for thing in things if FITS[name](thing, [other for other in things if other is not thing])]
        [thing] = fitting
        assert f"the {thing.cls}" in case.meant
        assert thing.cls not in re.findall(r"the (\w+)", case.instruction.lower())
    assert met == {*CATEGORIES, *FITS}
    assert mistyped < (0.1 * 300 if assets.split == "train" else 1)


def test_categories_are_made_of_classes(assets):
    for classes in (*CATEGORIES.values(), GROWN, RIPE, ambiguous.EATS, ambiguous.EATS.values()):
        assert set(classes) <= set(assets.classes)
    assert {*ANIMALS, *GROWN} == set(assets.classes)
    assert set(ambiguous.EATS) == set(ANIMALS)


def test_alike_makes_the_small_one_what_the_big_one_is(assets):
    for case in _cases("alike", assets):
        small, big = sorted(case.before.objects, key=lambda thing: thing.side)
        assert big.side >= 1.25 * small.side
        assert case.meant == words.meant("replace", a=small.cls, b=big.cls)
        assert [thing.cls for thing in case.after.objects] == [big.cls] * 2


def test_feed_puts_what_the_animal_eats_where_nothing_is(assets):
    for case in _cases("feed", assets):
        [animal] = [thing.cls for thing in case.before.objects if thing.cls in ANIMALS]
        *before, food = case.after.objects
        assert tuple(before) == case.before.objects
        assert food.cls == ambiguous.EATS[animal]
        left = food.x < 0.5
        assert all((thing.x > 0.5) == left for thing in before)


def test_ripe_is_the_only_fruit_which_was_green(assets):
    for case in _cases("ripe", assets):
        [before], [after] = ([thing for thing in scene.objects if thing.cls in FRUIT] for scene in (case.before, case.after))
        assert (before.colour, after.colour) == ("green", RIPE[after.cls])
    assert RIPE["banana"] == "yellow"
    assert RIPE["strawberry"] == "red"


def test_frost_whitens_what_has_grown_and_no_animal(assets):
    spoken_of = set()
    for case in _cases("frost", assets):
        assert (case.before.look, case.after.look) == (None, "cooler")
        for before, after in zip(case.before.objects, case.after.objects, strict=True):
            assert after.colour == ("white" if before.cls in GROWN else before.colour)
            assert (f"paint the {before.cls} white" in case.meant) == (before.cls in GROWN)
        spoken_of.add(case.meant.count("white"))
    assert spoken_of >= {0, 1, 2}


def test_festive_is_a_pumpkin_for_the_only_fruit_or_a_flower_for_an_animal_alone(assets):
    met = set()
    for case in _cases("festive", assets):
        fruit = [thing.cls for thing in case.before.objects if thing.cls in FRUIT]
        if fruit:
            assert case.meant == f"replace the {fruit[0]} with a pumpkin"
            assert len(fruit) == 1
            assert sum(thing.cls == "pumpkin" for thing in case.after.objects) == 1
        else:
            [animal] = case.before.objects
            assert animal.cls in ANIMALS
            assert case.meant.startswith("add a flower on the")
        met.add(bool(fruit))
    assert met == {True, False}


def test_later_is_dusk_by_day_and_night_at_dusk(assets):
    cases = _cases("later", assets)
    assert {(case.before.look, case.after.look) for case in cases} == {(None, "dusk"), ("dusk", "night")}
    for case in cases:
        assert case.meant == f"make it look like {case.after.look}"
    assert {bool(case.before.objects) for case in cases} == {True, False}  # scenes, and photographs as they are


def test_fix_undoes_what_is_wrong_with_the_light(assets):
    cases = _cases("fix", assets)
    assert {case.before.look: case.meant for case in cases} == CURES
    for case in cases:
        assert case.after.look is None
        assert _rendered_alike(case.after, replace(case.before, look=None))


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_no_case_is_looked_for_in_vain(assets, kind):
    """In hundreds of draws, at the sizes that training has; the search gives up rather than go on for ever."""
    assert len(_cases(kind, assets, 300, (0.36, 0.68))) == 300
    with pytest.raises(PaintoverError, match="too few things"):
        ambiguous._until(assets, np.random.default_rng(0), edits.SIDES, lambda scene: False)
