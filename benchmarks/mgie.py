"""Where the time of edits by mgie goes, beside instruct: language model, denoiser, and the rest, for 1, 4 and 8 at once.

    python benchmarks/mgie.py                                   prints, and writes mgie.json beside this file
    python benchmarks/mgie.py --model some-bundle --repeats 3 --out some.json

The paper's table (A100, 100 steps): 9.2, 20.6 and 36.9 s for 1, 4 and 8 edits, the language model included; InsPix2Pix 6.8 s.

Each run is the product's way of a batch of edits: one photograph, cut differently, and as many instructions, with nothing in
the cache, from the open pictures to the finished ones. `language` is what the language model takes to answer and to guide
(vision tower and edit head are parts of it); `denoiser` is spent inside the denoiser's network; `rest` is everything else.
The sides take turns, the order reversed every time, and the quickest run of each is told, so that a machine's other work
falls on none.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import paintover.models.bundle as bundles
from paintover.engine.cache import PrepareCache
from paintover.models.bundle import Bundle
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_many
from paintover.request import EditResult

PHOTO = Path(__file__).parent.parent / "examples" / "pictures" / "meadow.jpg"
WORDS = (
    "a few hours later", "make it festive", "after the first frost", "fix the photo", "let it freeze", "later that day",
    "make it winter", "improve the photo",
)  # fmt: skip
EDITORS = ("mgie", "lgie", "instruct")


class Stopwatch:
    """Seconds inside functions, by name; an accelerator has done what it was given before the clock is read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(("language", "denoiser"), 0.0)

    def read(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = self.read()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += self.read() - began

        return run

    @contextmanager
    def watching(self, bundle: Bundle) -> Iterator[None]:
        """Measures what the bundle's networks take; they are as they were afterwards."""
        mllm, unet = bundle.mllm(), bundle.denoiser.unet
        mllm.answer, mllm.guide = self.timed("language", mllm.answer), self.timed("language", mllm.guide)
        unet.forward = self.timed("denoiser", unet.forward)
        try:
            yield
        finally:
            del mllm.answer, mllm.guide, unet.forward


def orders(editor: str, model: str, size: int, batch: int, seed: int, steps: int | None) -> list[Order]:
    with Image.open(PHOTO) as photo:
        side = min(photo.size) * 3 // 4
        cuts = [photo.crop((n * 8, n * 8, n * 8 + side, n * 8 + side)).resize((size, size)) for n in range(batch)]
    asked = {"editor": editor, "model": model, "seed": seed, "steps": steps}
    return [Order(request_for(instruction=WORDS[n], **asked), np.asarray(cut)) for n, cut in enumerate(cuts)]


def run(bundle: Bundle, asked: list[Order]) -> dict[str, Any]:
    """Seconds of one run, by part, and what was said."""
    watch = Stopwatch(bundle.denoiser.device)
    with watch.watching(bundle):
        began = watch.read()
        results = list(
            edit_many(asked, together=len(asked), cache=PrepareCache(max_bytes=0), device=str(bundle.denoiser.device))
        )
        whole = watch.read() - began
    for result in results:
        if not isinstance(result, EditResult):
            raise result
    parts = {**watch.seconds, "rest": whole - sum(watch.seconds.values())}
    said = [str(result.record.get("expressive") or "") for result in results]
    return {"seconds": whole, "parts": parts, "evaluations": sum(r.record["evaluations"] for r in results), "said": said,
            "steps": results[0].request.steps}  # fmt: skip


def told(runs: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """The quickest run: seconds and shares."""
    best = min(runs, key=lambda one: one["seconds"])
    return {
        "seconds": round(best["seconds"], 4),
        "seconds_an_edit": round(best["seconds"] / batch, 4),
        "parts": {name: round(seconds, 4) for name, seconds in best["parts"].items()},
        "shares": {name: round(seconds / best["seconds"], 3) for name, seconds in best["parts"].items()},
        "slowest_seconds": round(max(one["seconds"] for one in runs), 4),
        "evaluations": best["evaluations"],
        "words_said": sum(len(text.split()) for text in best["said"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8], help=f"each at most {len(WORDS)}")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, help="default: what the model recommends")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    bundle = bundles.load(asked.model, device=asked.device)
    sides = [(editor, batch) for batch in asked.batches for editor in EDITORS]
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {side: [] for side in sides}
    for n in range(-1, asked.repeats):  # the first of each is to warm up
        for editor, batch in sorted(sides, reverse=bool(n % 2)):
            one = run(bundle, orders(editor, asked.model, bundle.size, batch, n + 1, asked.steps))
            if n >= 0:
                runs[editor, batch].append(one)
    steps = {editor: runs[editor, asked.batches[0]][0]["steps"] for editor in EDITORS}
    figures = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {asked.device}, {asked.threads} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "asked": {"model": bundle.fingerprint, "size": bundle.size, "steps": steps, "repeats": asked.repeats},
        "batches": {str(batch): {editor: told(runs[editor, batch], batch) for editor in EDITORS} for batch in asked.batches},
    }
    text = json.dumps(figures, indent=2)
    asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
