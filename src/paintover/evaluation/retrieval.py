"""Do pictures, sounds and words of one thing find each other? The media encoder on what is held out from its training.

Pictures show a thing alone on a ground, as somebody gives one; sounds are recordings; words are the things' names. What is
asked for is any item of the right label. Whole pictures and their captions are asked for each other as well.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paintover import __version__
from paintover.errors import RequestError
from paintover.evaluation.compare import Picture, as_uint8
from paintover.evaluation.report import write_text
from paintover.evaluation.tables import Listing
from paintover.models.bundle import load
from paintover.models.media import MediaEncoder
from paintover.scenes import words
from paintover.scenes.assets import Assets
from paintover.scenes.edits import SIDES
from paintover.scenes.referring import alone
from paintover.scenes.scene import Scene, random_backdrop, random_scene
from paintover.scenes.sounds import FITS, RATE, Sounds
from paintover.sound.resample import resampled

RANKS = (1, 5)
_AT_ONCE = 32
_SIDE = 128  # px of the pictures


@dataclass(frozen=True, eq=False)
class Items:
    """Rows of length 1, and the label of each."""

    rows_NE: Tensor
    labels: Sequence[str]


def recall(queries: Items, items: Items) -> dict[str, Any]:
    """At each of RANKS: for how many of the queries an item of their label is among the nearest, and by chance.

    Queries whose label no item has are left out. Chance: of an order of the items drawn blindly.
    """
    there, labels = np.array(items.labels), set(items.labels)
    asked = [n for n, label in enumerate(queries.labels) if label in labels]
    found: dict[str, Any] = {"queries": len(asked), "items": len(there), "labels": len({queries.labels[n] for n in asked})}
    order_QN = (queries.rows_NE[asked] @ items.rows_NE.T).argsort(dim=1, descending=True).numpy() if asked else None
    for k in RANKS:
        hits, chances = [], []
        for row, n in enumerate(asked):
            assert order_QN is not None
            right = there == queries.labels[n]
            hits.append(bool(right[order_QN[row, :k]].any()))
            chances.append(chance(len(there), int(right.sum()), k))
        found[f"at {k}"] = round(float(np.mean(hits)), 4) if hits else None
        found[f"chance at {k}"] = round(float(np.mean(chances)), 4) if hits else None
    return found


def chance(items: int, right: int, k: int) -> float:
    """That one of the `right` ones is among k of the items, drawn without putting back."""
    return 1 - math.comb(items - right, k) / math.comb(items, k) if k < items else float(right > 0)


def run(
    root: Path,
    photos: Path | None,
    recordings: Path | None,
    *,
    out: Path,
    model: str = "builtin",
    count: int = 8,
    scenes: int = 100,
    seed: int = 1,
    force: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """What `measure` says of the bundle's encoder, as plain JSON, in out/report.json and, as a table, in out/table.md.

    Raises PaintoverError.
    """
    if (out / "report.json").exists() and not force:
        raise RequestError(f"{out} holds a report; choose another folder, or --force")
    began = time.perf_counter()
    assets, sounds = Assets(root, "held_out", photos, heard=True), Sounds(root, "held_out", recordings)
    bundle = load(model, device=device)
    found = {
        "model": model, "fingerprint": bundle.fingerprint, "paintover": __version__, "world": assets.fingerprint,
        "seed": seed, "pictures_of_each": count, "scenes": scenes, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **measure(bundle.encoder(), assets, sounds, count, scenes, seed),
    }  # fmt: skip
    found["seconds"] = round(time.perf_counter() - began, 1)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", json.dumps(found, indent=1) + "\n")
    write_text(out / "table.md", markdown(found))
    return found


@torch.no_grad()
def measure(
    encoder: MediaEncoder, assets: Assets, sounds: Sounds, count: int = 8, scenes: int = 100, seed: int = 1
) -> dict[str, Any]:
    """{"recall": {"picture → text": recall, ...}, "by_label": {label: {"picture → text": its share at 1, ...}}}.

    count: pictures of each thing that is held out, and of each place or look that a sound may speak of. scenes: whole pictures.
    """
    rng = np.random.default_rng(seed)
    crops = [(cls, crop) for cls in assets.stamps for crop in _crops(assets, cls, count, rng)]
    pictures = _seen(encoder, crops)
    whole = _seen(encoder, [(label, view) for label in FITS for view in _views(assets, label, count, rng)])
    heard = _heard(encoder, sounds)
    names = sorted({*assets.classes, *sounds.by_label})
    texts = _read(encoder, names, [words.noun(name) for name in names])
    drawn = [random_scene(assets, rng, SIDES) for _ in range(scenes)]
    captions = [words.caption(scene) for scene in drawn]
    pairs = _seen(encoder, [(said, as_uint8(scene.render(_SIDE))) for said, scene in zip(captions, drawn, strict=True)])
    told = sorted(set(captions))
    ways = {
        "picture → text": (pictures, texts), "text → picture": (texts, pictures),
        "sound → text": (heard, texts), "text → sound": (texts, heard),
        "sound → picture": (heard, pictures), "picture → sound": (pictures, heard),
        "sound → place or look": (heard, whole), "place or look → sound": (whole, heard),
        "scene → caption": (pairs, _read(encoder, told, told)), "caption → scene": (_read(encoder, told, told), pairs),
    }  # fmt: skip
    return {
        "recall": {way: recall(*two) for way, two in ways.items()},
        "by_label": {
            way: {label: _at_1(*ways[way], label) for label in sorted(set(ways[way][0].labels) & set(ways[way][1].labels))}
            for way in ("picture → text", "sound → text", "sound → picture")
        },
    }


def listing(found: dict[str, Any]) -> Listing:
    heads = ["asked → found", "queries", "items", *(f"recall at {k} (chance)" for k in RANKS)]
    rows = [
        [way, str(one["queries"]), str(one["items"]), *(_cell(one, k) for k in RANKS)] for way, one in found["recall"].items()
    ]
    return Listing("Held-out pictures, sounds and words of one label find each other", heads, rows)


def markdown(found: dict[str, Any]) -> str:
    told = listing(found)
    return f"{told.title}:\n\n{told.markdown()}"


def _cell(one: dict[str, Any], k: int) -> str:
    return "–" if one[f"at {k}"] is None else f"{100 * one[f'at {k}']:.0f} % ({100 * one[f'chance at {k}']:.0f} %)"


def _at_1(queries: Items, items: Items, label: str) -> float | None:
    mine = [n for n, one in enumerate(queries.labels) if one == label]
    share: float | None = recall(Items(queries.rows_NE[mine], [label] * len(mine)), items)["at 1"]
    return share


def _crops(assets: Assets, cls: str, count: int, rng: np.random.Generator) -> Iterator[Picture]:
    stamps = assets.stamps[cls]
    for n in range(count):
        yield as_uint8(alone(assets, stamps[n % len(stamps)], rng).render(_SIDE))


def _views(assets: Assets, label: str, count: int, rng: np.random.Generator) -> Iterator[Picture]:
    """Whole pictures that a sound of this label may speak of: the place, or anything under the look."""
    kind, what = FITS[label]
    for _ in range(count if kind == "look" or what in assets.labels else 0):
        scene = (
            Scene(random_backdrop(assets, rng, label=what))
            if kind == "place"
            else replace(random_scene(assets, rng, SIDES), look=what)
        )
        yield as_uint8(scene.render(_SIDE))


def _seen(encoder: MediaEncoder, pictures: Sequence[tuple[str, Picture]]) -> Items:
    batches = [pictures[first : first + _AT_ONCE] for first in range(0, len(pictures), _AT_ONCE)]
    rows = [encoder.see([pixels for _, pixels in batch]).float().cpu() for batch in batches]
    return Items(torch.cat([torch.zeros(0, encoder.width), *rows]), [label for label, _ in pictures])


def _heard(encoder: MediaEncoder, sounds: Sounds) -> Items:
    found = [one for several in sounds.by_label.values() for one in several]
    waves = [np.concatenate(list(resampled([one.wave], RATE, encoder.rate))) for one in found]
    rows = [encoder.hear([wave]).float().cpu() for wave in waves]
    return Items(torch.cat([torch.zeros(0, encoder.width), *rows]), [one.label for one in found])


def _read(encoder: MediaEncoder, labels: Sequence[str], texts: Sequence[str]) -> Items:
    return Items(encoder.read(texts).float().cpu(), labels)
