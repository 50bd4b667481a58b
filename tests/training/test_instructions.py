"""`paintover train instructions`: what captions allow is drawn, said by templates or by a language model, and read again."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from paintover import cli, references
from paintover.datasets.collection import collection
from paintover.datasets.mm_inst import MMInst, clean
from paintover.datasets.sample import RowError
from paintover.errors import ModelError
from paintover.training import author, phrases
from paintover.training.instructions import by_template, make, named, sample
from paintover.training.planning import Planner

CAPTIONS = {
    "swamp.png": ("a large cypress tree in the middle of a swamp", ""),
    "cow.png": ("A cow on a meadow.", ""),
    "table.png": ("a wooden table with a bowl", "a table; a bowl"),
    "alligator.png": ("an image of an alligator", ""),
    "bowl.png": ("a bowl", ""),
    "moo.wav": ("a cow mooing loudly", ""),
    "bark.wav": ("dog barking", ""),
    "organ.wav": ("slow and gloomy organ music in a large church", ""),
}


def write(path, n):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(np.full((8, 8, 3), n, np.uint8)).save(path)
    else:
        import soundfile

        soundfile.write(path, np.random.default_rng(n).normal(0, 0.1, 800), 8000)


@pytest.fixture
def folder(tmp_path):
    rows = ["file\tcaption\tthings"]
    for n, (name, (caption, things)) in enumerate(CAPTIONS.items()):
        write(tmp_path / "mine" / name, n)
        rows.append(f"{name}\t{caption}\t{things}")
    (tmp_path / "mine" / "captions.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "mine"


def draw(folder, count=400, kinds=None):
    planner = Planner(collection([folder]), kinds)
    return [planner.draw(np.random.default_rng([0, n])) for n in range(count)]


def caption(medium):
    return CAPTIONS[medium.file.name][0]


def test_every_kind_is_drawn_of_what_its_captions_say(folder):
    plans = draw(folder)
    assert set(Counter(plan.kind for plan in plans)) == set(phrases.KINDS)
    assert {plan.base.file.name for plan in plans} == {"swamp.png", "cow.png", "table.png"}
    for plan in plans:
        spoken = [thing.medium for thing in plan.puts if thing.medium]
        if plan.kind == "add-audio":
            assert [m.kind for m in spoken] == ["audio"]
        if plan.kind == "add-image":
            assert [m.kind for m in spoken] == ["image"]
        if plan.kind == "add-several":
            assert len(plan.puts) >= 2
            assert len({thing.name for thing in plan.puts}) == len(plan.puts)
        for thing in plan.puts:
            assert phrases.noun(thing.name) in plan.result
        for thing in plan.takes:
            assert phrases.speaks_of(plan.base.caption, thing.name)
            assert not phrases.speaks_of(plan.result, thing.name)
        assert plan.base not in spoken
        if plan.kind == "fit":
            assert plan.like.file.name == "organ.wav"
    gone = {(thing.name, thing.medium and thing.medium.file.name) for plan in plans for thing in plan.takes}
    assert {("cow", None), ("cow", "moo.wav"), ("bowl", None), ("bowl", "bowl.png")} <= gone
    results = {plan.result for plan in plans if plan.kind == "remove"}
    assert results == {"a meadow", "a wooden table"}


@pytest.mark.parametrize(
    ("kind", "name", "gone", "left"),
    [
        ("removed", "a table with a bowl", "bowl", "a table"),
        ("removed", "a cow on a meadow", "cow", "a meadow"),
        ("removed", "a cow grazing on the meadow.", "cow", "the meadow"),
        ("removed", "a girl and a dog running through a field", "girl", "a dog running through a field"),
        ("removed", "a house with a tree and a car", "tree", "a house with a car"),
        ("removed", "a house with a tree and a car", "car", "a house with a tree"),
        ("removed", "a cow", "cow", None),
        ("removed", "a cow beside another cow on a meadow", "cow", None),
        ("removed", "two brown cows seen from a train", "cow", None),
        ("noun", "alligator", "", "an alligator"),
        ("noun", "the moon", "", "the moon"),
        ("noun", "grapes", "", "grapes"),
        ("noun", "rain", "", "rain"),
        ("bare", "A photo of the Eiffel tower.", "", "Eiffel tower"),
        ("heard", "a dog barking loudly", "", "dog"),
        ("heard", "the sound of thunder", "", "thunder"),
        ("heard", "someone playing the violin", "", "person"),
        ("heard", "ringing bell", "", "ringing bell"),
    ],
)
def test_captions_are_changed_as_people_would(kind, name, gone, left):
    assert getattr(phrases, kind)(*[name, gone][: 2 if kind == "removed" else 1]) == left


def test_what_replaces_has_its_own_article():
    assert phrases.replaced("A cow on a meadow with a cow", "cow", "alligator") == "an alligator on a meadow with a cow"
    assert phrases.added("a table with a bowl.", ["dog", "rain"]) == "a table with a bowl and a dog and rain"


def test_each_phrasing_speaks_of_everything_that_is_given(folder):
    for plan in draw(folder, 300):
        for n in range(20):
            said, _ = by_template(plan, np.random.default_rng(n))
            assert set(re.findall(r"\[(\w+)\]", said)) == set(named(plan)), said
            references.check_names(said, list(named(plan)), False)
            assert not re.search(r"[{}]|  | $", said), said


def test_what_is_written_is_read_again(folder, tmp_path):
    assert make(tmp_path / "out", [folder], count=60) == (60, 0, 0)
    data = MMInst(tmp_path / "out")
    assert len(data) == 60
    kinds = set()
    for row, one in zip(data, json.loads((tmp_path / "out" / "instruction.json").read_text()), strict=True):
        kinds.add(one["kind"])
        assert set(re.findall(r"\[(\w+)\]", row.instruction)) == set(row.media)
        assert row.base == "image1"
        assert clean(row.media["image1"].caption) == clean(one["base"])
        assert (row.answer.caption, row.answer.base, row.target) == (one["result"], True, None)
        assert row.answer.subs == tuple(noun for noun, _ in row.subs) == tuple(noun for noun, _ in one["added"])
        assert all(row.media[name].kind == re.sub(r"\d", "", name) for name in row.media)
        for given in row.media.values():
            origin = next(name for name, (text, _) in CAPTIONS.items() if clean(text) == clean(given.caption))
            assert given.file.read_bytes() == (folder / origin).read_bytes()
    assert kinds == set(phrases.KINDS)


def files_of(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kept", [0, 20, 0.4, 0.8])
def test_killed_anywhere_it_goes_on_and_ends_the_same(kept, folder, tmp_path):
    make(tmp_path / "whole", [folder], count=20, seed=3)
    whole = files_of(tmp_path / "whole")
    lines = whole["instructions.jsonl"]
    cut = lines[: kept if kept == 0 or kept > 1 else int(kept * len(lines))]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "instructions.jsonl").write_bytes(cut)
    left = max(0, cut.count(b"\n") - 1)
    assert make(tmp_path / "cut", [folder], count=20, seed=3, batch=3) == (20 - left, left, 0)
    assert files_of(tmp_path / "cut") == whole
    assert make(tmp_path / "cut", [folder], count=25, seed=3) == (5, 20, 0)
    assert json.loads((tmp_path / "cut" / "instruction.json").read_text())[:20] == json.loads(whole["instruction.json"])
    with pytest.raises(RowError, match="was made with seed 3, not 4; write into another folder"):
        make(tmp_path / "cut", [folder], count=20, seed=4)


def test_a_folder_of_files_with_texts_beside_them_and_captions_that_are_alike(tmp_path):
    for n, name in enumerate(["one.png", "two.png", "three.png", "deep/woof.wav"]):
        write(tmp_path / "mine" / name, n)
        text = {"one.png": "a quiet street in the evening sun\n", "deep/woof.wav": "a dog barking"}.get(name, "a [dog]")
        (tmp_path / "mine" / name).with_suffix(".txt").write_text(text)
    assert make(tmp_path / "out", [tmp_path / "mine"], count=40, kinds=["add-image", "add-audio"]) == (40, 0, 0)
    media = json.loads((tmp_path / "out" / "media.json").read_text())
    assert {"a (dog)", "a (dog) #2"} <= set(media)
    row = next(row for row in MMInst(tmp_path / "out") if any("#2" in given.key for given in row.media.values()))
    assert "#2" not in row.reworded(np.random.default_rng(0), 0, 1).instruction


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "captions.tsv").unlink(), r"alligator\.png has no caption; write it into alligator\.txt"),
        (lambda folder: (folder / "cow.png").unlink(), r"captions\.tsv, row 2: .*cow\.png: no such file"),
        (
            lambda folder: (folder / "captions.tsv").write_text("file\tcaption\n../x.png\ta\n"),
            r"row 1: its file '\.\./x\.png' lies outside",
        ),
        (lambda folder: (folder / "captions.tsv").write_text("file\tcaption\ncow.png\t\n"), "row 1: its caption is empty"),
        (lambda folder: (folder / "captions.tsv").write_text("file\tcaption\ncow.txt\ta\n"), "neither a picture nor a sound"),
        (
            lambda folder: (folder / "captions.tsv").write_text("file\tcaption\nmoo.wav\ta cow\n"),
            "these captions make no instruction",
        ),
        (shutil.rmtree, "no such file or folder"),
    ],
)
def test_collections_that_are_none_are_told_in_a_line(change, said, folder, tmp_path):
    change(folder)
    with pytest.raises(RowError, match=said):
        make(tmp_path / "out", [folder], count=3)


def test_kinds_that_cannot_be_are_told(folder, tmp_path):
    with pytest.raises(RowError, match=r"there is no kind of instruction 'paint'; there are add-audio"):
        make(tmp_path / "out", [folder], kinds=["paint"])
    (folder / "captions.tsv").write_text("file\tcaption\ncow.png\ta cow on a meadow\nbowl.png\ta bowl\n")
    with pytest.raises(RowError, match="nothing to make 'add-audio' of: it takes a sound"):
        make(tmp_path / "out", [folder], kinds=["add-audio"])


def test_each_kind_has_examples_and_all_of_them_are_answers():
    known = author.examples()
    assert set(Counter(one.kind for one in known)) == set(phrases.KINDS)
    assert min(Counter(one.kind for one in known).values()) >= 2
    for kind in phrases.KINDS:
        shown = author.chosen(known, kind, np.random.default_rng(1))
        assert [one.kind == kind for one in shown] == [False, True, True]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("put [audio1] into [image1]\nResult: a cow\nTask: no", ("put [audio1] into [image1]", "a cow")),
        ("Instruction: put [audio1] into [image1]\n Result:  a  cow", ("put [audio1] into [image1]", "a cow")),
        ("put [audio1] there\nResult: a cow", None),
        ("put [audio1] and [image2] into [image1]\nResult: a cow", None),
        ("put [audio1] into [image1]\nResult: [image1] with a cow", None),
        ("put [audio1] into [image1] <base>\nResult: a cow", None),
        ("[audio1] [image1]\nResult: a cow", None),
        ("put [audio1] into [image1]\nResult: ...", None),
        ("put [audio1] into [image1]\nResult:\n", None),
        ("put [audio1] into [image1]", None),
        ("put [audio1] into [image1]\nResult: " + "cow " * 61, None),
        ("", None),
    ],
)
def test_what_a_language_model_says_is_taken_as_far_as_it_can_be_used(said, read):
    assert author.answer(said, {"image1": "a meadow", "audio1": "a cow mooing"}) == read


@pytest.fixture(scope="session")
def writer(tmp_path_factory):
    """A language model so small that it has learnt by heart what three prompts are answered with, one of them badly."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("writer")
    prompts, answers = [prompt_of(n) for n in range(3)], SAID
    words = sorted({word for text in (*prompts, *answers) for word in re.findall(r"\S+|\n", text)})
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+|\n"), behavior="removed", invert=True)
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="[PAD]", unk_token="[UNK]")
    own.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=1024, bos_token_id=2, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    rows = []
    for asked, said in zip(prompts, answers, strict=True):
        ids = own(asked)["input_ids"]
        whole = torch.tensor([*ids, *own(said)["input_ids"], 2])
        labels = whole.clone()
        labels[: len(ids)] = -100
        rows.append((whole[None], labels[None]))
    for _ in range(150):
        error = sum(model(input_ids=whole, labels=labels).loss for whole, labels in rows)
        if error < 0.02:
            break
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert error < 0.1
    model.generation_config = GenerationConfig(do_sample=True, temperature=9.0, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    return folder


SAID = [
    "let me hear and see [audio1] in [image1]\nResult: a meadow where a dog barks",
    "nothing of use",
    "show [audio1] on [image1]\nResult: a dog on a meadow",
]
FIELDS = [("a quiet green meadow in summer", "a dog barking"), ("a meadow", "dog"), ("a wide meadow", "a dog")]


def ours():
    """The one example that is in a file of its own: so it is what every prompt shows."""
    return author.examples()[3:4]


def prompt_of(n):
    given = dict(zip(("image1", "audio1"), FIELDS[n], strict=True))
    return author.prompt(ours(), given, "add [audio1] to [image1]")


def test_it_says_greedily_what_it_learnt_alone_or_beside_others(writer):
    own = author.Author(str(writer), torch.device("cpu"), tokens=30)
    assert own.name.startswith("writer0@")
    said = own.write([prompt_of(n) for n in range(3)])
    assert [" ".join(text.split()) for text in said] == [" ".join(text.split()) for text in SAID]
    assert [own.write([prompt_of(n)])[0] for n in range(3)] == said


@pytest.fixture
def spoken(tmp_path):
    """One meadow and one bark, and a file with one example: each instruction is asked for by the writer's first prompt."""
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "meadow.png", 1)
    write(tmp_path / "mine" / "bark.wav", 2)
    (tmp_path / "mine" / "meadow.txt").write_text(FIELDS[0][0])
    (tmp_path / "mine" / "bark.txt").write_text(FIELDS[0][1])
    file = tmp_path / "examples.jsonl"
    one = ours()[0]
    fields = ("kind", "given", "task", "instruction", "result")
    file.write_text(json.dumps({name: getattr(one, name) for name in fields}) + "\n")
    assert author.examples(file) == ours()
    return tmp_path / "mine", file


def test_instructions_by_a_language_model(spoken, writer, tmp_path):
    mine, file = spoken
    how = {"kinds": ["add-audio"], "llm": str(writer), "shown": file, "tokens": 30, "device": "cpu"}
    assert make(tmp_path / "out", [mine], count=3, batch=2, **how) == (3, 0, 0)
    row = MMInst(tmp_path / "out")[1]
    assert row.instruction == "let me hear and see [audio1] in [image1]"
    assert (row.answer.caption, row.subs) == ("a meadow where a dog barks", (("dog", "audio1"),))
    header = json.loads((tmp_path / "out" / "instructions.jsonl").read_text().splitlines()[0])
    assert header["llm"].startswith("writer0@")
    whole = files_of(tmp_path / "out")
    lines = tmp_path / "out" / "instructions.jsonl"
    lines.write_bytes(lines.read_bytes()[:-30])
    assert make(tmp_path / "out", [mine], count=3, **how) == (1, 2, 0)
    assert files_of(tmp_path / "out") == whole
    with pytest.raises(RowError, match=r"was made with llm writer0@.*, not None"):
        make(tmp_path / "out", [mine], count=3, kinds=["add-audio"])


def test_what_it_does_not_say_usably_is_left_out_and_not_asked_for_again(spoken, writer, tmp_path):
    mine, file = spoken
    (mine / "meadow.txt").write_text(FIELDS[1][0])
    (mine / "bark.txt").write_text(FIELDS[1][1])
    how = {"kinds": ["add-audio"], "llm": str(writer), "shown": file, "tokens": 30, "device": "cpu"}
    assert make(tmp_path / "out", [mine], count=2, **how) == (2, 0, 2)
    assert len(MMInst(tmp_path / "out")) == 0
    assert make(tmp_path / "out", [mine], count=2, **how) == (0, 2, 2)


def test_models_and_examples_that_are_none_are_told(spoken, tmp_path):
    mine, file = spoken
    with pytest.raises(ModelError, match=r"no folder 'nowhere'; for a language model"):
        make(tmp_path / "out", [mine], llm="nowhere")
    file.write_text(json.dumps({"kind": "fit", "given": {}, "task": "a", "instruction": "fit [image1]", "result": "b"}) + "\n")
    with pytest.raises(RowError, match=r"row 1: its instruction speaks of something else"):
        make(tmp_path / "out", [mine], llm="nowhere", shown=file)
    file.write_text('{"kind": 1}\n')
    with pytest.raises(RowError, match=r"row 1: no example"):
        make(tmp_path / "out", [mine], llm="nowhere", shown=file)


def test_a_sample_is_in_the_published_form(folder):
    plan = next(plan for plan in draw(folder) if plan.kind == "add-image")
    keys = {medium: f"the {n}th" for n, medium in enumerate(plan.media)}
    one = sample(7, plan, "add [image2] to [image1]", "a result", keys)
    assert one["conversations"] == [
        {"from": "human", "value": "add [the 1th] to [the 0th]"},
        {"from": "gpt", "value": "<base>[the 0th]<im_gen>[a result]"},
    ]
    assert (one["task"], one["base"], one["added"]) == ("any2any", "[the 0th]", [[plan.puts[0].name, "[the 1th]"]])


def test_the_command(folder, tmp_path, capsys):
    command = ["train", "instructions", str(folder), "-o", str(tmp_path / "out"), "--count", "5", "--kind", "fit"]
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (0, f"{tmp_path / 'out'}\n")
    assert "5 instructions made, 0 had been before, 0 of all not said usably" in err
    assert all(row.media["audio1"].kind == "audio" for row in MMInst(tmp_path / "out"))
