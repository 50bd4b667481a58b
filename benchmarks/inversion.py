"""Null-text inversion, ours against the published algorithm as a plain loop on diffusers: same weights, picture, words, steps.

    python benchmarks/inversion.py               prints, and writes inversion.json beside this file
    python benchmarks/inversion.py --steps 20 --inner 4 --repeats 3 --out somewhere.json

The weights are the built-in model's, the picture is a photograph, fitted to it. The plain loop is Mokady et al.'s: DDIM
inversion told the caption; then at each step a new Adam (learning rate 1e-2, falling) over the null's embeddings: up to 10
times a null prediction with gradients and an optimiser step, until the loss is below the tolerance; then both predictions
again, to walk on. To be fair to it, its weights are frozen (the released notebook lets them gather gradients too), and it
optimises the null's pooled vector as ours does. Ours is given fewer optimiser steps (--inner), as many as it needs to come at
least as near: both PSNRs are printed, and the ratio of times means nothing where ours is the lower. Both sides take turns;
`cpu` is processor time, which other programs disturb less than `wall`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

import paintover
from paintover import picture as pictures
from paintover.conditions.prompt import prompts
from paintover.engine.engine import Engine
from paintover.models.bundle import Bundle
from paintover.models.listing import BUILTIN
from paintover.orders.work import encode
from paintover.path.inversion.null_text import null_text
from paintover.path.inversion.told import Told
from paintover.path.schedule import Schedule

PICTURE = Path(__file__).parents[1] / "examples" / "pictures" / "meadow.jpg"
WORDS, GUIDANCE, INNER = "a meadow", 7.5, 10


class Plain:
    """The published algorithm over a UNet of diffusers that predicts x0 (the built-in one, with no picture beside)."""

    def __init__(self, bundle: Bundle) -> None:
        self.unet = UNet2DConditionModel.from_pretrained(BUILTIN / "unet").eval().requires_grad_(False)
        self.abar, self.rows = bundle.denoiser.alphas_cumprod, 0

    def eps(self, x: Tensor, t: int, tokens: Tensor, pooled: Tensor) -> Tensor:
        self.rows += len(x)
        seen = torch.cat([x, torch.zeros_like(x)], 1)
        x0 = self.unet(seen, t, tokens, class_labels=pooled).sample[:, : x.shape[1]]
        return (x - self.abar[t].sqrt() * x0) / (1 - self.abar[t]).sqrt()

    @staticmethod
    def move(x: Tensor, eps: Tensor, a: float, b: float) -> Tensor:
        return math.sqrt(b) * (x - math.sqrt(1 - a) * eps) / math.sqrt(a) + math.sqrt(1 - b) * eps

    def invert(self, x0: Tensor, levels: list[tuple[int, float, float]], words: tuple, null: tuple, g: float) -> Tensor:
        """levels: (t, alpha_bar there, alpha_bar of the next), noisiest first. Returns the latents that it comes back to."""
        trail, tokens, pooled = [x0], null[0].clone(), null[1].clone()
        with torch.no_grad():
            for t, a, b in reversed(levels):
                trail.append(self.move(trail[-1], self.eps(trail[-1], t, *words), b, a))
        x = trail[-1]
        for i, (t, a, b) in enumerate(levels):
            tokens, pooled = tokens.detach().clone().requires_grad_(), pooled.detach().clone().requires_grad_()
            adam = torch.optim.Adam([tokens, pooled], lr=1e-2 * (1 - i / 100))
            with torch.no_grad():
                told = self.eps(x, t, *words)
            for _ in range(INNER):
                untold = self.eps(x, t, tokens, pooled)
                loss = torch.nn.functional.mse_loss(self.move(x, untold + g * (told - untold), a, b), trail[-2 - i])
                adam.zero_grad()
                loss.backward()
                adam.step()
                if loss.item() < 1e-5 + i * 2e-5:
                    break
            with torch.no_grad():
                both = self.eps(x.repeat(2, 1, 1, 1), t, torch.cat([tokens, words[0]]), torch.cat([pooled, words[1]]))
                untold, told = both.chunk(2)
                x = self.move(x, untold + g * (told - untold), a, b)
        return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--inner", type=int, default=4, help=f"our most optimiser steps at each step (theirs: {INNER})")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    bundle = paintover.load("builtin", device="cpu")
    opened = pictures.open(PICTURE)
    working = pictures.Geometry.fit(opened.size_HW, bundle.size**2, bundle.multiple).apply(opened.rgb_HWC)
    x0 = encode(bundle, working)["latents_BCHW"]
    c, null = prompts(bundle.text, [WORDS, ""])
    steps = Schedule.from_config(bundle.scheduler_config).steps(asked.steps)
    plain, engines = Plain(bundle), []

    def theirs() -> Tensor:
        plain.rows = 0
        levels = [(step.t, step.a_t, step.a_s) for step in steps]
        return plain.invert(x0, levels, (c.tokens_BLD, c.pooled_BD), (null.tokens_BLD, null.pooled_BD), GUIDANCE)

    def ours() -> Tensor:
        engines.append(Engine(bundle.denoiser))
        told = Told(c, null, GUIDANCE, inner=asked.inner)
        return engines[-1].result(engines[-1].add(null_text(x0, steps, told))).record.x[-1]

    sides, runs = {"ours": ours, "published": theirs}, {"ours": [], "published": []}
    for n in range(asked.repeats):
        for name in sorted(sides, reverse=bool(n % 2)):
            wall, cpu = time.perf_counter(), time.process_time()
            end = sides[name]()
            runs[name].append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "end": end})

    def psnr(latents: Tensor) -> float:
        a, b = (bundle.codec.decode(one).clamp(-1, 1) for one in (latents, x0))
        return round(-10 * math.log10(((a - b) / 2).square().mean().item()), 2)

    figures: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {asked.threads} threads",
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "asked": {"steps": asked.steps, "guidance": GUIDANCE, "inner": {"ours": asked.inner, "published": INNER}},
        "repeats": asked.repeats,
        "psnr": {name: psnr(taken[-1]["end"]) for name, taken in runs.items()},
        "evaluations": {"ours": engines[-1].counters.rows, "published": plain.rows},
    }
    for of in ("wall", "cpu"):
        figures[f"{of}_seconds"] = {name: round(statistics.median(one[of] for one in taken), 2) for name, taken in runs.items()}
        pairs = zip(runs["ours"], runs["published"], strict=True)
        figures[f"{of}_ratio"] = round(statistics.median(a[of] / b[of] for a, b in pairs), 3)
    text = json.dumps(figures, indent=2)
    asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
