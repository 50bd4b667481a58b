"""The comparison of tuning editors: its scenes, its curves, its claims, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from paintover import cli
from paintover.editors import registry
from paintover.editors.sdedit import SDEdit
from paintover.editors.unitune import UniTune
from paintover.errors import RequestError
from paintover.evaluation import claims, dials, tuning_page
from paintover.evaluation.curves import LEVELS, Curve, difference, expressiveness, fidelity
from paintover.evaluation.dials import Swept
from paintover.evaluation.plot import Point, plot
from paintover.evaluation.tuning import LEAST, _scenes, run
from paintover.scenes.assets import Assets

FAST = {"size": 32, "steps": 2, "count": 2}
GOOD, FAIR = Swept("good", "fidelity", (1.0, 0.5)), Swept("fair", "strength", (0.5, 1.0))


class Good(UniTune):
    """UniTune, briefly."""

    name = "good"
    tuned = 0

    def settled(self, knobs, bundle):
        return super().settled(knobs.model_copy(update={"iterations": 2, "batch": 1}), bundle)

    def prepare(self, context):
        type(self).tuned += 1
        return (yield from super().prepare(context))


class Fair(SDEdit):
    name = "fair"
    broken = False

    def path(self, context, prepared):
        if self.broken:
            raise ZeroDivisionError("one over nothing")
        return super().path(context, prepared)


@pytest.fixture
def both(monkeypatch):
    monkeypatch.setattr(registry, "_EDITORS", dict(registry._EDITORS))
    monkeypatch.setattr(dials, "DIALS", (GOOD, FAIR))
    monkeypatch.setattr(Good, "tuned", 0)
    for editor in (Good(), Fair()):
        registry.add(editor)


@pytest.fixture(scope="module")
def held_out(tiny_world):
    return Assets(tiny_world[0], "held_out", tiny_world[1])


def test_in_every_scene_a_thing_stays_as_it_is(held_out):
    scenes = [scene for scene, _ in zip(_scenes(held_out, 32, seed=1), range(12), strict=False)]
    assert len({scene.about.extent for scene in scenes}) == len({scene.about.series for scene in scenes}) == 2
    for scene in scenes:
        assert scene.inside.any()
        assert scene.kept.mean() >= LEAST
        assert not (scene.kept & scene.inside).any()
        assert np.abs(scene.source[scene.kept].astype(int) - scene.target[scene.kept]).max() <= 3
        stay = scene.measure(scene.source)
        assert (stay["outside"], stay["gain"], stay["kept_l1"], stay["kept_ssim"]) == (0, 0, 0, 1)
        best = scene.measure(scene.target)
        assert best["target_l1"] == 0
        assert best["gain"] == pytest.approx(stay["target_l1"])
        assert best["outside"] < 0.01


def test_every_method_is_tuned_once_a_scene_and_turned_at_every_value(tiny_world, tiny_bundle, tmp_path, both):
    told = []
    kwargs = {**FAST, "model": str(tiny_bundle), "out": tmp_path}
    outcomes, report = run(*tiny_world, **kwargs, progress=lambda done, of: told.append((done, of)))
    assert told == [(n + 1, 4) for n in range(4)]
    assert [(o.method, o.v) for o in outcomes] == [("good", 0), ("good", 1), ("fair", 0), ("fair", 1)] * 2
    assert Good.tuned == 2
    assert report["curves"]["good"][0]["value"] == 1.0
    assert report["curves"]["fair"][1]["outside"] > 0.01
    assert report["seconds"]["good"]["tune"]["mean"] > 0
    assert report["seconds"]["fair"]["tune"]["mean"] is None
    assert report["methods"]["good"][1]["knobs"]["fidelity"] == 0.5
    assert not (tmp_path / "prepare" / "good 0").exists()
    # It goes on where it was: what is there is neither tuned nor edited again.
    kept = sorted(tmp_path.glob("methods/good/*/cases/*.png"))
    assert len(kept) == 4
    kept[0].unlink()
    again, after = run(*tiny_world, **kwargs)
    assert Good.tuned == 3
    assert after["curves"] == report["curves"]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(outcomes, again, strict=True))
    with pytest.raises(RequestError, match="holds an evaluation with steps 2, not 3"):
        run(*tiny_world, **{**kwargs, "steps": 3})
    drawn = tuning_page.write(tmp_path, outcomes, report)
    assert drawn.is_file()
    assert json.loads((tmp_path / "report.json").read_text())["curves"] == report["curves"]
    text = (tmp_path / "table.md").read_text()
    assert "| good | fidelity 0.5 |" in text
    assert text.count("\n| ") == 2 + 4 + 2 + 3 * 2  # rows, heads and rules of three tables


def test_what_fails_is_told_and_its_scene_counts_for_none(tiny_world, tiny_bundle, tmp_path, both, monkeypatch):
    monkeypatch.setattr(Fair, "broken", True)
    _, report = run(*tiny_world, **FAST, model=str(tiny_bundle), out=tmp_path, values=2)
    [[method, lines]] = report["failures"].items()
    assert method == "fair"
    assert [line.partition(": ")[2] for line in lines] == ["ZeroDivisionError: one over nothing"] * 4
    assert report["curves"] == {}
    assert "fair failed 4 times: scene" in tuning_page.markdown(report)


def test_processes_share_the_scenes(tiny_world, tiny_bundle, tmp_path):
    kwargs = {**FAST, "steps": 5, "model": str(tiny_bundle), "names": ["sdedit"], "values": 2}
    _, alone = run(*tiny_world, **kwargs, out=tmp_path / "alone")
    _, shared = run(*tiny_world, **kwargs, out=tmp_path / "shared", jobs=2)
    for a, b in zip(alone["curves"]["sdedit"], shared["curves"]["sdedit"], strict=True):
        assert b["outside"] == pytest.approx(a["outside"], abs=1e-3)


def curve(name: str, outside, gain, kept=None, scenes: int = 8, noise: float = 0.0) -> Curve:
    """A curve whose measures are these for every scene, but for some noise on the gain."""
    draw = np.random.default_rng(0).normal(size=(len(outside), scenes)) * noise
    same = {key: np.array(values)[:, None] + np.zeros(scenes) for key, values in (("outside", outside), ("gain", gain))}
    same["gain"] = same["gain"] + draw
    same["kept_ssim"] = (1 - same["outside"]) if kept is None else np.array(kept)[:, None] + np.zeros(scenes)
    return Curve(name, tuple(range(len(outside))), same, idle=0.5)


def test_a_curve_is_straight_between_its_settings_and_begins_at_nothing():
    one = curve("one", [0.04, 0.1], [0.1, 0.05])
    assert one.best_within(0.02).mean() == pytest.approx(0.05)  # half-way to the first setting
    assert one.best_within(0.04).mean() == pytest.approx(0.1)
    assert one.best_within(0.08).mean() == pytest.approx(0.1)  # beyond it is worse
    assert one.at_gain(0.1, "outside").mean() == pytest.approx(0.02)
    assert one.at_gain(0.3, "outside") is None
    assert one.most() == pytest.approx(0.2)
    harmful = curve("harmful", [0.04, 0.1], [-0.1, -0.2])
    assert harmful.best_within(0.1).mean() == 0
    assert harmful.most() == 0
    # A curve that comes back is followed to where it is best.
    back = curve("back", [0.06, 0.02], [0.1, 0.3])
    assert back.best_within(0.04).mean() == pytest.approx(0.3)
    assert back.best_within(0.01).mean() == pytest.approx(0.1 / 6)


def test_a_difference_counts_from_two_standard_errors_on():
    scattered = np.array([1.0, -1.0, 1.0, -1.0]) / math.sqrt(4 / 3)  # a standard deviation of 1, so a standard error of 1/2
    for mean, says in ((1.01, "more"), (0.99, "level"), (-0.99, "level"), (-1.01, "less")):
        found = difference(scattered + mean, np.zeros(4))
        assert (found["difference"], found["se"], found["says"]) == (pytest.approx(mean), pytest.approx(0.5), says)
    assert difference(np.array([1.0]), np.array([0.0]))["says"] == "level"  # one scene says nothing


def test_expressiveness_and_fidelity_compare_at_equal_levels():
    ours, theirs = curve("ours", [0.1], [0.2]), curve("theirs", [0.2], [0.2])
    found = expressiveness(ours, theirs)
    assert found["difference"] == pytest.approx(np.mean([level / 0.1 * 0.4 - level / 0.2 * 0.4 for level in LEVELS]))
    assert found["says"] == "more"
    less = fidelity(ours, theirs, "outside")
    assert (less["cut"], less["difference"], less["says"]) == (pytest.approx(0.2), pytest.approx(-0.05), "less")
    assert fidelity(ours, curve("harmful", [0.1], [-0.1]), "outside") is None


def test_claims_are_checked_as_they_were_set():
    good = curve("unitune", [0.05], [0.3], noise=0.001)
    rivals = {
        "sdedit": curve("sdedit", [0.2], [0.3], noise=0.002),
        "dreambooth": curve("dreambooth", [0.2], [0.2], noise=0.002),
        "textual-inversion": curve("textual-inversion", [0.2], [-0.2]),
    }
    seconds = {"unitune": np.full(8, 40.0), "dreambooth": np.linspace(200, 220, 8)}
    found = claims.check({"unitune": good, **rivals}, seconds)
    assert [claim["holds"] for claim in found] == ["yes", "yes", "cannot be told"]
    assert "DreamBooth is slower, and worse for one picture: yes (seconds of tuning" in found[1]["says"]
    turned = claims.check({"unitune": rivals["sdedit"], "sdedit": good}, {})
    assert turned == claims.check({"unitune": rivals["sdedit"], "sdedit": good, "imagic": good}, {})
    other = Curve("unitune", (0,), rivals["sdedit"].measured, 0.5), Curve("sdedit", (0,), good.measured, 0.5)
    assert claims.check({"unitune": other[0], "sdedit": other[1]}, {})[0]["holds"] == "no"
    # Slower, but not worse: told apart in one part only.
    same = Curve("dreambooth", (0,), good.measured, 0.5)
    assert claims.check({"unitune": good, "dreambooth": same}, seconds)[0]["holds"] == "not told apart"
    assert claims.check({"sdedit": good}, {}) == []


def test_dials_are_chosen_by_their_editors():
    assert [dial.editor for dial in dials.dials(["sdedit", "unitune", "sdedit"])] == ["sdedit", "unitune"]
    assert dials.dials(["sdedit"], 3)[0].values == (0.3, 0.5, 0.8)
    assert dials.dials(["sdedit"], 2)[0].values == (0.3, 0.8)
    with pytest.raises(RequestError, match="no dial of 'instruct'; choose of unitune, sdedit"):
        dials.dials(["instruct"])
    with pytest.raises(RequestError, match="--values is 6; expected 2 to 5"):
        dials.dials(["sdedit"], 6)


def test_a_plot_shows_each_curve_in_its_colour():
    empty = plot({}, "", "", "")
    drawn = plot({"a": [Point(0, 0), Point(1, 1, 0.1, 0.1)], "b": [Point(0, 1), Point(1, 0)]}, "title", "x", "y")
    assert drawn.shape == empty.shape == (400, 560, 3)
    blue, orange = (np.abs(drawn.astype(int) - colour).sum(axis=2) < 60 for colour in ((0, 114, 178), (213, 94, 0)))
    for line, falls in ((blue, False), (orange, True)):
        middle = line[34:352, 300:420]
        ys = [np.flatnonzero(column).mean() for column in middle.T if column.any()]
        assert (ys[-1] > ys[0]) == falls


def test_the_command(tiny_world, tiny_bundle, tmp_path, capsys, both):
    world, photos = map(str, tiny_world)
    words = ["evaluate", "tuning", "-o", str(tmp_path / "t"), "--world", world, "--photos", photos, "--model", str(tiny_bundle)]
    words += ["--count", "2", "--size", "32", "--steps", "2", "--methods", "fair", "--values", "2"]
    _run(words)
    printed = capsys.readouterr().out
    assert "Cut at equal fidelity" in printed
    assert printed.rstrip().endswith("curves.jpg")
    _run([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["curves"]["fair"][0]["value"] == 0.5
    _run([*words, "--methods", "foul"], code=2)


def _run(words, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert (end.value.code or 0) == code
