"""Makes the pictures on the editors' pages and on that of sweep, by the commands that stand above them.

    python docs/make_pictures.py [NAME ...]

For each of these pages (or those named) with a block of commands and a picture right under it, runs the block in an
empty folder and puts what it wrote side by side, in the order it was written: the source, then the edit.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
PICTURED = re.compile(r"```bash\n([^`]*)```\n\n!\[[^\]]*\]\(([\w-]+\.jpg)\)")
SIDE, GAP = 320, 8


def make(page: Path) -> list[Path]:
    """The pictures of one page."""
    made = []
    for block, name in PICTURED.findall(page.read_text(encoding="utf-8")):
        with tempfile.TemporaryDirectory() as folder:
            written = []
            for command in block.replace("\\\n", " ").splitlines():
                words = shlex.split(command)
                words[0] = str(Path(sys.executable).with_name(words[0]))
                subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                written.append(Path(folder, words[words.index("-o") + 1]))
            pictures = [Image.open(file).convert("RGB") for file in written]
        if len(pictures) > 1:
            pictures = [picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for picture in pictures]
        width, height = sum(picture.width + GAP for picture in pictures) - GAP, max(picture.height for picture in pictures)
        strip = Image.new("RGB", (width, height), "white")
        for n, picture in enumerate(pictures):
            strip.paste(picture, (n * (SIDE + GAP), 0))
        strip.save(page.with_name(name), quality=88, optimize=True)
        made.append(page.with_name(name))
    return made


if __name__ == "__main__":
    pages = {page.stem: page for page in [*sorted((DOCS / "editors").glob("*.md")), DOCS / "sweep.md"]}
    for name in sys.argv[1:] or pages:
        for picture in make(pages[name]):
            print(picture)
