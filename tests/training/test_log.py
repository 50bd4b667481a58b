"""The log of a run, and being asked to stop."""

from __future__ import annotations

import json
import os
import signal
import threading

import torch

from paintover.training.log import Log
from paintover.training.stopping import asked_to_stop


def test_what_was_logged_beyond_the_checkpoint_is_taken_back(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0, "samples_per_s": 1.0}) + "\n" for step in (50, 100, 150)]
    (tmp_path / "log.jsonl").write_text("".join(lines) + '{"step": 20')
    log = Log(tmp_path, 100, batch=4)
    for step in range(101, 151):
        log.add(step, torch.tensor(float(step)))
    found = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in found] == [50, 100, 150]
    assert found[-1]["loss"] == 125.5
    assert list((tmp_path / "board").iterdir())


def test_the_second_signal_is_answered_as_before():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with asked_to_stop() as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked == [signal.SIGTERM]
            assert not heard
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        assert asked == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nothing_is_left_behind():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with asked_to_stop() as asked:
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) != before
    assert asked == []
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_it_only_waits():
    found = []

    def run():
        with asked_to_stop() as asked:
            found.append(asked)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [[]]
