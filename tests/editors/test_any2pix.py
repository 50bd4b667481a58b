"""any2pix: which picture is edited, what is to appear, what the denoiser is told of it; each form of instruction there is."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from paintover.conditions.any2pix import FIRM, Meaning, base_of, embedded, meaning, slots, things, wanted
from paintover.editors import registry
from paintover.editors.any2pix import Any2PixKnobs
from paintover.editors.editor import Context
from paintover.editors.subjects import found, mask, windows
from paintover.engine.engine import Engine
from paintover.errors import KnobError, ModelError
from paintover.models.any2pix import Sub, Understood
from paintover.models.any2pix_file import Any2PixParts, save_any2pix
from paintover.models.any2pix_new import new_any2pix
from paintover.models.any2pix_wording import Answer
from paintover.models.bundle import Bundle, load
from paintover.models.imagebind_file import write_config
from paintover.models.imagebind_trunk import Branch, ImageBind, Sizes
from paintover.models.tiny import tiny
from paintover.orders.media import in_memory, told
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one
from paintover.path.start import noise
from paintover.picture.open import open as open_picture
from paintover.references import mentions
from paintover.sound.open import open as open_sound

STEPS = 3
RNG = np.random.default_rng(0)
MEDIA: dict[str, Any] = {
    "image1": open_picture(np.full((40, 60, 3), 20, np.uint8)),
    "image2": open_picture(np.full((50, 40, 3), (240, 30, 200), np.uint8)),
    "audio1": open_sound((np.sin(np.arange(16_000) * 0.3).astype(np.float32), 16_000)),
    "audio2": open_sound((RNG.uniform(-1, 1, 24_000).astype(np.float32), 16_000)),
}
# IA-3's forms, and others: what is said, what is meant, which picture is edited, and what each object is.
FORMS: list[tuple[str, Answer, str | None, tuple[str | None, ...]]] = [
    ("add the [audio1] to [image1]", Answer("a cow on grass", subs=("cow",)), "image1", ("audio1",)),
    ("add [image2] and remove [audio1] from [image1]", Answer("a hen", subs=("hen",)), "image1", ("image2",)),
    ("add [image2] and [audio1] to [image1]", Answer("two", subs=("hen", "cow")), "image1", ("image2", "audio1")),
    ("change [image1] to the style of [image2]", Answer("pink"), "image1", ()),
    ("change [image2] to the style of [image1]", Answer("dark"), "image2", ()),
    ("fit [image1] to [audio2]", Answer("a loud sea"), "image1", ()),
    ("remove [audio1] from [image1]", Answer("grass"), "image1", ()),
    ("add [audio2]", Answer("a sea", subs=("sea",)), "image1", ("audio2",)),
    ("add a cow", Answer("a cow", subs=("cow",)), "image1", (None,)),
    ("remove the cow", Answer("only grass"), "image1", ()),
    ("replace the cow with [image2]", Answer("a hen", subs=("hen",)), "image1", ("image2",)),
    ("replace [audio1] with [audio2] in [image1]", Answer("sea", subs=("sea",)), "image1", ("audio2",)),
    ("put [image2] left and [image2] right of [image1]", Answer("hens", subs=("a", "b")), "image1", ("image2", "image2")),
    ("make it look like winter, please", Answer("snow"), "image1", ()),
    ("a cow that sounds like [audio1]", Answer("a cow", base=False, subs=("cow",)), None, ("audio1",)),
    ("the sea", Answer("the sea", base=False), None, ()),
]


def media_of(words: str, base: str | None) -> dict[str, Any]:
    """What an order binds: what the words speak of, and the picture to be edited."""
    names = list(dict.fromkeys(mention.name for mention in mentions(words)))
    return {name: MEDIA[name] for name in (*names, *([base] if base and base not in names else []))}


@pytest.fixture(scope="module")
def talking(tmp_path_factory) -> Path:
    """The tiny bundle, its language model having learnt FORMS: what to say, and which reference each of its states is near."""
    folder = tiny(tmp_path_factory.mktemp("talking"), "any2pix")
    bundle = load(folder, "cpu")
    parts, encoder = bundle.any2pix(), bundle.encoder()
    language = copy.deepcopy(parts.language)
    vectors = embedded(encoder, MEDIA)
    names = list(vectors)
    asked = language.asked(
        [words for words, *_ in FORMS],
        [list(media_of(words, base)) for words, _, base, _ in FORMS],
        [answer for _, answer, *_ in FORMS],
    )
    media_NE = torch.stack([vectors[name] for name in asked.named])
    near = [base for _, answer, base, _ in FORMS if answer.base]
    near += [reference for *_, references in FORMS for reference in references]
    places_N2 = torch.cat([asked.base_N2, asked.subs_N2])
    is_one = torch.tensor([reference is not None for reference in near])
    which_N = torch.tensor([names.index(reference) for reference in near if reference is not None])
    cow_E = encoder.read(["cow"])[0]
    parameters = [parameter.requires_grad_(True) for module in language.modules for parameter in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    candidates_ME = torch.stack([*vectors.values()])
    with torch.enable_grad():
        for _ in range(600):
            states_BLD = language.hidden(asked, media_NE)
            scores = language.model.lm_head(states_BLD)[:, :-1]
            said = functional.cross_entropy(scores.flatten(0, 1), asked.labels_BL[:, 1:].flatten())
            told_NE = functional.normalize(language.project(states_BLD, places_N2), dim=-1)
            retrieved_NM = 300 * told_NE[is_one] @ candidates_ME.T
            near_it = functional.cross_entropy(retrieved_NM, which_N)
            far = 1 - (told_NE[is_one] * candidates_ME[which_N]).sum(dim=-1).mean()
            error = said + near_it + far + (1 - told_NE[~is_one] @ cow_E).mean()
            if said < 0.005 and near_it < 0.01 and far < 0.01:
                break
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
    save_any2pix(Any2PixParts(language, parts.prior, parts.settings), folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def bundle(talking) -> Bundle:
    return load(talking, "cpu")


def context_of(bundle: Bundle, words: str, base: str | None = None, size_HW=(8, 8), seed: int = 1, **knobs) -> Context[Any]:
    editor = registry.get("any2pix")
    settled = editor.settled(Any2PixKnobs(**knobs), bundle)
    request = request_for(instruction=words, editor="any2pix", seed=seed, steps=STEPS, knobs=settled.model_dump())
    shape = (1, bundle.codec.channels, *size_HW)
    source = None if base is None else noise(3, shape) * 0.7
    return Context(
        bundle, request, settled, shape, source, picture=None if base is None else MEDIA[base], media=media_of(words, base)
    )  # fmt: skip


def ran(context: Context[Any]) -> tuple[Tensor, int]:
    """The latents that it ends with, and the evaluations it took."""
    editor = registry.get("any2pix")
    editor.check(context)
    engine = Engine(context.bundle.denoiser)
    prepared = engine.result(engine.add(editor.prepare(context)))
    end = engine.result(engine.add(editor.path(context, prepared)))
    assert end.isfinite().all()
    return end, engine.counters.rows


@pytest.mark.parametrize(("words", "answer", "base", "references"), FORMS, ids=[words for words, *_ in FORMS])
def test_every_form_of_instruction(bundle, words, answer, base, references):
    """methods.md I.2 14, 16 and 17; features IA-3, IA-4, IA-7 to IA-9."""
    editor = registry.get("any2pix")
    media = media_of(words, base)
    if base is not None:
        request = request_for(instruction=words, editor="any2pix", knobs={}, seed=1)
        assert editor.base(bundle, request, media) == base
    context = context_of(bundle, words, base)
    _, rows = ran(context)
    record = context.derived
    assert record["caption"] == answer.caption
    assert record["control_tokens_forced"] is False
    assert record["base"] == base
    assert [sub["name"] for sub in record["subs"]] == list(answer.subs)
    assert [sub["reference"] for sub in record["subs"]] == list(references)
    assert context.remarks == []
    assert rows == (4 * STEPS if base is not None else 2 * STEPS)


def test_references_matter_each_for_itself(bundle):
    """What the words speak of changes the picture, though they are the same words."""
    ends = []
    for sound in ("audio1", "audio2"):
        context = context_of(bundle, "add the [audio1] to [image1]", "image1")
        context.media["audio1"] = MEDIA[sound]
        ends.append(ran(context)[0])
    assert not torch.equal(*ends)


def test_what_is_prepared_serves_every_instruction(bundle):
    editor = registry.get("any2pix")
    contexts = [context_of(bundle, words, "image1") for words in ("add a cow", "remove [audio1] from [image1]")]
    one, other = (editor.prepared_from(context) for context in contexts)
    assert one == other == {"steps": STEPS, "see_base": True}
    assert editor.prepared_from(context_of(bundle, "add a cow", "image1", alpha=0.0)) is None
    assert editor.prepared_from(context_of(bundle, "the sea")) is None


@pytest.mark.parametrize("see_base", [True, False])
def test_without_guidance_it_comes_back_to_the_picture(bundle, see_base):
    """alpha 1 and guidance 0: up by DDIM inversion and down again, told the same; the error falls with the steps."""
    errors = []
    for steps in (10, 80):
        context = context_of(bundle, "add a cow", "image1", guidance=0.0, image_guidance=1.0, see_base=see_base)
        end, rows = ran(in_steps(context, steps))
        assert rows == 2 * steps
        errors.append((end - context.source).square().mean().sqrt().item())
    assert errors[1] < errors[0]


def in_steps(context: Context[Any], steps: int) -> Context[Any]:
    return replace(context, request=context.request.model_copy(update={"steps": steps}))


def test_alpha_goes_from_the_inversion_to_noise(bundle):
    """0 needs no picture to start from: without seeing it, and without its embedding, it is as if there were none."""
    ends = {alpha: ran(context_of(bundle, "add a cow", "image1", alpha=alpha))[0] for alpha in (0.0, 0.5, 1.0)}
    assert not torch.equal(ends[0.0], ends[0.5])
    assert not torch.equal(ends[0.5], ends[1.0])
    blind = context_of(bundle, "add a cow", "image1", alpha=0.0, see_base=False)
    other = context_of(bundle, "add a cow", "image1", alpha=0.0, see_base=False)
    other.source_BCHW.mul_(-1)
    assert torch.equal(ran(blind)[0], ran(other)[0])
    seen = context_of(bundle, "add a cow", "image1", alpha=0.0)
    assert not torch.equal(ran(seen)[0], ran(blind)[0])


def test_c_is_the_weighed_sum(bundle):
    """methods.md D.4, by hand; and beta's two ends."""
    parts = bundle.any2pix()
    meant = meaning(bundle, "remove [audio1] from [image1]", media_of("remove [audio1] from [image1]", "image1"))
    [gen_E] = meant.understood.gens
    y_E = parts.prior.guided(gen_E[None], 6.5, parts.settings.low_score, 10.0)[0]
    unit = functional.normalize
    h_k = 20 * meant.media["image1"]
    by_hand = 7.0 * unit(0.4 * h_k + 0.6 * gen_E + 0.3 * 20 * unit(y_E, dim=0), dim=0)
    torch.testing.assert_close(wanted(meant, parts, "image1", (0.4, 0.6, 0.3), 7.0, 6.5, 10.0), by_hand)
    plain, refined = (Any2PixKnobs(beta=beta).h for beta in (0.0, 1.0))
    torch.testing.assert_close(wanted(meant, parts, "image1", plain, 20.0, 6.5, 10.0), h_k)
    torch.testing.assert_close(wanted(meant, parts, "image1", refined, 20.0, 6.5, 10.0), 20 * unit(y_E, dim=0))
    nothing = wanted(meant, parts, None, (1.0, 0.0, 0.0), 20.0, 6.5, 10.0)
    assert torch.equal(nothing, torch.zeros_like(nothing))
    assert Any2PixKnobs(h0=1, h1=2, h2=3).h == (1, 2, 3)


def test_slots_are_padded_with_zeros():
    e, f = torch.ones(4), 2 * torch.ones(4)
    media_BSE = slots(e, [f], 3, 4)
    assert media_BSE.shape == (1, 4, 4)
    assert media_BSE[0, :, 0].tolist() == [1, 2, 0, 0]
    assert slots(None, [e, e, e, f], 3, 4)[0, :, 0].tolist() == [0, 1, 1, 1]


class Reads:
    """An encoder that reads one word."""

    def __init__(self, e_E: Tensor) -> None:
        self.e_E = e_E

    def read(self, texts):
        if texts == ["none"]:
            raise ModelError("it reads no text")
        return self.e_E[None].expand(len(texts), -1)


def test_an_object_is_a_reference_unless_its_name_is_much_nearer():
    axes = torch.eye(4)
    near = functional.normalize(axes[0] + FIRM / 2 * axes[1], dim=0)
    media = {"image1": axes[3], "audio1": near}
    subs = (Sub("cow", axes[0]), Sub("dog", axes[2]), Sub("none", axes[2]), Sub("base", axes[3]))
    meant = Meaning(media, Understood("x", axes[3], subs, (axes[0],), False))
    named = [(thing.name, thing.reference) for thing in things(meant, "image1", Reads(axes[0]))]
    assert named == [("cow", "audio1"), ("dog", "audio1"), ("none", "audio1"), ("base", "audio1")]
    named = [(thing.name, thing.reference) for thing in things(meant, "image1", Reads(axes[2]))]
    assert named == [("cow", "audio1"), ("dog", None), ("none", "audio1"), ("base", "audio1")]
    alone = Meaning({"image1": axes[3]}, meant.understood)
    assert [thing.name for thing in things(alone, "image1", Reads(axes[0]))] == ["cow", "dog", "base"]


def test_the_base_is_a_picture_the_only_one_or_the_nearest():
    axes = torch.eye(3)

    def base(media, state_E):
        return base_of(Meaning(media, Understood("x", state_E, (), (axes[0],), False)))

    media = {"audio1": axes[0], "image1": axes[1], "image2": axes[2]}
    assert base(media, axes[0] + 0.1 * axes[2]) == "image2"  # a sound would be nearer
    assert base(media, axes[0]) == "image1"  # of equals the first
    assert base({"audio1": axes[0], "image7": axes[1]}, axes[0]) == "image7"
    assert base({"audio1": axes[0]}, axes[0]) is None
    assert base(media, None) is None


def test_what_a_stranger_says_is_put_right_and_told(tiny_bundle):
    """Random weights say no control tokens: the picture that was given is edited, and what is told are the words themselves."""
    context = context_of(load(tiny_bundle, "cpu"), "add [audio1] to [image1]", "image1")
    ran(context)
    assert context.derived["control_tokens_forced"] is True
    assert context.derived["base"] == "image1"
    assert any("control tokens" in remark for remark in context.remarks)


def test_more_objects_than_there_are_slots_for_are_told(bundle, monkeypatch):
    monkeypatch.setattr(bundle.adapted().adapter, "locals", 1)
    context = context_of(bundle, "add [image2] and [audio1] to [image1]", "image1")
    ran(context)
    [remark] = context.remarks
    assert "told of 1 objects, and 2 are to appear" in remark


@pytest.mark.parametrize("refinement", [0.0, 0.7])
def test_refinement_walks_the_last_part_once_more(bundle, refinement):
    end, rows = ran(context_of(bundle, "add a cow", "image1", refinement=refinement))
    assert rows == 4 * STEPS + 3 * int(STEPS * refinement)
    assert torch.equal(end, ran(context_of(bundle, "add a cow", "image1"))[0]) == (refinement == 0)


def test_subjects_of_pictures_are_painted_anew_where_they_are(bundle):
    words = "add [image2] and [audio1] to [image1]"
    without, _ = ran(context_of(bundle, words, "image1"))
    context = context_of(bundle, words, "image1", subject=0.7)
    end, rows = ran(context)
    assert rows == 4 * STEPS + 3 * int(STEPS * 0.7)  # once: a sound has no looks to keep
    mask_HW = context.shown["subject 1"]
    assert mask_HW.shape == (8, 8)
    assert 0 < mask_HW.mean() < 1
    changed_HW = (end != without).any(dim=1)[0]
    assert not changed_HW[mask_HW == 0].any()
    assert changed_HW[mask_HW == 1].all()


def test_a_subject_is_found_where_it_is():
    class Sees:
        """An encoder that sees how much of a picture is red, and how much is not."""

        def see(self, pictures):
            red = torch.tensor([(one[..., 0] > 200).mean() for one in pictures], dtype=torch.float32)
            return functional.normalize(torch.stack([red, 1 - red], dim=1), dim=1)

    rgb_HWC = np.zeros((64, 96, 3), np.uint8)
    rgb_HWC[32:48, 64:80, 0] = 255
    top, left, bottom, right = found(Sees(), rgb_HWC, torch.tensor([1.0, 0.0]))
    assert 32 <= top < bottom <= 48
    assert 64 <= left < right <= 80
    mask_HW = mask((32, 64, 48, 80), (64, 96), (8, 12))
    assert mask_HW[4:6, 8:10].min() > 0.7
    assert mask_HW[:2].max() == 0
    assert mask_HW[:, :5].max() == 0


@pytest.mark.parametrize("size_HW", [(1, 1), (3, 200), (64, 64), (65, 97)])
def test_windows_cover_the_picture(size_HW):
    seen = np.zeros(size_HW, bool)
    for top, left, bottom, right in windows(*size_HW):
        assert 0 <= top < bottom <= size_HW[0]
        assert 0 <= left < right <= size_HW[1]
        seen[top:bottom, left:right] = True
    assert seen.all()


def test_a_model_that_cannot_see_is_steered_by_words_and_references_alone(bundle, tmp_path):
    """Of Stable Diffusion's layout, beside ImageBind, whose branches read no words, and a LLaMA that is asked as Vicuna is."""
    sizes = Sizes(out=24, vision=Branch(32, 1, 4), size=28, audio=Branch(16, 1, 2), bins=32, length=52)
    (tmp_path / "imagebind").mkdir()
    write_config(sizes, tmp_path / "imagebind")
    save_file(ImageBind(sizes).state_dict(), tmp_path / "imagebind" / "model.safetensors")
    shutil.copytree(bundle.folder / "any2pix" / "language_model", tmp_path / "llama")
    shutil.copytree(bundle.folder / "any2pix" / "tokenizer", tmp_path / "llama", dirs_exist_ok=True)
    base = tiny(tmp_path / "base", "text-to-image")
    with pytest.raises(ModelError, match="sentence encoder"):
        new_any2pix(base, tmp_path / "out", bundle.folder / "any2pix" / "encoder", tmp_path / "llama")
    assert not (tmp_path / "out").exists()
    new_any2pix(base, tmp_path / "out", tmp_path / "imagebind", tmp_path / "llama")
    blind = load(tmp_path / "out", "cpu")
    context = context_of(blind, "add [audio1] to [image1]", "image1")
    assert context.knobs.see_base is False
    _, rows = ran(context)
    assert rows == STEPS + 2 * STEPS
    with pytest.raises(KnobError, match="see_base"):
        registry.get("any2pix").check(context_of(blind, "add a cow", "image1", see_base=True))


def test_knobs_are_settled_by_the_model(bundle):
    editor = registry.get("any2pix")
    settled = editor.settled(Any2PixKnobs(), bundle)
    assert (settled.see_base, settled.score, settled.refinement) == (True, 6.5, 0.0)
    kept = editor.settled(Any2PixKnobs(see_base=False, score=3.0, refinement=0.2), bundle)
    assert (kept.see_base, kept.score, kept.refinement) == (False, 3.0, 0.2)


def ordered(folder: Path, words: str, picture: str | None, *names: str, **fields) -> Any:
    """What an order makes of the words, the picture to be edited, and references of these names."""
    given = {name: MEDIA[name] for name in names}
    request = request_for(
        instruction=words, editor="any2pix", model=str(folder), steps=STEPS, references=told(given), preserve=False, **fields
    )
    return edit_one(Order(request, None if picture is None else MEDIA[picture], references=in_memory(given)))


def test_an_order_with_a_sound(talking):
    result = ordered(talking, "add the [audio1] to [image1]", "image1", "audio1")
    assert result.rgb_HWC.shape == (40, 60, 3)
    assert result.record["base"] == "image1"
    assert result.record["caption"] == "a cow on grass"
    assert result.record["subs"] == [{"name": "cow", "reference": "audio1"}]
    assert result.record["h"] == [0.4, 0.6, 0.4]
    assert result.record["warnings"] == []
    assert result.record["evaluations"] == 4 * STEPS
    assert result.record["seconds"]["language"] > 0
    assert {reference.name for reference in result.request.references} == {"audio1"}
    again = ordered(talking, "add [image2] and remove [audio1] from [image1]", "image1", "audio1", "image2")
    assert again.record["evaluations"] == 3 * STEPS  # the picture's inversion is kept


def test_the_picture_that_the_words_mean_is_edited(talking):
    """Though another one was given to be edited; with a mask it is the one that was given."""
    words = "change [image2] to the style of [image1]"
    result = ordered(talking, words, "image1", "image2")
    assert result.record["base"] == "image2"
    assert result.rgb_HWC.shape == (50, 40, 3)


@pytest.mark.parametrize(("words", "names"), [("a cow that sounds like [audio1]", ("audio1",)), ("the sea", ())])
def test_an_order_without_a_picture_makes_one(talking, words, names):
    result = ordered(talking, words, None, *names)
    assert result.rgb_HWC.shape == (64, 64, 3)
    assert result.record["base"] is None
    assert result.record["evaluations"] == 2 * STEPS
