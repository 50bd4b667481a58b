"""What an instruction speaks of: an order's references, opened, and each name bound to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paintover import picture as pictures
from paintover import references as names
from paintover import sound
from paintover.editors import registry
from paintover.editors.editor import Editor
from paintover.editors.knobs import brief
from paintover.errors import PaintoverError, PictureError, RequestError, SoundError
from paintover.picture.limits import Limits
from paintover.request import EditRequest, Reference

if TYPE_CHECKING:
    from paintover.picture.open import Picture
    from paintover.sound.open import Sound

USUAL = "any2pix"  # the editor where references are given and none is named


def told(given: Mapping[str, Any] | None) -> tuple[Reference, ...]:
    """What a request says of references={"audio1": path, bytes, array ...}. Raises RequestError for names that are none."""
    if given is None:
        return ()
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise RequestError(f'references is {brief(given)}; expected names and what they are: {{"audio1": "moo.ogg"}}')
    found = [
        Reference(name=names.read_name(name), path=str(source) if isinstance(source, (str, Path)) else None)
        for name, source in given.items()
    ]
    twice = [one.name for n, one in enumerate(found) if one.name in {other.name for other in found[:n]}]
    if twice:
        raise RequestError(f"{twice[0]} is given twice; give each name once")
    return tuple(found)


def in_memory(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of them that no path names."""
    return {names.read_name(name): one for name, one in (given or {}).items() if not isinstance(one, (str, Path))}


def once(given: Mapping[str, Any] | None, limits: Limits) -> dict[str, Any]:
    """All of them, opened, for several orders that speak of the same. Raises a PaintoverError that begins with the name."""
    return {names.read_name(name): _open(names.read_name(name), source, limits) for name, source in (given or {}).items()}


def takers() -> list[str]:
    """Names of the editors whose instruction may speak of pictures and sounds."""
    return [name for name in registry.names() if registry.get(name).takes_references]


def check(request: EditRequest, editor: Editor[Any], has_picture: bool) -> None:
    """Raises RequestError for an editor that takes none, and for names that do not go with the words. Opens nothing."""
    if editor.takes_references:
        for reference in request.references:
            if reference.path is not None and (not reference.path.strip() or "\0" in reference.path):
                raise RequestError(f"{reference.name} is {reference.path!r}, which names no file; give its path")
        names.check_names(request.instruction, names.by_name(request.references), has_picture)
        return
    spoken = names.speaks(request.instruction)
    if request.references or spoken:
        able = f", or use an editor that does ({', '.join(takers())})" if takers() else ""
        which = "them" if request.references else f"{spoken}, which the {editor.told} speaks of,"
        raise RequestError(f"{editor.name} takes no references; leave {which} out{able}")


def opened(
    request: EditRequest, memory: Mapping[str, Any], picture: Picture | None, limits: Limits
) -> dict[str, Picture | Sound]:
    """What the words speak of, by name, in order of first mention; `picture`, the one to be edited, is among it.

    memory: references that no path names, and such as are open. Raises a PaintoverError that begins with the name.
    """
    found = {
        name: _open(name, memory.get(name, reference.path), limits)
        for name, reference in names.by_name(request.references).items()
    }
    digests = {name: medium.sha256 for name, medium in found.items()}
    bound = names.bound(request.instruction, digests, None if picture is None else picture.sha256)
    media: dict[str, Picture | Sound] = {}
    for name, digest in bound.items():
        own = picture is not None and digest == picture.sha256 and names.is_picture(name)
        media[name] = picture if own and picture is not None else found[name]
    return media


def _open(name: str, source: Any, limits: Limits) -> Picture | Sound:
    if source is None:
        raise RequestError(f"{name} was given in memory; give it again")
    kinds = (_picture, _sound) if names.is_picture(name) else (_sound, _picture)
    try:
        return kinds[0](source, limits)
    except (PictureError, SoundError) as error:
        try:
            kinds[1](source, limits)
        except PaintoverError:
            raise type(error)(f"{name}: {error}") from None
    shown = source if isinstance(source, (str, Path)) else "what was given"
    other = ("a sound", "audio1") if names.is_picture(name) else ("a picture", "image2")
    raise RequestError(f"{name}: {shown} is {other[0]}; give it the name of one, such as {other[1]}")


def _picture(source: Any, limits: Limits) -> Picture | Sound:
    return source if isinstance(source, pictures.Picture) else pictures.open(source, limits)


def _sound(source: Any, limits: Limits) -> Picture | Sound:
    return source if isinstance(source, sound.Sound) else sound.open(source, limits=sound.Limits(limits.max_bytes))


def resolved(request: EditRequest, media: Mapping[str, Picture | Sound], picture: Picture | None) -> tuple[Reference, ...]:
    """The request's references, each with the digest of what was opened."""
    found = []
    for reference in request.references:
        # A name that the words do not speak of is another one of the picture to be edited.
        medium = media.get(reference.name, picture)
        found.append(reference.model_copy(update={"sha256": None if medium is None else medium.sha256}))
    return tuple(found)


def notes(media: Mapping[str, Picture | Sound], picture: Picture | None) -> list[str]:
    """What may surprise about them, but for the picture that is edited, which has its own."""
    found: list[str] = []
    for medium in media.values():
        if medium is not picture:
            found += medium.notes if isinstance(medium, sound.Sound) else medium.warnings
    return found
