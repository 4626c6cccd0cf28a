"""Scores and decisions are those of the tables, wherever they lie."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.looking.scores import Bound, Scored
from pipeline.shards.writer import publish_table

HEADS = ["aesthetic", "overlap_bits", "overlap_cosine", "unsafe"]


def without(looked, *stages):
    return {name: result for name, result in looked.results.items() if name not in stages}


def test_every_row_has_its_scores_and_each_profiles_outcome(looked):
    scored = Scored(looked.results)
    assert scored.columns == ["similarity", "side_px", *HEADS]
    assert scored.num_samples == len(looked.rows)
    shards = list(scored)
    assert [key for shard in shards for key in shard.keys] == [r["key"] for r in looked.rows]
    for column in scored.columns:
        values = np.concatenate([shard.values(column) for shard in shards])
        expected = [np.nan if row[column] is None else row[column] for row in looked.rows]
        np.testing.assert_array_equal(values, expected)
    for profile in ("clip", "generative"):
        outcomes = [each for shard in shards for each in shard.outcomes[profile].to_pylist()]
        expected = [row["outcomes"][profile] for row in looked.rows]
        assert outcomes == expected
        counted = scored.num_outcomes(profile)
        assert counted == {name: outcomes.count(name) for name in counted}
        assert sum(counted.values()) == len(looked.rows)


def test_bounds_are_those_of_the_profiles(looked):
    assert [bound.says() for bound in Scored(looked.results).bounds()] == [
        f"similarity ≥ {looked.min_similarity:g}",
        "aesthetic ≥ 0.3",
        "unsafe ≤ 0.8",
    ]
    reasons = [bound.reason for bound in Scored(looked.results).bounds()]
    assert reasons == ["low_similarity", "out_of_bounds_aesthetic", "out_of_bounds_unsafe"]


def test_a_missing_score_fails_a_bound_and_a_missing_overlap_passes():
    values = np.array([0.1, np.nan, 0.9])
    assert Bound("p", "unsafe", None, 0.5).passes(values).tolist() == [True, False, False]
    assert Bound("p", "overlap_cosine", None, 0.5).passes(values).tolist() == [True, True, False]


def test_without_a_score_stage_the_tables_of_select_are_read(looked, tmp_path):
    results = without(looked, "score")
    table = pa.table(
        {
            "key": [row["key"] for row in looked.rows[:10]],
            "split": ["train"] * 10,
            "side_px": pa.array(range(10), pa.int32()),
            "similarity": pa.array([0.5] * 10, pa.float32()),
            "queries": pa.array([[0]] * 10, pa.list_(pa.uint32())),
            "removed": [False] * 10,
        }
    )
    publish_table(str(tmp_path / "scores/00000.parquet"), table)
    results["select"] = replace(results["select"], uri=str(tmp_path))
    scored = Scored({**results, "select": results["select"]})
    assert scored.columns == ["similarity", "side_px"]
    assert scored._table(0)["side_px"].to_pylist() == list(range(10))


def test_without_any_table_sizes_and_similarities_are_put_together(looked):
    scored = Scored(without(looked, "score", "select"))
    assert scored.columns == ["similarity", "side_px"]
    assert scored.profiles == []
    assert scored.bounds() == []
    rows = iter(looked.rows)
    for shard in scored:
        for value, side in zip(shard.values("similarity"), shard.values("side_px"), strict=True):
            row = next(rows)
            assert (value, side) == (row["similarity"], row["side_px"])


def test_a_run_without_embeddings_has_sizes_alone(looked):
    assert Scored({"curate": looked.results["curate"]}).columns == ["side_px"]


def test_a_run_without_a_data_set_is_refused():
    with pytest.raises(ConfigError, match="no finished data set"):
        Scored({})


def test_a_keep_list_of_other_rows_is_refused(looked, tmp_path):
    results = dict(looked.results)
    content = dict(results["score"].content)
    table = Scored(results)._table(0).slice(1)
    sha256 = publish_table(str(tmp_path / "other.parquet"), table)
    content["scores"] = [{**content["scores"][0], "name": "other.parquet", "sha256": sha256}]
    manifest = {**results["score"].manifest, "content": content}
    results["score"] = replace(results["score"], uri=str(tmp_path), manifest=manifest)
    with pytest.raises(DataError, match="other rows of shard 0"):
        Scored(results).shard(0)


@pytest.mark.parametrize(("method", "name"), [("require_score", "x"), ("require_profile", "y")])
def test_unknown_names_are_refused_with_those_that_are_there(looked, method, name):
    with pytest.raises(ConfigError, match=r"there are: (similarity|clip)"):
        getattr(Scored(looked.results), method)(name)
