"""How well each inversion brings held-out scenes back, at the guidance that edits are walked with; and what it costs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paintover import __version__
from paintover.conditions.prompt import prompts
from paintover.editors.editor import schedule_of
from paintover.engine.engine import Engine, Job
from paintover.evaluation.metrics import l2, psnr
from paintover.evaluation.scenes import cases
from paintover.models.bundle import Bundle, load
from paintover.orders.work import encode
from paintover.path.guidance import Guide, PerStep, classifier_free
from paintover.path.inversion import INVERSIONS, Told
from paintover.path.predict import Path as Walk
from paintover.path.predict import Preparation
from paintover.path.schedule import Step
from paintover.path.source import Inverting, Source
from paintover.path.walk import walk
from paintover.scenes.assets import Assets

MOST = 99.0  # dB: what is closer is the same picture, and an infinite PSNR has no mean


@dataclass(frozen=True, eq=False)
class Scene:
    """A held-out picture as the model sees it: pixels 0..1, its latents, the codec's own picture of it, and its caption."""

    rgb_HWC: NDArray[np.float32]
    latents_BCHW: Tensor
    codec_HWC: NDArray[np.float32]
    caption: str


def run(
    root: Path,
    photos: Path | None,
    *,
    model: str = "builtin",
    inversions: Sequence[str] = tuple(INVERSIONS),
    count: int = 20,
    guidance: float = 7.5,
    steps: int = 50,
    inner: int = 10,
    iterations: int = 5,
    seed: int = 1,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Inverts `count` held-out scenes by each of `inversions`, told their captions, and walks back at `guidance`.

    For each: the PSNR of its source branch and of a free guided walk from x_T with what it found (nulls, added noise), both
    against the picture and against the codec's picture; evaluations and seconds of the inversion, per picture. "unguided" is
    the free walk of DDIM inversion at guidance 1: what the model itself can bring back without being held.
    """
    bundle = load(model, device=device)
    scenes = list(_scenes(Assets(root, "held_out", photos), bundle, count, seed))
    null, *sources = prompts(bundle.text, ["", *(scene.caption for scene in scenes)])
    settings = {"inner": inner, "iterations": iterations}
    walks = {name: schedule_of(bundle).steps(steps, eta=INVERSIONS[name].eta) for name in inversions}  # before any work
    found: dict[str, Any] = {}
    for n, name in enumerate(inversions):
        tolds = [INVERSIONS[name].told(source, null, guidance, seed, settings) for source in sources]
        found[name] = _measured(name, bundle, scenes, tolds, walks[name])
        if progress:
            progress(n + 1, len(inversions))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "paintover": __version__,
        "model": model,
        "fingerprint": bundle.fingerprint,
        "asked": {"count": count, "guidance": guidance, "steps": steps, **settings, "seed": seed},
        "codec_psnr": _mean([_psnr(scene.codec_HWC, scene.rgb_HWC) for scene in scenes]),
        "inversions": found,
    }


def table(found: dict[str, Any]) -> str:
    """The findings as a Markdown table."""
    asked = found["asked"]
    lines = [
        f"{asked['count']} held-out scenes, {asked['steps']} steps, guidance {asked['guidance']:g}; the codec alone: "
        f"{found['codec_psnr']:.1f} dB. PSNR in dB against the picture; evaluations and seconds for each picture.",
        "",
        "| inversion | source branch | guided walk from x_T | unguided walk | evaluations | with gradients | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found["inversions"].items():
        psnrs = " | ".join(f"{one[of]['picture']:.1f}" for of in ("source_branch", "guided_walk", "unguided_walk"))
        lines.append(f"| `{name}` | {psnrs} | {one['evaluations']:g} | {one['gradients']:g} | {one['seconds']:g} |")
    return "\n".join(lines)


def write(out: Path, found: dict[str, Any]) -> None:
    """The findings as JSON, whole or not at all."""
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(out)


def _scenes(assets: Assets, bundle: Bundle, count: int, seed: int) -> Iterator[Scene]:
    for case in cases(assets, count, seed):
        rgb_HWC = (np.rint(case.render(bundle.size)[0] * 255) / 255).astype(np.float32)
        encoded = encode(bundle, rgb_HWC)
        latents_BCHW = encoded["latents_BCHW"].to(bundle.denoiser.device)
        yield Scene(rgb_HWC, latents_BCHW, encoded["reconstruction_hwC"].numpy(), case.caption)


def _measured(name: str, bundle: Bundle, scenes: list[Scene], tolds: list[Told], steps: list[Step]) -> dict[str, Any]:
    inversion = INVERSIONS[name]
    engine, began = Engine(bundle.denoiser), time.perf_counter()
    jobs = [engine.add(_kept(inversion.invert(s.latents_BCHW, steps, told))) for s, told in zip(scenes, tolds, strict=True)]
    sources = [Source.of(kept) for kept in _results(engine, jobs)]
    seconds, spent = time.perf_counter() - began, engine.counters
    rows, gradients = spent.rows, spent.gradients
    ends = {"source_branch": [source.record.x[-1] for source in sources]}
    for what, scale in (("guided_walk", tolds[0].guidance), ("unguided_walk", 1.0)):
        walks = [engine.add(_free(source, steps, told, scale)) for source, told in zip(sources, tolds, strict=True)]
        ends[what] = _results(engine, walks)
    return {
        **{what: _against(bundle, scenes, latents) for what, latents in ends.items()},
        "evaluations": rows / len(scenes),
        "gradients": gradients / len(scenes),
        "seconds": round(seconds / len(scenes), 2),
    }


def _kept(inverting: Inverting) -> Preparation:
    return (yield from inverting).tensors()


def _free(source: Source, steps: list[Step], told: Told, scale: float) -> Walk:
    """From x_T, told the caption, held back by nothing but what the inversion found."""
    guides: list[Guide] = [classifier_free(told.source, source.null(step.i, told.null), scale) for step in steps]
    return walk(source.record.x[0], steps, PerStep(guides), after=source.after)


def _results(engine: Engine, jobs: list[Job]) -> list[Any]:
    engine.run()
    return [engine.result(job) for job in jobs]


@torch.no_grad()
def _against(bundle: Bundle, scenes: list[Scene], latents: list[Tensor]) -> dict[str, float]:
    pictures = [((bundle.codec.decode(one)[0].float().cpu() + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy() for one in latents]
    return {
        "picture": _mean([_psnr(one, scene.rgb_HWC) for one, scene in zip(pictures, scenes, strict=True)]),
        "codec": _mean([_psnr(one, scene.codec_HWC) for one, scene in zip(pictures, scenes, strict=True)]),
    }


def _psnr(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return min(psnr(l2(a, b)), MOST)


def _mean(values: list[float]) -> float:
    return round(statistics.fmean(values), 2)
