"""Reads balanced pairs for people: those of one query."""

import difflib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.candidates import schema
from pipeline.curation.limits import PAIRS
from pipeline.errors import ConfigError
from pipeline.queries import yields
from pipeline.results import Result
from pipeline.shards.writer import read_table

SHOWN = [schema.UID, schema.URL, schema.CAPTION]


def of_query(balanced: Result, query: str, limit: int) -> Iterator[dict[str, Any]]:
    """Pairs that contain a query, at most so many, then its counts.

    Args:
        balanced: The finished balance stage.
        query: A query of its list.
        limit: Pairs to give.

    Raises:
        ConfigError: The list has no such query.
    """
    counts = read_table(storage.join(balanced.uri, yields.FILE))
    queries = counts.column(schema.QUERY)
    number = queries.index(pa.scalar(query)).as_py()
    if number < 0:
        near = difflib.get_close_matches(query, queries.to_pylist(), n=3)
        hint = f"; near it: {', '.join(map(repr, near))}" if near else ""
        raise ConfigError(f"--query {query!r} is not among {len(queries):,} queries{hint}")
    left = min(limit, counts.column(yields.KEPT)[number].as_py())
    for entry in balanced.content[PAIRS]:
        if left <= 0:
            break
        uri = storage.join(balanced.uri, PAIRS, entry["name"])
        table = read_table(uri, [*SHOWN, schema.QUERY_IDS])
        lists = table.column(schema.QUERY_IDS).combine_chunks()
        holds = pc.call_function("equal", [lists.flatten(), pa.scalar(number, pa.uint32())])
        rows = pc.call_function("list_parent_indices", [lists]).filter(holds)[:left]
        yield from table.select(SHOWN).take(rows).to_pylist()
        left -= len(rows)
    yield counts.slice(number, 1).to_pylist()[0]
