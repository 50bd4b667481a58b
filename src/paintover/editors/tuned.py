"""What the editors share that bend weights to the picture first: the tuning's knobs, its place in the cache, the tuned walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field, JsonValue

from paintover.editors.editor import Context, Editor
from paintover.editors.knobs import Knobs

if TYPE_CHECKING:
    from torch import Tensor

    from paintover.models.denoiser import Denoiser
    from paintover.path.predict import Condition, Preparation
    from paintover.tuning.unfinished import Unfinished


class TuningKnobs(Knobs):
    """Knobs of the tuning itself: another value of one of these is another tuning."""

    tune: Literal["full", "lora"] = Field(
        "full", examples=["lora"], description="what is tuned: every weight, or low-rank additions of a few MB"
    )
    rank: int = Field(8, ge=1, le=256, examples=[2, 1], description="lora: rank of the additions")
    rate: float | None = Field(None, ge=1e-8, le=1, examples=[0.01], description="learning rate (default: by the model)")


K = TypeVar("K", bound=Knobs)


class Tuned(Editor[K]):
    """An editor whose walk is made by weights that were bent to one picture, or a few.

    `Tuning` is the part of `Knobs` that the tuning depends on; the others, the words and the seed may differ from edit to
    edit without tuning anew. Its preparation is the tuning: `prepare` returns what was learnt, as `tuning.weights` names it.
    `several`: it learns from several pictures (Context.examples). `bound`: what it edits must be the picture that it was tuned
    on. `captioned`: what it learns depends on the caption, too.
    """

    needs: ClassVar[tuple[str, ...]] = ("text-to-image", "unet")
    told: ClassVar[Literal["instruction", "caption", "nothing"]] = "caption"
    Tuning: ClassVar[type[Knobs]]
    several: ClassVar[bool] = False
    bound: ClassVar[bool] = True
    captioned: ClassVar[bool] = False

    def prepared_from(self, context: Context[K]) -> dict[str, JsonValue]:
        knobs = context.knobs.model_dump(mode="json")
        depends = {name: knobs[name] for name in self.Tuning.model_fields}
        if depends.get("tune") == "full":
            depends.pop("rank")  # of a LoRA alone
        return depends

    def word(self, context: Context[K]) -> str:
        """What stands for the learnt thing in a caption: "ktn", "ktn dog"; "" where no word does."""
        return ""

    def both_stages(
        self, context: Context[K], first: dict[str, Tensor], told: Condition, unfinished: Unfinished
    ) -> Preparation:
        """The end of a preparation: what the first stage learnt, and of a cascade what its second stage learns then.

        That is tuned on the one picture, told `told`. What is interrupted there finds `first` in `unfinished`.
        """
        from paintover.tuning import upscaler

        if context.bundle.upscaler is None or context.large_BCHW is None:
            return first
        unfinished.carry(first)
        knobs: Any = context.knobs
        second = upscaler.tuned(
            context.bundle.upscaler,
            context.source,
            context.large_BCHW,
            told,
            kind=knobs.tune,
            rank=knobs.rank,
            rate=knobs.rate,
            iterations=knobs.iterations,
            batch=knobs.batch,
            unfinished=unfinished,
        )
        return first | (yield from second)

    def network(self, context: Context[K], prepared: dict[str, Tensor], share: float = 1.0) -> Denoiser:
        """The bundle's denoiser with the tuned weights in their places, or weights a share of the way there."""
        from paintover.tuning.apply import network

        denoiser: Any = context.bundle.denoiser  # `needs` says that it is a UNet's
        return network(denoiser, prepared, share)
