"""`ledits` is diffusers' LEdits++ on the same small random weights and noise, and keeps what no mask covers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, LEditsPPPipelineStableDiffusion, UNet2DConditionModel
from diffusers.pipelines.ledits_pp import pipeline_leditspp_stable_diffusion as theirs_module
from torch import Tensor

from paintover.conditions.prompt import prompts
from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.engine import Engine
from paintover.errors import KnobError, RequestError
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.orders.order import request_for
from paintover.path.dpm import SecondOrder, dpm_steps
from paintover.path.guidance import classifier_free
from paintover.path.inversion.edit_friendly import through
from paintover.path.start import noise

PICTURE = torch.rand((1, 3, 128, 128), generator=torch.Generator().manual_seed(5))
SEED = 11


class Theirs(LEditsPPPipelineStableDiffusion):
    """Diffusers' pipeline, told how many tokens a text has.

    It asks its tokenizer, whose fast kind (there is no other any more) counts the padding too, so that the attention to all 75
    places counts as attention to the words.
    """

    def encode_prompt(self, *args: Any, **named: Any) -> Any:
        texts, null, counted = super().encode_prompt(*args, **named)
        words = named.get("editing_prompt")
        if counted is not None and words:
            assert counted.unique().tolist() == [75]
            counted = [len(self.tokenizer(text)["input_ids"]) - 2 for text in words]
        return texts, null, counted


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Theirs, Bundle]:
    """A network with cross-attention on grids of all, half and a quarter of 16 x 16 latents."""
    folder = tiny(tmp_path_factory.mktemp("three"), kind="text-to-image")
    torch.manual_seed(2)
    UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 32, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=32,
    ).save_pretrained(folder / "unet")
    pipe = Theirs.from_pretrained(folder, scheduler=scheduler(), safety_checker=None, feature_extractor=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe, load(folder, device="cpu")


def scheduler(**config: Any) -> DPMSolverMultistepScheduler:
    """As the paper's: it walks to the cleanest level the network knows; and of second order in short walks too."""
    return DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        steps_offset=1,
        **{"final_sigmas_type": "sigma_min", "lower_order_final": False, **config},
    )


def context_of(bundle: Bundle, words: str, steps: int, source_prompt: str | None = None, **knobs: Any) -> Context:
    editor = registry.get("ledits")
    request = request_for(instruction=words, source_prompt=source_prompt, editor="ledits", seed=SEED, steps=steps)
    source = bundle.codec.encode(PICTURE * 2 - 1)
    context = Context(bundle, request, editor.Knobs(**knobs), tuple(source.shape), source)
    editor.check(context)
    return context


def walked(context: Context) -> tuple[Tensor, dict[str, Tensor], int]:
    """Our edit's latents, what was prepared for it, and the evaluations of the edit alone."""
    editor, engine = registry.get("ledits"), Engine(context.bundle.denoiser)
    prepared = engine.result(engine.add(editor.prepare(context)))
    before = engine.counters.rows
    return engine.result(engine.add(editor.path(context, prepared))), prepared, engine.counters.rows - before


def invert(pipe: Theirs, monkeypatch, steps: int, skip: float, source_prompt: str = "", **config: Any) -> None:
    """Their inversion, with our noise: one for each step, of which they draw the cleanest step's first."""
    drawn = iter(reversed(noise(SEED, (steps, 4, 16, 16)).split(1)))
    pipe.scheduler = scheduler(**config)
    with monkeypatch.context() as patch:
        patch.setattr(theirs_module, "randn_tensor", lambda **_: next(drawn))
        pipe.invert(PICTURE, num_inversion_steps=steps, skip=skip, source_prompt=source_prompt)


MASKS = {
    "noise": {"use_cross_attn_mask": False, "use_intersect_mask": False},
    "attention": {"use_cross_attn_mask": True, "use_intersect_mask": False},
    "both": {"use_cross_attn_mask": True, "use_intersect_mask": True},
}


@pytest.mark.parametrize(
    ("mask_from", "words", "knobs", "asked"),
    [
        ("noise", "a hat", {"scale": 7.0, "threshold": 0.8}, {"edit_guidance_scale": 7.0, "edit_threshold": 0.8}),
        ("attention", "a hat", {"threshold": 0.7}, {"edit_threshold": 0.7}),
        ("both", "a hat", {"threshold": 0.6}, {"edit_threshold": 0.6}),
        ("both", "-a hat", {}, {"reverse_editing_direction": True}),
        (
            "both",
            "a hat (scale=3, threshold=0.5); -the old glasses (scale=9)",
            {},
            {"edit_guidance_scale": [3.0, 9.0], "edit_threshold": [0.5, 0.9], "reverse_editing_direction": [False, True]},
        ),
        (
            "noise",
            "a hat (warm-up=10); a cow (cool-down=20)",
            {"threshold": 0.5},
            {"edit_threshold": 0.5, "edit_warmup_steps": [2, 0], "edit_cooldown_steps": [10, 4]},
        ),
    ],
)
def test_equals_diffusers(models, monkeypatch, mask_from, words, knobs, asked):
    pipe, bundle = models
    steps, skip = 10, 0.2
    context = context_of(bundle, words, steps, skip=skip, mask_from=mask_from, **knobs)
    latents, prepared, _ = walked(context)
    invert(pipe, monkeypatch, steps, skip)
    texts = [edit.partition("(")[0].strip().removeprefix("-") for edit in words.split(";")]
    expected = pipe(editing_prompt=texts, output_type="latent", **MASKS[mask_from], **asked).images
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-3)
    assert (latents - prepared["x_SCHW"][-1:]).abs().max() > 0.05  # the edit does something


def test_the_inversion_is_theirs_and_its_walk_the_pictures(models, monkeypatch):
    """With a source prompt, they invert under guidance and then walk without: the walk leaves the picture. Ours does not.

    (They also take the words for no words there, and no words for the words, so that the guidance leads away from them.)
    Nor does ours where theirs leaves it without any words: with their scheduler's defaults, the last step goes to the clean
    latents that the network foresees, and short walks end with a step of another order than they were inverted with.
    """
    pipe, bundle = models
    context = context_of(bundle, "a hat", 6, "a field", skip=0.2, scale=0.0)
    latents, _, evaluations = walked(context)
    torch.testing.assert_close(latents, context.source, rtol=0, atol=1e-4)
    assert evaluations == 2 * 6  # the source prompt and "" at each step; an edit of no strength is not asked about
    invert(pipe, monkeypatch, 6, 0.2, "a field")
    steps = dpm_steps(context.schedule, 6, 0.2)
    theirs = torch.cat([z * step.sigma for z, step in zip(pipe.zs, steps, strict=True)])
    swapped = classifier_free(*prompts(bundle.text, ["", "a field"]), 3.5)
    ours = Engine(bundle.denoiser)
    source = ours.result(ours.add(through(context.source, steps, SecondOrder(swapped), SEED)))
    torch.testing.assert_close(torch.cat(source.added), theirs, rtol=0, atol=1e-3)
    for source_prompt, config in (("a field", {}), ("", {"final_sigmas_type": "zero", "lower_order_final": True})):
        invert(pipe, monkeypatch, 6, 0.2, source_prompt, **config)
        asked = {"edit_guidance_scale": 0.0, "output_type": "latent", **MASKS["noise"]}
        left = (pipe(editing_prompt=["a hat"], **asked).images - context.source).abs().max()
        assert left > 0.05


def test_what_is_not_at_work_is_not_asked_about(models):
    _, bundle = models
    _, _, evaluations = walked(context_of(bundle, "a hat (warm_up=25); a cow (cool_down=10)", 10))
    assert evaluations == 10 + 5 + 2


def test_masks_are_shown_and_the_users_is_kept_to(models):
    _, bundle = models
    mine = torch.zeros(16, 16)
    mine[:5] = 1
    context = replace(context_of(bundle, "a hat; -a cow", 4, threshold=0.5), mask_HW=mine)
    walked(context)
    assert set(context.shown) == {"mask", "mask 1", "mask 2"}
    for mask in context.shown.values():
        assert mask.shape == (16, 16)
        assert 0 < mask[:5].mean() < 1
        assert mask[5:].max() == 0


def test_another_edit_of_a_picture_finds_its_inversion(models):
    _, bundle = models
    editor = registry.get("ledits")
    depends = [editor.prepared_from(context_of(bundle, words, 4, scale=s)) for words, s in (("a hat", 5.0), ("-a cow", 3.0))]
    assert depends[0] == depends[1] != editor.prepared_from(context_of(bundle, "a hat", 4, skip=0.3))


@pytest.mark.parametrize(
    ("words", "steps", "knobs", "error", "says"),
    [
        ("a hat (warm_up=40, cool_down=20)", 10, {}, KnobError, "'a hat' sets in after 8 of 10 steps and ends at 4"),
        ("a hat", 2, {"cool_down": 10}, KnobError, "cool_down 10 of 50 steps is less than half a step of 2; ask for 3"),
        ("a hat", 900, {"skip": 0.5}, KnobError, "use fewer steps"),
        ("a hat (size=3)", 10, {}, RequestError, "no setting 'size'"),
    ],
)
def test_edits_that_cannot_be(models, words, steps, knobs, error, says):
    with pytest.raises(error, match=says):
        context_of(models[1], words, steps, **knobs)
