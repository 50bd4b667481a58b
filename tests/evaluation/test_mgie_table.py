"""MGIE's comparison: numbers that can be checked by hand, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from paintover import cli
from paintover.errors import ModelError, RequestError
from paintover.evaluation import mgie_page
from paintover.evaluation.ambiguous import MEASURES, Eye, held
from paintover.evaluation.mgie import report, run
from paintover.evaluation.mgie_bench import Made
from paintover.evaluation.mgie_columns import COLUMNS, NOTHING, ablations
from paintover.evaluation.naming import judged, names
from paintover.evaluation.paired import by_case, difference, row
from paintover.models.bundle import load
from paintover.models.mllm import Mllm
from paintover.scenes.ambiguous import AMBIGUOUS, ANIMALS
from paintover.scenes.assets import Assets

FAST = {"size": 32, "steps": 1, "count": 3, "seeds": 2}
CLASSES = ("apple", "grapes", "horse", "sheep", "ladybug", "fish", "pumpkin")


@pytest.fixture(scope="module")
def assets(tiny_world):
    return Assets(tiny_world[0], "held_out", tiny_world[1])


@pytest.fixture
def cases(assets):
    return held(assets, 8, 32, seed=3)


def test_every_kind_is_there_and_a_case_depends_on_its_number_alone(assets, cases):
    assert tuple(one.case.kind for one in cases) == AMBIGUOUS
    [first, *_] = held(assets, 1, 32, seed=3)
    assert first.case.instruction == cases[0].case.instruction
    assert np.array_equal(first.target, cases[0].target)
    assert all(one.case.meant != one.case.instruction for one in cases)


def test_a_perfect_edit_has_no_error_and_doing_nothing_has_it_inside_alone(cases):
    for one in cases:
        best, idle = one.measure(one.target), one.measure(one.source)
        assert best["l1"] == best["l1_inside"] == 0
        assert best["ssim"] == pytest.approx(1)
        assert idle["l1"] > 0
        assert idle["l1_inside"] > idle["l1"] - 1e-9
        assert math.isnan(idle["l1_outside"]) or idle["l1_outside"] <= 2 / 255
    black, grey = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 51, np.uint8)
    half = np.zeros((32, 32), bool)
    half[:, :16] = True
    made = black.copy()
    made[:, 16:] = 51
    by_hand = type(cases[0])(0, cases[0].case, black, grey, half).measure(made)
    assert (by_hand["l1"], by_hand["l1_inside"], by_hand["l1_outside"]) == pytest.approx((0.1, 0.2, 0))


def test_a_picture_is_most_alike_to_itself(cases, tiny_bundle):
    eye = Eye(load(tiny_bundle, device="cpu").mllm())
    goals = [one.target for one in cases]
    assert eye.alike(goals, goals) == pytest.approx([1] * 8, abs=1e-5)
    others = eye.alike(goals, [*goals[1:], goals[0]])
    assert max(others) < 1 - 1e-5
    assert min(others) >= -1
    features_BD = eye.features(goals[:1])
    model = eye.mllm.model
    states = model.model.vision_tower(eye.mllm.see(goals[0])[None], output_hidden_states=True).hidden_states[-2]
    mean_D = states[0, 1:].mean(dim=0)
    assert (features_BD[0] - mean_D / mean_D.norm()).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Replace the APPLE with a horse.", {"apple", "horse"}),
        ("remove the pineapple and the seahorse", set()),
        ("the apples, the grapes", {"apple", "grapes"}),
        ("sheep-like fish's tail", {"sheep", "fish"}),
        ("a lady bug", set()),
        ("", set()),
    ],
)
def test_things_are_named_in_whole_words(text, named):
    assert names(text, CLASSES) == named


def test_what_a_text_is_worth(cases):
    case, every = next(one.case for one in cases if one.case.kind == "feed"), _all()
    [food] = names(case.meant, every)
    there = {thing.cls for thing in case.before.objects}
    [animal] = there & set(ANIMALS)
    wrong = next(cls for cls in every if cls not in there | {food})
    right = {"exact": 1, "right_things": 1, "hallucinated": 0, "words": len(case.meant.split())}
    assert judged(case.meant, case, every) == right
    assert judged(f"  {case.meant.upper()}. ", case, every) == right
    assert judged(f"put a {food} somewhere", case, every) == {**right, "exact": 0, "words": 4}
    # In the picture, so not made up; but not what is meant.
    assert judged(f"give the {animal} a {food}", case, every) == {"exact": 0, "right_things": 0, "hallucinated": 0, "words": 5}
    assert judged(f"add a {wrong}", case, every) == {"exact": 0, "right_things": 0, "hallucinated": 1, "words": 3}
    later = next(one.case for one in cases if one.case.kind == "later")
    assert math.isnan(judged("", later, every)["right_things"])  # no thing is meant, so silence is no merit
    assert judged("", case, every) == {"exact": 0, "right_things": 0, "hallucinated": 0, "words": 0}


def _all():
    from paintover.scenes.assets import WORLD

    return tuple(json.loads(WORLD.read_text())["classes"])


def test_means_are_over_cases_and_the_spread_is_over_seeds():
    values_NS = np.array([[1.0, 3.0], [4.0, 6.0], [7.0, np.nan], [np.nan, np.nan]])
    assert np.array_equal(by_case(values_NS), [2, 5, 7, np.nan], equal_nan=True)
    found = row(values_NS)
    assert found["mean"] == pytest.approx(14 / 3, abs=1e-5)
    assert found["se"] == pytest.approx(np.std([2, 5, 7], ddof=1) / math.sqrt(3), abs=1e-5)
    assert found["spread"] == pytest.approx(np.std([4, 4.5], ddof=1), abs=1e-5)
    assert found["cases"] == 3
    assert row(np.array([[2.0]])) == {"mean": 2, "se": None, "spread": None, "cases": 1}


@pytest.mark.parametrize(
    ("name", "mine", "says"),
    [
        ("l1", [0.1, 0.2, 0.3, 0.4], "won"),
        ("l1", [0.4, 0.5, 0.6, 0.7], "lost"),
        ("ssim", [0.1, 0.2, 0.3, 0.4], "lost"),
        ("similarity", [0.4, 0.5, 0.6, 0.7], "won"),
        ("l1", [0.9, 0.1, 0.2, 0.8], "not told apart"),
        ("ssim", [math.nan] * 4, "not told apart"),
    ],
)
def test_a_difference_is_paired_and_has_its_sign(name, mine, says):
    """The cases differ far more than the columns: only pairs can tell."""
    theirs = np.array([0.2, 0.31, 0.4, 0.52])
    found = difference(name, np.array(mine)[:, None], theirs[:, None])
    assert found["says"] == says
    if not math.isnan(mine[0]):
        each = np.array(mine) - theirs
        assert found["mean"] == pytest.approx(each.mean(), abs=1e-5)
        assert found["two_se"] == pytest.approx(each.std(ddof=1), abs=1e-5)  # of four


def _made(cases, pictures, texts):
    values = {name: np.full((len(cases), 1), np.nan) for name in MEASURES}
    for one, picture in zip(cases, pictures, strict=True):
        for name, value in one.measure(picture).items():
            values[name][one.n, 0] = value
    return Made(values, texts, pictures, {"editor": "x"})


def test_a_perfect_editor_wins_everything(cases, tmp_path):
    idle, blank = [one.source for one in cases], [""] * 8
    made = {
        NOTHING: _made(cases, idle, blank),
        "instruct": _made(cases, idle, blank),
        "lgie": _made(cases, idle, ["remove the pumpkin"] * 8),
        "mgie": _made(cases, [one.target for one in cases], [one.case.meant for one in cases]),
    }
    found = report(cases, made, _all(), [])
    assert found["groups"]["all"]["mgie"]["l1"]["mean"] == 0
    assert found["groups"]["frost"]["mgie"]["ssim"] == {"mean": 1, "se": None, "spread": None, "cases": 1}
    says = {(one["a"], one["b"]): [each["says"] for each in one["measures"]][:2] for one in found["paired"]["all"]}
    assert says == {
        ("mgie", "lgie"): ["won"] * 2,
        ("mgie", "instruct"): ["won"] * 2,
        ("lgie", "instruct"): ["not told apart"] * 2,
    }
    texts = found["texts"]["all"]
    assert texts["mgie"]["exact"]["mean"] == texts["mgie"]["right_things"]["mean"] == 1
    assert texts["mgie"]["right_things"]["cases"] < texts["mgie"]["exact"]["cases"] == 8
    assert texts["mgie"]["hallucinated"]["mean"] == 0
    assert texts["lgie"]["exact"]["mean"] < 0.5
    [pair] = found["texts_paired"]
    assert (pair["a"], pair["b"]) == ("mgie", "lgie")
    assert {one["measure"]: one["says"] for one in pair["measures"]}["exact"] == "won"
    mgie_page.write(tmp_path, cases, made, found | {"count": 8, "seeds": 1})
    text = (tmp_path / "table.md").read_text()
    assert "| mgie - lgie |" in text
    assert ": won |" in text
    assert "100 % ± 0 %" in text
    assert json.loads((tmp_path / "report.json").read_text())["cases"][3]["meant"] == cases[3].case.meant
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.height > 8 * 192


def test_all_columns_are_edited_and_the_language_model_answers_once(tiny_world, tiny_bundle, tmp_path, monkeypatch):
    asked = []
    answer = Mllm.answer

    def listening(self, instructions, pictures, given=None):
        asked.append((len(instructions), pictures[0] is None))
        return answer(self, instructions, pictures, given)

    monkeypatch.setattr(Mllm, "answer", listening)
    told, kwargs = [], {**FAST, "model": str(tiny_bundle), "out": tmp_path}
    _, made, found = run(*tiny_world, **kwargs, progress=lambda done, of: told.append((done, of)))
    assert list(made) == [NOTHING, *(column.name for column in COLUMNS)]
    assert told[-1] == (36, 36)
    assert told == sorted(told)
    assert asked == [(3, True), (3, False)]  # lgie, mgie: all cases at once, and once for both seeds and both variants
    assert all(np.isfinite(made["mgie"].values[name]).all() for name in ("l1", "ssim", "similarity"))
    assert made["mgie"].texts == made["mgie by its words (FZ)"].texts
    assert not np.array_equal(made["mgie"].pictures[0], made["mgie by its words (FZ)"].pictures[0])
    assert not np.array_equal(made["instruct"].pictures[0], made["oracle"].pictures[0])
    assert found["groups"]["all"]["instruct"]["l1"]["spread"] > 0
    assert found["columns"]["mgie by its words (FZ)"]["knobs"]["guided_by"] == "text"
    del asked[:]
    again = run(*tiny_world, **kwargs)[2]
    timeless = [{k: v for k, v in one.items() if k not in ("date", "seconds")} for one in (found, again)]
    assert timeless[0] == timeless[1]
    assert asked == []
    with pytest.raises(RequestError, match="steps"):
        run(*tiny_world, **{**kwargs, "steps": 2})


def test_a_column_that_cannot_be_is_told_before_the_first_edit(tiny_world, tmp_path, tmp_path_factory):
    from paintover.models.tiny import tiny

    deaf = str(tiny(tmp_path_factory.mktemp("deaf"), "instruct"))
    for asked, others in ((["instruct", "lgie"], ()), (["instruct"], (f"deaf={deaf}",))):
        with pytest.raises(ModelError, match=r"editor '(lg|mg)ie' needs a bundle that can 'mgie'"):
            run(*tiny_world, **FAST, out=tmp_path, model=deaf, names=asked, others=others)
    assert not list(tmp_path.rglob("*.png"))
    made = run(*tiny_world, **FAST, out=tmp_path, model=deaf, names=["instruct", "oracle"])[1]
    assert np.isnan(made["instruct"].values["similarity"]).all()  # there is no eye


def test_ablations_have_names_of_their_own_that_folders_can_have():
    assert [(one.name, one.model, one.editor) for one in ablations(["4 [IMG] = a/b=c", "E2E, 0.5=d", "E2E, 0.5=d"])] == [
        ("4 [IMG]", "a/b=c", "mgie"),
        ("E2E, 0.5", "d", "mgie"),
    ]
    for wrong in ("x", "=x", "x=", " = "):
        with pytest.raises(RequestError, match="write NAME=BUNDLE"):
            ablations([wrong])
    for odd in ("..", ".", "a/b", "a\\b", ".a", "a.", "a\nb", "-a", "a:b"):
        with pytest.raises(RequestError, match="use letters, digits"):
            ablations([f"{odd}=x"])
    for name in ("mgie", "Oracle", NOTHING):
        with pytest.raises(RequestError, match="as a column is"):
            ablations([f"{name}=x"])
    with pytest.raises(RequestError, match="two ablations"):
        ablations(["a=x", "A=y"])


def test_the_command_and_its_ablations(tiny_world, tiny_bundle, tmp_path, tmp_path_factory, capsys):
    from paintover.models.tiny import tiny

    other = tiny(tmp_path_factory.mktemp("other"), "mgie-builtin", seed=1)
    words = ["evaluate", "mgie", "--out", tmp_path / "r", "--model", tiny_bundle, "--count", 2, "--seeds", 1, "--steps", 1]
    words += ["--size", 32, "--world", tiny_world[0], "--photos", tiny_world[1], "--columns", "mgie,lgie"]

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in (*words, *more)])
        return ended.value.code, *capsys.readouterr()

    code, out, _ = call(
        "--ablation", f"without expressive instructions={other}", "--ablation", f"1 - [IMG]={tiny_bundle}", "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert found["ablations"] == ["without expressive instructions", "1 - [IMG]"]
    ours = {pair["a"]: pair for pair in found["paired"]["all"] if pair["b"] == "mgie"}
    assert list(ours) == found["ablations"]
    assert {(one["mean"], one["says"]) for one in ours["1 - [IMG]"]["measures"][:1]} == {(0, "not told apart")}
    assert ours["without expressive instructions"]["measures"][0]["mean"] != 0
    table = (tmp_path / "r" / "table.md").read_text()
    main, _, more = table.partition("Ablations")
    assert "1 - [IMG]" not in main
    assert "\n| 1 - [IMG] - mgie | +0.0000 ± 0.0000: not told apart |" in more
    for wrong, says in (("x", "NAME=BUNDLE"), ("a=/none/at/all", "/none/at/all")):
        code, _, err = call("--ablation", wrong)
        assert (code, says in err) == (2, True)
    code, out, _ = call()
    assert code == 0
    assert "sheet.jpg" in out
    code, _, err = call("--columns", "mgei")
    assert (code, "there is no column 'mgei'" in err) == (2, True)
