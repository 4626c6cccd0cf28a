"""A keep-list keeps or gives exactly one reason, and splits never part a cluster."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.draws import hash64, hash64_each
from pipeline.errors import ConfigError, DataError
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import SPLITS, split_of, splits_of
from pipeline.shards.score_files import ScoredDataset
from pipeline.shards.select_config import SplitConfig
from tests import scoring
from tests.synthetic import make_curated, make_embedded

SPLIT = SplitConfig(**scoring.SPLIT)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    curated = make_curated(folder)
    inputs = {"curate": curated, "embed": make_embedded(folder, curated)}
    with pytest.MonkeyPatch.context() as patch:
        scoring.in_this_process(patch)
        inputs["score"] = scoring.scored(inputs, folder / "score")
    return inputs


def select(data, uri, profile=None, **section):
    result, rows = scoring.selected(data, uri, {"generative": profile or {}}, **section)
    return result.content["profiles"]["generative"], rows["generative"]


def test_every_sample_is_kept_or_has_one_reason_and_counts_add_up(data, tmp_path):
    profile = {"min_similarity": 0.9, "min_side_px": 31, "max_per_query": 6}
    entry, rows = select(data, tmp_path, profile)
    assert len(rows) == 60
    assert all(row["kept"] == (row["drop_reason"] is None) for row in rows)
    dropped = [row["drop_reason"] for row in rows if not row["kept"]]
    assert set(dropped) == {"too_small", "low_similarity", "over_query_limit"}
    assert entry["dropped"] == {reason: dropped.count(reason) for reason in sorted(set(dropped))}
    assert sum(entry["kept"].values()) + len(dropped) == 60
    for split in SPLITS:
        counted = sum(shard[f"num_kept_{split}"] for shard in entry["shards"])
        assert counted == sum(row["kept"] and row["split"] == split for row in rows)
    assert {row["weight"] for row in rows} == {1.0}


def test_the_first_reason_is_told(data, tmp_path):
    key = CuratedDataset(data["curate"]).rows(0)["key"][0].as_py()
    profile = {"min_similarity": 1.0, "min_side_px": 100}
    _, rows = select(data, tmp_path, profile, remove_keys=(key,))
    assert rows[0]["drop_reason"] == "removed"
    assert {row["drop_reason"] for row in rows[1:]} == {"too_small"}


def test_similarity_is_that_of_the_best_caption_and_the_threshold_is_sharp(data, tmp_path):
    _, rows = select(data, tmp_path)
    scores = {row["key"]: row["similarity"] for row in rows}
    dataset = CuratedDataset(data["curate"])
    for row in EmbeddedDataset(data["embed"], dataset).table(3).to_pylist():
        assert scores[row["key"]] == max(row["similarity"])
    bound = sorted(scores.values())[20]
    _, rows = select(data, tmp_path / "sharp", {"min_similarity": bound})
    assert sum(row["kept"] for row in rows) == 40
    assert all(row["kept"] == (scores[row["key"]] >= bound) for row in rows)


@pytest.mark.parametrize(
    ("share", "num_kept"), [(1.0, 60), (0.5, 30), (0.501, 31), (0.1, 6), (0.001, 5)]
)
def test_the_top_share_is_exact_and_ties_stay_together(data, tmp_path, share, num_kept):
    entry, rows = select(data, tmp_path, {"top_share": share})
    kept = [row["similarity"] for row in rows if row["kept"]]
    dropped = [row["similarity"] for row in rows if not row["kept"]]
    assert len(kept) == num_kept
    assert min(kept) > max(dropped, default=-2)
    assert entry["min_similarity"] == min(kept)


def test_no_query_owns_more_than_its_limit(data, tmp_path):
    _, rows = select(data, tmp_path, {"max_per_query": 4})
    kept = {row["key"] for row in rows if row["kept"]}
    curated = CuratedDataset(data["curate"])
    counts = dict.fromkeys(range(4), 0)
    for shard in range(6):
        for row in curated.rows(shard).to_pylist():
            counts[row["queries"][0]] += row["key"] in kept
    assert counts == dict.fromkeys(range(4), 4)


def test_takedowns_by_key_and_url_are_removed(data, tmp_path):
    rows = CuratedDataset(data["curate"]).rows(0).to_pylist()
    gone = {"remove_keys": (rows[0]["key"],), "remove_urls": (rows[1]["url"],)}
    entry, decided = select(data, tmp_path, **gone)
    assert entry["dropped"] == {"removed": 2}
    removed = {row["key"] for row in decided if row["drop_reason"] == "removed"}
    assert removed == {rows[0]["key"], rows[1]["key"]}


def test_keep_lists_are_the_same_bytes_again(data, tmp_path):
    profile = {"top_share": 0.7, "max_per_query": 9}
    first, _ = select(data, tmp_path / "one", profile)
    second, _ = select(data, tmp_path / "two", profile)
    assert first == second


def test_a_threshold_opens_no_embedding(data, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("an embedding was opened")

    monkeypatch.setattr(EmbeddedDataset, "__init__", refuse)
    monkeypatch.setattr(EmbeddedDataset, "table", refuse)
    without = {name: data[name] for name in ("curate", "score")}
    _, rows = select(without, tmp_path, {"min_similarity": 0.9, "max_per_query": 3})
    assert any(row["kept"] for row in rows)


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"bounds": {"aesthetic": {"min": 5}}}, ["'aesthetic' is not scored", "score.heads"]),
        ({"semantic_min_cosine": 0.9}, ["no pairs are recorded", "score.semantic"]),
        ({"max_overlap_bits": 4}, ["there are none", "score.evaluation_sets"]),
    ],
)
def test_scores_that_were_not_made_are_refused(data, tmp_path, profile, words):
    with pytest.raises(ConfigError) as caught:
        select(data, tmp_path, profile)
    for word in ["select.profiles.generative", *words]:
        assert word in str(caught.value)


def test_scores_that_changed_are_refused(data, tmp_path):
    path = Path(data["score"].uri, "scores", "00002.parquet")
    content = path.read_bytes()
    try:
        path.write_bytes(content[:200] + b"x" + content[201:])
        with pytest.raises(DataError, match=r"00002\.parquet: sha256"):
            select(data, tmp_path)
    finally:
        path.write_bytes(content)


@given(seed=st.integers(0, 5), clusters=st.lists(st.text(max_size=8), max_size=6))
def test_a_cluster_has_one_split_whoever_asks(seed, clusters):
    config = SplitConfig(seed=seed, validation_share=0.3, test_share=0.3)
    together = [SPLITS[code] for code in splits_of(clusters, config)]
    assert together == [split_of(cluster, config) for cluster in clusters]


@given(texts=st.lists(st.text(max_size=40)), seed=st.integers())
def test_many_hashes_are_the_single_ones(texts, seed):
    each = hash64_each(texts, seed, "split").tolist()
    assert each == [hash64(seed, "split", text) for text in texts]


def test_splits_are_those_of_earlier_versions():
    found = [split_of(str(number), SPLIT) for number in range(12)]
    assert "".join(split[:2] for split in found) == "tevatrtetrtetrvatrvatrtr"


def test_shares_are_met():
    codes = splits_of([str(number) for number in range(10_000)], SPLIT)
    assert (codes == SPLITS.index("validation")).mean() == pytest.approx(0.2, abs=0.015)
    assert (codes == SPLITS.index("test")).mean() == pytest.approx(0.1, abs=0.015)


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(ValidationError, match="leave nothing for training"):
        SplitConfig(seed=0, validation_share=0.5, test_share=0.5)


def test_embeddings_and_scores_of_other_shards_are_refused(data, tmp_path):
    other = CuratedDataset(make_curated(tmp_path, num_samples=50))
    with pytest.raises(DataError, match="embeds other shards"):
        EmbeddedDataset(data["embed"], other)
    with pytest.raises(DataError, match="scores other shards"):
        ScoredDataset(data["score"], other)
