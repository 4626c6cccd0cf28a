"""Ready-made lists of queries: a JSON array, lines of text, or a Parquet column."""

import gzip
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError

ENDINGS = (".json", ".json.gz", ".txt", ".txt.gz", ".parquet")
QUERY_COLUMN = "query"
WEIGHT_COLUMN = "weight"


def read(path: str) -> list[tuple[str, int]]:
    """The queries of a file with their weights (1 where the file states none), in its order.

    Raises:
        ConfigError: The file is missing, unreadable or of another format.
    """
    if not path.lower().endswith(ENDINGS):
        raise ConfigError(f"path={path!r}: a query list ends in one of {', '.join(ENDINGS)}")
    if not storage.exists(path):
        raise ConfigError(f"path={path!r}: no such file; correct the path of the query list")
    try:
        if path.lower().endswith(".parquet"):
            return _from_parquet(path)
        content = storage.read_bytes(path)
        text = (gzip.decompress(content) if path.lower().endswith(".gz") else content).decode()
        values = json.loads(text) if ".json" in path.lower()[-8:] else text.splitlines()
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: unreadable query list: {error}; write it again") from error
    return [(query, 1) for query in _checked(values, path)]


def _checked(values: Any, path: str) -> list[str]:  # noqa: ANN401 - any JSON value
    wrong = (
        values if not isinstance(values, list) else [v for v in values if not isinstance(v, str)]
    )
    if wrong or not isinstance(values, list):
        raise ConfigError(f"{path}: expected an array of strings, found {str(wrong)[:60]}")
    return values


def _from_parquet(path: str) -> list[tuple[str, int]]:
    with storage.open_for_read(path) as file:
        table = pq.read_table(file)
    if QUERY_COLUMN not in table.column_names:
        raise ConfigError(
            f"{path} has the columns {', '.join(table.column_names)}; rename one to {QUERY_COLUMN}"
        )
    queries = table.column(QUERY_COLUMN).cast(pa.string()).drop_null().to_pylist()
    if WEIGHT_COLUMN not in table.column_names or len(queries) < table.num_rows:
        return [(query, 1) for query in queries]
    weights = table.column(WEIGHT_COLUMN).cast(pa.int64(), safe=False).to_pylist()
    return [(query, weight or 0) for query, weight in zip(queries, weights, strict=True)]
