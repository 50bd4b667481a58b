"""The comparison in docs/any2pix-comparison.md: any2pix told by words, pictures and sounds, where the answer is known.

    python benchmarks/any2pix_comparison.py --out report [--count 20] [--steps N]
        [--world world] [--photos photos] [--recordings recordings]

Runs `paintover evaluate retrieval --out report/retrieval` and `paintover evaluate any2pix --out report`, which go on where they
were stopped, and puts what came of them into the manual: the tables into docs/any2pix-comparison.md, all numbers into
docs/any2pix-comparison.json, the pictures into docs/any2pix-comparison.jpg.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from manual import DOCS, asked, counted, fill

from paintover.evaluation import any2pix_page, retrieval
from paintover.evaluation.any2pix import run


def parts(report: Any, numbers: str, picture: str) -> list[str]:
    when = (
        f"{report['count']} cases in the largest groups, model {report['fingerprint'][:12]}…, {report['date'][:10]}; "
        f"all numbers, every instruction with what was made of it, and the knobs: [{numbers}]({numbers}).\n"
    )
    drawn = f"![Of each group the best case, one in the middle and the two worst; and the curves]({picture})\n"
    return [when, retrieval.markdown(report["retrieval"]), any2pix_page.markdown(report), drawn]


def main() -> None:
    parser = asked(__doc__, count=20)
    recordings = os.environ.get("PAINTOVER_RECORDINGS")
    parser.add_argument("--recordings", type=Path, default=Path(recordings) if recordings else None)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    world = given.world, given.photos, given.recordings
    file = given.out / "retrieval" / "report.json"
    found = retrieval.run(*world, out=file.parent, model=given.model, force=True) if not _there(file, given.model) else None
    made, report = run(*world, out=given.out, model=given.model, count=given.count, steps=given.steps, progress=counted)
    report["retrieval"] = found or json.loads(file.read_text(encoding="utf-8"))
    print(any2pix_page.write(given.out, made, report))
    fill(DOCS / "any2pix-comparison.md", "any2pix_comparison.py", given.out / "report.json", given.out / "sheet.jpg", 80, parts)


def _there(file: Path, model: str) -> bool:
    from paintover.models.bundle import load

    return file.exists() and bool(json.loads(file.read_text(encoding="utf-8"))["fingerprint"] == load(model).fingerprint)


if __name__ == "__main__":
    main()
