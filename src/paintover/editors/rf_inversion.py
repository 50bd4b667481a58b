"""`rf-inversion`: up to noise that keeps the picture's structure, and down again held to the picture for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, JsonValue

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs
from paintover.editors.window import in_steps
from paintover.errors import KnobError

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.flow import FlowStep
    from paintover.path.predict import Path, Preparation

PAPER_STEPS = 28


class RFInversionKnobs(Knobs):
    guidance: float = Field(3.5, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")
    gamma: float = Field(0.5, ge=0, le=1, description="how far the way up is drawn to plain noise (0: the picture's own)")
    eta: float = Field(0.9, ge=0, le=1, description="how strongly the way down is held to the picture (1: wholly)")
    start: int = Field(0, ge=0, le=28, description="step, of 28, at which it begins to be held to the picture")
    stop: int = Field(7, ge=0, le=28, description="step, of 28, at which it is let go (more: closer to the picture)")
    decay: float = Field(0.0, ge=0, le=10, description="how fast the hold fades between start and stop (0: not; 1: evenly)")


class RFInversion(Editor[RFInversionKnobs]):
    """From noise with the picture's structure, told a caption, held to the picture inside a window (Rout et al. 2024)."""

    name = "rf-inversion"
    summary = "Describe the picture you want; layout and colours follow the source. May be helped by --source-prompt."
    paper = "RF-Inversion (Rout et al. 2024)"
    needs = ("text-to-image",)
    steps = PAPER_STEPS
    told = "caption"
    takes_source_prompt = True
    Knobs = RFInversionKnobs

    def check(self, context: Context[RFInversionKnobs]) -> None:
        self._etas(context)

    def prepared_from(self, context: Context[RFInversionKnobs]) -> dict[str, JsonValue]:
        request, gamma = context.request, context.knobs.gamma
        depends: dict[str, JsonValue] = {"steps": context.steps, "gamma": gamma}
        # Where gamma is 1 no words are asked for, where it is 0 no noise is drawn.
        words: dict[str, JsonValue] = {"source_prompt": request.source_prompt or ""} if gamma < 1 else {}
        return depends | words | ({"seed": request.seed} if gamma else {})

    def prepare(self, context: Context[RFInversionKnobs]) -> Preparation:
        from paintover.conditions.prompt import prompts
        from paintover.path.flow import Velocity
        from paintover.path.guidance import plain
        from paintover.path.rf_inversion import Drawn
        from paintover.path.start import noise
        from paintover.path.walk import invert

        request, gamma = context.request, context.knobs.gamma
        [source] = prompts(context.bundle.text, [request.source_prompt or ""])
        x_T = noise(request.seed, context.shape, context.device)
        up = Drawn(Velocity(plain(source)), x_T, 1.0, [gamma] * context.steps)
        return {"x_BCHW": (yield from invert(context.source, self._steps(context), up))}

    def path(self, context: Context[RFInversionKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.flow import Velocity
        from paintover.path.guidance import classifier_free
        from paintover.path.rf_inversion import Drawn
        from paintover.path.walk import walk

        knobs = context.knobs
        wanted, unwanted = prompts(context.bundle.text, [context.request.instruction, knobs.negative_prompt])
        guide = Velocity(classifier_free(wanted, unwanted, knobs.guidance))
        down = Drawn(guide, context.source, 0.0, self._etas(context), context.mask_HW)
        return walk(prepared["x_BCHW"], self._steps(context), down)

    def _steps(self, context: Context[RFInversionKnobs]) -> list[FlowStep]:
        from paintover.path.flow import as_flow

        return as_flow(context.schedule.steps(context.steps))

    def _etas(self, context: Context[RFInversionKnobs]) -> list[float]:
        from paintover.path.rf_inversion import etas

        knobs, steps = context.knobs, context.steps
        if knobs.start > knobs.stop:
            raise KnobError(f"start {knobs.start} comes after stop {knobs.stop}; the hold must begin before it ends")
        start, stop = (in_steps(name, getattr(knobs, name), PAPER_STEPS, steps) for name in ("start", "stop"))
        if knobs.start < knobs.stop and start == stop:
            raise KnobError(
                f"start {knobs.start} and stop {knobs.stop} of {PAPER_STEPS} are the same step of {steps}; ask for more steps"
            )
        return etas(knobs.eta, start, stop, steps, knobs.decay)
