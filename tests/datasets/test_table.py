"""Tables: any of four forms, columns by their usual names or as told, splits by file or column, broken rows by name."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paintover.datasets import RowError, open_dataset


@pytest.fixture
def pictures(layouts, tmp_path):
    for n in range(6):
        layouts.save(tmp_path / "images" / f"{n}.png", n)
    return tmp_path


def written(folder, name, rows, columns=("input", "output", "instruction")):
    file, kind = folder / name, name.rpartition(".")[2]
    if kind == "jsonl":
        file.write_text("".join(json.dumps(dict(zip(columns, row, strict=False))) + "\n" for row in rows))
    elif kind == "json":
        file.write_text(json.dumps([dict(zip(columns, row, strict=False)) for row in rows]))
    else:
        stream = io.StringIO()
        csv.writer(stream, delimiter="\t" if kind == "tsv" else ",").writerows([columns, *rows])
        file.write_text(stream.getvalue())
    return file


ROWS = [("images/0.png", "images/1.png", "make it, say,\tdarker"), ("images/2.png", "images/3.png", 'the "second"')]


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl"])
def test_every_form_is_read_alike(layouts, pictures, kind):
    data = open_dataset(written(pictures, f"pairs.{kind}", ROWS))
    assert [sample.id for sample in data] == ["pairs-1", "pairs-2"]
    assert [sample.instruction for sample in data] == ["make it, say, darker", 'the "second"']
    assert layouts.is_picture(data[1].source, 2)
    assert layouts.is_picture(data[1].target, 3)
    assert data.splits == ("train",)


@pytest.mark.parametrize(
    "columns",
    [
        ("img0", "img1", "sents"),  # EVR
        ("Source", "Goal", "Request"),
        ("original_image", "edited_image", "edit_prompt"),
        ("before", "after", "text"),
    ],
)
def test_usual_names_are_recognised(layouts, pictures, columns):
    data = open_dataset(written(pictures, "pairs.csv", ROWS, columns))
    assert layouts.is_picture(data[0].target, 1)


def test_other_names_are_told(layouts, pictures):
    file = written(pictures, "pairs.csv", [("a", 1, 0, "x", "yes")], ("name", "good", "bad", "words", "meaning"))
    with pytest.raises(RowError, match=r"has the columns name, good, bad, words, meaning; say which is the source"):
        open_dataset(file)
    (pictures / "images" / "1").write_bytes((pictures / "images" / "1.png").read_bytes())
    (pictures / "images" / "0").write_bytes((pictures / "images" / "0.png").read_bytes())
    columns = {"source": "bad", "target": "good", "instruction": "words", "expressive": "meaning", "id": "name"}
    sample = open_dataset(file, columns=columns, pictures=pictures / "images")[0]
    assert (sample.id, sample.instruction, sample.expressive) == ("a", "x", "yes")
    assert layouts.is_picture(sample.source, 0)
    with pytest.raises(RowError, match="has no column 'worse'; it has name, good"):
        open_dataset(file, columns=columns | {"source": "worse"})
    with pytest.raises(RowError, match="cannot be 'goal'; it is one of source, target"):
        open_dataset(file, columns=columns | {"goal": "good"})


def test_a_list_of_instructions_becomes_as_many_samples(pictures):
    file = pictures / "train.json"
    rows = [
        {"uid": "p", "img0": "0.png", "img1": "1.png", "sents": ["one", "two"]},
        {"uid": "q", "img0": "2.png", "img1": "3.png", "sents": "three"},
    ]
    file.write_text(json.dumps(rows))
    data = open_dataset(file, pictures=pictures / "images")
    assert [(sample.id, sample.instruction) for sample in data] == [("p-1", "one"), ("p-2", "two"), ("q", "three")]
    assert data[0].source.sha256 == data[1].source.sha256


def test_splits_are_files_or_a_column(pictures):
    written(pictures, "gier_train.csv", ROWS)
    written(pictures, "gier_test.csv", ROWS[:1])
    assert open_dataset(pictures, split="test").splits == ("test", "train")
    assert (len(open_dataset(pictures)), len(open_dataset(pictures, split="test"))) == (2, 1)
    one = written(
        pictures, "all.jsonl", [(*ROWS[0], "valid"), (*ROWS[1], "train")], ("input", "output", "instruction", "split")
    )
    data = open_dataset(one, split="valid")
    assert (data.splits, [sample.id for sample in data]) == (("valid", "train"), ["all-1"])
    with pytest.raises(RowError, match="has no split 'test'; it has valid, train"):
        open_dataset(one, split="test")


def test_a_file_that_is_broken_is_told_by_its_name(pictures):
    for name, content, said in (
        ("a.json", "{", "a.json is no readable table"),
        ("b.json", "3", "neither a list of rows"),
        ("c.csv", "", "c.csv has no rows"),
        ("d.csv", b"\xff\xfe\xfa", "give CSV, TSV, JSON or JSONL in UTF-8"),
        ("e.csv", "id,input,output,instruction\n1,a,b,c\n1,d,e,f\n", r"e.csv, row 2: its id '1' is that of .*row 1 too"),
    ):
        (pictures / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(RowError, match=said):
            open_dataset(pictures / name)


BROKEN = {
    "no JSON": ("nonsense", "row 2: not JSON"),
    "no object": ("[1]", "row 2: no JSON object"),
    "no words": ('{"input": "images/0.png", "output": "images/1.png", "instruction": "  "}', "row 2: its instruction is empty"),
    "no text": ('{"input": "images/0.png", "output": "images/1.png", "instruction": 3}', "row 2: its instruction is no text"),
    "no goal": ('{"input": "images/0.png", "instruction": "x"}', "row 2: it names no target"),
    "no file": (
        '{"input": "images/9.png", "output": "images/1.png", "instruction": "x"}',
        "row 2: .*images/9.png: no such file",
    ),
    "no picture": ('{"input": "pairs.jsonl", "output": "images/1.png", "instruction": "x"}', "row 2: .*not a picture"),
    "up": ('{"input": "../x.png", "output": "images/1.png", "instruction": "x"}', r"row 2: its source '../x.png' lies outside"),
    "away": (
        '{"input": "/etc/passwd", "output": "images/1.png", "instruction": "x"}',
        "row 2: its source '/etc/passwd' lies outside",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_is_named_or_skipped(layouts, pictures, case):
    line, said = BROKEN[case]
    good = [json.dumps(dict(zip(("input", "output", "instruction"), row, strict=True))) for row in ROWS]
    file = pictures / "pairs.jsonl"
    file.write_text("\n".join([good[0], line, good[1]]) + "\n")
    data = open_dataset(file)
    assert len(data) == 3
    assert data[0].instruction
    assert data[2].instruction == 'the "second"'
    with pytest.raises(RowError, match=said) as told:
        data[1]
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)
    skipping = open_dataset(file, skip_broken=True)
    assert [sample.id for sample in skipping] == ["pairs-1", "pairs-3"]
    assert [skipping[i].id for i in range(3)] == ["pairs-1", "pairs-3", "pairs-3"]
    assert skipping.skipped == {1}


def test_a_csv_row_with_too_few_cells_is_broken(pictures):
    file = pictures / "pairs.csv"
    file.write_text("input,output,instruction\nimages/0.png,images/1.png,x\nimages/0.png,images/1.png\n")
    with pytest.raises(RowError, match="row 2: 3 cells were expected"):
        open_dataset(file)[1]


def test_after_the_last_row_comes_the_first(pictures):
    file = written(pictures, "pairs.jsonl", [*ROWS, ("none.png", "images/1.png", "x")])
    data = open_dataset(file, skip_broken=True)
    assert [data[2].id, data[-1].id] == ["pairs-1", "pairs-1"]
    assert data.skipped == {2}


def test_nothing_but_broken_rows_ends(pictures):
    file = pictures / "pairs.jsonl"
    file.write_text('{"input": "x", "output": "y", "instruction": "z"}\n' * 3)
    with pytest.raises(RowError, match="none of the 3 rows can be read"):
        open_dataset(file, skip_broken=True)[1]


CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))
NAMES = st.text(CHARACTERS, min_size=1).filter(lambda text: bool(text.strip()))


@example(instructions=["a line\u2028separator", "next\x85line"], kind="csv")  # which end no line of a table
@given(instructions=st.lists(NAMES, min_size=1, max_size=5), kind=st.sampled_from(["csv", "tsv", "json", "jsonl"]))
def test_words_survive_every_form(tmp_path_factory, instructions, kind):
    rows = [("a.png", "b.png", words) for words in instructions]
    data = open_dataset(written(tmp_path_factory.mktemp("table"), f"t.{kind}", rows))
    assert [data.row(i).instruction for i in range(len(data))] == [" ".join(words.split()) for words in instructions]


@given(name=st.text(max_size=30))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("table")
    file = written(folder, "t.jsonl", [(name, "b.png", "x")])
    try:
        row = open_dataset(file).row(0)
    except RowError:
        return
    assert row.source.resolve().is_relative_to(folder.resolve())
