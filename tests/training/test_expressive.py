"""`paintover train expressive`: a LLaVA and a T5 in small, saved as the real ones are, really asked."""

from __future__ import annotations

import json
import re
import string

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from paintover import cli
from paintover.datasets import RowError, open_dataset
from paintover.errors import ModelError, PaintoverError
from paintover.models.answering import tidy
from paintover.training.explainers import Speaker, Summariser
from paintover.training.expressive import make

CPU = torch.device("cpu")
INSTRUCTIONS = ["make it night", "add a dog, please, beside the old tree", "warmer", "what about snow", "remove it"]


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    """One whose own settings ask for chance, which would change what it says."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        GenerationConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = small_tokenizer()
    language = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, bos_token_id=2, eos_token_id=3, pad_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=16, patch_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4
        ),
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, eos_token_id=3, pad_token_id=0, bos_token_id=2)
    image = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        image, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    folder = tmp_path_factory.mktemp("llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def small_tokenizer():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "<s>", "</s>", *string.ascii_letters, *string.digits, *string.punctuation]
    words += [f"##{char}" for char in string.ascii_letters + string.digits]
    words += [f"{char}{char}{end}" for char in string.ascii_letters for end in ".!"]  # so that it says sentences
    tokenizer = Tokenizer(models.WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    own = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="[PAD]", unk_token="[UNK]"
    )
    own.add_tokens(["<image>"], special_tokens=True)
    return own


@pytest.fixture(scope="session")
def summariser(tmp_path_factory):
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0), *((char, -3.0) for char in string.printable[:94])]
    folder = tmp_path_factory.mktemp("summariser")
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    config = T5Config(
        vocab_size=len(pieces), d_model=24, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(1)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    """A table of five rows, their pictures of several sizes."""
    rng = np.random.default_rng(3)
    lines = []
    for n, words in enumerate(INSTRUCTIONS):
        for name in (f"{n}-before.png", f"{n}-after.png"):
            Image.fromarray(rng.integers(0, 256, (20 + 4 * n, 30, 3), dtype=np.uint8)).save(tmp_path / name)
        lines.append({"id": f"row{n}", "input": f"{n}-before.png", "output": f"{n}-after.png", "instruction": words})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "train.jsonl"


@pytest.fixture
def tell(data, llava, summariser):
    def run(out, **how):
        return make(out, open_dataset(data), str(llava), str(summariser), tokens=12, device="cpu", **how)

    return run


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_row_is_told_and_joined_by_its_id(tell, data, tmp_path):
    out = tmp_path / "told.jsonl"
    assert tell(out) == (5, 0, 0)
    header, *lines = lines_of(out)
    assert header["llava"].startswith("llava0@")
    assert header["summariser"].startswith("summariser0@")
    assert header["prompt"] == "what will this image be like if '{instruction}' (in a short paragraph)"
    assert [(line["id"], line["instruction"]) for line in lines] == [(f"row{n}", w) for n, w in enumerate(INSTRUCTIONS)]
    assert all(line["long"] for line in lines)
    joined = open_dataset(data, expressive=out)
    assert [sample.expressive for sample in joined] == [line["expressive"] for line in lines]
    assert any(line["expressive"] for line in lines)
    assert [sample.expressive for sample in open_dataset(data)] == [None] * 5


def test_what_is_summed_up_is_cut_first(data, llava, summariser, tmp_path):
    out = tmp_path / "told.jsonl"
    make(out, open_dataset(data), str(llava), str(summariser), tokens=80, device="cpu")
    longs = [line["long"] for line in lines_of(out)[1:]]
    cut = [n for n, long in enumerate(longs) if tidy(long) != " ".join(long.split())]
    own = Summariser(str(summariser), CPU)
    assert [line["expressive"] for line in lines_of(out)[1:]] == [own.sum_up([tidy(long)])[0] for long in longs]
    assert any(own.sum_up([longs[n]])[0] != own.sum_up([tidy(longs[n])])[0] for n in cut)


def test_a_row_whose_instruction_was_changed_is_not_joined(tell, data, tmp_path):
    tell(tmp_path / "told.jsonl")
    data.write_text(data.read_text().replace("warmer", "colder"))
    joined = open_dataset(data, expressive=tmp_path / "told.jsonl")
    assert joined[0].expressive == lines_of(tmp_path / "told.jsonl")[1]["expressive"]
    with pytest.raises(RowError, match="row 3: what its instruction means was told of another one, 'warmer'"):
        joined[2]


def test_rows_do_not_depend_on_their_neighbours(tell, tmp_path):
    tell(tmp_path / "together.jsonl", batch=5)
    tell(tmp_path / "alone.jsonl", batch=1)
    together, alone = lines_of(tmp_path / "together.jsonl"), lines_of(tmp_path / "alone.jsonl")
    assert together == alone
    assert len({line["long"] for line in alone[1:]}) > 1


@pytest.mark.parametrize("kept", [0, 20, 0.3, 0.55, 0.999])
def test_killed_anywhere_it_goes_on_and_ends_the_same(tell, tmp_path, kept):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    tell(whole, batch=2)
    data = whole.read_bytes()
    cut.write_bytes(data[: kept if kept == 0 or kept > 1 else int(kept * len(data))])
    left = max(0, cut.read_bytes().count(b"\n") - 1)
    assert tell(cut, batch=2) == (5 - left, left, 0)
    assert cut.read_bytes() == data
    assert tell(cut) == (0, 5, 0)
    assert cut.read_bytes() == data


def test_a_cut_line_is_passed_over_by_readers(tell, data, tmp_path):
    out = tmp_path / "told.jsonl"
    tell(out)
    out.write_bytes(out.read_bytes()[:-30])
    assert [sample.expressive is None for sample in open_dataset(data, expressive=out)] == [False] * 4 + [True]


def test_shares_are_files_of_their_own_that_are_read_as_one(tell, data, tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    tell(whole)
    assert tell(parts, share=(0, 2)) == (3, 0, 0)
    assert tell(parts, share=(1, 2)) == (2, 0, 0)
    assert {path.name for path in tmp_path.glob("parts*")} == {"parts-0-of-2.jsonl", "parts-1-of-2.jsonl"}
    both = lines_of(tmp_path / "parts-0-of-2.jsonl")[1:] + lines_of(tmp_path / "parts-1-of-2.jsonl")[1:]
    assert sorted(both, key=lambda line: line["id"]) == lines_of(whole)[1:]
    joined, single = open_dataset(data, expressive=parts), open_dataset(data, expressive=whole)
    assert [sample.expressive for sample in joined] == [sample.expressive for sample in single]
    assert tell(parts, share=(0, 3)) == (0, 2, 0)  # what other shares did is done


def test_a_file_that_something_else_made_is_not_continued(tell, data, llava, summariser, tmp_path):
    out = tmp_path / "told.jsonl"
    tell(out)
    with pytest.raises(RowError, match="was made with tokens 12, not 13; write another file"):
        make(out, open_dataset(data), str(llava), str(summariser), tokens=13, device="cpu")
    out.write_text(out.read_text().replace('"id": "row2"', '"no": "row2"'))
    with pytest.raises(RowError, match=r"told.jsonl, row 4: no line of"):
        tell(out)


def test_broken_rows_stop_it_or_are_left_out(data, llava, summariser, tmp_path):
    (tmp_path / "1-before.png").write_bytes(b"nonsense")
    with pytest.raises(RowError, match=r"row 2: .*1-before\.png"):
        make(tmp_path / "a.jsonl", open_dataset(data), str(llava), str(summariser), tokens=4, device="cpu", batch=1)
    assert [line.get("id") for line in lines_of(tmp_path / "a.jsonl")] == [None, "row0"]
    skipping = open_dataset(data, skip_broken=True)
    made = make(tmp_path / "a.jsonl", skipping, str(llava), str(summariser), tokens=4, device="cpu")
    assert made == (3, 1, 1)
    assert [line.get("id") for line in lines_of(tmp_path / "a.jsonl")] == [None, "row0", "row2", "row3", "row4"]


def test_it_says_what_transformers_own_generate_says(llava):
    """Greedily, in spite of the model's own settings, and of this very picture."""
    speaker = Speaker(str(llava), CPU, tokens=12)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(2)]
    question = speaker.question("make it night")
    assert "what will this image be like if 'make it night' (in a short paragraph)\n<image> ASSISTANT:" in question
    wanted = []
    for rgb_HWC in pictures:
        inputs = speaker.processor(images=[Image.fromarray(rgb_HWC)], text=[question], return_tensors="pt")
        assert int((inputs["input_ids"] == speaker.model.config.image_token_id).sum()) == 4
        ids_BL = inputs["input_ids"]
        with torch.no_grad():
            for _ in range(12):
                logits_BLV = speaker.model(input_ids=ids_BL, pixel_values=inputs["pixel_values"]).logits
                logits_BLV[..., speaker.model.config.image_token_id] = -torch.inf  # no picture is said
                ids_BL = torch.cat([ids_BL, logits_BLV[:, -1:].argmax(-1)], dim=1)
        said = ids_BL[0, inputs["input_ids"].shape[1] :].tolist()
        said = said[: said.index(3)] if 3 in said else said
        wanted.append(speaker.processor.decode(said, skip_special_tokens=True).strip())
    assert speaker.say(["make it night"] * 2, pictures) == wanted
    assert wanted[0] != wanted[1]


def test_special_tokens_in_an_instruction_are_no_pictures(llava):
    speaker = Speaker(str(llava), CPU)
    assert speaker.question("<image> and </s><image>").count("<image>") == 1
    assert "</s>" not in speaker.question("<image> and </s><image>")


def test_a_model_s_own_form_of_conversation_is_used(llava):
    speaker = Speaker(str(llava), CPU)
    speaker.processor.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}"
        "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    asked = "what will this image be like if 'warmer' (in a short paragraph)"
    assert speaker.question("warmer") == f"[user]{asked}<image>[assistant]"


def test_sums_are_as_the_paper_s(summariser):
    """Five beams, 5 to 64 tokens, no three of them twice; each text alone gives what it gives among others."""
    own = Summariser(str(summariser), CPU)
    texts = ["The sky is dark and full of stars. A lamp is lit.", "", "Snow."]
    sums = own.sum_up(texts)
    assert sums[1] is None
    for text, said in zip(texts, sums, strict=True):
        if text:
            ids_BL = own.tokenizer(f"summarize the following paragraph in 32 words:\n\n{text}", return_tensors="pt").input_ids
            out_BL = own.model.generate(
                ids_BL, num_beams=5, min_length=5, max_length=64, no_repeat_ngram_size=3, do_sample=False
            )
            assert 5 <= out_BL.shape[1] <= 64
            assert said == " ".join(own.tokenizer.decode(out_BL[0], skip_special_tokens=True).split())
    assert own.sum_up(["", ""]) == [None, None]


def test_where_nothing_can_be_written_is_said_before_models_are_loaded(data, tmp_path):
    for out in (tmp_path, tmp_path / "nowhere" / "told.jsonl"):
        with pytest.raises(PaintoverError, match="cannot be written; name a file"):
            make(out, data, "no/such-llava", "no/such-t5")


def test_pickles_and_code_are_refused(llava, summariser, data, tmp_path):
    import shutil

    for name, source in (("llava", llava), ("summariser", summariser)):
        shutil.copytree(source, tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
        torch.save({}, tmp_path / name / "pytorch_model.bin")
    for kind, name in ((Speaker, "llava"), (Summariser, "summariser")):
        with pytest.raises(ModelError, match="with safetensors and a tokenizer"):
            kind(str(tmp_path / name), CPU)
        with pytest.raises(ModelError, match="no folder 'not here'"):
            kind("not here", CPU)
    coded = tmp_path / "coded"
    shutil.copytree(summariser, coded)
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForSeq2SeqLM": "own.Own"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ModelError, match="cannot be loaded as a summariser"):
        Summariser(str(coded), CPU)
    assert not (tmp_path / "ran").exists()


def test_weights_that_lack_tensors_are_refused(summariser, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(summariser, tmp_path / "t5")
    state = load_file(tmp_path / "t5" / "model.safetensors")
    state.pop("decoder.final_layer_norm.weight")
    save_file(state, tmp_path / "t5" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"decoder\.final_layer_norm\.weight"):
        Summariser(str(tmp_path / "t5"), CPU)


def test_the_command_tells_a_dataset(llava, summariser, data, tmp_path, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", "expressive", str(data), *map(str, words)])
        return (ended.value.code, *capsys.readouterr())

    out = tmp_path / "told.jsonl"
    models = ("--llava", llava, "--summariser", summariser, "--tokens", 4, "--device", "cpu")
    code, printed, errors = run("-o", out, *models, "--share", "1/2")
    assert (code, printed.strip()) == (0, str(tmp_path / "told-1-of-2.jsonl")), errors
    assert "2 rows told, 0 had been before, 0 broken" in errors
    code, printed, errors = run("-o", out, *models, "--share", "1/2")
    assert "0 rows told, 2 had been before" in errors
    for words, said in (
        (("--share", "2/2"), "--share is '2/2'; expected K/N"),
        (("--column", "source"), "--column is 'source'; expected WHAT=NAME"),
        (("--split", "test"), "has no split 'test'; it has train"),
        (("--kind", "pickle"), "cannot be of the kind 'pickle'"),
    ):
        code, printed, errors = run("-o", out, *models, *words)
        assert (code, printed) == (2, "")
        assert said in errors
        assert errors.count("\n") == 1


# What is said is cut as people read it: the same for targets that are made here and for what MGIE says when it edits.

PIECES = st.sampled_from([*"ab .!?\n3", "alternative", "Alternatively, ", "3.5", "... ", "。"])
TEXTS = st.lists(PIECES, max_size=40).map("".join) | st.text()


@given(TEXTS)
def test_any_text_is_cut(text):
    short = tidy(text)
    assert not re.search(r"\S\s+\W*alternative", short, re.IGNORECASE)  # but it may begin so
    assert len(re.findall(r"[.!?]\s", short)) <= 1  # one end at most inside: two sentences
    assert tidy(short) == short
    assert short.split() == " ".join(text.split()).split()[: len(short.split())] or re.search(
        r"\balternative", text, re.IGNORECASE
    )


@given(st.integers(0, 999), st.integers(0, 999), st.integers(1, 4))
def test_a_point_inside_a_number_ends_no_sentence(whole, part, count):
    sentences = [f"It is {whole}.{part} metres tall." for _ in range(count)]
    assert tidy(" ".join(sentences)) == " ".join(sentences[:2])


@pytest.mark.parametrize("text", ["", " ", "\n", "."])
def test_nothing_to_say_is_no_crash(text):
    assert tidy(text) == text.strip()


def test_what_is_offered_as_an_alternative_is_left_out_but_where_it_is_all():
    assert tidy("Paint it red. Alternatively, paint it blue.") == "Paint it red."
    assert tidy("Alternatively, paint it red.") == "Alternatively, paint it red."
