"""Editors that look at the source's attention, against the published algorithms transcribed as plain loops.

The loops run diffusers' own network and scheduler on a batch of the source's and the edit's rows, with a processor of their
own in each attention, as the released code does. The network has Stable Diffusion's sixteen attentions, in small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from paintover.conditions.prompt import prompts
from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.engine import Engine, run
from paintover.errors import KnobError
from paintover.models.bundle import load
from paintover.models.denoiser import Denoiser
from paintover.models.tapping import coarsest
from paintover.models.tiny import tiny
from paintover.orders.order import request_for
from paintover.path.attention import WordMap, most_pixels
from paintover.path.plug_and_play import KeepLayout
from paintover.path.predict import Predict
from paintover.path.prompt_to_prompt import KeepMaps
from paintover.path.schedule import Schedule
from paintover.path.walk import Record, walk

STEPS, SHAPE, GUIDANCE, SEED = 10, (1, 4, 8, 8), 5.0, 3
SOURCE, SWAPPED, REFINED = "a cow", "a pig", "a cow in snow"
PUBLISHED = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    whole = load(tiny(tmp_path_factory.mktemp("attention"), "text-to-image"), "cpu")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=32,
    )
    for name, weight in unet.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            weight.data *= 5  # random networks attend to everything alike: nobody would notice other maps
    unet.eval().requires_grad_(False)
    return replace(whole, denoiser=Denoiser(unet, "epsilon", whole.denoiser.alphas_cumprod))


def edit(bundle, name: str, words: str, source: str = SOURCE, picture: Tensor | None = None, steps: int = STEPS, **knobs):
    """Latents of the edit, of the source, what was shown, and the evaluations spent on the edit."""
    editor = registry.get(name)
    request = request_for(instruction=words, source_prompt=source, editor=name, seed=SEED, steps=steps)
    shape = SHAPE if picture is None else tuple(picture.shape)
    context = Context(bundle, request, editor.Knobs(**{"guidance": GUIDANCE, **knobs}), shape, picture)
    editor.check(context)
    engine = Engine(bundle.denoiser)
    prepared = engine.result(engine.add(editor.prepare(context)))
    before = engine.counters.rows
    end = engine.result(engine.add(editor.path(context, prepared)))
    return end, prepared["x_SCHW"][-1:], context.shown, engine.counters.rows - before


def plain(bundle, words: str, guidance: float = GUIDANCE, steps: int = STEPS) -> Tensor:
    from paintover.path.guidance import classifier_free

    wanted, null = prompts(bundle.text, [words, ""])
    x_T = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED))
    engine = Engine(bundle.denoiser)
    way = Schedule.from_config(bundle.scheduler_config).steps(steps)
    return engine.result(engine.add(walk(x_T, way, classifier_free(wanted, null, guidance), Record())))


class Published:
    """The processor of the released code: q, k, v and maps of the whole batch go through `change`."""

    def __init__(self, change: Callable, number: int) -> None:
        self.change, self.number = change, number

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        cross = encoder_hidden_states is not None
        context = encoder_hidden_states if cross else hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        out = self.change(q, k, v, attn.scale, cross, self.number, attn.heads)
        return attn.to_out[0](attn.batch_to_head_dim(out))


class Loop:
    """The batched loop: rows (uncond source, uncond edit, cond source, cond edit), one DDIM scheduler for both latents."""

    def __init__(self, bundle, words: str, change: Callable, after: Callable | None = None) -> None:
        self.unet = UNet2DConditionModel.from_config(bundle.denoiser.unet.config)
        self.unet.load_state_dict(bundle.denoiser.unet.state_dict())
        self.unet.eval().requires_grad_(False)
        self.bundle, self.words, self.after, self.step = bundle, words, after, 0
        names = list(self.unet.attn_processors)
        order = [n for part in ("down", "mid", "up") for n in names if n.startswith(part)]
        self.unet.set_attn_processor({name: Published(change, order.index(name) // 2) for name in names})

    def run(self) -> Tensor:
        states = [c.tokens_BLD for c in prompts(self.bundle.text, ["", "", SOURCE, self.words])]
        scheduler = DDIMScheduler.from_config(dict(self.bundle.scheduler_config))
        scheduler.set_timesteps(STEPS)
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED)).repeat(2, 1, 1, 1)
        for self.step, t in enumerate(scheduler.timesteps):
            with torch.no_grad():
                null, told = self.unet(torch.cat([x, x]), t, torch.cat(states)).sample.chunk(2)
            x = scheduler.step(null + GUIDANCE * (told - null), t, x).prev_sample
            if self.after is not None:
                x = self.after(x)
        return x


def attend(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return (torch.einsum("bid,bjd->bij", q, k) * scale).softmax(-1)


class AttentionControl:
    """Prompt-to-Prompt's notebook: AttentionReplace / Refine / Reweight, and LocalBlend, as one class with literal mappers."""

    def __init__(self, mapper: Tensor, alphas: Tensor, equalizer: Tensor, cross: int, layout: int, blend=None) -> None:
        self.mapper, self.alphas, self.equalizer = mapper, alphas, equalizer
        self.cross, self.layout, self.blend = cross, layout, blend
        self.loop: Loop
        self.sums: dict[int, Tensor] = {}

    def change(self, q, k, v, scale, cross, number, heads):
        attn = attend(q, k, scale)
        told = attn[2 * heads :].reshape(2, heads, *attn.shape[1:]).clone()
        base = told[0]
        if cross and self.loop.step < self.cross:
            new = torch.einsum("hpw,wn->hpn", base, self.mapper) * self.alphas + told[1] * (1 - self.alphas)
            told[1] = new * self.equalizer
        if not cross and self.loop.step < self.layout and attn.shape[2] <= 16**2:
            told[1] = base
        if cross and attn.shape[1] == 64:
            self.sums[number] = self.sums.get(number, 0) + told
        attn = torch.cat([attn[: 2 * heads], told.reshape(2 * heads, *attn.shape[1:])])
        return attn @ v

    def local_blend(self, x: Tensor) -> Tensor:
        maps = torch.cat([m.reshape(2, -1, 1, 8, 8, 77) for m in self.sums.values()], dim=1)
        maps = (maps * self.blend[0].reshape(2, 1, 1, 1, 1, 77)).sum(-1).mean(1)
        mask = functional.max_pool2d(maps, (3, 3), (1, 1), padding=(1, 1))
        mask = functional.interpolate(mask, size=x.shape[2:])
        mask = mask / mask.max(2, keepdims=True)[0].max(3, keepdims=True)[0]
        mask = mask.gt(self.blend[1])
        self.mask = (mask[:1] + mask[1:]).float()
        return x[:1] + self.mask * (x - x[:1])


def one_token_a_letter(text: str, word: str) -> list[int]:
    """The tiny tokenizer has a token for each letter; the first is the start mark."""
    at = text.replace(" ", "").index(word)
    return list(range(1 + at, 1 + at + len(word)))


@pytest.mark.parametrize(
    ("words", "knobs", "cost"),
    [
        (SWAPPED, {}, 3 * 8 + 2 * 2),
        (SWAPPED, {"cross_steps": 0.3, "self_steps": 0.6}, 3 * 6 + 2 * 4),
        (SWAPPED, {"reweight": "pig=2.5, a=0.3"}, 3 * 8 + 2 * 2),
        (REFINED, {}, 3 * 8 + 2 * 2),
        (REFINED, {"reweight": "snow=3"}, 3 * 8 + 2 * 2),
        (SWAPPED, {"blend": "cow/pig", "threshold": 0.6}, 3 * 10),
        (REFINED, {"blend": "cow", "threshold": 0.8, "cross_steps": 0.2}, 3 * 10),
    ],
)
def test_prompt_to_prompt_is_the_published_loop(bundle, words, knobs, cost):
    mapper, alphas = torch.eye(77), torch.ones(77)  # a letter for a letter, and the same places behind
    if words == REFINED:
        # start a c o w | i n s n o w | end: the end goes with the end, padding with the padding at the same place
        mapper[:, 5:12], alphas[5:11] = 0, 0
        mapper[5, 11] = 1
    equalizer = torch.ones(77)
    for part in filter(None, knobs.get("reweight", "").split(",")):
        word, weight = part.strip().split("=")
        equalizer[one_token_a_letter(words, word)] = float(weight)
    blend = None
    if "blend" in knobs:
        alpha_layers = torch.zeros(2, 77)
        alpha_layers[0, one_token_a_letter(SOURCE, "cow")] = 1
        alpha_layers[1, one_token_a_letter(words, knobs["blend"].split("/")[-1])] = 1
        blend = alpha_layers, knobs["threshold"]
    cross, layout = (int(STEPS * knobs.get(k, f) + 1e-9) for k, f in (("cross_steps", 0.8), ("self_steps", 0.4)))
    control = AttentionControl(mapper, alphas, equalizer, cross, layout, blend)
    control.loop = Loop(bundle, words, control.change, control.local_blend if blend else None)
    theirs = control.loop.run()
    ours, source, shown, evaluations = edit(bundle, "prompt-to-prompt", words, **knobs)
    torch.testing.assert_close(source, theirs[:1], **PUBLISHED)
    torch.testing.assert_close(ours, theirs[1:], **PUBLISHED)
    assert (ours - plain(bundle, words)).abs().max() > 0.05
    assert evaluations == cost
    if blend:
        assert torch.equal(shown["mask"], control.mask[0, 0])
        assert 0 < shown["mask"].mean() < 1


def test_plug_and_play_is_the_published_loop(bundle):
    """pnp-diffusers: rows (source, uncond, cond), the source's latents loaded at each step from those it went through."""
    walked: list[Tensor] = []
    first = Loop(bundle, SOURCE, lambda q, k, v, scale, *_: attend(q, k, scale) @ v, lambda x: (walked.append(x[:1]), x)[1])
    first.run()
    walked.insert(0, torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED)))
    step = 0

    def change(q, k, v, scale, cross, number, heads):
        if not cross and number >= 8 and step < 5:  # up_blocks[1].attentions[1:], and all of those after it
            q[heads : 2 * heads], k[heads : 2 * heads] = q[:heads], k[:heads]
            q[2 * heads :], k[2 * heads :] = q[:heads], k[:heads]
        return attend(q, k, scale) @ v

    def conv(_module, _args, hidden):
        return torch.cat([hidden[:1]] * 3) if step < 8 else hidden

    loop = Loop(bundle, SWAPPED, change)
    loop.unet.up_blocks[1].resnets[1].conv2.register_forward_hook(conv)
    states = torch.cat([c.tokens_BLD for c in prompts(bundle.text, [SOURCE, "", SWAPPED])])
    scheduler = DDIMScheduler.from_config(dict(bundle.scheduler_config))
    scheduler.set_timesteps(STEPS)
    x = walked[0]
    for step, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            _, null, told = loop.unet(torch.cat([walked[step], x, x]), t, states).sample.chunk(3)
        x = scheduler.step(null + GUIDANCE * (told - null), t, x).prev_sample
    ours, source, _, evaluations = edit(bundle, "plug-and-play", SWAPPED)
    torch.testing.assert_close(source, walked[-1], **PUBLISHED)
    torch.testing.assert_close(ours, x, **PUBLISHED)
    assert (ours - plain(bundle, SWAPPED)).abs().max() > 0.05
    assert evaluations == 3 * 8 + 2 * 2


@pytest.mark.parametrize(("first_step", "first_layer", "knobs"), [(1, 10, {}), (4, 7, {"from_step": 20, "from_layer": 7})])
def test_masactrl_is_the_published_loop(bundle, first_step, first_layer, knobs):
    """MutualSelfAttentionControl: in both halves of the batch the edit's queries meet the source's keys and values."""

    def change(q, k, v, scale, cross, number, heads):
        if not cross and number >= first_layer and loop.step >= first_step:
            k, v = (torch.cat([x[:heads], x[:heads], x[2 * heads : 3 * heads], x[2 * heads : 3 * heads]]) for x in (k, v))
        return attend(q, k, scale) @ v

    loop = Loop(bundle, SWAPPED, change)
    theirs = loop.run()
    ours, source, _, evaluations = edit(bundle, "masactrl", SWAPPED, **knobs)
    torch.testing.assert_close(source, theirs[:1], **PUBLISHED)
    torch.testing.assert_close(ours, theirs[1:], **PUBLISHED)
    assert (ours - plain(bundle, SWAPPED)).abs().max() > 0.02
    assert evaluations == 4 * (STEPS - first_step) + 2 * first_step


NAMES = pytest.mark.parametrize("name", ["prompt-to-prompt", "plug-and-play", "masactrl"])
NOTHING = {
    "prompt-to-prompt": {"cross_steps": 0, "self_steps": 0},
    "plug-and-play": {"feature_steps": 0, "attention_steps": 0},
    "masactrl": {"from_step": 50},
}


@NAMES
def test_the_sources_own_caption_gives_the_source(bundle, name):
    """Every row of the edit is then a row of the source, so that what it takes is what it has.

    But for Plug-and-Play's unguided row, which takes the guided one's layout.
    """
    ours, source, _, _ = edit(bundle, name, SOURCE, guidance=1.0 if name == "plug-and-play" else GUIDANCE)
    torch.testing.assert_close(ours, source, rtol=0, atol=1e-4)


@NAMES
def test_a_picture_told_its_own_caption_comes_back(bundle, name):
    """Without guidance, and with an inversion that leads back to the picture exactly."""
    picture = 0.5 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    same = {"picture": picture, "guidance": 1.0, "inversion": "edit-friendly"}
    ours, source, _, _ = edit(bundle, name, SOURCE, **same)
    torch.testing.assert_close(source, picture, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours, source, rtol=0, atol=1e-3)


@NAMES
def test_without_what_it_takes_it_is_the_plain_walk_at_its_price(bundle, name):
    ours, _, _, evaluations = edit(bundle, name, SWAPPED, **NOTHING[name])
    torch.testing.assert_close(ours, plain(bundle, SWAPPED), rtol=0, atol=1e-5)
    assert evaluations == 2 * STEPS


@NAMES
def test_what_guidance_does_not_weigh_is_not_evaluated(bundle, name):
    costs = [edit(bundle, name, SWAPPED, guidance=g)[3] for g in (1.0, 0.0)]
    within, without = {"prompt-to-prompt": (8, 0), "plug-and-play": (8, 8), "masactrl": (9, 9)}[name]
    assert costs == [STEPS + within, STEPS + without]


def test_a_blend_everywhere_is_no_blend_and_one_nowhere_no_edit(bundle):
    without = edit(bundle, "prompt-to-prompt", SWAPPED)[0]
    everywhere, source, shown, _ = edit(bundle, "prompt-to-prompt", SWAPPED, blend="cow/pig", threshold=0)
    assert shown["mask"].min() == 1
    torch.testing.assert_close(everywhere, without, rtol=0, atol=1e-5)
    nowhere, source, shown, _ = edit(bundle, "prompt-to-prompt", SWAPPED, blend="cow/pig", threshold=1)
    assert shown["mask"].max() == 0
    assert torch.equal(nowhere, source)


def test_what_masactrl_masks_apart(bundle):
    """With masks that hide nothing it is unmasked; with others each pixel attends to its own side alone."""
    from paintover.models.taps import Site
    from paintover.path.masactrl import KeepLooks, Masks, TakeLooks

    without = edit(bundle, "masactrl", SWAPPED)[0]
    whole = edit(bundle, "masactrl", SWAPPED, subject="cow/pig", threshold=0)
    assert whole[2]["mask"].min() == 1
    torch.testing.assert_close(whole[0], without, rtol=0, atol=1e-4)
    masked = edit(bundle, "masactrl", SWAPPED, subject="cow/pig", threshold=0.5)
    assert 0 < masked[2]["mask"].mean() < 1
    assert (masked[0] - without).abs().max() > 1e-3
    site = Site("self", "up", 8, 9, (4, 6))
    [step] = Schedule.stable_diffusion().steps(1)
    kept, (q, k, v) = KeepLooks(step, 10), torch.randn(3, 2, 24, 5, generator=torch.Generator().manual_seed(2))
    kept.qkv(site, q, k, v)
    there, here = torch.zeros(2, 4, 6)
    there[:2], here[:, :3] = 1, 1
    maps = TakeLooks(step, kept, Masks(there, here)).maps(site, (q @ k.mT).softmax(-1))
    inside, among = here.flatten() > 0, there.flatten() > 0
    by_hand = (q[:, inside] @ k[:, among].mT).softmax(-1)
    torch.testing.assert_close(maps[:, inside][..., among], by_hand, rtol=1e-4, atol=1e-6)
    assert maps[:, inside][..., ~among].max() == maps[:, ~inside][..., among].max() == 0


@pytest.mark.parametrize(
    ("name", "words", "knobs", "message"),
    [
        ("prompt-to-prompt", REFINED, {"mode": "replace"}, r"as many words, but the source prompt has 2 \(a cow\)"),
        ("prompt-to-prompt", SWAPPED, {"blend": "cow"}, "'cow' is not in the caption 'a pig'; its words are: a, pig"),
        ("prompt-to-prompt", SWAPPED, {"blend": "/pig"}, "a slash"),
        ("prompt-to-prompt", SWAPPED, {"reweight": "cow=2"}, "its words are: a, pig"),
        ("prompt-to-prompt", SWAPPED, {"reweight": "pig"}, "cannot read 'pig'"),
        ("prompt-to-prompt", SWAPPED, {"reweight": "pig=inf"}, "cannot read"),
        ("prompt-to-prompt", SWAPPED, {"cross_steps": 0.01}, "less than one; use 0, or 0.051 or more"),
        ("prompt-to-prompt", SWAPPED, {"blend": "cow/pig", "guidance": 0}, "guidance 0"),
        ("plug-and-play", SWAPPED, {"feature_steps": 0.02}, "feature_steps 0.02 of 10 steps"),
        ("masactrl", SWAPPED, {"subject": "horse/pig"}, "'horse' is not in the caption 'a cow'"),
        ("masactrl", SWAPPED, {"subject": "cow/pig", "guidance": 0}, "guidance 0"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_computed(bundle, name, words, knobs, message):
    with pytest.raises(KnobError, match=message):
        edit(bundle, name, words, **knobs)
    assert edit(bundle, "prompt-to-prompt", SWAPPED, cross_steps=0.051)[3] == 3 * 4 + 2 * 6


def test_an_inversion_with_noise_of_its_own_keeps_the_blend_exact(bundle):
    """Edit-friendly noise is added before the blend, so that outside of the mask the source is met at every step."""
    picture = 0.5 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    knobs = {"picture": picture, "inversion": "edit-friendly", "blend": "cow/pig", "threshold": 1}
    ours, source, _, _ = edit(bundle, "prompt-to-prompt", SWAPPED, **knobs)
    assert torch.equal(ours, source)
    torch.testing.assert_close(ours, picture, rtol=0, atol=1e-4)


def test_a_call_that_is_made_again_is_counted_once(bundle):
    """A denoiser that runs out of memory when the taps have recorded already: the engine asks for its halves."""
    told, null = prompts(bundle.text, [SOURCE, ""])
    way = Schedule.from_config(bundle.scheduler_config).steps(3)

    class FailsOnce:
        left = 0

        def __call__(self, x, *rest, **named):
            answer = bundle.denoiser(x, *rest, **named)
            if self.left and len(x) > 1:
                self.left -= 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return answer

    def seen(failures: int) -> tuple[Tensor, dict]:
        word, layout, denoiser = WordMap([2, 3], 64), KeepLayout(True, True), FailsOnce()
        denoiser.left = failures

        def path(x):
            for step in way:
                rows = [Predict(x, step.t, told, KeepMaps(step, True, 0, word)), Predict(x, step.t, null, layout)]
                eps, _ = yield rows
                x = step.next(x, eps)
            return x

        run(path(torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED))), denoiser)
        assert denoiser.left == 0
        return word.mean_HW(), layout.features

    (word, features), (once, kept) = seen(1), seen(0)
    torch.testing.assert_close(word, once, rtol=1e-4, atol=1e-6)
    assert features.keys() == kept.keys()


@pytest.mark.parametrize("name", ["prompt-to-prompt", "masactrl"])
def test_words_are_found_where_no_grid_is_as_coarse_as_the_papers(bundle, name):
    """A network of two levels: at 384 x 384 pixels of Stable Diffusion its coarsest maps are 24 x 24."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=32,
    )
    unet.eval().requires_grad_(False)
    shallow = replace(bundle, denoiser=Denoiser(unet, "epsilon", bundle.denoiser.alphas_cumprod))
    assert coarsest(shallow.denoiser, (48, 42)) == (24, 21)
    picture = torch.randn((1, 4, 48, 42), generator=torch.Generator().manual_seed(9))
    knobs = {"blend": "cow/pig", "self_steps": 0.5} if name == "prompt-to-prompt" else {"subject": "cow/pig", "from_step": 0}
    _, _, shown, _ = edit(shallow, name, SWAPPED, picture=picture, steps=2, threshold=0.5, **knobs)
    assert shown["mask"].any()


def test_the_grids_of_words_are_those_of_the_network(bundle):
    assert coarsest(bundle.denoiser, (8, 9)) == (1, 2)  # three halvings, to the middle of the network
    assert most_pixels(16, (1, 2)) == 1.5 * 16**2
    assert most_pixels(16, (24, 21)) == 24 * 21
