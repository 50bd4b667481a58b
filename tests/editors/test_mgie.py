"""mgie and lgie: what the language model understood and imagined guides the edit, is worked out once, kept and told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from transformers import LlavaForConditionalGeneration

from paintover.conditions.mgie import null, pooled, told
from paintover.editors import registry
from paintover.editors.editor import Context
from paintover.engine.cache import PrepareCache
from paintover.engine.engine import run
from paintover.errors import Cancelled, KnobError, ModelError, RequestError
from paintover.models.bundle import load
from paintover.models.mllm import Mllm
from paintover.models.tiny import tiny
from paintover.orders.order import Order, request_for
from paintover.orders.redo import redo
from paintover.orders.run import edit_many, edit_one
from paintover.picture.open import open as open_picture
from paintover.request import EditResult

STEPS = 3
FORCED = "did not say its [IMG] tokens"


@pytest.fixture
def order(talking_bundle):
    def make(row, editor: str = "mgie", **fields) -> Order:
        words, picture, *_ = row if isinstance(row, tuple) else (row, np.full((20, 30, 3), 20, np.uint8))
        fields = {"model": str(talking_bundle), "steps": STEPS, "preserve": False, **fields}
        picture = np.full((20, 30, 3), 20, np.uint8) if picture is None else picture
        return Order(request_for(instruction=words, editor=editor, **fields), picture)

    return make


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How many instructions each call of the language model had."""
    counted: list[int] = []
    answer = Mllm.answer

    def counting(self, instructions, *more):
        counted.append(len(instructions))
        return answer(self, instructions, *more)

    monkeypatch.setattr(Mllm, "answer", counting)
    return counted


def guide(bundle, name, words, pixels, **knobs) -> torch.Tensor:
    """U, as the editor prepares it."""
    editor = registry.get(name)
    request = request_for(instruction=words, editor=name, steps=STEPS)
    context = Context(bundle, request, editor.Knobs(**knobs), (1, 4, 8, 8), picture=open_picture(pixels))
    [prepared] = editor.prepare_together([context])
    return prepared["tokens_BLD"]


def test_says_what_it_understood(order, taught):
    for row in taught[:2]:
        result = edit_one(order(row))
        assert result.record["expressive"] == row[2]
        assert result.record["img_tokens_forced"] is False
        assert result.record["warnings"] == []
        assert 0 < result.record["seconds"]["language"] <= result.record["seconds"]["prepare"]
    assert edit_one(order(taught[1], "lgie")).record["expressive"] == "blue."
    assert edit_one(order(taught[1], knobs={"vision": False})).record["expressive"] == "blue."
    assert "expressive" not in edit_one(order("make it blue", "instruct")).record


def test_missing_tokens_are_forced_and_flagged(order, taught):
    """Identity 10."""
    result = edit_one(order(taught[4]))
    assert result.record["expressive"] == "forget the tokens."
    assert result.record["img_tokens_forced"] is True
    [warning] = result.record["warnings"]
    assert FORCED in warning
    by_text = edit_one(order(taught[4], knobs={"guided_by": "text"}))
    assert by_text.record["img_tokens_forced"] is True
    assert by_text.record["warnings"] == []  # they guide nothing there


def test_an_empty_answer_edits_all_the_same(order, taught):
    """Identity 10."""
    result = edit_one(order(taught[5]))
    assert result.record["expressive"] == ""
    assert any("found no words" in warning for warning in result.record["warnings"])
    assert result.rgb_HWC.std() > 1
    [warning] = (by_text := edit_one(order(taught[5], knobs={"guided_by": "text"}))).record["warnings"]
    assert "reads the instruction as it is" in warning
    assert np.array_equal(by_text.rgb_HWC, edit_one(order("say nothing", "instruct")).rgb_HWC)


def test_the_picture_and_the_words_change_what_the_denoiser_is_told(talking_bundle, taught):
    """Identity 11."""
    bundle = load(talking_bundle, "cpu")
    dark, light = taught[0][1], taught[1][1]
    u = guide(bundle, "mgie", "make it blue", dark)
    assert not torch.allclose(u, guide(bundle, "mgie", "a dog", dark), atol=1e-3)
    assert not torch.allclose(u, guide(bundle, "mgie", "make it blue", light), atol=1e-3)
    blind = guide(bundle, "lgie", "make it blue", dark)
    assert torch.equal(blind, guide(bundle, "lgie", "make it blue", light))
    assert torch.equal(blind, guide(bundle, "mgie", "make it blue", light, vision=False))
    assert not torch.allclose(blind, guide(bundle, "lgie", "a dog", dark), atol=1e-3)
    assert not torch.allclose(blind, u, atol=1e-3)


def test_null_guidance_is_the_same_for_all_inputs(talking_bundle, taught, order, monkeypatch):
    """Identity 9, its second half: T(0 + e_[IMG]), made once for a model."""
    bundle = load(talking_bundle, "cpu")
    mllm = bundle.mllm()
    expected = mllm.head(torch.zeros(1, *mllm.embeddings_ND.shape), mllm.embeddings_ND)
    assert torch.equal(null(mllm), expected)
    monkeypatch.setattr(mllm.head, "forward", lambda *args: pytest.fail("made again"))
    assert null(mllm) is null(mllm)
    monkeypatch.undo()
    seen = []
    for row in taught:
        for name in ("mgie", "lgie"):
            editor = registry.get(name)
            request = request_for(instruction=row[0], editor=name, steps=STEPS)
            picture = open_picture(taught[0][1] if row[1] is None else row[1])
            context = Context(bundle, request, editor.Knobs(), (1, 4, 8, 8), picture=picture)
            seen += [one["null_BLD"] for one in editor.prepare_together([context])]
    assert all(torch.equal(one, expected) for one in seen)
    # Guided by nothing but that, the words matter to nobody.
    first, second = (edit_one(order(row, knobs={"guidance": 0.0})).rgb_HWC for row in (taught[0], taught[3]))
    assert np.array_equal(first, second)


def test_a_denoiser_that_takes_one_vector_for_the_whole(talking_bundle, tmp_path):
    both = [load(folder, "cpu") for folder in (talking_bundle, tiny(tmp_path / "clip", "mgie"))]
    for bundle, takes in zip(both, (True, False), strict=True):
        mllm = bundle.mllm()
        hidden_BND = torch.randn(2, *mllm.embeddings_ND.shape)
        tokens_BLD, whole_BD = told(mllm, bundle.denoiser, hidden_BND)
        assert tokens_BLD.shape == (2, mllm.head.config["queries"], bundle.text.width)
        assert (whole_BD is not None) is takes
        assert (pooled(bundle.denoiser, tokens_BLD) is not None) is takes
        if whole_BD is not None:
            assert torch.allclose(whole_BD.square().mean(dim=1), torch.ones(2), atol=1e-4)
            assert torch.equal(whole_BD, pooled(bundle.denoiser, tokens_BLD))


@torch.no_grad()
@pytest.mark.parametrize(("steps", "text", "image"), [(3, 7.5, 1.5), (10, 3.0, 3.0)])
def test_is_diffusers_pipeline_told_the_edit_heads_states(steps, text, image, tmp_path_factory):
    folder = tiny(tmp_path_factory.mktemp("mgie"), "mgie")
    bundle, pipe = load(folder, "cpu"), StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pixels = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(5))
    rgb_HWC = (pixels[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    mllm, editor = bundle.mllm(), registry.get("mgie")
    [answer] = mllm.answer(["make it winter"], [rgb_HWC])
    theirs = pipe(
        prompt_embeds=mllm.head(answer.hidden_ND[None], mllm.embeddings_ND),
        negative_prompt_embeds=mllm.head(torch.zeros_like(answer.hidden_ND)[None], mllm.embeddings_ND),
        image=pixels,
        generator=torch.Generator().manual_seed(11),
        output_type="latent",
        num_inference_steps=steps,
        guidance_scale=text,
        image_guidance_scale=image,
    ).images
    request = request_for(instruction="make it winter", editor="mgie", seed=11, steps=steps)
    source = bundle.codec.encode(pixels * 2 - 1)
    knobs = editor.Knobs(guidance=text, image_guidance=image)
    context = Context(bundle, request, knobs, tuple(source.shape), source, picture=open_picture(rgb_HWC))
    ours = run(editor.path(context, editor.prepare_together([context])[0]), bundle.denoiser)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_guided_by_text_is_instruct_told_the_expressive_instruction(order, taught):
    for row in taught[:2]:
        by_text = edit_one(order(row, knobs={"guided_by": "text"}))
        assert np.array_equal(by_text.rgb_HWC, edit_one(order((row[2], row[1]), "instruct")).rgb_HWC)
        assert not np.array_equal(by_text.rgb_HWC, edit_one(order(row)).rgb_HWC)


def test_the_instruction_in_full_may_be_said(order, taught, monkeypatch):
    asked = edit_one(order(taught[0]))
    monkeypatch.setattr(LlavaForConditionalGeneration, "generate", lambda *args, **how: pytest.fail("generated"))
    said = edit_one(order(taught[0], knobs={"expressive": taught[0][2]}))
    assert said.record["expressive"] == taught[0][2]
    assert said.record["img_tokens_forced"] is False
    assert np.array_equal(said.rgb_HWC, asked.rgb_HWC)
    other = edit_one(order(taught[0], knobs={"expressive": "add a cow."}))
    assert not np.array_equal(other.rgb_HWC, said.rgb_HWC)
    assert other.request.knobs["expressive"] == "add a cow."


@pytest.mark.parametrize("said", ["", "  \n"])
def test_nothing_said_in_full_is_refused(said, order):
    with pytest.raises(KnobError, match="expressive is empty"):
        edit_one(order("make it blue", knobs={"expressive": said}))


@pytest.mark.parametrize("words", ["夜にして", "\U0001f389" * 3, "[IMG0] <im_patch>"])
def test_words_that_are_not_known(words, order):
    cache = PrepareCache(max_bytes=0)
    for _ in range(2):  # asked, and kept
        warnings = edit_one(order(words), cache=cache).record["warnings"]
        assert any("knows few of the instruction's words" in warning for warning in warnings)
    said = edit_one(order(words, knobs={"expressive": "a dog"})).record["warnings"]
    assert not any("knows few" in warning for warning in said)
    assert not any("knows few" in warning for warning in edit_one(order("a dog")).record["warnings"])


def test_more_is_said_than_is_read(order):
    with pytest.raises(KnobError, match=r"expressive is .*, but takes text of at most 1000 characters"):
        edit_one(order("make it blue", knobs={"expressive": "x" * 1001}))
    with pytest.raises(KnobError, match=r"expressive is .*, but takes text in UTF-8"):
        edit_one(order("make it blue", knobs={"expressive": "\ud800"}))
    for fields in ({"row": "a " * 2000}, {"row": "a dog", "knobs": {"expressive": "a " * 500}}):
        warnings = edit_one(order(**fields)).record["warnings"]
        assert any("more tokens than the language model reads" in warning for warning in warnings), fields
    by_text = edit_one(order("a dog", knobs={"expressive": "a " * 500, "guided_by": "text"}))
    [warning] = by_text.record["warnings"]
    assert "the text encoder reads" in warning
    with pytest.raises(RequestError, match="4000"):
        edit_one(order("a" * 4001))


@pytest.mark.parametrize("words", ["\U0001f404", "Mach es blau, größer & schöner!", "青くして", "[IMG0] <im_patch>"])
@pytest.mark.parametrize("name", ["mgie", "lgie"])
def test_any_words_edit(words, name, order, tmp_path):
    result = edit_one(replace(order(words, name), out=tmp_path / "out.png"))
    assert result.rgb_HWC.shape == (20, 30, 3)
    said = edit_one(replace(order("a dog", name, knobs={"expressive": words}), out=tmp_path / "said.jpg"))
    assert said.record["expressive"] == words


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (9, 7), (9, 7, 4)])
def test_any_picture_is_edited(shape, order):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert edit_one(order(("a dog", pixels))).rgb_HWC.shape[:2] == shape[:2]


def test_what_was_understood_is_kept(order, taught, calls, tmp_path):
    """In memory and on disk; of all knobs, only those that the answer depends on ask again."""
    first = edit_one(order(taught[0]), cache=PrepareCache(tmp_path))
    assert calls == [1]
    cache = PrepareCache(tmp_path)
    for changed in (
        {},
        {"knobs": {"guidance": 2.0}},
        {"knobs": {"image_guidance": 2.0}},
        {"knobs": {"guided_by": "text"}},
        {"seed": 3},
        {"steps": 2},
    ):
        again = edit_one(order(taught[0], **changed), cache=cache)
        assert again.record["expressive"] == first.record["expressive"]
        assert again.record["img_tokens_forced"] is False
        assert "language" not in again.record["seconds"]
    assert np.array_equal(edit_one(order(taught[0]), cache=cache).rgb_HWC, first.rgb_HWC)
    assert calls == [1]
    for changed in (order(taught[1]), order(taught[3]), order(taught[0], "lgie"), order(taught[0], knobs={"expressive": "x"})):
        edit_one(changed, cache=cache)
    assert calls == [1] * 5
    edit_one(order(taught[0], knobs={"vision": False}), cache=cache)  # which is lgie
    assert calls == [1] * 5


def test_an_edit_that_finds_its_answer_loads_no_language_model(order, taught, monkeypatch):
    from paintover.models.bundle import Bundle

    cache = PrepareCache(max_bytes=0)
    first = edit_one(order(taught[0]), cache=cache)
    monkeypatch.setattr(Bundle, "mllm", lambda *args: pytest.fail("loaded"))
    assert np.array_equal(edit_one(order(taught[0]), cache=cache).rgb_HWC, first.rgb_HWC)


def test_edits_together_are_answered_together_and_equal_those_alone(order, taught, calls):
    orders = [order(row) for row in (taught[0], taught[1], taught[3], taught[4])]
    alone = [edit_one(one, cache=PrepareCache(max_bytes=0)) for one in orders]
    calls.clear()
    together = list(edit_many(orders, cache=PrepareCache(max_bytes=0)))
    assert calls == [4]
    for one, other in zip(alone, together, strict=True):
        assert one.record["expressive"] == other.record["expressive"]
        assert one.record["img_tokens_forced"] == other.record["img_tokens_forced"]
        assert np.abs(one.rgb_HWC.astype(int) - other.rgb_HWC).max() <= 1
    calls.clear()
    mixed = [order(taught[0]), order(taught[0], seed=1), order(taught[0], "lgie"), order(taught[1]), order("dusk", "sdedit")]
    assert all(isinstance(one, EditResult) for one in edit_many(mixed, cache=PrepareCache(max_bytes=0)))
    assert calls == [3]  # one question is asked once; with and without the picture, too


def test_what_fails_or_is_given_up_among_several_leaves_the_others(order, taught, calls, monkeypatch):
    counting = Mllm.answer

    def fails(self, instructions, *more):
        if "a dog" in instructions:
            raise torch.OutOfMemoryError("on purpose")
        return counting(self, instructions, *more)

    monkeypatch.setattr(Mllm, "answer", fails)
    orders = [order(taught[0]), order(taught[3]), order(taught[1])]
    outcomes = list(edit_many(orders, cache=PrepareCache(max_bytes=0)))
    assert [type(one) for one in outcomes] == [EditResult, RequestError, EditResult]
    assert "out of memory while the language model" in str(outcomes[1])
    assert calls == [1, 1]
    monkeypatch.undo()
    orders[1] = replace(orders[1], cancelled=lambda: True)
    outcomes = list(edit_many(orders, cache=PrepareCache(max_bytes=0)))
    assert [type(one) for one in outcomes] == [EditResult, Cancelled, EditResult]


def test_a_fault_among_several_is_told(order, taught, calls, monkeypatch):
    """What is no lack of memory fails, and is not tried once more for each."""

    def fails(self, instructions, *more):
        calls.append(len(instructions))
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(Mllm, "answer", fails)
    orders = [order(taught[0]), order(taught[3]), order("dusk", "instruct")]
    outcomes = list(edit_many(orders, cache=PrepareCache(max_bytes=0)))
    assert [type(one) for one in outcomes] == [ZeroDivisionError, ZeroDivisionError, EditResult]
    assert calls == [2]


@pytest.mark.parametrize("fails", ["from_pretrained", "to"])
def test_no_memory_to_load_it(fails, order, taught, talking_bundle, tmp_path, monkeypatch):
    def full(*args, **how):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GB")

    folder = shutil.copytree(talking_bundle, tmp_path / "bundle")
    load(folder, "cpu")  # which needs what fails from here on for its own parts
    monkeypatch.setattr(LlavaForConditionalGeneration, fails, full)
    with pytest.raises(RequestError, match="out of memory while the language model was loaded") as error:
        edit_one(order(taught[0], model=str(folder)))
    assert "\n" not in str(error.value)


def test_redo_repeats_it(order, taught, photo, tmp_path):
    out = tmp_path / "out.png"
    first = edit_one(replace(order(taught[0], picture=str(photo)), picture=None, out=out), cache=PrepareCache(max_bytes=0))
    again = redo(out, cache=PrepareCache(max_bytes=0))
    assert again.identical
    assert again.result.record["expressive"] == first.record["expressive"]


def test_the_file_says_what_was_understood(order, taught, tmp_path):
    from paintover.picture.provenance import read

    edit_one(replace(order(taught[0]), out=tmp_path / "out.png"))
    found = read(tmp_path / "out.png")
    assert found["record"]["expressive"] == taught[0][2]
    assert found["record"]["img_tokens_forced"] is False


def test_a_tuned_model_keeps_its_language_model(talking_bundle):
    from paintover.tuning.apply import applied

    bundle = load(talking_bundle, "cpu")
    assert applied(bundle, {}, "0" * 64).mllm() is bundle.mllm()


def test_a_bundle_without_one_names_those_that_have_it(order, tmp_path):
    with pytest.raises(ModelError, match="mgie"):
        edit_one(order("make it blue", model=str(tiny(tmp_path, "builtin"))))


def test_an_edit_head_of_another_denoiser(order, tmp_path, talking_bundle):
    from paintover.models.edit_head import EditHead
    from paintover.models.mllm_file import save_mllm

    folder = shutil.copytree(talking_bundle, tmp_path / "bundle")
    mllm = load(talking_bundle, "cpu").mllm()
    other = Mllm(mllm.model, mllm.tokenizer, EditHead(**{**mllm.head.config, "out": 48}), mllm.wording, (0.5,) * 3, (0.5,) * 3)
    save_mllm(other, folder)
    with pytest.raises(ModelError, match="width 48"):
        edit_one(order("make it blue", model=str(folder)))


def test_the_command_line_says_what_was_understood(talking_bundle, photo, tmp_path, capfd, monkeypatch):
    from paintover.cli import app

    monkeypatch.chdir(tmp_path)
    usual = ["--model", str(talking_bundle), "--steps", "2", "--editor", "lgie", "--json"]

    def said(*words: str) -> tuple[str, dict]:
        app([*words], standalone_mode=False)
        out, err = capfd.readouterr()
        return err, json.loads(out)

    err, found = said("edit", str(photo), "make it blue", *usual, "-o", "out.png")
    assert err == "understood: blue.\n"
    assert found["record"]["expressive"] == "blue."
    err, found = said("redo", "out.png", "--json")
    assert err == "understood: blue.\n"
    assert found["identical"]
    err, found = said("edit", str(photo), "make it blue", *usual, "--expressive", "a cow", "--bits", "16", "-o", "full.png")
    assert err == "understood: a cow\n"
    err, found = said("sweep", str(photo), "make it blue", *usual, "--x", "guidance=1,3", "-o", "grid.png")
    assert err == "understood: blue.\n"
    assert [cell["record"]["expressive"] for cell in found["cells"]] == ["blue."] * 2
    line = {"picture": str(photo), "instruction": "make it blue", "model": str(talking_bundle), "editor": "lgie", "steps": 2}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line) + "\n")
    err, found = said("batch", "jobs.jsonl", "-o", "made", "--json")
    assert "line 1: done" in err
    assert err.endswith("(understood: blue.)\n")
    [result] = map(json.loads, (tmp_path / "made" / "results.jsonl").read_text().splitlines())
    assert result["record"]["expressive"] == "blue."
    app(["editors", "mgie"], standalone_mode=False)
    listed = capfd.readouterr().out
    assert all(flag in listed for flag in ("--guidance", "--expressive", "--guided-by", "--bits", "--vision"))
