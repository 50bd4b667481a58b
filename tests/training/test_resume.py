"""A run can be killed at any moment: what it then becomes is, bit for bit, what it would have been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paintover.errors import PaintoverError
from paintover.models.denoiser import clean
from paintover.training import checkpoint
from paintover.training.denoiser import train
from paintover.training.network import averaged_weights, begin_from, build_unet
from paintover.training.recipe import Recipe, check_resumes, read, settle


def _state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.latest(run / "state") / "state.safetensors")


def _assert_same(run: Path, other: Path) -> None:
    state, expected = _state(run), _state(other)
    assert state.keys() == expected.keys()
    assert {key.split(".")[0] for key in state} == {"model", "ema", "optimiser"}
    differing = [key for key in expected if not torch.equal(state[key], expected[key])]
    assert not differing


def _started(out, recipe, world, text_folder, *more):
    words = [sys.executable, Path(__file__).with_name("worker.py"), out, *world, text_folder, recipe.model_dump_json(), *more]
    return subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _wait_for(path: Path, process) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.005)


def test_the_straight_run_learns(straight, tiny_recipe):
    before, after = _state(straight)["model.conv_out.weight"], json.loads((straight / "recipe.json").read_text())
    assert before.abs().max() > 0  # it begins as zeros
    assert Recipe(**after) == tiny_recipe
    assert checkpoint.latest(straight / "state").name == "step-00000006"
    assert len(list((straight / "state").iterdir())) == 1


def test_killed_while_it_writes_a_checkpoint(tmp_path, straight, tiny_recipe, tiny_world, text, text_folder):
    process = _started(tmp_path, tiny_recipe, tiny_world, text_folder, "die-writing")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert (tmp_path / "state" / "writing").exists()  # the torn one
    assert checkpoint.latest(tmp_path / "state").name == "step-00000002"
    train(tmp_path, tiny_recipe, *tiny_world, text, workers=0)
    _assert_same(tmp_path, straight)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000006"]


def test_killed_at_a_random_moment(tmp_path, straight, tiny_recipe, tiny_world, text, text_folder):
    process = _started(tmp_path, tiny_recipe, tiny_world, text_folder, 1)
    _wait_for(tmp_path / "recipe.json", process)
    time.sleep(random.uniform(0, 1))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    train(tmp_path, tiny_recipe, *tiny_world, text, workers=0)
    _assert_same(tmp_path, straight)


def test_asked_to_stop_it_writes_a_checkpoint_though_its_workers_are_asked_too(
    tmp_path, straight, tiny_recipe, tiny_world, text, text_folder
):
    long = tiny_recipe.model_copy(update={"checkpoint_every": 5, "steps": 10_000, "cooldown": 0})
    process = _started(tmp_path, long, tiny_world, text_folder, 1)
    _wait_for(tmp_path / "state" / "step-00000005", process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    stopped = checkpoint.latest(tmp_path / "state")
    assert 5 <= int(stopped.name.removeprefix("step-")) < 10_000
    assert json.loads((stopped / "facts.json").read_text())["step"] == int(stopped.name.removeprefix("step-"))


def test_asked_to_stop_and_resumed_in_one_process(tmp_path, straight, tiny_recipe, tiny_world, text):
    """The signal comes in the middle of the third step; what was there to answer signals before is there again."""

    class Interrupting:
        width, length, calls = text.width, text.length, 0

        def encode(self, texts):
            self.calls += 1
            if self.calls == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return text.encode(texts)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    last = train(tmp_path, tiny_recipe, *tiny_world, Interrupting(), workers=0)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert 0 < int(last.name.removeprefix("step-")) < tiny_recipe.steps
    train(tmp_path, tiny_recipe, *tiny_world, text, workers=0)
    _assert_same(tmp_path, straight)


def test_a_finished_run_is_left_as_it_is(straight, tiny_recipe, tiny_world, text):
    before = (checkpoint.latest(straight / "state") / "state.safetensors").stat()
    train(straight, tiny_recipe, *tiny_world, text, workers=0)
    after = (checkpoint.latest(straight / "state") / "state.safetensors").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_another_recipe_is_refused(straight, tiny_recipe, tiny_world, text):
    for change, said in (({"lr": 0.1}, "lr 0.001, not 0.1"), ({"blocks": (32, 64)}, "blocks")):
        with pytest.raises(PaintoverError, match=said):
            train(straight, tiny_recipe.model_copy(update=change), *tiny_world, text, workers=0)
    check_resumes(straight, tiny_recipe.model_copy(update={"steps": 8, "cooldown": 1}))
    assert read(straight, Recipe) == tiny_recipe


def test_a_run_goes_on_from_another_ones_averaged_weights(tmp_path, straight, tiny_recipe, tiny_world, text):
    begun = tiny_recipe.model_copy(update={"steps": 1, "lr": 1e-12, "init": str(straight), "ema": 0.0})
    train(tmp_path, begun, *tiny_world, text, workers=0)
    state, source = _state(tmp_path), _state(straight)
    for key in (key for key in source if key.startswith("ema.")):
        assert torch.allclose(state[key.replace("ema.", "model.")], source[key], atol=1e-6)
    with pytest.raises(PaintoverError, match="neither a run"):
        train(tmp_path / "new", begun.model_copy(update={"init": str(tmp_path / "none")}), *tiny_world, text, workers=0)


def test_a_run_that_blends_goes_on_from_one_that_did_not_and_is_the_same_at_first(tmp_path, straight, tiny_recipe, text):
    before, after = (build_unet(tiny_recipe.model_copy(update={"prediction": p}), text.width) for p in ("change", "blend"))
    before.load_state_dict(averaged_weights(straight))
    begin_from(after, straight)
    g = torch.Generator().manual_seed(0)
    noisy, source = torch.randn(2, 2, 48, 4, 4, generator=g)
    tokens, pooled = text.encode(["make it night", "remove the pig"])
    t_B = torch.tensor([10, 900])
    with torch.no_grad():
        said = [u(torch.cat([noisy, source], 1), t_B, tokens, class_labels=pooled).sample for u in (before, after)]
    assert said[1].shape[1] == 48 + 16
    torch.testing.assert_close(clean(said[1], source), clean(said[0], source))


def test_settling_a_recipe(straight, tiny_recipe, tmp_path):
    assert settle(straight, {"steps": "9"}, Recipe) == tiny_recipe.model_copy(update={"steps": 9})
    assert settle(tmp_path, {"sides": ["0.2", "0.5"], "bf16": True}, Recipe) == Recipe(sides=(0.2, 0.5), bf16=True)
    for given, said in (({"lr": "-1"}, "lr"), ({"sides": ["0.2"]}, "sides"), ({"nonsense": 1}, "nonsense")):
        with pytest.raises(PaintoverError, match=said):
            settle(tmp_path, given, Recipe)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(PaintoverError, match="no recipe"):
        settle(tmp_path, {}, Recipe)


def test_the_rate_warms_up_holds_and_cools_down():
    recipe = Recipe(lr=2.0, warmup=10, steps=100, cooldown=20)
    assert [recipe.rate(step) for step in (0, 9, 10, 80, 90, 99)] == pytest.approx([0.2, 2.0, 2.0, 2.0, 1.0, 0.1])
