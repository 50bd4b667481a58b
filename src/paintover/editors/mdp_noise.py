"""`mdp-noise`: follow the picture's own path for a while, then the words (MDP on the predicted noise)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, JsonValue

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.path.predict import Path


class MDPNoiseKnobs(Knobs):
    guidance: float = Field(7.5, ge=-50, le=50, description="how strongly the caption is followed (1: no guidance)")
    t_max: int = Field(47, ge=0, le=50, description="when the window opens: steps that remain, of 50 (less: larger change)")
    t_m: int = Field(26, ge=0, le=50, description="how long the window is, of 50 steps (more: closer to the picture)")
    schedule: Literal["constant", "linear", "cosine", "exponential"] = Field(
        "constant", description="how the picture's share falls within the window"
    )
    amplify: float = Field(1.0, ge=0, le=4, description="multiplies the picture's own noise inside the window")


class MDPNoise(Editor[MDPNoiseKnobs]):
    """From the inverted picture, told a caption, borrowing the source path's noise inside a window of steps.

    Wang et al. 2023; methods.md F.2, F.3. The source prompt is used in the inversion and in the source pass alike, both
    without guidance, which is what DDIM inversion undoes. They do not depend on the caption: prepared once a picture.
    """

    name = "mdp-noise"
    summary = "Describe the picture you want; the layout follows the source. Helped by --source-prompt."
    paper = "MDP (Wang et al. 2023), on DDIM inversion (Song et al. 2021)"
    needs = "text-to-image"
    steps = 50
    told = "caption"
    takes_source_prompt = True
    Knobs = MDPNoiseKnobs

    def check(self, context: Context[MDPNoiseKnobs]) -> None:
        self._weights(context)

    def prepared_from(self, context: Context[MDPNoiseKnobs]) -> dict[str, JsonValue]:
        return {"steps": context.steps, "source_prompt": context.request.source_prompt or ""}

    def prepare(self, context: Context[MDPNoiseKnobs]) -> dict[str, Tensor]:
        """x_T_BCHW, the inverted picture, and eps_SCHW, the noise of the source path at each of S steps."""
        import torch

        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import plain
        from paintover.path.walk import Record, invert, walk

        [source] = prompts(context.bundle.text, [context.request.source_prompt or ""])
        steps = context.schedule.steps(context.steps)
        x_T = context.run(invert(context.source, steps, plain(source)))
        record = Record()
        context.run(walk(x_T, steps, plain(source), record))
        return {"x_T_BCHW": x_T, "eps_SCHW": torch.cat(record.eps)}

    def path(self, context: Context[MDPNoiseKnobs], prepared: dict[str, Tensor]) -> Path:
        from paintover.conditions.prompt import prompts
        from paintover.path.guidance import classifier_free
        from paintover.path.mdp import mdp_noise
        from paintover.path.walk import Record

        wanted, null = prompts(context.bundle.text, [context.request.instruction, ""])
        return mdp_noise(
            prepared["x_T_BCHW"],
            context.schedule.steps(context.steps),
            classifier_free(wanted, null, context.knobs.guidance),
            Record(eps=list(prepared["eps_SCHW"].split(1))),
            self._weights(context),
            context.knobs.amplify,
        )

    def _weights(self, context: Context[MDPNoiseKnobs]) -> list[float]:
        from paintover.path.mdp import scaled, weights

        t_max, length = scaled(context.knobs.t_max, context.knobs.t_m, context.steps)
        return weights(context.steps, t_max, length, context.knobs.schedule)
