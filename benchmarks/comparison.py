"""The comparison in docs/comparison.md: every editor on the same held-out scenes of the built-in world.

    python benchmarks/comparison.py --out report [--count N] [--model builtin] [--world world] [--photos photos]

Runs `paintover evaluate editors --out report`, which goes on where it was stopped, and puts what came of it into the
manual: the tables and MDP's claim into docs/comparison.md, all numbers into docs/comparison.json, the pictures into
docs/comparison.jpg.
"""

from __future__ import annotations

from typing import Any

from manual import DOCS, asked, counted, fill

from paintover.evaluation import comparison
from paintover.evaluation.editors import run


def parts(report: Any, numbers: str, picture: str) -> list[str]:
    when = (
        f"{report['count']} scenes, model {report['fingerprint'][:12]}…, {report['date'][:10]}; all numbers, by kind of edit "
        f"too: [{numbers}]({numbers}).\n"
    )
    sheet = f"![A row a scene: source, true target, and what each editor made of it]({picture})\n"
    return [when, comparison.markdown(report), sheet]


def main() -> None:
    given = asked(__doc__, count=16).parse_args()
    outcomes, report = run(given.world, given.photos, model=given.model, count=given.count, out=given.out, progress=counted)
    print(comparison.write(given.out, outcomes, report))
    fill(DOCS / "comparison.md", "comparison.py", given.out / "report.json", given.out / "sheet.jpg", 80, parts)


if __name__ == "__main__":
    main()
