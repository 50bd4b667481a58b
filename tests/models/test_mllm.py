"""The multimodal language model: answers in a batch, the states that it imagines an edit in, and whatever it may be asked."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from paintover.errors import ModelError
from paintover.models import bundle as bundles
from paintover.models import mllm_file
from paintover.models.answering import MOST_TOKENS, tidy
from paintover.models.bundle import load
from paintover.models.mllm import Mllm
from paintover.models.mllm_file import save_mllm
from paintover.models.tiny import tiny


@pytest.fixture(scope="module")
def mllm(talking_bundle) -> Mllm:
    return load(talking_bundle, "cpu").mllm()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Mllm:
    """One of random weights: it says anything, and never its [IMG] tokens."""
    return load(tiny(tmp_path_factory.mktemp("random"), "mgie"), "cpu").mllm()


def asked(rows) -> tuple[list, list]:
    return [words for words, *_ in rows], [picture for _, picture, *_ in rows]


def test_answers_of_a_batch_are_those_of_each_alone(mllm, taught):
    """Of other lengths, some with a picture and some without, some that say their [IMG] tokens and some that do not."""
    rows = [*taught, *taught[::-1]]
    together = mllm.answer(*asked(rows))
    assert [(answer.text, not answer.forced) for answer in together] == [(text, says) for *_, text, says in rows]
    for row, answer in zip(rows, together, strict=True):
        [alone] = mllm.answer(*asked([row]))
        assert (alone.text, alone.forced) == (answer.text, answer.forced)
        torch.testing.assert_close(alone.hidden_ND, answer.hidden_ND, rtol=0, atol=1e-4)


def test_answers_of_random_weights_in_a_batch_are_those_of_each_alone(stranger, taught):
    rows = taught[:4]
    for row, answer in zip(rows, stranger.answer(*asked(rows)), strict=True):
        [alone] = stranger.answer(*asked([row]))
        assert answer.forced
        assert alone.text == answer.text
        torch.testing.assert_close(alone.hidden_ND, answer.hidden_ND, rtol=0, atol=1e-4)


def test_states_are_those_of_the_words_that_are_told(mllm, taught):
    """After the final norm, at the positions that predict [IMG0], [IMG1], ...: as transformers computes them of the whole."""
    for words, picture, text, says in taught[:4]:
        [answer] = mllm.answer([words], [picture])
        assert says
        assert not answer.forced
        question = mllm.question(words, picture is not None)
        row = [*question, *mllm.tokenizer(text, add_special_tokens=False)["input_ids"], *mllm.image_ids]
        pixels = {} if picture is None else {"pixel_values": mllm.see(picture)[None]}
        with torch.no_grad():
            states_BLD = mllm.model.model(input_ids=torch.tensor([row]), **pixels).last_hidden_state
        n = len(mllm.image_ids)
        torch.testing.assert_close(answer.hidden_ND, states_BLD[0, -n - 1 : -1], rtol=0, atol=1e-4)


def test_the_words_that_are_told_repeat_the_answer_bit_for_bit(mllm, stranger, taught):
    """Those of random weights are more than two sentences' worth of anything, and are tidied."""
    for model in (mllm, stranger):
        for words, picture, *_ in taught:
            [said] = model.answer([words], [picture])
            [given] = model.answer([words], [picture], [said.text])
            assert (given.text, given.cut) == (said.text, said.cut)
            assert torch.equal(given.hidden_ND, said.hidden_ND)


def test_what_is_left_out_of_the_words_is_not_imagined(mllm, monkeypatch):
    """The states are of what is told, not of all that was said."""
    long = mllm.ids("add a dog. and a cow. and a hen.")
    said = torch.tensor([[*mllm.question("a dog", False), *long, *mllm.image_ids]])
    monkeypatch.setattr(mllm.model, "generate", lambda **how: said)
    [answer] = mllm.answer(["a dog"], [None])
    assert (answer.text, answer.forced) == ("add a dog. and a cow.", False)
    [given] = mllm.answer(["a dog"], [None], ["add a dog. and a cow."])
    assert torch.equal(answer.hidden_ND, given.hidden_ND)


def test_missing_tokens_are_put_behind_what_was_said_and_flagged(mllm, taught):
    for words, picture, text, _ in taught[4:]:
        [answer] = mllm.answer([words], [picture])
        assert answer.forced
        assert answer.text == text
        [given] = mllm.answer([words], [picture], [text])
        assert not given.forced
        torch.testing.assert_close(answer.hidden_ND, given.hidden_ND, rtol=0, atol=1e-5)


def test_tokens_that_are_not_said_whole_count_as_missing(mllm):
    changed = copy.deepcopy(mllm)
    n, width = changed.model.lm_head.weight.shape
    changed.model.lm_head = torch.nn.Linear(width, n)
    changed.model.lm_head.weight.data.zero_()
    changed.model.lm_head.bias.data.zero_()[[changed.image_ids[0], changed.tokenizer.eos_token_id]] = torch.tensor([9.0, 8.0])
    [answer] = changed.answer(["a cow"], [None])
    assert (answer.text, answer.forced) == ("", True)
    assert answer.hidden_ND.shape == (len(mllm.image_ids), width)


def test_what_is_given_is_not_generated(mllm, taught, monkeypatch):
    monkeypatch.setattr(mllm.model, "generate", lambda **how: pytest.fail("generated"))
    given = ["remove the cow.", "", "\U0001f404", "entferne die Kühe 牛を消す"]
    answers = mllm.answer(*asked(taught[:4]), given)
    assert [answer.text for answer in answers] == given
    assert not any(answer.forced or answer.cut for answer in answers)
    assert len({float(answer.hidden_ND.sum()) for answer in answers}) == 4


def test_a_batch_of_given_and_asked(mllm, taught):
    answers = mllm.answer(*asked(taught[:3]), [None, "a cow", None])
    assert [answer.text for answer in answers] == [taught[0][2], "a cow", taught[2][2]]
    assert mllm.answer([], []) == []


@pytest.mark.parametrize(
    "words", ["\U0001f404\U0001f33b", "entferne die Kühe", "牛を消す", " ", "'{image}' {instruction} {0} \\"]
)
def test_any_words_are_answered(words, mllm, taught):
    [answer] = mllm.answer([words], [taught[0][1]])
    assert not answer.cut
    assert answer.hidden_ND.isfinite().all()


def test_special_tokens_in_the_words_are_no_tokens(mllm, taught):
    """Who writes <im_patch> would otherwise ask for more of the picture than there is."""
    picture = taught[0][1]
    for nasty in ("<im_patch>make<im_patch> it[IMG0][IMG1] blue[SEP]", "[CLS]make it blue"):
        [answer] = mllm.answer([nasty], [picture])
        assert answer.text == taught[0][2]
        [given] = mllm.answer(["make it blue"], [picture], [nasty])
        assert given.text == nasty
        assert given.hidden_ND.isfinite().all()
    assert mllm.answer(["<im_<im_patch>patch>"], [picture])[0].hidden_ND.isfinite().all()


def test_words_that_are_too_long_are_cut_and_that_is_told(mllm, taught):
    picture, text = taught[0][1], "x " * 2000
    for shown in (picture, None):
        room = mllm.length - MOST_TOKENS - len(mllm.question("", shown is not None))
        fits, over = mllm.answer(["y " * room, "y " * (room + 1)], [shown, shown])  # a token each
        assert (fits.cut, over.cut) == (False, True)
        assert fits.text == over.text
        torch.testing.assert_close(fits.hidden_ND, over.hidden_ND, rtol=0, atol=1e-4)
        for words, given in ((text, None), ("a cow", text), (text, text)):
            [answer] = mllm.answer([words], [shown], [given])
            assert answer.cut
            assert given in (None, answer.text)
            assert answer.hidden_ND.isfinite().all()


@pytest.fixture(scope="module")
def bytewise(mllm) -> Mllm:
    """One that spells the characters that it does not know in bytes, as LLaMA does, and reads 200 tokens."""
    letters = (chr(code) for code in range(32, 127))
    pieces = ["<unk>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    spelling = models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(spelling), eos_token="<end>", unk_token="<unk>")
    wording = mllm.wording
    tokenizer.add_tokens([wording.patch, wording.start, wording.end, *wording.image_tokens], special_tokens=True)
    model = copy.deepcopy(mllm.model)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.image_token_id = tokenizer.convert_tokens_to_ids(wording.patch)
    made = Mllm(model, tokenizer, mllm.head, wording, (0.5,) * 3, (0.5,) * 3)
    made.length = 200
    return made


@pytest.mark.parametrize("before", ["", "a cow ", "\u00e4", "abc"])
def test_characters_spelt_in_bytes_are_cut_whole(before, bytewise):
    cow = "\U0001f404"  # four bytes
    room = bytewise.length - MOST_TOKENS - len(bytewise.question(before, False))
    fits, over, far = bytewise.answer([before + n * cow for n in (room // 4, room // 4 + 1, 400)], [None] * 3)
    assert (fits.cut, over.cut, far.cut) == (False, True, True)
    torch.testing.assert_close(fits.hidden_ND, over.hidden_ND, rtol=0, atol=1e-4)
    torch.testing.assert_close(fits.hidden_ND, far.hidden_ND, rtol=0, atol=1e-4)
    room = bytewise.length - len(bytewise.question("", False)) - len(bytewise.image_ids) - 1
    room -= len(bytewise.tokenizer(before)["input_ids"])
    said = [before + n * cow for n in (room // 4, room // 4 + 1, 400)]
    fits, over, far = bytewise.answer([""] * 3, [None] * 3, said)
    assert (fits.cut, over.cut, far.cut) == (False, True, True)
    torch.testing.assert_close(fits.hidden_ND, over.hidden_ND, rtol=0, atol=1e-4)
    torch.testing.assert_close(fits.hidden_ND, far.hidden_ND, rtol=0, atol=1e-4)


def test_a_question_that_leaves_no_room(mllm, taught):
    short = copy.copy(mllm)
    short.length = 110
    with pytest.raises(ModelError, match="reads 110 tokens"):
        short.answer(["a cow"], [taught[0][1]])


@pytest.mark.parametrize("shape", [(1, 1, 3), (10_000, 1, 3), (1, 10_000, 3), (7, 9), (7, 9, 4)])
def test_any_picture_is_seen(shape, mllm):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    view_CHW = mllm.see(pixels)
    assert view_CHW.shape == (3, mllm.size, mllm.size)
    assert view_CHW.isfinite().all()
    assert view_CHW.abs().max() > 0.02  # the mean colour is 0
    assert mllm.answer(["a dog"], [pixels])[0].hidden_ND.isfinite().all()


def test_a_picture_is_seen_whole_in_the_middle(mllm):
    view_CHW = mllm.see(np.full((10, 40, 3), 255, np.uint8))
    assert torch.equal(view_CHW[:, mllm.size // 2], torch.ones(3, mllm.size))
    assert view_CHW[:, 0].abs().max() < 0.01


def test_only_the_answers_own_words_are_not_said_twice(mllm):
    """A model that says the same token for ever: the question may have had it three times in a row, an answer may not."""
    changed = copy.deepcopy(mllm)
    n, width = changed.model.lm_head.weight.shape
    changed.model.lm_head = torch.nn.Linear(width, n)
    changed.model.lm_head.weight.data.zero_()
    [x], [y] = changed.ids("x"), changed.ids("y")
    changed.model.lm_head.bias.data.zero_()[[x, y, changed.tokenizer.eos_token_id]] = torch.tensor([9.0, 8.0, 7.0])
    for size in (3, 4):
        changed.wording = replace(mllm.wording, no_repeat_ngram=size)
        [answer] = changed.answer(["x x x x x y x x"], [None])
        said = answer.text.replace(" ", "")
        assert said.startswith("x" * size + "y")
        assert len({said[i : i + size] for i in range(len(said) - size + 1)}) == len(said) - size + 1
        [other] = changed.answer(["z"], [None])
        assert other.text == answer.text


def test_a_models_own_settings_neither_make_chance_nor_noise(talking_bundle, taught, tmp_path, capfd):
    folder = shutil.copytree(talking_bundle, tmp_path / "bundle")
    settings = {
        "do_sample": True, "temperature": 9.0, "top_p": 0.3, "top_k": 3, "repetition_penalty": 5.0, "max_length": 3,
        "num_beams": 4, "suppress_tokens": [5, 9], "bad_words_ids": [[20]], "min_new_tokens": 90, "eos_token_id": 50,
    }  # fmt: skip
    (folder / "mgie" / "language_model" / "generation_config.json").write_text(json.dumps(settings))
    answers = load(folder, "cpu").mllm().answer(*asked(taught))
    assert [answer.text for answer in answers] == [text for _, _, text, _ in taught]
    assert capfd.readouterr() == ("", "")


def test_half_precision(mllm, taught):
    half = copy.deepcopy(mllm)
    half.model.to(torch.bfloat16)
    answers = half.answer(*asked(taught[:4]))
    assert [answer.hidden_ND.dtype for answer in answers] == [torch.float32] * 4
    exact, rough = (m.guide(m.answer(*asked(taught[:1]))[0].hidden_ND[None]) for m in (mllm, half))
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().max() < 0.2 * exact.abs().max()


def test_saving_keeps_the_model_and_what_it_answers(mllm, taught, tmp_path, talking_bundle):
    before = copy.deepcopy(mllm)
    shutil.copytree(talking_bundle, tmp_path, dirs_exist_ok=True)
    save_mllm(before, tmp_path)
    assert before.model.dtype == torch.float32
    again = load(tmp_path, "cpu").mllm()
    assert [answer.text for answer in again.answer(*asked(taught))] == [text for _, _, text, _ in taught]
    assert again.wording == mllm.wording


def test_one_is_kept_and_forgotten_before_another_is_loaded(talking_bundle, tmp_path, monkeypatch):
    """Two of seven billion parameters may be more than there is room for."""
    one, other = (load(shutil.copytree(talking_bundle, tmp_path / name), "cpu") for name in ("one", "other"))
    first, made = weakref.ref(one.mllm()), bundles.load_mllm
    assert one.mllm() is first()

    def loading(*args):
        assert first() is None
        return made(*args)

    monkeypatch.setattr(bundles, "load_mllm", loading)
    assert other.mllm() is other.mllm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this version"),
        ({"format": None}, "format None"),
        ({"wording": {"end": "x"}}, "damaged: KeyError"),
        *(
            ({"wording": {"prompt": prompt, "image_tokens": ["[IMG0]"]}}, "prompt is no text")
            for prompt in ("{instruction}{image:>1000000000}", "{instruction.__class__}{image}", "x", "{", 5, "{image}" * 2)
        ),
        *(
            ({"wording": {"prompt": "{instruction}{image}", "image_tokens": tokens}}, "names that differ")
            for tokens in ([], ["[IMG0]", "[IMG0]"], ["[IMG0]", 5], ["<im_patch>"])
        ),
        ({"wording": {"prompt": "{instruction}{image}", "image_tokens": ["a", "b"]}}, "has a for a word"),
        ({"wording": {"prompt": "{instruction}{image}", "image_tokens": ["[IMG0]"], "no_repeat_ngram": 0}}, "whole number"),
        *(({"mean": mean}, "mean and std") for mean in ([], [float("nan")] * 3, [1e9, 0, 0], [[0], [0], [0]], [0])),
        *(({"std": std}, "mean and std") for std in ([1, 1], [0, 1, 1])),
        ({"edit_head": {"width": 32, "hidden": 32, "queries": 3, "out": 32}}, "size mismatch|Missing key"),
    ],
)
def test_settings_of_another_format(changes, message, talking_bundle, tmp_path):
    folder = shutil.copytree(talking_bundle, tmp_path / "bundle")
    file = folder / "mgie" / "config.json"
    told = json.loads(file.read_text())
    assert list(told) == ["format", "wording", "edit_head", "mean", "std"]
    file.write_text(json.dumps(told | changes))
    with pytest.raises(ModelError, match=message) as error:
        load(folder, "cpu").mllm()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("vision_config", {"image_size": 0}),
        ("vision_config", {"image_size": -16}),
        ("vision_config", {"num_hidden_layers": -1}),
        ("text_config", {"num_hidden_layers": 0}),
        (None, {"vision_feature_layer": 99}),
        (None, {"vision_feature_select_strategy": "full"}),
    ],
)
def test_a_language_model_whose_config_is_wrong(part, changes, talking_bundle, tmp_path):
    folder = shutil.copytree(talking_bundle, tmp_path / "bundle")
    file = folder / "mgie" / "language_model" / "config.json"
    told = json.loads(file.read_text())
    (told if part is None else told[part]).update(changes)
    file.write_text(json.dumps(told))
    with pytest.raises(ModelError) as error:
        load(folder, "cpu").mllm()
    assert len(str(error.value).splitlines()) == 1


def test_a_language_model_whose_weights_are_broken(mllm, talking_bundle, tmp_path):
    broken = copy.deepcopy(mllm)
    broken.head.query.data[:] = torch.nan
    folder = shutil.copytree(talking_bundle, tmp_path / "bundle")
    save_mllm(broken, folder)
    with pytest.raises(ModelError, match="not finite; its weights are broken"):
        load(folder, "cpu").mllm()


def test_the_convolutional_vision_tower_is_known_to_whoever_loads_one(mllm, talking_bundle, tmp_path):
    """In a process of its own, since this one knows it once it has been imported."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from paintover.models.conv_tower import ConvTowerConfig

    tower = ConvTowerConfig(image_size=mllm.size, widths=(32, 32), layers=1)
    layer = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    told = {**mllm.model.config.to_dict(), "vision_config": tower, **layer}
    config = LlavaConfig(**{name: told[name] for name in told if name not in ("architectures", "dtype", "model_type")})
    model = LlavaForConditionalGeneration(config)
    folder = shutil.copytree(talking_bundle, tmp_path / "bundle")
    save_mllm(Mllm(model, mllm.tokenizer, mllm.head, mllm.wording, (0.5,) * 3, (0.5,) * 3), folder)
    code = "import numpy, sys; from paintover.models.bundle import load; mllm = load(sys.argv[1], 'cpu').mllm(); "
    code += "mllm.answer(['x'], [numpy.full((9, 9, 3), 200, numpy.uint8)])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_tokens_by_other_numbers(mllm):
    """Numbers are looked up by name, in the order that the wording has."""
    tokens = mllm.wording.image_tokens
    wording = type(mllm.wording)(mllm.wording.prompt, tokens[::-1])
    turned = Mllm(copy.deepcopy(mllm.model), mllm.tokenizer, mllm.head, wording, (0.5,) * 3, (0.5,) * 3)
    assert turned.image_ids == mllm.image_ids[::-1] != list(range(32003, 32003 + len(tokens)))
    assert torch.equal(turned.embeddings_ND, mllm.embeddings_ND.flip(0))
    [answer] = turned.answer(["make it blue"], [None])
    assert answer.forced  # it says [IMG0] first, which here is the last
    assert answer.text == "blue."


def test_a_tokenizer_of_another_model(mllm):
    def made(tokenizer, **wording) -> Mllm:
        said = type(mllm.wording)(**{"prompt": "p", "image_tokens": mllm.wording.image_tokens, **wording})
        return Mllm(mllm.model, tokenizer, mllm.head, said, (0.5,) * 3, (0.5,) * 3)

    def other(**named) -> PreTrainedTokenizerFast:
        tokenizer = copy.deepcopy(mllm.tokenizer)
        for name, value in named.items():
            setattr(tokenizer, name, value)
        return tokenizer

    assert made(mllm.tokenizer).image_ids == mllm.image_ids
    with pytest.raises(ModelError, match=r"no \[IMG9\]"):  # not the number of the unknown token
        made(mllm.tokenizer, image_tokens=("[IMG0]", "[IMG9]"))
    with pytest.raises(ModelError, match="names"):
        made(mllm.tokenizer, patch="<im_start>")
    with pytest.raises(ModelError, match="end of a text"):
        made(other(eos_token=None))
    larger = other()
    larger.add_tokens(["one", "more"])
    with pytest.raises(ModelError, match="another model"):
        made(larger)


@pytest.mark.parametrize(
    ("bits", "message"), [(8, "pip install bitsandbytes"), (4, "pip install bitsandbytes"), (3, "16, 8 or 4")]
)
def test_fewer_bits_than_there_are(bits, message, talking_bundle, monkeypatch):

    find = mllm_file.find_spec
    monkeypatch.setattr(mllm_file, "find_spec", lambda name, *more: None if name == "bitsandbytes" else find(name, *more))
    with pytest.raises(ModelError, match=message) as error:
        load(talking_bundle, "cpu").mllm(bits)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("", ""),
        ("  remove   the cow. ", "remove the cow."),
        ("Make it 1.5 times as bright. Keep the sky. And more.", "Make it 1.5 times as bright. Keep the sky."),
        ("Make it night. Alternative: dusk.", "Make it night."),
        ("add an alternatively coloured cow", "add an"),
        ("Make it night, or alternatively dusk", "Make it night, or"),
        ("Make it night (alternatively: dusk)", "Make it night"),
        ("Alternatively, paint it red.", "Alternatively, paint it red."),
        ("Is it? Yes! No.", "Is it? Yes!"),
    ],
)
def test_an_answer_as_people_read_it(said, read):
    assert tidy(said) == read
