"""The house itself: light to import, pinned, its layers watched, its commands the ones that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import paintover

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_import_is_light():
    heavy = {"torch", "numpy", "pydantic", "PIL"}
    code = f"import sys, paintover; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", paintover.__all__)
def test_every_public_name_is_there(name):
    assert getattr(paintover, name) is not None
    assert name in dir(paintover)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = paintover.nonsense


def test_one_version():
    assert PROJECT["project"]["version"] == paintover.__version__


def test_every_dependency_is_pinned_to_a_version_in_its_range():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [Requirement(text) for group in (PROJECT["project"]["dependencies"], *extras) for text in group]
    for requirement in asked:
        if requirement.name != "paintover":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    assert pins["torch"] == "2.13.0"


def test_ci_runs_what_people_run():
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert re.search(r"^exec make test$", ci.read_text(), re.MULTILINE)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"try", "test", "lint"} <= set(targets)


def test_every_room_is_a_layer():
    """A room that import-linter does not know would not be watched."""
    layers = " ".join(PROJECT["tool"]["importlinter"]["contracts"][0]["layers"])
    rooms = {path.parent.name for path in (ROOT / "src" / "paintover").glob("*/*.py")} - {"builtin"}
    modules = {path.stem for path in (ROOT / "src" / "paintover").glob("*.py")} - {"__init__", "__main__"}
    assert rooms | modules <= set(re.findall(r"\w+", layers))
