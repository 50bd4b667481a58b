"""A scene: a place and the things in it, as data that renders to the same picture at any resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from paintover.scenes.assets import Assets, Place, Stamp, as_float
from paintover.scenes.looks import LUMA, apply

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "yellow": (0.95, 0.85, 0.10),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.12, 0.28, 0.85),
    "purple": (0.52, 0.16, 0.70),
    "white": (0.95, 0.95, 0.95),
    "black": (0.10, 0.10, 0.10),
}
PLAIN: dict[str, tuple[float, float, float]] = {
    **{name: COLOURS[name] for name in ("red", "yellow", "green", "blue", "white", "black")},
    "grey": (0.55, 0.55, 0.55),
    "brown": (0.48, 0.32, 0.20),
    "pink": (0.95, 0.70, 0.78),
}


@dataclass(frozen=True, eq=False)
class Object:
    """A stamp in the picture: centre (x, y) and longer side as fractions of the frame's side."""

    stamp: Stamp
    x: float
    y: float
    side: float
    flip: bool = False
    angle: float = 0.0  # degrees
    tone: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gain of each channel
    colour: str | None = None

    @property
    def cls(self) -> str:
        return self.stamp.cls

    def box(self) -> tuple[float, float, float, float]:
        """left, top, right, bottom as fractions of the frame."""
        aspect = self.stamp.aspect
        w, h = (self.side, self.side / aspect) if aspect >= 1 else (self.side * aspect, self.side)
        return self.x - w / 2, self.y - h / 2, self.x + w / 2, self.y + h / 2


@dataclass(frozen=True, eq=False)
class Backdrop:
    """Where it happens: a crop of a photograph (or of two, blended), or a plain ground drawn from `seed`.

    A crop is x, y, side as fractions of the photograph's shorter side.
    """

    label: str | None
    place: Place | None
    crop: tuple[float, float, float] = (0.0, 0.0, 1.0)
    flip: bool = False
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    over: tuple[Backdrop, float] | None = None
    plain: str | None = None
    seed: int = 0

    def render(self, size: int) -> NDArray[np.float32]:
        """rgb_HWC float32 in 0..1, size × size."""
        rgb = self._photograph(size) if self.place else self._plain(size)
        if self.over:
            other, weight = self.over
            rgb = (1 - weight) * rgb + weight * other.render(size)
        return np.clip(rgb * np.array(self.gain, np.float32), 0, 1)

    def _photograph(self, size: int) -> NDArray[np.float32]:
        assert self.place is not None
        image = self.place.rgb
        x, y, side = (v * min(image.size) for v in self.crop)
        filter_ = Image.Resampling.BOX if side > 2 * size else Image.Resampling.BILINEAR
        cut = image.resize((size, size), filter_, (x, y, x + side, y + side))
        return as_float(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else cut)

    def _plain(self, size: int) -> NDArray[np.float32]:
        """A flat, graded or softly mottled ground: a coarse random field, smoothly enlarged."""
        rng = np.random.default_rng(self.seed)
        base = np.array(PLAIN[self.plain] if self.plain else rng.uniform(0.1, 0.95, 3), np.float32)
        cells = int(rng.choice([2, 3, 5, 9]))
        amount = float(rng.choice([0.0, 0.04, 0.12] if self.plain else [0.05, 0.15, 0.3]))
        grey, coloured = rng.normal(size=(cells, cells, 1)), rng.normal(size=(cells, cells, 3))
        field = grey * amount + coloured * amount * rng.choice([0, 0, 1])
        layers = (Image.fromarray(field[..., c].astype(np.float32)) for c in range(3))
        noise = [np.asarray(layer.resize((size, size), Image.Resampling.BICUBIC)) for layer in layers]
        return np.clip(base + np.dstack(noise), 0, 1)


@dataclass(frozen=True, eq=False)
class Scene:
    """A backdrop, objects from back to front, and a look over all of it."""

    backdrop: Backdrop
    objects: tuple[Object, ...] = ()
    look: str | None = None

    def render(self, size: int) -> NDArray[np.float32]:
        """rgb_HWC float32 in 0..1, size × size."""
        rgb = self.backdrop.render(size)
        for thing in self.objects:
            rgb = _draw(rgb, thing)
        return apply(self.look, rgb) if self.look else rgb


def _draw(rgb: NDArray[np.float32], thing: Object) -> NDArray[np.float32]:
    size = rgb.shape[0]
    stamp = thing.stamp.rgba
    if thing.flip:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top, right, bottom = (v * size for v in thing.box())
    w, h = max(2, round(right - left)), max(2, round(bottom - top))
    stamp = stamp.resize((w, h), Image.Resampling.BOX if stamp.width > 2 * w else Image.Resampling.BILINEAR)
    if thing.angle:
        stamp = stamp.rotate(thing.angle, Image.Resampling.BILINEAR, expand=True)
        w, h = stamp.size
    x0, y0 = round((left + right) / 2 - w / 2), round((top + bottom) / 2 - h / 2)
    sx, sy = max(0, -x0), max(0, -y0)
    ex, ey = min(w, size - x0), min(h, size - y0)
    if ex <= sx or ey <= sy:
        return rgb
    rgba = as_float(stamp)[sy:ey, sx:ex]
    colour, alpha = rgba[..., :3] * np.array(thing.tone, np.float32), rgba[..., 3:]
    if thing.colour:
        colour = _tint(colour, alpha, thing.colour)
    out = rgb.copy()
    under = out[y0 + sy : y0 + ey, x0 + sx : x0 + ex]
    out[y0 + sy : y0 + ey, x0 + sx : x0 + ex] = np.clip(colour + under * (1 - alpha), 0, 1)
    return out


def _tint(premultiplied: NDArray[np.float32], alpha: NDArray[np.float32], colour: str) -> NDArray[np.float32]:
    """The thing's own shading in another colour: its luma, centred, drives the colour from dark to bright."""
    luma = (premultiplied @ LUMA)[..., None] / np.maximum(alpha, np.float32(1e-3))
    mean = float((luma * alpha).sum() / max(float(alpha.sum()), 1e-3))
    shade = np.clip(1 + 1.1 * (luma - mean), 0.2, 1.8)
    return (np.clip(np.array(COLOURS[colour], np.float32) * shade, 0, 1) * alpha).astype(np.float32)


def soften(rgb: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Gaussian blur of rgb_HWC in 0..1, radius in pixels."""
    return as_float(Image.fromarray((rgb * 255 + 0.5).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius)))


def random_backdrop(assets: Assets, rng: np.random.Generator, label: str | None = None, plain: float = 0.3) -> Backdrop:
    """A backdrop of this split: of `label` if given, else plain with chance `plain`, else any crop of any photograph."""
    if label is None and rng.random() < plain:
        name = str(rng.choice(list(PLAIN))) if rng.random() < 0.5 else None
        return Backdrop(f"plain {name}" if name else None, None, plain=name, seed=int(rng.integers(2**31)))
    photographs = assets.photographs
    if label is None and photographs and rng.random() < 0.5:
        pool: tuple[Place, ...] = photographs
    else:
        pool = tuple(p for p in assets.places if label is None or p.label == label)
    place = pool[int(rng.integers(len(pool)))]
    side = float(rng.uniform(0.45, 1.0))
    w, h = (v / min(place.rgb.size) for v in place.rgb.size)
    crop = (float(rng.uniform(0, w - side)), float(rng.uniform(0, h - side)), side)
    gain = 1 + 0.12 * rng.uniform(-1, 1) + 0.05 * rng.uniform(-1, 1, 3)
    drop = Backdrop(place.label, place, crop, bool(rng.random() < 0.5), (float(gain[0]), float(gain[1]), float(gain[2])))
    if label is None and assets.split == "train" and rng.random() < 0.25:  # two blended: more grounds than we have photographs
        other = random_backdrop(assets, rng, None, 0.2)
        drop = replace(drop, label=None, over=(other, float(rng.uniform(0.3, 0.7))))
    return drop


def random_object(
    assets: Assets, rng: np.random.Generator, taken: tuple[Object, ...], sides: tuple[float, float]
) -> Object | None:
    """A thing of a class that is not in the scene yet, where it hides nothing that is; None if no room was found."""
    classes = [c for c in assets.stamps if c not in {o.cls for o in taken}]
    cls = classes[int(rng.integers(len(classes)))]
    stamps = assets.stamps[cls]
    stamp = stamps[int(rng.integers(len(stamps)))]
    tone = 1 + 0.15 * rng.uniform(-1, 1) + 0.06 * rng.uniform(-1, 1, 3)
    for _ in range(12):
        side = float(rng.uniform(*sides))
        margin = side * 0.45
        thing = Object(
            stamp,
            float(rng.uniform(margin, 1 - margin)),
            float(rng.uniform(margin, 1 - margin)),
            side,
            bool(rng.random() < 0.5),
            float(rng.uniform(-10, 10)) if rng.random() < 0.5 else 0.0,
            (float(tone[0]), float(tone[1]), float(tone[2])),
        )
        if all(_overlap(thing, other) < 0.12 for other in taken):
            return thing
    return None


def _overlap(a: Object, b: Object) -> float:
    """Intersection over the smaller box."""
    al, at, ar, ab = a.box()
    bl, bt, br, bb = b.box()
    inter = max(0.0, min(ar, br) - max(al, bl)) * max(0.0, min(ab, bb) - max(at, bt))
    return inter / min((ar - al) * (ab - at), (br - bl) * (bb - bt))


def random_scene(assets: Assets, rng: np.random.Generator, sides: tuple[float, float]) -> Scene:
    """One to three things somewhere; longer sides within `sides`, as fractions of the frame."""
    backdrop = random_backdrop(assets, rng)
    objects: tuple[Object, ...] = ()
    for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))):
        thing = random_object(assets, rng, objects, sides)
        objects += (thing,) if thing else ()
    return Scene(backdrop, objects)
