"""Tune once, edit often, throw it away: names, handles, whose editor, what is refused, and that nothing is left."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import stat
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import paintover
from paintover import cli
from paintover.engine.cache import PrepareCache, shared
from paintover.errors import Cancelled, KnobError, ModelError, RequestError
from paintover.models.bundle import load
from paintover.orders import traces
from paintover.orders.batch import batch
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_many, edit_one
from paintover.orders.tune import discard
from paintover.orders.tune import kept as export
from paintover.orders.tuned import found
from paintover.picture.provenance import read
from paintover.tuning import store
from paintover.tuning.apply import applied


@pytest.fixture
def model(tiny_bundle):
    return {"model": tiny_bundle}


@pytest.fixture
def kept(photo, tiny_bundle):
    """A named tuning of the photo, by unitune."""
    return paintover.tune(photo, name="meadow", model=tiny_bundle, iterations=2, batch=1, rate=1e-3)


def files() -> list[Path]:
    return [path for path in Path(os.environ["PAINTOVER_CACHE"]).rglob("*") if path.is_file()]


def run(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_an_edit_by_name_is_the_edit_that_tunes_by_itself(kept, photo, model):
    by_name = paintover.edit(None, "a cow", tuned="meadow", steps=2, guidance=3)
    itself = paintover.edit(photo, "a cow", editor="unitune", steps=2, guidance=3, iterations=2, batch=1, rate=1e-3, **model)
    assert np.array_equal(by_name.rgb_HWC, itself.rgb_HWC)
    assert (by_name.request.tuned, itself.request.tuned) == ("meadow", None)
    assert by_name.request.knobs == itself.request.knobs
    assert by_name.request.picture_sha256 == itself.request.picture_sha256
    untuned = paintover.edit(photo, f"{kept.word} a cow", editor="sdedit", strength=0.9, guidance=3, steps=2, **model)
    assert not np.array_equal(by_name.rgb_HWC, untuned.rgb_HWC), "it makes a difference"


def test_a_caption_may_say_the_word_itself(kept):
    plain, said = (paintover.edit(None, words, tuned="meadow", steps=2).rgb_HWC for words in ("a cow", f"{kept.word} a cow"))
    assert np.array_equal(plain, said)


def test_another_editor_walks_the_bent_bundle(kept, tiny_bundle):
    bent = paintover.imagine(f"a photo of {kept.word}", tuned="meadow", steps=2)
    plain = paintover.imagine(f"a photo of {kept.word}", model=tiny_bundle, steps=2)
    assert not np.array_equal(bent.rgb_HWC, plain.rgb_HWC)
    assert bent.request.model_fingerprint == plain.request.model_fingerprint
    assert bent.record["warnings"] == []
    [note] = paintover.imagine("a cow", tuned="meadow", steps=2).record["warnings"]
    assert note == f"the caption does not say {kept.word!r}, which is what the tuning 'meadow' taught the model"
    edited = paintover.edit(None, f"{kept.word} by night", tuned="meadow", editor="mdp-noise", steps=2, t_max=2, t_m=0)
    assert edited.request.editor == "mdp-noise"


def test_many_edits_share_the_bent_network_and_its_calls(kept, tiny_bundle, monkeypatch):
    from paintover.engine import engine

    calls = []
    original = engine.Engine._call
    monkeypatch.setattr(
        engine.Engine, "_call", lambda self, asked, told: (calls.append(len(asked)), original(self, asked, told))[1]
    )
    request = request_for(instruction="a cow", editor="unitune", knobs={"guidance": 1}, model=str(tiny_bundle), steps=2)
    orders = [Order(request.model_copy(update={"tuned": "meadow", "seed": seed})) for seed in range(3)]
    together = list(edit_many(orders))
    assert set(calls) == {3}, "three edits, one row each, in one call a step"
    alone = edit_one(orders[1])
    assert np.abs(together[1].rgb_HWC.astype(int) - alone.rgb_HWC).max() <= 1
    bundle = load(tiny_bundle)
    tuning = found("meadow")
    first, second = (applied(bundle, tuning.tensors(), tuning.record.sha256) for _ in range(2))
    assert first is second
    assert first.codec is bundle.codec
    assert first.fingerprint != bundle.fingerprint
    own = dict(bundle.denoiser.unet.named_parameters())
    assert all(parameter is not own[name] for name, parameter in first.denoiser.unet.named_parameters())


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"iterations": 3}, KnobError, "iterations was settled by the tuning 'meadow' (iterations 2)"),
        ({"editor": "imagic"}, RequestError, "imagic tunes by itself, and unitune made the tuning 'meadow'"),
        ({"editor": "instruct"}, RequestError, "instruct makes nothing from captions"),
        ({"tuned": "meadov"}, RequestError, "there is no tuning 'meadov'"),
        ({"tuned": "meadov"}, RequestError, "did you mean 'meadow'"),
        ({"tuned": "../meadow"}, RequestError, "there is no tuning '../meadow'"),
        ({"tuned": "(unnamed)"}, RequestError, "not kept"),
    ],
)
def test_what_does_not_go_with_a_tuning_says_so(kept, asked, error, says):
    with pytest.raises(error, match=r"^[^\n]*$") as raised:
        paintover.edit(None, "a cow", **{"tuned": "meadow", "steps": 2} | asked)
    assert says in str(raised.value)


def test_another_picture_or_model_says_so(kept, photo, tmp_path, tmp_path_factory):
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 64)).save(other)
    with pytest.raises(RequestError, match=r"the tuning 'meadow' is of another picture .*photo.png"):
        paintover.edit(other, "a cow", tuned="meadow", steps=2)
    paintover.edit(photo, "a cow", tuned="meadow", steps=2)  # the same by its bytes
    paintover.edit(other, f"{kept.word} cow", tuned="meadow", editor="sdedit", steps=2)  # whose weights may walk any
    from paintover.models.tiny import tiny

    another = tiny(tmp_path_factory.mktemp("another"), "text-to-image")
    with pytest.raises(ModelError, match=r"the tuning 'meadow' is of the model .*; leave --model out, or tune this one"):
        paintover.imagine("a cow", tuned="meadow", model=another, steps=2)


def test_tuned_before_is_found_and_a_taken_name_is_not_overwritten(kept, photo, model):
    again = paintover.tune(photo, name="meadow", iterations=2, batch=1, rate=1e-3, **model)
    assert (again.found, kept.found) == (True, False)
    assert again.record.created == kept.record.created
    with pytest.raises(RequestError, match="there is a tuning 'meadow' already"):
        paintover.tune(photo, name="meadow", iterations=1, batch=1, **model)
    second = paintover.tune(photo, name="meadow", numbered=True, iterations=1, batch=1, **model)
    assert second.name == "meadow-2"
    forced = paintover.tune(photo, name="meadow", force=True, iterations=1, batch=1, **model)
    assert forced.record.sha256 == second.record.sha256 != kept.record.sha256


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a\0b", "-x", "x" * 65, "ü"])
def test_names_are_no_paths(name, photo, model):
    with pytest.raises(RequestError, match="cannot be the name of a tuning"):
        paintover.tune(photo, name=name, iterations=1, **model)
    assert files() == []


def test_what_is_kept_is_private_and_complete(kept, photo):
    folder = store.root() / "meadow"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (store.root(), folder, *folder.iterdir())}
    assert modes.pop("tuned") == modes.pop("meadow") == 0o700
    assert set(modes.values()) == {0o600}
    record = json.loads((folder / "tuned.json").read_text())
    assert record["knobs"]["iterations"] == 2
    sha256 = hashlib.sha256(photo.read_bytes()).hexdigest()
    told = {"name": str(photo), "sha256": sha256, "file": "picture-1.png", "file_sha256": sha256}
    assert record["pictures"] == [told]
    assert (folder / "picture-1.png").read_bytes() == photo.read_bytes()
    assert (record["word"], record["editor"]) == (kept.word, "unitune")
    assert kept.expires - datetime.now(UTC) > timedelta(days=6.9)


def test_it_expires_after_its_last_use_and_is_swept_at_the_next(kept, photo, model):
    folder = store.root() / "meadow"
    file = folder / "tuned.json"

    def ends(**after) -> None:
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"expires": (datetime.now(UTC) + timedelta(**after)).isoformat()}))

    ends(minutes=5)
    paintover.imagine("a cow", tuned="meadow", steps=2)
    assert store.listed()[0].record.expires - datetime.now(UTC) > timedelta(days=6.9), "each use puts it off"
    ends(seconds=-1)
    assert store.listed() == []
    with pytest.raises(RequestError, match="the tuning 'meadow' has expired"):
        paintover.imagine("a cow", tuned="meadow", steps=2)
    assert not folder.exists()
    paintover.tune(photo, name="meadow", days=2, iterations=1, batch=1, **model)
    ends(seconds=-1)
    assert [record.name for record in traces.sweep()] == ["meadow"]
    assert not folder.exists()


def test_an_unnamed_one_leaves_nothing_when_it_is_closed(photo, tiny_bundle):
    before = set(files())
    with paintover.tune(photo, model=tiny_bundle, iterations=2, batch=1) as tuned:
        assert tuned.edit("a cow", steps=2).request.tuned == "(unnamed)"
        made = tuned.imagine(f"a photo of {tuned.word}", steps=2)
        assert made.rgb_HWC.shape == (64, 64, 3)
        tensors = [weakref.ref(tensor) for tensor in tuned.tuning.tensors().values()]
        bent = applied(load(tiny_bundle), tuned.tuning.tensors(), tuned.record.sha256)
        network = weakref.ref(bent.denoiser.unet)
        del bent
        assert tensors
        assert network() is not None
        assert (tuned.name, tuned.expires) == (None, None)
        assert tuned.seconds > 0
    gc.collect()
    assert [ref for ref in tensors if ref() is not None] == []
    assert network() is None
    assert set(files()) == before == set(), "neither weights, nor the picture, nor its latents, nor a state"
    assert shared()._memory == {}
    for use in (lambda: tuned.edit("a cow"), lambda: tuned.imagine("a cow"), lambda: tuned.keep("folder")):
        with pytest.raises(RequestError, match="this tuned model was closed; tune again"):
            use()
    tuned.close()


def test_a_named_one_stays_when_it_is_closed_and_goes_when_it_is_discarded(kept, photo):
    paintover.edit(None, "a cow", tuned="meadow", steps=2)
    kept.close()
    with pytest.raises(RequestError, match="may still be found by its name, 'meadow'"):
        kept.edit("a cow")
    assert (store.root() / "meadow").is_dir()
    kept.discard()
    assert files() == [], "nor is the picture in the cache"
    with pytest.raises(RequestError, match="there is no tuning 'meadow'"):
        kept.discard()


def test_traces_of_the_picture_go_with_what_was_tuned(photo, model, tmp_path):
    quick = {"batch": 1, "rate": 1e-3, **model}

    def entries() -> int:
        return len([path for path in files() if path.suffix == ".entry"])

    paintover.tune(photo, name="meadow", iterations=1, **quick)
    paintover.edit(None, "a cow", tuned="meadow", steps=2)
    assert entries() == 1, "its latents"
    file = store.root() / "meadow" / "tuned.json"
    ended = {"expires": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    file.write_text(json.dumps(json.loads(file.read_text()) | ended))
    with pytest.raises(RequestError, match="has expired"):
        paintover.imagine("a cow", tuned="meadow", steps=2)
    assert files() == [], "expired"
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 64), "red").save(other)
    paintover.tune(other, name="meadow", iterations=1, **quick)
    paintover.tune(photo, name="meadow", force=True, iterations=1, **quick).edit("a cow", steps=2)
    assert entries() == 1, "replaced"
    discard("meadow")
    assert files() == []
    own = PrepareCache(tmp_path / "own")
    tuned = paintover.tune(photo, name="meadow", iterations=1, cache=own, **quick)
    tuned.edit("a cow", steps=2)
    assert [path for path in files() if path.suffix == ".entry"] == [], "all is in its own"
    assert len(list(own.folder.rglob("*.entry"))) == 1
    tuned.discard()
    assert [path for path in own.folder.rglob("*") if path.is_file()] == files() == []
    assert own._memory == {}
    paintover.tune(photo, name="meadow", iterations=1, cache=PrepareCache(tmp_path / "own"), **quick)
    discard("meadow")
    assert [path for path in own.folder.rglob("*") if path.is_file()] == files() == []


def test_pixels_in_memory_are_kept_as_well(tiny_bundle):
    rgba = np.random.default_rng(0).integers(0, 256, (48, 80, 4), dtype=np.uint8)
    with paintover.tune(rgba, name="pixels", model=tiny_bundle, iterations=1, batch=1) as tuned:
        first = tuned.edit("a cow", steps=2)
    again = paintover.edit(None, "a cow", tuned="pixels", steps=2)
    assert np.array_equal(first.rgb_HWC, again.rgb_HWC)
    assert np.array_equal(again.alpha_HW, rgba[:, :, 3])
    assert again.request.picture_sha256 == first.request.picture_sha256
    paintover.edit(rgba, "a cow", tuned="pixels", steps=2)


@pytest.mark.parametrize(
    ("picture", "options", "says"),
    [
        ("one", {"editor": "sdedit"}, "sdedit tunes nothing; choose one of unitune"),
        ("two", {}, "unitune learns from one picture, and 2 were given"),
        ("none", {}, "unitune learns from a picture; name one"),
        ("one", {"editor": "imagic"}, "say that with --caption"),
        ("one", {"caption": "a cow"}, "unitune takes no caption while it tunes"),
        ("one", {"guidance": 3}, "guidance is no part of the tuning"),
        ("one", {"nonsense": 3}, "unitune has no knob 'nonsense'"),
        ("one", {"days": 0, "name": "x"}, "days is 0"),
    ],
)
def test_what_cannot_be_tuned_says_so(picture, options, says, photo, model):
    given = {"one": photo, "two": [photo, photo], "none": []}[picture]
    with pytest.raises(paintover.PaintoverError, match=r"^[^\n]*$") as raised:
        paintover.tune(given, **options, **model)
    assert says in str(raised.value)


def test_several_pictures_teach_a_word(photo, tmp_path, model):
    second = tmp_path / "second.png"
    Image.open(photo).rotate(90, expand=True).save(second)
    knobs = {"editor": "textual-inversion", "word": "zwx", "initial": "cow", "iterations": 2, "batch": 1}
    with paintover.tune([photo, second], **knobs, **model) as both, paintover.tune(photo, **knobs, **model) as one:
        assert [Path(source.name) for source in both.record.pictures] == [photo, second]
        assert both.record.sha256 != one.record.sha256, "it learns from both"
        made = both.imagine("a photo of zwx", steps=2)
        assert not np.array_equal(made.rgb_HWC, one.imagine("a photo of zwx", steps=2).rgb_HWC)
        both.edit("a photo of zwx", picture=Image.new("RGB", (64, 64)), steps=2)  # of any picture


def test_imagic_knows_its_caption(photo, model):
    knobs = {"editor": "imagic", "caption": "a cow lying down", "embedding_iterations": 1, "iterations": 1}
    with paintover.tune(photo, **knobs, **model) as tuned:
        assert tuned.edit(steps=2).request.instruction == "a cow lying down"
        with pytest.raises(
            RequestError, match=r"this tuning learnt the caption 'a cow lying down'; leave the words out, or tune"
        ):
            tuned.edit("a cow standing", steps=2)


def test_words_that_were_learnt_need_not_be_said_again(photo, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knobs = {"editor": "imagic", "caption": "a cow lying down", "embedding_iterations": 1, "iterations": 1}
    paintover.tune(photo, name="lying", **knobs, **model)
    assert paintover.edit(None, tuned="lying", steps=2).request.instruction == "a cow lying down"
    assert run(capsys, "edit", "--tuned", "lying", "--steps", 2)[0] == 0
    assert read(tmp_path / "photo.edited.png")["request"]["instruction"] == "a cow lying down"
    code, _, err = run(capsys, "edit", "a horse", "--tuned", "lying", "--steps", 2)
    assert (code, "learnt the caption 'a cow lying down'" in err) == (2, True)
    paintover.edit(None, "a horse", tuned="lying", editor="sdedit", steps=2)  # which learnt nothing with it


def test_cancelling_ends_it_within_an_iteration(photo, model):
    seen = []
    with pytest.raises(Cancelled):
        paintover.tune(
            photo, name="meadow", iterations=9, batch=1, on_step=seen.append, cancelled=lambda: len(seen) == 2, **model
        )
    assert [report.i for report in seen] == [0, 1]
    assert store.listed() == []


def test_redo_repeats_it_or_says_what_is_gone(kept, tmp_path):
    out = tmp_path / "cow.png"
    paintover.edit(None, "a cow", tuned="meadow", steps=2, out=out)
    again = paintover.redo(out)
    assert (again.identical, again.same_source, again.same_model, again.same_tuning) == (True, True, True, True)
    elsewhere = kept.keep(tmp_path / "folder")
    kept.discard()
    with pytest.raises(
        RequestError, match=r"a tuning that is gone: there is no tuning 'meadow'.*or name another one \(--tuned\)"
    ):
        paintover.redo(out)
    with pytest.raises(RequestError, match="holds no picture"):
        paintover.redo(out, tuned=elsewhere)
    assert paintover.redo(out, tuned=elsewhere, picture=kept.record.pictures[0].name).identical


def test_what_was_kept_in_a_folder_is_a_tuning(kept, photo, tmp_path):
    folder = kept.keep(tmp_path / "folder")
    by_name = paintover.edit(None, "a cow", tuned="meadow", steps=2)
    by_folder = paintover.edit(photo, "a cow", tuned=folder, model=kept.record.model, steps=2)
    assert np.array_equal(by_name.rgb_HWC, by_folder.rgb_HWC)
    assert by_folder.request.editor == "unitune"
    with pytest.raises(RequestError, match="exists already"):
        kept.keep(folder)
    assert export("meadow", folder, force=True) == folder
    (folder / "tuned.json").unlink()  # as other software would leave it
    made = paintover.imagine("a cow", tuned=folder, model=kept.record.model, steps=2)
    assert made.request.tuned == str(folder)


def test_a_batch_may_name_it(kept, tmp_path, photo):
    jobs = tmp_path / "jobs.jsonl"
    lines = [{"instruction": f"a cow {n}", "tuned": "meadow", "steps": 2, "out": f"{n}.png"} for n in range(2)]
    lines.append({"instruction": f"a {kept.word}", "tuned": "meadow", "editor": "imagine", "steps": 2})
    jobs.write_text("\n".join(map(json.dumps, [*lines, {"instruction": "a cow", "tuned": "gone"}])))
    report = batch(jobs, tmp_path / "out")
    assert (report.done, report.failed, report.failed_by_us) == (3, 1, 0)
    assert read(tmp_path / "out" / "0.png")["request"]["editor"] == "unitune"
    assert batch(jobs, tmp_path / "out").skipped == 3


def test_a_sweep_shares_one_tuning(kept):
    swept = paintover.sweep(None, "a cow", tuned="meadow", x=("guidance", [1, 3]), steps=2)
    assert [cell.request.knobs["guidance"] for cell in swept.cells[0]] == [1, 3]


def test_what_is_damaged_is_told_and_tuned_anew(kept, photo, model, capsys):
    weights = store.root() / "meadow" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 1
    weights.write_bytes(data)
    kept.close()
    gc.collect()
    with pytest.raises(ModelError, match=r"the tuning 'meadow' is damaged: its weights are not what was written; discard it"):
        paintover.imagine("a cow", tuned="meadow", steps=2)
    again = paintover.tune(photo, name="meadow", iterations=2, batch=1, rate=1e-3, **model)
    assert not again.found
    assert again.record.sha256 == kept.record.sha256
    store.forget()
    assert again.edit("a cow", steps=2).request.tuned_sha256 == kept.record.sha256, "what is there is the new one"
    (store.root() / "meadow" / "tuned.json").write_text("{")
    with pytest.raises(ModelError, match=r"its tuned.json cannot be read"):
        paintover.imagine("a cow", tuned="meadow", steps=2)
    assert "the tuning 'meadow' is damaged" in run(capsys, "tuned")[2]
    assert run(capsys, "tuned", "--discard", "meadow")[0] == 0
    assert not (store.root() / "meadow").exists()


def test_two_that_differ_in_bits_are_one_afterwards():
    def write(value: float) -> store.Tuning:
        return store.write(store.Record(name="two", key="same"), {"x": torch.full((9,), value)}, ())

    first, second = write(1.0), write(2.0)
    assert second.record.sha256 == first.record.sha256
    store.forget()
    del first
    gc.collect()
    assert second.tensors()["x"][0] == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"expires": "2031-01-01T00:00:00"}, "expires"),
        ({"created": "2021-01-01T00:00:00"}, "created"),
        ({"days": 1e300}, "days"),
        ({"days": float("nan")}, "cannot be read"),
        ({"seconds": float("inf")}, "cannot be read"),
        ({"knobs": {"iterations": "x"}}, "iterations"),
        ({"editor": "nosuch"}, "nosuch"),
    ],
)
def test_a_record_that_somebody_wrote_hurts_itself_alone(wrong, says):
    for name in ("good", "bad"):
        store.write(store.Record(name=name, editor="unitune"), {"x": torch.ones(2)}, ())
    file = store.root() / "bad" / "tuned.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    with pytest.raises(ModelError, match=r"^the tuning 'bad' is damaged[^\n]*$") as raised:
        found("bad")
    assert says in str(raised.value)
    assert found("good").record.name == "good"
    assert "good" in [tuning.record.name for tuning in store.listed()]


def test_cut_weights_links_and_what_is_gone_are_told(tmp_path):
    cut, gone = (store.write(store.Record(name=name, key="k"), {"x": torch.ones(99)}, ()) for name in ("cut", "gone"))
    (tmp_path / "elsewhere").mkdir()
    (store.root() / "link").symlink_to(tmp_path / "elsewhere")
    with (cut.folder / "weights.safetensors").open("r+b") as file:
        file.truncate(100)
    assert store.broken() == ["cut", "link"]
    assert [tuning.record.name for tuning in store.listed()] == ["gone"]
    discard("gone")
    with pytest.raises(ModelError, match="the tuning 'gone' was discarded meanwhile"):
        gone.tensors()
    with pytest.raises(ModelError, match="paintover tuned --discard cut"):
        cut.tensors()
    discard("link")
    assert (tmp_path / "elsewhere").is_dir()
    assert store.broken() == ["cut"]


def test_a_folder_s_pipes_and_links_are_passed_by(tmp_path):
    for name in ("tuned.json", "x.safetensors"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "y.safetensors").mkdir()
    (tmp_path / "z.safetensors").symlink_to(tmp_path / "nowhere")
    deep = tmp_path / "unet" / "deep"
    deep.mkdir(parents=True)
    os.mkfifo(deep / "w.safetensors")
    tuning = found(tmp_path)
    with pytest.raises(ModelError, match="holds no"):
        tuning.tensors()


def test_a_changed_picture_is_told_and_never_stands_for_the_original(kept, photo, tmp_path):
    picture = store.root() / "meadow" / "picture-1.png"
    Image.new("RGB", (120, 80)).save(picture)
    with pytest.raises(ModelError, match=r"the tuning 'meadow' is damaged: its picture is not what was written"):
        paintover.edit(None, "a cow", tuned="meadow", steps=2)
    folder = kept.keep(tmp_path / "folder")
    record = json.loads((folder / "tuned.json").read_text())
    source = record["pictures"][0] | {"file": "picture-1.png", "file_sha256": hashlib.sha256(picture.read_bytes()).hexdigest()}
    (folder / "tuned.json").write_text(json.dumps(record | {"pictures": [source]}))
    (folder / "picture-1.png").write_bytes(picture.read_bytes())
    with pytest.raises(RequestError, match="holds no picture"):  # whatever a downloaded folder says
        paintover.edit(None, "a cow", tuned=folder, model=kept.record.model, steps=2)


def test_a_place_that_cannot_be_written_to_shows_before_it_is_tuned(photo, model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PAINTOVER_CACHE", str(tmp_path / "file"))
    seen = []
    with pytest.raises(RequestError, match=r"^the tuning could not be kept in .*; name another folder in \$PAINTOVER_CACHE$"):
        paintover.tune(photo, name="meadow", iterations=1, batch=1, on_step=seen.append, **model)
    assert seen == [], "before it takes its time"
    with paintover.tune(photo, iterations=1, batch=1, **model) as tuned:
        assert tuned.edit("a cow", steps=2).rgb_HWC.shape == (80, 120, 3)


def test_what_could_not_be_kept_in_the_end_is_taken_up_again(photo, model, monkeypatch):
    def full(*given, **how):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as short:
        short.setattr(store, "write", full)
        with paintover.tune(photo, name="meadow", iterations=2, batch=1, **model) as tuned:
            assert (tuned.name, "No space left on device" in tuned.notes[0]) == (None, True)
    seen = []
    again = paintover.tune(photo, name="meadow", iterations=2, batch=1, on_step=seen.append, **model)
    assert (again.name, seen) == ("meadow", [])
    assert again.record.sha256 == tuned.record.sha256
    again.discard()
    assert files() == []


def test_a_state_stays_where_nothing_could_be_kept(photo, model, monkeypatch):
    def full(*given, **how):
        raise OSError(28, "No space left on device")

    before, seen = [], []
    with pytest.raises(Cancelled):
        paintover.tune(
            photo, name="a", iterations=3, batch=1, on_step=before.append, cancelled=lambda: len(before) == 2, **model
        )
    with monkeypatch.context() as short:
        short.setattr(store, "write", full)
        short.setattr(PrepareCache, "_write", lambda self, key, tensors: False)
        paintover.tune(photo, name="a", iterations=3, batch=1, **model).close()
    shared()._memory.clear()
    paintover.tune(photo, name="a", iterations=3, batch=1, on_step=seen.append, **model)
    assert [report.i for report in seen] == [2]


def test_a_name_that_is_taken_meanwhile_costs_no_tuning(photo, model):
    def take(report) -> None:
        if report.i == 0:
            store.write(store.Record(name="meadow", key="another"), {"x": torch.ones(2)}, ())

    tuned = paintover.tune(photo, name="meadow", iterations=2, batch=1, on_step=take, **model)
    assert tuned.name == "meadow-2"
    assert tuned.notes == ("the name 'meadow' was taken meanwhile; what was tuned is called 'meadow-2'",)
    assert store.find("meadow").record.key == "another"


def test_a_picture_s_own_name_finds_what_was_tuned_of_it_before(kept, photo, model):
    second = paintover.tune(photo, name="meadow", numbered=True, iterations=1, batch=1, **model)
    assert second.name == "meadow-2"
    kept.discard()
    again = paintover.tune(photo, name="meadow", numbered=True, iterations=1, batch=1, **model)
    assert (again.name, again.found) == ("meadow-2", True)


@pytest.mark.parametrize("where", ["file", "file/below", ".", "strangers"])
def test_where_it_cannot_be_kept_shows_before_it_is_tuned(photo, tiny_bundle, tmp_path, capsys, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    for name in ("file", "strangers/letter"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine")
    code, out, err = run(capsys, "tune", photo, "--iterations", 1, "--model", tiny_bundle, "--keep", where, "--force")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "is a file" in err or "holds other things" in err
    assert store.listed() == []


def test_a_kept_folder_tells_of_no_place_on_ones_machine(photo, tiny_bundle, tmp_path):
    with paintover.tune(photo, model=tiny_bundle, iterations=1, batch=1) as tuned:
        folder = tuned.keep(tmp_path / "folder")
        by_handle = tuned.edit("a cow", steps=2)
    record = json.loads((folder / "tuned.json").read_text())
    assert (record["pictures"][0]["name"], record["model"]) == ("photo.png", tiny_bundle.name)
    places = [str(place).encode() for place in (tiny_bundle.parent, photo.parent, tmp_path)]
    told = [path.name for path in folder.rglob("*") if path.is_file() and any(p in path.read_bytes() for p in places)]
    assert told == []
    with pytest.raises(RequestError, match=r"was made for a model '.*'; say where that lies \(--model\)"):
        paintover.edit(photo, "a cow", tuned=folder, steps=2)
    again = paintover.edit(photo, "a cow", tuned=folder, model=tiny_bundle, steps=2)
    assert np.array_equal(again.rgb_HWC, by_handle.rgb_HWC)


def test_what_the_cache_does_not_keep_is_told(photo, tiny_bundle):
    cache = PrepareCache(max_bytes=400_000)
    request = request_for(
        picture=str(photo),
        instruction="a cow",
        editor="unitune",
        knobs={"iterations": 1, "batch": 1},
        model=str(tiny_bundle),
        steps=2,
    )
    told = edit_one(Order(request), cache).record["warnings"]
    assert any("more than the cache keeps" in warning and "paintover tune" in warning for warning in told)
    kept = edit_one(Order(request), PrepareCache()).record["warnings"]
    assert not any("cache" in warning for warning in kept)


def test_large_entries_are_found_again_while_they_are_in_use(tmp_path):
    cache = PrepareCache(tmp_path, memory_bytes=100)
    made = cache.keep("k", {"x": torch.arange(100.0)})
    assert cache.find("k")["x"] is made["x"]
    cache.forget("k")
    assert cache.find("k") is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_commands(photo, tiny_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fast = ("--iterations", 2, "--batch", 1, "--model", tiny_bundle)
    code, out, err = run(capsys, "tune", photo, *fast, "--keep", "kept")
    assert code == 0, err
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert lines["tuned"].startswith("photo (unitune, photo.png")
    assert lines["edit"] == 'paintover edit --tuned photo "..."'
    assert lines["kept"] == "kept"
    code, out, _ = run(capsys, "edit", "a cow", "--tuned", "photo", "--steps", 2)
    assert (code, out) == (0, "photo.edited.png\n")
    assert run(capsys, "edit", photo, "a cow", "--tuned", "photo", "--steps", 2)[1] == "photo.edited-2.png\n"
    assert run(capsys, "imagine", "a cow", "--tuned", "photo", "--steps", 2)[0] == 0
    code, out, _ = run(capsys, "tuned", "--json")
    [told] = json.loads(out)["tuned"]
    assert (told["name"], told["editor"], told["knobs"]["iterations"]) == ("photo", "unitune", 2)
    assert told["bytes"] > 100_000
    assert "photo" in run(capsys, "tuned")[1]
    code, _, err = run(capsys, "tune", photo, "--nonsense", 3)
    assert (code, "unitune takes tune (full or lora)" in err) == (2, True)
    assert run(capsys, "tuned", "--discard", "photo")[0] == 0
    code, _, err = run(capsys, "tuned", "--discard", "photo")
    assert (code, "there is no tuning 'photo'" in err) == (2, True)
    assert json.loads(run(capsys, "tune", photo, *fast, "--json")[1])["name"] == "photo"
