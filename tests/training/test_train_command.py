"""`paintover train ...`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from paintover import cli
from paintover.editors import knobs, registry
from paintover.models.description import describe
from paintover.training.language_recipe import LanguageRecipe
from paintover.training.mgie_recipe import MgieRecipe
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


TINY = {
    "size": 32, "vision": "32,32", "width": 32, "layers": 1, "head-width": 16,
    "head-layers": 1, "batch": 4, "warmup": 1, "cooldown": 0, "checkpoint-every": 1, "sides": "0.3,0.5",
}  # fmt: skip


def test_train_language_goes_on_and_is_added_to_a_bundle(train, tiny_world, text_folder, tiny_bundle, tmp_path):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    flags = [word for name, value in TINY.items() for word in (f"--{name}", value)]
    words = ("language", "--out", run, "--text", text_folder, "--world", tiny_world[0], "--workers", 0)
    code, out, errors = train(*words, *flags, "--steps", 1)
    assert (code, out.strip()) == (0, str(run / "state" / "step-00000001")), errors
    code, out, _ = train(*words, "--steps", 2)
    assert (code, out.strip()) == (0, str(run / "state" / "step-00000002"))
    assert read(run, LanguageRecipe).sides == (0.3, 0.5)
    code, _, errors = train("language", "--out", run, "--text", text_folder, "--world", tiny_world[0], "--layers", 2)
    assert code == 2
    assert "layers 1, not 2" in errors
    shutil.copytree(tiny_bundle, bundle)
    code, out, errors = train("add-language", run, bundle)
    assert (code, out.strip()) == (0, str(bundle)), errors
    assert "MB of language model" in errors
    assert "mgie" in describe(bundle, "bundle").capabilities
    code, _, errors = train("add-language", tmp_path / "none", bundle)
    assert (code, "no checkpoint" in errors) == (2, True)


def test_train_mgie_goes_on_and_is_added_to_its_bundle(train, tiny_world, mgie_folder, pairs_folder, tmp_path):
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    shutil.copytree(mgie_folder, bundle)
    small = ("--size", 32, "--batch", 2, "--warmup", 1, "--checkpoint-every", 1, "--workers", 0, "--init", bundle)
    world = ("--world", tiny_world[0])
    code, out, errors = train("mgie", "--out", run, *world, *small, "--instruct", 0.5, "--steps", 1)
    assert (code, out.strip()) == (0, str(run / "state" / "step-00000001")), errors
    code, out, _ = train("mgie", "--out", run, *world, "--workers", 0, "--steps", 2)
    assert (code, out.strip()) == (0, str(run / "state" / "step-00000002"))
    assert (read(run, MgieRecipe).denoiser_lr, read(run, MgieRecipe).instruct) == (1e-4, 0.5)
    code, out, errors = train("mgie", "--out", tmp_path / "pairs", "--data", pairs_folder / "pairs.csv", *small, "--steps", 1)
    assert (code, out.strip()) == (0, str(tmp_path / "pairs" / "state" / "step-00000001")), errors
    table = tmp_path / "renamed.csv"
    table.write_text((pairs_folder / "pairs.csv").read_text().replace("source,", "from,", 1))
    words = ("--column", "source=from", "--pictures", pairs_folder, "--steps", 1)
    code, out, errors = train("mgie", "--out", tmp_path / "renamed", "--data", table, *small, *words)
    assert code == 0, errors
    code, _, errors = train("mgie", "--out", tmp_path / "split", "--data", table, *small, *words, "--split", "none")
    assert (code, "none" in errors) == (2, True)
    before = describe(bundle, "bundle").defaults
    code, out, errors = train("add-language", run, bundle)
    assert (code, out.strip()) == (0, str(bundle)), errors
    assert describe(bundle, "bundle").defaults == before | dict.fromkeys(("mgie", "lgie"), before["instruct"])


def test_two_processes_train_what_one_does(train, tiny_world, mgie_folder, tmp_path):
    """In earnest: launched as on two devices, sharing each batch, and comparing notes after it."""
    words = [
        "mgie",
        "--world",
        tiny_world[0],
        "--init",
        mgie_folder,
        "--workers",
        0,
        "--size",
        32,
        "--batch",
        4,
        "--unseen",
        0.25,
    ]
    words += ["--instruct", 0.25, "--warmup", 1, "--steps", 1, "--out"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "paintover",
        "train",
    ]
    done = subprocess.run(
        [*launch, *map(str, words), str(tmp_path / "two")], env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    train(*words, tmp_path / "one")
    one, two = (load_file(tmp_path / name / "state" / "step-00000001" / "state.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in (key for key in one if key.endswith("exp_avg")):  # the gradients, as they were clipped
        assert torch.allclose(one[key], two[key], atol=1e-5 * float(one[key].abs().max()) + 1e-7), key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scenes", "--out", "run", "--lr", "x"], "lr is 'x'"),
        (["scenes", "--out", "run", "--blocks", "32,x"], "blocks.1"),
        (["scenes", "--out", "run"], "train text"),
        (["export", "run", "--out", "b", "--card", "README.md"], "README.md"),
        (["language", "--out", "run", "--vision", "33"], "vision.0"),
        (["language", "--out", "run"], "train text"),
        (["add-language", "run", "bundle"], "no checkpoint"),
        (["mgie", "--out", "run", "--init", "none"], "no bundle"),
        (["mgie", "--out", "run", "--schedule", "up"], "schedule"),
        (["text", "--out", "."], "exists"),
        (["mgie", "--out", "file", "--world", "none"], "file is a file"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(train, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, out, errors = train(*words)
    assert (code, out) == (2, "")
    assert said in errors
    assert errors.strip().count("\n") == 0
