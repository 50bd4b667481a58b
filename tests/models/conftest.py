from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paintover.models.tiny import tiny


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny bundle of the given kind, made once in a session. Do not write into it."""
    made: dict[str, Path] = {}

    def bundle(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny(tmp_path_factory.mktemp(kind), kind)  # type: ignore[arg-type]
        return made[kind]

    return bundle
