"""Curves as a picture: lines with error bars over two axes, drawn with Pillow like every sheet here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Told apart by people who see few colours, too (Okabe & Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_FINE = 2  # drawn so many times larger, for smooth lines
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 48  # px around the axes


@dataclass(frozen=True)
class Point:
    """Means and their standard errors."""

    x: float
    y: float
    x_error: float = 0.0
    y_error: float = 0.0


def plot(
    curves: Mapping[str, Sequence[Point]], title: str, x_label: str, y_label: str, size: tuple[int, int] = (560, 400)
) -> NDArray[np.uint8]:
    """HWC. A line through each curve's points, in their order; the legend names the curves, in their colours."""
    width, height = size
    canvas = Image.new("RGB", (width * _FINE, height * _FINE), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12 * _FINE)
    points = [point for curve in curves.values() for point in curve] or [Point(0, 0)]
    xs = _axis([v for p in points for v in (p.x - p.x_error, p.x + p.x_error)])
    ys = _axis([v for p in points for v in (p.y - p.y_error, p.y + p.y_error)])

    def at(x: float, y: float) -> tuple[float, float]:
        right, down = (x - xs[0]) / (xs[-1] - xs[0]), (ys[-1] - y) / (ys[-1] - ys[0])
        place = _LEFT + right * (width - _LEFT - _RIGHT), _TOP + down * (height - _TOP - _BOTTOM)
        return place[0] * _FINE, place[1] * _FINE

    for x in xs:
        draw.line((*at(x, ys[0]), *at(x, ys[-1])), "#dddddd", _FINE)
        draw.text((at(x, 0)[0], at(0, ys[0])[1] + 5 * _FINE), f"{x:g}", "black", font, anchor="ma")
    for y in ys:
        draw.line((*at(xs[0], y), *at(xs[-1], y)), "#dddddd" if y else "#888888", _FINE)
        draw.text((at(xs[0], 0)[0] - 6 * _FINE, at(0, y)[1]), f"{y:g}", "black", font, anchor="rm")
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        draw.line([at(p.x, p.y) for p in curve], colour, 2 * _FINE, joint="curve")
        for p in curve:
            draw.line((*at(p.x - p.x_error, p.y), *at(p.x + p.x_error, p.y)), colour, _FINE)
            draw.line((*at(p.x, p.y - p.y_error), *at(p.x, p.y + p.y_error)), colour, _FINE)
            draw.circle(at(p.x, p.y), 3.5 * _FINE, colour)
        top = (_TOP + 8 + 17 * i) * _FINE
        draw.line(((_LEFT + 10) * _FINE, top + 7 * _FINE, (_LEFT + 30) * _FINE, top + 7 * _FINE), colour, 3 * _FINE)
        draw.text(((_LEFT + 36) * _FINE, top), name, "black", font, stroke_width=_FINE, stroke_fill="white")
    draw.text((_LEFT * _FINE, 10 * _FINE), title, "black", font)
    draw.text((width * _FINE / 2, (height - 20) * _FINE), x_label, "black", font, anchor="ma")
    sideways = Image.new("L", (height * _FINE, 16 * _FINE))
    ImageDraw.Draw(sideways).text((height * _FINE / 2, 0), y_label, 255, font, anchor="ma")
    canvas.paste("black", (4 * _FINE, 0), sideways.rotate(90, expand=True))
    return np.asarray(canvas.resize(size, Image.Resampling.LANCZOS))


def _axis(values: Sequence[float]) -> list[float]:
    """Round numbers, evenly, that the values lie within: 5 to 10 of them."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    span = (high - low) or 1.0
    step = next(s for e in range(-9, 9) for s in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if s >= span / 8)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * n, 9) for n in range(first, max(last, first + 1) + 1)]
