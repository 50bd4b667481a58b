"""`paintover evaluate inversion`, on the world drawn by code."""

from __future__ import annotations

import json

import pytest

from paintover import cli


def test_all_inversions_are_measured(tiny_world, tiny_bundle, tmp_path, capsys):
    root, photos = tiny_world
    out = tmp_path / "found.json"
    asked = ["evaluate", "inversion", "--count", "2", "--steps", "3", "--inner", "2", "--model", str(tiny_bundle)]
    with pytest.raises(SystemExit) as ended:
        cli.main([*asked, "--world", str(root), "--photos", str(photos), "-o", str(out)])
    assert not ended.value.code
    found = json.loads(out.read_text())
    one = found["inversions"]
    printed = capsys.readouterr().out
    assert all(f"| `{name}` |" in printed for name in one)
    assert (one["direct"]["evaluations"], one["ddim"]["evaluations"], one["edit-friendly"]["evaluations"]) == (3, 6, 6)
    for exact in ("direct", "fixed-point", "edit-friendly"):
        assert one[exact]["source_branch"]["codec"] > 80
    # Where the guided walk is the source branch, both come to the same picture; from DDIM's x_T guidance leads elsewhere.
    for held in ("null-text", "edit-friendly"):
        ends = one[held]["source_branch"]["picture"], one[held]["guided_walk"]["picture"]
        assert ends[0] == pytest.approx(ends[1], abs=0.1) or min(ends) > 80
    assert one["ddim"]["guided_walk"]["picture"] < one["ddim"]["unguided_walk"]["picture"]
    assert 0 < one["null-text"]["gradients"] <= 2 * 3


def test_a_flow_is_walked_as_its_edits_are_or_refused(tiny_world, tmp_path, capsys):
    from paintover.models.tiny import tiny

    flow = tiny(tmp_path / "flow", "flow")
    asked = ["evaluate", "inversion", "--count", "1", "--steps", "3", "--model", str(flow), "--json"]
    asked += ["--world", str(tiny_world[0]), "--photos", str(tiny_world[1])]
    with pytest.raises(SystemExit) as ended:
        cli.main([*asked, "--inversions", "direct,ddim"])
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)["inversions"]
    assert found["direct"]["source_branch"]["codec"] > 80
    assert found["ddim"]["source_branch"]["codec"] < found["direct"]["source_branch"]["codec"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*asked, "--inversions", "direct,edit-friendly"])
    assert ended.value.code == 2
    assert "steps add no noise" in capsys.readouterr().err


def test_an_unknown_inversion_is_named(tiny_world, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "inversion", "--inversions", "magic", "--world", str(tiny_world[0])])
    assert ended.value.code == 2
    assert "null-text" in capsys.readouterr().err
