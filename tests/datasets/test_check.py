"""`paintover train check-data`: what a dataset holds, in every layout, and what is broken in it."""

from __future__ import annotations

import json

import pytest

from paintover import cli
from paintover.datasets import open_dataset
from paintover.datasets.check import check


@pytest.fixture
def check_data(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", "check-data", *map(str, words)])
        return (ended.value.code, *capsys.readouterr())

    return run


def test_every_layout_is_recognised_and_counted(layouts, tmp_path, check_data):
    for split in ("train", "test"):
        layouts.magicbrush(tmp_path / "magicbrush" / split)
    layouts.parquet(tmp_path / "parquet" / "dev-00000-of-00001.parquet", rows=3)
    made = {
        "instruct-pix2pix": (layouts.instruct_pix2pix(tmp_path / "ip2p"), {"train": 27, "val": 1, "test": 2}),
        "magicbrush": (tmp_path / "magicbrush", {"train": 3, "test": 3}),
        "mgie": (layouts.mgie(tmp_path / "mgie"), {"train": 3}),
        "parquet": (tmp_path / "parquet", {"dev": 3}),
    }
    for kind, (folder, counts) in made.items():
        code, out, errors = check_data(folder, "--json")
        assert code == 0, errors
        report = json.loads(out)
        assert report["kind"] == kind
        assert {part["split"]: part["rows"] for part in report["splits"]} == counts
        assert {part["split"]: part["read"] for part in report["splits"]} == counts
        assert all(part["sizes"] == [[16, 24], [16, 24]] for part in report["splits"])
        assert all(part["told"] == (part["rows"] if kind == "mgie" else 0) for part in report["splits"])


def test_what_is_found_is_printed_and_broken_rows_are_named(layouts, tmp_path, check_data):
    for n in range(3):
        layouts.save(tmp_path / f"{n}.png", n, size=(20 + 4 * n, 16))
    rows = ["0.png,1.png,first", "1.png,1.png,second", "2.png,2.png,third", "2.png,2.png,fourth", "9.png,1.png,fifth"]
    (tmp_path / "pairs.csv").write_text("\n".join(["input,goal,request", *rows]) + "\n")
    code, out, errors = check_data(tmp_path / "pairs.csv")
    assert code == 2
    assert out.splitlines() == [
        f"{tmp_path / 'pairs.csv'}: table",
        "train: 5 pairs",
        "  sizes: 20 x 16 to 28 x 16; 1 with a goal of another size",
        "  with an expressive instruction: 0",
        "  first",
        "  second",
        "  third",
        f"  broken: {tmp_path / 'pairs.csv'}, row 5: {tmp_path / '9.png'}: no such file; give the path of a picture",
    ]
    assert errors == "paintover: 1 of the rows that were read cannot be used; mend them, or train with --skip-broken\n"
    code, out, _ = check_data(tmp_path / "pairs.csv", "--rows", 2, "--split", "train")
    assert code == 0
    assert "train: 5 pairs, the first 2 read" in out
    code, out, errors = check_data(tmp_path, "--column", "source=goal", "--column", "target=input", "--pictures", tmp_path)
    assert "20 x 16" not in out


def test_what_a_file_says_steers_no_terminal(layouts, tmp_path, check_data):
    layouts.save(tmp_path / "0.png", 0)
    line = {"input": "0.png", "output": "0.png", "instruction": "red \x1b[31m"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line) + "\n")
    _, out, _ = check_data(tmp_path)
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["empty"], "empty looks like no dataset"),
        (["empty", "--kind", "books"], "cannot be of the kind 'books'"),
        (["empty", "--kind", "magicbrush"], "empty has nothing in the layout magicbrush"),
        (["empty", "--kind", "parquet"], "empty has nothing in the layout parquet"),
        (["notes.txt"], "notes.txt looks like no dataset"),
        (["pairs.csv", "--split", "dev"], "has no split 'dev'; it has train"),
        (["pairs.csv", "--column", "x"], "expected WHAT=NAME"),
        (["pairs.csv", "--expressive", "none.jsonl"], "none.jsonl: no such file; make it with `paintover train expressive`"),
        (["pairs.csv", "--kind", "instruct-pix2pix", "--column", "source=a"], "has no columns to name"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, check_data, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "pairs.csv").write_text("input,output,instruction\na,b,c\n")
    code, out, errors = check_data(*words)
    assert (code, out) == (2, "")
    assert said in errors
    assert errors.count("\n") == 1


def test_the_orientation_of_a_photograph_is_applied(layouts, tmp_path):
    image = layouts.picture(1)
    exif = image.getexif()
    exif[0x0112] = 6  # a camera held upright
    image.save(tmp_path / "0.png", exif=exif)
    line = {"input": "0.png", "output": "0.png", "instruction": "x"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line) + "\n")
    assert check(open_dataset(tmp_path)).sizes == [(24, 16), (24, 16)]


def test_an_empty_folder_is_no_dataset(tmp_path, check_data):
    (tmp_path / "seeds.json").write_text("[]")
    for words in ((tmp_path / "none", "--kind", "instruct-pix2pix"), (tmp_path,)):
        code, _, errors = check_data(*words)
        assert code == 2
        assert "has no prompts" in errors


def test_what_is_no_text_or_number_is_a_broken_row(layouts, tmp_path, check_data):
    folder = layouts.magicbrush(tmp_path / "train")
    turns = json.loads((folder / "edit_turns.json").read_text())
    turns[0]["output"] = f"100-output{'1' * 5000}.png"
    turns[1]["instruction"] = "\ud800"
    turns[2]["input"] = "205-\ud800.png"
    (folder / "edit_turns.json").write_text(json.dumps(turns))
    code, out, _ = check_data(folder)
    assert (code, out.count("broken: ")) == (2, 3)
    (folder / "global_descriptions.json").write_text("[]")
    code, _, errors = check_data(folder)
    assert (code, "is no JSON object of captions" in errors) == (2, True)


def test_cells_of_a_table_are_anything(layouts, tmp_path, check_data):
    for n in range(2):
        layouts.save(tmp_path / f"{n}.png", n)
    rows = [{"source": "0.png", "target": "1.png", "instruction": "long " * 10_000, "turn": 1}]
    rows.append({"source": "https://example.com/x.png", "target": "1.png", "instruction": "x"})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows).replace('"turn": 1}', '"turn": 1e999}'))
    code, out, _ = check_data(file)
    assert code == 2
    assert "row 2: its source is a URL" in out
    assert len(out) < 1500
    assert open_dataset(file)[0].turn is None
