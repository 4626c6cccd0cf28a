from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.queries.config import QueriesExecution
from pipeline.queries.partial_counts import (
    Buckets,
    Spill,
    at_least,
    bucket_of,
    bucket_ranges,
    merged,
)

NUM_BUCKETS = 5
NAMES = ["", "a", "a b", "é", "zebra", "中", "ab"]
COUNTERS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9)).map(Counter)


def spilled(uri, counters, max_entries=2, **more):
    """Write counters as one partition's: all but the last are put aside first."""
    with Spill(QueriesExecution(num_buckets=NUM_BUCKETS, max_entries=max_entries)) as spill:
        for counter in counters[:-1]:
            spill.add(Buckets.of_counter(counter, NUM_BUCKETS))
        return spill.publish(uri, Buckets.of_counter(counters[-1], NUM_BUCKETS), **more)


def as_counter(tables):
    rows = [row for table in tables for row in table.to_pylist()]
    return Counter({row["ngram"]: row["count"] for row in rows})


@settings(deadline=None, max_examples=30)
@given(
    counters=st.lists(COUNTERS, min_size=1, max_size=5),
    cuts=st.integers(1, 4),
    max_rows=st.integers(1, 20),
)
def test_sums_depend_on_no_partitioning_and_no_spilling(tmp_path_factory, counters, cuts, max_rows):
    folder = tmp_path_factory.mktemp("counts")
    uris = []
    for first in range(0, len(counters), cuts):
        uris.append(str(folder / f"{first}.parquet"))
        spilled(uris[-1], counters[first : first + cuts])
    tables = [merged(uris[::-1], n, n + 1, max_rows) for n in range(NUM_BUCKETS)]
    assert as_counter(tables) == sum(counters, Counter())
    assert as_counter([merged(uris, 0, NUM_BUCKETS, max_rows)]) == sum(counters, Counter())
    for bucket, table in enumerate(tables):
        names = table.column("ngram").to_pylist()
        assert names == sorted(names, key=str.encode)
        assert {bucket_of(name, NUM_BUCKETS) for name in names} <= {bucket}


def test_a_partial_file_has_one_sorted_row_group_per_bucket(tmp_path):
    counter = Counter({f"w{number}": number for number in range(1, 40)})
    uri = str(tmp_path / "a.parquet")
    rows = spilled(uri, [counter])
    file = pq.ParquetFile(uri)
    found = [file.read_row_group(bucket) for bucket in range(NUM_BUCKETS)]
    assert [table.num_rows for table in found] == rows
    assert as_counter(found) == counter
    empty = spilled(str(tmp_path / "b.parquet"), [Counter()])
    assert empty == [0] * NUM_BUCKETS


def test_spilling_changes_no_byte(tmp_path):
    halves = [Counter({"a": 1, "b": 2}), Counter({"b": 1, "c": 5})]
    paths = [str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")]
    spilled(paths[0], halves)
    spilled(paths[1], [halves[0] + halves[1]])
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_a_partition_may_leave_out_what_it_alone_can_judge(tmp_path):
    uri = str(tmp_path / "a.parquet")
    halves = [Counter({"a": 1, "b": 2}), Counter({"a": 1, "b": 2})]
    spilled(uri, halves, keep=lambda table: at_least(table, 3))
    assert as_counter([pq.read_table(uri)]) == {"b": 4}


def test_at_least_includes_the_limit():
    table = pa.table({"ngram": ["a", "b", "c"], "count": [1, 2, 3]})
    assert at_least(table, 2).column("ngram").to_pylist() == ["b", "c"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 12))
def test_ranges_cover_every_bucket_once_and_hold_little(num_rows, max_rows):
    ranges = bucket_ranges(num_rows, max_rows)
    assert [b for first, last in ranges for b in range(first, last)] == list(range(len(num_rows)))
    for first, last in ranges:
        assert last - first <= 1 or sum(num_rows[first:last]) <= max_rows


@pytest.mark.parametrize(("text", "bucket"), [("cat", 936), ("katze", 1280), ("", 0)])
def test_buckets_are_the_same_in_every_process(text, bucket):
    assert bucket_of(text, 4096) == bucket
