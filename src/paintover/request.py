"""The words every room speaks: what is asked for (EditRequest) and what came of it (EditResult)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Reference(BaseModel):
    """A medium that the instruction speaks of by name, as in "put [image1] on the table".

    path: None for one in memory. sha256: of what was opened, in a request that is resolved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^(image|audio)[1-9]\d{0,2}$")
    path: str | None = None
    sha256: str | None = None


class EditRequest(BaseModel):
    """Everything that determines an edit. It is written into the output file; `redo` repeats the edit from it.

    `picture` is None for a picture made from words alone (`imagine`), and where the picture to be edited is itself made, from
    the source prompt. `tuned` names what the model was bent by: a named tuning, or a folder; where it is a tuning of one
    picture, `picture` need not be named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    picture: str | None = None
    picture_sha256: str | None = None
    instruction: str
    source_prompt: str | None = None
    mask: str | None = None
    mask_sha256: str | None = None
    references: tuple[Reference, ...] = ()
    editor: str = "instruct"
    knobs: dict[str, JsonValue] = Field(default_factory=dict)
    model: str = "builtin"
    model_fingerprint: str | None = None
    tuned: str | None = None
    tuned_sha256: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    steps: int | None = Field(default=None, ge=1, le=1000)
    preserve: bool = True

    @field_validator("seed", "steps", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """JSON's true is no 1."""
        if isinstance(value, bool):
            raise ValueError("input should be a whole number")
        return value


@dataclass(frozen=True, slots=True)
class EditResult:
    """A finished picture at the size of the file that was opened, and the record of how it came about.

    `rgb_HWC` is uint8 in the colour space of the opened file's pixels as the user sees them (sRGB unless a profile was
    carried); `alpha_HW` is uint8 or None. `record` is plain JSON: denoiser evaluations, seconds, drift in pixels, changed
    fraction, warnings. `shown` is what the editor has to show beside the edit, uint8 of the same height and width: "source"
    HWC, the picture that was made and then edited; "mask" HW, where it edited. `files` are those of them that were saved.
    """

    rgb_HWC: NDArray[Any]
    alpha_HW: NDArray[Any] | None
    request: EditRequest
    record: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    shown: dict[str, NDArray[Any]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
