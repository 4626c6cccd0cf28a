"""A compacted data set is whole, the same bytes again, and holds nothing of what was dropped."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import results, storage
from pipeline.chain import compaction, removal
from pipeline.chain.lineage import lineage
from pipeline.chain.plan import recorded
from pipeline.errors import ConfigError
from pipeline.shards import compact
from pipeline.shards.adopt import adopt
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import SPLITS, keep_list
from pipeline.shards.reader import open_dataset
from pipeline.shards.removal_requests import parse
from pipeline.shards.removals import Removals
from pipeline.shards.verify import verify
from tests.foreign_shards import picture, write_img2dataset, write_tar
from tests.kept_run import (
    finish_run,
    make_run,
    rows_of,
    run_file,
    said,
    tree,
    without_ray,
)
from tests.synthetic import publish


@pytest.fixture
def run(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    return make_run(tmp_path)


def compacted(run, place, profile="all", size=None):
    told = compaction.compact_run(run, profile, str(place), size, said())
    return told, recorded(run.model_copy(update={"output_dir": str(place)}))


def remove_some(run):
    """Rows of every fifth sample, removed."""
    dataset = CuratedDataset(recorded(run)["curate"])
    tables = [(shard, dataset.rows(shard).to_pylist()) for shard in range(6)]
    rows = [(shard, row) for shard, each in tables for row in each]
    gone = rows[2::5]
    removal.remove(run, parse([f"key={row['key']}" for _, row in gone], 4), said())
    return dataset, gone, [(shard, row) for shard, row in rows if (shard, row) not in gone]


def everything(folder: Path) -> bytes:
    """All bytes of a folder, and what compression hides of them."""
    plain = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    plain += [str(path).encode() for path in folder.rglob("*")]
    tables = [pq.read_table(path).to_pylist() for path in folder.rglob("*.parquet")]
    return b"".join([*plain, *(repr(table).encode() for table in tables)])


def test_removed_samples_occur_nowhere_and_kept_ones_are_whole(run, tmp_path):
    dataset, gone, kept = remove_some(run)
    told, made = compacted(run, tmp_path / "small", size=9)
    assert (told["num_samples"], told["num_shards"]) == (48, 6)
    content = everything(tmp_path / "small")
    for shard, row in gone:
        picture = dataset.pictures(shard)[row["key"]]
        for mark in (row["key"], row["url"] + '"', row["url"] + "'", *row["uids"], row["sha256"]):
            assert mark.encode() not in content
        for caption in row["captions"]:
            assert f"{caption}\0".encode() not in content
            assert f"'{caption}'".encode() not in content
            assert f'"{caption}"'.encode() not in content
        assert picture not in content
        assert dataset.pictures(shard, 16)[row["key"]] not in content
    small = CuratedDataset(made["curate"])
    found = [row for shard in range(6) for row in small.rows(shard).to_pylist()]
    assert [row["key"] for row in found] == [row["key"] for _, row in kept]
    pictures = {k: v for shard in range(6) for k, v in small.pictures(shard).items()}
    for shard, row in kept:
        assert pictures[row["key"]] == dataset.pictures(shard)[row["key"]]
        assert row["captions"][0].encode() in content
    assert verify(made, decode=True).problems == []


def test_embeddings_splits_and_weights_stay_with_their_keys(run, tmp_path):
    remove_some(run)
    before = rows_of(run)
    _, made = compacted(run, tmp_path / "small", size=7)
    known = recorded(run)
    old = EmbeddedDataset(known["embed"], CuratedDataset(known["curate"]))
    rows = {r["key"]: r for shard in range(6) for r in old.table(shard).to_pylist()}
    small = CuratedDataset(made["curate"])
    new = EmbeddedDataset(made["embed"], small)
    listed = keep_list(made["select"], "all")
    values = []
    for shard in range(len(small.shards)):
        for row in new.table(shard).to_pylist():
            assert row == rows[row["key"]]
            values.append(row["z_img"])
        for row in listed.table(shard).to_pylist():
            assert row == {**before[row["key"]], "shard": small.shards[shard]["name"]}
    mean, std = new.statistics()
    assert np.allclose(mean, np.mean(values, axis=0))
    assert np.allclose(std, np.std(values, axis=0))
    for split in SPLITS:
        expected = sum(row["kept"] and row["split"] == split for row in before.values())
        assert sum(listed.counts(split)) == expected


def test_the_funnel_accounts_for_every_pair_and_names_what_it_came_from(run, tmp_path):
    remove_some(run)
    _, made = compacted(run, tmp_path / "small", "generative")
    content = made["curate"].content
    assert content["funnel"]["candidates"] == 80  # 60 pictures, 20 of them with two captions
    assert set(content["funnel"]["dropped"]) == {"low_similarity", "removed"}
    known = recorded(run)
    assert content["upstream"] == {
        name: known[name].manifest_hash for name in ("curate", "embed", "select")
    }
    assert len(open_dataset(str(tmp_path / "small"))) == content["num_samples"]


def test_the_same_bytes_again_wherever_and_after_any_interruption(run, tmp_path, monkeypatch):
    remove_some(run)
    compacted(run, tmp_path / "one", size=9)
    for place, passage in [("two", 3), ("two", 17), ("two", 4)]:
        interrupt(monkeypatch, run, tmp_path / place, passage)
    compacted(run, tmp_path / "two", size=9)
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    circumstances = {name for name in one if name.endswith("circumstance.json")}
    assert len(circumstances) == 3
    assert one.keys() == two.keys()
    assert {n: one[n] for n in one.keys() - circumstances} == {
        n: two[n] for n in two.keys() - circumstances
    }
    told = compaction.compact_run(run, "all", str(tmp_path / "one"), 9, said())
    assert told["num_samples"] == 48
    assert tree(tmp_path / "one") == one


class Killed(Exception):
    pass


def interrupt(monkeypatch, run, place, passage):
    passed = []

    def failpoint(name):
        passed.append(name)
        if len(passed) == passage * 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage, "failpoint", failpoint)
        with pytest.raises(Killed):
            compaction.compact_run(run, "all", str(place), 9, said())


@pytest.mark.parametrize("size", [1, 9, 10, 1000])
def test_new_shards_are_full_but_the_last(run, tmp_path, size):
    _, made = compacted(run, tmp_path / "small", size=size)
    counts = [entry["num_samples"] for entry in made["curate"].content["shards"]]
    assert sum(counts) == 60
    assert set(counts[:-1]) <= {size}
    assert counts[-1] <= size


def test_pieces_cover_each_kept_row_once():
    for size in (1, 3, 7, 100):
        found = [
            (shard, row)
            for pieces in compact.cut([3, 0, 7, 1], size)
            for shard, start, end in pieces
            for row in range(start, end)
        ]
        assert found == [(0, i) for i in range(3)] + [(2, i) for i in range(7)] + [(3, 0)]


def test_a_cluster_keeps_no_key_of_a_leader_that_was_dropped(run, tmp_path):
    dataset = CuratedDataset(recorded(run)["curate"])
    rows = [row for shard in range(6) for row in dataset.rows(shard).to_pylist()]
    leaders = [row["key"] for row in rows if row["cluster"] == row["key"]][:4]
    removal.remove(run, parse([f"key={key}" for key in leaders], 4), said())
    _, made = compacted(run, tmp_path / "small")
    small = CuratedDataset(made["curate"])
    found = [r for shard in range(len(small.shards)) for r in small.rows(shard).to_pylist()]
    keys = {row["key"] for row in found}
    assert {row["cluster"] for row in found} <= keys
    assert not {row["cluster"] for row in found} & set(leaders)
    untouched = {row["key"]: row["cluster"] for row in rows if row["cluster"] not in leaders}
    assert {r["key"]: r["cluster"] for r in found if r["key"] in untouched} == untouched


def test_a_list_that_does_not_know_the_removals_is_refused(run, tmp_path):
    from pipeline.shards import removals

    removals.add(run.output_dir, parse(["key=k1"], 4))
    with pytest.raises(ConfigError, match="older than the run's removals"):
        compaction.compact_run(run, "all", str(tmp_path / "small"), None, said())


def test_other_folders_and_lists_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"--profile none: .* has keep-lists all, generative"):
        compaction.compact_run(run, "none", str(tmp_path / "small"), None, said())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"something else \(letter.txt\)"):
        compaction.compact_run(run, "all", str(tmp_path / "full"), None, said())
    compacted(run, tmp_path / "small")
    with pytest.raises(ConfigError, match="another compaction"):
        compaction.compact_run(run, "generative", str(tmp_path / "small"), None, said())
    assert compaction.preview(run, "all", str(tmp_path / "new"), 9)["num_shards"] == 7
    assert not (tmp_path / "new").exists()


def test_the_new_folder_has_a_lineage_of_its_own(run, tmp_path):
    _, made = compacted(run, tmp_path / "small")
    key = CuratedDataset(made["curate"]).rows(0, ["key"])["key"][0].as_py()
    wanted = Removals(parse([f"key={key}"], 4))
    kinds = [found["artefact"] for found in lineage(str(tmp_path / "small"), wanted)]
    assert kinds == ["shard", "view", "embedding", "keep_list", "total"]
    index = json.loads((tmp_path / "small" / results.INDEX).read_text())
    assert set(index["stages"]) == {"curate", "embed", "select"}


def test_adopted_tars_become_a_data_set_of_our_own(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    folder = write_img2dataset(tmp_path / "theirs")
    turned = picture(
        "turned", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    members = [("last.jpg", turned), ("last.txt", b"a turned one")]
    members += [("see.png", picture("see", kind="PNG")), ("see.txt", b"another kind of file")]
    write_tar(folder / "00002.tar", members)
    run = run_file(tmp_path)
    config = AdoptConfig.model_validate(
        {"type": "webdataset", "path": str(folder), "views_px": [16], "keys": "with_shard"}
    )
    uri = str(tmp_path / "run" / "curate" / "000000000000")
    finish_run(run, publish(uri, "curate", adopt(config, uri, said()).content))
    known = recorded(run)
    dataset = CuratedDataset(known["curate"])
    gone = dataset.rows(1, ["key"])["key"].to_pylist()[0]
    removal.remove(run, parse([f"key={gone}"], 4), said())
    _, made = compacted(run, tmp_path / "small", size=5)
    assert verify(made, decode=True).problems == []
    assert gone.encode() not in everything(tmp_path / "small")
    samples = {sample.key: sample for sample in open_dataset(str(tmp_path / "small"))}
    before = {sample.key: sample for sample in open_dataset(uri)}
    assert samples.keys() == before.keys() - {gone}
    for key, sample in samples.items():
        assert sample.image.size == before[key].image.size
        assert sample.captions == before[key].captions
        difference = np.asarray(sample.image, int) - np.asarray(before[key].image, int)
        assert np.abs(difference).mean() < 3
