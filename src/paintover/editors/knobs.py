"""Knobs: an editor's settings, declared once. Flags, tables, schema and provenance are all made from the declaration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from paintover.errors import KnobError


class Knobs(BaseModel):
    """Base of every editor's knobs: each field has bounds, a default and a one-line description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class KnobInfo:
    """One knob as people read it: `takes` is its type and bounds in words."""

    name: str
    takes: str
    default: JsonValue
    description: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def describe(knobs: type[Knobs]) -> list[KnobInfo]:
    """Every knob of the model, in the order of declaration."""
    return list(_described(knobs))


@cache
def _described(knobs: type[Knobs]) -> tuple[KnobInfo, ...]:
    """Kept: several commands make their flags of the same knobs, at every start."""
    properties = knobs.model_json_schema()["properties"] if knobs.model_fields else {}
    return tuple(KnobInfo(name, _takes(p), p.get("default"), p.get("description", "")) for name, p in properties.items())


def read(editor: str, knobs: type[Knobs], given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Knobs:
    """The knobs that an edit runs with: what was given, over the bundle's `defaults`, over the declared ones.

    Strings from the command line are read as the knob's type. Raises KnobError naming everything the editor takes when a
    knob is unknown, and the knob's own bounds when a value is out of them.
    """
    known = {info.name: info for info in describe(knobs)}
    for name in given:
        if name not in known:
            raise KnobError(f"{editor} has no knob {name!r}; {takes(editor, knobs)}")
    try:
        return knobs.model_validate({**{k: v for k, v in (defaults or {}).items() if k in known}, **given})
    except ValidationError as error:
        first = error.errors()[0]
        info, said = known[str(first["loc"][0])], brief(first["input"])
        wanted = info.takes
        if first["type"] == "string_too_long":
            wanted = f"text of at most {first['ctx']['max_length']} characters"
        elif first["type"] == "string_unicode":
            wanted = "text in UTF-8"
        raise KnobError(f"{editor}: {info.name} is {said}, but takes {wanted}: {info.description}") from None


def brief(value: Any) -> str:
    """A value as an error shows it: its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def takes(editor: str, knobs: type[Knobs]) -> str:
    """One line that lists what an editor takes."""
    listed = ", ".join(f"{info.name} ({info.takes})" for info in describe(knobs))
    return f"{editor} takes {listed or 'no knobs'}"


def _takes(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(str(v) for v in schema["enum"])
    if "choices" in schema:  # of a text that is not free, and yet more than an enum
        return " or ".join(str(v) for v in schema["choices"])
    if "anyOf" in schema:
        return _takes(next(s for s in schema["anyOf"] if s.get("type") != "null"))
    kind = {"number": "a number", "integer": "a whole number", "boolean": "true or false"}.get(schema["type"], "text")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{kind} {low:g} to {high:g}"
    if low is not None:
        return f"{kind}, {low:g} or more"
    return kind if high is None else f"{kind}, {high:g} or less"
