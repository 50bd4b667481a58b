"""What the comparisons share: where the world is, and putting what they make into pages of the manual."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"


def asked(about: str | None, count: int) -> argparse.ArgumentParser:
    """The arguments that every comparison takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--world", type=Path, default=Path(os.environ.get("PAINTOVER_WORLD", "world")))
    photos = os.environ.get("PAINTOVER_PHOTOS")
    parser.add_argument("--photos", type=Path, default=Path(photos) if photos else None)
    return parser


def counted(done: int, count: int) -> None:
    print(f"\r{done} of {count}", end="\n" if done == count else "", flush=True)


def fill(
    page: Path, maker: str, report: Path, picture: Path, quality: int, parts: Callable[[Any, str, str], list[str]]
) -> None:
    """Puts `parts` of the report between the page's two marks, and its numbers and picture beside the page.

    maker: the program that the first mark names.
    """
    begin, end = f"<!-- made by benchmarks/{maker} -->\n", "<!-- end of what was made -->\n"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} lacks the lines {begin.strip()} and {end.strip()}")
    numbers, drawn = page.with_suffix(".json"), page.with_suffix(".jpg")
    made = parts(json.loads(report.read_text(encoding="utf-8")), numbers.name, drawn.name)
    page.write_text("\n".join([before + begin, *made, end + after]), encoding="utf-8")
    shutil.copy(report, numbers)
    with Image.open(picture) as opened:
        opened.save(drawn, quality=quality, optimize=True)
