"""The query list: built from its sources, written once, the same bytes whoever builds it.

Sources are admitted in the order of the configuration, inside a source by falling weight, then by
text, until the limit is reached. The finished list is sorted by text, and a query's position is its
id. What is left out is counted by reason:

==================  ==============================================================================
reason              meaning
==================  ==============================================================================
empty               nothing but white space (in profile ``normalised``: after normalising)
punctuation_only    no letter and no digit
duplicate           its form is already in the list
over_limit          the list was full
below_min_count     too few captions hold it, or it stands too rarely in the articles
below_pmi           a pair of words with too little pointwise mutual information
below_npmi          a pair of words with too little of it, normalised
below_min_views …   a title: see ``page_views``
==================  ==============================================================================
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.candidates import schema
from pipeline.errors import ConfigError, DataError
from pipeline.identity import fingerprint
from pipeline.queries import query_files, wordnet
from pipeline.queries.config import (
    ListSource,
    NumbersSource,
    QueriesConfig,
    QuerySource,
    WordnetSource,
)
from pipeline.queries.counted import Counted
from pipeline.queries.matching import query_form
from pipeline.queries.words import has_letter_or_digit

FILE = "queries.parquet"
"""Where the queries stage keeps its list."""
EMPTY = "empty"
PUNCTUATION_ONLY = "punctuation_only"
DUPLICATE = "duplicate"
OVER_LIMIT = "over_limit"


@dataclass(frozen=True)
class QueryList:
    """A finished list."""

    table: pa.Table
    """``schema.QUERY_LIST``: row i has id i; sorted by query."""
    left_out: dict[str, dict[str, int]]
    """Per source (``0-captions``, ``1-wordnet``, ...) the number of queries left out by reason."""

    @property
    def queries(self) -> list[str]:
        """The query strings, by id."""
        return self.table.column(schema.QUERY).to_pylist()

    @property
    def admitted(self) -> dict[str, int]:
        """How many queries came from each source that gave any."""
        return dict(sorted(Counter(self.table.column(schema.SOURCE).to_pylist()).items()))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the queries in order: what a matched candidate's ids refer to."""
        return fingerprint(self.queries)


def build(config: QueriesConfig, counted: Mapping[str, Counted] | None = None) -> QueryList:
    """Build the list from its sources.

    Args:
        config: Sources, limit and profile.
        counted: What counting gave for the sources that are counted, by their names.

    Raises:
        ConfigError: A source is missing or unreadable, or nothing is left of all of them.
    """
    admitted: dict[str, tuple[str, str, int]] = {}
    left_out: dict[str, dict[str, int]] = {}
    for name, source in config.named_sources().items():
        dropped: Counter[str] = Counter()
        weights = _weights(source, (counted or {}).get(name), dropped)
        for query, weight in sorted(weights.items(), key=lambda pair: (-pair[1], pair[0])):
            form = query_form(query, config.profile)
            reason = _why_not(form) or (DUPLICATE if form in admitted else None)
            if reason is None and len(admitted) == config.limit:
                reason = OVER_LIMIT
            if reason is None:
                admitted[form] = (query, name, weight)
            else:
                dropped[reason] += 1
        left_out[name] = dict(sorted(dropped.items()))
    if not admitted:
        raise ConfigError(
            f"the query list is empty: {left_out}; give other sources or lower limits"
        )
    return QueryList(_sorted_table(list(admitted.values())), left_out)


def check_stated(config: QueriesConfig) -> None:
    """Read what the sources state themselves, so that a wrong path stops a run before it counts.

    Raises:
        ConfigError: A list or WordNet's files are missing or unreadable.
    """
    for source in config.sources:
        if isinstance(source, ListSource | WordnetSource):
            _stated(source)


def write(queries: QueryList, uri: str) -> None:
    """Publish the list as one Parquet file with its fingerprint in the metadata."""
    table = queries.table.replace_schema_metadata({"fingerprint": queries.fingerprint})
    with storage.open_for_publish(uri) as file:
        pq.write_table(table, file, compression="zstd")


def read(uri: str) -> QueryList:
    """Read a published list; what its building left out is in the stage's manifest only.

    Raises:
        DataError: The file does not hold what its fingerprint says.
    """
    with storage.open_for_read(uri) as file:
        table = pq.read_table(file)
    stated = (table.schema.metadata or {}).get(b"fingerprint", b"").decode()
    queries = QueryList(table.replace_schema_metadata(None), {})
    if stated != queries.fingerprint:
        raise DataError(
            f"{uri} has fingerprint {queries.fingerprint[:12]} and states {stated[:12] or 'none'}; "
            "build the list again, or name a foreign list as a source of type list"
        )
    return queries


def _why_not(form: str) -> str | None:
    if not form.strip():
        return EMPTY
    return None if has_letter_or_digit(form) else PUNCTUATION_ONLY


def _weights(source: QuerySource, counted: Counted | None, dropped: Counter[str]) -> dict[str, int]:
    """A source's queries, stripped, with their weights."""
    if counted is not None:
        dropped.update(counted.left_out)
        names, counts = (counted.table.column(n).to_pylist() for n in schema.NGRAM_COUNTS.names)
        return dict(zip(names, counts, strict=True))
    weights: dict[str, int] = {}
    for query, weight in _stated(source):
        text = " ".join(unicodedata.normalize("NFC", query).split())
        if text in weights:
            dropped[DUPLICATE] += 1
        weights[text] = max(weight, weights.get(text, weight))
    return weights


def _stated(source: QuerySource) -> Iterable[tuple[str, int]]:
    """The queries of a source that states them itself, with their weights."""
    if isinstance(source, ListSource):
        return query_files.read(source.path)
    if isinstance(source, WordnetSource):
        return wordnet.synset_names(source.path).items()
    if isinstance(source, NumbersSource):
        return [(str(number), 1) for number in range(source.below)]
    raise ConfigError(f"a source of type {source.type} must be counted first")


def _sorted_table(admitted: list[tuple[str, str, int]]) -> pa.Table:
    rows = sorted(admitted)
    columns = [list(range(len(rows))), *map(list, zip(*rows, strict=True))]
    return pa.table(columns, schema=schema.QUERY_LIST)
