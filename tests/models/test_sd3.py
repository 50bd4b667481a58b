"""Stable Diffusion 3 in small: what diffusers makes of the same folder, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from paintover.errors import ModelError, RequestError
from paintover.models import load
from paintover.models.description import describe
from paintover.models.files import fingerprint
from paintover.models.hub import choose
from paintover.models.taps import Taps

WORDS = "a cow on a hill"


@pytest.fixture(scope="module")
def pipeline(tiny_bundle):
    from diffusers import StableDiffusion3Pipeline

    return StableDiffusion3Pipeline.from_pretrained(tiny_bundle("flow"))


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle("flow"), tmp_path / "bundle")


def without_t5(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(folder / "text_encoder_3")
    shutil.rmtree(folder / "tokenizer_3")
    return folder


def theirs(pipeline, words):
    tokens, _, pooled, _ = pipeline.encode_prompt(words, words, words, do_classifier_free_guidance=False)
    return tokens, pooled


def test_the_bundle_is_what_diffusers_loads(tiny_bundle, pipeline):
    bundle = load(tiny_bundle("flow"), device="cpu")
    assert bundle.capabilities == {"text-to-image", "flow"}
    assert (bundle.size, bundle.multiple, bundle.most) == (64, 16, 256)
    assert (bundle.codec.channels, bundle.codec.scale, bundle.codec.shift) == (16, 1.5305, 0.0609)
    state = bundle.denoiser.transformer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in pipeline.transformer.state_dict().items())
    assert not any(p.is_meta for p in bundle.denoiser.transformer.buffers())


@pytest.mark.parametrize("words", [WORDS, "", "a cow " * 40])
def test_words_become_what_the_pipeline_makes_of_them(tiny_bundle, pipeline, words):
    tokens, pooled = load(tiny_bundle("flow"), device="cpu").text.encode([words])
    for ours, other in zip((tokens, pooled), theirs(pipeline, words), strict=True):
        assert torch.equal(ours, other)
    assert tokens.shape == (1, 77 + 256, 72)


def test_without_t5_there_are_zeros_in_its_place(copy, pipeline):
    from diffusers import StableDiffusion3Pipeline

    bundle = load(without_t5(copy), device="cpu")
    tokens, pooled = bundle.text.encode([WORDS])
    half = StableDiffusion3Pipeline.from_pretrained(copy, text_encoder_3=None, tokenizer_3=None)
    for ours, other in zip((tokens, pooled), theirs(half, WORDS), strict=True):
        assert torch.equal(ours, other)
    assert not tokens[:, 77:].any()
    assert bundle.text.length == 77
    assert bundle.text.cuts("a cow " * 40)


def test_what_no_encoder_reads_to_its_end_is_told(tiny_bundle):
    text = load(tiny_bundle("flow"), device="cpu").text
    assert not text.cuts("a cow " * 20)  # beyond the CLIPs, but the T5 reads it
    assert text.cuts("a cow " * 80)
    assert text.count("cow") == 3


@pytest.mark.parametrize("size", [(8, 8), (4, 14)])
def test_the_door_speaks_velocity(tiny_bundle, pipeline, size):
    bundle = load(tiny_bundle("flow"), device="cpu")
    x = torch.randn((2, 16, *size), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([900.0, 12.5])
    tokens, pooled = (torch.cat([part, -part]) for part in bundle.text.encode([WORDS]))
    with torch.no_grad():
        other = pipeline.transformer(x, tokens, pooled, t).sample
        assert torch.equal(bundle.denoiser(x, t, tokens, pooled), other)
        each = torch.cat([bundle.denoiser(x[n : n + 1], t[n : n + 1], tokens[n : n + 1], pooled[n : n + 1]) for n in range(2)])
    torch.testing.assert_close(each, other, rtol=0, atol=1e-5)


def test_what_it_cannot_do_is_one_line(tiny_bundle):
    bundle = load(tiny_bundle("flow"), device="cpu")
    x, t = torch.zeros((1, 16, 8, 8)), torch.tensor([500.0])
    tokens, pooled = bundle.text.encode([WORDS])
    with pytest.raises(ModelError, match="pooled"):
        bundle.denoiser(x, t, tokens)
    with pytest.raises(ModelError, match="no channels"):
        bundle.denoiser(x, t, tokens, pooled, x)
    with pytest.raises(ModelError, match="tapped"):
        bundle.denoiser(x, t, tokens, pooled, taps=[Taps()])
    with pytest.raises(RequestError, match="larger than the 32"):
        bundle.denoiser(torch.zeros((1, 16, 8, 34)), t, tokens, pooled)
    with pytest.raises(ModelError, match=r"needs a diffusion model with a UNet; .* is a rectified-flow transformer"):
        bundle.require("unet", editor="diffedit")


def test_half_precision(tiny_bundle):
    bundle = load(tiny_bundle("flow"), device="cpu", dtype=torch.bfloat16)
    tokens, pooled = bundle.text.encode([WORDS])
    answer = bundle.denoiser(torch.ones((1, 16, 8, 8)), torch.tensor([500.0]), tokens, pooled)
    assert (bundle.denoiser.dtype, answer.dtype, tokens.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert answer.isfinite().all()


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2", "text_encoder_3"])
def test_the_fingerprint_follows_every_part(copy, part):
    before = fingerprint(copy)
    file = next((copy / part).glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert fingerprint(copy) != before


def pickled(folder):
    file = folder / "text_encoder_3" / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))


def flux(folder):
    (folder / "transformer" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')


def own_code(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "transformer": ["mine", "SD3Transformer2DModel"]}))


def no_tokenizer(folder):
    (folder / "tokenizer_3" / "tokenizer.json").unlink()


def no_positions(folder):
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pos_embed_max_size": None}))


def another_width(folder):
    shutil.rmtree(folder / "text_encoder_2")
    shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")


def lacking(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "text_encoder_3" / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.block.0.layer.0.SelfAttention.q.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (pickled, "only pickled weights"),
        (flux, "describes 'FluxTransformer2DModel'; supported: SD3Transformer2DModel"),
        (own_code, "its own code"),
        (no_tokenizer, r"tokenizer_3/tokenizer\.json"),
        (no_positions, "could not be loaded|pos_embed_max_size"),
        (another_width, "does not fit together"),
        (lacking, "lack 1 tensors"),
    ],
)
def test_a_broken_bundle_is_one_line(copy, spoil, says):
    spoil(copy)
    with pytest.raises(ModelError, match=says) as caught:
        load(copy, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_download_takes_every_part_once():
    names = ["model_index.json", "sd3_medium.safetensors", "transformer/config.json", "text_encoder_3/config.json"]
    names += ["transformer/diffusion_pytorch_model.safetensors", "tokenizer_3/spiece.model", "tokenizer_3/tokenizer.json"]
    shards = [f"text_encoder_3/model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    half = [f"text_encoder_3/model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    chosen = choose([*names, *shards, *half, "text_encoder_3/model.safetensors.index.json"], "me/sd3")
    assert sorted(chosen) == sorted(
        {*names, *shards, "text_encoder_3/model.safetensors.index.json"}
        - {"sd3_medium.safetensors", "tokenizer_3/spiece.model"}
    )


def test_a_part_that_is_named_must_be_there(copy):
    shutil.rmtree(copy / "text_encoder_3")
    with pytest.raises(ModelError, match=r"text_encoder_3/config\.json"):
        describe(copy, "bundle")
    assert describe(without_t5_index(copy), "bundle").weighty == ("transformer", "vae", "text_encoder", "text_encoder_2")


def without_t5_index(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "text_encoder_3": [None, None]}))
    return folder
