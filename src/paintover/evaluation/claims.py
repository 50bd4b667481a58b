"""What UniTune's paper claims of itself and its rivals, checked with bars set before any number was seen.

In numbers: "at equal expressiveness" and "at equal fidelity" are those of `curves`; a part of a claim is borne out where the
difference goes its way by more than two standard errors over the scenes, refuted where it goes the other way by as much. A
claim holds where all its parts are borne out, and does not where one is refuted; otherwise nothing can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paintover.evaluation.curves import Curve, Values, difference, expressiveness, fidelity

OURS = "unitune"


def check(curves: Mapping[str, Curve], tuning: Mapping[str, Values]) -> list[dict[str, Any]]:
    """The claims whose methods were run, as plain JSON. `tuning`: seconds of each method's tuning on every scene."""
    made = []
    for rival, claim, parts in (
        ("sdedit", "UniTune keeps what SDEdit loses", ("outside", "kept")),
        ("dreambooth", "DreamBooth is slower, and worse for one picture", ("slower", "expressive")),
        ("textual-inversion", "Textual Inversion drops detail", ("kept",)),
    ):
        if OURS in curves and rival in curves:
            made.append(_claim(claim, [_part(part, curves[OURS], curves[rival], tuning) for part in parts]))
    return made


def _part(name: str, ours: Curve, theirs: Curve, tuning: Mapping[str, Values]) -> dict[str, Any]:
    """A part: what is compared, the difference (UniTune's less the rival's), and which way the claim says that it goes."""
    rival = theirs.method
    if name == "slower":
        found: dict[str, Any] | None = None
        if ours.method in tuning and rival in tuning:
            found = difference(tuning[ours.method], tuning[rival])
        return {"part": f"seconds of tuning, less than {rival}'s", "claimed": "less", "found": found}
    if name == "expressive":
        said = f"cut at equal fidelity, more than {rival}'s"
        return {"part": said, "claimed": "more", "found": expressiveness(ours, theirs)}
    measure, way, said = {
        "outside": ("outside", "less", "L1 outside of the change"),
        "kept": ("kept_ssim", "more", "SSIM within the things that stay"),
    }[name]
    part = f"{said} at equal expressiveness, {way} than {rival}'s"
    return {"part": part, "claimed": way, "found": fidelity(ours, theirs, measure)}


def _claim(claim: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    verdicts = [_verdict(part) for part in parts]
    if "cannot be told" in verdicts:
        holds = "cannot be told"
    elif "no" in verdicts:
        holds = "no"
    else:
        holds = "yes" if set(verdicts) == {"yes"} else "not told apart"
    said = "; ".join(f"{part['part']}: {_said(part)}" for part in parts)
    return {"claim": claim, "holds": holds, "parts": parts, "says": f"{claim}: {holds} ({said})."}


def _verdict(part: dict[str, Any]) -> str:
    if part["found"] is None:
        return "cannot be told"
    found = part["found"]["says"]
    return "not told apart" if found == "level" else "yes" if found == part["claimed"] else "no"


def _said(part: dict[str, Any]) -> str:
    found = part["found"]
    if found is None:
        return "one of the two never comes nearer to the target than doing nothing does, or was not timed"
    error = "–" if found["se"] is None else f"{found['se']:.3f}"
    at = f" at a cut of {100 * found['cut']:.0f}%" if "cut" in found else ""
    return f"{_verdict(part)}, {found['difference']:+.3f} ± {error}{at}"
