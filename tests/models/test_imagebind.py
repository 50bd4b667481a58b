"""ImageBind's two branches: against transformers' CLIP and filter banks, written-out attention, and the published shapes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import ASTFeatureExtractor, CLIPVisionConfig, CLIPVisionModelWithProjection

from paintover.errors import ModelError
from paintover.models.fbank import fbank, filters
from paintover.models.imagebind import ImageBindEncoder
from paintover.models.imagebind_file import config_of, load_imagebind, write_config
from paintover.models.imagebind_trunk import Branch, ImageBind, Sizes

SMALL = Sizes(
    out=24, vision=Branch(32, 3, 4), size=42, patch=14, audio=Branch(16, 2, 2), bins=32, length=52, audio_patch=16, stride=10
)


def block(at, width, spare=False):
    """The released names of a block."""
    shapes = {f"{at}attn.in_proj_weight": (3 * width, width), f"{at}attn.in_proj_bias": (3 * width,)}
    shapes |= {f"{at}attn.out_proj.weight": (width, width), f"{at}attn.out_proj.bias": (width,)}
    shapes |= {f"{at}attn.bias_{name}": (1, 1, width) for name in "kv"} if spare else {}
    shapes |= {f"{at}norm_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
    shapes |= {f"{at}mlp.fc1.weight": (4 * width, width), f"{at}mlp.fc1.bias": (4 * width,)}
    return shapes | {f"{at}mlp.fc2.weight": (width, 4 * width), f"{at}mlp.fc2.bias": (width,)}


def published():
    """Names and shapes in imagebind_huge.pth of these two branches; the audio branch's fixed scale is left out."""
    v, a = "modality_preprocessors.vision.", "modality_preprocessors.audio."
    vision = {f"{v}cls_token": (1, 1, 1280), f"{v}rgbt_stem.proj.1.weight": (1280, 3, 2, 14, 14)}
    vision |= {f"{v}pos_embedding_helper.pos_embed": (1, 257, 1280)}
    vision |= {f"modality_trunks.vision.pre_transformer_layer.0.{kind}": (1280,) for kind in ("weight", "bias")}
    audio = {f"{a}cls_token": (1, 1, 768), f"{a}rgbt_stem.proj.weight": (768, 1, 16, 16)}
    audio |= {f"{a}rgbt_stem.norm_layer.{kind}": (768,) for kind in ("weight", "bias")}
    audio |= {f"{a}pos_embedding_helper.pos_embed": (1, 229, 768)}
    for i in range(32):
        vision |= block(f"modality_trunks.vision.blocks.{i}.", 1280)
    for i in range(12):
        audio |= block(f"modality_trunks.audio.blocks.{i}.", 768, spare=True)
    for shapes, name, width in ((vision, "vision", 1280), (audio, "audio", 768)):
        shapes |= {f"modality_heads.{name}.0.{kind}": (width,) for kind in ("weight", "bias")}
        shapes[f"modality_heads.{name}.2.weight"] = (1024, width)
    return vision, audio


def count(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


def test_imagebind_huge_has_its_published_names_and_shapes():
    with torch.device("meta"):
        network = ImageBind(Sizes())
        assert network.look(torch.empty(2, 3, 224, 224)).shape == (2, 1024)
        assert network.listen(torch.empty(3, 128, 204)).shape == (3, 1024)
    vision, audio = published()
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == vision | audio
    # CLIP ViT-H/14's tower has 630,766,080 weights and a projection of 1280 x 1024; its patches are of one frame, not two.
    assert count(vision) == 630_766_080 + 1280 * 1024 + 1280 * 3 * 14 * 14
    # ViT-B has 12 blocks of 7,087,872 weights; each has a spare key and value here.
    assert count(audio) == 12 * (7_087_872 + 2 * 768) + 768 * (1 + 256 + 2 + 229 + 2 + 1024)
    encoder = ImageBindEncoder(network)
    assert (encoder.width, encoder.rate, encoder.seconds) == (1024, 16000, 6)


def made(sizes=SMALL, seed=0):
    torch.manual_seed(seed)
    network = ImageBind(sizes).eval().requires_grad_(False)
    for parameter in network.parameters():  # biases and norms begin as nothing, and would not be noticed
        parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return network


def test_the_image_branch_is_clips_vision_tower():
    """With gelu and eps 1e-6, CLIP's tower is the same function: patches of a still film are those of a picture, summed."""
    network = made()
    state = network.state_dict()
    tower = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=42, patch_size=14,
            projection_dim=24, hidden_act="gelu", layer_norm_eps=1e-6,
        )
    ).eval()  # fmt: skip
    trunk = "modality_trunks.vision."
    given = {
        "embeddings.class_embedding": state["modality_preprocessors.vision.cls_token"].flatten(),
        "embeddings.patch_embedding.weight": state["modality_preprocessors.vision.rgbt_stem.proj.1.weight"].sum(dim=2),
        "embeddings.position_embedding.weight": state["modality_preprocessors.vision.pos_embedding_helper.pos_embed"][0],
        "visual_projection.weight": state["modality_heads.vision.2.weight"],
    }
    for kind in ("weight", "bias"):
        given[f"pre_layrnorm.{kind}"] = state[f"{trunk}pre_transformer_layer.0.{kind}"]
        given[f"post_layernorm.{kind}"] = state[f"modality_heads.vision.0.{kind}"]
        for i in range(3):
            there, here = f"encoder.layers.{i}.", f"{trunk}blocks.{i}."
            parts = state[f"{here}attn.in_proj_{kind}"].chunk(3)
            given |= {f"{there}self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
            given[f"{there}self_attn.out_proj.{kind}"] = state[f"{here}attn.out_proj.{kind}"]
            given |= {f"{there}layer_norm{n}.{kind}": state[f"{here}norm_{n}.{kind}"] for n in (1, 2)}
            given |= {f"{there}mlp.fc{n}.{kind}": state[f"{here}mlp.fc{n}.{kind}"] for n in (1, 2)}
    own = tower.state_dict()
    tower.load_state_dict({name: given[name.removeprefix("vision_model.")] for name in own if "position_ids" not in name})
    pixels_BCHW = torch.randn(3, 3, 42, 42)
    with torch.no_grad():
        expected_BE = nn.functional.normalize(tower(pixels_BCHW).image_embeds, dim=-1)
    torch.testing.assert_close(network.look(pixels_BCHW), expected_BE, atol=1e-5, rtol=1e-4)


def test_the_audio_branch_attends_to_a_spare_key():
    """Written out: no norm before the blocks, one behind the patches (eps 1e-5), one key and value more in each attention."""
    network = made(seed=1)
    state = network.state_dict()
    bank_BMF = torch.randn(2, 32, 52)
    stem = "modality_preprocessors.audio.rgbt_stem."
    cut = nn.functional.unfold(bank_BMF[:, None], 16, stride=10).mT  # B, 2 x 4 patches, 256
    x = cut @ state[f"{stem}proj.weight"].flatten(1).T
    x = norm(x, state, f"{stem}norm_layer", eps=1e-5)
    x = torch.cat([state["modality_preprocessors.audio.cls_token"].expand(2, 1, 16), x], dim=1)
    x = x + state["modality_preprocessors.audio.pos_embedding_helper.pos_embed"]
    for i in range(2):
        at = f"modality_trunks.audio.blocks.{i}."
        q, k, v = (norm(x, state, f"{at}norm_1") @ state[f"{at}attn.in_proj_weight"].T + state[f"{at}attn.in_proj_bias"]).chunk(
            3, dim=-1
        )
        k, v = (torch.cat([y, state[f"{at}attn.bias_{n}"].expand(2, 1, 16)], dim=1) for y, n in ((k, "k"), (v, "v")))
        q, k, v = (y.unflatten(-1, (2, 8)).transpose(1, 2) for y in (q, k, v))
        mixed = ((q @ k.mT / math.sqrt(8)).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        x = x + mixed @ state[f"{at}attn.out_proj.weight"].T + state[f"{at}attn.out_proj.bias"]
        inside = norm(x, state, f"{at}norm_2") @ state[f"{at}mlp.fc1.weight"].T + state[f"{at}mlp.fc1.bias"]
        inside = inside * 0.5 * (1 + torch.erf(inside / math.sqrt(2)))
        x = x + inside @ state[f"{at}mlp.fc2.weight"].T + state[f"{at}mlp.fc2.bias"]
    y = norm(x[:, 0], state, "modality_heads.audio.0") @ state["modality_heads.audio.2.weight"].T
    expected = y / y.pow(2).sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(network.listen(bank_BMF), expected, atol=1e-5, rtol=1e-4)


def norm(x, state, name, eps=1e-6):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def sound(seconds=2.0, seed=0):
    t = np.arange(round(16000 * seconds)) / 16000
    noise = np.random.default_rng(seed).normal(0, 0.05, len(t))
    return (0.3 * np.sin(2 * np.pi * (300 + 400 * t) * t) + noise + 0.1).astype(np.float32)


@pytest.mark.parametrize("seconds", [2.0, 0.5, 0.026])
def test_filter_banks_are_transformers(seconds):
    """Kaldi's, as the audio spectrogram transformer's feature extractor makes them without torchaudio."""
    told = ASTFeatureExtractor(num_mel_bins=128, sampling_rate=16000)
    wave = sound(seconds)
    expected_FM = told._extract_fbank_features(wave, 1 + (len(wave) - 400) // 160)
    bank_FM = fbank(torch.from_numpy(wave))
    assert bank_FM.shape == expected_FM.shape
    torch.testing.assert_close(bank_FM, torch.from_numpy(expected_FM).float(), atol=2e-3, rtol=1e-3)


def test_a_tone_is_in_its_own_filter_and_silence_at_the_floor():
    k = 64  # a frequency of the transform: 2 kHz
    weights = filters(128)[:, k]
    wave_T = torch.sin(2 * math.pi * k / 512 * torch.arange(16000))
    assert (fbank(wave_T).argmax(dim=1) == weights.argmax()).all()
    assert weights.sum() == pytest.approx(1, abs=1e-4), "triangles half overlap"
    assert torch.equal(fbank(torch.zeros(800)), torch.full((3, 128), math.log(2**-23)))


def test_a_picture_is_resized_by_its_shorter_side_and_its_middle_is_seen():
    """What torchvision's Resize and CenterCrop do with a Pillow image."""
    encoder = ImageBindEncoder(made())
    picture = np.random.default_rng(0).integers(0, 256, (50, 91, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(picture).resize((76, 42), Image.Resampling.BICUBIC))[:, 17:59]
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = ((wide / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_allclose(encoder.view(picture).numpy(), expected, atol=1e-6)
    ramp = np.repeat(np.linspace(0, 255, 5000).astype(np.uint8)[None, :, None], 3, axis=2).repeat(10, axis=0)
    middle = encoder.view(np.ascontiguousarray(ramp[:, 2480:2520]))
    assert (encoder.view(ramp) - middle).abs().max() < 0.05, "of a very long one the middle, too"
    turned = np.ascontiguousarray(picture.transpose(1, 0, 2))
    assert encoder.view(turned).shape == encoder.view(picture[:1]).shape == encoder.view(picture[:, :1]).shape == (3, 42, 42)


def test_a_sound_is_heard_in_three_clips_of_its_whole_length():
    encoder = ImageBindEncoder(made(Sizes(out=24, vision=SMALL.vision, size=42, audio=SMALL.audio)))
    long = sound(7.0)
    banks_NMF = encoder.clips(long)
    assert banks_NMF.shape == (3, 128, 204)
    for bank_MF, start in zip(banks_NMF, (0, 40000, 80000), strict=True):
        expected_FM = (fbank(torch.from_numpy(long[start : start + 32000])) + 4.268) / 9.138
        torch.testing.assert_close(bank_MF[:, :198].T, expected_FM)
        assert bank_MF[:, 198:].unique().tolist() == pytest.approx([4.268 / 9.138]), "the frames that 2 s do not have"
    heard = encoder.hear([long])
    each = torch.cat([encoder.hear([long[start : start + 32000]]) for start in (0, 40000, 80000)])
    torch.testing.assert_close(heard, nn.functional.normalize(each.mean(dim=0, keepdim=True), dim=-1))
    short = encoder.clips(sound(1.0))
    assert torch.equal(short[0], short[1])
    assert torch.equal(short[0], short[2])


def test_it_is_a_media_encoder():
    encoder = ImageBindEncoder(made())
    pictures = [np.random.default_rng(i).integers(0, 256, (30 + i, 40, 3), dtype=np.uint8) for i in range(3)]
    seen = encoder.see(pictures)
    heard = encoder.hear([sound(3), np.zeros(0, np.float32), sound(0.01), np.zeros(48000, np.float32)])
    for media_BE in (seen, heard):
        torch.testing.assert_close(media_BE.norm(dim=-1), torch.ones(len(media_BE)))
        assert media_BE.dtype == torch.float32
        assert not media_BE.requires_grad
    assert torch.equal(encoder.see(pictures[1:2])[0], seen[1]), "neighbours are of no consequence"
    assert torch.equal(heard[1], heard[3]), "no sound is silence"
    assert encoder.see([]).shape == encoder.hear([]).shape == (0, 24)
    with pytest.raises(ModelError, match="reads no text"):
        encoder.read(["a dog"])


def test_in_half_precision_it_says_about_the_same():
    """As on an accelerator: inputs are brought to the weights' type, answers are float32 and of length 1."""
    whole = ImageBindEncoder(made(seed=5))
    half = ImageBindEncoder(made(seed=5).half())
    picture = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    for a, b in ((half.see([picture]), whole.see([picture])), (half.hear([sound(3)]), whole.hear([sound(3)]))):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.norm(dim=-1), torch.ones(1))
        assert (a * b).sum() > 0.999


def saved(folder, network):
    part = folder / "any2pix" / "encoder"
    part.mkdir(parents=True)
    write_config(network.sizes, part)
    save_file(network.state_dict(), part / "model.safetensors")
    return part


def test_it_is_loaded_as_it_was_saved(tmp_path):
    network = made(seed=4)
    saved(tmp_path, network)
    encoder = load_imagebind(tmp_path, torch.device("cpu"))
    assert encoder.network.sizes == SMALL
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    torch.testing.assert_close(encoder.see([picture]), ImageBindEncoder(network).see([picture]), atol=1e-6, rtol=1e-6)
    assert not any(module.training for module in encoder.modules)


def test_a_pickle_is_not_opened(tmp_path):
    part = saved(tmp_path, made())
    (part / "model.safetensors").rename(part / "imagebind_huge.pth")
    with pytest.raises(ModelError, match=r"only pickled weights .*imagebind_huge\.pth"):
        load_imagebind(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"kind": "small"}, "of kind 'small', not imagebind"),
        ({"kind": "imagebind"}, "damaged: KeyError"),
        ({"sizes": {"out": 0}}, "a size is 0, expected a whole number above 0"),
        ({"sizes": {"size": 10}}, "a patch is larger"),
        ({"sizes": {"vision": {"width": 32, "layers": 3, "heads": 5}}}, "no multiple of its heads"),
        ({"sizes": {"mystery": 1}}, "damaged: TypeError"),
        ({"sizes": {"out": 25}}, "could not be loaded: .*size mismatch"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(tmp_path, config, line):
    part = saved(tmp_path, made())
    whole = config_of(SMALL)
    if "sizes" in config:
        config = {**whole, "sizes": {**whole["sizes"], **config["sizes"]}}
    (part / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=line) as error:
        load_imagebind(tmp_path, torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_a_broken_file_is_said_in_one_line(tmp_path):
    part = saved(tmp_path, made())
    (part / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"ImageBind in bundle .* could not be") as error:
        load_imagebind(tmp_path, torch.device("cpu"))
    assert "\n" not in str(error.value)
