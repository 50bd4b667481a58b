"""Each published layout, made in small and read back: its pictures, words, captions, ids, and splits as published."""

from __future__ import annotations

import json

import pytest

from paintover.datasets import Dataset, RowError, open_dataset
from paintover.datasets.instruct_pix2pix import Clip
from paintover.datasets.opening import recognise


def test_instruct_pix2pix_splits_prompts_as_its_own_loader_does(layouts, tmp_path):
    folder = layouts.instruct_pix2pix(tmp_path)
    train, val, test = (open_dataset(folder, split=name) for name in ("train", "val", "test"))
    assert train.splits == ("train", "val", "test")
    # 20 prompts: 0 to 17, 18, 19; every other one has two pairs.
    assert [len(part) for part in (train, val, test)] == [27, 1, 2]
    assert [sample.id for sample in test] == ["0000019_1190_0", "0000019_1191_0"]
    sample = train[2]  # prompts 0 and 1 have one pair and two
    assert (sample.id, sample.instruction) == ("0000001_1011_0", "make it 2")
    assert (sample.source_caption, sample.target_caption) == ("a photo of 1", "a photo of 2")
    assert layouts.is_picture(sample.source, 12, 24)
    assert layouts.is_picture(sample.target, 13, 24)
    assert not layouts.is_picture(sample.target, 12, 24)


def test_instruct_pix2pix_without_a_list_is_found_by_its_folders(layouts, tmp_path):
    listed = open_dataset(layouts.instruct_pix2pix(tmp_path / "a"))
    found = open_dataset(layouts.instruct_pix2pix(tmp_path / "b", listed=False))
    assert [listed.row(i).id for i in range(len(listed))] == [found.row(i).id for i in range(len(found))]
    assert recognise(tmp_path / "b") == "instruct-pix2pix"


def test_instruct_pix2pix_is_filtered_by_its_scores(layouts, tmp_path):
    folder = layouts.instruct_pix2pix(tmp_path)

    def kept(**thresholds):
        data = open_dataset(folder, clip=Clip(**thresholds))
        return [data.row(i).id[:7] for i in range(len(data))]

    assert len(kept()) == 27  # what is published is over the thresholds that it was made with
    assert kept(text=0.35) == []  # the goal's caption fits by 0.3
    assert kept(text=0.3) == [name for name in kept() if int(name) >= 10]
    assert kept(direction=0.25) == [f"{n:07d}" for n in range(1, 18, 2)]  # second pairs alone
    assert len(kept(most=1)) == 18
    data = open_dataset(folder, clip=Clip(most=1))
    assert data.row(1).id == "0000001_1011_0"  # the better one by direction, not the first
    assert kept(image=0.71) == []
    (folder / "0000003" / "metadata.jsonl").unlink()
    with pytest.raises(RowError, match=r"0000003/metadata\.jsonl: has no CLIP scores"):
        kept()


@pytest.mark.parametrize("captions", [True, False])
def test_magicbrush_turns_follow_one_another(layouts, tmp_path, captions):
    for split in ("train", "dev"):
        layouts.magicbrush(tmp_path / split, captions)
    data = open_dataset(tmp_path, split="dev", masks=True)
    assert data.splits == ("train", "dev")
    assert [sample.id for sample in data] == ["100-1", "205-1", "205-2"]
    second = data[2]
    assert (second.instruction, second.session, second.turn) == ("turn 2 of 205", "205", 2)
    assert layouts.is_picture(second.source, 206)
    assert layouts.is_picture(second.target, 207)
    assert second.mask is not None
    assert not second.mask.alpha_HW.any()
    assert second.source_caption == ("what 205-output1.png shows" if captions else None)
    assert second.target_caption == ("what 205-output2.png shows" if captions else None)
    assert data.sessions() == {"100": [0], "205": [1, 2]}
    assert open_dataset(tmp_path / "dev", split="dev")[0].mask is None


def test_parquet_is_read_at_any_index_over_files_and_groups(layouts, tmp_path):
    pytest.importorskip("pyarrow")
    layouts.parquet(tmp_path / "data" / "train-00000-of-00002-ab.parquet", 100, rows=5)
    layouts.parquet(tmp_path / "data" / "train-00001-of-00002-cd.parquet", 300, rows=3)
    layouts.parquet(tmp_path / "data" / "dev-00000-of-00001-ef.parquet", 500, rows=1)
    data = open_dataset(tmp_path, masks=True)
    assert (len(data), data.splits) == (8, ("dev", "train"))
    for i in (7, 0, 4, 5, 3, -1):
        first, n = (100, i % 8) if i % 8 < 5 else (300, i % 8 - 5)
        sample = data[i]
        assert (sample.id, sample.session, sample.turn) == (f"{first + n}-1", str(first + n), 1)
        assert sample.instruction == f"edit {first + n}"
        assert layouts.is_picture(sample.source, first + 2 * n)
        assert layouts.is_picture(sample.target, first + 2 * n + 1)
        assert sample.mask is not None
    assert "row 3" in data.row(7).where
    with pytest.raises(IndexError):
        data[8]
    assert len(open_dataset(tmp_path, split="dev")) == 1


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("paintover.datasets.parquet.find_spec", lambda name: None)
    with pytest.raises(RowError, match=r"needs pyarrow: pip install 'paintover\[parquet\]'"):
        open_dataset(tmp_path)


def test_mgie_release_is_read_without_its_pickle(layouts, tmp_path):
    folder = layouts.mgie(tmp_path / "data")
    for _ in range(2):  # the second time, where its lines end is known
        data = open_dataset(folder)
        assert (len(data), data.splits) == (3, ("train",))
        for i in (2, 0, 1):
            sample = data[i]
            assert (sample.id, sample.instruction) == (f"{i:07d}_{i}_0", f"edit {i}")
            assert sample.expressive == f"what edit {i} means"
            assert layouts.is_picture(sample.source, 2 * i, 24)
            assert layouts.is_picture(sample.target, 2 * i + 1, 24)
    assert not (folder / "opened").exists()
    with pytest.raises(RowError, match="is a pickle, which can run code and is never opened"):
        open_dataset(folder / "ipr2pr.pkl")
    with (folder / "ipr2pr.tsv").open("a") as file:
        file.write("no line end")  # and the file is another one now: what was kept is of no use
    with pytest.raises(RowError, match=r"4 lines but ipr2pr_expressive\.json 3 entries"):
        open_dataset(folder)


def test_a_dataset_gives_the_same_sample_whenever_it_is_asked(layouts, tmp_path):
    data = open_dataset(layouts.instruct_pix2pix(tmp_path))
    again = open_dataset(tmp_path)
    for i in (13, 2, 26, 2):
        assert data[i].id == again[i].id
        assert data[i].source.sha256 == again[i].source.sha256
    assert isinstance(data, Dataset)


def test_seeds_that_lead_out_of_the_folder_are_refused(layouts, tmp_path):
    folder = layouts.instruct_pix2pix(tmp_path / "data", prompts=2)
    layouts.save(tmp_path / "secret_0.jpg", 1, "JPEG")
    for seeds in ([["0000000", ["../../secret"]]] * 2, [["../data/0000000", ["1000"]]] * 2):
        (folder / "seeds.json").write_text(json.dumps(seeds))
        with pytest.raises(RowError, match="lies outside"):
            open_dataset(folder).row(0)
        if seeds[0][0] != "0000000":  # neither is anything read there when scores are asked for
            with pytest.raises(RowError, match=r"'\.\./data/0000000' lies outside"):
                open_dataset(folder, clip=Clip())


def test_links_that_lead_out_of_the_folder_are_refused(layouts, tmp_path):
    folder, out = layouts.instruct_pix2pix(tmp_path / "data", prompts=3), tmp_path / "out"
    (folder / "0000000").rename(out)
    (folder / "0000000").symlink_to(out)
    with pytest.raises(RowError, match="its folder '0000000' lies outside"):
        open_dataset(folder).row(0)
    with pytest.raises(RowError, match="its folder '0000000' lies outside"):
        open_dataset(folder, clip=Clip())
    picture = folder / "0000001" / "1010_0.jpg"
    picture.rename(out / "a.jpg")
    picture.symlink_to(out / "a.jpg")
    with pytest.raises(RowError, match=r"its picture '1010_0\.jpg' lies outside"):
        open_dataset(folder).row(1)
    # The dataset itself may be a link, and links within it stay in it.
    (folder / "0000000").unlink()
    out.rename(folder / "kept")
    (folder / "0000000").symlink_to("kept")
    (tmp_path / "link").symlink_to(folder)
    assert layouts.is_picture(open_dataset(tmp_path / "link")[0].source, 0, 24)
    picture.unlink()
    picture.symlink_to(picture.name)
    with pytest.raises(RowError):
        open_dataset(folder).row(1)
