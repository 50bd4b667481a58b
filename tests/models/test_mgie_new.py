"""MGIE before training: what it takes over, what is new, and that it can be used at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLInstructPix2PixPipeline
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from paintover import cli
from paintover.conditions import mgie as conditions
from paintover.errors import ModelError
from paintover.models import bundle
from paintover.models.mgie_new import fresh, new_mgie
from paintover.orders.order import Order, request_for
from paintover.orders.run import edit_one

PLACES = {  # tokens that the LLaVA knows already, and how many rows of embeddings it has for its 100-odd tokens
    "as transformers has it": (["<image>", "<pad>"], 128),
    "as the first LLaVA had it": (["<im_patch>", "<im_start>", "<im_end>"], None),
}


def small_llava(folder, known: list[str], rows: int | None):
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = ["<unk>", "<s>", "</s>", "\u2581", *(chr(code) for code in range(33, 127))]
    letters = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    letters.add_special_tokens(["<unk>", "<s>", "</s>", *known])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    common = {"num_attention_heads": 4, "num_hidden_layers": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=16, intermediate_size=32, image_size=28, patch_size=14, **common),
        text_config=LlamaConfig(hidden_size=24, intermediate_size=48, vocab_size=rows or len(tokenizer), **common),
        image_token_index=tokenizer.convert_tokens_to_ids(known[0]),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(5)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=PLACES)
def llava(request, tmp_path_factory):
    return small_llava(tmp_path_factory.mktemp("llava"), *PLACES[request.param])


@pytest.fixture
def picture():
    return np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@torch.no_grad()
def test_a_text_to_image_model_becomes_an_mgie(llava, tiny_bundle, picture, tmp_path):
    base = tiny_bundle("text-to-image")
    new_mgie(llava, base, tmp_path / "out")
    made, before = bundle.load(tmp_path / "out", device="cpu"), bundle.load(base, device="cpu")
    assert {"mgie", "instruct"} <= made.capabilities
    x_BCHW, tokens_BLD = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32)
    t_B = torch.tensor([3, 700])
    says = made.denoiser(x_BCHW, t_B, tokens_BLD, image_BCHW=torch.randn(2, 4, 8, 8))
    torch.testing.assert_close(says, made.denoiser(x_BCHW, t_B, tokens_BLD), atol=0, rtol=0)  # it does not look yet
    torch.testing.assert_close(says, before.denoiser(x_BCHW, t_B, tokens_BLD), atol=0.02, rtol=0.01)  # half precision
    mllm = made.mllm()
    answers = mllm.answer(["make it night"] * 2, [picture, None])
    told, _ = conditions.told(mllm, made.denoiser, torch.stack([answer.hidden_ND for answer in answers]))
    assert told.shape == (2, 77, 32)
    assert all(answer.hidden_ND.shape == (8, 24) for answer in answers)


def test_sdxl_becomes_one_too(llava, tiny_bundle, picture, tmp_path):
    new_mgie(llava, tiny_bundle("sdxl-refiner"), tmp_path / "out")
    made = bundle.load(tmp_path / "out", device="cpu")
    assert {"mgie", "instruct", "unet"} <= made.capabilities
    assert made.refiner is not None
    assert isinstance(DiffusionPipeline.from_pretrained(tmp_path / "out"), StableDiffusionXLInstructPix2PixPipeline)
    request = request_for(instruction="make it night", editor="mgie", model=str(tmp_path / "out"), steps=3, preserve=False)
    edited = edit_one(Order(request, picture)).rgb_HWC
    assert edited.shape == picture.shape
    assert not np.array_equal(edited, picture)


def test_a_llava_that_knows_the_tokens_keeps_what_it_has_of_them(tiny_bundle, tmp_path):
    known = ["<im_patch>", "<im_start>", "<im_end>", "[IMG0]", "[IMG1]"]
    folder = small_llava(tmp_path / "llava", known, None)
    mllm, _ = fresh(folder, tiny_bundle("instruct"), tokens=2)
    before = LlavaForConditionalGeneration.from_pretrained(folder).get_input_embeddings().weight
    assert torch.equal(mllm.model.get_input_embeddings().weight, before)


@torch.no_grad()
def test_new_tokens_are_the_mean_of_the_others(llava, tiny_bundle):
    mllm, _ = fresh(llava, tiny_bundle("instruct"), tokens=3)
    old = LlavaForConditionalGeneration.from_pretrained(llava)
    known = PreTrainedTokenizerFast.from_pretrained(llava).get_vocab()
    vocabulary = mllm.tokenizer.get_vocab()
    new = [vocabulary[token] for token in vocabulary if token not in known]
    assert {*mllm.image_ids} <= {*new}
    assert len({*mllm.image_ids}) == 3
    pairs = zip(_ends(mllm.model), _ends(old), strict=True)
    for now_ND, then_ND in pairs:
        others_ND = then_ND[: len(known)]
        torch.testing.assert_close(now_ND[new], others_ND.mean(dim=0).expand(len(new), -1))
        torch.testing.assert_close(now_ND[: len(known)], others_ND, atol=0, rtol=0)
        assert len(now_ND) >= len(vocabulary)


def _ends(model):
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


def test_the_head_has_the_published_shape_as_wide_as_the_text(llava, tiny_bundle):
    mllm, unet = fresh(llava, tiny_bundle("instruct"))
    assert unet is None
    sizes = mllm.head.config
    assert (sizes["width"], sizes["out"], sizes["queries"], sizes["layers"], sizes["heads"]) == (24, 32, 77, 4, 4)
    assert sizes["hidden"] == 20  # 512 / 768 of 32, in fours
    again, _ = fresh(llava, tiny_bundle("instruct"))
    other, _ = fresh(llava, tiny_bundle("instruct"), seed=1)
    assert torch.equal(again.head.query, mllm.head.query)
    assert not torch.equal(other.head.query, mllm.head.query)


def test_a_model_that_takes_a_picture_is_left_as_it_is(llava, tiny_bundle, tmp_path):
    base = tiny_bundle("builtin")
    new_mgie(llava, base, tmp_path / "out", tokens=4)
    made = bundle.load(tmp_path / "out", device="cpu")
    assert made.capabilities == bundle.load(base, device="cpu").capabilities | {"mgie"}
    file = "unet/diffusion_pytorch_model.safetensors"
    was, now = load_file(base / file), load_file(tmp_path / "out" / file)
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)
    assert len(made.mllm().image_ids) == 4


@pytest.mark.parametrize("kind", ["flow", "cascade"])
def test_a_base_that_cannot_take_a_picture_is_refused(llava, tiny_bundle, kind):
    with pytest.raises(ModelError, match="no UNet that could take a source picture"):
        fresh(llava, tiny_bundle(kind))


def test_another_folder_than_llava_is_refused(tiny_bundle, tmp_path):
    for text, line in (
        (None, "no plain LLaVA"),
        ('{"model_type": "llava", "mm_hidden_size": 1024}', "paintover models import llava"),
        ('{"model_type": "llava", "auto_map": {}}', "no plain LLaVA"),
        ('{"model_type": "llava"}', "has no .*model.safetensors"),
    ):
        if text is not None:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=line):
            fresh(tmp_path, tiny_bundle("instruct"))
    with pytest.raises(ModelError, match="token or more, not 0"):
        fresh(tmp_path, tiny_bundle("instruct"), tokens=0)


def test_the_command_makes_one(llava, tiny_bundle, tmp_path, capsys):
    words = [
        "models",
        "new-mgie",
        "--llava",
        str(llava),
        "--base",
        str(tiny_bundle("text-to-image")),
        "-o",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--image-tokens", "2"])
    assert (ended.value.code, capsys.readouterr().out.strip()) == (0, str(tmp_path / "out"))
    assert len(bundle.load(tmp_path / "out", device="cpu").mllm().image_ids) == 2
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "--force" in capsys.readouterr().err
