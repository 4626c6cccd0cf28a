import random

import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.queries import query_list
from pipeline.queries.config import QueriesConfig

CAPTIONS = ["a red cat, asleep", "a red dog", "Red cat cat cat", "...", ""]


def config(*sources, **values):
    return QueriesConfig.model_validate({"profile": "literal", "sources": sources, **values})


def listed(tmp_path, *queries, name="list.txt"):
    (tmp_path / name).write_text("\n".join(queries))
    return {"type": "list", "path": str(tmp_path / name)}


def counts(captions, max_words, profile="literal"):
    columns = query_list.count_ngrams(captions, max_words, profile).to_pydict()
    return dict(zip(columns["ngram"], columns["count"], strict=True))


def test_ngrams_are_counted_once_per_caption_and_stop_at_signs():
    assert counts(CAPTIONS, 2) == {
        "a": 2, "a red": 2, "red": 2, "red cat": 1, "cat": 2, "asleep": 1, "red dog": 1, "dog": 1,
        "Red": 1, "Red cat": 1, "cat cat": 1,
    }  # fmt: skip
    assert counts(CAPTIONS, 1, "normalised") == {"a": 2, "red": 3, "cat": 2, "asleep": 1, "dog": 1}
    assert counts(["a b c d"], 3)["a b c"] == 1


@pytest.mark.parametrize("num_partitions", [1, 2, 7])
def test_merged_counts_do_not_depend_on_the_partitions(num_partitions):
    rng = random.Random(num_partitions)
    captions = [" ".join(random.Random(i).choices("abcde", k=4)) for i in range(50)]
    whole = query_list.count_ngrams(captions, 3, "literal")
    rng.shuffle(captions)
    parts = [
        query_list.count_ngrams(captions[first::num_partitions], 3, "literal")
        for first in range(num_partitions)
    ]
    merged = query_list.merge(parts)
    assert merged.equals(whole)
    assert query_list.merge([query_list.merge(parts[:1]), *parts[1:]]).equals(whole)


def test_merging_nothing_gives_no_counts():
    assert query_list.merge([]).num_rows == 0


def test_list_is_sorted_deduplicated_and_knows_its_sources(tmp_path):
    ngrams = query_list.count_ngrams(CAPTIONS, 2, "literal")
    found = query_list.build(
        config(
            listed(tmp_path, "zebra", " cat", "zebra", "", "?!", "golden  retriever"),
            {"type": "captions", "max_words": 1, "min_count": 2},
        ),
        ngrams,
    )
    assert found.queries == ["a", "cat", "golden retriever", "red", "zebra"]
    assert found.table.column("id").to_pylist() == [0, 1, 2, 3, 4]
    sources = ["1-captions", "0-list", "0-list", "1-captions", "0-list"]
    assert found.table.column("source").to_pylist() == sources
    assert found.table.column("weight").to_pylist() == [2, 1, 1, 2, 1]
    assert found.left_out == {
        "0-list": {"duplicate": 1, "empty": 1, "punctuation_only": 1},
        "1-captions": {"below_min_count": 3, "duplicate": 1},
    }


def test_profile_decides_what_is_a_duplicate(tmp_path):
    source = listed(tmp_path, "Cat", "cat", "CAT")
    assert query_list.build(config(source), None).queries == ["CAT", "Cat", "cat"]
    folded = query_list.build(config(source, profile="normalised"), None)
    assert folded.queries == ["CAT"]
    assert folded.left_out == {"0-list": {"duplicate": 2}}


def test_limit_admits_by_source_then_weight_then_text(tmp_path):
    ngrams = query_list.count_ngrams(["b", "b", "a", "c"], 1, "literal")
    captions = {"type": "captions", "max_words": 1, "min_count": 1}
    found = query_list.build(config(listed(tmp_path, "z"), captions, limit=3), ngrams)
    assert found.queries == ["a", "b", "z"]
    assert found.left_out["1-captions"] == {"over_limit": 1}


def test_written_list_is_the_same_bytes_and_reads_back(tmp_path):
    first = query_list.build(config(listed(tmp_path, "b", "a")), None)
    again = query_list.build(config(listed(tmp_path, "a", "b")), None)
    query_list.write(first, str(tmp_path / "1.parquet"))
    query_list.write(again, str(tmp_path / "2.parquet"))
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    back = query_list.read(str(tmp_path / "1.parquet"))
    assert back.table.equals(first.table)
    assert back.fingerprint == first.fingerprint


def test_a_changed_list_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    query_list.write(query_list.build(config(listed(tmp_path, "a", "b")), None), str(path))
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 1), path)
    with pytest.raises(DataError, match="fingerprint"):
        query_list.read(str(path))


def test_empty_lists_and_missing_counts_are_configuration_errors(tmp_path):
    with pytest.raises(ConfigError, match="the query list is empty"):
        query_list.build(config(listed(tmp_path, "?")), None)
    with pytest.raises(ConfigError, match="needs candidates"):
        query_list.build(config({"type": "captions", "max_words": 1, "min_count": 1}), None)


def test_limit_above_half_a_million_is_refused(tmp_path):
    with pytest.raises(ValueError, match="500000"):
        config(listed(tmp_path, "a"), limit=500_001)
