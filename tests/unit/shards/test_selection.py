"""A keep-list keeps or gives exactly one reason, and splits never part a cluster."""

from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import DataError
from pipeline.shards import selection
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import SPLITS, split_of
from pipeline.shards.select_config import ProfileConfig, SelectConfig, SplitConfig
from tests.synthetic import make_curated, make_embedded

SPLIT = SplitConfig(seed=3, validation_share=0.2, test_share=0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    curated = make_curated(folder)
    return SimpleNamespace(curated=curated, embedded=make_embedded(folder, curated))


def select(data, uri, **changes):
    """What the stage does, in this process: tasks, then keep-lists."""
    values = {"split": SPLIT, "profiles": {"generative": ProfileConfig()}, **changes}
    config = SelectConfig(**values)
    for shard in range(6):
        selection.score_shard({"shard": shard}, config, data.curated, data.embedded, str(uri))
    scores = selection._Scores(str(uri), CuratedDataset(data.curated))
    entries = {
        name: selection._profile(name, profile, config, scores, str(uri))
        for name, profile in config.profiles.items()
    }
    rows = {name: pq.read_table(f"{uri}/keep/{name}.parquet").to_pylist() for name in entries}
    return entries, rows


def test_every_sample_is_kept_or_has_one_reason_and_counts_add_up(data, tmp_path):
    profile = ProfileConfig(min_similarity=0.9, min_side_px=31, max_per_query=6)
    entries, rows = select(data, tmp_path, profiles={"strict": profile})
    entry = entries["strict"]
    assert len(rows["strict"]) == 60
    assert all(row["kept"] == (row["drop_reason"] is None) for row in rows["strict"])
    dropped = [row["drop_reason"] for row in rows["strict"] if not row["kept"]]
    assert set(dropped) == {"too_small", "low_similarity", "over_query_limit"}
    assert entry["dropped"] == {reason: dropped.count(reason) for reason in sorted(set(dropped))}
    assert sum(entry["kept"].values()) + len(dropped) == 60
    for split in SPLITS:
        counted = sum(shard[f"num_kept_{split}"] for shard in entry["shards"])
        assert counted == sum(row["kept"] and row["split"] == split for row in rows["strict"])


def test_similarity_is_that_of_the_best_caption_and_the_threshold_is_sharp(data, tmp_path):
    _, rows = select(data, tmp_path)
    scores = {row["key"]: row["similarity"] for row in rows["generative"]}
    bound = sorted(scores.values())[20]
    profile = ProfileConfig(min_similarity=bound)
    _, rows = select(data, tmp_path / "sharp", profiles={"g": profile})
    assert sum(row["kept"] for row in rows["g"]) == 40
    assert all(row["kept"] == (scores[row["key"]] >= bound) for row in rows["g"])


def test_no_query_contributes_more_than_its_limit(data, tmp_path):
    _, rows = select(data, tmp_path, profiles={"g": ProfileConfig(max_per_query=4)})
    kept = {row["key"] for row in rows["g"] if row["kept"]}
    curated = CuratedDataset(data.curated)
    counts = dict.fromkeys(range(4), 0)
    for shard in range(6):
        for row in curated.rows(shard).to_pylist():
            counts[row["queries"][0]] += row["key"] in kept
    assert counts == dict.fromkeys(range(4), 4)


def test_takedowns_by_key_and_url_are_removed(data, tmp_path):
    rows = CuratedDataset(data.curated).rows(0).to_pylist()
    gone = {"remove_keys": (rows[0]["key"],), "remove_urls": (rows[1]["url"],)}
    entries, decided = select(data, tmp_path, **gone)
    assert entries["generative"]["dropped"] == {"removed": 2}
    removed = {row["key"] for row in decided["generative"] if row["drop_reason"] == "removed"}
    assert removed == {rows[0]["key"], rows[1]["key"]}


def test_keep_lists_are_the_same_bytes_again(data, tmp_path):
    first, _ = select(data, tmp_path / "one")
    second, _ = select(data, tmp_path / "two")
    assert first == second


@given(seed=st.integers(0, 5), cluster=st.text(min_size=1, max_size=8))
def test_a_cluster_has_one_split_whoever_asks(seed, cluster):
    config = SplitConfig(seed=seed, validation_share=0.3, test_share=0.3)
    assert split_of(cluster, config) == split_of(cluster, config)
    assert split_of(cluster, config) in SPLITS


def test_shares_are_met():
    splits = [split_of(str(number), SPLIT) for number in range(10_000)]
    assert splits.count("validation") / 10_000 == pytest.approx(0.2, abs=0.015)
    assert splits.count("test") / 10_000 == pytest.approx(0.1, abs=0.015)


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(ValidationError, match="leave nothing for training"):
        SplitConfig(seed=0, validation_share=0.5, test_share=0.5)


def test_embeddings_of_other_shards_are_refused(data, tmp_path):
    other = make_curated(tmp_path, num_samples=50)
    with pytest.raises(DataError, match="embeds other shards"):
        EmbeddedDataset(data.embedded, CuratedDataset(other))
