"""`paintover train ...`."""

from __future__ import annotations

import json

import pytest

from paintover import cli
from paintover.editors import knobs, registry
from paintover.training.recipe import Recipe, read

SMALL = {"size": 16, "factor": 4, "blocks": "32,32", "batch": 2, "warmup": 1, "cooldown": 0, "checkpoint-every": 1}


@pytest.fixture
def train(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", *map(str, words)])
        return ended.value.code, *capsys.readouterr()

    return run


def test_train_goes_on_and_becomes_a_bundle(train, tiny_world, text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PAINTOVER_WORLD", str(tiny_world[0]))
    monkeypatch.setenv("PAINTOVER_PHOTOS", str(tiny_world[1]))
    run = tmp_path / "run"
    flags = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    words = ("scenes", "--out", run, "--text", text_folder, "--workers", 0)
    code, out, errors = train(*words, *flags, "--steps", 1)
    assert (code, out.strip()) == (0, str(run / "state" / "step-00000001")), errors
    code, out, _ = train(*words, "--steps", 2)  # the rest of the recipe is the folder's
    assert (code, out.strip()) == (0, str(run / "state" / "step-00000002"))
    assert read(run, Recipe) == Recipe(
        size=16, factor=4, blocks=(32, 32), batch=2, warmup=1, cooldown=0, checkpoint_every=1, steps=2
    )
    code, _, errors = train(*words, "--lr", 1)
    assert code == 2
    assert "another folder" in errors
    card, bundle = tmp_path / "card.md", tmp_path / "bundle"
    code, _, errors = train("export", run, "--text", text_folder, "--out", bundle, "--card", card)
    assert code == 2
    assert "card.md" in errors
    card.write_text("# Small\n\nKnows nothing.\n")
    code, out, _ = train("export", run, "--text", text_folder, "--out", bundle, "--card", card, "--steps", 3, "--guidance", 1.5)
    assert (code, out.strip()) == (0, str(bundle))
    about = json.loads((bundle / "paintover.json").read_text())
    assert about["size"] == 16
    assert about["defaults"]["instruct"] == {"steps": 3, "guidance": 1.5, "image_guidance": 1.0}
    assert set(about["defaults"]) >= set(registry.names())  # their own defaults are for another kind of model
    for name in registry.names():
        recommended = about["defaults"][name]
        knobs.read(name, registry.get(name).Knobs, {k: v for k, v in recommended.items() if k != "steps"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scenes", "--out", "run", "--lr", "x"], "lr is 'x'"),
        (["scenes", "--out", "run", "--blocks", "32,x"], "blocks.1"),
        (["scenes", "--out", "run"], "train text"),
        (["export", "run", "--out", "b", "--card", "README.md"], "README.md"),
        (["text", "--out", "."], "exists"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(train, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, errors = train(*words)
    assert (code, out) == (2, "")
    assert said in errors
    assert errors.strip().count("\n") == 0
