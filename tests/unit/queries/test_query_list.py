import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.candidates import schema
from pipeline.errors import ConfigError, DataError
from pipeline.queries import query_list
from pipeline.queries.config import QueriesConfig
from pipeline.queries.counted import Counted


def config(*sources, **values):
    return QueriesConfig.model_validate({"profile": "literal", "sources": sources, **values})


def listed(tmp_path, *queries, name="list.txt"):
    (tmp_path / name).write_text("\n".join(queries))
    return {"type": "list", "path": str(tmp_path / name)}


def counted(counts, **left_out):
    rows = sorted(counts.items())
    columns = [[name for name, _ in rows], [count for _, count in rows]]
    return Counted(pa.table(columns, schema=schema.NGRAM_COUNTS), left_out)


CAPTIONS = {"type": "captions", "max_words": 1, "min_count": 2}


def test_list_is_sorted_deduplicated_and_knows_its_sources(tmp_path):
    sources = listed(tmp_path, "zebra", " cat", "zebra", "", "?!", "golden  retriever"), CAPTIONS
    captions = counted({"a": 2, "cat": 2, "red": 2}, below_min_count=3)
    found = query_list.build(config(*sources), {"1-captions": captions})
    assert found.queries == ["a", "cat", "golden retriever", "red", "zebra"]
    assert found.table.column("id").to_pylist() == [0, 1, 2, 3, 4]
    sources = ["1-captions", "0-list", "0-list", "1-captions", "0-list"]
    assert found.table.column("source").to_pylist() == sources
    assert found.table.column("weight").to_pylist() == [2, 1, 1, 2, 1]
    assert found.admitted == {"0-list": 3, "1-captions": 2}
    assert found.left_out == {
        "0-list": {"duplicate": 1, "empty": 1, "punctuation_only": 1},
        "1-captions": {"below_min_count": 3, "duplicate": 1},
    }


def test_profile_decides_what_is_a_duplicate(tmp_path):
    source = listed(tmp_path, "Cat", "cat", "CAT")
    assert query_list.build(config(source)).queries == ["CAT", "Cat", "cat"]
    folded = query_list.build(config(source, profile="normalised"))
    assert folded.queries == ["CAT"]
    assert folded.left_out == {"0-list": {"duplicate": 2}}


def test_limit_admits_by_source_then_weight_then_text(tmp_path):
    captions = {"1-captions": counted({"a": 1, "b": 2, "c": 1})}
    found = query_list.build(config(listed(tmp_path, "z"), CAPTIONS, limit=3), captions)
    assert found.queries == ["a", "b", "z"]
    assert found.left_out["1-captions"] == {"over_limit": 1}


def test_written_list_is_the_same_bytes_and_reads_back(tmp_path):
    first = query_list.build(config(listed(tmp_path, "b", "a")))
    again = query_list.build(config(listed(tmp_path, "a", "b")))
    query_list.write(first, str(tmp_path / "1.parquet"))
    query_list.write(again, str(tmp_path / "2.parquet"))
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    back = query_list.read(str(tmp_path / "1.parquet"))
    assert back.table.equals(first.table)
    assert back.fingerprint == first.fingerprint


def test_a_changed_list_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    query_list.write(query_list.build(config(listed(tmp_path, "a", "b"))), str(path))
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 1), path)
    with pytest.raises(DataError, match="fingerprint"):
        query_list.read(str(path))


def test_empty_lists_and_missing_counts_are_configuration_errors(tmp_path):
    with pytest.raises(ConfigError, match="the query list is empty"):
        query_list.build(config(listed(tmp_path, "?")))
    with pytest.raises(ConfigError, match="captions must be counted first"):
        query_list.build(config(CAPTIONS))


WORDS = {"type": "wikipedia_words", "path": "x"}
BIGRAMS = {"type": "wikipedia_bigrams", "path": "x", "rule": {"type": "pmi"}}
VIEWS = {"type": "page_views", "paths": ["x"], "projects": ["en"], "min_views": 1}
WORDNET = {"type": "wordnet", "path": "x"}
NUMBERS = {"type": "numbers", "below": 3}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("clip", ["numbers", "wikipedia_words", "wikipedia_bigrams", "page_views", "wordnet"]),
        ("metaclip", ["numbers", "wordnet", "wikipedia_words", "wikipedia_bigrams", "page_views"]),
        ("listed", ["page_views", "wordnet", "wikipedia_bigrams", "wikipedia_words", "numbers"]),
    ],
)
def test_sources_come_in_the_published_orders_or_as_listed(order, expected):
    found = config(VIEWS, WORDNET, BIGRAMS, WORDS, NUMBERS, order=order).named_sources()
    assert list(found) == [f"{place}-{kind}" for place, kind in enumerate(expected)]


def test_what_others_list_comes_before_the_published_sources(tmp_path):
    other = listed(tmp_path, "a")
    found = config(WORDNET, other, WORDS, order="metaclip").named_sources()
    assert list(found) == ["0-list", "1-wordnet", "2-wikipedia_words"]


def test_numbers_are_written_in_digits():
    assert query_list.build(config(NUMBERS)).queries == ["0", "1", "2"]


def test_limit_above_half_a_million_is_refused(tmp_path):
    with pytest.raises(ValueError, match="500000"):
        config(listed(tmp_path, "a"), limit=500_001)
