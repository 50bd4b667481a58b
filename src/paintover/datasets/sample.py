"""One pair of a dataset: as its files say it, and with its pictures opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from paintover.errors import PaintoverError
from paintover.picture import Picture


class RowError(PaintoverError):
    """A row of a dataset that cannot be used; its line names the file and the row."""


@dataclass(frozen=True, slots=True)
class Row:
    """A pair as its files say it; no picture has been opened. `where` names file and row, for messages.

    source, target, mask: a picture's path, or its file's bytes. session, turn: of edits that follow one another, turns
    counted from 1 as they are published.
    """

    id: str
    where: str
    source: Path | bytes
    target: Path | bytes
    instruction: str
    expressive: str | None = None
    source_caption: str | None = None
    target_caption: str | None = None
    mask: Path | bytes | None = None
    session: str | None = None
    turn: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A pair with its pictures opened, upright and in sRGB. expressive: what the instruction means, in full, where it is known.

    mask: as published, only where the dataset was opened with masks. session, turn: see Row.
    """

    id: str
    source: Picture
    target: Picture
    instruction: str
    expressive: str | None = None
    source_caption: str | None = None
    target_caption: str | None = None
    mask: Picture | None = None
    session: str | None = None
    turn: int | None = None


class Rows(Protocol):
    """One split in one layout, read at any index: what each layout's file here has.

    splits: all that the dataset has, as published. `row` raises RowError for a row that is broken, and opens no picture.
    """

    split: str
    splits: tuple[str, ...]

    def __len__(self) -> int: ...

    def row(self, i: int) -> Row: ...


def words(value: object, what: str, where: str) -> str:
    """The text of a row, its white space put in order. Raises RowError when it is none, or empty."""
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{where}: its {what} is {'empty' if isinstance(value, str | None) else 'no text'}; expected words")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"{where}: its {what} is no Unicode text") from None
    return " ".join(value.split())


def optional(value: object) -> str | None:
    """Likewise for text that may be lacking."""
    return " ".join(value.split()) if isinstance(value, str) and value.strip() else None


def inside(folder: Path, name: object, what: str, where: str) -> Path:
    """The path of a file that a row names, from `folder` down. Raises RowError for a name, or a link, that leads out of it."""
    if not isinstance(name, str) or not name.strip():
        raise RowError(f"{where}: it names no {what}")
    if name.strip().lower().startswith(("http://", "https://")):
        raise RowError(
            f"{where}: its {what} is a URL, {name.strip()[:80]!r}; nothing is fetched: save the pictures, name the files"
        )
    path = Path(name.strip().replace("\\", "/"))
    leads_out = path.is_absolute() or ".." in path.parts or "\0" in name
    try:
        leads_out = leads_out or not (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, or no text; links in a circle
        raise RowError(f"{where}: its {what} {name[:80]!r} is no path ({reason(error)})") from None
    if leads_out:
        raise RowError(f"{where}: its {what} {name!r} lies outside {folder}; name the folder that the pictures are in")
    return folder / path


def chosen(split: str, splits: tuple[str, ...], path: Path) -> str:
    """`split`, which must be one of `splits`. Raises RowError otherwise."""
    if split not in splits:
        raise RowError(f"{path} has no split {split!r}; it has {', '.join(splits)}")
    return split


def reason(error: BaseException) -> str:
    """What went wrong, short and in one line."""
    return (" ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__)[:200]
