"""Files of expressive instructions: lines that are none are named."""

from __future__ import annotations

import json

import pytest

from paintover.datasets import RowError
from paintover.datasets.told import Told, read

HEAD = {"format": 1}
LINE = {"id": "a", "instruction": "make it day", "expressive": "The sky is blue."}


def write(file, *lines):
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def test_lines_are_joined_by_id(tmp_path):
    file = write(tmp_path / "told.jsonl", HEAD, LINE, {"id": "b", "instruction": "x", "expressive": None})
    assert read(file) == {"a": Told("make it day", "The sky is blue."), "b": Told("x", None)}


@pytest.mark.parametrize("wrong", [{"instruction": 5}, {"instruction": None}, {"id": ["a"]}, {"id": 7}])
def test_a_line_without_text_is_named(tmp_path, wrong):
    file = write(tmp_path / "told.jsonl", HEAD, LINE, LINE | wrong)
    with pytest.raises(RowError, match=r"told\.jsonl, row 3: no line of"):
        read(file)


@pytest.mark.parametrize("line", [[1], 3, None, {"format": 1}])
def test_a_line_that_is_something_else_is_named(tmp_path, line):
    with pytest.raises(RowError, match="row 2: no line of"):
        read(write(tmp_path / "told.jsonl", HEAD, line))
    with pytest.raises(RowError, match="row 1: no line of"):
        read(write(tmp_path / "told.jsonl", LINE))
