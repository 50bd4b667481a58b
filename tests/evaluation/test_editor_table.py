"""The table over editors: its cases, its arithmetic, its finding on MDP's claim, and that no editor can spoil it."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from paintover import cli, picture
from paintover.conditions.prompt import prompts
from paintover.editors import registry
from paintover.editors.sdedit import SDEdit
from paintover.editors.tuned import Tuned
from paintover.errors import PaintoverError, RequestError
from paintover.evaluation import captioned, claim, comparison
from paintover.evaluation.captioned import ROUNDS, Captioned, cases
from paintover.evaluation.columns import FOUR, NULL_TEXT, PUBLISHED, Column, columns
from paintover.evaluation.edited import CODEC, NOTHING, Edited, Scene
from paintover.evaluation.editors import TIMED, run
from paintover.evaluation.standing import gains, mean_and_error, standing
from paintover.path.predict import Predict
from paintover.scenes import edits, words
from paintover.scenes.assets import Assets

FAST = {"size": 32, "steps": 2}
ROUND = 16


class Unfit(SDEdit):
    """Fails on every second picture."""

    name = "unfit"

    def path(self, context, prepared):
        if context.request.seed % 2:
            raise ZeroDivisionError("one over nothing")
        return super().path(context, prepared)


class Inverting(SDEdit):
    """Asks three things of a picture, once, and starts from what it was told."""

    name = "inverting"
    takes_source_prompt = True
    prepared_by = "three"

    def prepared_from(self, context):
        return {"source_prompt": context.request.source_prompt}

    def prepare(self, context):
        [source] = prompts(context.bundle.text, [context.request.source_prompt])
        eps = yield [Predict(context.source, t, source) for t in (1, 5, 9)]
        return {"mean": sum(eps) / 3}

    def path(self, context, prepared):
        latents = yield from super().path(context, prepared)
        return latents + 0.1 * prepared["mean"]


class InvertingToo(Inverting):
    name = "inverting-too"


@pytest.fixture
def with_others(monkeypatch):
    monkeypatch.setattr(registry, "_EDITORS", dict(registry._EDITORS))
    for editor in (Unfit(), Inverting(), InvertingToo()):
        registry.add(editor)


@pytest.fixture(scope="module")
def held_out(tiny_world):
    return Assets(tiny_world[0], "held_out", tiny_world[1])


def test_a_case_depends_on_its_number_alone(held_out):
    few, many = list(cases(held_out, 3, seed=1)), list(cases(held_out, ROUND, seed=1))
    for one, other in zip(few, many, strict=False):
        assert one.case.target_caption == other.case.target_caption
        assert np.array_equal(one.case.render(16)[1], other.case.render(16)[1])
    assert [c.case.caption for c in cases(held_out, 3, seed=2)] != [c.case.caption for c in few]


def test_captions_say_the_difference_and_nothing_else(held_out):
    found = list(cases(held_out, 4 * ROUND, seed=1))
    for one in found:
        case = one.case
        assert case.caption != case.target_caption
        for text in (case.caption, case.target_caption):
            assert not text.startswith(("there is", "a photo", "a picture", "nothing"))
        assert case.before.backdrop.label is not None
        assert (case.before.backdrop.plain is not None) == (one.series == "plain")
        source, target = case.render(32)
        assert edits.changed(source, target).any()
        assert one.extent == ("local" if case.kind in edits.LOCAL else "global")
        if case.kind in words.LOOK_WORDS:
            assert case.target_caption == f"{case.caption} {words.LOOK_WORDS[case.kind]}"
    for series in ROUNDS:
        mine = [one for one in found[:ROUND] if one.series == series]
        assert sum(one.extent == "local" for one in mine) == len(mine) / 2
        assert {one.case.kind for one in found if one.series == series} >= {*ROUNDS[series]} - {"look"} | {"night", "fog"}


def test_a_world_without_such_scenes_says_so(held_out, monkeypatch):
    monkeypatch.setattr(edits, "make", lambda kind, assets, rng: edits.Case(kind, None, None, "", "", ""))
    with pytest.raises(PaintoverError, match="no held-out scene"):
        captioned._place("replace", held_out, 1, 1)


def test_columns_are_the_editors_of_pictures_and_published_forms():
    names = [column.name for column in columns()]
    left_out = ("imagine", *(name for name in registry.names() if isinstance(registry.get(name), Tuned)))
    assert [name for name in names if name not in PUBLISHED] == [n for n in registry.names() if n not in left_out]
    assert {"imagine", "unitune"} <= {*left_out}
    assert [column.name for column in columns(["unitune"])] == ["unitune"]  # whoever asks for it has it
    assert [column.name for column in columns(["sdedit", "instruct", "sdedit"])] == ["sdedit", "instruct"]
    with pytest.raises(RequestError, match=r"no editor 'sdedot' to compare \(did you mean 'sdedit'\?\)"):
        columns(["sdedot"])
    with pytest.raises(RequestError, match="no editor 'imagine'"):
        columns(["imagine"])


@pytest.mark.parametrize(
    ("editor", "told"),
    [
        ("instruct", {"instruction": "do"}),
        ("sdedit", {"instruction": "after"}),
        ("mdp-noise", {"instruction": "after", "source_prompt": "before"}),
    ],
)
def test_an_editor_is_told_what_it_takes(editor, told):
    assert Column(editor, editor).words("before", "after", "do") == told


def test_it_goes_on_where_it_was_stopped_and_no_failure_is_fatal(tiny_world, tiny_bundle, tmp_path, with_others):
    kwargs = {**FAST, "model": str(tiny_bundle), "count": TIMED + 2, "names": ["inverting", "unfit"], "out": tmp_path}
    told = []
    outcomes, before = run(*tiny_world, **kwargs, progress=lambda done, count: told.append((done, count)))
    count = TIMED + 2
    assert told == [(n + 1, 2 * count) for n in range(2 * count)]
    assert [o.column for o in outcomes] == [NOTHING, CODEC, "inverting", "unfit"] * count
    assert before["failures"]["unfit"] == [f"scene {n}: ZeroDivisionError: one over nothing" for n in range(count) if n % 2]
    assert set(before["failures"]) == {"unfit"}
    assert before["groups"]["all"]["unfit"]["scenes"] == count - count // 2
    cost = before["costs"]["inverting"]
    assert cost["timed"] == TIMED
    assert cost["evaluations_cold"] == cost["evaluations_warm"] + 3
    assert cost["per_step"] == cost["evaluations_warm"] / 2
    kept = sorted((tmp_path / "columns" / "inverting" / "cases").iterdir())
    assert len(kept) == count
    kept[1].unlink()
    times = {file: file.stat().st_mtime_ns for file in kept if file.exists()}
    again, after = run(*tiny_world, **kwargs)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    for one, other in zip(outcomes, again, strict=True):
        assert one.failure == other.failure
        assert (one.pixels is None and other.pixels is None) or np.array_equal(one.pixels, other.pixels)
    assert after["groups"] == before["groups"]
    assert after["costs"]["inverting"]["timed"] == TIMED
    more, _ = run(*tiny_world, **kwargs | {"names": ["inverting", "sdedit"]})  # one more column costs itself
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert {o.column for o in more} == {NOTHING, CODEC, "inverting", "sdedit"}
    with pytest.raises(RequestError, match="seed 1, not 2"):
        run(*tiny_world, **kwargs, seed=2)


def test_what_is_shared_between_editors_changes_no_result(tiny_world, tiny_bundle, with_others):
    """Past the timed scenes what is prepared alike is prepared once; the timed ones are each on their own."""
    kwargs = {**FAST, "model": str(tiny_bundle), "count": TIMED + 1}
    together, told = run(*tiny_world, names=["inverting", "inverting-too"], **kwargs)
    alone, _ = run(*tiny_world, names=["inverting-too"], **kwargs)
    ours = [[o.pixels for o in made if o.column == "inverting-too"] for made in (together, alone)]
    assert all(np.array_equal(a, b) for a, b in zip(*ours, strict=True))
    assert len(ours[0]) == TIMED + 1
    assert not told["failures"]
    for cost in told["costs"].values():
        assert cost["evaluations_cold"] == cost["evaluations_warm"] + 3


def _scene(n, extent="local"):
    grey = np.full((16, 16, 3), 90, np.uint8)
    case = edits.Case("replace" if extent == "local" else "night", None, None, "do it", f"<i>before</i> {n}", f"after {n}")
    return Scene(n, Captioned("plain", extent, case), grey, grey, np.ones((16, 16), bool))


def _edited(column, scene, inside, outside=0.0, whole=None, cost=None):
    errors = {
        f"{name}_{region}": {"l1": value, "l2": value**2, "ssim": 1 - value}[name]
        for region, value in (("inside", inside), ("outside", outside), ("whole", inside if whole is None else whole))
        for name in ("l1", "l2", "ssim")
    }
    return Edited(column, scene, scene.source, errors, 1.0, cost)


def test_the_arithmetic():
    scenes = [_scene(0), _scene(1), _scene(2, "global")]
    outcomes = [_edited(NOTHING, scene, 0.4) for scene in scenes]
    outcomes += [_edited(CODEC, scene, 0.0) for scene in scenes]
    cost = {"cold": {"evaluations": 30, "seconds": 3.0}, "warm": {"evaluations": 10, "seconds": 1.0}}
    outcomes += [
        _edited("a", scenes[0], 0.1, cost=cost),
        _edited("a", scenes[1], 0.3, outside=math.nan),
        Edited("a", scenes[2], failure="no"),
    ]
    found = standing(outcomes, {"a": {"steps": 20}})
    row = found["groups"]["all"]["a"]
    assert row["scenes"] == 2
    assert row["l1_inside"] == pytest.approx(0.2)
    assert row["l1_inside_se"] == pytest.approx(0.1)  # sd 0.1414 of two
    assert row["cut"] == pytest.approx((0.3 + 0.1) / 2 / 0.4)
    assert row["cut_se"] == pytest.approx(0.1 / 0.4)
    assert row["psnr_inside"] == pytest.approx(-10 * math.log10((0.01 + 0.09) / 2), abs=1e-4)
    assert row["l1_outside"] == 0
    assert found["groups"]["all"][NOTHING]["cut"] == 0
    assert found["groups"]["all"][CODEC]["cut"] == 1
    assert found["groups"]["global"]["a"]["l1_inside"] is None
    assert found["failures"] == {"a": ["scene 2: no"]}
    assert found["costs"]["a"]["per_step"] == 0.5
    assert (found["costs"]["a"]["seconds_cold"], found["costs"]["a"]["seconds_warm"]) == (3.0, 1.0)
    assert set(found["groups"]) == {"all", "local", "global", "plain", "plain, local", "plain, global", "replace", "night"}
    assert gains(outcomes, "a", NOTHING, "l1_inside") == pytest.approx([0.3, 0.1])
    assert mean_and_error([1.0, 3.0]) == (2.0, pytest.approx(1.0))
    assert all(math.isnan(v) for v in mean_and_error([]))


def _four(errors, suffix=""):
    """Outcomes of eight scenes: errors {form: (local, global, whole)}, spread a little so that there are standard errors."""
    scenes = [_scene(n, "local" if n < 4 else "global") for n in range(8)]
    outcomes = [_edited(NOTHING, scene, 0.3) for scene in scenes]
    for form, (local, whole_picture, whole) in errors.items():
        for scene in scenes:
            jitter = 0.01 * (-1) ** scene.n * (1 + FOUR.index(form))  # each its own: differences have a spread too
            inside = (local if scene.n < 4 else whole_picture) + jitter
            outcomes.append(_edited(form + suffix, scene, inside, whole=whole + jitter))
    return outcomes


GOOD = dict.fromkeys(FOUR[1:], (0.2, 0.2, 0.2))


def test_the_claim_holds_where_it_should():
    [finding] = claim.check(_four({FOUR[0]: (0.1, 0.1, 0.1)} | GOOD, NULL_TEXT))
    assert finding["inversion"] == "null-text"
    usable, best = finding["says"]
    assert usable.startswith("Each of the four usable for both: yes")
    assert "best overall: yes" in best
    form = finding["forms"][FOUR[0] + NULL_TEXT]["local"]
    assert form["rank"] == 1
    assert form["cut"] == pytest.approx(2 / 3, abs=1e-4)


def test_the_claim_fails_where_it_should():
    errors = {FOUR[0]: (0.1, 0.2, 0.2)} | GOOD | {FOUR[1]: (0.1, 0.1, 0.1), FOUR[2]: (0.299, 0.1, 0.2)}
    [finding] = claim.check(_four(errors))
    usable, best = finding["says"]
    assert "usable for both: no" in usable
    assert f"local: {FOUR[0]}, {FOUR[1]}, {FOUR[3]};" in usable  # that one's gain is within its errors
    assert f"best overall: no: {FOUR[1]} better" in best
    [finding] = claim.check(_four({FOUR[0]: (0.1, 0.1, 0.2)} | GOOD))
    assert f"not told apart from {', '.join(FOUR[1:])}" in finding["says"][1]


def test_no_claim_without_all_four_or_without_standard_errors():
    outcomes = _four({FOUR[0]: (0.1, 0.1, 0.1)} | GOOD)
    assert claim.check([o for o in outcomes if o.column != FOUR[2]]) == []
    assert claim.check([o for o in outcomes if o.scene.n in (0, 4)]) == []


def test_the_report_is_whole_and_needs_nothing_beside_it(tmp_path):
    outcomes = _four({FOUR[0]: (0.1, 0.1, 0.1)} | GOOD)
    outcomes += [_edited(CODEC, _scene(n), 0.0) for n in range(8)]
    outcomes.append(Edited("instruct", _scene(0), failure="<b>no</b>"))
    told = {name: {"steps": 20, "told": "caption", "knobs": {"guidance": 1.5}, "paper": "A & B"} for name in FOUR}
    told["instruct"] = {**told[FOUR[0]], "told": "instruction"}
    about = dict.fromkeys(("model", "fingerprint", "size", "seed", "device", "date"), "x") | {"count": 8}
    report = {**about, "columns": told, **standing(outcomes, told), "claim": claim.check(outcomes)}
    page = comparison.write(tmp_path, outcomes, report).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "report.json", "sheet.jpg", "table.md"]
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?:|@import|url\(", page)
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)
    assert "<b>no" not in page
    assert "best overall: yes" in page
    text = (tmp_path / "table.md").read_text()
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| instruct * |" in text
    assert "instruct failed on 1 of 8" in text

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)["count"] == 8
    rows, columns_ = 8, 2 + len(FOUR) + 1
    height, width, _ = picture.open(tmp_path / "sheet.jpg").rgb_HWC.shape
    assert (height, width) == (46 + rows * 100, 190 + columns_ * 100)


def test_the_command(tiny_world, tiny_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PAINTOVER_WORLD", str(tiny_world[0]))
    command = ["evaluate", "editors", "--out", tmp_path / "r", "--model", tiny_bundle, "--count", 2, "--steps", 2, "--size", 32]

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in (*command, *more)])
        return ended.value.code, *capsys.readouterr()

    code, out, _ = call("--editors", "instruct, sdedit", "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found["columns"]) == ["instruct", "sdedit"]
    assert found["costs"]["sdedit"]["timed"] == 2
    code, out, _ = call("--editors", "sdedit")
    assert code == 0
    assert "(doing nothing)" in out
    assert str(tmp_path / "r" / "index.html") in out
    code, _, errors = call("--editors", "nobody")
    assert code == 2
    assert "no editor 'nobody'" in errors
