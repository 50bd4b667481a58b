"""Recall on embeddings whose neighbours are known, chance by counting, and the whole command on the tiny world."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
import torch

from paintover import cli
from paintover.evaluation.retrieval import Items, chance, measure, recall
from paintover.models.bundle import load
from paintover.scenes.assets import Assets
from paintover.scenes.sounds import Sounds


def _at(*degrees):
    """Rows of length 1 in a plane."""
    angles = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_recall_of_neighbours_that_are_known():
    items = Items(_at(0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 90.0), ["a", "b", "b", "b", "b", "b", "c"])
    found = recall(Items(_at(1.0, 89.0, 19.0, 0.0), ["a", "a", "b", "nowhere"]), items)
    # From 89 degrees "a" is the last of seven; whose label nobody has is not asked.
    assert (found["queries"], found["items"], found["labels"]) == (3, 7, 2)
    assert found["at 1"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["at 5"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["chance at 1"] == pytest.approx((1 / 7 + 1 / 7 + 5 / 7) / 3, abs=1e-4)
    nearer = recall(Items(_at(41.0), ["a"]), items)
    assert (nearer["at 1"], nearer["at 5"]) == (0, 0)
    assert recall(Items(_at(24.0), ["a"]), items)["at 5"] == 1  # 20, 30, 10, 40, 0
    nobody = recall(Items(_at(0.0), ["nowhere"]), items)
    assert nobody["queries"] == 0
    assert nobody["at 1"] is nobody["chance at 5"] is None


@pytest.mark.parametrize(("items", "right", "k"), [(7, 1, 1), (7, 2, 5), (6, 3, 2), (5, 0, 2), (4, 4, 1), (3, 1, 5)])
def test_chance_is_what_counting_says(items, right, k):
    draws = list(combinations(range(items), min(k, items)))
    assert chance(items, right, k) == pytest.approx(np.mean([any(n < right for n in draw) for draw in draws]))


class _Knowing:
    """Sees a picture's mean colour and nothing else, and hears and reads nothing apart."""

    width, rate, seconds, modules = 3, 16000, 2.0, ()

    def see(self, pictures):
        return torch.nn.functional.normalize(torch.tensor(np.array([p.mean(axis=(0, 1)) for p in pictures])).float(), dim=1)

    def hear(self, waves):
        return torch.eye(3)[:1].expand(len(waves), -1)

    read = hear


def test_pools_are_of_what_is_held_out(tiny_world, tiny_recordings):
    assets = Assets(tiny_world[0], "held_out", tiny_world[1], heard=True)
    sounds = Sounds(tiny_world[0], "held_out", tiny_recordings)
    found = measure(_Knowing(), assets, sounds, count=2, scenes=5)["recall"]
    recordings = sum(map(len, sounds.by_label.values()))
    assert found["picture → text"]["queries"] == 2 * len(assets.stamps) == found["text → picture"]["items"]
    assert found["sound → text"]["queries"] == found["text → sound"]["items"] == recordings
    both = set(assets.stamps) & set(sounds.by_label)
    assert found["picture → sound"]["labels"] == found["sound → picture"]["labels"] == len(both) > 0
    assert found["scene → caption"]["queries"] == 5


def test_the_command(tiny_bundle, tiny_world, tiny_recordings, tmp_path, capsys):
    root, photos = (str(path) for path in tiny_world)
    told = ["evaluate", "retrieval", "--out", str(tmp_path / "r"), "--model", str(tiny_bundle), "--world", root]
    told += ["--photos", photos, "--recordings", str(tiny_recordings), "--count", "1", "--scenes", "4", "--device", "cpu"]
    with pytest.raises(SystemExit, match="0"):
        cli.main(told)
    assert "sound → picture" in capsys.readouterr().out
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    table = (tmp_path / "r" / "table.md").read_text()
    one = found["recall"]["picture → text"]
    assert f"| picture → text | {one['queries']} | {one['items']} | {100 * one['at 1']:.0f} %" in table
    assert found["fingerprint"] == load(tiny_bundle, device="cpu").fingerprint
    with pytest.raises(SystemExit, match="2"):
        cli.main(told)
    assert "--force" in capsys.readouterr().err
