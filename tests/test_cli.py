"""The command line: what it prints where, its exit codes, and one clear line for whatever is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paintover import cli, picture
from paintover.cli.tuning import Teller
from paintover.editors import registry
from paintover.editors.knobs import describe


@pytest.fixture
def paintover(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder, in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def fast(tiny_bundle):
    return "--model", tiny_bundle, "--steps", 2


def _process(*words, **options):
    """The same in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "paintover", *map(str, words)], capture_output=True, text=True, timeout=120, **options
    )


# Bad input: words of the command line, and what the one line must say. {photo}: a good picture. All but the last two are
# noticed before any model is loaded.
BAD = {
    "missing file": (["edit", "missing.png", "x"], "missing.png"),
    "text named .png": (["edit", "text.png", "x"], "text.png"),
    "0 bytes": (["edit", "empty.png", "x"], "empty"),
    "a bomb": (["edit", "bomb.png", "x"], "max_pixels"),
    "over a limit that was given": (["edit", "{photo}", "x", "--max-pixels", "100"], "limit of 100 pixels"),
    "a limit of nothing": (["edit", "{photo}", "x", "--max-bytes", "0"], "--max-bytes"),
    "a folder": (["edit", ".", "x"], "readable picture"),
    "mask of another size": (["edit", "{photo}", "x", "--mask", "small.png"], "30 x 20"),
    "mask of no name": (["edit", "{photo}", "x", "--mask", ""], "the mask is '', which names no file"),
    "black mask": (["edit", "{photo}", "x", "--mask", "black.png"], "mask"),
    "unknown editor": (["edit", "{photo}", "x", "--editor", "sdedt"], "sdedit"),
    "unknown knob": (["edit", "{photo}", "x", "--strengh", "1"], "image_guidance"),
    "unknown knob of an unknown editor": (["edit", "{photo}", "x", "--editor", "sdedt", "--strengh", "1"], "sdedit"),
    "another editor's knob": (["edit", "{photo}", "x", "--strength", "1"], "image_guidance"),
    "knob out of bounds": (["edit", "{photo}", "x", "--editor", "sdedit", "--strength", "1.5"], "0 to 1"),
    "knob of another kind": (["edit", "{photo}", "x", "--guidance", "high"], "a number"),
    "unknown choice": (["edit", "{photo}", "x", "--editor", "mdp-noise", "--schedule", "steep"], "cosine"),
    "empty instruction": (["edit", "{photo}", ""], "instruction is empty"),
    "empty caption": (["edit", "{photo}", "", "--editor", "mdp-noise"], "caption is empty; say what the result should show"),
    "a caption of nothing": (["imagine", ""], "caption is empty"),
    "blank instruction": (["edit", "{photo}", " \n"], "instruction is empty"),
    "endless instruction": (["edit", "{photo}", "x" * 5000], "4000"),
    "instruction that is no text": (["edit", "{photo}", "\udcff"], "instruction"),
    "no instruction": (["edit", "{photo}"], "instruction"),
    "source prompt for nothing": (["edit", "{photo}", "x", "--source-prompt", "y"], "mdp-noise"),
    "no such folder": (["edit", "{photo}", "x", "-o", "nowhere/out.png"], "nowhere"),
    "unknown suffix": (["edit", "{photo}", "x", "-o", "out.xyz"], ".png"),
    "existing output": (["edit", "{photo}", "x", "-o", "small.png"], "--force"),
    "steps out of bounds": (["edit", "{photo}", "x", "--steps", "0"], "steps"),
    "negative seed": (["edit", "{photo}", "x", "--seed", "-1"], "seed"),
    "seed that is no number": (["edit", "{photo}", "x", "--seed", "one"], "--seed"),
    "imagine as an editor": (["edit", "{photo}", "x", "--editor", "imagine"], "words alone"),
    "an editor without a second caption": (["imagine", "x", "--editor", "mdp-noise"], "--then"),
    "an editor that walks beside nothing": (["imagine", "x", "--then", "y", "--editor", "sdedit"], "mdp-noise"),
    "a second caption of nothing": (["imagine", " ", "--then", "y"], "prompt is empty"),
    "an empty second caption": (["imagine", "x", "--then", ""], "caption is empty"),
    "a window that does not fit": (["imagine", "x", "--then", "y", "--t-max", "51"], "0 to 50"),
    "a schedule of nobody": (["imagine", "x", "--then", "y", "--schedule", "1,x"], "1,0.8,0.5"),
    "a sweep of nothing": (["sweep", "x"], "--made"),
    "a sweep over nothing": (["sweep", "{photo}", "x", "--editor", "sdedit"], "strength"),
    "a sweep over an unknown knob": (["sweep", "{photo}", "x", "--x", "strength=1"], "t_max"),
    "a sweep with an unknown flag": (["sweep", "{photo}", "x", "--strenth", "1"], "t_max"),
    "a sweep into an existing file": (["sweep", "{photo}", "x", "-o", "small.png"], "--force"),
    "redo of a stranger": (["redo", "{photo}"], "provenance"),
    "show of a stranger": (["show", "{photo}"], "provenance"),
    "show over a limit": (["show", "{photo}", "--max-pixels", "100"], "limit of 100 pixels"),
    "show of nothing": (["show", "missing.png"], "missing.png"),
    "batch without jobs": (["batch", "missing.jsonl", "--out", "folder"], "missing.jsonl"),
    "unknown command": (["paint"], "paint"),
    "an instruction with a dash": (["edit", "{photo}", "-trees", "--editor", "ledits"], 'a space first, " -trees"'),
    "an instruction with a dash, and a flag's letter": (
        ["edit", "{photo}", "-orange"],
        'behind all options and --: -- "-orange"',
    ),
    "an unknown short flag": (["edit", "{photo}", "x", "-t"], "there is no option -t"),
    "an unknown flag of invert": (["invert", "{photo}", "--innner", "3"], "invert takes"),
    "a caption for invert": (["invert", "{photo}", "a meadow"], "goes into --source-prompt"),
    "a flag without its value": (["edit", "{photo}", "x", "--seed"], "requires an argument"),
    "unknown flag": (["show", "{photo}", "--loud"], "--loud"),
    "unknown model": (["edit", "{photo}", "x", "--model", "no-such-model"], "no-such-model"),
    "model that is no path": (["edit", "{photo}", "x", "--model", "m" * 5000], "no bundle"),
    "model of nobody": (["edit", "{photo}", "x", "--model", "~nobody-of-that-name/x"], "no bundle"),
    "device that holds no numbers": (
        ["edit", "{photo}", "x", "--model", "{bundle}", "--device", "meta"],
        "'meta' is not available",
    ),
    "device without its package": (["edit", "{photo}", "x", "--model", "{bundle}", "--device", "hpu"], "hpu"),
    "unknown device": (["edit", "{photo}", "x", "--model", "{bundle}", "--device", "abacus"], "abacus"),
}


@pytest.fixture
def bad_files(tmp_path):
    (tmp_path / "text.png").write_text("I am no picture.")
    (tmp_path / "empty.png").touch()
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(start + b"\0\0\0\0IEND\xaeB`\x82")
    Image.new("L", (30, 20), 255).save(tmp_path / "small.png")
    Image.new("L", (120, 80)).save(tmp_path / "black.png")


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_exit_2_and_no_output(what, paintover, bad_files, photo, tiny_bundle, tmp_path):
    words, says = BAD[what]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = paintover(*[word.format(photo=photo, bundle=tiny_bundle) for word in words])
    assert code == 2
    assert out == ""
    assert says in err
    assert err.startswith("paintover: ")
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_read_only_folder_is_noticed_first(paintover, photo, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = paintover("edit", photo, "x", "-o", "locked/out.png")
    assert (code, err.count("\n")) == (2, 1)


def test_edit_prints_where_the_picture_is(paintover, photo, fast):
    code, out, err = paintover("edit", photo, "make it night", "-o", "out.png", *fast)
    assert (code, out, err) == (0, "out.png\n", "")
    assert Image.open("out.png").size == (120, 80)


def test_json_is_one_object_with_the_whole_request(paintover, photo, fast):
    words = ["--editor", "sdedit", "--strength", "0.5", "--seed", 7, "--json", "-o", "out.png"]
    code, out, err = paintover("edit", photo, "a field", *words, *fast)
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["out"] == "out.png"
    assert (told["width"], told["height"]) == (120, 80)
    assert told["request"]["knobs"] == {"strength": 0.5, "guidance": 7.5, "negative_prompt": ""}
    assert (told["request"]["seed"], told["request"]["editor"]) == (7, "sdedit")
    assert told["record"]["evaluations"] == 2


def test_the_output_is_named_and_numbered_where_no_name_is_given(paintover, photo, fast):
    names = [paintover("edit", photo, "night", *fast)[1] for _ in range(3)]
    assert names == ["photo.edited.png\n", "photo.edited-2.png\n", "photo.edited-3.png\n"]


def test_force_replaces_and_nothing_else_does(paintover, photo, fast, tmp_path):
    target = tmp_path / "out.png"
    target.write_text("mine")
    assert paintover("edit", photo, "night", "-o", target, *fast)[0] == 2
    assert target.read_text() == "mine"
    assert paintover("edit", photo, "night", "-o", target, "--force", *fast)[0] == 0
    assert Image.open(target).size == (120, 80)


@pytest.mark.parametrize("words", [[" -trees"], ["--", "-trees"]])
def test_an_instruction_with_a_dash_can_be_typed_as_the_message_says(words, paintover, photo, fast):
    assert paintover("edit", photo, "--editor", "sdedit", "-o", "out.png", *fast, *words)[0] == 0


def test_a_mask_bounds_the_edit(paintover, photo, fast, tmp_path):
    mask = np.zeros((80, 120), np.uint8)
    mask[:, 60:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert paintover("edit", photo, "night", "--mask", "mask.png", "-o", "out.png", *fast)[0] == 0
    before, after = (np.asarray(Image.open(path)) for path in (photo, "out.png"))
    assert np.array_equal(before[:, :60], after[:, :60])
    assert not np.array_equal(before[:, 60:], after[:, 60:])


def test_imagine(paintover, fast):
    code, out, _ = paintover("imagine", "a cow", "--guidance", "2", *fast)
    assert (code, out) == (0, "imagined.png\n")
    assert Image.open("imagined.png").size == (64, 64)


def test_imagine_then(paintover, fast, tmp_path):
    words = ("imagine", "a cow", "--then", "a pig", "--editor", "mdp-latent", "--t-m", "20", *fast)
    assert paintover(*words) == (0, "imagined.png\nimagined.source.png\n", "")
    for made, says in (("imagined.png", ["instruction: a pig", "source_prompt: a cow"]), ("imagined.source.png", ["imagine"])):
        out = paintover("show", made)[1]
        assert all(part in out for part in says)
        assert paintover("redo", made)[1].startswith("identical")
    told = json.loads(paintover(*words, "--json")[1])
    assert (told["out"], told["source"]["out"]) == ("imagined-2.png", "imagined-2.source.png")
    assert (told["source"]["request"]["editor"], told["source"]["request"]["instruction"]) == ("imagine", "a cow")
    (tmp_path / "mine.source.png").write_text("mine")
    code, _, err = paintover(*words, "-o", "mine.png")
    assert (code, "mine.source.png: exists" in err) == (2, True)
    assert not (tmp_path / "mine.png").exists()
    assert paintover(*words, "-o", "mine.png", "--force")[0] == 0
    assert Image.open("mine.source.png").size == (64, 64)


def test_sweep(paintover, photo, fast, tiny_bundle):
    grid = ("--x", "t_max=50,10", "--y", "t_m=5,20", "--side", 48, "--model", tiny_bundle, "--steps", 10)
    assert paintover("sweep", photo, "night", *grid) == (0, "sweep.png\n", "")
    assert "t_max" in paintover("show", "sweep.png")[1]
    told = json.loads(paintover("sweep", photo, "night", *grid, "--force", "--json")[1])
    assert (told["width"], told["height"]) == Image.open("sweep.png").size
    assert [(cell["x"], cell["y"], "reason" in cell) for cell in told["cells"]] == [
        (50, 5, False), (10, 5, False), (50, 20, False), (10, 20, True)
    ]  # fmt: skip
    made = ("sweep", "a pig", "--made", "a cow", "--x", "t_m=0,20", "-o", "made.png", *fast)
    assert paintover(*made)[:2] == (0, "made.png\n")


def test_help_says_a_knob_once_for_all_who_take_it(paintover, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    _, out, _ = paintover("edit", "--help")
    assert out.count("when the window opens") == 1
    assert "mdp-*: when the window opens" in out
    assert out.count("how strongly the caption is followed (1: no guidance)") == 1


def test_redo_and_show(paintover, photo, fast):
    paintover("edit", photo, "make it night", "-o", "out.png", *fast)
    code, out, _ = paintover("show", "out.png")
    assert code == 0
    assert "instruction: make it night" in out
    assert json.loads(paintover("show", "out.png", "--json")[1])["request"]["instruction"] == "make it night"
    code, out, _ = paintover("redo", "out.png")
    assert code == 0
    assert out.splitlines() == ["identical: every pixel is the same", "source: the same", "model: the same"]
    assert json.loads(paintover("redo", "out.png", "--json", "-o", "again.png")[1])["identical"] is True
    assert np.array_equal(np.asarray(Image.open("again.png")), np.asarray(Image.open("out.png")))


def test_batch(paintover, photo, fast, tiny_bundle, tmp_path):
    line = {"picture": str(photo), "instruction": "night", "model": str(tiny_bundle), "steps": 2}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line) + "\n")
    code, out, err = paintover("batch", "jobs.jsonl", "--out", "made")
    assert (code, out.split(":")[0]) == (0, "1 done, 0 skipped, 0 failed")
    assert "line 1: done" in err
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line) + "\nnonsense\n")
    code, out, err = paintover("batch", "jobs.jsonl", "--out", "made", "--json")
    assert (code, json.loads(out)["skipped"], json.loads(out)["failed"]) == (2, 1, 1)
    assert "line 2: failed" in err
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line | {"instruction": "night " * 99}) + "\n")
    assert "line 1: note: the instruction has more than" in paintover("batch", "jobs.jsonl", "--out", "long")[2]


def test_editors_are_one_line_each_and_one_of_them_with_every_knob(paintover, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    _, out, err = paintover("editors")
    assert len(out.splitlines()) == 1 + len(registry.names())
    assert any(line.startswith("instruct ") and "an instruction" in line for line in out.splitlines())
    assert "--strength" not in out
    assert "paintover editors NAME" in err
    _, out, _ = paintover("editors", "ledits")
    assert all(info.flag in out and info.description in out for info in describe(registry.get("ledits").Knobs))
    cards = json.loads(paintover("editors", "--json")[1])["editors"]
    listed = next(card for card in cards if card["name"] == "sdedit")
    assert listed["knobs"]["properties"]["strength"]["maximum"] == 1
    [card] = json.loads(paintover("editors", "sdedit", "--json")[1])["editors"]
    assert card == listed
    assert paintover("editors", "sdedt")[0] == 2


def test_editors_tells_what_a_model_recommends(paintover, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    folder = shutil.copytree(tiny_bundle, tmp_path / "mine")
    told = json.loads((folder / "paintover.json").read_text()) if (folder / "paintover.json").exists() else {"format": 1}
    (folder / "paintover.json").write_text(json.dumps({**told, "defaults": {"sdedit": {"steps": 17, "guidance": 7.5}}}))
    rows = paintover("editors", "sdedit", "--model", "mine")[1].splitlines()
    assert "with mine" in rows[2]
    assert [row.split()[:8] for row in rows if row.startswith("--steps")] == [
        ["--steps", "a", "whole", "number", "1", "to", "1000", "50"]
    ]
    assert "17" in next(row for row in rows if row.startswith("--steps"))
    assert next(row for row in rows if row.startswith("--guidance")).count("7.5") == 1, "the same as declared is no news"
    assert "with mine" not in paintover("editors", "mdp-noise", "--model", "mine")[1]
    assert "not here" in paintover("editors", "sdedit", "--model", "no/such")[2]


def test_models_and_doctor(paintover):
    assert {row["name"] for row in json.loads(paintover("models", "--json")[1])["models"]} >= {"timbrooks/instruct-pix2pix"}
    assert paintover("models")[0] == 0
    report = json.loads(paintover("doctor", "--json")[1])
    assert report["versions"]["torch"].startswith("2.")
    assert "present" in report["built-in model"]
    assert "cpu" in report["machine"]["devices"]
    assert report["cache"]["folder"].startswith(os.environ["PAINTOVER_CACHE"])
    assert "devices: cpu" in paintover("doctor")[1]


@pytest.mark.parametrize("error", [ZeroDivisionError("on purpose"), KeyboardInterrupt()])
def test_faults_of_ours_and_ctrl_c_are_one_line_and_leave_nothing(error, paintover, photo, fast, monkeypatch, tmp_path):
    from paintover.models.denoiser import Denoiser

    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(Denoiser, "__call__", broken)
    code, out, err = paintover("edit", photo, "night", "-o", "out.png", *fast)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert out == ""
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_in_a_process_of_its_own(photo, fast, tmp_path):
    done = _process("edit", photo, "night", "--json", "-o", "out.png", *fast, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["out"] == "out.png"
    failed = _process("edit", "missing.png", "night", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("paintover: missing.png")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["--help"], ["edit", "--help"], ["editors"], ["edit", "missing.png", "x"], ["edit", "a.png", ""]]
)
def test_nothing_that_can_do_without_imports_torch(words, tmp_path):
    code = (
        "import sys; from paintover.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_imports_what_it_shows_and_no_pixels(tmp_path):
    """Half of its time, once, was a library that only edits need."""
    code = (
        "import sys; from paintover.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'scipy', 'numpy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_name_that_no_encoding_holds_is_escaped_and_controls_do_not_reach_the_terminal(tmp_path):
    done = _process("show", "\u65e5\x1b[31m\n.png", cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "paintover: \\u65e5\\x1b[31m .png: no such file; give the path of a picture\n"


@pytest.mark.parametrize("closed", ["1", "2"])
def test_closed_streams_change_no_exit_code(closed, tmp_path):
    command = f"exec {closed}>&-; exec '{sys.executable}' -m paintover show missing.png"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == (0 if closed == "2" else 1)


def test_what_a_file_says_of_itself_does_not_steer_the_terminal(paintover, tmp_path):
    said = {"request": {"instruction": "\x1b[31mred", "model": "\ud800"}}
    picture.save(tmp_path / "made.png", np.zeros((4, 4, 3), np.uint8), provenance=said)
    code, out, _ = paintover("show", "made.png")
    assert code == 0
    assert "\x1b" not in out


TUNING = ("--batch", 1, "--rate", 0.001)


class _Report:
    """A report as the tuning loop makes it."""

    def __init__(self, i, total, what="tuning"):
        self.i, self.total, self.what = i, total, what


def _told(capsys, reports, seconds):
    """What is said on stderr of reports that come `seconds` apart, without a terminal."""
    now = [0.0]
    teller = Teller("editing", clock=lambda: now[0])
    for report in reports:
        now[0] += seconds
        teller.on_step(report)
    return capsys.readouterr().err.splitlines()


def test_a_tuning_says_how_long_it_takes_then_how_far_it_is_and_a_quick_one_says_nothing(capsys):
    lines = _told(capsys, [_Report(i, 20) for i in range(20)], 10)
    assert lines[:2] == ["tuning: 20 iterations take about 3 min on this machine", "tuning: 7 of 20, about 2 min left"]
    assert _told(capsys, [_Report(i, 20) for i in range(20)], 0.1) == []


def test_what_is_taken_up_again_says_where_and_pictures_that_are_made_together_do_not(capsys):
    assert _told(capsys, [_Report(i, 60) for i in range(24, 60)], 0.1) == ["tuning: going on at iteration 25 of 60"]
    together = [_Report(3, 8, "class pictures"), _Report(7, 8, "class pictures"), *(_Report(i, 4) for i in range(4))]
    assert _told(capsys, together, 0.1) == []


def _interrupted(command, photo, model, tmp_path):
    """Ctrl-C in a tuning that has begun, in a process of its own: exit code and lines."""
    code = (
        "import sys; from paintover import cli; from paintover.tuning import unfinished\n"
        "unfinished.EVERY = 0\ncli.main(sys.argv[1:])"
    )
    words = [*command, "--model", model, "--iterations", 2000, *TUNING]
    running = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    began, until = time.time(), time.monotonic() + 100

    def tunes():
        states = Path(os.environ["PAINTOVER_CACHE"]).rglob("*.unfinished")
        return any(state.stat().st_mtime > began for state in states)

    while not tunes() and running.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=100)
    return running.returncode, err.splitlines()


def test_ctrl_c_while_an_edit_tunes_says_once_that_it_goes_on_and_so_it_does(photo, tiny_bundle, tmp_path):
    command = ["edit", photo, "a cow", "--editor", "unitune", "--steps", 2]
    code, lines = _interrupted(command, photo, tiny_bundle, tmp_path)
    assert code == 130
    assert [line for line in lines if "interrupted" in line] == [
        "paintover: interrupted; the same command goes on where it was"
    ]
    assert any("going on at iteration" in line for line in _interrupted(command, photo, tiny_bundle, tmp_path)[1])


def test_an_empty_name_is_no_name(paintover, photo, tiny_bundle):
    code, out, err = paintover("tune", photo, "--name", "", "--model", tiny_bundle, "--iterations", 2)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "'' cannot be the name" in err


def test_what_lets_little_be_learnt_is_noted_before_it_is_tuned(paintover, tiny_bundle, tmp_path, photo):
    Image.fromarray(np.zeros((20, 30, 4), np.uint8)).save(tmp_path / "nothing.png")
    Image.fromarray(np.full((40, 200, 3), 90, np.uint8)).save(tmp_path / "strip.png")
    fast = ("--model", tiny_bundle, "--iterations", 2, *TUNING)
    err = paintover("tune", "nothing.png", *fast)[2]
    assert "30 x 20 pixels" in err
    assert "wholly transparent" in err
    assert "iterations 2 is little (128 is usual)" in err
    assert "much longer" in paintover("edit", "strip.png", "a cow", "--editor", "unitune", "--steps", 2, *fast)[2]
    err = paintover("tune", photo, "--model", tiny_bundle, "--iterations", 32, *TUNING)[2]
    notes = [line for line in err.splitlines() if not line.startswith("tuning: ")]  # how long it takes, on a busy machine
    assert notes == [], "nothing is wrong with this one"
    assert paintover("tune", "nothing.png", *fast)[2] == "", "it was tuned before"


def test_a_tuning_is_kept_in_a_folder_later(paintover, tiny_bundle, photo, tmp_path):
    paintover("tune", photo, "--name", "meadow", "--model", tiny_bundle, "--iterations", 2, "--tune", "lora", *TUNING)
    assert paintover("tuned", "--keep", "meadow", "kept") == (0, "kept: kept\n", "")
    assert (tmp_path / "kept" / "pytorch_lora_weights.safetensors").is_file()
    code, out, err = paintover("tuned", "--keep", "meadow", "kept")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert json.loads(paintover("tuned", "--keep", "meadow", "kept", "--force", "--json")[1]) == {"kept": "kept"}
    assert paintover("tuned", "--keep", "nobody", "other")[0] == 2
    assert "two commands" in paintover("tuned", "--keep", "meadow", "other", "--discard", "meadow")[2]
