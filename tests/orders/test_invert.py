"""`paintover invert`: what an inversion makes of a picture, and that the edits find it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import paintover
from paintover import cli
from paintover.editors import registry
from paintover.errors import KnobError, PictureError, RequestError

STEPS = 6


def invert(photo, tiny_bundle, **settings):
    return paintover.invert(photo, model=str(tiny_bundle), steps=STEPS, source_prompt="a field", **settings)


@pytest.mark.parametrize("inversion", ["direct", "edit-friendly", "fixed-point"])
def test_exact_inversions_give_what_the_codec_gives(inversion, photo, tiny_bundle):
    found = invert(photo, tiny_bundle, inversion=inversion)
    assert found.psnr_codec > 80
    assert found.psnr == pytest.approx(found.codec, abs=0.5) or min(found.psnr, found.codec) > 80
    assert found.result.rgb_HWC.shape == np.asarray(Image.open(photo)).shape


def test_ddim_shows_what_the_guided_walk_really_gives(photo, tiny_bundle):
    unguided = invert(photo, tiny_bundle, inversion="ddim", guidance=1.0)
    guided = invert(photo, tiny_bundle, inversion="ddim", guidance=7.5)
    assert guided.cached  # the inversion does not depend on the guidance
    assert guided.psnr < unguided.psnr
    assert (unguided.result.record["evaluations"], guided.result.record["evaluations"]) == (2 * STEPS, 2 * STEPS)


def test_an_edit_finds_the_inversion_and_invert_finds_the_edits(photo, tiny_bundle):
    def edit(words):
        asked = {"editor": "mdp-noise", "model": str(tiny_bundle), "steps": STEPS, "source_prompt": "a field"}
        return paintover.edit(photo, words, inversion="null-text", inner=2, guidance=3, **asked).record["evaluations"]

    first = invert(photo, tiny_bundle, inversion="null-text", inner=2, guidance=3)
    again = invert(photo, tiny_bundle, inversion="null-text", inner=2, guidance=3)
    assert (first.cached, again.cached) == (False, True)
    assert (first.result.record["evaluations"] > 0, again.result.record["evaluations"]) == (True, 0)
    assert edit("a cow") == edit("a sheep")  # neither inverts
    other = invert(photo, tiny_bundle, inversion="null-text", inner=2, guidance=4)
    assert not other.cached


def test_the_edit_friendly_editor_shares_the_inversion_of_that_name(photo, tiny_bundle):
    invert(photo, tiny_bundle, inversion="edit-friendly", guidance=3.5)
    asked = {"editor": "edit-friendly", "model": str(tiny_bundle), "steps": STEPS, "source_prompt": "a field"}
    walked = STEPS - 18 * STEPS // 50
    assert paintover.edit(photo, "a cow", **asked).record["evaluations"] == 2 * walked


def test_from_the_command_line(photo, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "back.png"
    asked = ["invert", str(photo), "--source-prompt", "a field", "--model", str(tiny_bundle), "--steps", "4", "-o", str(out)]
    for cached in (False, True):
        with pytest.raises(SystemExit) as ended:
            cli.main([*asked, "--inversion", "fixed-point", "--iterations", "2", "--json", "--force"])
        assert not ended.value.code
        found = json.loads(capsys.readouterr().out)
        assert found["cached"] is cached
        assert found["request"]["knobs"]["iterations"] == 2
    assert Image.open(out).size == Image.open(photo).size
    with pytest.raises(SystemExit):
        cli.main(asked)
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("inversion", ["direct", "ddim"])
def test_what_it_writes_can_be_made_again(inversion, photo, tiny_bundle, tmp_path):
    made = invert(photo, tiny_bundle, inversion=inversion, out=tmp_path / "back.png")
    again = paintover.redo(made.result.path)
    assert again.identical
    assert again.result.request == made.result.request
    assert "invert" not in registry.names()  # it is asked for by its own command


def test_what_is_asked_is_checked_as_an_edit_is(photo, tiny_bundle, tmp_path, monkeypatch):
    from paintover.models import bundle
    from paintover.picture.limits import Limits

    monkeypatch.setattr(bundle, "load", lambda *args, **named: pytest.fail("loaded a model"))
    for prompt, says in (("\ud800", "no Unicode"), ("a " * 35_000, "longer than")):
        with pytest.raises(RequestError, match=says):
            paintover.invert(photo, source_prompt=prompt, model=str(tiny_bundle))
    with pytest.raises(KnobError, match="negative_prompt"):
        invert(photo, tiny_bundle, negative_prompt="\ud800")
    with pytest.raises(PictureError, match="pixels"):
        invert(photo, tiny_bundle, limits=Limits(max_pixels=10))
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "clear.png")
    with pytest.raises(RequestError, match="transparency"):
        invert(tmp_path / "clear.png", tiny_bundle, out=tmp_path / "back.jpg")
    described = Image.open(photo)
    described.getexif()[0x010E] = "long " * 20_000
    with pytest.raises(RequestError, match="EXIF"):
        invert(described, tiny_bundle, out=tmp_path / "back.jpg")
    with pytest.raises(RequestError, match="takes no words"):
        paintover.edit(photo, "a cow", editor="invert", model=str(tiny_bundle))


def test_what_cannot_be_is_refused(photo, tiny_bundle):
    with pytest.raises(KnobError, match="null-text"):
        invert(photo, tiny_bundle, inversion="magic")
    with pytest.raises(KnobError, match="no knob 'strength'"):
        invert(photo, tiny_bundle, strength=0.5)
    with pytest.raises(RequestError, match="name one"):
        invert(None, tiny_bundle)
