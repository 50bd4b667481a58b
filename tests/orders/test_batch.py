"""A file of jobs: each line on its own, resumable, nothing done twice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import paintover
from paintover.errors import RequestError


@pytest.fixture
def jobs(tmp_path, tiny_bundle, photo):
    """Writes job lines beside a copy of the photo; missing words are filled in."""
    shutil.copy(photo, tmp_path / "photo.png")

    def write(*lines):
        path = tmp_path / "jobs.jsonl"
        base = {"picture": "photo.png", "model": str(tiny_bundle), "steps": 2}
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps({**base, **line}) for line in lines))
        return path

    return write


def _lines(report):
    return [json.loads(line) for line in report.results.read_text().splitlines()]


def test_good_and_bad_lines(jobs, tmp_path):
    path = jobs(
        {"instruction": "make it night"},
        {"instruction": "a cow", "editor": "sdedit", "knobs": {"strength": 0.5}, "seed": 3, "out": "cow.webp"},
        "",
        "not JSON",
        {"instruction": ""},
        {"instruction": "x", "picture": "missing.png"},
        {"instruction": "x", "knobs": {"strength": 1}},
        {"instruction": "x", "out": "../outside.png"},
        {"instruction": "x", "out": "cow.webp"},
        {"instruction": "x", "wrong": 1},
        "[1]",
        {"instruction": "a field", "editor": "imagine", "picture": None},
    )
    told = []
    report = paintover.batch(path, tmp_path / "out", together=3, on_line=told.append)
    assert (report.done, report.skipped, report.failed, report.failed_by_us) == (3, 0, 8, 0)
    assert [line["line"] for line in _lines(report)] == [1, 2, *range(4, 13)]
    assert [line.line for line in told] == [1, 2, *range(4, 13)]
    errors = {line["line"]: line["error"] for line in _lines(report) if line["status"] == "failed"}
    expected = {
        4: "JSON",
        5: "empty",
        6: "missing.png",
        7: "strength",
        8: "plain file name",
        9: "line 2",
        10: "wrong",
        11: "object",
    }
    assert all(word in errors[n] for n, word in expected.items()), errors
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "00001-photo.png",
        "00012-imagined.png",
        "cow.webp",
        "results.jsonl",
    ]
    assert not (tmp_path / "outside.png").exists()


def test_values_of_another_kind_are_refused_for_what_they_are(jobs, tmp_path):
    noise = {"instruction": "x", "editor": "mdp-noise"}
    wrong = {
        "schedule is {'1': 2}, but takes constant": {**noise, "knobs": {"schedule": {"1": 2}}},
        "t_m is True, but takes a whole number 0 to 50": {**noise, "knobs": {"t_m": True}},
        "seed is True: ": {"instruction": "x", "seed": True},
        "steps is True: ": {"instruction": "x", "steps": True},
        "the picture is": {"instruction": "x", "picture": "s\0.png"},
        "the picture is ''": {"instruction": "x", "picture": ""},
        "the mask is ''": {"instruction": "x", "mask": ""},
        "knobs is [1]": {"instruction": "x", "knobs": [1]},
    }
    report = paintover.batch(jobs(*wrong.values()), tmp_path / "out")
    errors = [line["error"] for line in _lines(report)]
    assert (report.failed, report.failed_by_us) == (len(wrong), 0), errors
    assert all(says in error for says, error in zip(wrong, errors, strict=True)), errors


def test_a_line_gives_what_edit_gives(jobs, tmp_path, tiny_bundle):
    report = paintover.batch(jobs({"instruction": "make it night"}, {"instruction": "a cow"}), tmp_path / "out")
    alone = paintover.edit(tmp_path / "photo.png", "a cow", model=str(tiny_bundle), steps=2)
    saved = np.asarray(Image.open(_lines(report)[1]["out"])).astype(int)
    assert np.abs(saved - alone.rgb_HWC).max() <= 1


def test_goes_on_where_it_was(jobs, tmp_path):
    path = jobs(*({"instruction": words} for words in ("night", "dusk", "snow")))
    out = tmp_path / "out"
    paintover.batch(path, out)
    (out / "00002-photo.png").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    report = paintover.batch(path, out)
    assert (report.done, report.skipped, report.failed) == (1, 2, 0)
    assert [line["status"] for line in _lines(report)] == ["skipped", "done", "skipped"]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize("changed", ["instruction", "picture", "knob", "mask"])
def test_an_output_of_another_request_is_not_taken_for_done(changed, jobs, tmp_path):
    out = tmp_path / "out"
    Image.new("L", (120, 80), 255).save(tmp_path / "mask.png")
    paintover.batch(jobs({"instruction": "night", "mask": "mask.png"}), out)
    again = {"instruction": "night", "mask": "mask.png"}
    if changed == "instruction":
        again["instruction"] = "dusk"
    elif changed == "knob":
        again["knobs"] = {"guidance": 2}
    elif changed == "picture":
        Image.new("RGB", (120, 80), "red").save(tmp_path / "photo.png")
    else:
        Image.new("L", (120, 80), 128).save(tmp_path / "mask.png")
    report = paintover.batch(jobs(again), out)
    assert (report.skipped, report.failed) == (0, 1)
    assert "exists" in _lines(report)[0]["error"]
    assert paintover.batch(jobs(again), out, force=True).done == 1


def test_what_is_done_already_is_read_within_the_limits_that_were_given(jobs, tmp_path, monkeypatch):
    from paintover.orders import batch

    asked = []
    request_in = batch.request_in
    monkeypatch.setattr(batch, "request_in", lambda path, *limits: asked.extend(limits) or request_in(path, *limits))
    limits = paintover.Limits(max_pixels=200_000_000)
    path = jobs({"instruction": "night"})
    paintover.batch(path, tmp_path / "out", limits=limits)
    assert paintover.batch(path, tmp_path / "out", limits=limits).skipped == 1
    assert asked == [limits]


def test_an_unreadable_file_of_jobs(tmp_path):
    with pytest.raises(RequestError, match=r"missing\.jsonl"):
        paintover.batch(tmp_path / "missing.jsonl", tmp_path / "out")


def test_a_fault_of_ours_is_told_from_bad_input(jobs, tmp_path, monkeypatch):
    from paintover.models.denoiser import Denoiser

    def broken(*args, **kwargs):
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(Denoiser, "__call__", broken)
    report = paintover.batch(jobs({"instruction": "night"}, {"instruction": ""}), tmp_path / "out")
    assert (report.failed, report.failed_by_us) == (2, 1)


def test_hostile_lines_stop_nobody(jobs, tmp_path):
    path = jobs(*({"instruction": "x", "out": out} for out in ("n" * 300 + ".png", "\ud800.png", "good.png")))
    report = paintover.batch(path, tmp_path / "out")
    assert (report.done, report.failed, report.failed_by_us) == (1, 2, 0)


def test_lines_end_at_line_feeds_only_and_a_byte_order_mark_is_no_part_of_them(jobs, tmp_path):
    path = jobs({"instruction": "LINES"})
    path.write_text("\ufeff" + path.read_text().replace("LINES", "one\u2028two\x85three") + "\r\n", encoding="utf-8")
    report = paintover.batch(path, tmp_path / "out")
    assert (report.done, report.failed) == (1, 0)


def test_results_of_two_batches_at_once_are_whole_lines(jobs, tmp_path):
    path = jobs({"instruction": "x"}, {"instruction": "y"})
    paintover.batch(path, tmp_path / "out", on_line=lambda line: line.line == 1 and paintover.batch(path, tmp_path / "out"))
    assert [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
