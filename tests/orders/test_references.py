"""Instructions that speak of pictures and sounds: what an editor is given, which picture is edited, and what stays of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
from PIL import Image

import paintover
from paintover import cli
from paintover.editors import registry
from paintover.editors.editor import Context, Editor
from paintover.editors.imagine import ImagineKnobs
from paintover.errors import PaintoverError, PictureError, RequestError, SoundError
from paintover.picture import Picture
from paintover.sound import Sound

WAVE = (0.5 * np.sin(np.arange(8000) / 9)).astype(np.float32)


class Listens(Editor[ImagineKnobs]):
    """SDEdit of the picture that the words mean ("the last one", "a new one", or the one that was given), or a new one."""

    name = "listens"
    summary = "An editor of the tests."
    paper = "none"
    needs = ("text-to-image",)
    picture = "optional"
    takes_references = True
    Knobs = ImagineKnobs
    asked: ClassVar[list[Mapping[str, Picture | Sound]]] = []

    def base(self, bundle, request, media):
        self.asked.append(media)
        if "a new one" in request.instruction:
            return None
        if "the last one" in request.instruction or ("by the seed" in request.instruction and request.seed % 2):
            return [name for name in media if name.startswith("image")][-1]
        return super().base(bundle, request, media)

    def path(self, context: Context[ImagineKnobs], prepared):
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import plain
        from paintover.path.start import noise
        from paintover.path.walk import walk

        context.derived["media"] = {
            name: len(medium.wave) if isinstance(medium, Sound) else list(medium.size_HW)
            for name, medium in context.media.items()
        }
        [told] = prompts(context.bundle.text, [context.request.instruction])
        if context.source_BCHW is None:
            x, steps = noise(context.request.seed, context.shape, context.device), context.schedule.steps(context.steps)
        else:
            x, steps = context.late_start(0.5)
        return walk(x, steps, plain(told))


@pytest.fixture(autouse=True)
def listens(monkeypatch) -> Listens:
    monkeypatch.setattr(registry, "_EDITORS", dict(registry._EDITORS))
    editor = Listens()
    editor.asked.clear()
    registry.add(editor)
    return editor


@pytest.fixture
def folder(tmp_path, photo, monkeypatch) -> Path:
    """photo.png (120 x 80), cat.png (60 x 90, partly transparent), moo.wav (half a second) in the current folder."""
    shutil.copy(photo, tmp_path / "photo.png")
    pixels = np.random.default_rng(1).integers(0, 256, (90, 60, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    soundfile.write(tmp_path / "moo.wav", WAVE, 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(folder, tiny_bundle):
    def edit(words: str, picture: Any = "photo.png", references: Any = None, **fields: Any) -> paintover.EditResult:
        fields = {"editor": "listens", "model": str(tiny_bundle), "steps": 2, **fields}
        return paintover.edit(picture, words, references=references, **fields)

    return edit


def test_what_an_editor_is_given(ask):
    given = {"audio1": "moo.wav", "image2": "cat.png"}
    result = ask("[audio1] and [image2], and [audio1] on it", references=given)
    assert result.record["media"] == {"audio1": 8000, "image2": [90, 60], "image1": [80, 120]}  # not spoken of: last
    assert list(result.record["media"]) == ["audio1", "image2", "image1"]
    assert list(ask("[image1] and [image2]", references={"image2": "cat.png"}).record["media"]) == ["image1", "image2"]
    assert result.record["base"] == "image1"
    assert result.rgb_HWC.shape == (80, 120, 3)
    assert [(one.name, one.path) for one in result.request.references] == [("audio1", "moo.wav"), ("image2", "cat.png")]
    assert all(len(one.sha256) == 64 for one in result.request.references)
    assert result.request.references[1].sha256 != result.request.picture_sha256


def test_a_reference_may_be_the_picture_itself(ask, folder, listens):
    shutil.copy("photo.png", "same.png")
    result = ask("[image2] beside [image1]", references={"image2": "same.png", "image1": "cat.png"})
    assert result.record["media"] == {"image2": [80, 120], "image1": [90, 60]}
    assert result.record["base"] == "image2"
    one = ask("[image1]", references={"image1": "photo.png"})
    assert one.record["media"] == {"image1": [80, 120]}
    assert len(listens.asked) == 1  # the second time there was no choice


@pytest.mark.parametrize(
    "references",
    [
        {"audio1": Path("moo.wav")},
        {"AUDIO1": "bytes"},
        {"audio": (WAVE, 16_000)},
        {"audio1": (np.stack([WAVE, WAVE], axis=1), 16_000)},
    ],
)
def test_references_in_python(references, ask):
    given = {name: Path("moo.wav").read_bytes() if source == "bytes" else source for name, source in references.items()}
    result = ask("add [audio1]", references=given)
    assert result.record["media"] == {"audio1": 8000, "image1": [80, 120]}
    named = isinstance(given.get("audio1"), Path)
    assert [one.path for one in result.request.references] == ["moo.wav" if named else None]


def test_pictures_in_memory(ask):
    pixels = np.zeros((70, 50, 3), np.uint8)
    for source in (pixels, Image.fromarray(pixels)):
        assert ask("[image2]", references={"image2": source}).record["media"]["image2"] == [70, 50]


def test_the_picture_that_the_words_mean_is_edited(ask, folder, listens):
    """At its own size, with its own transparency; what was given is not touched, and redo makes it again."""
    result = ask("[image2], the last one", references={"image2": "cat.png"}, out="out.png")
    assert result.record["base"] == "image1"  # the picture that was given is named last where nobody speaks of it
    result = ask("[image1], [image2], the last one", references={"image2": "cat.png"}, out="out2.png")
    assert result.record["base"] == "image2"
    assert result.rgb_HWC.shape == (90, 60, 3)
    assert np.array_equal(result.alpha_HW, np.asarray(Image.open("cat.png"))[:, :, 3])
    assert result.request.picture == "photo.png"
    assert result.request.picture_sha256 != result.request.references[0].sha256
    again = paintover.redo("out2.png")
    assert again.identical
    assert again.same_source
    assert again.same_references
    assert again.result.request == result.request
    with pytest.raises(PaintoverError, match="transparen"):
        ask("[image1], [image2], the last one", references={"image2": "cat.png"}, out="out.jpg")


def test_what_is_kept_of_one_picture_is_not_taken_for_another(ask):
    """Of the same size, in the same request."""
    Image.open("photo.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save("flipped.png")
    words = "[image1], [image2]"
    given = ask(words, references={"image2": "flipped.png"})
    meant = ask(f"{words}, the last one", references={"image2": "flipped.png"})
    named = ask(f"{words}, the last one", "flipped.png", references={"image1": "photo.png", "image2": "flipped.png"})
    assert meant.record["base"] == named.record["base"] == "image2"
    assert np.array_equal(meant.rgb_HWC, named.rgb_HWC)
    assert not np.array_equal(meant.rgb_HWC, given.rgb_HWC)


def test_a_mask_fixes_it_to_the_picture_that_was_given(ask, listens):
    mask = np.zeros((80, 120), bool)
    mask[:40] = True
    result = ask("[image1], [image2], the last one", references={"image2": "cat.png"}, mask=mask)
    assert listens.asked == []
    assert result.record["base"] == "image1"
    assert np.array_equal(result.rgb_HWC[40:], np.asarray(Image.open("photo.png"))[40:])


def test_none_of_them_is_edited(ask, tiny_bundle):
    result = ask("[image1] and [image2] in a new one", references={"image2": "cat.png"})
    assert result.rgb_HWC.shape == (64, 64, 3)
    assert "base" not in result.record
    assert "mode" not in result.record


def test_candidates_may_be_of_different_pictures(ask):
    words = "[image1], [image2], by the seed"
    result = ask(words, references={"image2": "cat.png"}, candidates=4)
    scored = result.record["candidates"]
    assert [one["seed"] for one in scored] == [0, 1, 2, 3]
    assert not any("failed" in one for one in scored)
    assert len({one["score"] for one in scored}) == 4
    assert result.record["base"] == ("image2" if result.record["chosen"] % 2 else "image1")


def test_made_from_words_and_references(folder, tiny_bundle, listens):
    fields = {"editor": "listens", "model": str(tiny_bundle), "steps": 2}
    result = paintover.imagine("[image1] and [audio1]", references={"audio1": "moo.wav", "image1": "cat.png"}, **fields)
    assert result.record["media"] == {"image1": [90, 60], "audio1": 8000}
    assert result.rgb_HWC.shape == (64, 64, 3)
    assert result.request.picture_sha256 is None
    assert listens.asked == []
    assert paintover.imagine("the sea", **fields).record["media"] == {}
    with pytest.raises(PictureError, match="max_bytes"):
        paintover.imagine("[image1]", references={"image1": "cat.png"}, limits=paintover.Limits(max_bytes=9), **fields)
    with pytest.raises(SoundError, match=r"audio1: moo.wav: the file is over the limit"):
        paintover.imagine("[audio1]", references={"audio1": "moo.wav"}, limits=paintover.Limits(max_bytes=9), **fields)
    with pytest.raises(RequestError, match="mask goes with a picture"):
        paintover.edit(None, "the sea", mask=np.ones((8, 8), bool), **fields)


def test_what_is_odd_about_them_is_told(ask):
    result = ask("[audio1]", references={"audio1": (np.zeros(800), 16_000)})
    assert result.record["warnings"] == ["the sound is silent"]


@pytest.mark.parametrize("name", registry.names())
def test_editors_that_take_none_say_so(name, folder):
    editor = registry.get(name)
    if editor.takes_references:
        pytest.skip("takes them")
    made = editor.picture == "never"
    source = {"source_prompt": "a pig"} if editor.takes_source_prompt else {}
    for words, references in (("a cow", {"audio1": "moo.wav"}), ("a [AUDIO1]", None)):
        with pytest.raises(RequestError, match=r"takes no references; leave .* an editor that does .*listens") as told:
            paintover.edit(None if made else "photo.png", words, editor=name, references=references, **source)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("words", "references", "says"),
    [
        ("add [audio1]", {}, "audio1.*not given"),
        ("add a cow", {"audio1": "moo.wav"}, "does not speak of it"),
        ("add [audio1]", {"audio1": "gone.wav"}, r"^audio1: gone.wav: no such file"),
        ("add [audio1]", {"audio1": "cat.png"}, r"cat.png is a picture"),
        ("add [image2]", {"image2": "moo.wav"}, r"moo.wav is a sound"),
        ("add [image2]", {"image2": "words.txt"}, r"^image2: words.txt: not a picture"),
        ("add [audio1]", {"audio1": "words.txt"}, r"^audio1: words.txt: not a sound"),
        ("add [audio1]", {"audio1": ""}, "names no file"),
        ("add [audio1]", {"audio1": "a\0"}, "names no file"),
        ("add [audio1]", {"audio1": "moo.wav", "AUDIO1": "b"}, "given twice"),
        ("add [audio1]", {1: "moo.wav"}, "names and what they are"),
        ("add [audio1]", ["moo.wav"], "names and what they are"),
        ("add [audio1]", {"video1": "moo.wav"}, "video1"),
        ("add [audio1]", {"audio1": 3}, "a sound cannot be a int"),
        ("add [image2]", {"image2": np.zeros((2, 2, 7))}, "no picture"),
        ("[image1]", {"image1": "cat.png"}, "image1 is the picture that is edited"),
    ],
)
def test_what_does_not_go_together_is_a_line(words, references, says, ask):
    Path("words.txt").write_text("words")
    with pytest.raises(PaintoverError, match=says) as told:
        ask(words, references=references)
    assert "\n" not in str(told.value)


def test_redo_finds_them_or_says_which_is_gone(ask, folder):
    ask("[audio1] and [image2]", references={"audio1": "moo.wav", "image2": "cat.png"}, out="out.png")
    (folder / "moved").mkdir()
    for name in ("out.png", "moo.wav", "cat.png"):
        shutil.move(name, folder / "moved" / name)
    assert paintover.redo("moved/out.png").identical  # beside it
    shutil.move("moved/moo.wav", "renamed.wav")
    with pytest.raises(RequestError, match=r"audio1 = moo.wav, which is not there now; .* \(--ref audio1=FILE\)"):
        paintover.redo("moved/out.png")
    again = paintover.redo("moved/out.png", references={"audio1": "renamed.wav"})
    assert again.identical
    assert again.same_references
    soundfile.write("renamed.wav", WAVE[::-1], 16_000)
    changed = paintover.redo("moved/out.png", references={"audio1": "renamed.wav"})
    assert (changed.same_references, changed.differing) == (False, ("audio1",))
    with pytest.raises(RequestError, match="made without audio2; it was made with audio1, image2"):
        paintover.redo("moved/out.png", references={"audio2": "renamed.wav"})


def test_what_was_in_memory_has_to_be_given_again(ask):
    ask("[audio1]", references={"audio1": (WAVE, 16_000)}, out="out.png")
    with pytest.raises(RequestError, match="audio1 in memory; give it again"):
        paintover.redo("out.png")
    assert paintover.redo("out.png", references={"audio1": (WAVE, 16_000)}).same_references


def _jobs(model: Path, *lines: dict[str, Any]) -> str:
    base = {"picture": "photo.png", "model": str(model), "steps": 2, "editor": "listens"}
    Path("jobs.jsonl").write_text("\n".join(json.dumps({**base, **line}) for line in lines))
    return "jobs.jsonl"


def test_batch(folder, tiny_bundle, monkeypatch):
    spoken = {"instruction": "add [audio1]", "references": {"audio1": "moo.wav"}}
    jobs = _jobs(
        tiny_bundle,
        spoken,
        {"instruction": "[image1]", "picture": None, "references": {"image1": "cat.png"}},
        {"instruction": "night", "references": None},
        {**spoken, "references": {"audio1": "gone.wav"}},
        {**spoken, "references": ["moo.wav"]},
        {**spoken, "references": {"audio1": 3}},
        {**spoken, "editor": None},
    )
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # names are from the folder of the jobs
    report = paintover.batch(folder / jobs, "out")
    lines = [json.loads(line) for line in report.results.read_text().splitlines()]
    assert (report.done, report.failed, report.failed_by_us) == (4, 3, 0), lines
    assert lines[0]["record"]["media"] == {"audio1": 8000, "image1": [80, 120]}
    assert "caption" in lines[6]["record"]  # any2pix, where no editor is named
    for line, says in zip(lines[3:6], ["gone.wav: no such file", "references is", "references is"], strict=True):
        assert says in line["error"], line
    assert paintover.batch(folder / jobs, "out").skipped == 4
    soundfile.write(folder / "moo.wav", WAVE[::-1], 16_000)
    assert paintover.batch(folder / jobs, "out").skipped == 2


def test_sweep_and_compare(folder, tiny_bundle):
    fields = {"model": str(tiny_bundle), "references": {"audio1": "moo.wav"}}
    found = paintover.sweep("photo.png", "add [audio1]", x="seed=1,2", editor="listens", steps=2, **fields)
    for [cell] in zip(*found.cells, strict=True):
        assert cell.record["media"]["audio1"] == 8000
        assert cell.request.references[0].path == "moo.wav"
    both = paintover.compare("photo.png", "add [audio1]", editors=["listens", "instruct"], steps=2, **fields)
    assert both.columns[0].record["media"]["audio1"] == 8000
    assert "takes no references" in both.columns[1].reason


def test_where_no_editor_is_named(folder, tiny_bundle):
    fields = {"references": {"audio1": "moo.wav"}, "model": str(tiny_bundle), "steps": 2}
    assert paintover.edit("photo.png", "add [audio1]", **fields).request.editor == "any2pix"
    assert paintover.imagine("[audio1]", **fields).request.editor == "any2pix"
    [[cell, _]] = paintover.sweep("photo.png", "add [audio1]", x="seed=1,2", **fields).cells
    assert cell.request.editor == "any2pix"
    with pytest.raises(RequestError, match="sdedit makes no picture from references"):
        paintover.imagine("[audio1]", editor="sdedit", **fields)


def run(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_line(folder, tiny_bundle, capsys):
    own = ("--editor", "listens", "--model", str(tiny_bundle), "--steps", "2")
    words = ("edit", "photo.png", "add [audio1] to [image1]", "--ref", "audio1=moo.wav", "-o", "out.png", *own)
    assert run(capsys, *words)[0] == 0
    _, out, _ = run(capsys, "show", "out.png")
    assert "  references: audio1=moo.wav\n" in out
    _, out, _ = run(capsys, "redo", "out.png")
    assert "identical" in out
    assert "audio1: the same\n" in out
    shutil.move("moo.wav", "cow.wav")
    code, _, err = run(capsys, "redo", "out.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "audio1 = moo.wav, which is not there" in err
    _, out, _ = run(capsys, "redo", "out.png", "--ref", "audio1=cow.wav", "--json")
    assert json.loads(out)["same_references"] is True
    soundfile.write("cow.wav", WAVE[::-1], 16_000)
    _, out, _ = run(capsys, "redo", "out.png", "--ref", "audio1=cow.wav")
    assert "audio1: differs from the one that was used (sha256)\n" in out
    imagine = ("imagine", "[audio1] and [image1]", "--ref", "audio1=cow.wav", "--ref", "image1=cat.png", "-o", "made.png", *own)
    assert run(capsys, *imagine)[0] == 0
    for ref in ("cow.wav", "audio1=", "video1=cow.wav", "audio1=gone.wav", "image1=cat.png"):
        code, _, err = run(capsys, *words[:3], "--ref", ref, "-o", "no.png", *own)
        assert (code, err.count("\n")) == (2, 1), err
        assert not Path("no.png").exists()
    code, _, err = run(capsys, *words[:3], "--ref", "audio1=cow.wav", "--ref", "audio1=moo.wav", *own)
    assert (code, err) == (2, "paintover: audio1 is given twice, as cow.wav and as moo.wav; give one of them\n")
