"""Editor: what a named system must say for itself. `prepare` depends on the picture, `path` on the words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import JsonValue

from paintover.editors.knobs import Knobs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from paintover.models.bundle import Bundle
    from paintover.path.predict import Path
    from paintover.path.report import Report
    from paintover.path.schedule import Schedule
    from paintover.request import EditRequest

K = TypeVar("K", bound=Knobs)


@dataclass(slots=True)
class Spent:
    """Denoiser evaluations made for one edit so far, over all its passes."""

    evaluations: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Context(Generic[K]):
    """What an editor works with.

    request: resolved: `steps`, every knob and the model's fingerprint are filled in.
    shape:   of the latents, (1, C, H, W).
    source_BCHW: the picture's scaled latents, B = 1; None when the picture is made from words alone.
    """

    bundle: Bundle
    request: EditRequest
    knobs: K
    shape: tuple[int, int, int, int]
    source_BCHW: Tensor | None = None
    on_step: Callable[[Report], None] | None = None
    cancelled: Callable[[], bool] | None = None
    spent: Spent = field(default_factory=Spent)

    @property
    def schedule(self) -> Schedule:
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
        assert self.source_BCHW is not None, "only editors with from_picture=False run without a picture"
        return self.source_BCHW

    def run(self, path: Path) -> Tensor:
        """Runs a path of the preparation, with the edit's own progress and cancellation, and returns its latents."""
        from paintover.engine.engine import Engine

        engine = Engine(self.bundle.denoiser)
        job = engine.add(path, self.on_step, self.cancelled)
        try:
            return engine.result(job)
        finally:
            self.spent.evaluations += job.rows


class Editor(ABC, Generic[K]):
    """A named system: a short recipe of start, condition, steering and weights.

    `needs` is the capability that a bundle must have. `steps` is the default count of denoising steps; a bundle's own
    recommendation goes before it, and the request's before both. `told` is what it takes the request's words for: an
    instruction (what should change) or a caption (of the picture that is wanted).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[str]
    steps: ClassVar[int] = 50
    told: ClassVar[Literal["instruction", "caption"]] = "instruction"
    from_picture: ClassVar[bool] = True
    takes_source_prompt: ClassVar[bool] = False
    Knobs: type[K]

    def check(self, context: Context[K]) -> None:
        """Raises KnobError for knobs that do not go together or with the steps; called before anything is computed."""
        return

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
        return notes

    def prepared_from(self, context: Context[K]) -> dict[str, JsonValue] | None:
        """What `prepare` depends on beyond picture and model: the rest of the cache's key. None: nothing to prepare."""
        return None

    def prepare(self, context: Context[K]) -> dict[str, Tensor]:
        """What depends on the picture alone (inversion, tuning); kept in the cache between edits."""
        return {}

    @abstractmethod
    def path(self, context: Context[K], prepared: dict[str, Tensor]) -> Path:
        """The generator of denoiser calls that makes the edited latents (1, C, H, W)."""

    def card(self) -> dict[str, Any]:
        """The editor as JSON, for `paintover editors --json` and other surfaces."""
        return {
            "name": self.name,
            "summary": self.summary,
            "paper": self.paper,
            "needs": self.needs,
            "steps": self.steps,
            "knobs": self.Knobs.model_json_schema(),
        }
