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
below_min_count     a word sequence of captions that too few captions hold
==================  ==============================================================================
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.candidates import schema
from pipeline.errors import ConfigError, DataError
from pipeline.identity import fingerprint
from pipeline.queries import query_files, wordnet
from pipeline.queries.config import (
    CaptionsSource,
    ListSource,
    Profile,
    QueriesConfig,
    QuerySource,
)
from pipeline.queries.matching import caption_form, query_form

EMPTY = "empty"
PUNCTUATION_ONLY = "punctuation_only"
DUPLICATE = "duplicate"
OVER_LIMIT = "over_limit"
BELOW_MIN_COUNT = "below_min_count"


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
    def fingerprint(self) -> str:
        """SHA-256 of the queries in order: what a matched candidate's ids refer to."""
        return fingerprint(self.queries)


def count_ngrams(captions: Iterable[str], max_words: int, profile: Profile) -> pa.Table:
    """Word sequences of captions and how many captions hold them.

    A sequence does not cross a sign: ``a cat, asleep`` holds ``a cat`` and not ``cat asleep``.

    Args:
        captions: Captions of one partition.
        max_words: Longest sequence, at least 1.
        profile: The form in which captions are read.

    Returns:
        ``schema.NGRAM_COUNTS``, sorted.
    """
    form = caption_form(profile)
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(_ngrams(form(caption).split(), max_words))
    names = sorted(counts)
    return pa.table([names, [counts[name] for name in names]], schema=schema.NGRAM_COUNTS)


def merge(partial_counts: Sequence[pa.Table]) -> pa.Table:
    """Add up the counts of partitions; the order of the partitions does not matter."""
    if not partial_counts:
        return schema.NGRAM_COUNTS.empty_table()
    together = pa.concat_tables(partial_counts)
    total = together.group_by(schema.NGRAM).aggregate([(schema.COUNT, "sum")])
    renamed = total.rename_columns([schema.NGRAM, schema.COUNT]).select(schema.NGRAM_COUNTS.names)
    return renamed.sort_by(schema.NGRAM).cast(schema.NGRAM_COUNTS)


def build(config: QueriesConfig, ngrams: pa.Table | None) -> QueryList:
    """Build the list from its sources.

    Args:
        config: Sources, limit and profile.
        ngrams: Merged counts (``merge``) of the candidates' captions up to the largest
            ``max_words`` of the sources; None where no source is ``captions``.

    Raises:
        ConfigError: A source is missing or unreadable, or nothing is left of all of them.
    """
    admitted: dict[str, tuple[str, str, int]] = {}
    left_out: dict[str, dict[str, int]] = {}
    for position, source in enumerate(config.sources):
        name = f"{position}-{source.type}"
        dropped: Counter[str] = Counter()
        weights = _weights(source, ngrams, dropped)
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


def _ngrams(words: list[str], max_words: int) -> set[str]:
    """Every sequence of 1 to ``max_words`` words without a sign among them, once."""
    found: set[str] = set()
    for first in range(len(words)):
        sequence = ""
        for word in islice(words, first, first + max_words):
            if not _has_letter_or_digit(word):
                break
            sequence = f"{sequence} {word}" if sequence else word
            found.add(sequence)
    return found


def _has_letter_or_digit(text: str) -> bool:
    return any(unicodedata.category(character)[0] in "LN" for character in text)


def _why_not(form: str) -> str | None:
    if not form.strip():
        return EMPTY
    return None if _has_letter_or_digit(form) else PUNCTUATION_ONLY


def _weights(source: QuerySource, ngrams: pa.Table | None, dropped: Counter[str]) -> dict[str, int]:
    """A source's queries, stripped, with their weights."""
    if isinstance(source, CaptionsSource):
        return _from_captions(source, ngrams, dropped)
    if isinstance(source, ListSource):
        pairs = query_files.read(source.path)
    else:
        pairs = list(wordnet.synset_names(source.path).items())
    weights: dict[str, int] = {}
    for query, weight in pairs:
        text = " ".join(unicodedata.normalize("NFC", query).split())
        if text in weights:
            dropped[DUPLICATE] += 1
        weights[text] = max(weight, weights.get(text, weight))
    return weights


def _from_captions(
    source: CaptionsSource, ngrams: pa.Table | None, dropped: Counter[str]
) -> dict[str, int]:
    if ngrams is None:
        raise ConfigError("a source of type captions needs candidates; add them to the run file")
    # Another source of this type may have asked for longer sequences.
    spaces = pc.call_function(
        "count_substring", [ngrams.column(schema.NGRAM)], pc.MatchSubstringOptions(" ")
    )
    short = ngrams.filter(pa.array(spaces.to_numpy() < source.max_words))
    often = short.filter(pa.array(short.column(schema.COUNT).to_numpy() >= source.min_count))
    if short.num_rows > often.num_rows:
        dropped[BELOW_MIN_COUNT] += short.num_rows - often.num_rows
    names, counts = often.column(schema.NGRAM), often.column(schema.COUNT)
    return dict(zip(names.to_pylist(), counts.to_pylist(), strict=True))


def _sorted_table(admitted: list[tuple[str, str, int]]) -> pa.Table:
    rows = sorted(admitted)
    columns = [list(range(len(rows))), *map(list, zip(*rows, strict=True))]
    return pa.table(columns, schema=schema.QUERY_LIST)
