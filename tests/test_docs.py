"""The manual tells the truth: its commands run and print what it says, its tables and links match what there is.

How a page is written for this is told at the end of docs/README.md.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from paintover import cli
from paintover.editors import registry
from paintover.editors.knobs import describe
from paintover.models import bundle, listing
from paintover.models.tiny import tiny

ROOT = Path(__file__).parents[1]
MANUAL = sorted((ROOT / "docs").rglob("*.md"))
HAS_BUILTIN = (listing.BUILTIN / "model_index.json").is_file()
_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<kind>bash|python)\n(?P<text>.*?)^```\n(?:\n```text\n(?P<prints>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_SHELL = re.compile(r"[$`*?~]")


@dataclass(frozen=True)
class Block:
    """A fenced block that is run: `prints` is what the page says it prints, `code` how its last command must end."""

    line: int
    kind: str
    text: str
    prints: str | None
    code: int


def blocks(page: str) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(page):
        note = match["note"] or ""
        if not re.match(r"not run: \S", note):
            code = re.fullmatch(r"exit (\d+)", note)
            line = page.count("\n", 0, match.start("text")) + 1
            found.append(Block(line, match["kind"], match["text"], match["prints"], int(code[1]) if code else 0))
    return found


def commands(text: str) -> list[str]:
    """The block's commands: continued lines joined, a here-document kept with the command that reads it."""
    found: list[str] = []
    end = None
    for line in text.replace("\\\n", " ").splitlines():
        if end is not None:
            found[-1] += "\n" + line
            end = None if line == end else end
        elif line.strip() and not line.startswith("#"):
            found.append(line)
            here = re.search(r"<<\s*['\"]?(\w+)", line)
            end = here[1] if here else None
    return found


def words_of(command: str) -> list[str] | None:
    """The command's words if it is paintover alone, with nothing that only a shell understands."""
    if _SHELL.search(command):
        return None
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    alone = words[0].removeprefix(".venv/bin/") == "paintover" and not any(
        set(word) <= set("();<>|&") for word in words if word
    )
    return words[1:] if alone else None


def run(command: str, capsys) -> tuple[int, str]:
    """Exit code, and what was printed. paintover is run in this process, which has torch and the model already."""
    words = words_of(command)
    if words is None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        shell = ["bash", "-eo", "pipefail", "-c", command]
        done = subprocess.run(shell, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path})
        return done.returncode, done.stdout + done.stderr
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), err + out


def matches(printed: str, said: str) -> bool:
    """Whether whole lines of what was printed are the page's text, in which ... stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in said.rstrip("\n").split("..."))
    return re.search(rf"^{pattern}$", printed, re.MULTILINE | re.DOTALL) is not None


@pytest.fixture(scope="session")
def like_stable_diffusion(tmp_path_factory) -> Path:
    """Folders that users would have: Stable Diffusion, InstructPix2Pix, SDXL, Stable Diffusion 3 and DeepFloyd IF in small."""
    folder = tmp_path_factory.mktemp("bundles")
    tiny(folder / "stable-diffusion", "text-to-image")
    tiny(folder / "instruct-pix2pix", "instruct")
    tiny(folder / "sdxl", "sdxl-refiner")
    tiny(folder / "stable-diffusion-3", "flow")
    tiny(folder / "cascade", "cascade")
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_bundle, like_stable_diffusion):
    """What a reader of the manual has: a photograph, a sound, models, and the built-in model."""
    with Image.open(ROOT / "examples" / "pictures" / "meadow.jpg") as photo:
        photo.thumbnail((320, 320))
        photo.save(tmp_path / "photo.jpg", quality=92)
    for model in like_stable_diffusion.iterdir():
        (tmp_path / model.name).symlink_to(model)
    (tmp_path / "any2pix").symlink_to(tiny_bundle)
    soundfile.write(tmp_path / "moo.ogg", 0.5 * np.sin(0.07 * np.arange(24_000)), 16_000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(registry, "_EDITORS", dict(registry._EDITORS))
    if not HAS_BUILTIN:
        for module in (bundle, listing):
            monkeypatch.setattr(module, "BUILTIN", tiny_bundle)
    return tmp_path


@pytest.mark.parametrize("page", [ROOT / "README.md", *MANUAL], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_page_says_happens(page, folder, capsys):
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.relative_to(ROOT)}, line {block.line}"
        if block.kind == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
            out, err = capsys.readouterr()
            printed = err + out
        else:
            printed = ""
            *before, last = commands(block.text)
            for command in (*before, last):
                code, output = run(command, capsys)
                printed += output
                assert code == (block.code if command is last else 0), f"{where}: {command}\nended with {code}:\n{output}"
        if block.prints is not None:
            assert matches(printed, block.prints), f"{where} should print\n{block.prints}\nbut printed\n{printed}"


@pytest.mark.parametrize("name", registry.names())
def test_every_editor_has_a_page_with_its_knobs(name):
    page = (ROOT / "docs" / "editors" / f"{name}.md").read_text(encoding="utf-8")
    rows = ["| flag | takes | default | what it does |", "|---|---|---|---|"]
    for info in describe(registry.get(name).Knobs):
        rows.append(f"| `{info.flag}` | {info.takes} | `{json.dumps(info.default)}` | {info.description} |")
    table = "\n".join(rows) + "\n\n"
    assert table in page, f"docs/editors/{name}.md should hold this table:\n{table}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *MANUAL], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        there = (page.parent / target).resolve() if target else page
        if there == ROOT / "docs" / "builtin.md" and not HAS_BUILTIN:
            continue  # it comes with the weights that it describes
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}"


def test_every_page_can_be_found():
    linked = {
        (page.parent / target).resolve()
        for page in (ROOT / "docs" / "README.md", ROOT / "README.md")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    }
    assert {page for page in MANUAL if page.name != "README.md"} <= linked


def test_the_feature_table_has_every_feature_and_names_files_that_exist():
    text = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    ids = re.findall(r"^\| ([A-Z]{2}-\d+) \|", text, re.MULTILINE)
    counts = {"MG": 22, "IA": 25, "UT": 17, "MD": 13}
    assert ids == [f"{system}-{n}" for system, count in counts.items() for n in range(1, count + 1)]
    rows = [row for row in text.splitlines() if row.startswith("| ") and "---" not in row]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        status = next((cell for cell in cells if re.match(r"done$|partly: \S|not yet$", cell)), None)
        assert status or "status" in cells, f"no status: {row}"
        places = re.findall(r"`([a-z_]+/[\w/.]*|[a-z_]+\.py)`", cells[-1])
        assert all((ROOT / "src" / "paintover" / place).exists() for place in places), row
        assert bool(cells[-1]) == (status != "not yet"), f"what is there has a place, and what is not has none: {row}"


def test_the_test_itself_sees_what_is_wrong(capsys):
    page = (
        "<!-- exit 2 -->\n```bash\npaintover show none\n```\n\n```text\npaintover: ... file\n```\n\n"
        "<!-- not run: x -->\n```bash\nrm\n```\n"
    )
    [block] = blocks(page)
    assert (block.code, block.prints, block.line) == (2, "paintover: ... file\n", 3)
    assert matches("a\nb 1 c\n", "b ... c")
    assert not matches("a\nb 1 d\n", "b ... c")
    assert not matches("ab 1 c\n", "b ... c")
    assert commands("cat <<'E'\na\nE\npaintover edit \\\n  x\n") == ["cat <<'E'\na\nE", "paintover edit    x"]
    assert words_of('.venv/bin/paintover edit a.png "b; c" -o d.png') == ["edit", "a.png", "b; c", "-o", "d.png"]
    assert words_of("paintover models > list") is None
    assert run("exit 3", capsys)[0] == 3
