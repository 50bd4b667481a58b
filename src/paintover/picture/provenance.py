"""How a picture says how it was made: the request as JSON, and the IPTC field "made with AI", in an XMP packet."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import Image

from paintover.errors import PictureError
from paintover.picture.limits import DEFAULT, Limits
from paintover.picture.source import open_header, read_bytes

KEYWORD = "paintover"  # of the PNG iTXt chunk
_NAMESPACE = "urn:paintover:1"
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:paintover="{namespace}">
<Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
<paintover:request>{request}</paintover:request>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def to_json(provenance: dict[str, Any]) -> str:
    """One line of ASCII-safe JSON. Raises ValueError for what JSON cannot hold (NaN, other types: TypeError)."""
    return json.dumps(provenance, sort_keys=True, allow_nan=False, separators=(",", ":"))


def to_xmp(provenance: dict[str, Any], *, composite: bool) -> bytes:
    """The XMP packet: `composite` for an edited picture, otherwise one made by the model alone (IPTC digital source type)."""
    source_type = _SOURCE_TYPE + ("compositeWithTrainedAlgorithmicMedia" if composite else "trainedAlgorithmicMedia")
    return _PACKET.format(namespace=_NAMESPACE, source_type=source_type, request=escape(to_json(provenance))).encode()


def read(path: str | os.PathLike[str], limits: Limits = DEFAULT) -> dict[str, Any]:
    """The provenance that `save` wrote into a file (PNG, JPEG, WebP, TIFF). Decodes no pixels.

    Raises PictureError when the file is no picture, carries no provenance, or carries a damaged one.
    """
    name = os.fspath(path)
    with open_header(read_bytes(Path(name), limits), name, limits) as image:
        text = _png_text(image) or _xmp_text(image, name)
    if text is None:
        raise PictureError(f"{name}: carries no paintover provenance; only files written by paintover do")
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PictureError(f"{name}: its paintover provenance is damaged; the edit has to be asked for anew")
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _png_text(image: Image.Image) -> str | None:
    text = image.info.get(KEYWORD) if image.format == "PNG" else None
    return str(text) if text else None


def _xmp_text(image: Image.Image, name: str) -> str | None:
    packet = image.info.get("xmp")
    if not isinstance(packet, bytes) or _NAMESPACE.encode() not in packet:
        return None
    if b"<!" in packet:  # a packet of ours has no DOCTYPE and no entities; a hostile one may
        raise PictureError(f"{name}: its paintover provenance is damaged; the edit has to be asked for anew")
    try:
        root = ElementTree.fromstring(packet.rstrip(b"\0 \n"))
    except (ElementTree.ParseError, ValueError, LookupError):  # the latter two for the encoding that it claims
        raise PictureError(f"{name}: its paintover provenance is damaged; the edit has to be asked for anew") from None
    return root.findtext(f".//{{{_NAMESPACE}}}request")
