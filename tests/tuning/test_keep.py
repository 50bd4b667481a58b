"""What was learnt, kept: vanilla diffusers makes the same of it, and everybody's LoRAs are read."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from paintover.errors import ModelError, RequestError
from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.tuning import keep
from paintover.tuning.weights import LORA, trainable, tuned_of, with_weights
from paintover.tuning.words import with_words


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Bundle:
    folder = tiny(tmp_path_factory.mktemp("base") / "sd", "text-to-image", seed=3)
    (folder / "README.md").write_text("---\nlicense: openrail\n---\n# sd\n")
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def full(base) -> dict[str, Tensor]:
    return learnt(base, "full")


@pytest.fixture(scope="module")
def lora(base) -> dict[str, Tensor]:
    return learnt(base, "lora")


def learnt(base: Bundle, kind: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    tensors = tuned_of(trainable(base.denoiser, kind, 4))
    return {name: p.detach() + 0.05 * torch.randn(p.shape, generator=generator) for name, p in tensors.items()}


WORDS = {"words.<mine>": torch.randn(2, 32), "words.zwx": torch.randn(1, 32)}
X_BCHW = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def ours(base: Bundle, tensors: dict[str, Tensor], text: str) -> Tensor:
    words = {name.removeprefix("words."): t for name, t in tensors.items() if name.startswith("words.")}
    tokens_BLD, _ = with_words(base.text, words).encode([text])
    with torch.no_grad():
        return with_weights(base.denoiser, tensors)(X_BCHW, torch.tensor([500]), tokens_BLD)


def theirs(pipe: StableDiffusionPipeline, text: str) -> Tensor:
    with torch.no_grad():
        tokens_BLD, _ = pipe.encode_prompt(text, "cpu", 1, False)
        return pipe.unet(X_BCHW, 500, tokens_BLD).sample


def test_a_kept_lora_says_the_same_in_diffusers(base, lora, tmp_path):
    folder = keep.write(tmp_path / "mine", lora, base)
    pipe = StableDiffusionPipeline.from_pretrained(base.folder)
    untuned = theirs(pipe, "a cow")
    pipe.load_lora_weights(folder)
    assert (theirs(pipe, "a cow") - ours(base, lora, "a cow")).abs().max() < 1e-5
    assert (theirs(pipe, "a cow") - untuned).abs().max() > 1e-3
    assert same(keep.read(folder), lora)


@pytest.mark.parametrize("word", list(WORDS))
def test_a_kept_word_says_the_same_in_diffusers(base, word, tmp_path):
    tensors = {word: WORDS[word]}
    folder = keep.write(tmp_path / "mine", tensors, base)
    pipe = StableDiffusionPipeline.from_pretrained(base.folder)
    pipe.load_textual_inversion(folder)
    text = f"a {word.removeprefix('words.')} cow"
    assert (theirs(pipe, text) - ours(base, tensors, text)).abs().max() < 1e-5
    assert (ours(base, tensors, text) - ours(base, {}, text)).abs().max() > 1e-4
    assert same(keep.read(folder), tensors)


def test_a_kept_model_says_the_same_in_diffusers_and_loads_here(base, full, tmp_path):
    folder = keep.write(tmp_path / "mine", full, base)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    wanted = ours(base, full, "a cow")
    assert (theirs(pipe, "a cow") - wanted).abs().max() < 1e-5
    again = load(folder, "cpu")
    assert again.fingerprint != base.fingerprint
    assert (ours(again, {}, "a cow") - wanted).abs().max() < 1e-5
    assert same(keep.read(folder), full)
    assert (folder / "vae" / "diffusion_pytorch_model.safetensors").samefile(
        base.folder / "vae" / "diffusion_pytorch_model.safetensors"
    )


def test_all_of_it_at_once_and_what_diffusers_does_not_know(base, full, tmp_path):
    target = {"target.tokens_BLD": torch.randn(1, 77, 32)}
    tensors = {**full, **WORDS, **target}
    assert same(keep.read(keep.write(tmp_path / "mine", tensors, base)), tensors)
    files = sorted(path.name for path in (tmp_path / "mine").glob("*.safetensors"))
    assert files == ["learned_embeds.safetensors", "learned_embeds_1.safetensors", "paintover.safetensors"]


def test_the_built_in_layout_is_kept_too(tiny_bundle, tmp_path):
    base = load(tiny_bundle, "cpu")
    tensors = learnt(base, "full")
    again = load(keep.write(tmp_path / "mine", tensors, base), "cpu")
    assert again.capabilities == base.capabilities
    assert again.mllm().answer(["a cow"], [None])[0].text == base.mllm().answer(["a cow"], [None])[0].text
    assert json.loads((tmp_path / "mine" / "paintover.json").read_text())["name"] == "mine"
    for name, tensor in again.denoiser.unet.state_dict().items():
        assert torch.equal(tensor, tensors["unet." + name])


def test_a_cascades_second_stage_is_kept_with_it(tmp_path):
    folder = tiny(tmp_path / "base", "cascade")
    base = load(folder, "cpu")
    assert base.upscaler is not None
    own = {f"upscaler.unet.{name}": t.clone() for name, t in base.upscaler.denoiser.unet.state_dict().items()}
    bent = {name: t + 1 for name, t in own.items()}
    first = learnt(base, "full")
    weights = (folder / "upscaler" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    for tensors, second in ((first, own), (first | bent, bent)):
        kept = keep.write(tmp_path / "mine", tensors, base, force=True)
        again = load(kept, "cpu")
        assert again.capabilities == base.capabilities
        assert same({f"upscaler.unet.{name}": t for name, t in again.upscaler.denoiser.unet.state_dict().items()}, second)
        assert same(keep.read(kept), first | second)
    assert (folder / "upscaler" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == weights


def test_parts_that_a_base_names_and_has_not_are_left_out(full, tmp_path):
    """A bundle from the hub is fetched without its safety checker, and perhaps in half precision only."""
    folder = tiny(tmp_path / "base", "text-to-image")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["requires_safety_checker"] = True
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"gigabytes")
    kept = keep.write(tmp_path / "mine", full, load(folder, "cpu"))
    assert StableDiffusionPipeline.from_pretrained(kept).safety_checker is None
    assert not (kept / "v1-5-pruned.safetensors").exists()


def test_the_card_says_what_it_is_on_what_and_under_which_licence(base, lora, tmp_path):
    about = {"editor": "dreambooth", "told": "a photo of zwx cow", "iterations": 400}
    text = (keep.write(tmp_path / "mine", lora, base, about) / "README.md").read_text()
    from huggingface_hub import metadata_load

    data = metadata_load(tmp_path / "mine" / "README.md")
    assert data["license"] == "openrail"
    assert "lora" in data["tags"]
    for said in ("a photo of zwx cow", "400", "| base model | sd |", base.fingerprint, "load_lora_weights"):
        assert said in text
    assert str(base.folder.parent) not in text  # a path of one's own machine is not for sharing
    assert "base_model" not in data
    hub = replace(base, name="owner/name@0123abc")
    keep.write(tmp_path / "mine", lora, hub, force=True)
    assert metadata_load(tmp_path / "mine" / "README.md")["base_model"] == "owner/name"


def test_nothing_is_overwritten_unless_forced_and_nothing_else_ever(base, lora, tmp_path):
    folder = keep.write(tmp_path / "mine", lora, base, beside={"tuned.json": b"{}"})
    assert (folder / "tuned.json").read_bytes() == b"{}"
    before = (folder / keep.LORA_FILE).stat()
    with pytest.raises(RequestError, match="exists"):
        keep.write(folder, WORDS, base)
    assert (folder / keep.LORA_FILE).stat() == before
    keep.write(folder, WORDS, base, beside={"tuned.json": b"{}"}, force=True)
    (folder / "tuned.json").unlink()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "learned_embeds.safetensors",
        "learned_embeds_1.safetensors",
    ]
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match=r"thesis\.tex"):
        keep.write(folder, lora, base, force=True)
    assert (folder / "thesis.tex").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="is a file"):
        keep.write(tmp_path / "file", lora, base, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]


def test_what_fails_leaves_nothing(base, full, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="another"):
        keep.write(tmp_path / "mine", {"unet.conv_in.bias": torch.zeros(3)}, base)
    monkeypatch.setattr(keep, "card", lambda *args, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep.write(tmp_path / "mine", full, base)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken(base, lora, tmp_path):
    (tmp_path / "mine").mkdir()
    assert same(keep.read(keep.write(tmp_path / "mine", lora, base)), lora)


@pytest.mark.parametrize("form", ["diffusers", "peft", "2023", "kohya"])
def test_loras_that_others_wrote_are_read_as_diffusers_reads_them(form, base, lora, tmp_path):
    """Each with a scale of its own: alpha is half of the rank, or for one module a quarter."""
    odd = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    file, facts = tmp_path / "pytorch_lora_weights.safetensors", {"format": "pt"}
    if form in ("diffusers", "peft"):
        names = {name: name for name in lora}
        if form == "diffusers":
            names = {name: name.replace("lora_A", "lora.down").replace("lora_B", "lora.up") for name in lora}
        about = {"unet.r": 4, "unet.lora_alpha": 2, "unet.alpha_pattern": {odd: 1}}
        about["unet.target_modules"] = ["to_q", "to_k", "to_v", "to_out.0"]
        facts["lora_adapter_metadata"] = json.dumps(about)
        save_file({names[name]: tensor for name, tensor in lora.items()}, file, metadata=facts)
    elif form == "2023":  # attn_procs: no scale of its own
        old = {"to_q.": "processor.to_q_lora.", "to_k.": "processor.to_k_lora.", "to_v.": "processor.to_v_lora."}
        old |= {"to_out.0.": "processor.to_out_lora.", "lora_A": "down", "lora_B": "up"}
        renamed = {}
        for name, tensor in lora.items():
            for new, was in old.items():
                name = name.replace(new, was)
            renamed[name] = tensor
        save_file(renamed, file)
    else:
        renamed = {}
        for name, tensor in lora.items():
            module, half = name.removeprefix("unet.").rsplit(".lora_", 1)
            kohya = f"lora_unet_{module.replace('.', '_')}"
            renamed[f"{kohya}.lora_{'down' if half.startswith('A') else 'up'}.weight"] = tensor
            renamed[f"{kohya}.alpha"] = torch.tensor(2.0)
        save_file(renamed, file)
        odd = "none: diffusers loses an alpha of one module's own"
    pipe = StableDiffusionPipeline.from_pretrained(base.folder)
    pipe.load_lora_weights(tmp_path)
    for path in (tmp_path, file):
        assert (theirs(pipe, "a cow") - ours(base, keep.read(path), "a cow")).abs().max() < 1e-5
    scale = dict.fromkeys(lora, 1.0) if form == "2023" else {name: 0.25 if odd in name else 0.5 for name in lora}
    wanted = {name: t * (scale[name] if name.endswith(LORA[1]) else 1) for name, t in lora.items()}
    assert same(keep.read(file), wanted)


def test_each_module_of_a_kohya_lora_has_its_own_alpha(tmp_path):
    tensors = {}
    for module, alpha in (("mid_block_attentions_0_proj_in", 3.0), ("down_blocks_0_attentions_0_proj_in", 1.0)):
        tensors[f"lora_unet_{module}.lora_down.weight"] = torch.ones(2, 4)
        tensors[f"lora_unet_{module}.lora_up.weight"] = torch.ones(4, 2)
        tensors[f"lora_unet_{module}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "x.safetensors")
    found = keep.read(tmp_path)
    assert found["unet.mid_block.attentions.0.proj_in.lora_B.weight"].unique() == 1.5
    assert found["unet.down_blocks.0.attentions.0.proj_in.lora_B.weight"].unique() == 0.5


def test_a_lora_without_a_prefix_is_one_of_the_unet(lora, tmp_path):
    save_file({name.removeprefix("unet."): tensor for name, tensor in lora.items()}, tmp_path / "any-name.safetensors")
    assert same(keep.read(tmp_path), lora)


def test_words_as_others_share_them(tmp_path):
    save_file({"emb_params": WORDS["words.<mine>"]}, tmp_path / "easynegative.safetensors")
    assert same(keep.read(tmp_path / "easynegative.safetensors"), {"words.easynegative": WORDS["words.<mine>"]})


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"text_encoder.x.lora_linear_layer.down.weight": torch.zeros(2, 4)}, "text encoder"),
        ({"unet.x.lora_A.weight": torch.zeros(2, 4), "unet.x.lora_magnitude_vector": torch.zeros(4)}, "DoRA"),
        ({"lora_unet_x.hada_w1_a": torch.zeros(2, 4)}, "LoHa"),
        ({"lora_unet_x.lora_down.weight": torch.zeros(2, 4)}, "no LoRA that can be read"),
        ({"clip_l": torch.zeros(2, 4), "clip_g": torch.zeros(3, 4)}, "no learnt word"),
        ({"clip_l": torch.zeros(2, 4), "clip_h": torch.zeros(2, 4)}, "no learnt word"),
        ({"unet.x.lora_A.weight": torch.zeros(2, 4), "unet.x.weight": torch.zeros(2, 4)}, "'unet.x.weight'"),
    ],
)  # fmt: skip
def test_what_is_no_plain_lora_is_refused_in_one_line(tensors, says, tmp_path):
    save_file(tensors, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", says)


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    (tmp_path / "pytorch_lora_weights.bin").write_bytes(pickle.dumps(Trap()))
    refused(tmp_path, "pickle")
    refused(tmp_path / "pytorch_lora_weights.bin", "pickle")
    (tmp_path / "learned_embeds.safetensors").write_bytes(pickle.dumps(Trap()))
    refused(tmp_path, "safetensors")
    assert not (tmp_path / "sprung").exists()


def test_what_is_not_there_is_said(tmp_path):
    refused(tmp_path / "nowhere", "there is no")
    refused(tmp_path, "holds no")


def refused(path: Path, says: str) -> None:
    with pytest.raises(ModelError, match=says) as error:
        keep.read(path)
    assert "\n" not in str(error.value)
    assert re.search(re.escape(str(path)), str(error.value))


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return set(found) == set(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_files_are_as_diffusers_scripts_write_them(base, lora, tmp_path):
    names = set(load_file(keep.write(tmp_path / "mine", lora, base) / keep.LORA_FILE))
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.lora.up.weight" in names
    assert len(names) == len(lora)
