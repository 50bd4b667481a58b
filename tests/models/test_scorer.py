"""Scorers: what transformers' own CLIP and SigLIP say, from safetensors alone, and who judges where none is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paintover.errors import ModelError
from paintover.models import clip_scorer
from paintover.models.bundle import load
from paintover.models.clip_scorer import squares
from paintover.models.scorer import Scorer, load_scorer

WORDS = "a cow in a meadow"
RNG = np.random.default_rng(3)
SQUARE = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
WIDE = RNG.integers(0, 256, (40, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    return tiny_siglip(tmp_path_factory.mktemp("siglip"))


def tiny_siglip(folder: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    vocab = {word: i for i, word in enumerate(("</s>", "<unk>", "a", "cow", "in", "meadow"))}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="</s>", unk_token="<unk>").save_pretrained(folder)
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**common, "vocab_size": len(vocab), "max_position_embeddings": 16, "projection_size": 32}
    vision = {**common, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_clip_says_what_transformers_says(tiny_clip, tiny_bundle):
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    scorer = load_scorer(str(tiny_clip), load(tiny_bundle("builtin"), "cpu"))
    model = CLIPModel.from_pretrained(tiny_clip)
    pixels = CLIPImageProcessorPil.from_pretrained(tiny_clip)(Image.fromarray(SQUARE), return_tensors="pt")
    with torch.no_grad():
        said = model(**pixels, **CLIPTokenizer.from_pretrained(tiny_clip)([WORDS], return_tensors="pt"))
        cosine = float(said.logits_per_image / model.logit_scale.exp())
    assert scorer.agreement([SQUARE], WORDS) == pytest.approx([cosine], abs=1e-5)
    assert scorer.name == str(tiny_clip)


def test_siglip_says_what_transformers_says(siglip, tiny_bundle):
    from transformers import PreTrainedTokenizerFast, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    scorer = load_scorer(str(siglip), load(tiny_bundle("builtin"), "cpu"))
    model = SiglipModel.from_pretrained(siglip)
    pixels = SiglipImageProcessorPil.from_pretrained(siglip)(Image.fromarray(SQUARE), return_tensors="pt")
    ids = PreTrainedTokenizerFast.from_pretrained(siglip)([WORDS], padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        said = model(**pixels, input_ids=ids["input_ids"])
        cosine = float((said.logits_per_image - model.logit_bias) / model.logit_scale.exp())
    assert scorer.agreement([SQUARE], WORDS) == pytest.approx([cosine], abs=1e-5)
    assert scorer.agreement([SQUARE], "A cow, in a meadow!") == pytest.approx([cosine], abs=1e-5)


def test_all_of_a_long_picture_is_seen(tiny_clip, tiny_bundle):
    """CLIP's own processor would look at its middle alone."""
    scorer = load_scorer(str(tiny_clip), load(tiny_bundle("builtin"), "cpu"))
    changed = WIDE.copy()
    changed[:, :8] = 0
    before, after = scorer.agreement([WIDE, changed], WORDS)
    assert before != pytest.approx(after, abs=1e-6)
    assert scorer.agreement([WIDE], WORDS) == scorer.agreement([WIDE, SQUARE], WORDS)[:1]


@pytest.mark.parametrize(
    ("size_HW", "count"), [((40, 40), 1), ((40, 41), 2), ((80, 40), 2), ((100, 40), 3), ((40, 900), 4), ((1, 1), 1)]
)
def test_squares_reach_from_end_to_end(size_HW, count):
    picture = np.arange(size_HW[0] * size_HW[1] * 3, dtype=np.uint32).astype(np.uint8).reshape(*size_HW, 3)
    found = squares(picture)
    assert len(found) == count
    assert {square.shape[:2] for square in found} == {(min(size_HW),) * 2}
    assert np.array_equal(found[0][0, 0], picture[0, 0])
    assert np.array_equal(found[-1][-1, -1], picture[-1, -1])


def test_it_is_loaded_once(tiny_clip, tiny_bundle):
    bundle = load(tiny_bundle("builtin"), "cpu")
    assert load_scorer(str(tiny_clip), bundle).judge is load_scorer(str(tiny_clip), bundle).judge


@pytest.fixture
def copy(tiny_clip, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(tiny_clip, tmp_path / "copy"))


def _refused(name, bundle) -> str:
    with pytest.raises(ModelError) as error:
        load_scorer(str(name), bundle)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_scorer_is_refused(copy, tiny_bundle, tmp_path):
    bundle = load(tiny_bundle("builtin"), "cpu")
    assert "no scorer 'nonsense'" in _refused("nonsense", bundle)
    assert "local cache" in _refused("nobody/nothing-of-that-name", bundle)
    assert "config.json" in _refused(tmp_path / "copy" / "..", bundle)
    assert "has no encoder" in _refused(tiny_bundle("builtin"), bundle)

    config = json.loads((copy / "config.json").read_text())
    for change, said in (({"model_type": "bert"}, "no plain CLIP"), ({"auto_map": {"AutoModel": "x.Y"}}, "no plain CLIP")):
        (copy / "config.json").write_text(json.dumps(config | change))
        assert said in _refused(copy, bundle)
    (copy / "config.json").write_text(json.dumps(config))

    state = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(state[:1000])
    assert "could not be loaded" in _refused(copy, bundle)
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "pickled weights" in _refused(copy, bundle)


def test_weights_that_lack_something_are_refused(copy, tiny_bundle):
    from safetensors.torch import load_file, save_file

    state = load_file(copy / "model.safetensors")
    state.pop("text_projection.weight")
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 tensors" in _refused(copy, load(tiny_bundle("builtin"), "cpu"))


def test_a_bundle_without_an_encoder_says_what_to_name(tiny_bundle):
    with pytest.raises(ModelError, match=r"no encoder of its own.*--scorer openai/clip"):
        load_scorer(None, load(tiny_bundle("builtin"), "cpu"))


def test_what_is_not_finite_is_no_score():
    class Broken:
        def see(self, pictures):
            return torch.full((len(pictures), 2), torch.nan)

        def read(self, texts):
            return torch.ones(len(texts), 2)

    with pytest.raises(ModelError, match="not finite"):
        Scorer("broken", "", Broken()).agreement([SQUARE], WORDS)


def test_of_a_repository_only_safetensors_and_words_are_chosen():
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "README.md", "vocab.json", "run.py", "onnx/model.onnx"]
    assert clip_scorer._choose(names, "me/clip") == ["config.json", "vocab.json", "model.safetensors"]
    with pytest.raises(ModelError, match="never loaded"):
        clip_scorer._choose(["config.json", "pytorch_model.bin"], "me/clip")
    with pytest.raises(ModelError, match=r"no config\.json"):
        clip_scorer._choose(["model.safetensors"], "me/clip")
