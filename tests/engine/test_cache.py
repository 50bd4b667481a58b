from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from paintover.engine.cache import PrepareCache, cache_key


def entry(value: float = 0.0, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"x": torch.full((size,), value)}


def never() -> dict[str, torch.Tensor]:
    raise AssertionError("made again")


def files(cache: PrepareCache) -> list:
    return [path for path in cache.folder.rglob("*") if path.is_file()]


def test_key_is_of_the_content_not_of_its_order():
    assert cache_key(a=1, b=[2.5, "x"]) == cache_key(b=[2.5, "x"], a=1)
    assert cache_key(a=1) != cache_key(a=2)


def test_made_once_then_from_memory_then_from_disk(tmp_path):
    first = PrepareCache(tmp_path)
    made = first.get("k", lambda: entry(1.5))
    assert torch.equal(first.get("k", never)["x"], made["x"])
    again = PrepareCache(tmp_path)
    assert torch.equal(again.get("k", never)["x"], made["x"])
    assert (first.misses, first.hits, again.hits) == (1, 1, 1)


def test_views_and_dtypes_come_back_as_they_were(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    made = {"t": base.t(), "same": base, "half": base.to(torch.bfloat16), "n": torch.tensor(7)}
    PrepareCache(tmp_path).get("k", lambda: made)
    found = PrepareCache(tmp_path).get("k", never)
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name], made[name]) and found[name].dtype == made[name].dtype for name in made)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "garbage"])
def test_a_damaged_entry_is_a_miss_and_is_replaced(tmp_path, damage):
    PrepareCache(tmp_path).get("k", lambda: entry(1))
    (path,) = files(PrepareCache(tmp_path))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b"", "garbage": b"x" * 4096}[damage])
    assert PrepareCache(tmp_path).get("k", lambda: entry(2))["x"][0] == 2
    assert PrepareCache(tmp_path).get("k", never)["x"][0] == 2


def test_the_least_recently_used_go_first(tmp_path):
    cache = PrepareCache(tmp_path, max_bytes=3 * 4400, memory_bytes=0)
    for n, key in enumerate("abc"):
        cache.get(key, entry)
        os.utime(cache._path(key), (1e9 + n, 1e9 + n))
    cache.get("a", never)
    cache.get("d", entry)
    for key in "acd":
        cache.get(key, never)
    with pytest.raises(AssertionError, match="made again"):
        cache.get("b", never)
    assert sum(path.stat().st_size for path in files(cache)) <= cache.max_bytes


def test_memory_has_a_limit_and_an_entry_over_the_disk_limit_is_not_kept(tmp_path):
    cache = PrepareCache(tmp_path, max_bytes=100, memory_bytes=4000)
    cache.get("a", entry)
    assert files(cache) == []
    cache.get("a", never)
    cache.get("b", entry)
    with pytest.raises(AssertionError, match="made again"):
        cache.get("a", never)


def test_one_that_keeps_nothing_on_disk_leaves_what_others_keep_there(tmp_path):
    user = PrepareCache(tmp_path)
    user.get("k", lambda: entry(1))
    nothing = PrepareCache(tmp_path, max_bytes=0)
    nothing.keep("empty", {"x": torch.empty(0)})
    nothing.keep("other", entry(2))
    assert PrepareCache(tmp_path).get("k", never)["x"][0] == 1
    assert len(files(user)) == 1


def test_what_was_never_taken_up_again_is_swept(tmp_path):
    cache = PrepareCache(tmp_path, max_bytes=0)
    left, fresh = cache.unfinished("left"), cache.unfinished("fresh")
    for path in (left, fresh):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"state")
    os.utime(left, (1e9, 1e9))
    cache.sweep()
    assert files(cache) == [fresh]


def test_what_could_not_be_written_leaves_its_state(tmp_path, monkeypatch):
    cache = PrepareCache(tmp_path)
    state = cache.unfinished("k")
    state.parent.mkdir(parents=True)
    state.write_bytes(b"state")
    cache._path("k").mkdir()  # in the way
    cache.keep("k", entry(1))
    assert state.exists()
    cache._path("k").rmdir()
    cache.keep("k", entry(1))
    assert not state.exists()


def test_a_failed_make_leaves_nothing(tmp_path):
    cache = PrepareCache(tmp_path)
    with pytest.raises(AssertionError, match="made again"):
        cache.get("k", never)
    assert files(cache) == []
    assert cache.get("k", lambda: entry(3))["x"][0] == 3


def test_a_folder_that_cannot_be_used_only_makes_it_forgetful(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = PrepareCache(tmp_path / "file" / "folder", memory_bytes=0)
    assert [cache.get("k", lambda v=v: entry(v))["x"][0].item() for v in (1, 2)] == [1, 2]


def test_keys_cannot_leave_the_folder_and_the_environment_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PAINTOVER_CACHE", str(tmp_path / "here"))
    PrepareCache().get("../../../up", entry)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == files(PrepareCache())


def test_processes_share_a_folder(tmp_path):
    program = """
import sys, torch
from paintover.engine.cache import PrepareCache
cache = PrepareCache(sys.argv[1], max_bytes=5 * 4400, memory_bytes=0)
for n in range(60):
    key = (n * int(sys.argv[2])) % 8
    assert cache.get(str(key), lambda: {"x": torch.full((1000,), float(key))})["x"].eq(key).all()
"""
    runs = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(step)]) for step in (1, 3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert not list(tmp_path.rglob("*.part"))
