"""The comparison in docs/comparison.md: every editor on the same held-out scenes of the built-in world.

    python benchmarks/comparison.py --out report [--count N] [--model builtin] [--world world] [--photos photos]

Runs `paintover evaluate editors --out report`, which goes on where it was stopped, and puts what came of it into the
manual: the tables and MDP's claim into docs/comparison.md, all numbers into docs/comparison.json, the pictures into
docs/comparison.jpg.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from PIL import Image

from paintover.evaluation import comparison
from paintover.evaluation.editors import run

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- made by benchmarks/comparison.py -->\n", "<!-- end of what was made -->\n"


def fill(folder: Path, page: Path) -> None:
    """Puts the report in `folder` into the page, and its numbers and pictures beside it."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{page} lacks the lines {BEGIN.strip()} and {END.strip()}")
    numbers, pictures = page.with_suffix(".json").name, page.with_suffix(".jpg").name
    when = (
        f"{report['count']} scenes, model {report['fingerprint'][:12]}…, {report['date'][:10]}; all numbers, by kind of edit "
        f"too: [{numbers}]({numbers}).\n"
    )
    sheet = f"![A row a scene: source, true target, and what each editor made of it]({pictures})\n"
    made = [before + BEGIN, when, comparison.markdown(report), sheet, END + after]
    page.write_text("\n".join(made), encoding="utf-8")
    shutil.copy(folder / "report.json", page.with_suffix(".json"))
    with Image.open(folder / "sheet.jpg") as picture:
        picture.save(page.with_suffix(".jpg"), quality=80, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--world", type=Path, default=Path(os.environ.get("PAINTOVER_WORLD", "world")))
    photos = os.environ.get("PAINTOVER_PHOTOS")
    parser.add_argument("--photos", type=Path, default=Path(photos) if photos else None)
    given = parser.parse_args()
    outcomes, report = run(
        given.world,
        given.photos,
        model=given.model,
        count=given.count,
        out=given.out,
        progress=lambda done, count: print(f"\r{done} of {count}", end="", flush=True),
    )
    print()
    print(comparison.write(given.out, outcomes, report))
    fill(given.out, DOCS / "comparison.md")


if __name__ == "__main__":
    main()
