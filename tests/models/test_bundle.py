from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from paintover.errors import ModelError
from paintover.models import load
from paintover.models.files import fingerprint
from paintover.models.tiny import tiny
from paintover.path.schedule import Schedule


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    def of(kind):
        return shutil.copytree(tiny_bundle(kind), tmp_path / "bundle")

    return of


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_tiny_bundle_is_what_vanilla_diffusers_loads(tiny_bundle):
    from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline

    for kind, pipeline_class in (
        ("instruct", StableDiffusionInstructPix2PixPipeline),
        ("text-to-image", StableDiffusionPipeline),
    ):
        pipeline = pipeline_class.from_pretrained(tiny_bundle(kind))
        bundle = load(tiny_bundle(kind), device="cpu")
        assert bundle.capabilities == {kind, "unet"}
        assert bundle.denoiser.prediction == "epsilon"
        assert (bundle.size, bundle.multiple, bundle.codec.scale) == (64, 16, 0.18215)
        levels = bundle.denoiser.alphas_cumprod
        torch.testing.assert_close(levels, pipeline.scheduler.alphas_cumprod, atol=0, rtol=1e-5)  # theirs are rounded
        assert torch.equal(levels, torch.tensor(Schedule.from_config(bundle.scheduler_config).alphas_cumprod))
        for ours, theirs in ((bundle.denoiser.unet, pipeline.unet), (bundle.codec.vae, pipeline.vae)):
            for name, value in theirs.state_dict().items():
                assert torch.equal(ours.state_dict()[name], value), name
    picture = torch.zeros(1, 3, 64, 64)
    made = pipeline_class.from_pretrained(tiny_bundle(kind))("a cow", num_inference_steps=2, output_type="pt").images
    assert made.shape == picture.shape


def test_the_same_seed_makes_the_same_bundle(tiny_bundle, tmp_path):
    assert fingerprint(tiny(tmp_path / "a", "builtin", seed=0)) == fingerprint(tiny_bundle("builtin"))
    assert fingerprint(tiny(tmp_path / "b", "builtin", seed=1)) != fingerprint(tiny_bundle("builtin"))


def test_a_bundle_says_what_it_is(tiny_bundle):
    bundle = load(tiny_bundle("builtin"), device="cpu")
    assert bundle.capabilities == {"text-to-image", "instruct", "unet"}
    assert (bundle.denoiser.prediction, bundle.denoiser.codec_scale) == ("change", 2.0)
    assert bundle.defaults == {"instruct": {"steps": 4}}
    bundle.require("instruct", editor="instruct")
    assert load(tiny_bundle("builtin"), device="cpu") is bundle


def test_a_lacking_bundle_is_told_who_has_what_it_lacks(tiny_bundle):
    bundle = load(tiny_bundle("text-to-image"), device="cpu")
    with pytest.raises(ModelError, match=r"editor 'instruct' needs .* can: text-to-image; .*timbrooks/instruct-pix2pix"):
        bundle.require("instruct", editor="instruct")
    with pytest.raises(ModelError, match="no bundle known here has it"):
        bundle.require("telepathy")


def test_the_bundles_that_are_named_have_all_that_is_needed(tiny_bundle):
    """Not InstructPix2Pix, which has a UNet and makes no pictures from words."""
    bundle = load(tiny_bundle("flow"), device="cpu")
    with pytest.raises(ModelError, match="stable-diffusion-v1-5") as caught:
        bundle.require("text-to-image", "unet", editor="ledits")
    assert "pix2pix" not in str(caught.value)
    assert "stable-diffusion-3" not in str(caught.value)


def test_the_card_is_read(copy):
    folder = copy("instruct")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Title\n\nKnows two\nthings.\n\nMore.\n")
    card = load(folder, device="cpu").card
    assert (card.data["license"], card.summary) == ("apache-2.0", "Knows two things.")
    (folder / "README.md").write_text("---\nlicense: [\n---\nStill a card.")
    assert load(folder, device="cpu").card.summary == "Knows two things.", "a card is no reason to load weights again"


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"])
def test_the_fingerprint_and_the_loaded_bundle_follow_every_byte(copy, file, monkeypatch, tmp_path):
    monkeypatch.setenv("PAINTOVER_CACHE", str(tmp_path / "cache"))
    folder = copy("instruct")
    first = load(folder, device="cpu")
    assert first.fingerprint == fingerprint(shutil.copytree(folder, tmp_path / "elsewhere"))
    data = bytearray((folder / file).read_bytes())
    data[-3] ^= 1
    (folder / file).write_bytes(data)
    assert fingerprint(folder) != first.fingerprint
    assert not file.startswith("unet") or load(folder, device="cpu") is not first


def test_sums_of_large_files_are_remembered_until_the_file_changes(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("PAINTOVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("paintover.models.files._CACHE_FROM_BYTES", 1000)
    folder = copy("instruct")
    first = fingerprint(folder)
    remembered = json.loads((tmp_path / "cache" / "fingerprints.json").read_text())
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert str(weights) in remembered
    assert fingerprint(folder) == first
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert fingerprint(folder) != first
    (tmp_path / "cache" / "fingerprints.json").write_text("not json")
    assert fingerprint(folder) != first


def test_half_precision_variants_and_shards_are_found(copy):
    folder = copy("instruct")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    parts = {"one.safetensors": names[:20], "two.safetensors": names[20:]}
    for file, keys in parts.items():
        save_file({key: tensors[key].half() for key in keys}, folder / "unet" / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    whole.unlink()
    for part, stem in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    state = load(folder, device="cpu").denoiser.unet.state_dict()
    assert all(torch.equal(state[name], tensors[name].half().float()) for name in names)
    index.write_text(json.dumps({"weight_map": {**weight_map, names[0]: "../../stolen.safetensors"}}))
    with pytest.raises(ModelError, match="does not name safetensors files beside it"):
        load(folder, device="cpu")


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def pickled_only(folder, marker):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(Bomb(marker), folder / "unet" / "diffusion_pytorch_model.bin")


def pickled_text_encoder(folder, marker):
    (folder / "text_encoder" / "model.safetensors").unlink()
    torch.save(Bomb(marker), folder / "text_encoder" / "pytorch_model.bin")


def pickle_named_safetensors(folder, marker):
    torch.save(Bomb(marker), folder / "unet" / "diffusion_pytorch_model.safetensors")


def custom_unet(folder, marker):
    (folder / "unet" / "my_unet.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    change(folder / "model_index.json", unet=["my_unet", "MyUNet"])


def custom_pipeline(folder, marker):
    (folder / "pipeline.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    change(folder / "model_index.json", _class_name=["pipeline", "MyPipeline"])


def auto_map(folder, marker):
    (folder / "text_encoder" / "mine.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    change(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "mine.Mine"})


def quantised(folder, marker):
    change(folder / "unet" / "config.json", quantization_config={"quant_method": "bitsandbytes"})


def climbing_index(folder, marker):
    change(folder / "model_index.json", **{"../../../etc": ["diffusers", "UNet2DConditionModel"]})


def climbing_library(folder, marker):
    change(folder / "model_index.json", vae=["../../evil", "AutoencoderKL"])


def link_out(folder, marker):
    (folder / "unet" / "config.json").rename(folder.parent / "config.json")
    (folder / "unet" / "config.json").symlink_to(folder.parent / "config.json")


def no_index(folder, marker):
    (folder / "model_index.json").unlink()


def no_tokenizer(folder, marker):
    shutil.rmtree(folder / "tokenizer")


def no_vae_weights(folder, marker):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def truncated(folder, marker):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def truncated_text_encoder(folder, marker):
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:300])


def broken_json(folder, marker):
    (folder / "unet" / "config.json").write_text('{"in_channels": 8')


def deep_json(folder, marker):
    (folder / "unet" / "config.json").write_text("[" * 100_000)


def not_an_object(folder, marker):
    (folder / "scheduler" / "scheduler_config.json").write_text("[1, 2]")


def missing_tensor(folder, marker):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("decoder.conv_in.weight")
    save_file(tensors, file)


def missing_unet_tensor(folder, marker):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("conv_in.weight")
    save_file(tensors, file)


def wrong_widths(folder, marker):
    change(folder / "unet" / "config.json", block_out_channels=[32, 128])


def absurd_widths(folder, marker):
    change(folder / "text_encoder" / "config.json", hidden_size="many")


def inpainting(folder, marker):
    change(folder / "unet" / "config.json", in_channels=9)


def another_network(folder, marker):
    change(folder / "unet" / "config.json", _class_name="UNet3DConditionModel")


def another_format(folder, marker):
    (folder / "paintover.json").write_text('{"format": 2}')


def malformed_settings(folder, marker):
    (folder / "paintover.json").write_text('{"format": 1, "defaults": 3}')


def unfit_correction(folder, marker):
    (folder / "paintover.json").write_text('{"format": 1, "sigma_data": 0.5}')  # its network predicts epsilon


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (pickled_only, "only pickled weights"),
        (pickled_text_encoder, "only pickled weights"),
        (pickle_named_safetensors, "could not be loaded"),
        (custom_unet, "its own code"),
        (custom_pipeline, "its own code"),
        (auto_map, "asks for auto_map"),
        (quantised, "asks for quantization_config"),
        (climbing_index, "expected a plain word"),
        (climbing_library, "its own code"),
        (link_out, "link to outside the bundle"),
        (no_index, "has no model_index.json"),
        (no_tokenizer, "could not be loaded"),
        (no_vae_weights, "has no vae/diffusion_pytorch_model.safetensors"),
        (truncated, "could not be loaded"),
        (truncated_text_encoder, "could not be loaded"),
        (broken_json, "not readable JSON"),
        (deep_json, "not readable JSON"),
        (not_an_object, "expected a JSON object"),
        (missing_tensor, "decoder.conv_in.weight"),
        (missing_unet_tensor, "could not be loaded"),
        (wrong_widths, "could not be loaded"),
        (absurd_widths, "could not be loaded"),
        (inpainting, "takes 9 channels"),
        (another_network, "describes 'UNet3DConditionModel'"),
        (another_format, "reads format 1"),
        (malformed_settings, "malformed"),
        (unfit_correction, "sigma_data is 0.5 for prediction"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_hostile_or_broken_folder_is_one_line_and_runs_nothing(copy, tmp_path, spoil, says):
    folder, marker = copy("instruct"), tmp_path / "code-was-run"
    spoil(folder, marker)
    with pytest.raises(ModelError, match=says) as caught:
        load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no-such-thing", "expected builtin, an existing folder, or a hub name"),
        ("../../no/such", "expected builtin, an existing folder, or a hub name"),
        ("/nowhere/at/all", "expected builtin, an existing folder, or a hub name"),
        ("a/../b", "expected builtin, an existing folder, or a hub name"),
        (__file__, "is a file"),
    ],
)
def test_a_name_that_is_no_bundle(name, says):
    with pytest.raises(ModelError, match=says):
        load(name)


def test_an_unknown_device(tiny_bundle):
    for device in ("abacus", "cuda:99", "meta"):
        with pytest.raises(ModelError, match="is not available here"):
            load(tiny_bundle("instruct"), device=device)


def test_two_threads_load_one_bundle_in_silence(copy, capfd):
    bundle = copy("instruct")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(load, [bundle, bundle])
    assert first is second
    assert capfd.readouterr().err == ""
