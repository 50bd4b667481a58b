"""`flowedit`: from the picture straight to its edit, without inversion (FlowEdit)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs
from paintover.editors.window import in_steps
from paintover.errors import KnobError

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Path


class FlowEditKnobs(Knobs):
    guidance: float = Field(13.5, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    source_guidance: float = Field(3.5, ge=-50, le=50, description="how strongly the source prompt is followed away from")
    negative_prompt: str = Field("", max_length=2000, description="what to steer away from")
    n_max: int = Field(33, ge=0, le=50, description="how many of 50 steps are walked (more: larger change)")
    n_min: int = Field(0, ge=0, le=50, description="how many of 50 steps, the last, sample the caption freely")
    n_avg: int = Field(1, ge=1, le=10, description="over how many noises each step is averaged (more: smoother, slower)")


class FlowEdit(Editor[FlowEditKnobs]):
    """From the picture, told both captions, steered by the difference of the velocities under them (Kulikov et al. 2024)."""

    name = "flowedit"
    summary = "Describe the picture you want; no inversion. Helped by --source-prompt."
    paper = "FlowEdit (Kulikov et al. 2024)"
    needs = ("text-to-image",)
    steps = 50
    told = "caption"
    takes_source_prompt = True
    Knobs = FlowEditKnobs

    def check(self, context: Context[FlowEditKnobs]) -> None:
        self._window(context)

    def path(self, context: Context[FlowEditKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.flow import Velocity, as_flow
        from paintover.path.flowedit import Difference, flowedit
        from paintover.path.guidance import classifier_free
        from paintover.path.start import noises

        request, knobs = context.request, context.knobs
        n_max, n_min = self._window(context)
        texts = [request.source_prompt or "", request.instruction, "", knobs.negative_prompt]
        source, wanted, nothing, unwanted = prompts(context.bundle.text, texts)
        edit = Difference(
            context.source,
            Velocity(classifier_free(source, nothing, knobs.source_guidance)),
            Velocity(classifier_free(wanted, unwanted, knobs.guidance)),
            noises(request.seed, context.shape, context.device),
            knobs.n_avg,
            context.mask_HW,
        )
        steps = as_flow(context.schedule.steps(context.steps))
        return flowedit(edit, steps[len(steps) - n_max :], n_min)

    def _window(self, context: Context[FlowEditKnobs]) -> tuple[int, int]:
        knobs = context.knobs
        if knobs.n_min > knobs.n_max:
            raise KnobError(f"n_min {knobs.n_min} is more than n_max {knobs.n_max}; it counts the last of the same steps")
        if not knobs.n_max:
            raise KnobError("n_max 0 walks no steps, which would change nothing; use 1 or more")
        n_max, n_min = (in_steps(name, getattr(knobs, name), 50, context.steps) for name in ("n_max", "n_min"))
        return n_max, n_min
