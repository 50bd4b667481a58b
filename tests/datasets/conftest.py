"""Small datasets in the layouts of the published ones, with pictures that can be told apart."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Smooth colours: JPEG keeps them to a few levels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    return stream.getvalue()


def save(path: Path, seed: int, form: str = "PNG", size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed, size), form))


def is_picture(opened, seed: int, tolerance: int = 0) -> bool:
    """Whether the opened picture is that of `seed`: its pixels differ by no more than JPEG's rounding."""
    wanted = np.asarray(picture(seed)).astype(int)
    return opened.rgb_HWC.shape == wanted.shape and int(np.abs(opened.rgb_HWC.astype(int) - wanted).max()) <= tolerance


def instruct_pix2pix(folder: Path, prompts: int = 20, listed: bool = True) -> Path:
    """Prompt n has one pair, or two for n odd; pictures 10 * n + 2 * pair and the one after; scores that grow with n."""
    seeds = []
    for n in range(prompts):
        name, own = f"{n:07d}", [str(1000 + 10 * n + k) for k in range(1 + n % 2)]
        seeds.append([name, own])
        for k, seed in enumerate(own):
            save(folder / name / f"{seed}_0.jpg", 10 * n + 2 * k, "JPEG")
            save(folder / name / f"{seed}_1.jpg", 10 * n + 2 * k + 1, "JPEG")
        prompt = {"input": f"a photo of {n}", "edit": f"make it {n + 1}", "output": f"a photo of {n + 1}", "url": "https://x"}
        (folder / name / "prompt.json").write_text(json.dumps(prompt))
        scores = {"clip_sim_0": 0.2 + n / 100, "clip_sim_1": 0.3, "clip_sim_image": 0.7, "p2p_threshold": 0.5, "cfg_scale": 8.0}
        lines = [{"seed": int(seed), **scores, "clip_sim_dir": 0.2 + k / 10} for k, seed in enumerate(own)]
        (folder / name / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if listed:
        (folder / "seeds.json").write_text(json.dumps(seeds))
    return folder


def magicbrush(folder: Path, captions: bool = False) -> Path:
    """One split: an image with one turn and one with two. Picture 10 * image + 0 is the input, + n the output of turn n."""
    turns, sessions, told = [], {}, {}
    for image, count in (("100", 1), ("205", 2)):
        first = int(image)
        names = [f"{image}-input.png", *(f"{image}-output{n}.png" for n in range(1, count + 1))]
        for n, name in enumerate(names):
            save(folder / "images" / image / name, first + n)
        sessions[image] = []
        for n in range(1, count + 1):
            mask = picture(first + n - 1).convert("RGBA")
            mask.putalpha(0)
            mask.save(folder / "images" / image / f"{image}-mask{n}.png")
            turn = {
                "input": names[n - 1],
                "mask": f"{image}-mask{n}.png",
                "output": names[n],
                "instruction": f"turn {n} of {image}",
            }
            turns.append(turn)
            sessions[image].append(turn)
        told[image] = {name: f"what {name} shows" for name in names}
    (folder / "edit_turns.json").write_text(json.dumps(turns))
    (folder / "edit_sessions.json").write_text(json.dumps(sessions))
    if captions:
        (folder / "global_descriptions.json").write_text(json.dumps(told))
    return folder


def parquet(file: Path, first: int = 100, rows: int = 5, group: int = 2) -> Path:
    """MagicBrush as the hub has it: pictures as {"bytes", "path"}, in several groups of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def cell(seed: int) -> dict[str, object]:
        return {"bytes": encoded(picture(seed)), "path": f"{seed}.png"}

    table = pa.table(
        {
            "img_id": [str(first + n) for n in range(rows)],
            "turn_index": pa.array([1] * rows, pa.int32()),
            "source_img": [cell(first + 2 * n) for n in range(rows)],
            "mask_img": [cell(first + 2 * n) for n in range(rows)],
            "instruction": [f"edit {first + n}" for n in range(rows)],
            "target_img": [cell(first + 2 * n + 1) for n in range(rows)],
        }
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def mgie(folder: Path, count: int = 3) -> Path:
    """What MGIE's preparation leaves: TSV, JSON, and a pickle that would leave a trace if it were opened."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, told = [], {}
    for n in range(count):
        cells = [base64.b64encode(encoded(picture(2 * n + k), "JPEG")).decode() for k in range(2)]
        lines.append("\t".join(cells) + "\n")
        told[f"{n:07d}_{n}_0"] = {"instruction": f"edit {n}", "expressive": f"what edit {n} means"}
    (folder / "ipr2pr.tsv").write_text("".join(lines))
    (folder / "ipr2pr_expressive.json").write_text(json.dumps(told, indent=2))
    (folder / "ipr2pr.pkl").write_bytes(f"cos\nsystem\n(S'touch {folder / 'opened'}'\ntR.".encode())
    return folder


@pytest.fixture(scope="session")
def layouts():
    """The functions above."""
    return sys.modules[__name__]
