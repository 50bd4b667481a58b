"""Named tunings: what was learnt of a picture, kept in a private folder until it is discarded or expires."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from paintover.errors import ModelError, RequestError
from paintover.models.files import cache_folder
from paintover.models.hub import is_hub_name

if TYPE_CHECKING:
    from torch import Tensor

DAYS = 7.0  # from its last use to its end
RECORD, WEIGHTS = "tuned.json", "weights.safetensors"
UNNAMED = "(unnamed)"  # no name that can be given: what was tuned for a while only
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LEFT = 3600.0  # seconds until what a killed process left goes


class Source(BaseModel):
    """A picture that was tuned on: what it was called, its sha256 as an edit knows it, and its file here with its own sha256.

    (The two differ where the picture was in memory: an edit knows it by its pixels.)
    """

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    file: str | None = None
    file_sha256: str | None = None


class Record(BaseModel):
    """What is known of a tuning, as tuned.json holds it.

    editor: None where other software tuned. knobs: those that the tuning settled. word: what stands for the learnt thing in a
    caption; "" where no word does. sha256: of the tensors' file, bytes: its length. key: of what it was made from, in the
    prepare cache; traces: of what the cache may hold of it, in the folder `cache`; None: in the shared one.
    days: from its last use to its end; None: it stays. seconds: that the tuning took.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    name: str = UNNAMED
    editor: str | None = None
    knobs: dict[str, JsonValue] = Field(default_factory=dict)
    caption: str | None = None
    model: str | None = None
    model_fingerprint: str | None = None
    pictures: tuple[Source, ...] = ()
    word: str = ""
    sha256: str = ""
    key: str = ""
    traces: tuple[str, ...] = ()
    cache: str | None = None
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    days: float | None = Field(None, gt=0, le=36_500)
    expires: AwareDatetime | None = None
    seconds: float = Field(0.0, ge=0, le=1e9)
    bytes: int | None = None

    def used(self) -> Record:
        """As it is after a use, which puts its end off."""
        if self.days is None:
            return self
        end = datetime.now(UTC) + timedelta(days=self.days)
        return self.model_copy(update={"expires": end.replace(microsecond=0)})

    @property
    def over(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)


class Tensors(dict[str, Any]):
    """Named tensors that are in memory once for all who use them."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """A tuning that can be used. folder: where it lies; None: in memory alone, as `held` and `bytes_of`."""

    record: Record
    folder: Path | None = None
    held: Tensors | None = None
    bytes_of: tuple[bytes, ...] = ()

    @property
    def said(self) -> str:
        """What it is called in messages."""
        return "this tuning" if self.record.name == UNNAMED else f"the tuning {self.record.name!r}"

    @property
    def kept_apart(self) -> bool:
        """Whether it lies in a folder that somebody made, and not in the store."""
        return self.folder is not None and self.folder.parent != root()

    def tensors(self) -> Tensors:
        """What was learnt, on the CPU, not to be written to. Raises ModelError where it is gone or damaged."""
        if self.held is not None:
            return self.held
        assert self.folder is not None
        found = _alive.get((self.folder, self.record.sha256))
        if found is None:
            found = _alive[self.folder, self.record.sha256] = self._read()
        _latest[:] = [found]
        return found

    def picture(self, n: int = 0) -> bytes | None:
        """The file of its n-th picture; None where it is not kept with it. Raises ModelError where it is damaged."""
        if self.folder is None:
            return self.bytes_of[n] if n < len(self.bytes_of) else None
        source = self.record.pictures[n] if n < len(self.record.pictures) else None
        if source is None or source.file is None:
            return None
        try:
            data = (self.folder / Path(source.file).name).read_bytes()
        except OSError:
            raise self._damaged("its picture is gone") from None
        if hashlib.sha256(data).hexdigest() != source.file_sha256:
            raise self._damaged("its picture is not what was written")
        return data

    def bytes_on_disk(self) -> int:
        if self.folder is None:
            return 0
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    def _read(self) -> Tensors:
        from paintover.models import tensors

        assert self.folder is not None
        if not (self.folder / WEIGHTS).exists() and self.record.key == "":  # other software's, or `keep`'s
            from paintover.tuning import keep

            return Tensors(keep.read(self.folder))
        try:
            data = tensors.read(self.folder / WEIGHTS)
        except OSError:
            if not self.folder.exists():
                raise ModelError(f"{self.said} was discarded meanwhile; tune again") from None
            raise self._damaged("its weights cannot be read") from None
        if hashlib.sha256(data).hexdigest() != self.record.sha256:
            raise self._damaged("its weights are not what was written")
        return Tensors(tensors.parse(data))

    def _damaged(self, how: str) -> ModelError:
        what = "write it" if self.kept_apart else f"discard it (paintover tuned --discard {self.record.name}) and tune"
        return ModelError(f"{self.said} is damaged: {how}; {what} again")


_alive: WeakValueDictionary[tuple[Path, str], Tensors] = WeakValueDictionary()
_latest: list[Tensors] = []  # one, for the next edit


def forget() -> None:
    """Gives up what is in memory; what is in use stays with those who use it."""
    _latest.clear()


def root() -> Path:
    return cache_folder() / "tuned"


def check_name(name: str) -> str:
    """Raises RequestError for what cannot be a name: it becomes that of a folder."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name[:80]!r} cannot be the name of a tuning; use letters, digits, '-', '_' and '.', 64 at most, a letter first"
        )
    return name


def named_after(picture: str) -> str:
    """A name like the picture's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(picture).stem).lstrip("-._")[:50] or "tuning"


def numbered(name: str, key: str) -> str:
    """The name of what is of this very making; or this name, or it with a number, whichever is free."""
    there = next((tuning.record.name for tuning in listed() if tuning.record.key == key), None)
    if there is not None:
        return there
    for one in (name if n == 1 else f"{name}-{n}" for n in range(1, 10_000)):
        with contextlib.suppress(RequestError):
            check_free(one, key)
            return one
    raise RequestError(f"{name} and its numbered names are all taken; give another --name")


def find(name: str | Path) -> Tuning:
    """The named tuning, or a folder's. Raises RequestError, also for one that has expired, and ModelError."""
    said = str(name)
    kept = root() / said
    if _NAME.fullmatch(said) and not kept.is_symlink() and kept.is_dir():
        tuning = _read(kept)
        if not tuning.record.over:
            return tuning
        raise RequestError(f"the tuning {said!r} has expired ({_day(tuning.record)}); tune again, with more --days")
    if "\0" not in said and os.path.isdir(said):
        return _of_folder(Path(said))
    if said == UNNAMED:
        raise RequestError(
            "that was made with a tuning that was not kept; tune again and give it a name, or keep it in a folder"
        )
    names = [tuning.record.name for tuning in listed()]
    near = get_close_matches(said, names, n=1)
    hint = f"did you mean {near[0]!r}" if near else f"there are {', '.join(names[:10])}" if names else "there is none"
    raise RequestError(
        f"there is no tuning {said[:80]!r}, nor such a folder: it was discarded, expired, or is elsewhere ({hint}); "
        "make one with paintover tune PICTURE --name NAME"
    )


def known(name: str) -> Record | None:
    """What is known of what has the name, over or not; None where there is nothing, or nothing that can be read."""
    with contextlib.suppress(ModelError):
        return _read(root() / check_name(name)).record
    return None


def listed() -> list[Tuning]:
    """All named tunings that have not expired, the latest first; those that are damaged are left out (see `broken`)."""
    found = []
    for folder in _folders():
        with contextlib.suppress(ModelError):
            tuning = _read(folder)
            if not tuning.record.over and _complete(tuning):
                found.append(tuning)
    return sorted(found, key=lambda tuning: tuning.record.created, reverse=True)


def broken() -> list[str]:
    """Names of those that are damaged, as far as that is told quickly; and of links, which are none of ours."""
    names = []
    for folder in _folders(links=True):
        try:
            if folder.is_symlink() or not _complete(_read(folder)):
                names.append(folder.name)
        except ModelError:
            names.append(folder.name)
    return names


def _complete(tuning: Tuning) -> bool:
    """Whether the weights are as long as they were written."""
    assert tuning.folder is not None
    try:
        return tuning.record.bytes in (None, (tuning.folder / WEIGHTS).stat().st_size)
    except OSError:
        return False


def write(record: Record, tensors: Mapping[str, Tensor], pictures: Sequence[bytes], replacing: bool = False) -> Tuning:
    """Keeps a tuning under its name, whole or not at all, readable by its owner alone, and returns what is there then: where
    another process was as far with the same thing, its own. Raises OSError where that fails, and RequestError where the name
    is taken (unless it is of the same making, or `replacing`)."""
    from paintover.models import tensors as files

    home = root() / check_name(record.name)
    root().mkdir(parents=True, exist_ok=True, mode=0o700)
    part = root() / f".{record.name}.{uuid.uuid4().hex[:8]}.part"
    part.mkdir(mode=0o700)
    try:
        with files.whole(part / WEIGHTS, sync=True) as file:
            sha256 = files.put(file, tensors).hex()
        record = record.model_copy(update={"sha256": sha256, "bytes": (part / WEIGHTS).stat().st_size})
        for source, data in zip(record.pictures, pictures, strict=True):
            with files.whole(part / str(source.file), sync=True) as file:
                file.write(data)
        kept = zip(record.pictures, pictures, strict=True)
        sums = (source.model_copy(update={"file_sha256": hashlib.sha256(data).hexdigest()}) for source, data in kept)
        record = record.model_copy(update={"pictures": tuple(sums)}).used()
        _write_record(part, record)
        _put(part, home, record, replacing)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return _read(home)  # what another process put there meanwhile may differ in its bits


def check_room(needed: int) -> None:
    """Raises RequestError where the store cannot be written to, or its disk has less than `needed` bytes free."""
    remedy = "name another folder in $PAINTOVER_CACHE"
    try:
        root().mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(prefix=".", suffix=".part", dir=root()) as file:
            file.write(b" ")
        free = shutil.disk_usage(root()).free
    except OSError as error:
        raise RequestError(f"the tuning could not be kept in {root()} ({error.strerror or error}); {remedy}") from None
    if free < needed:
        raise RequestError(
            f"the tuning takes {needed / 1e9:.1f} GB in {root()}, and its disk has {free / 1e9:.1f} GB left; make room, "
            f"{remedy}, or tune a LoRA"
        )


def check_free(name: str, key: str | None = None) -> None:
    """Raises RequestError where a tuning of another making has the name."""
    home = root() / check_name(name)
    if not os.path.lexists(home):
        return
    with contextlib.suppress(ModelError):
        record = _read(home).record
        if record.over or (key is not None and record.key == key):
            return
    raise RequestError(f"there is a tuning {name!r} already; give another --name, discard it, or replace it with --force")


def touch(tuning: Tuning) -> Tuning:
    """Notes a use of it. One that cannot be noted is none the worse."""
    if tuning.folder is None or tuning.record.days is None:
        return tuning
    record = tuning.record.used()
    with contextlib.suppress(OSError):
        _write_record(tuning.folder, record)
    return replace(tuning, record=record)


def discard(name: str) -> Record | None:
    """Deletes it, at once. What is known of it; None where that cannot be read. Raises RequestError where there is none."""
    folder = root() / check_name(name)
    if folder.is_symlink():
        _removed(folder, os.unlink)
        return None
    if not folder.is_dir():
        find(name)  # says what there is
        raise RequestError(f"{name!r} is a folder of yours, and no named tuning; delete it yourself")
    record = None
    with contextlib.suppress(ModelError):
        record = _read(folder).record
    _removed(folder, _delete)
    return record


def _removed(folder: Path, remove: Callable[[Path], None]) -> None:
    try:
        remove(folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be deleted ({error.strerror or error}); make it writable, and ask again") from None


def sweep() -> list[Record]:
    """Deletes what has expired, and what killed processes left; says what it was."""
    gone = []
    for folder in _folders():
        with contextlib.suppress(ModelError, OSError):
            record = _read(folder).record
            if record.over:
                _delete(folder)
                gone.append(record)
    for left in root().glob(".*"):
        with contextlib.suppress(OSError):
            if left.suffix in (".part", ".old") and time.time() - left.stat().st_mtime > _LEFT:
                shutil.rmtree(left, ignore_errors=True)
    return gone


def _folders(links: bool = False) -> Iterator[Path]:
    try:
        found = sorted(root().iterdir())
    except OSError:
        return
    yield from (path for path in found if _NAME.fullmatch(path.name) and (path.is_dir() if not path.is_symlink() else links))


def _read(folder: Path) -> Tuning:
    try:
        record = Record.model_validate_json(_regular(folder / RECORD))
    except (OSError, ValueError) as error:
        wrong = error.errors()[0]["loc"] if isinstance(error, ValidationError) else ()
        what = f" ({wrong[0]} is not what it can be)" if wrong else ""
        mend = f"discard it (paintover tuned --discard {folder.name}) and tune" if folder.parent == root() else "write it"
        raise ModelError(f"the tuning {folder.name!r} is damaged: its {RECORD} cannot be read{what}; {mend} again") from None
    return Tuning(record.model_copy(update={"name": folder.name}), folder)


def _regular(path: Path) -> bytes:
    """A file's bytes. Raises OSError for what is none: a pipe would keep us waiting."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.read_bytes()


def _of_folder(folder: Path) -> Tuning:
    """What `keep` wrote, or other software."""
    record = _read(folder).record if (folder / RECORD).is_file() else Record()
    # Whoever wrote it: it names no file of ours to be read, and nothing to be forgotten.
    known = {"name": str(folder), "pictures": _without_files(record), "days": None, "expires": None}
    known |= {"key": "", "traces": (), "cache": None}
    return Tuning(record.model_copy(update=known | {"sha256": _signature(folder)}), folder.resolve())


def _signature(folder: Path) -> str:
    """Stands for a folder's weights: sha256 over the names and sums of its safetensors, where `keep.read` looks for them."""
    found = [path for place in (".", "unet", "upscaler/unet") for path in folder.glob(f"{place}/*.safetensors")]
    stats = [(path, path.stat()) for path in sorted(found) if path.is_file()]
    return _sums(folder, tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@lru_cache(maxsize=8)  # of a batch's lines, and of a session's edits
def _sums(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for path, *_ in files:
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def description(record: Record) -> bytes:
    """What tuned.json holds in a folder of one's own: it stays, its pictures are not with it, and it tells of no place on this
    machine: the model is known by its fingerprint."""
    pictures = tuple(source.model_copy(update={"name": _plain(source.name)}) for source in _without_files(record))
    model = None if record.model is None else _plain(record.model)
    unknown: dict[str, Any] = {"key": "", "traces": (), "cache": None, "days": None, "expires": None}
    return _json(record.model_copy(update={"pictures": pictures, "model": model} | unknown))


def _without_files(record: Record) -> tuple[Source, ...]:
    return tuple(source.model_copy(update={"file": None, "file_sha256": None}) for source in record.pictures)


def _plain(name: str) -> str:
    """A model's or a picture's name without the place where it lies on this machine."""
    hub = is_hub_name(name) and not os.path.isdir(name)
    return name if hub else Path(name).expanduser().resolve().name or name


def _json(record: Record) -> bytes:
    return record.model_dump_json(indent=2).encode() + b"\n"


def _write_record(folder: Path, record: Record) -> None:
    from paintover.models import tensors as files

    with files.whole(folder / RECORD) as file:
        file.write(_json(record))


def _put(part: Path, home: Path, record: Record, replacing: bool) -> None:
    """`part` in the place of `home`; another process may be as far with the same thing."""
    for _ in range(10):
        try:
            os.rename(part, home)
            return
        except OSError:
            if not os.path.lexists(home):
                raise
        if not replacing:
            check_free(record.name, record.key)
            if _sound(home):  # of the same making: it is as good, and may be in use
                shutil.rmtree(part, ignore_errors=True)
                return
        _delete(home)
    raise RequestError(f"the name {record.name!r} is taken again and again; give another --name")


def _sound(folder: Path) -> bool:
    """Whether a tuning has not expired, and its weights are what was written."""
    try:
        record = _read(folder).record
        with (folder / WEIGHTS).open("rb") as file:
            return not record.over and hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    except (ModelError, OSError):
        return False


def _delete(folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
    try:
        os.rename(folder, old)
    except FileNotFoundError:  # another process was quicker
        return
    shutil.rmtree(old, ignore_errors=True)


def _day(record: Record) -> str:
    return record.expires.strftime("%Y-%m-%d %H:%M UTC") if record.expires is not None else "never"
