import pytest

from pipeline.errors import DataError
from pipeline.results import publish_result
from pipeline.shards import manifest


def test_counts_add_up_by_reason_and_zeros_vanish():
    parts = [{"b": 2, "a": 1}, {"b": 1, "c": 0}]
    merged = manifest.merge_counts(parts)
    assert list(merged.items()) == [("a", 1), ("b", 3)]


def test_a_funnel_holds_every_candidate():
    assert manifest.funnel(5, 2, {"a": 3}) == {"candidates": 5, "kept": 2, "dropped": {"a": 3}}


@pytest.mark.parametrize("candidates", [4, 6])
def test_a_funnel_that_loses_or_invents_pairs_is_refused(candidates):
    with pytest.raises(DataError, match=rf"{candidates} candidates, but 2 kept \+ 3 dropped = 5"):
        manifest.funnel(candidates, 2, {"a": 3})


def test_shards_are_numbered_like_img2datasets():
    assert manifest.shard_name(7) == "00007.tar"
    assert manifest.parquet_name("00007.tar") == "00007.parquet"


def test_a_folder_without_a_finished_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no finished data set"):
        manifest.read_manifest(str(tmp_path))


def test_views_that_are_not_there_are_named_with_those_that_are():
    content = {"shards": [], "views": {"256": [], "64": []}}
    with pytest.raises(DataError, match=r"128 px.*64, 256"):
        manifest.entries(content, 128)


def test_a_finished_data_set_is_found(tmp_path):
    content = {"shards": [], "views": {}, "funnel": manifest.funnel(0, 0, {})}
    publish_result(
        str(tmp_path),
        stage="curate",
        identity="x",
        config={},
        inputs={},
        content=content,
        circumstance={},
    )
    assert manifest.read_manifest(str(tmp_path)).content["shards"] == []
