"""One edit, ours against vanilla diffusers: same weights, dtype, steps, seed, words and pixels, side by side in one run.

    python benchmarks/edit.py                    prints, and writes edit.json beside this file
    python benchmarks/edit.py --size 256 --threads 2 --repeats 15 --out somewhere.json

The bundle has random weights and Stable Diffusion's proportions in small: 77 tokens of width 768, a UNet of 64 to 256 channels.
Both sides go from words and pixels to pixels: encode, walk with dual guidance (three evaluations a step), decode. They take
turns, in alternating order, and medians are compared, so that a machine's other work falls on both. `cpu` is processor time,
which other programs disturb less than `wall`. A third side, `edit_one`, is the same edit as a person asks for it: from a PNG's
bytes, nothing of it cached yet, put back into the picture at the end; against `ours` it shows what that costs. Then: eight
mixed requests together in one engine, against the eight in turn.
"""

from __future__ import annotations

import argparse
import datetime
import io
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

import paintover.models.bundle as bundles
from paintover.engine.cache import PrepareCache
from paintover.engine.engine import Engine
from paintover.models.bundle import Bundle
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one
from paintover.path.guidance import dual
from paintover.path.predict import Condition
from paintover.path.predict import Path as Walk
from paintover.path.schedule import Schedule
from paintover.path.start import noise
from paintover.path.walk import walk

WORDS, SEED, TEXT, IMAGE = "replace the apple with a lemon", 7, 7.5, 1.5


def make_bundle(folder: Path, size: int) -> Path:
    tiny(folder, kind="instruct")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=size // 8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(64, 128, 256, 256),
        layers_per_block=1,
        attention_head_dim=(1, 2, 4, 4),
        cross_attention_dim=768,
    ).save_pretrained(folder / "unet")
    config = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    config.update({"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12})
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


class Meter:
    """Counts the rows of a UNet's calls and the seconds inside them."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.rows, self.seconds, self._began = 0, 0.0, 0.0
        unet.register_forward_pre_hook(self._before)
        unet.register_forward_hook(self._after)

    def _before(self, _unet: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.rows += len(args[0])
        self._began = time.perf_counter()

    def _after(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began

    def take(self) -> tuple[int, float]:
        taken, self.rows, self.seconds = (self.rows, self.seconds), 0, 0.0
        return taken


def told(bundle: Bundle, picture_BCHW: Tensor) -> tuple[Condition, Condition]:
    words, null = bundle.text.encode([WORDS, ""])[0].split(1)
    image = bundle.codec.encode(picture_BCHW * 2 - 1) / bundle.codec.scale
    return Condition(words, None, image), Condition(null)


def alternate(repeats: int, **sides: Callable[[], Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs the sides in turn, the order reversed every time; what each run took, and what it returned."""
    for run in sides.values():
        run()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for n in range(repeats):
        for name in sorted(sides, reverse=bool(n % 2)):
            wall, cpu = time.perf_counter(), time.process_time()
            result = sides[name]()
            runs[name].append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "result": result})
    return runs


def median(runs: list[dict[str, Any]], of: str) -> float:
    return statistics.median(run[of] for run in runs)


def compare(runs: dict[str, list[dict[str, Any]]], ours: str, theirs: str) -> dict[str, Any]:
    """Median seconds of each side, and the median over the repeats of ours / theirs within one repeat."""
    figures: dict[str, Any] = {}
    for of in ("wall", "cpu"):
        figures[f"{of}_seconds"] = {name: round(median(runs[name], of), 4) for name in (ours, theirs)}
        pairs = zip(runs[ours], runs[theirs], strict=True)
        figures[f"{of}_ratio"] = round(statistics.median(a[of] / b[of] for a, b in pairs), 3)
    return figures


def one_edit(folder: Path, size: int, steps: int, repeats: int) -> dict[str, Any]:
    rgb_HWC = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(rgb_HWC).save(png := io.BytesIO(), "png")
    picture = torch.from_numpy(rgb_HWC).permute(2, 0, 1)[None] / 255
    shape = (1, 4, size // 8, size // 8)
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    bundle = bundles.load(folder, device="cpu")
    schedule = Schedule.from_config(bundle.scheduler_config)
    meters = {"ours": Meter(bundle.denoiser.unet), "diffusers": Meter(pipe.unet)}
    edits = itertools.count()

    def theirs() -> tuple[Tensor, int, float]:
        draw = torch.Generator().manual_seed(SEED)
        asked = {"guidance_scale": TEXT, "image_guidance_scale": IMAGE, "num_inference_steps": steps, "generator": draw}
        return pipe(WORDS, image=picture, output_type="pt", **asked).images, *meters["diffusers"].take()

    @torch.no_grad()
    def ours() -> tuple[Tensor, int, float, float]:
        guided = dual(*told(bundle, picture), TEXT, IMAGE)
        engine = Engine(bundle.denoiser)
        began = time.perf_counter()
        latents = engine.result(engine.add(walk(noise(SEED, shape), schedule.steps(steps), guided)))
        loop = time.perf_counter() - began
        pixels = bundle.codec.decode(latents)
        return (pixels / 2 + 0.5).clamp(0, 1), *meters["ours"].take(), loop

    def whole() -> tuple[dict[str, Any], int, float]:
        words = f"{WORDS} {next(edits)}"  # words that were read once are remembered
        asked = {"knobs": {"guidance": TEXT, "image_guidance": IMAGE}, "steps": steps, "seed": SEED, "model": str(folder)}
        with tempfile.TemporaryDirectory() as fresh:
            result = edit_one(
                Order(request_for(instruction=words, **asked), png.getvalue()), PrepareCache(Path(fresh)), device="cpu"
            )
        return result.record, *meters["ours"].take()

    runs = alternate(repeats, ours=ours, diffusers=theirs, edit_one=whole)
    last = {name: taken[-1]["result"] for name, taken in runs.items()}
    inside = {name: [run["result"][2] for run in runs[name]] for name in runs}
    loops = [run["result"][3] / run["result"][2] - 1 for run in runs["ours"]]
    records = [run["result"][0]["seconds"] for run in runs["edit_one"]]
    parts = {part: round(statistics.median(record[part] for record in records), 4) for part in records[0]}
    a, b = last["ours"][0], last["diffusers"][0]
    return {
        "evaluations": {name: result[1] for name, result in last.items()},
        **compare(runs, "ours", "diffusers"),
        "unet_seconds": {name: round(statistics.median(seconds), 4) for name, seconds in inside.items()},
        "loop_over_unet": round(statistics.median(loops), 5),
        "edit_one": {**compare(runs, "edit_one", "ours"), "parts": parts},
        "largest_pixel_difference": float(f"{(a - b).abs().max().item():.2g}"),
    }


def eight(folder: Path, size: int, steps: int, repeats: int) -> dict[str, Any]:
    """Four edits of three evaluations a step, two of two, two of one; of different lengths about `steps`."""
    bundle = bundles.load(folder, device="cpu")
    schedule = Schedule.from_config(bundle.scheduler_config)
    picture = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(1))
    c, null = told(bundle, picture)
    scales = [(7.5, 1.5), (5.0, 1.2), (9.0, 2.0), (3.0, 1.1), (4.0, 4.0), (7.5, 1.0), (1.0, 1.0), (0.0, 1.0)]

    def paths() -> list[Walk]:
        shape = (1, 4, size // 8, size // 8)
        return [
            walk(noise(n, shape), schedule.steps(steps - 2 + n % 5), dual(c, null, *scale)) for n, scale in enumerate(scales)
        ]

    def together() -> list[Tensor]:
        engine = Engine(bundle.denoiser)
        jobs = [engine.add(path) for path in paths()]
        engine.run()
        return [engine.result(job) for job in jobs]

    def in_turn() -> list[Tensor]:
        return [engine.result(engine.add(path)) for path in paths() for engine in [Engine(bundle.denoiser)]]

    runs = alternate(repeats, together=together, in_turn=in_turn)
    pairs = zip(runs["together"][-1]["result"], runs["in_turn"][-1]["result"], strict=True)
    return {
        **compare(runs, "together", "in_turn"),
        "edits_per_second": {name: round(8 / median(taken, "wall"), 3) for name, taken in runs.items()},
        "largest_latent_difference": float(f"{max((a - b).abs().max().item() for a, b in pairs):.2g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="width and height of the picture, a multiple of 64")
    parser.add_argument("--steps", type=int, default=10, help="3 or more")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        made = make_bundle(Path(folder), asked.size)
        figures = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {asked.threads} threads",
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
            "asked": {"size": asked.size, "steps": asked.steps, "repeats": asked.repeats, "dtype": "float32"},
            "one_edit": one_edit(made, asked.size, asked.steps, asked.repeats),
            "eight_together": eight(made, asked.size, asked.steps, max(asked.repeats // 3, 3)),
        }
    text = json.dumps(figures, indent=2)
    asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
