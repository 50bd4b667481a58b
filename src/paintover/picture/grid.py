"""A labelled grid of pictures, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _EMPTY, _FAINT = (255, 255, 255), (20, 20, 20), (232, 232, 232), (90, 90, 90)
_MOST_LINES, _MOST_BENEATH = 4, 12
_LEGIBLE = 220  # pixels of width that words need, however narrow the pictures are

Pixels = NDArray[np.uint8]


def small(rgb_HWC: NDArray[Any], alpha_HW: NDArray[Any] | None, side: int) -> Pixels:
    """A picture with its longer side scaled to `side`, what is transparent in it white."""
    image = Image.fromarray(np.ascontiguousarray(rgb_HWC))
    if alpha_HW is not None:
        paper = Image.new("RGB", image.size, _PAPER)
        paper.paste(image, mask=Image.fromarray(np.ascontiguousarray(alpha_HW)))
        image = paper
    scale = side / max(image.size)
    width, height = (max(round(length * scale), 1) for length in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def draw(
    title: str,
    source: tuple[Pixels, str],
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[Sequence[Pixels | str]],
) -> Pixels:
    """The title, the source with its label, and beside it the cells under `columns` and right of `rows` (labels; empty: none).

    Pictures are all of one size; a cell that is text is drawn empty, with the text as the reason.
    """
    height, width = source[0].shape[:2]
    font = ImageFont.load_default(max(13, round(max(height, width) / 15)))
    tiny = ImageFont.load_default(max(11, round(max(height, width) / 20)))
    line = _line(font)
    gap = line // 2
    labels = max((round(font.getlength(label)) for label in rows), default=0)
    left = gap + width + 2 * gap + (labels + gap if rows else 0)  # of the first cell
    right = left + len(cells[0]) * (width + gap)
    heading = _wrapped(title, font, right - 2 * gap)[:_MOST_LINES]
    caption = _wrapped(source[1], tiny, width)[:_MOST_LINES]
    top = gap + len(heading) * line + gap + (line if columns else 0)
    bottom = top + max(len(cells) * (height + gap), height + gap + len(caption) * _line(tiny)) + gap
    page = Image.new("RGB", (right, bottom), _PAPER)
    pen = ImageDraw.Draw(page)
    for n, words in enumerate(heading):
        pen.text((gap, gap + n * line), words, _INK, font)
    page.paste(Image.fromarray(source[0]), (gap, top))
    for n, words in enumerate(caption):
        pen.text((gap, top + height + gap // 2 + n * _line(tiny)), words, _FAINT, tiny)
    for i, label in enumerate(columns):
        pen.text((left + i * (width + gap) + width // 2, top - gap // 2), label, _INK, font, anchor="ms")
    for j, label in enumerate(rows):
        pen.text((left - gap, top + j * (height + gap) + height // 2), label, _INK, font, anchor="rm")
    for j, row in enumerate(cells):
        for i, cell in enumerate(row):
            x, y = left + i * (width + gap), top + j * (height + gap)
            if isinstance(cell, str):
                page.paste(_EMPTY, (x, y, x + width, y + height))
                fitting = max((height - gap) // _line(tiny), 1)
                for n, words in enumerate(_wrapped(cell, tiny, width - gap)[:fitting]):
                    pen.text((x + gap // 2, y + gap // 2 + n * _line(tiny)), words, _FAINT, tiny)
            else:
                page.paste(Image.fromarray(cell), (x, y))
    return np.asarray(page)


def row(title: str, cells: Sequence[tuple[str, Pixels | None, str]]) -> Pixels:
    """The title, and beneath it the cells beside each other: name above, picture (None: an empty place), words beneath.

    Pictures are all of one size, and there is at least one.
    """
    height, width = next(pixels for _, pixels, _ in cells if pixels is not None).shape[:2]
    column = max(width, _LEGIBLE)
    font, tiny = (ImageFont.load_default(min(max(least, column // 20), most)) for least, most in ((15, 22), (13, 18)))
    line, gap = _line(font), _line(font) // 2
    right = gap + len(cells) * (column + gap)
    heading = _cut(_wrapped(title, font, right - 2 * gap), _MOST_LINES)
    names = [_cut(_wrapped(name, font, column), 2) for name, _, _ in cells]
    beneath = [_cut(_wrapped(words, tiny, column), _MOST_BENEATH) for _, _, words in cells]
    above = max(map(len, names)) * line
    top = gap + len(heading) * line + gap + above
    page = Image.new("RGB", (right, top + height + gap + max(map(len, beneath)) * _line(tiny) + gap), _PAPER)
    pen = ImageDraw.Draw(page)

    def write(lines: Sequence[str], x: int, y: int, ink: tuple[int, int, int], of: Any) -> None:
        for n, words in enumerate(lines):
            pen.text((x, y + n * _line(of)), words, ink, of)

    write(heading, gap, gap, _INK, font)
    for i, (_, pixels, _) in enumerate(cells):
        x = gap + i * (column + gap)
        write(names[i], x, top - above, _INK, font)
        if pixels is None:
            page.paste(_EMPTY, (x, top, x + width, top + height))
        else:
            page.paste(Image.fromarray(pixels), (x, top))
        write(beneath[i], x, top + height + gap // 2, _FAINT, tiny)
    return np.asarray(page)


def _cut(lines: list[str], most: int) -> list[str]:
    """The first lines, with dots where there are more."""
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " ..."]


def _line(font: Any) -> int:
    """The height of a line of text."""
    ascent, descent = font.getmetrics()
    return round((ascent + descent) * 1.2)


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words, or within one that is too long for a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
