"""The comparison in docs/tuning-comparison.md: unitune and its rivals on the same held-out scenes of the built-in world.

    python benchmarks/tuning_comparison.py --out report [--count N] [--seed 2] [--jobs 2] [--world world] [--photos photos]

Runs `paintover evaluate tuning --out report`, which goes on where it was stopped, and puts what came of it into the manual:
the tables and the claims into docs/tuning-comparison.md, all numbers into docs/tuning-comparison.json, the curves and
pictures into docs/tuning-comparison.jpg.
"""

from __future__ import annotations

import os
from typing import Any

from manual import DOCS, asked, counted, fill

from paintover.evaluation import tuning_page
from paintover.evaluation.tuning import run


def parts(report: Any, numbers: str, picture: str) -> list[str]:
    when = (
        f"{len(report['scenes'])} scenes, model {report['fingerprint'][:12]}…, {report['date'][:10]}; all numbers, and the "
        f"knobs of each setting: [{numbers}]({numbers}).\n"
    )
    drawn = f"![Expressiveness over fidelity, a curve a method, and what each setting makes of two scenes]({picture})\n"
    return [when, drawn, tuning_page.markdown(report)]


def main() -> None:
    parser = asked(__doc__, count=8)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=2)  # of the scenes: the dials were settled on those of 1
    given = parser.parse_args()
    outcomes, report = run(
        given.world,
        given.photos,
        out=given.out,
        model=given.model,
        count=given.count,
        jobs=given.jobs,
        seed=given.seed,
        progress=counted,
    )
    print(tuning_page.write(given.out, outcomes, report))
    fill(DOCS / "tuning-comparison.md", "tuning_comparison.py", given.out / "report.json", given.out / "curves.jpg", 85, parts)


if __name__ == "__main__":
    main()
