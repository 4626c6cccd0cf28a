import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.queries import query_files

QUERIES = ["cat", "golden retriever", "Straße"]


def test_all_formats_give_the_same_queries(tmp_path):
    contents = {"a.json": json.dumps(QUERIES), "a.txt": "\n".join(QUERIES) + "\n"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    pq.write_table(pa.table({"query": QUERIES}), tmp_path / "a.parquet")
    for name in ("a.json", "a.json.gz", "a.txt", "a.txt.gz", "a.parquet"):
        assert query_files.read(str(tmp_path / name)) == [(query, 1) for query in QUERIES]


def test_parquet_may_state_weights(tmp_path):
    pq.write_table(pa.table({"query": ["a", "b"], "weight": [7, 9]}), tmp_path / "a.parquet")
    assert query_files.read(str(tmp_path / "a.parquet")) == [("a", 7), ("b", 9)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"cat": 1}', "expected an array of strings"),
        ("a.json", '["cat", 1]', "expected an array of strings"),
        ("a.json", "[", "unreadable query list"),
        ("a.txt.gz", "no gzip", "unreadable query list"),
        ("a.parquet", "no parquet", "unreadable query list"),
        ("a.csv", "cat", "ends in one of"),
    ],
)
def test_what_is_no_list_is_a_configuration_error(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        query_files.read(str(tmp_path / name))


def test_missing_files_and_columns_are_configuration_errors(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        query_files.read(str(tmp_path / "a.txt"))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="has the columns text; rename one to query"):
        query_files.read(str(tmp_path / "a.parquet"))
