"""Tuning on one picture, ours against a plain diffusers training loop: same weights, picture, words, batch, iterations.

    python benchmarks/tuning.py                                 prints, and writes tuning.json beside this file
    python benchmarks/tuning.py --iterations 8 --out some.json  in a minute

The plain loop is what diffusers' DreamBooth script does for one picture: float32, the picture and its words encoded anew in
every iteration, the UNet's default attention, transformers' Adafactor over all weights that learn once the backward pass is
through (for LoRA: over peft's adapter). Ours is the product: an edit by `unitune` with nothing in its cache, which tunes first.

Models: the built-in one (its real weights, 128 px), and one of random weights with Stable Diffusion's proportions: a KL
autoencoder, CLIP with 77 tokens, a UNet of four levels, a fifth of SD 1.5's widths, 192 px.

*Time*: both sides take turns in one process, `--block` iterations each, the order reversed every time; medians of the blocks
are compared, so that a machine's other work falls on both. `tune` is all that comes before the edit's first step, the blocks
of the other side taken out; `edit` the same picture's next edit, with other words.

*Memory*: each side in a process of its own, three iterations. All modules are imported and the model is loaded; freed memory is
handed back (malloc_trim); what the process then holds (VmRSS) is taken off the highest that it holds from there to the end
(VmHWM, which is set back first through /proc/self/clear_refs; it is what `getrusage` calls ru_maxrss). To ours belong the copy
of the weights that leaves the model as it was, what was learnt being written to the cache, and the edit, by all of what was
learnt (the paper's recipe; a smaller --share makes a third set of weights for the edit).
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.optimization import Adafactor

import paintover.models.bundle as bundles
import paintover.tuning.loop
import paintover.tuning.optimiser
import paintover.tuning.weights  # noqa: F401  # imported now, so that no side is charged with it
from paintover.engine.cache import PrepareCache
from paintover.models.bundle import Bundle
from paintover.models.listing import BUILTIN
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one
from paintover.path.report import Progress

PHOTO = Path(__file__).parent.parent / "examples" / "pictures" / "meadow.jpg"
WORD, BATCH, RATE, RANK, STEPS = "zzx", 4, 1e-5, 8, 10  # the product chooses its own word
KINDS = ("full", "lora")


def stable_diffusion_in_small(folder: Path) -> Path:
    tiny(folder, kind="text-to-image")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=24, block_out_channels=(64, 128, 256, 256), attention_head_dim=8, cross_attention_dim=192
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=192,
    ).save_pretrained(folder / "vae")
    config = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    config.update({"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12})
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


def picture_of(size: int) -> Image.Image:
    return Image.open(PHOTO).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


class Plain:
    """The plain loop: `step` is one iteration."""

    def __init__(self, folder: Path, bundle: Bundle, kind: str) -> None:
        self.bundle, self.channels = bundle, bundle.codec.channels
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True).train()
        self.wide = self.unet.config.in_channels > self.channels
        if kind == "lora":
            self.unet.requires_grad_(False)
            targets = ["to_k", "to_q", "to_v", "to_out.0"]
            self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
        learning = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        self.optimizer = Adafactor(learning, lr=RATE, relative_step=False, warmup_init=False, scale_parameter=False)
        self.scheduler = DDPMScheduler.from_config(dict(bundle.scheduler_config))
        rgb_HWC = torch.from_numpy(np.array(picture_of(bundle.size)))
        self.pixels = (rgb_HWC.permute(2, 0, 1)[None] / 127.5 - 1).repeat(BATCH, 1, 1, 1)

    @torch.no_grad()
    def encode(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents and words of every row, as the script's batches have them."""
        text: Any = self.bundle.text
        tokens, pooled = text.encode([WORD] * BATCH)
        codec: Any = self.bundle.codec
        if hasattr(codec, "vae"):
            return codec.vae.encode(self.pixels).latent_dist.sample() * codec.scale, tokens, pooled
        return codec.encode(self.pixels), tokens, pooled

    @torch.enable_grad()  # the engine, within which its turns come, records none
    def step(self) -> float:
        latents, tokens, pooled = self.encode()
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (BATCH,))
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        if self.wide:
            noisy = torch.cat([noisy, torch.zeros_like(noisy)], dim=1)
        labels = pooled if self.bundle.denoiser.pooled_width else None
        predicted = self.unet(noisy, timesteps, tokens, class_labels=labels).sample[:, : self.channels]
        loss = functional.mse_loss(predicted, noise if self.bundle.denoiser.prediction == "epsilon" else latents)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def ours(
    folder: str, size: int, kind: str, iterations: int, cache: PrepareCache, words: str, on_step: Callable[[Progress], None]
) -> dict[str, Any]:
    """The record of an edit by `unitune`."""
    tuning = {"tune": kind, "rank": RANK, "iterations": iterations, "batch": BATCH, "rate": RATE, "share": 1.0}
    request = request_for(instruction=words, editor="unitune", model=folder, steps=STEPS, knobs=tuning)
    return edit_one(Order(request, np.array(picture_of(size)), on_step=on_step), cache, device="cpu").record


class Turns:
    """Both sides' iterations by turns: ours reports each of its own, and where a block is full, the other's is run."""

    def __init__(self, plain: Plain, block: int) -> None:
        self.plain, self.block, self.left = plain, block, 0.0
        self.seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        self.count, self.began = 0, time.perf_counter()

    def theirs(self) -> None:
        began = time.perf_counter()
        for _ in range(self.block):
            self.plain.step()
        self.seconds["plain"].append(time.perf_counter() - began)

    def on_step(self, report: Progress) -> None:
        if not report.what:  # the edit's own steps
            return
        self.count += 1
        now = time.perf_counter()
        if self.count % self.block == 1 % self.block:  # the first of a block: what came before it is no iteration of it
            self.began = now
            self.count = 1
            return
        if self.count == self.block:
            self.seconds["ours"].append((now - self.began) * self.block / (self.block - 1))
            self.theirs()
            self.left += time.perf_counter() - now


def timed(folder: Path, name: str, kind: str, iterations: int, block: int) -> dict[str, Any]:
    bundle = bundles.load(name, device="cpu")
    plain = Plain(folder, bundle, kind)
    turns = Turns(plain, block)
    plain.step()
    with tempfile.TemporaryDirectory() as fresh:
        ours(name, bundle.size, kind, 1, PrepareCache(max_bytes=0), "warm", lambda _: None)
        cache = PrepareCache(Path(fresh))
        record = ours(name, bundle.size, kind, iterations, cache, "a meadow in the snow", turns.on_step)
        again = ours(name, bundle.size, kind, iterations, PrepareCache(Path(fresh)), "a meadow at night", lambda _: None)
        learnt = sum(file.stat().st_size for file in Path(fresh).glob("??/*"))
    medians = {side: statistics.median(taken) / block for side, taken in turns.seconds.items()}
    tune = record["seconds"]["prepare"] - turns.left
    return {
        "seconds_per_iteration": {side: round(seconds, 4) for side, seconds in medians.items()},
        "ratio": round(statistics.median(a / b for a, b in zip(*turns.seconds.values(), strict=True)), 3),
        "tune_seconds": {"ours": round(tune, 2), "plain": round(sum(turns.seconds["plain"]), 2)},
        "tune_ratio": round(tune / sum(turns.seconds["plain"]), 3),
        "edit_seconds": {part: again["seconds"][part] for part in ("prepare", "walk", "close")},
        "kept_mb": round(learnt / 1e6, 1),
    }


def status(key: str) -> float:
    """MB of memory, as Linux counts them for this process."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def peak(folder: Path, name: str, kind: str, side: str) -> float:
    """MB that three iterations take at most, in this process."""
    bundle = bundles.load(name, device="cpu")
    plain = Plain(folder, bundle, kind) if side == "plain" else None
    if plain is not None:  # it needs no second UNet
        bundle.denoiser.unet.to("meta")
    bundle.text.encode(["something else"])
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    if plain is not None:
        for _ in range(3):
            plain.step()
    else:
        with tempfile.TemporaryDirectory() as fresh:
            ours(name, bundle.size, kind, 3, PrepareCache(Path(fresh)), "a meadow in the snow", lambda _: None)
    return status("VmHWM") - before


def peaks(folder: Path, name: str, kind: str, threads: int) -> dict[str, Any]:
    taken = {}
    for side in ("ours", "plain"):
        command = [sys.executable, __file__, "--threads", str(threads), "--peak", str(folder), name, kind, side]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        taken[side] = round(float(done.stdout.split()[-1]))
    return {"peak_mb": taken, "peak_ratio": round(taken["ours"] / taken["plain"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=128, help="two blocks or more")
    parser.add_argument("--block", type=int, default=None, help="iterations of each turn (default: an eighth, 2 at least)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--models", nargs="+", choices=("builtin", "sd"), default=["builtin", "sd"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if asked.peak:
        print(peak(Path(asked.peak[0]), *asked.peak[1:]))
        return
    began, block = time.perf_counter(), asked.block or max(asked.iterations // 8, 2)
    figures: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {asked.threads} threads, load {os.getloadavg()[0]:.1f} before",
        "versions": {m.__name__: m.__version__ for m in (torch, diffusers, transformers)},
        "asked": {"iterations": asked.iterations, "batch": BATCH, "block": block, "rank": RANK, "steps": STEPS},
    }
    with tempfile.TemporaryDirectory() as made:
        for model in asked.models:
            folder = BUILTIN if model == "builtin" else stable_diffusion_in_small(Path(made))
            name = "builtin" if model == "builtin" else str(folder)
            bundle = bundles.load(name, device="cpu")
            size = sum(parameter.numel() for parameter in bundle.denoiser.unet.parameters()) / 1e6
            figures[model] = {"pixels": bundle.size, "unet_millions": round(size, 1)}
            for kind in asked.kinds:
                found = timed(folder, name, kind, asked.iterations, block) | peaks(folder, name, kind, asked.threads)
                figures[model][kind] = found
                print(model, kind, json.dumps(found), flush=True)
    figures["seconds"] = round(time.perf_counter() - began)
    text = json.dumps(figures, indent=2)
    asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
