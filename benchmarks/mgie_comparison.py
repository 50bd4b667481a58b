"""The comparison in docs/mgie-comparison.md: MGIE, its baselines and variants on ambiguous instructions with an exact answer.

    python benchmarks/mgie_comparison.py --out report [--count 160] [--seeds 5] [--ablation NAME=BUNDLE ...]
        [--world world] [--photos photos]

Runs `paintover evaluate mgie --out report`, which goes on where it was stopped, and puts what came of it into the manual: the
tables into docs/mgie-comparison.md, all numbers into docs/mgie-comparison.json, the pictures into docs/mgie-comparison.jpg.
"""

from __future__ import annotations

from typing import Any

from manual import DOCS, asked, counted, fill

from paintover.evaluation import mgie_page
from paintover.evaluation.mgie import run


def parts(report: Any, numbers: str, picture: str) -> list[str]:
    when = (
        f"{report['count']} cases under {report['seeds']} seeds, model {report['fingerprint'][:12]}…, {report['date'][:10]}; "
        f"all numbers, every instruction with what was made of it, and the knobs: [{numbers}]({numbers}).\n"
    )
    drawn = f"![Of each kind a picture, what instruct, lgie and mgie made of it, and the goal]({picture})\n"
    return [when, drawn, mgie_page.markdown(report)]


def main() -> None:
    parser = asked(__doc__, count=160)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=3, help="of the cases")
    parser.add_argument("--ablation", action="append", default=[], metavar="NAME=BUNDLE")
    given = parser.parse_args()
    cases, made, report = run(
        given.world,
        given.photos,
        out=given.out,
        model=given.model,
        others=given.ablation,
        count=given.count,
        seeds=given.seeds,
        seed=given.seed,
        progress=counted,
    )
    print(mgie_page.write(given.out, cases, made, report))
    fill(DOCS / "mgie-comparison.md", "mgie_comparison.py", given.out / "report.json", given.out / "sheet.jpg", 88, parts)


if __name__ == "__main__":
    main()
