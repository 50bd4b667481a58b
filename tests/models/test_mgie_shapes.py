"""MGIE at its published size: every shape, without a single weight in memory."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from paintover.models.edit_head import EditHead
from paintover.models.mgie_import import plan
from paintover.models.tiny import tiny

LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAVA = LLAMA | {
    "architectures": ["LlavaLlamaForCausalLM"],
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "mm_hidden_size": 1024,
    "mm_vision_select_layer": -2,
    "mm_use_im_start_end": True,
    "mm_vision_tower": "openai/clip-vit-large-patch14",
    "use_mm_proj": True,
}
CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
CLIP |= {"image_size": 224, "patch_size": 14}
UNET = {  # Stable Diffusion 1.5's, as InstructPix2Pix widened it
    "_class_name": "UNet2DConditionModel",
    "in_channels": 8,
    "out_channels": 4,
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "layers_per_block": 2,
}


def save(shapes, file):
    """A file of tensors of these shapes, all of one number, so that it is small."""
    torch.save({name: torch.ones((), dtype=torch.float16).expand(shape) for name, shape in shapes.items()}, file)


def unet():
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel.from_config(UNET)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """What `paintover models import mgie` would write of files of the published names and shapes."""
    folder = tmp_path_factory.mktemp("released")
    llava, clip, mgie = (folder / name for name in ("llava", "clip", "mgie"))
    for place in (llava, clip, mgie):
        place.mkdir()
    (llava / "config.json").write_text(json.dumps(LLAVA))
    (clip / "config.json").write_text(json.dumps({"vision_config": CLIP}))
    shapes = {"model.embed_tokens.weight": (32003, 4096), "lm_head.weight": (32003, 4096), "model.norm.weight": (4096,)}
    shapes |= {"model.mm_projector.weight": (4096, 1024), "model.mm_projector.bias": (4096,)}
    for i in range(32):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (4096, 4096) for name in "qkvo"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (11008, 4096) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (4096, 11008), f"{at}self_attn.rotary_emb.inv_freq": (64,)}
        shapes |= {f"{at}{name}_layernorm.weight": (4096,) for name in ("input", "post_attention")}
    save(shapes, llava / "pytorch_model.bin")
    v = "vision_model."
    shapes = {f"{v}embeddings.class_embedding": (1024,), f"{v}embeddings.patch_embedding.weight": (1024, 3, 14, 14)}
    shapes |= {f"{v}embeddings.position_embedding.weight": (257, 1024), f"{v}embeddings.position_ids": (1, 257)}
    shapes |= {f"{v}{name}.{kind}": (1024,) for name in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")}
    for i in range(24):
        at = f"{v}encoder.layers.{i}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (1024, 1024) for name in ("q", "k", "v", "out")}
        shapes |= {f"{at}self_attn.{name}_proj.bias": (1024,) for name in ("q", "k", "v", "out")}
        shapes |= {f"{at}layer_norm{n}.{kind}": (1024,) for n in (1, 2) for kind in ("weight", "bias")}
        shapes |= {f"{at}mlp.fc1.weight": (4096, 1024), f"{at}mlp.fc1.bias": (4096,)}
        shapes |= {f"{at}mlp.fc2.weight": (1024, 4096), f"{at}mlp.fc2.bias": (1024,)}
    save(shapes, clip / "pytorch_model.bin")
    with torch.device("meta"):
        head = EditHead()
    shapes = {"model.embed_tokens.weight": (32011, 4096), "lm_head.weight": (32011, 4096), "emb": (1, 8, 4096)}
    shapes |= {f"edit_head.{name}": tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    save(shapes, mgie / "mllm.pt")
    save({name: tuple(tensor.shape) for name, tensor in unet().state_dict().items()}, mgie / "unet.pt")
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 32000)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<im_patch>", "<im_start>", "<im_end>"])
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    whole.save_pretrained(llava)
    base = tiny(folder / "base", "instruct")
    (base / "unet" / "config.json").write_text(json.dumps(UNET))
    return plan(llava, mgie, base, vision=clip)


def test_the_language_model_has_seven_billion_weights_and_32011_rows(planned):
    language = {name: shape for name, (shape, _) in planned.language.items()}
    assert language["model.language_model.embed_tokens.weight"] == language["lm_head.weight"] == (32011, 4096)
    assert language["model.multi_modal_projector.linear_1.weight"] == (4096, 1024)  # W
    assert language["model.multi_modal_projector.linear_2.weight"] == (4096, 4096)  # the identity
    llama = [shape for name, shape in language.items() if "language_model" in name or name == "lm_head.weight"]
    # LLaMA-7B has 6,738,415,616 with 32,000 rows; 11 rows more, in embeddings and head.
    assert sum(torch.Size(shape).numel() for shape in llama) == 6_738_415_616 + 2 * 11 * 4096
    tower = [shape for name, shape in language.items() if "vision_tower" in name]
    assert sum(torch.Size(shape).numel() for shape in tower) == 303_179_776  # CLIP ViT-L/14's vision tower
    assert planned.odd == []
    vocabulary = planned.tokenizer.get_vocab()
    assert [vocabulary[name] for name in ("<im_patch>", "<im_start>", "<im_end>")] == [32000, 32001, 32002]
    assert [vocabulary[f"[IMG{i}]"] for i in range(8)] == list(range(32003, 32011))
    assert planned.config.image_token_id == 32000


def test_a_picture_is_256_visual_tokens(planned):
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(planned.config).half()
        pixels_BCHW = torch.empty(2, 3, 224, 224, dtype=torch.float16)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        name: shape for name, (shape, _) in planned.language.items()
    }
    looked = model.model.get_image_features(pixels_BCHW, return_dict=True, output_hidden_states=True)
    assert looked.hidden_states[-2][:, 1:].shape == (2, 256, 1024)
    assert [tuple(each.shape) for each in looked.pooler_output] == [(256, 4096)] * 2
    assert planned.config.image_seq_length == 256


def test_the_edit_head_has_its_published_size(planned):
    """Identity 7 of MGIE: (B, 8, 4096) -> (B, 77, 768), 31,958,784 parameters."""
    assert sum(torch.Size(shape).numel() for shape, _ in planned.edit_head.values()) == 31_958_784
    with torch.device("meta"):
        head = EditHead(**planned.settings.edit_head)
        assert head(torch.empty(3, 8, 4096), torch.empty(8, 4096)).shape == (3, 77, 768)


def test_the_unet_takes_a_source_and_listens_to_768(planned):
    shapes = {name: shape for name, (shape, _) in planned.unet.items()}
    assert shapes["conv_in.weight"] == (320, 8, 3, 3)
    assert shapes["conv_out.weight"] == (4, 320, 3, 3)
    listening = [shape for name, shape in shapes.items() if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    assert len(listening) == 2 * 16
    assert {shape[1] for shape in listening} == {768}
    with torch.device("meta"):
        said = unet()(torch.empty(2, 8, 64, 64), torch.tensor([3, 4]), torch.empty(2, 77, 768), return_dict=False)[0]
    assert said.shape == (2, 4, 64, 64)
    # Stable Diffusion 1.5's UNet has 859,520,964 weights; four more channels in.
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 859_520_964 + 320 * 4 * 9
