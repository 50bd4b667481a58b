"""Fetches the pictures that Pillow is tested with (broken, hostile, rare) from its source distribution. Prints the folder.

    python tests/fetch_pillow_images.py [FOLDER]

They go to FOLDER (.cache/pillow-images by default), once for each version of Pillow; nothing is done when they are there.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import PIL

DEFAULT = Path(__file__).resolve().parent.parent / ".cache" / "pillow-images"


def fetch(folder: Path) -> Path:
    """The folder with the pictures of the installed version of Pillow."""
    target = folder / PIL.__version__
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pillow"]
        subprocess.run([*command, "--dest", scratch, f"pillow=={PIL.__version__}"], check=True, stdout=sys.stderr)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if m.isfile() and "/Tests/images/" in m.name]
            tar.extractall(scratch, members, filter="data")
        (images,) = Path(scratch).glob("*/Tests/images")
        images.rename(target)
    return target


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT))
