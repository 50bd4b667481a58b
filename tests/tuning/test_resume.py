"""Tuning that is interrupted, killed, doubled or short of disk: nothing half-written, and the very same in the end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

import paintover
from paintover.errors import Cancelled
from paintover.tuning import store, unfinished
from paintover.tuning.loop import tune
from paintover.tuning.optimiser import InBackward, adam
from paintover.tuning.unfinished import Unfinished

KNOBS = {"iterations": 40, "batch": 1, "rate": 1e-3}
COMMAND = [sys.executable, "-c", "import sys; from paintover import cli; from paintover.tuning import unfinished\n"]
COMMAND[-1] += "unfinished.EVERY = 0\ncli.main(sys.argv[1:])"


def start(photo: Path, model: Path) -> subprocess.Popen[str]:
    """`paintover tune` in a process of its own, which leaves its state often."""
    flags = [word for name, value in KNOBS.items() for word in (f"--{name}", str(value))]
    words = ["tune", str(photo), "--name", "killed", "--model", str(model), *flags]
    return subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(ending: str) -> list[Path]:
    return sorted(Path(os.environ["PAINTOVER_CACHE"]).rglob(f"*{ending}"))


def when(running: subprocess.Popen[str], ready) -> None:
    until = time.monotonic() + 100
    while not ready():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def whole(photo, tiny_bundle, tmp_path, monkeypatch) -> str:
    """What the uninterrupted tuning comes to (sha256), found elsewhere."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PAINTOVER_CACHE", str(tmp_path / "elsewhere"))
        return paintover.tune(photo, name="whole", model=tiny_bundle, **KNOBS).record.sha256


def test_interrupted_then_killed_it_goes_on_to_the_same_end(photo, tiny_bundle, whole):
    interrupted = start(photo, tiny_bundle)
    when(interrupted, lambda: files(".unfinished"))
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate(timeout=100)
    assert interrupted.returncode == 130, said
    assert "the same command goes on where it was" in said
    [state] = files(".unfinished")
    first = int((Unfinished(state).read() or ({}, {"i": "-1"}))[1]["i"])
    written = state.stat().st_mtime_ns
    killed = start(photo, tiny_bundle)
    when(killed, lambda: files(".unfinished")[0].stat().st_mtime_ns != written)
    killed.kill()
    killed.communicate()
    assert store.listed() == []
    assert files("weights.safetensors") == files("tuned.json") == []
    seen = []
    ended = paintover.tune(photo, name="killed", model=tiny_bundle, on_step=seen.append, **KNOBS)
    assert seen[0].i > first, "each went on where the one before it was"
    assert (seen[-1].i, seen[-1].total) == (39, 40)
    assert ended.record.sha256 == whole
    assert files(".unfinished") == []


def test_two_at_once_do_not_hurt_each_other(photo, tiny_bundle, whole):
    other = start(photo, tiny_bundle)
    when(other, lambda: files(".unfinished"))
    ours = paintover.tune(photo, name="killed", model=tiny_bundle, **KNOBS)
    _, said = other.communicate(timeout=200)
    assert other.returncode == 0, said
    [tuning] = store.listed()
    assert tuning.record.sha256 == ours.record.sha256 == whole
    assert tuning.tensors()
    assert [path.name for path in store.root().iterdir()] == ["killed"]


@pytest.mark.parametrize("stage", ["caption", "weights"])
def test_imagic_goes_on_in_the_stage_where_it_was(photo, tiny_bundle, stage):
    knobs = {"caption": "a cow", "embedding_iterations": 4, "iterations": 4, "model": tiny_bundle, "editor": "imagic"}
    before, seen = [], []
    with pytest.raises(Cancelled):
        paintover.tune(photo, on_step=before.append, cancelled=lambda: [s.what for s in before].count(stage) == 2, **knobs)
    with paintover.tune(photo, on_step=seen.append, **knobs) as resumed, paintover.tune(photo, **knobs) as uninterrupted:
        assert (seen[0].what, seen[0].i) == (stage, 2)
        assert resumed.record.sha256 == uninterrupted.record.sha256


def test_a_damaged_state_is_tuned_anew(photo, tiny_bundle):
    knobs = {"model": tiny_bundle, "iterations": 4, "batch": 1, "rate": 1e-3}
    before, seen = [], []
    with pytest.raises(Cancelled):
        paintover.tune(photo, on_step=before.append, cancelled=lambda: len(before) == 2, **knobs)
    [state] = files(".unfinished")
    data = bytearray(state.read_bytes())
    data[-5] ^= 1  # of a weight: only its sum tells
    state.write_bytes(data)
    paintover.tune(photo, on_step=seen.append, **knobs)
    assert seen[0].i == 0


def test_resuming_reads_the_state_once_and_lets_go_of_it(photo, tiny_bundle, monkeypatch):
    knobs = {"model": tiny_bundle, "iterations": 4, "batch": 1, "rate": 1e-3, "tune": "lora", "rank": 1}
    before, alive, reads = [], [], []
    with pytest.raises(Cancelled):
        paintover.tune(photo, on_step=before.append, cancelled=lambda: len(before) == 2, **knobs)
    parse, read = unfinished.files.parse, unfinished.files.read
    state: list[weakref.ref[torch.Tensor]] = []

    def parsed(data: bytearray, start: int = 0) -> dict[str, torch.Tensor]:
        found = parse(data, start)
        if any(name.startswith("weight/") for name in found):
            state.extend(weakref.ref(tensor) for tensor in found.values())
        return found

    monkeypatch.setattr(unfinished.files, "parse", parsed)
    monkeypatch.setattr(
        unfinished.files, "read", lambda path: (reads.append(path) if path.suffix == ".unfinished" else None, read(path))[1]
    )
    paintover.tune(photo, on_step=lambda report: alive.append([ref for ref in state if ref() is not None]), **knobs)
    assert len(state) > 2
    assert alive == [[], []]
    assert len(reads) == 1


def test_a_state_that_is_half_stepped_is_never_written(tmp_path):
    """Ctrl-C in the middle of a backward pass: some weights have stepped, others have not."""
    file = tmp_path / "state.unfinished"
    weights = {name: torch.nn.Parameter(torch.ones(3)) for name in "ab"}
    optimiser = InBackward(weights, adam(0.1))
    steps = []

    def loss(i: int) -> torch.Tensor:
        late = weights["a"] * 1
        if i == 3:
            late.register_hook(interrupt)
        return (late**2).sum() + (weights["b"] ** 2).sum()

    def interrupt(gradient: torch.Tensor) -> None:
        steps.append(weights["b"].detach().clone())
        raise KeyboardInterrupt

    often = Unfinished(file, every=0)
    running = tune(loss, optimiser, 9, often)
    for _ in range(3):
        next(running)
        often._took = 0  # due again at once
    expected = {name: weight.detach().clone() for name, weight in weights.items()}
    with pytest.raises(KeyboardInterrupt):
        next(running)
    assert steps, "the pass had begun"
    found, facts = Unfinished(file).read() or ({}, {})
    assert facts["i"] == "2"
    assert all(torch.equal(found[f"weight/{name}"], expected[name]) for name in "ab")


def test_a_full_disk_stops_no_tuning(photo, tiny_bundle, monkeypatch):
    """Files are limited to 100 kB here, which is less than the weights."""
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        tuned = paintover.tune(photo, name="full", model=tiny_bundle, iterations=3, batch=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tuned.name is None
    assert "could not be kept (File too large)" in tuned.notes[0]
    assert files("") == [path for path in files("") if path.is_dir() or path.suffix == ".entry"], "nothing half-written"
    assert tuned.edit("a cow", steps=2).rgb_HWC.shape == (80, 120, 3)
