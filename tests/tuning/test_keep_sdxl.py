"""What was learnt on SDXL, kept: vanilla diffusers makes the same of it."""

from __future__ import annotations

import re
import textwrap

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

from paintover.models.bundle import Bundle, load
from paintover.models.tiny import tiny
from paintover.tuning import keep
from paintover.tuning.weights import trainable, tuned_of, with_weights
from paintover.tuning.words import with_words

X_BCHW = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
WORDS = {"words.<mine>": torch.randn(2, 56), "words.zwx": torch.randn(1, 56)}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Bundle:
    return load(tiny(tmp_path_factory.mktemp("base") / "xl", "sdxl-refiner", seed=3), "cpu")


def learnt(base: Bundle, kind: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    tensors = tuned_of(trainable(base.denoiser, kind, 4))
    return {name: p.detach() + 0.05 * torch.randn(p.shape, generator=generator) for name, p in tensors.items()}


def ours(base: Bundle, tensors: dict[str, torch.Tensor], text: str) -> torch.Tensor:
    words = {name.removeprefix("words."): t for name, t in tensors.items() if name.startswith("words.")}
    with torch.no_grad():
        return with_weights(base.denoiser, tensors)(X_BCHW, torch.tensor([500]), *with_words(base.text, words).encode([text]))


def theirs(pipe: StableDiffusionXLPipeline, text: str) -> torch.Tensor:
    with torch.no_grad():
        tokens_BLD, _, pooled_BD, _ = pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
        told = {"text_embeds": pooled_BD, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
        return pipe.unet(X_BCHW, 500, tokens_BLD, added_cond_kwargs=told).sample


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_lora(base, tmp_path):
    lora = learnt(base, "lora")
    folder = keep.write(tmp_path / "mine", lora, base)
    pipe = StableDiffusionXLPipeline.from_pretrained(base.folder)
    untuned = theirs(pipe, "a cow")
    pipe.load_lora_weights(folder)
    assert (theirs(pipe, "a cow") - ours(base, lora, "a cow")).abs().max() < 1e-5
    assert (theirs(pipe, "a cow") - untuned).abs().max() > 1e-3
    assert same(keep.read(folder), lora)


def test_words_by_what_the_card_says(base, tmp_path):
    """Each of the two encoders learns its half of them."""
    folder = keep.write(tmp_path / "mine", WORDS, base)
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    place: dict = {}
    exec(textwrap.dedent(code).replace("FOLDER", str(folder)).replace('"xl"', repr(str(base.folder))), place)
    text = "a <mine> zwx cow"
    assert (theirs(place["pipe"], text) - ours(base, WORDS, text)).abs().max() < 1e-5
    assert (ours(base, WORDS, text) - ours(base, {}, text)).abs().max() > 1e-4
    assert same(keep.read(folder), WORDS)


def test_somebody_elses_word_is_called_as_its_file(base, tmp_path):
    file = tmp_path / "zwx.safetensors"
    save_file({"clip_l": WORDS["words.zwx"][0, :32].contiguous(), "clip_g": WORDS["words.zwx"][0, 32:].contiguous()}, file)
    assert same(keep.read(file), {"words.zwx": WORDS["words.zwx"]})


def test_a_model_with_its_refiner(base, tmp_path):
    full = learnt(base, "full")
    folder = keep.write(tmp_path / "mine", full, base)
    again = load(folder, "cpu")
    wanted = ours(base, full, "a cow")
    assert (ours(again, {}, "a cow") - wanted).abs().max() < 1e-6
    assert (theirs(StableDiffusionXLPipeline.from_pretrained(folder), "a cow") - wanted).abs().max() < 1e-5
    assert again.refiner is not None
    assert same(again.refiner.denoiser.unet.state_dict(), base.refiner.denoiser.unet.state_dict())
    assert again.refiner.scheduler_config == base.refiner.scheduler_config
    assert same(keep.read(folder), full)


def test_kohyas_names_count_sdxls_blocks_through(tmp_path):
    known = {  # as Stability's own names of SDXL's blocks are to diffusers'
        "input_blocks_4_1": "down_blocks.1.attentions.0",
        "input_blocks_8_1": "down_blocks.2.attentions.1",
        "middle_block_1": "mid_block.attentions.0",
        "output_blocks_0_1": "up_blocks.0.attentions.0",
        "output_blocks_5_1": "up_blocks.1.attentions.2",
    }
    tensors, wanted = {}, {}
    for n, (theirs_name, ours_name) in enumerate(known.items()):
        low, high = torch.randn(4, 8), torch.randn(8, 4)
        name = f"lora_unet_{theirs_name}_transformer_blocks_1_attn2_to_k"
        tensors |= {f"{name}.lora_down.weight": low, f"{name}.lora_up.weight": high, f"{name}.alpha": torch.tensor(2.0 + n)}
        module = f"unet.{ours_name}.transformer_blocks.1.attn2.to_k"
        wanted |= {f"{module}.lora_A.weight": low, f"{module}.lora_B.weight": high * (2 + n) / 4}
    save_file(tensors, tmp_path / "kohya.safetensors")
    read = keep.read(tmp_path / "kohya.safetensors")
    assert read.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(read[name], tensor)
