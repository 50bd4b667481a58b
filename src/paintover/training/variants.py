"""Variants of pictures with a region painted anew, made once for a folder: what InstructAny2Pix's fourth stage learns from.

There the whole picture's embedding sometimes comes from a variant, and the region's own from the picture: so the denoiser
learns to take a subject from the one and all else from the other.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paintover import picture as pictures
from paintover.datasets.lines import Lines
from paintover.datasets.sample import RowError
from paintover.datasets.variants import FILE, Box, boxes
from paintover.engine.cache import PrepareCache
from paintover.errors import PictureError, RequestError
from paintover.models.bundle import load
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_many

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jp2")
SIDES = (0.3, 0.7)  # of random squares, in the picture's shorter side


class Made(NamedTuple):
    """How many variants were made now, had been before, and how many pictures were broken and left out."""

    now: int
    before: int
    broken: int


class _Job(NamedTuple):
    name: str
    number: int
    box: Box
    size_HW: tuple[int, int]
    file: Path


def make(
    folder: Path,
    out: Path,
    *,
    model: str = "builtin",
    count: int = 4,
    detected: Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    strength: float = 1.0,
    together: int = 8,
    skip_broken: bool = False,
    device: str | None = None,
    on_picture: Callable[[int, int], None] | None = None,
) -> Made:
    """Paints a region of each of the folder's pictures anew, `count` times, told nothing; writes them and variants.jsonl.

    detected: a table of boxes (`datasets.variants.boxes`); they are used in turn, and pictures of which it says nothing have
    random squares, as all have without it. steps: of the denoiser; None: what the model recommends for `imagine`. What is there
    already is kept, so that the same call goes on; other settings do not continue it. A variant depends on seed, its picture's
    name and its number alone. Raises RowError for broken pictures (unless skip_broken), and what `paintover.edit` raises.
    """
    if not folder.is_dir():
        raise RowError(f"{folder}: no such folder; name one of pictures")
    known = {} if detected is None else boxes(detected)
    names = listed(folder, out)
    if not names:
        raise RowError(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    bundle = load(model, device)
    steps = steps or int(bundle.defaults.get("imagine", {}).get("steps", 50))
    made_by = {
        "model": bundle.fingerprint,
        "steps": steps,
        "strength": strength,
        "seed": seed,
        "boxes": None if detected is None else hashlib.sha256(detected.read_bytes()).hexdigest()[:16],
    }
    lines = Lines(out / FILE, made_by)
    done = {(line.get("picture"), line.get("number")) for line in lines.found if (out / str(line.get("variant"))).is_file()}
    broken: list[str] = []
    waiting: deque[_Job] = deque()

    def orders() -> Iterator[Order]:
        for n, name in enumerate(names):
            numbers = [k for k in range(count) if (name, k) not in done]
            if numbers:
                try:
                    opened = pictures.open(folder / name)
                    regions = _regions(opened.size_HW, known.get(name), seed, name, numbers, f"{detected}, {name}")
                except (PictureError, RowError) as error:
                    if not skip_broken:
                        raise RowError(str(error)) from None
                    broken.append(name)
                    numbers, regions = [], []
            for k, box in zip(numbers, regions if numbers else [], strict=True):
                file = out / "pictures" / f"{name}.{k}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                waiting.append(_Job(name, k, box, opened.size_HW, file))
                own = int(_stream(seed, name, k, 1).integers(2**63))
                request = request_for(
                    picture=str(folder / name), instruction="", editor="repaint", model=model, seed=own, steps=steps,
                    knobs={"strength": strength},
                )  # fmt: skip
                yield Order(request, opened, mask(box, opened.size_HW), file, force=True)
            if on_picture is not None:
                on_picture(n + 1, len(names))

    now = 0
    try:
        # A picture's encoding is kept for its other variants, and not on the disk: these are many pictures, seen once.
        for outcome in edit_many(orders(), together=together, cache=PrepareCache(max_bytes=0), device=device):
            job = waiting.popleft()
            if isinstance(outcome, Exception):
                raise outcome
            height, width = job.size_HW
            lines.add(
                {
                    "picture": job.name, "number": job.number, "variant": job.file.relative_to(out).as_posix(),
                    "box": list(job.box), "size": [width, height],
                }
            )  # fmt: skip
            now += 1
    except OSError as error:
        raise RequestError(f"{out} cannot hold the variants ({error.strerror}); name another folder") from None
    finally:
        lines.close()
    return Made(now, len(done & {(name, k) for name in names for k in range(count)}), len(broken))


def listed(folder: Path, out: Path) -> list[str]:
    """The pictures in the folder, and below it, by their paths in it, sorted; not those in `out`, nor hidden ones."""
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        own = path.resolve().is_relative_to(out.resolve())
        if path.suffix.lower() in SUFFIXES and path.is_file() and not own and not any(p.startswith(".") for p in name.parts):
            found.append(name.as_posix())
    return sorted(found)


def mask(box: Box, size_HW: tuple[int, int]) -> Any:
    """uint8 mask_HW: white inside the box."""
    left, top, right, bottom = box
    mask_HW = np.zeros(size_HW, np.uint8)
    mask_HW[top:bottom, left:right] = 255
    return mask_HW


def square(size_HW: tuple[int, int], rng: np.random.Generator) -> Box:
    """A random square in a picture, its side in SIDES of the shorter one."""
    height, width = size_HW
    side = max(1, round(float(rng.uniform(*SIDES)) * min(height, width)))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    return left, top, left + side, top + side


def _regions(
    size_HW: tuple[int, int],
    found: Sequence[tuple[float, ...]] | None,
    seed: int,
    name: str,
    numbers: Sequence[int],
    where: str,
) -> list[Box]:
    """A box for each number: those that were found, in turn, or random squares."""
    if not found:
        return [square(size_HW, _stream(seed, name, k, 0)) for k in numbers]
    height, width = size_HW
    boxes: list[Box] = []
    for box in found:
        x, y = (width, height) if max(box) <= 1 else (1, 1)
        left, top, right, bottom = (round(v * scale) for v, scale in zip(box, (x, y, x, y), strict=True))
        right, bottom = min(right, width), min(bottom, height)
        if not (left < right and top < bottom):
            raise RowError(f"{where}: the box {', '.join(f'{v:g}' for v in box)} is not inside the {width} x {height} pixels")
        boxes.append((left, top, right, bottom))
    return [boxes[k % len(boxes)] for k in numbers]


def _stream(seed: int, name: str, number: int, what: int) -> np.random.Generator:
    """Chance that depends on the picture's name and the variant's number, and not on what else is in the folder."""
    of_name = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return np.random.default_rng([seed, of_name, number, what])
