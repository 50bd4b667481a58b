"""InstructPix2Pix: a folder for each prompt, with prompt.json, SEED_0.jpg, SEED_1.jpg, and scores in metadata.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paintover.datasets.sample import Row, RowError, chosen, inside, optional, reason, words

# Of the prompts, in the order of seeds.json: where each split begins and ends, as InstructPix2Pix trains.
_SPLITS = {"train": (0.0, 0.9), "val": (0.9, 0.9 + 0.05), "test": (0.9 + 0.05, 1.0)}


@dataclass(frozen=True, slots=True)
class Clip:
    """The least CLIP similarities that a pair is kept by: of both pictures, of each with its caption, and of the change of the
    pictures with the change of the captions (-1..1). most: the best pairs of a prompt, by direction, that are kept.

    The defaults are those that the published pairs were made with.
    """

    image: float = 0.7
    text: float = 0.2
    direction: float = 0.2
    most: int = 4


class InstructPix2Pix:
    """Every pair of a split, in the order of seeds.json, or of the folders' names where that is missing.

    Its id is FOLDER_SEED_0, which is what the release of MGIE calls it. Splits are of prompts: all pairs of one are in one.
    Raises RowError when the list cannot be read, has no such split, or (with `clip`) a prompt's scores are missing.
    """

    splits: tuple[str, ...] = tuple(_SPLITS)

    def __init__(self, folder: Path, split: str, clip: Clip | None = None) -> None:
        self.folder, self.split = folder, chosen(split, self.splits, folder)
        prompts = _listed(folder)
        if not prompts:
            raise RowError(f"{folder} has no prompts: expected seeds.json, or folders with prompt.json and SEED_0.jpg")
        first, last = (math.floor(share * len(prompts)) for share in _SPLITS[split])
        self.pairs = [
            (name, seed)
            for name, seeds in prompts[first:last]
            for seed in (seeds if clip is None else _kept(folder, name, seeds, clip))
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def row(self, i: int) -> Row:
        name, seed = self.pairs[i]
        file = _inside(self.folder, name) / "prompt.json"
        try:
            prompt = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RowError(f"{file}: cannot be read ({reason(error)})") from None
        if not isinstance(prompt, dict):
            raise RowError(f"{file}: no JSON object")
        return Row(
            id=f"{name}_{seed}_0",
            where=f"{file}, seed {seed}",
            source=inside(file.parent, f"{seed}_0.jpg", "picture", str(file)),
            target=inside(file.parent, f"{seed}_1.jpg", "picture", str(file)),
            instruction=words(prompt.get("edit"), '"edit"', str(file)),
            source_caption=optional(prompt.get("input", prompt.get("caption"))),
            target_caption=optional(prompt.get("output")),
        )


def _listed(folder: Path) -> list[tuple[str, list[str]]]:
    """(folder's name, seeds) of each prompt."""
    file = folder / "seeds.json"
    if not file.exists():
        return sorted(_found(folder))
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        return [(str(name), [str(seed) for seed in seeds]) for name, seeds in listed]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RowError(f'{file} is no list of ["folder", ["seed", ...]] ({reason(error)}); take it away') from None


def _inside(folder: Path, name: str) -> Path:
    """A prompt's folder. Raises RowError where it is not in `folder`."""
    return inside(folder, name, "folder", str(folder / "seeds.json"))


def _found(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for file in folder.glob("*/prompt.json"):
        seeds = sorted(path.name.removesuffix("_0.jpg") for path in file.parent.glob("*_0.jpg"))
        if seeds:
            yield file.parent.name, seeds


def _kept(folder: Path, name: str, seeds: list[str], clip: Clip) -> list[str]:
    """The seeds whose pairs are over the thresholds, in the order that they are listed in."""
    file = _inside(folder, name) / "metadata.jsonl"
    try:
        lines = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines() if text.strip()]
        scores = {str(line["seed"]): line for line in lines}
        good = [seed for seed in seeds if seed in scores and _over(scores[seed], clip)]
        best = sorted(good, key=lambda seed: -float(scores[seed]["clip_sim_dir"]))[: clip.most]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RowError(f"{file}: has no CLIP scores ({reason(error)}); open the dataset without thresholds") from None
    return [seed for seed in seeds if seed in best]


def _over(scores: dict[str, Any], clip: Clip) -> bool:
    return (
        float(scores["clip_sim_image"]) >= clip.image
        and float(scores["clip_sim_dir"]) >= clip.direction
        and min(float(scores["clip_sim_0"]), float(scores["clip_sim_1"])) >= clip.text
    )
