"""Candidates: each is what its seed gives alone, the best is chosen by a rule that is known, and too little is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import paintover
from paintover import cli
from paintover.engine.cache import PrepareCache
from paintover.errors import Cancelled, ModelError, RequestError, ScoreError
from paintover.models.bundle import load
from paintover.models.scorer import load_scorer
from paintover.models.tiny import tiny
from paintover.orders.batch import batch
from paintover.orders.contest import Contest
from paintover.orders.order import Order, check, request_for
from paintover.orders.redo import redo
from paintover.orders.run import edit_many, edit_one
from paintover.orders.scores import Painted, Scored, best_of, preservations, why
from paintover.orders.sentinel import Sentinel
from paintover.picture import read_provenance

STEPS = 2
WORDS = "make it look like dusk"


@pytest.fixture(scope="module")
def reddest(tiny_clip, tmp_path_factory):
    """A CLIP that takes all words for "red": the more red there is in a picture, the better it agrees with any words."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("reddest") / "clip"
    shutil.copytree(tiny_clip, folder)
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: t for name, t in load_file(folder / "model.safetensors").items() if ".layers.1." not in name}
    for name, tensor in state.items():
        if "norm" in name or "layrnorm" in name:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
        elif tensor.is_floating_point():
            tensor.zero_()
    vision = "vision_model."
    state[vision + "embeddings.patch_embedding.weight"][0, 0] = 0.5 / 64  # the mean red of a patch
    (
        state[vision + "embeddings.position_embedding.weight"][:, 1],
        state[vision + "embeddings.position_embedding.weight"][:, 2],
    ) = 3, -3
    for part in ("v_proj", "out_proj"):
        state[vision + f"encoder.layers.0.self_attn.{part}.weight"].copy_(
            torch.eye(32)
        )  # all patches, alike, to the class token
    state["visual_projection.weight"].copy_(torch.eye(24, 32))
    state["text_model.final_layer_norm.weight"].zero_()
    state["text_model.final_layer_norm.bias"][0] = 1
    state["text_projection.weight"].copy_(torch.eye(24, 32))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A picture of the tiny model's own size: nothing is scaled."""
    coarse = np.random.default_rng(2).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("square") / "square.png"
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def order(tiny_bundle, square, reddest):
    def make(editor="instruct", asked=None, **fields) -> Order:
        fields = {"picture": str(square), "model": str(tiny_bundle), "steps": STEPS, "instruction": WORDS, **fields}
        sentinel = Sentinel.asked(**{"candidates": 4, "scorer": str(reddest), **(asked or {})})
        return Order(request_for(editor=editor, **fields), sentinel=sentinel)

    return make


def alone(order: Order, seed: int, **fields):
    """What the seed gives by itself."""
    request = order.request.model_copy(update={"seed": seed, **fields})
    return edit_one(replace(order, request=request, sentinel=None, out=None), cache=PrepareCache(max_bytes=0))


@pytest.mark.parametrize("editor", ["instruct", "sdedit", "mdp-noise", "mgie", "imagine"])
def test_candidates_are_what_their_seeds_give_alone(order, editor, tmp_path):
    words = {"picture": None} if editor == "imagine" else {}
    asked = order(editor, {"candidates": 3, "keep": True}, seed=5, preserve=editor == "imagine", **words)
    result = edit_one(replace(asked, out=tmp_path / "best.png"), cache=PrepareCache(max_bytes=0))
    assert [one["seed"] for one in result.record["candidates"]] == [5, 6, 7]
    assert result.request.seed == result.record["chosen"]
    for n, seed in enumerate((5, 6, 7), start=1):
        kept = np.asarray(Image.open(tmp_path / f"best.candidate-{n}.png")).astype(int)
        assert np.abs(kept - alone(asked, seed).rgb_HWC).max() <= 1
        said = read_provenance(tmp_path / f"best.candidate-{n}.png")
        assert said["request"]["seed"] == seed
        assert said["record"]["scores"] == result.record["candidates"][n - 1]
    best = np.asarray(Image.open(tmp_path / f"best.candidate-{result.record['chosen'] - 4}.png"))
    assert np.array_equal(best, result.rgb_HWC)


def test_the_scorer_judges(order):
    """The one that agrees best with "red" is the reddest one, and agreement is told against the source."""
    asked = order(asked={"candidates": 6, "weight": 0}, preserve=False)
    result = edit_one(asked)
    reds = [alone(asked, seed).rgb_HWC[..., 0].mean() for seed in range(6)]
    agreements = [one["agreement"] for one in result.record["candidates"]]
    assert np.argsort(agreements).tolist() == np.argsort(reds).tolist()
    assert result.record["chosen"] == int(np.argmax(reds))
    scorer = load_scorer(asked.sentinel.scorer, load(asked.request.model))
    [source, best] = scorer.agreement([np.asarray(Image.open(asked.request.picture)), result.rgb_HWC], WORDS)
    assert max(agreements) == pytest.approx(best - source, abs=1e-4)
    assert abs(source) > 1e-3
    assert "agrees best with the words" in result.record["why"]


def test_what_is_outside_of_the_mask_is_to_stay(order, square, tmp_path):
    """Measured on what the model painted, which the result does not show: pixels were put back."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    asked = order(asked={"weight": 100}, mask=str(tmp_path / "mask.png"))
    result = edit_one(asked)
    source = np.asarray(Image.open(square)).astype(float)
    expected = []
    for seed in range(4):
        raw = alone(asked, seed, mask=None, preserve=False).rgb_HWC
        expected.append(1 - np.abs(raw - source)[32:].mean() / 255)
    kept = [one["preservation"] for one in result.record["candidates"]]
    assert kept == pytest.approx(expected, abs=2e-3)
    assert result.record["chosen"] == int(np.argmax(expected))
    for one in result.record["candidates"]:
        assert one["score"] == pytest.approx(one["agreement"] - 100 * (1 - one["preservation"]), abs=2e-3)


def test_words_alone_are_judged_by_the_words(order):
    asked = order("imagine", picture=None)
    result = edit_one(asked)
    reds = [alone(asked, seed).rgb_HWC[..., 0].mean() for seed in range(4)]
    assert result.record["chosen"] == int(np.argmax(reds))
    assert {one["preservation"] for one in result.record["candidates"]} == {None}
    assert result.record["scorer"]["source"] is None


def test_it_is_decided_alike_each_time(order):
    first, again = (edit_one(order(), cache=PrepareCache(max_bytes=0)) for _ in range(2))
    assert np.array_equal(first.rgb_HWC, again.rgb_HWC)
    assert first.record["candidates"] == again.record["candidates"]


def test_what_they_share_is_prepared_once_and_asked_for_in_one_call(order):
    asked = order("mdp-noise", {"candidates": 3})
    spent = alone(asked, 0).record["evaluations"]
    result = edit_one(asked, cache=PrepareCache(max_bytes=0))
    assert result.record["evaluations"] == 3 * spent - 2 * STEPS
    assert set(result.record["seconds"]) >= {"scorer", "score", "walk"}


def test_what_the_seed_does_not_change_is_told(order):
    result = edit_one(order("mdp-noise", {"candidates": 3}))
    assert any("does not depend on the seed" in note for note in result.record["warnings"])
    assert result.record["chosen"] == 0
    assert not any("does not depend" in note for note in edit_one(order()).record["warnings"])


def test_too_little_is_refused_and_nothing_is_written(order, tmp_path):
    best = max(one["score"] for one in edit_one(order()).record["candidates"])
    asked = replace(order(asked={"min_score": best + 0.01, "keep": True}), out=tmp_path / "out.png")
    with pytest.raises(ScoreError, match=r"the best of 4 candidates \(seed \d\) scores .*min-score.*try more candidates"):
        edit_one(asked)
    assert list(tmp_path.iterdir()) == []
    enough = replace(order(asked={"min_score": best - 0.01}), out=tmp_path / "out.png")
    assert edit_one(enough).path == tmp_path / "out.png"
    one = order(asked={"candidates": 1, "min_score": 2.0})
    with pytest.raises(ScoreError, match="the result"):
        edit_one(one)


def test_redo_repeats_the_seed_that_was_chosen(order, tmp_path):
    result = edit_one(replace(order(seed=3), out=tmp_path / "out.png"))
    again = redo(tmp_path / "out.png")
    assert again.identical
    assert again.result.request.seed == result.record["chosen"]
    assert "candidates" not in again.result.record


def test_who_cancels_ends_all_of_them(order):
    heard = []
    asked = replace(order(), on_step=heard.append, cancelled=lambda: len(heard) >= 1)
    with pytest.raises(Cancelled):
        edit_one(asked)
    assert len(heard) == 1  # one report for all


def test_progress_is_told_once_and_a_listener_that_raises_ends_it(order):
    heard = []
    edit_one(replace(order(), on_step=lambda report: heard.append(report.i)))
    assert heard == [*range(STEPS)]

    def raises(report):
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError):
        edit_one(replace(order(), on_step=raises))


def test_neighbours_are_left_alone(order):
    plain = replace(order(seed=9), sentinel=None)
    bad = order(asked={"scorer": "nonsense"})
    outcomes = list(edit_many([plain, order(), bad, plain], together=16))
    assert isinstance(outcomes[2], ModelError)
    assert np.array_equal(outcomes[0].rgb_HWC, outcomes[3].rgb_HWC)
    assert np.abs(outcomes[0].rgb_HWC.astype(int) - alone(plain, 9).rgb_HWC).max() <= 1
    assert outcomes[1].record["chosen"] in range(4)


def test_a_seed_that_fails_is_left_out(order, monkeypatch):
    from paintover.editors import registry

    editor = registry.get("instruct")
    path = type(editor).path

    def fails(self, context, prepared):
        if context.request.seed in broken:
            raise RequestError("on purpose")
        return path(self, context, prepared)

    monkeypatch.setattr(type(editor), "path", fails)
    broken = {1}
    result = edit_one(order())
    assert result.record["candidates"][1] == {"seed": 1, "failed": "on purpose"}
    assert result.record["chosen"] != 1
    broken = {0, 1, 2, 3}
    with pytest.raises(RequestError, match="on purpose"):
        edit_one(order())


def test_out_of_memory_is_halved_and_goes_on(order, monkeypatch, tiny_bundle):
    from paintover.models.denoiser import Denoiser

    result = edit_one(order())
    call, most = Denoiser.__call__, []

    def narrow(self, x_BCHW, *rest, **more):
        most.append(len(x_BCHW))
        if len(x_BCHW) > 3:
            raise torch.OutOfMemoryError("on purpose")
        return call(self, x_BCHW, *rest, **more)

    monkeypatch.setattr(Denoiser, "__call__", narrow)
    again = edit_one(order(), cache=PrepareCache(max_bytes=0))
    assert max(most) == 12  # 4 candidates of 3 rows, in one call
    assert np.abs(again.rgb_HWC.astype(int) - result.rgb_HWC).max() <= 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"candidates": 0}, "1 to 64"),
        ({"candidates": 65}, "1 to 64"),
        ({"candidates": True}, "1 to 64"),
        ({"candidates": 2.0}, "1 to 64"),
        ({"min_score": float("nan")}, "min-score"),
        ({"candidates": 2, "weight": -1}, "0 to 100"),
        ({"scorer": " "}, "name builtin"),
        ({"keep": True}, "--candidates 4"),
        ({"weight": 2}, "--candidates 4"),
    ],
)
def test_what_cannot_be_asked_is_said(asked, said):
    with pytest.raises(RequestError, match=said):
        Sentinel.asked(**asked)


def test_one_candidate_that_nobody_judges_is_an_edit_as_ever():
    assert Sentinel.asked() is None
    assert Sentinel.asked(candidates=1) is None
    assert Sentinel.asked(scorer="builtin") == Sentinel(1, None, "builtin")


def test_what_a_sentinel_cannot_do_is_said_before_anything_is_painted(order, tmp_path):
    with pytest.raises(RequestError, match="seeds above it"):
        check(order(seed=2**63 - 3))
    check(order(seed=2**63 - 4))
    with pytest.raises(RequestError, match="name it"):
        check(order(asked={"keep": True}))
    (tmp_path / "out.candidate-3.png").write_bytes(b"")
    with pytest.raises(RequestError, match="exists already"):
        check(replace(order(asked={"keep": True}), out=tmp_path / "out.png"))


def test_the_models_own_encoder_judges_where_no_other_is_named(order, tmp_path):
    result = edit_one(order(asked={"scorer": None}))
    assert result.record["scorer"]["fingerprint"] == result.request.model_fingerprint
    with pytest.raises(ModelError, match="no encoder of its own"):
        edit_one(order(asked={"scorer": None}, model=str(tiny(tmp_path, "builtin"))))


def _painted(moved, inside):
    return Painted(np.full((4, 4), moved, np.float16), np.asarray(inside, np.float16))


def test_preservation_is_measured_outside_of_what_most_changed():
    half = np.zeros((4, 4))
    half[:2] = 1
    found = preservations([_painted(0.1, half), _painted(0.2, half), _painted(0.5, np.ones((4, 4)))])
    assert found == pytest.approx([0.9, 0.8, 0.5], abs=1e-3)  # the last one is not let off for having changed everything
    assert preservations([_painted(0.5, np.ones((4, 4)))] * 2) == [None, None]
    assert preservations([]) == []


def test_of_equal_ones_the_first_is_taken_and_why_says_what_decided():
    def scored(seed, agreement, preservation):
        return Scored(seed, agreement - (1 - (preservation or 1)), agreement, preservation)

    equal = [scored(n, 0.1, 0.9) for n in range(3)]
    assert best_of(equal) == 0
    one, two = scored(0, 0.2, 0.9), scored(1, 0.1, 0.95)
    assert best_of([Scored(7, failed="x"), two, one]) == 2
    assert "by more than others keep" in why([one, two], one)
    assert "by more than others agree" in why([one, two], two)
    assert why([one], one) == "it is the only one"
    assert "no other seed" in why([one, Scored(7, failed="x")], one)


def test_what_the_language_model_said_is_what_they_are_judged_by(order):
    result = edit_one(order("mgie", {"candidates": 2}, knobs={"expressive": "paint the sky orange"}))
    assert result.record["scorer"]["words"] == "paint the sky orange"
    assert edit_one(order()).record["scorer"]["words"] == WORDS


def test_a_batch_takes_candidates_and_knows_what_it_has_done(order, tiny_bundle, square, reddest, tmp_path):
    line = {"picture": str(square), "instruction": WORDS, "model": str(tiny_bundle), "steps": STEPS, "seed": 4, "out": "a.png"}
    asked = line | {"candidates": 3, "scorer": str(reddest), "min_score": -5}
    jobs = tmp_path / "jobs.jsonl"

    def run(*lines):
        jobs.write_text("\n".join(json.dumps(one) for one in lines))
        found = batch(jobs, tmp_path / "out")
        return found, [json.loads(one) for one in found.results.read_text().splitlines()]

    refused = asked | {"out": "b.png", "min_score": 5}
    found, lines = run(asked, refused, line | {"out": "c.png", "candidates": 65})
    assert [one["status"] for one in lines] == ["done", "failed", "failed"]
    assert "min-score" in lines[1]["error"]
    assert "1 to 64" in lines[2]["error"]
    assert found.failed_by_us == 0
    assert [one["seed"] for one in lines[0]["record"]["candidates"]] == [4, 5, 6]
    assert not (tmp_path / "out" / "b.png").exists()
    assert run(asked)[0].skipped == 1
    assert run(asked | {"candidates": 2})[0].skipped == 0
    assert run(asked | {"preservation_weight": 3})[0].skipped == 0
    assert run(asked | {"min_score": 4})[0].skipped == 0


def test_from_python(tiny_bundle, square, reddest):
    fields = {"model": tiny_bundle, "steps": STEPS, "candidates": 2, "scorer": reddest}
    assert paintover.edit(square, WORDS, **fields).record["chosen"] in (0, 1)
    assert paintover.imagine("a cow", **fields).record["chosen"] in (0, 1)


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code, *capsys.readouterr()


def test_the_command(tiny_bundle, square, reddest, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["edit", square, WORDS, "--model", tiny_bundle, "--steps", STEPS, "--scorer", reddest]
    code, out, err = call(capsys, *words, "--candidates", 3, "--keep-candidates", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["out"] == "square.edited.png"
    assert [one["out"] for one in told["candidates"]] == [f"square.edited.candidate-{n}.png" for n in (1, 2, 3)]
    assert [one["seed"] for one in told["candidates"]] == [0, 1, 2]
    assert f"chosen: seed {told['record']['chosen']} of 3 candidates, it " in err
    assert "shown" not in told

    (tmp_path / "square.edited.png").unlink()
    code, out, err = call(capsys, *words, "--candidates", 3, "--keep-candidates")
    assert (code, out.splitlines()[0]) == (0, "square.edited-2.png")  # beside it, the first one's candidates are still there

    code, out, err = call(capsys, *words, "--candidates", 3, "--min-score", 3, "-o", "refused.png")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "below the 3 that was asked for" in err
    assert not (tmp_path / "refused.png").exists()

    plain = tiny(tmp_path / "plain", "builtin")
    code, _, err = call(capsys, "imagine", "a cow", "--model", plain, "--steps", 1, "--candidates", 2)
    assert code == 2
    assert "no encoder of its own" in err
    shown = ("--editor", "diffedit", "--source-prompt", "a", "--show")
    code, out, err = call(capsys, *words, "--candidates", 2, "-o", "new.png", *shown)
    assert out.splitlines() == ["new.png", "new.mask.png"]


def test_a_contest_is_for_orders_with_a_sentinel(order):
    with pytest.raises(RequestError, match="no candidates"):
        Contest.of(check(replace(order(), sentinel=None)), "cpu")
