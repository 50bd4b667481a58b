"""Referring edits: what is said names what is given, and what is meant, read by itself, is what is done."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from paintover.scenes import referring, words
from paintover.scenes.assets import Assets
from paintover.scenes.captioned import view
from paintover.scenes.referring import FORMS, Shown
from paintover.scenes.scene import Object, Scene
from paintover.scenes.sounds import FITS, Recording, Sounds

DRAWS, SIDES = 40, (0.22, 0.48)
SAYS = {
    "remove": re.compile(r"remove the (?P<a>[\w ]+)$"),
    "replace": re.compile(r"replace the (?P<a>\w+) with (an? )?(?P<b>\w+)$"),
    "recolour": re.compile(r"paint the (?P<a>\w+) (?P<c>\w+)$"),
    "add": re.compile(r"add (an? )?(?P<b>\w+) (?P<w>.+)$"),
}
LOOKS = {meant: look for look, meant in words.MEANT.items()}


@pytest.fixture(scope="module", params=["train", "held_out"])
def world(request, tiny_world, tiny_recordings):
    root, photos = tiny_world
    return Assets(root, request.param, photos, heard=True), Sounds(root, request.param, tiny_recordings)


def _cases(kind, world, **told):
    return [referring.make(kind, *world, np.random.default_rng(seed), SIDES, **told) for seed in range(DRAWS)]


def _named(case):
    return set(re.findall(r"\[(image\d|audio\d)\]", case.instruction))


def _done(case, assets) -> Scene:
    """What the words ask for, by a reader who knows nothing of how they came about; a given thing is taken as it is shown."""
    scene, subs = case.before, list(case.subs)
    for clause in case.words.split(" and ") if case.kind == "two" else [case.words]:
        if clause in LOOKS:
            scene = replace(scene, look=LOOKS[clause])
            continue
        if clause.startswith("change the background to "):
            [label] = [label for label, said in words.PLACE_WORDS.items() if clause.endswith(said)]
            scene = replace(scene, backdrop=view(assets, label))
            continue
        [(edit, said)] = [(edit, found) for edit, says in SAYS.items() if (found := says.match(clause))]
        things = list(scene.objects)
        old = None
        if edit != "add":
            [i] = [i for i, thing in enumerate(things) if thing.cls == said["a"]]
            old = things.pop(i)
        if edit in ("add", "replace"):
            noun, reference = subs.pop(0)
            assert noun == said["b"]
            medium = None if reference is None else case.media[reference]
            stamp = medium.scene.objects[0].stamp if isinstance(medium, Shown) else assets.canonical[noun]
            if edit == "add":
                things.append(Object(stamp, *words.WHERE[said["w"]], sum(SIDES) / 2))
            else:
                things.insert(i, Object(stamp, old.x, old.y, old.side))
        if edit == "recolour":
            things.insert(i, replace(old, colour=said["c"]))
        scene = replace(scene, objects=tuple(things))
    assert not subs, "what must appear is what the words bring in, and nothing else"
    return scene


@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind != "made"])
def test_what_is_meant_is_what_is_done(kind, world):
    for case in _cases(kind, world):
        np.testing.assert_array_equal(_done(case, world[0]).render(48), case.after.render(48))


@pytest.mark.parametrize("kind", FORMS)
def test_every_reference_is_given_and_named(kind, world):
    for case in _cases(kind, world):
        assert _named(case) <= set(case.media)
        assert set(case.media) - _named(case) <= {case.base}  # the picture itself need not be named
        assert {name for _, name in case.subs if name} <= set(case.media) - {case.base}
        for name, medium in case.media.items():
            assert isinstance(medium, Recording if name.startswith("audio") else Shown)
        numbers = sorted(int(name[5:]) for name in case.media if name.startswith("image"))
        assert numbers == list(range(1, len(numbers) + 1))
        assert (case.base is None) == (kind == "made") == (case.before is None)


def test_the_picture_is_not_always_the_first(world):
    assert {case.base for case in _cases("replace", world, how="image")} == {"image1", "image2"}


def test_the_same_edit_however_it_is_told(world):
    told = {how: _cases("add", world, how=how, same=0.0) for how in ("text", "image", "audio")}
    for by_text, by_picture, by_sound in zip(*told.values(), strict=True):
        np.testing.assert_array_equal(by_text.after.render(48), by_picture.after.render(48))
        np.testing.assert_array_equal(by_text.after.render(48), by_sound.after.render(48))
        assert set(by_text.media) == {by_text.base}
        assert len(by_picture.media) == 2
    assert any("audio1" in case.media for case in told["audio"])


def test_a_given_thing_is_put_in_as_it_is(world):
    for case in _cases("add", world, how="image", same=1.0):
        [(_, name)] = case.subs
        assert case.after.objects[-1].stamp is case.media[name].scene.objects[0].stamp


def test_splits_share_no_recording_and_no_phrasing(tiny_world, tiny_recordings):
    root, photos = tiny_world
    both = {}
    for split in ("train", "held_out"):
        world = Assets(root, split, photos, heard=True), Sounds(root, split, tiny_recordings)
        sounds = {(label, one.name) for label, found in world[1].by_label.items() for one in found}
        said = {re.sub(r"\W+", " ", case.instruction.lower()).strip() for case in _cases("style", world)}
        both[split] = sounds, said
    assert not both["train"][0] & both["held_out"][0]
    assert not both["train"][1] & both["held_out"][1]


def test_every_fit_has_its_sound_and_its_picture(world):
    assert set(FITS) <= set(world[1].by_label)
    for case in _cases("fit", world):
        [label] = [medium.label for medium in case.media.values() if isinstance(medium, Recording)]
        kind, what = FITS[label]
        assert (case.after.look if kind == "look" else case.after.backdrop.label) == what
