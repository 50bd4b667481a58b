"""What must hold for every editor there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paintover.editors import knobs, registry
from paintover.editors.tuned import Tuned
from paintover.errors import Cancelled, KnobError, ModelError, RequestError
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit, edit_many, edit_one

STEPS = 10
EVERY = pytest.mark.parametrize("name", registry.names())
# With the default knobs, the inversion included. instruct: three a step (dual guidance); sdedit: two at each of the last 6
# steps; mdp-noise: one a step for the inversion, two at the 5 steps outside of the window; imagine: two a step.
EVALUATIONS = {
    "instruct": 3 * STEPS,
    "mgie": 3 * STEPS,
    "lgie": 3 * STEPS,
    "any2pix": STEPS + 3 * STEPS,  # the inversion; dual guidance
    "sdedit": 2 * 6,
    "mdp-noise": STEPS + 2 * 5,
    # Without a source prompt, what guides inside the window is told "" as what it is held against: one at each of 5 steps.
    "mdp-condition": STEPS + 5 + 2 * 5,
    "mdp-guidance": STEPS + 5 + 2 * 5,
    "mdp-latent": STEPS + 2 * 4,  # none up to the end of the window
    "diffedit": 8 + 2 * 10 + 2 * 8,  # inverted for 8 steps, ten noises under two texts, walked back
    "ledits": STEPS + 2 * STEPS,  # the inversion; "" and one edit at each step
    "flowedit": 3 * 7,  # the last 7 steps: two for the caption, one for no source prompt
    "rf-inversion": STEPS + 2 * STEPS,
    # What looks at the source asks one row more while it does; masactrl's unguided row looks at "" too, which is the same row.
    "prompt-to-prompt": STEPS + 2 * STEPS + 8,
    "plug-and-play": STEPS + 2 * STEPS + 8,
    "masactrl": STEPS + 2 * STEPS + 9,
    "edit-friendly": STEPS + 2 * 6,  # the inversion, told "" against ""; the last 6 steps
    "imagine": 2 * STEPS,
    "imagic": 2 * STEPS,  # and that of unitune and textual-inversion: tuning asks the denoiser itself
    "textual-inversion": 2 * 8,  # the last 8 steps
    "dreambooth": 2 * STEPS,  # without a class word no class pictures are made
    "unitune": 2 * 9,  # the last 9 steps; tuning asks the denoiser itself
}
# Knobs that matter only beside others: (editor, knob): what they are tried with.
BESIDE: dict[tuple[str, str], dict] = {
    ("mdp-noise", "t_max"): {"t_m": 10},
    ("mdp-condition", "t_max"): {"t_m": 10},
    ("mdp-guidance", "t_max"): {"t_m": 10},
    ("rf-inversion", "start"): {"stop": 28},
    ("prompt-to-prompt", "threshold"): {"blend": "cow/sheep"},
    ("masactrl", "threshold"): {"subject": "cow/sheep"},
    ("unitune", "interpolation"): {"strength": 0.1},  # a picture that is changed everywhere is not interpolated
    ("dreambooth", "class_pictures"): {"class_word": "cow"},
    ("dreambooth", "prior_weight"): {"class_word": "cow"},
    ("mdp-latent", "t_max"): {"t_m": 10, "schedule": "linear"},  # with a share of 1 only the end of the window matters
}
# Of the editors that walk beside their source: what matters to one inversion only is tried with that one, and by one of them,
# since they share it.
INVERTED = {"inner": {"inversion": "null-text"}, "iterations": {"inversion": "fixed-point"}}
BESIDE |= {
    (name, knob): {**beside, **BESIDE.get((name, knob), {})}
    for name in registry.names()
    for knob, beside in INVERTED.items()
    if {knob, "inversion"} <= set(registry.get(name).Knobs.model_fields)
}
BESIDE |= {(name, "rank"): {"tune": "lora"} for name in registry.names() if isinstance(registry.get(name), Tuned)}
ALIKE = {name for name in registry.names() if registry.get(name).prepared_by == "source"} - {"mdp-noise"}
OF_PICTURES = pytest.mark.parametrize("name", [n for n in registry.names() if registry.get(n).picture != "never"])


def declared(name: str) -> dict[str, dict]:
    """What the schema says of each knob; of one that may be left open (None), what it says of its values."""
    properties = registry.get(name).Knobs.model_json_schema()["properties"]
    return {
        knob: {**next((one for one in about.get("anyOf", []) if one["type"] != "null"), {}), **about}
        for knob, about in properties.items()
    }


def brief(name: str) -> dict[str, int]:
    """Knobs that make an editor's tuning as short as their first examples are."""
    editor = registry.get(name)
    fields = editor.Tuning.model_fields if isinstance(editor, Tuned) else {}
    return {knob: field.examples[0] for knob, field in fields.items() if field.annotation is int and field.examples}


@pytest.fixture
def order(tiny_bundle, photo):
    def make(name: str, instruction: str = "make it night", **fields) -> Order:
        picture = str(photo) if registry.get(name).picture != "never" else None
        fields = {"picture": picture, "model": str(tiny_bundle), "steps": STEPS, **fields}
        fields["knobs"] = {**brief(name), **fields.get("knobs", {})}
        return Order(request_for(instruction=instruction, editor=name, **fields))

    return make


@EVERY
def test_runs_and_says_how(name, order, photo, tiny_bundle):
    result = edit_one(order(name))
    if registry.get(name).picture != "never":
        assert result.rgb_HWC.shape == np.asarray(Image.open(photo)).shape
        assert len(result.request.picture_sha256) == 64
    else:
        assert result.rgb_HWC.shape == (64, 64, 3)
    assert result.rgb_HWC.dtype == np.uint8
    assert result.rgb_HWC.std() > 1
    assert set(result.request.knobs) == {info.name for info in knobs.describe(registry.get(name).Knobs)}
    assert len(result.request.model_fingerprint) == 64
    assert (result.record["device"], result.record["dtype"]) == ("cpu", "float32")
    assert result.record["evaluations"] == EVALUATIONS[name]


@EVERY
def test_is_deterministic_and_listens(name, order, monkeypatch, tmp_path):
    first = edit_one(order(name, preserve=False)).rgb_HWC
    monkeypatch.setenv("PAINTOVER_CACHE", str(tmp_path))  # nothing is prepared there
    assert np.array_equal(edit_one(order(name, preserve=False)).rgb_HWC, first)
    assert not np.array_equal(edit_one(order(name, "a cow", preserve=False)).rgb_HWC, first)


@pytest.mark.parametrize("name", ["instruct", "sdedit", "imagine", "imagic", "textual-inversion", "dreambooth"])
def test_another_seed_gives_another_picture(name, order):
    pictures = [edit_one(order(name, seed=seed, preserve=False)).rgb_HWC for seed in (0, 1)]
    assert not np.array_equal(*pictures)


@EVERY
def test_every_knob_has_a_description_and_its_bounds_hold(name):
    model = registry.get(name).Knobs
    assert all(info.description for info in knobs.describe(model))
    for knob, about in declared(name).items():
        for bound, outside in (("minimum", -1), ("maximum", 1)):
            if bound in about:
                assert getattr(knobs.read(name, model, {knob: about[bound]}), knob) == about[bound]
                with pytest.raises(KnobError, match=knob):
                    knobs.read(name, model, {knob: about[bound] + outside})
        if about["type"] in ("number", "integer"):
            for nonsense in ("much", float("nan"), float("inf")):
                with pytest.raises(KnobError, match=knob):
                    knobs.read(name, model, {knob: nonsense})


@EVERY
@pytest.mark.parametrize("bound", ["minimum", "maximum"])
def test_runs_at_its_bounds(name, bound, order):
    extreme = {knob: about[bound] for knob, about in declared(name).items() if bound in about}
    if bound == "maximum":
        extreme |= brief(name)  # the longest tuning takes hours
    if "strength" in extreme:
        extreme["strength"] = max(extreme["strength"], 1 / STEPS)  # less than one step is refused
    if "n_max" in extreme:
        extreme["n_max"] = max(extreme["n_max"], 50 // STEPS)
    assert edit_one(order(name, knobs=extreme, preserve=False)).rgb_HWC.dtype == np.uint8


@EVERY
def test_every_knob_but_the_defaults_matters(name, order):
    """A knob that changes nothing would be one that is not connected."""
    for knob, about in declared(name).items():
        if (knob in INVERTED and name in ALIKE) or knob == "bits":  # fewer bits need an accelerator
            continue
        if (name, knob) == ("any2pix", "subject"):  # it has none here: the words speak of no picture
            continue
        beside = BESIDE.get((name, knob), {})
        usual = {**brief(name), **beside}.get(knob, about["default"])
        fields = {"source_prompt": "a field"} if knob == "source_guidance" else {}
        if name in ("prompt-to-prompt", "masactrl"):  # their knobs may name words
            fields = {"source_prompt": "a cow in snow", "instruction": "a sheep in snow"}
        if knob == "word":  # in front of a caption that does not say it any name is alike
            fields = {"instruction": "zwx at night"}
        before = edit_one(order(name, knobs=beside, preserve=False, **fields)).rgb_HWC
        after = edit_one(order(name, knobs={**beside, knob: another(about, usual)}, preserve=False, **fields)).rgb_HWC
        assert not np.array_equal(before, after), knob


def another(about: dict, default):
    """A value of the knob that is not this one."""
    if "examples" in about:
        return next(value for value in about["examples"] if value != default)
    if "enum" in about:
        return next(value for value in about["enum"] if value != default)
    if about["type"] in ("boolean", "string"):
        return not default if about["type"] == "boolean" else "a cow"
    low, high = about.get("minimum", default / 2), about.get("maximum", default * 2)
    value = (default + low) / 2 if default - low > (high - default) / 10 else (default + high) / 2
    return value if about["type"] == "number" else int(value)


@OF_PICTURES
def test_leaves_pixels_outside_the_mask_alone(name, order, photo, tmp_path):
    mask = np.zeros((80, 120), np.uint8)
    mask[20:60, 30:90] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    before = np.asarray(Image.open(photo))
    after = edit_one(order(name, mask=str(tmp_path / "mask.png"))).rgb_HWC
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert not np.array_equal(before[mask > 0], after[mask > 0])


@EVERY
@pytest.mark.parametrize("after", [0, 1, 4])
def test_cancels_within_one_step(name, order, after):
    steps: list[int] = []
    asked = replace(order(name), on_step=lambda report: steps.append(report.i), cancelled=lambda: len(steps) >= after)
    with pytest.raises(Cancelled):
        edit_one(asked)
    assert len(steps) == after


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_answer_that_is_no_number_makes_no_picture(value, order, monkeypatch, tmp_path):
    from paintover.models.denoiser import Denoiser

    answer = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", lambda *args, **named: answer(*args, **named) * value)
    with pytest.raises(ModelError, match="float32 on cpu"):
        edit_one(replace(order("instruct"), out=tmp_path / "out.png"))
    assert list(tmp_path.iterdir()) == []


def test_cancelling_one_does_not_hurt_its_neighbour(order):
    alone = edit_one(order("instruct", preserve=False)).rgb_HWC
    stopped = replace(order("sdedit"), cancelled=lambda: True)
    outcomes = list(edit_many([stopped, order("instruct", preserve=False)]))
    assert isinstance(outcomes[0], Cancelled)
    assert np.abs(outcomes[1].rgb_HWC.astype(int) - alone).max() <= 1


@pytest.mark.parametrize("preserve", [True, False])
def test_a_batch_of_8_mixed_requests_equals_each_alone(preserve, order, tmp_path):
    """To 1/255 after decoding, whatever the neighbours' editors, sizes, steps and knobs are."""
    wide = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 160, 3), dtype=np.uint8)).save(wide)
    orders = [
        order("instruct", preserve=preserve),
        order("instruct", "a cow", seed=5, preserve=preserve, knobs={"guidance": 1.0}),
        order("sdedit", preserve=preserve, knobs={"strength": 0.3}),
        order("sdedit", "snow", seed=2, preserve=preserve, knobs={"negative_prompt": "sun"}),
        order("mdp-noise", preserve=preserve, source_prompt="a field"),
        order("imagine", "a cow", steps=5),
        order("instruct", "a cow", picture=str(wide), preserve=preserve),
        order("instruct", preserve=preserve, steps=3),
    ]
    alone = [edit_one(one) for one in orders]
    together = list(edit_many(orders, together=8))
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.rgb_HWC.astype(int) - other.rgb_HWC).max() <= 1
        assert one.request == other.request


def test_the_second_edit_of_a_picture_finds_its_inversion(order):
    first = edit_one(order("mdp-noise", source_prompt="a field"))
    second = edit_one(order("mdp-noise", "a cow", source_prompt="a field"))
    other = edit_one(order("mdp-noise", "a cow", source_prompt="the sea"))
    assert first.record["evaluations"] == other.record["evaluations"] == second.record["evaluations"] + STEPS


def test_a_process_shares_one_cache_and_its_memory(order):
    from paintover.engine.cache import shared

    cache = shared()
    first = edit_one(order("mdp-noise"))
    assert (cache.hits, cache.misses) == (0, 2)
    for path in cache.folder.rglob("*.entry"):
        path.unlink()
    second = edit_one(order("mdp-noise"))
    assert (cache.hits, cache.misses) == (2, 2)
    assert np.array_equal(first.rgb_HWC, second.rgb_HWC)


def test_what_another_edition_prepared_is_not_used(order, monkeypatch):
    from paintover.engine.cache import shared
    from paintover.orders import work

    edit_one(order("mdp-noise"))
    monkeypatch.setattr(work, "code", lambda: "that of another edition")
    edit_one(order("mdp-noise"))
    assert (shared().hits, shared().misses) == (0, 4)


def test_the_codecs_picture_serves_every_type_of_the_denoiser(tiny_bundle, photo):
    """The codec works in float32 always, so its half of the preparation is shared."""
    import torch

    from paintover.engine.cache import PrepareCache
    from paintover.models.bundle import load
    from paintover.orders.order import check
    from paintover.orders.work import begin

    cache = PrepareCache(max_bytes=0)
    request = request_for(instruction="x", picture=str(photo), model=str(tiny_bundle), steps=2)
    for dtype in (torch.float32, torch.bfloat16):
        begin(check(Order(request)), load(tiny_bundle, "cpu", dtype), cache)
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_source_prompt_matters_to_mdp_noise(order):
    one, other = (edit_one(order("mdp-noise", source_prompt=p, preserve=False)).rgb_HWC for p in ("a field", "the sea"))
    assert not np.array_equal(one, other)


def test_mdp_noise_that_copies_the_whole_source_path_does_not_hear_the_words(order):
    """Identity 1 of MDP: w = 1 at all steps is the source's own path, for every instruction and guidance."""
    kept = {"t_max": 50, "t_m": 50}
    one = edit_one(order("mdp-noise", knobs=kept, preserve=False)).rgb_HWC
    other = edit_one(order("mdp-noise", "a cow", knobs={**kept, "guidance": 3.0}, preserve=False)).rgb_HWC
    assert np.array_equal(one, other)


@pytest.mark.parametrize("strength", [0.0, 0.099])
def test_sdedit_of_less_than_one_step_is_refused(strength, order):
    with pytest.raises(KnobError, match=r"strength of 0\.1 or more"):
        edit_one(order("sdedit", knobs={"strength": strength}))
    assert edit_one(order("sdedit", knobs={"strength": 0.1})).record["evaluations"] == 2


@EVERY
def test_words_that_are_not_read_to_their_end_are_told(name, order):
    # prompt-to-prompt tells that it wants a source prompt; unitune, that random weights leave nothing to interpolate; mgie,
    # that its language model, which is random too, does not say its [IMG] tokens.
    if name == "any2pix":
        pytest.skip("its language model, which is random too, says no caption either")
    fields = {
        "prompt-to-prompt": {"source_prompt": "a field"},
        "unitune": {"knobs": {"interpolation": 0.0}},
        "mgie": {"knobs": {"expressive": "a cow"}},
        "lgie": {"knobs": {"expressive": "a cow"}},
    }.get(name, {})
    assert edit_one(order(name, "a cow", **fields)).record["warnings"] == []
    [warning] = edit_one(order(name, "a cow " * 200, **fields)).record["warnings"]
    assert registry.get(name).told in warning
    assert "tokens" in warning


@pytest.mark.parametrize("name", ["sdedit", "imagine"])
def test_a_negative_prompt_without_effect_is_told(name, order):
    without = edit_one(order(name, knobs={"guidance": 1.0}, preserve=False))
    told = edit_one(order(name, knobs={"guidance": 1.0, "negative_prompt": "sun"}, preserve=False))
    assert np.array_equal(without.rgb_HWC, told.rgb_HWC)
    assert without.record["warnings"] == []
    assert ["negative prompt" in warning for warning in told.record["warnings"]] == [True]
    assert edit_one(order(name, knobs={"guidance": 2.0, "negative_prompt": "sun"})).record["warnings"] == []


def test_an_editor_asks_for_a_bundle_that_can(order, tmp_path):
    from paintover.models.tiny import tiny

    captions_only = tiny(tmp_path / "captions", "text-to-image")
    with pytest.raises(ModelError, match="instruct"):
        edit_one(order("instruct", model=str(captions_only)))


def test_the_bundles_recommendation_goes_before_the_editors_and_the_request_before_both(order):
    recommended = edit_one(order("instruct", steps=None))
    assert recommended.request.steps == 4  # of the tiny bundle
    assert edit_one(order("instruct", steps=2)).request.steps == 2
    assert edit_one(order("sdedit", steps=None, knobs={"strength": 0.1})).request.steps == registry.get("sdedit").steps


def test_windows_that_do_not_fit_are_refused_before_the_inversion(order):
    steps: list[int] = []
    asked = replace(order("mdp-noise", knobs={"t_max": 10, "t_m": 20}), on_step=lambda report: steps.append(report.i))
    with pytest.raises(KnobError, match="window"):
        edit_one(asked)
    assert not steps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instruction": "  "}, "instruction is empty"),
        ({"source_prompt": "a field"}, "mdp-noise"),
        ({"picture": None}, "name one"),
        ({"mask": "mask.png", "preserve": False}, "no-preserve"),
        ({"references": [{"name": "image1", "path": "a.png"}]}, "references"),
    ],
)
def test_requests_that_make_no_sense(order, fields, message):
    with pytest.raises(RequestError, match=message):
        edit_one(order("instruct", **fields))


def test_pictures_in_memory_and_alpha(tiny_bundle):
    import paintover

    rgba = np.random.default_rng(0).integers(0, 256, (33, 47, 4), dtype=np.uint8)
    result = paintover.edit(rgba, "make it night", model=str(tiny_bundle), steps=2, guidance=2.0)
    assert result.rgb_HWC.shape == (33, 47, 3)
    assert np.array_equal(result.alpha_HW, rgba[..., 3])
    assert result.request.picture is None
    assert result.request.knobs["guidance"] == 2.0


def test_saving_keeps_the_request(tiny_bundle, photo, tmp_path):
    import paintover

    out = tmp_path / "out.png"
    result = paintover.edit(photo, "make it night", model=str(tiny_bundle), steps=2, out=out)
    assert result.path == out
    assert np.array_equal(np.asarray(Image.open(out)), result.rgb_HWC)
    with pytest.raises(RequestError, match="exists"):
        paintover.edit(photo, "make it night", model=str(tiny_bundle), steps=2, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_an_editor_of_ones_own_runs_under_its_own_name_only(order, monkeypatch):
    class Mine(type(registry.get("sdedit"))):
        name = "mine"

    monkeypatch.setattr(registry, "_EDITORS", dict(registry._EDITORS))
    registry.add(Mine())
    assert edit_one(order("mine")).request.editor == "mine"
    with pytest.raises(RequestError, match="already"):
        registry.add(Mine())


def test_what_a_format_has_no_room_for_is_noticed_before_any_model_is_loaded(order, photo, tmp_path, monkeypatch):
    from paintover.models import bundle

    monkeypatch.setattr(bundle, "load", lambda *args, **named: pytest.fail("loaded a model"))
    described = Image.open(photo)
    described.getexif()[0x010E] = "long " * 20_000
    endless = order("sdedit", "\U0001f600" * 4000, knobs={"negative_prompt": "\U0001f600" * 2000})
    imagined = order("imagine", "\U0001f600" * 4000, knobs={"negative_prompt": "\U0001f600" * 2000})
    wide = Image.new("RGB", (16_400, 2))
    for asked, name, says in (
        (replace(order("instruct"), picture=described), "out.jpg", "EXIF"),
        (endless, "out.jpg", "too long"),
        (imagined, "out.jpg", "too long"),
        (replace(order("instruct"), picture=wide), "out.webp", "16383"),
    ):
        with pytest.raises(RequestError, match=says):
            edit_one(replace(asked, out=tmp_path / name))


def test_a_jpeg_takes_an_alpha_channel_that_hides_nothing(order, photo, tmp_path):
    for alpha, name in ((255, "opaque.jpg"), (254, "clear.jpg")):
        picture = Image.open(photo).convert("RGB")
        picture.putalpha(alpha)
        wanted = replace(order("instruct"), picture=picture, out=tmp_path / name)
        if alpha == 255:
            assert edit_one(wanted).path == tmp_path / name
        else:
            with pytest.raises(RequestError, match="transparency"):
                edit_one(wanted)


def test_a_model_may_be_a_path(photo, tiny_bundle):
    result = edit(photo, "make it night", model=Path(tiny_bundle), steps=1)
    assert result.request.model == str(tiny_bundle)
