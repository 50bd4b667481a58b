"""What an evaluation has finished, on disk: one picture a case, so that a kill costs the cases under way and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paintover import picture as pictures
from paintover.errors import PictureError, RequestError
from paintover.picture import provenance
from paintover.request import EditResult


class Kept:
    """The folder of an evaluation with the settings `about` (plain JSON): out/settings.json and out/cases/00000.png.

    Each picture is saved as every edit is: whole or not at all, and saying how it was made. Raises RequestError when the
    folder holds an evaluation with other settings, unless `force`: then its cases are removed.
    """

    def __init__(self, out: Path, about: dict[str, Any], force: bool = False) -> None:
        self.cases = out / "cases"
        settings = out / "settings.json"
        try:
            self.cases.mkdir(parents=True, exist_ok=True)
            before = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else None
        except (OSError, ValueError) as error:
            raise RequestError(f"{out} cannot hold the report ({error}); choose another folder") from None
        if before is not None and before != about:
            changed = next(key for key in [*about, *before] if before.get(key) != about.get(key))
            if not force:
                was, now = before.get(changed), about.get(changed)
                raise RequestError(
                    f"{out} holds an evaluation with {changed} {was}, not {now}; choose another folder, or --force"
                )
        if before != about:
            for old in self.cases.glob("*.png"):
                old.unlink()
            part = settings.with_suffix(".part")
            part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            part.replace(settings)

    def get(self, n: int) -> tuple[NDArray[np.uint8], dict[str, Any]] | None:
        """The edited picture HWC of case n and its record, None if it is not finished."""
        file = self._file(n)
        if not file.exists():
            return None
        try:
            pixels_HWC, record = pictures.open(file).rgb_HWC, provenance.read(file)["record"]
            return (pixels_HWC, record) if isinstance(record["evaluations"], int) else None
        except (PictureError, KeyError, TypeError, ValueError):
            return None

    def put(self, n: int, result: EditResult) -> None:
        """Keeps the edit of case n."""
        about = {"request": result.request.model_dump(mode="json"), "record": result.record}
        pictures.save(self._file(n), result, provenance=about, force=True)

    def _file(self, n: int) -> Path:
        return self.cases / f"{n:05d}.png"
