"""The exact-truth benchmark: what its numbers mean, and that it goes on where it was stopped."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import pytest
from rich.console import Console

from paintover import cli, picture
from paintover.errors import RequestError
from paintover.evaluation import report, scenes
from paintover.evaluation.page import page
from paintover.evaluation.ranking import ends, rank
from paintover.evaluation.scenes import ROUND, Outcome, _compare, cases, run
from paintover.evaluation.summary import METHODS, summary
from paintover.models.bundle import load
from paintover.scenes import edits
from paintover.scenes.assets import Assets

FAST = {"size": 32, "steps": 1}


def _case(world, n):
    return list(cases(Assets(world[0], "held_out", world[1]), n + 1, seed=1))[n]


def _rendered(case, size=32):
    return [np.rint(pixels * 255).astype(np.uint8) for pixels in case.render(size)]


def _outcome(n, kind, inside, nothing_inside, outside=0.0, untouched=1.0):
    def errors(i, o):
        return {
            "l1_inside": i,
            "l2_inside": i**2,
            "ssim_inside": 1 - i,
            "l1_outside": o,
            "l2_outside": o**2,
            "ssim_outside": 1.0,
        }

    grey = np.full((16, 16, 3), 90, np.uint8)
    measured = {"edit": errors(inside, outside), "nothing": errors(nothing_inside, 0.0), "codec": errors(0.01, 0.01)}
    return Outcome(n, kind, f"<b>{kind}</b> & {n}", grey, grey, grey, measured, untouched, 8)


def test_the_mix_is_what_the_comment_says():
    assert len(ROUND) == 24
    assert set(ROUND) == set(edits.KINDS)


def test_a_case_depends_on_its_number_alone(tiny_world):
    assets = Assets(tiny_world[0], "held_out", tiny_world[1])
    few, many = list(cases(assets, 3, seed=1)), list(cases(assets, 30, seed=1))
    for one, other in zip(few, many, strict=False):
        assert one.instruction == other.instruction
        assert np.array_equal(one.render(16)[1], other.render(16)[1])
    assert [case.kind for case in many[:24]] == list(ROUND)
    assert [case.instruction for case in cases(assets, 3, seed=2)] != [case.instruction for case in few]


def test_doing_nothing_cuts_nothing_and_the_truth_cuts_all(tiny_world, tiny_bundle):
    bundle, outcomes, perfect = load(tiny_bundle), [], []
    for n in (0, 1, 14):
        case = _case(tiny_world, n)
        source, target = _rendered(case)
        outcomes.append(_compare(n, case, source, target, source, 8, bundle))
        perfect.append(_compare(n, case, source, target, target, 8, bundle))
    found = summary(outcomes)["kinds"]
    for row in found.values():
        assert row["cut"] == 0
        assert row["edit"] == row["nothing"]
        assert row["edit"]["l1_outside"] in (None, pytest.approx(0, abs=2 / 255))  # where the truth changes next to nothing
        assert row["untouched"] in (None, 1.0)
    found = summary(perfect)["kinds"]
    assert all(row["cut"] == 1 and row["edit"]["psnr_inside"] is None for row in found.values())


def test_the_codec_row_is_the_codecs_error(tiny_world, tiny_bundle):
    """At the bundle's own size a codec that only reorders pixels loses nothing; at another size the fitting costs."""
    bundle, case = load(tiny_bundle), _case(tiny_world, 0)
    for size, exact in ((64, True), (100, False)):
        source, target = _rendered(case, size)
        errors = _compare(0, case, source, target, source, 8, bundle).errors["codec"]
        assert (errors["l1_inside"] == 0 and errors["ssim_inside"] == pytest.approx(1)) == exact
        assert errors["l1_inside"] < 0.05


def test_the_cut_is_of_the_mean_errors():
    found = summary([_outcome(0, "remove", 0.1, 0.3), _outcome(1, "remove", 0.2, 0.3), _outcome(2, "darker", 0.4, 0.2)])
    kinds = found["kinds"]
    assert found["count"] == 3
    assert kinds["remove"]["cut"] == pytest.approx(1 - 0.15 / 0.3)
    assert kinds["darker"]["cut"] == pytest.approx(-1)
    assert kinds["local"] == kinds["remove"]
    assert kinds["looks"] == kinds["darker"]
    assert kinds["all"]["cut"] == pytest.approx(1 - (0.7 / 3) / (0.8 / 3), abs=1e-4)
    assert kinds["remove"]["edit"]["psnr_inside"] == pytest.approx(-10 * math.log10((0.01 + 0.04) / 2), abs=1e-5)
    assert kinds["remove"]["cases"] == 2


def test_a_case_without_a_change_has_no_inside():
    row = summary([_outcome(0, "nothing", math.nan, math.nan, outside=0.02)])["kinds"]["nothing"]
    assert row["cut"] is None
    assert row["edit"]["l1_inside"] is None
    assert row["edit"]["l1_outside"] == 0.02


@pytest.mark.parametrize(
    ("editor", "instruction", "source_prompt"),
    [("instruct", "instruction", None), ("sdedit", "target_caption", None), ("mdp-noise", "target_caption", "caption")],
)
def test_an_editor_is_told_what_it_takes(editor, instruction, source_prompt, tiny_world, tiny_bundle, monkeypatch):
    asked, edit_many = [], scenes.edit_many

    def listening(orders, **kwargs):
        for order in orders:
            asked.append(order.request)
            yield from edit_many([order], **kwargs)

    monkeypatch.setattr(scenes, "edit_many", listening)
    run(*tiny_world, model=str(tiny_bundle), editor=editor, count=1, **FAST | {"steps": 2})
    case = _case(tiny_world, 0)
    assert len({case.instruction, case.caption, case.target_caption}) == 3
    assert asked[0].instruction == getattr(case, instruction)
    assert asked[0].source_prompt == (getattr(case, source_prompt) if source_prompt else None)


def test_it_goes_on_where_it_was_stopped(tiny_world, tiny_bundle, tmp_path, monkeypatch):
    kwargs = {**FAST, "model": str(tiny_bundle), "count": 4, "out": tmp_path}
    outcomes, before = run(*tiny_world, **kwargs)
    assert [outcome.n for outcome in outcomes] == [0, 1, 2, 3]
    cases_folder = tmp_path / "cases"
    (cases_folder / "00001.png").unlink()  # not finished
    torn = cases_folder / "00002.png"
    torn.write_bytes(torn.read_bytes()[:500])
    kept = {name: (cases_folder / name).stat().st_mtime_ns for name in ("00000.png", "00003.png")}
    told = []
    again, after = run(*tiny_world, **kwargs, progress=lambda done, count: told.append((done, count)))
    assert {name: (cases_folder / name).stat().st_mtime_ns for name in kept} == kept
    assert {k: after[k] for k in before if k not in ("date", "seconds")} == {
        k: before[k] for k in before if k not in ("date", "seconds")
    }
    for one, other in zip(outcomes, again, strict=True):
        assert np.array_equal(one.edited, other.edited)
        assert one.evaluations == other.evaluations > 0
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(RequestError, match=r"seed 1, not 2"):
        run(*tiny_world, **kwargs, seed=2)
    with monkeypatch.context() as changed:
        changed.setattr(scenes, "code", lambda *rooms: "other")
        with pytest.raises(RequestError, match=r"code [0-9a-f]{16}, not other"):
            run(*tiny_world, **kwargs)
    other, _ = run(*tiny_world, **{**kwargs, "count": 1}, seed=2, force=True)
    assert [path.name for path in cases_folder.iterdir()] == ["00000.png"]
    assert not np.array_equal(other[0].edited, outcomes[0].edited)


def test_the_report_is_whole_and_needs_nothing_beside_it(tmp_path):
    outcomes = [_outcome(n, kind, 0.1 * (n % 4), 0.3) for n, kind in enumerate(["remove", "fog"] * 5)]
    outcomes.append(_outcome(10, "nothing", math.nan, math.nan))
    about = dict.fromkeys(("model", "fingerprint", "editor", "steps", "size", "sides", "seed", "date"), "x")
    found = {**about, "knobs": {"guidance": 1.5}, **summary(outcomes)}
    made = report.write(tmp_path, outcomes, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "report.json", "sheet.png"]
    text = made.read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?:|@import|url\(", text)
    assert "$" not in re.sub(r"base64,[^\"]*", "", text)
    assert "<b>remove" not in text
    assert "&lt;b&gt;remove&lt;/b&gt; &amp; 0" in text
    for kind in ("remove", "fog", "nothing", "local", "looks", "all"):
        assert f"<th scope=row>{kind}</th>" in text
    assert "guidance 1.5" in text

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)["count"] == 11
    assert picture.open(tmp_path / "sheet.png").rgb_HWC.shape[2] == 3
    console = Console(width=report.WIDTH, record=True, file=io.StringIO())
    console.print(report.table(found))
    shown = console.export_text()
    assert "…" not in shown
    assert re.search(r"remove +5 +\d+% +0\.\d{3} +0\.300 +0\.010", shown)


def test_best_and_worst():
    outcomes = rank([_outcome(n, "remove", error, 0.3) for n, error in enumerate([0.2, 0.1, 0.4, 0.3, 0.25])])["remove"]
    assert [o.n for o in outcomes] == [1, 0, 4, 3, 2]
    assert [(end, o.n) for end, o in ends(outcomes, 2)] == [("best", 1), ("best", 0), ("worst", 2), ("worst", 3)]
    assert [(end, o.n) for end, o in ends(outcomes[:1], 2)] == [("best", 1)]
    assert len({o.n for _, o in ends(outcomes, 9)}) == 5
    still = [_outcome(n, "nothing", math.nan, math.nan, outside=error) for n, error in enumerate([0.02, 0.0, 0.01])]
    assert [o.n for o in rank(still)["nothing"]] == [1, 2, 0]
    assert set(page({"remove": outcomes}, _minimal(outcomes))) > set("<>")


def _minimal(outcomes):
    about = dict.fromkeys(("model", "fingerprint", "editor", "steps", "knobs", "size", "sides", "seed", "date"), "x")
    return {**about, **summary(outcomes)}


def test_the_command(tiny_world, tiny_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PAINTOVER_WORLD", str(tiny_world[0]))
    words = ["evaluate", "scenes", "--out", tmp_path / "r", "--model", tiny_bundle, "--count", 2, "--steps", 1, "--size", 32]

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in (*words, *more)])
        return ended.value.code, *capsys.readouterr()

    code, out, _ = call("--photos", tiny_world[1], "--guidance", 2, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["count"] == 2
    assert found["knobs"]["guidance"] == 2
    assert set(METHODS) <= set(found["kinds"]["all"])
    code, _, errors = call("--guidance", 2)
    assert code == 2
    assert "holds an evaluation with world" in errors
    code, _, errors = call("--world", tmp_path)
    assert code == 2
    assert "fetch-world" in errors
