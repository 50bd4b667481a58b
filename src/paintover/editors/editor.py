"""Editor: what a named system must say for itself. `prepare` depends on the picture, `path` on the words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import JsonValue

from paintover.editors.knobs import Knobs
from paintover.references import is_picture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from paintover.models.bundle import Bundle
    from paintover.path.flow import FlowSchedule
    from paintover.path.predict import Path, Preparation
    from paintover.path.schedule import Schedule, Step
    from paintover.picture.open import Picture
    from paintover.request import EditRequest
    from paintover.sound.open import Sound

K = TypeVar("K", bound=Knobs)


@dataclass(frozen=True, slots=True, eq=False)
class Context(Generic[K]):
    """What an editor works with.

    request: resolved: `steps`, every knob and the model's fingerprint are filled in.
    shape:   of the latents, (1, C, H, W).
    source_BCHW: the picture's scaled latents, B = 1; None when the picture is made from words alone.
    large_BCHW: likewise, as a cascade's second stage would paint it; None where there is no such stage, or no picture.
    mask_HW: 1 where the user's mask lets an edit go, on the latents' grid; None where there is no mask.
    shown: what a path wants to be seen beside the edit: a mask_HW (0..1, on a grid that covers the latents': it may be
        coarser), or latents_BCHW (B = 1).
    examples: latents_BCHW (B = 1) of several pictures that a preparation learns from; () where it is the source alone.
    unfinished: a file where a long preparation may leave its state, to be taken up again if it is interrupted.
    remarks: what a path has to tell about what it found: it goes with the record, as `Editor.notes` do.
    picture: what was opened, at its own size; None when the picture is made from words alone.
    media: what the instruction speaks of, by name ("image1", "audio1"), in the order of first mention; the picture that was
        given to be edited is among them, the last one where the instruction does not speak of it.
    derived: what an editor worked out; it goes into the record. seconds: what that took, by name, likewise.
    """

    bundle: Bundle
    request: EditRequest
    knobs: K
    shape: tuple[int, int, int, int]
    source_BCHW: Tensor | None = None
    mask_HW: Tensor | None = None
    shown: dict[str, Tensor] = field(default_factory=dict)
    examples: tuple[Tensor, ...] = ()
    unfinished: File | None = None
    large_BCHW: Tensor | None = None
    remarks: list[str] = field(default_factory=list)
    picture: Picture | None = None
    derived: dict[str, JsonValue] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    media: Mapping[str, Picture | Sound] = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule | FlowSchedule:
        return schedule_of(self.bundle)

    @property
    def diffusion(self) -> Schedule:
        """The schedule of a bundle with a UNet: for editors that need one, and whose steps are not DDIM's."""
        from paintover.path.schedule import Schedule

        return Schedule.from_config(self.bundle.scheduler_config)

    @property
    def device(self) -> torch.device:
        return self.bundle.denoiser.device

    @property
    def steps(self) -> int:
        assert self.request.steps is not None, "requests are resolved before an editor sees them"
        return self.request.steps

    @property
    def source(self) -> Tensor:
        assert self.source_BCHW is not None, "asked of an edit without a picture"
        return self.source_BCHW

    def late_start(self, strength: float) -> tuple[Tensor, list[Step]]:
        """Where SDEdit's late start begins, by the noise of the request's seed, and the steps from there on."""
        from paintover.path.start import late, noise

        steps = self.schedule.steps(self.steps, start=strength)
        eps = noise(self.request.seed, self.shape, self.device)
        return late(self.source, eps, steps, strength), steps


def schedule_of(bundle: Bundle) -> Schedule | FlowSchedule:
    """The schedule that the bundle's model walks."""
    from paintover.path.flow import FlowSchedule
    from paintover.path.schedule import Schedule

    kind = FlowSchedule if "flow" in bundle.capabilities else Schedule
    return kind.from_config(bundle.scheduler_config)


class Editor(ABC, Generic[K]):
    """A named system: a short recipe of start, condition, steering and weights.

    `needs` are the capabilities that a bundle must have. `picture` says whether it edits one ("needed"), makes one ("never"),
    edits one that is given or made from the source prompt ("either"), or edits one where one is given and otherwise makes one
    ("optional"). `takes_references`: its instruction may speak of pictures and sounds by name, "put [image2] on [image1]".
    `steps` is the default count of denoising steps; a
    bundle's own recommendation goes before it, and the request's before both. `told` is what it takes the request's words
    for: an instruction (what should change), a caption (of the picture that is wanted), or nothing (it takes none). `confined`:
    nothing may change outside of the mask that it shows. `swept`: the knobs, and their values, that `paintover sweep` varies
    unless others are named. `hidden`: it serves a command of its own, and is not among those that one chooses from.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    steps: ClassVar[int] = 50
    told: ClassVar[Literal["instruction", "caption", "nothing"]] = "instruction"
    confined: ClassVar[bool] = False
    hidden: ClassVar[bool] = False
    picture: ClassVar[Literal["needed", "either", "never", "optional"]] = "needed"
    takes_source_prompt: ClassVar[bool] = False
    takes_references: ClassVar[bool] = False
    swept: ClassVar[dict[str, tuple[int, ...]]] = {}
    Knobs: type[K]

    @property
    def prepared_by(self) -> str:
        """Whose preparation it is: editors that prepare the same things alike say the same, and share them in the cache."""
        return self.name

    def settled(self, knobs: K, bundle: Bundle) -> K:
        """The knobs with nothing left open: what stands for a value that depends on the model, or on another knob."""
        return knobs

    def check(self, context: Context[K]) -> None:
        """Raises KnobError for knobs that do not go together or with the steps; called before anything is computed."""
        return

    def shows(self, words: str) -> list[str]:
        """Names of the masks that an edit told these words may show. Raises RequestError for words that it cannot read."""
        return ["mask"]

    def base(self, bundle: Bundle, request: EditRequest, media: Mapping[str, Picture | Sound]) -> str | None:
        """Which of the media's pictures is edited; None: none, one is made. Usually the one that was given to be edited.

        Asked of an editor that takes references, before anything is encoded, where the words leave a choice: there are several
        pictures, and no mask, which fixes it to the one that was given. `request` is resolved: `picture_sha256` is that one's.
        """
        given = request.picture_sha256
        return next((name for name, medium in media.items() if is_picture(name) and medium.sha256 == given), None)

    def caption(self, context: Context[K]) -> str:
        """The picture that is wanted, in words: what a cascade's second stage is told."""
        return context.request.instruction

    def notes(self, context: Context[K]) -> list[str]:
        """What is no error but may surprise: words that the model does not read to their end, or that have no effect."""
        knobs, text = context.knobs.model_dump(), context.bundle.text
        unwanted = knobs.get("negative_prompt")
        request = context.request
        said = {self.told: request.instruction, "source prompt": request.source_prompt, "negative prompt": unwanted}
        notes = [
            f"the {name} has more than the {text.length} tokens that the model reads; its end has no effect"
            for name, words in said.items()
            if words and text.cuts(words)
        ]
        if unwanted and knobs.get("guidance") == 1:
            notes.append("the negative prompt has no effect at guidance 1; use more (or less) guidance")
        return [*notes, *context.remarks]

    def prepared_from(self, context: Context[K]) -> dict[str, JsonValue] | None:
        """What `prepare` depends on beyond picture and model: the rest of the cache's key. None: nothing to prepare."""
        return None

    def prepare(self, context: Context[K]) -> Preparation:
        """A path to what depends on the picture alone (inversion, tuning): named tensors, kept between edits."""
        yield from ()
        return {}

    def prepare_together(self, contexts: Sequence[Context[K]]) -> list[dict[str, Tensor]] | None:
        """What `prepare` makes of each, made at once, where that is quicker. None: one by one.

        The contexts are of one bundle, and of editors that share `prepared_by`.
        """
        return None

    @abstractmethod
    def path(self, context: Context[K], prepared: dict[str, Tensor]) -> Path:
        """The generator of denoiser calls that makes the edited latents (1, C, H, W)."""

    def card(self) -> dict[str, Any]:
        """The editor as JSON, for `paintover editors --json` and other surfaces."""
        return {
            "name": self.name,
            "summary": self.summary,
            "paper": self.paper,
            "needs": list(self.needs),
            "steps": self.steps,
            "knobs": self.Knobs.model_json_schema(),
        }
