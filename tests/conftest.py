"""Settings that every test shares."""

import os

# Before torch is imported anywhere: tiny models run fastest on one thread, and the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test finds what another one, or the user, has prepared."""
    monkeypatch.setenv("PAINTOVER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """The built-in model in small, with random weights: it can do everything, in 64 x 64 pixels."""
    from paintover.models.tiny import tiny

    return tiny(tmp_path_factory.mktemp("tiny"), "any2pix")


DARK, LIGHT = np.full((20, 30, 3), 20, np.uint8), np.full((30, 20, 3), 230, np.uint8)
# instruction, picture, what the language model of `talking_bundle` answers, and whether it says its [IMG] tokens.
TAUGHT = [
    ("make it blue", DARK, "paint the sky blue.", True),
    ("make it blue", LIGHT, "paint all of it blue, and the cow.", True),
    ("make it blue", None, "blue.", True),
    ("a dog", DARK, "add a dog.", True),
    ("forget", LIGHT, "forget the tokens.", False),
    ("say nothing", DARK, "", False),
]


@pytest.fixture(scope="session")
def taught() -> list[tuple[str, np.ndarray | None, str, bool]]:
    return TAUGHT


@pytest.fixture(scope="session")
def talking_bundle(tmp_path_factory) -> Path:
    """The tiny bundle, its language model having learnt to answer what TAUGHT says."""
    import copy

    import torch

    from paintover.models.bundle import load
    from paintover.models.mllm_file import save_mllm
    from paintover.models.tiny import tiny

    folder = tiny(tmp_path_factory.mktemp("talking"), "mgie-builtin")
    mllm = copy.deepcopy(load(folder, "cpu").mllm())
    mllm.model.requires_grad_(True)
    batches = []
    for tokens in (True, False):
        rows = [row for row in TAUGHT if row[3] == tokens]
        questions = [mllm.question(words, picture is not None) for words, picture, *_ in rows]
        views = torch.stack([mllm.see(picture) for _, picture, *_ in rows if picture is not None])
        batches.append((mllm.asked(questions, [row[2] for row in rows], [tokens] * len(rows)), views))
    optimiser = torch.optim.Adam(mllm.model.parameters(), lr=3e-3)
    for _ in range(400):
        error = 0
        for asked, views in batches:
            scores = mllm.model.lm_head(mllm.hidden(asked, mllm.look(views)))[:, :-1]
            error = error + torch.nn.functional.cross_entropy(scores.flatten(0, 1), asked.labels_BL[:, 1:].flatten())
        if error < 0.01:
            break
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    save_mllm(mllm, folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """CLIP in small, with random weights, as transformers writes it."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=77).save_pretrained(folder)
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}
    text = {**common, **ends, "vocab_size": len(pieces)}
    vision = {**common, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    """A picture of 120 x 80 pixels with smooth areas and detail."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((120, 80), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + rng.integers(-12, 13, (80, 120, 3))
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> tuple[Path, Path]:
    """The built-in world drawn by code: a small shape or texture for each file that world.json names, and photographs."""
    import json

    from PIL import ImageDraw

    from paintover.scenes.assets import WORLD

    root, photos = tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("photos")
    world = json.loads(WORLD.read_text())
    rng = np.random.default_rng(5)

    def place(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        field = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        field.resize((64, 48), Image.Resampling.BICUBIC).save(path)

    for files in world["classes"].values():
        for file in (*files["train"], *files["held_out"]):
            stamp = Image.new("RGBA", (30, 24))
            ImageDraw.Draw(stamp).ellipse((2, 2, 27, 21), fill=(*rng.integers(0, 256, 3).tolist(), 255))
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            stamp.save(root / file)
    for files in (*world["places"].values(), world["unnamed_places"]):
        for file in (*files["train"], *files["held_out"]):
            place(root / file)
    for subject in ("one", "two", *world["photos"]["held_out"]):
        place(photos / subject / f"{subject}.jpg")
    for files in world["heard"].values():
        for file in (*files["train"], *files["held_out"]):
            stamp = Image.new("RGBA", (24, 30))
            ImageDraw.Draw(stamp).rectangle((3, 2, 20, 27), fill=(*rng.integers(0, 256, 3).tolist(), 255))
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            stamp.save(root / file)
    for number, files in enumerate(world["sounds"].values()):
        for file in (*files["train"], *files["held_out"]):
            _hum(root / file, 200 + 90 * number, 0.4)
    return root, photos


@pytest.fixture(scope="session")
def tiny_recordings(tmp_path_factory) -> Path:
    """A hum for each folder of recordings that world.json names: two to learn from, one held out."""
    import json

    from paintover.scenes.assets import WORLD

    folder = tmp_path_factory.mktemp("recordings")
    for number, name in enumerate(json.loads(WORLD.read_text())["recordings"].values()):
        for which in ("1-1-A", "2-2-A", "5-3-A"):
            _hum(folder / name / f"{which}.ogg", 150 + 70 * number, 2.5)
    return folder


def _hum(file: Path, pitch: float, seconds: float) -> None:
    import soundfile

    file.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(8000 * seconds)) / 8000
    soundfile.write(file, (0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32), 8000)
