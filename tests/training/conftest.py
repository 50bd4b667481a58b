"""A run so small that a step takes milliseconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def text_folder(tiny_bundle, tmp_path_factory) -> Path:
    """What `paintover train text` makes, in small."""
    folder = tmp_path_factory.mktemp("text")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(tiny_bundle / part, folder / part)
    (folder / "text.json").write_text(json.dumps(json.loads((tiny_bundle / "paintover.json").read_text())["text"]))
    return folder


@pytest.fixture(scope="session")
def text(text_folder):
    from paintover.training.text import load

    return load(text_folder)


@pytest.fixture(scope="session")
def tiny_recipe():
    from paintover.training.recipe import Recipe

    return Recipe(size=16, factor=4, blocks=(32, 32), batch=4, warmup=2, steps=6, cooldown=2, checkpoint_every=2, lr=1e-3)


@pytest.fixture(scope="session")
def straight(tmp_path_factory, tiny_recipe, tiny_world, text) -> Path:
    """The folder of a run that nothing interrupted."""
    from paintover.training.denoiser import train

    out = tmp_path_factory.mktemp("straight")
    train(out, tiny_recipe, *tiny_world, text, workers=0)
    return out


@pytest.fixture(scope="session")
def language_recipe():
    from paintover.training.language_recipe import LanguageRecipe

    return LanguageRecipe(
        size=32, vision=(32, 32), width=32, layers=1, head_width=16, head_layers=1, queries=4,
        image_tokens=2, batch=10, unseen=0.3, warmup=2, steps=6, cooldown=2, checkpoint_every=2, seed=3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def straight_language(tmp_path_factory, language_recipe, tiny_world, text, text_folder) -> Path:
    """The folder of a run of the language model that nothing interrupted."""
    from paintover.training.language import train

    out = tmp_path_factory.mktemp("language")
    train(out, language_recipe, *tiny_world, text, text_folder / "tokenizer" / "tokenizer.json", workers=0)
    return out


@pytest.fixture(scope="session")
def mgie_folder(tmp_path_factory) -> Path:
    """The built-in model in small, with a language model whose edit head makes as many states as the text encoder."""
    import torch

    from paintover.models.tiny import _mgie, tiny

    folder = tiny(tmp_path_factory.mktemp("mixed"), "builtin")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _mgie(folder, queries=32)
    return folder


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory) -> Path:
    """A dataset of seven pairs, wide and tall; the instruction's number is how bright the source is. One is said in full."""
    import csv

    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("pairs")
    with (folder / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["source", "target", "instruction", "expressive"])
        for i in range(7):
            for name, value in (("source", 10 * i), ("target", 255 - 10 * i)):
                shape = (40, 60, 3) if i % 2 else (60, 40, 3)
                Image.fromarray(np.full(shape, value, np.uint8)).save(folder / f"{name}-{i}.png")
            rows.writerow([f"source-{i}.png", f"target-{i}.png", f"make it {i}", "turn all to seven" if i == 3 else ""])
    return folder
