"""Why a pair is not among the balanced ones: its candidates are read again and judged one by one.

Balancing counts what it drops and keeps a few of each reason; of any other pair the reason follows
from the source, the query list and the counts, as it did then.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.candidates import captions, hosts, languages, schema, sources, urls
from pipeline.candidates.config import CaptionFilterConfig, SourceConfig
from pipeline.queries import query_list, yields
from pipeline.queries.matching import Matcher
from pipeline.results import Result
from pipeline.shards.writer import read_table

HOST_COLUMNS = [schema.URL, schema.URL_ID, schema.CAPTION]


@dataclass(frozen=True)
class Asked:
    """What is looked for: a picture by its key or its address, or one pair by its uid."""

    key: str | None = None
    uid: str | None = None
    url: str | None = None
    """Address behind ``key``, where that is what was given: adopted samples have other keys."""

    def filters(self) -> list[tuple[str, str, str]]:
        """As a filter of Parquet rows that have the columns ``url_id`` and ``uid``."""
        if self.uid is not None:
            return [(schema.UID, "=", self.uid)]
        return [(schema.URL_ID, "=", str(self.key))]

    def is_sample(self, row: Mapping[str, Any]) -> bool:
        """Whether an adopted sample is meant; ``row`` has ``key, url, uids``."""
        if self.uid is not None:
            return self.uid in row["uids"]
        return row["key"] == self.key if self.url is None else row["url"] == self.url


class QueryCounts:
    """What each query found and keeps, of a finished balance stage."""

    def __init__(self, balanced: Result) -> None:
        """Read the stage's counts."""
        self._table = read_table(storage.join(balanced.uri, yields.FILE))
        self._limit = balanced.content["queries"]["limit"]

    def of(self, query_ids: list[int]) -> list[dict[str, Any]]:
        """``query, matched, owned, kept, limit`` of some queries."""
        columns = [schema.QUERY, yields.MATCHED, yields.OWNED, yields.KEPT]
        rows = self._table.select(columns).take(pa.array(query_ids, pa.int64())).to_pylist()
        return [{**row, "limit": self._limit} for row in rows]


def explain(
    asked: Asked, source: SourceConfig, queries: Result, balanced: Result
) -> Iterator[dict[str, Any]]:
    """Every candidate that is meant, with the reason why balancing dropped it and its numbers.

    Reads the source twice, one part after the other, and twice more where pictures per host are
    limited; only rows that matter are held. They are those of the whole host in that case.

    Args:
        asked: A picture or a pair that is not among the balanced pairs.
        source: The run's candidates.
        queries: The finished queries stage.
        balanced: The finished balance stage.
    """
    found = _meant(asked, source)
    if not found:
        return
    rules = _Rules.read(queries, balanced)
    texts = {row[schema.CAPTION] for row in found.values()}
    num_pictures = {text: len(each) for text, each in _addresses(texts, source).items()}
    told = [(row, *rules.reason(row, num_pictures[row[schema.CAPTION]])) for row in found.values()]
    crowded = _crowded([row for row, reason, _ in told if reason is None], source, rules)
    for row, reason, numbers in told:
        if reason is None:
            reason, numbers = rules.limit_reason(row, is_crowded=row[schema.URL_ID] in crowded)
        shown = {name: row[name] for name in (schema.UID, schema.URL, schema.CAPTION)}
        yield {"stage": "balance", **shown, "kept": False, "drop_reason": reason, **numbers}


@dataclass(frozen=True)
class _Rules:
    """By what balancing judged: in this order, each of what the one before has left."""

    captions: CaptionFilterConfig
    max_pictures_per_host: int | None
    matcher: Matcher
    counts: QueryCounts

    @classmethod
    def read(cls, queries: Result, balanced: Result) -> "_Rules":
        config = balanced.manifest["config"]
        listed = query_list.read(storage.join(queries.uri, query_list.FILE)).queries
        return cls(
            CaptionFilterConfig.model_validate(config["captions"]),
            config.get("max_pictures_per_host"),
            Matcher(listed, queries.manifest["config"]["profile"]),
            QueryCounts(balanced),
        )

    def text_reason(self, text: str) -> tuple[str | None, dict[str, Any]]:
        """Why a caption falls by itself, wherever it stands."""
        column = pa.chunked_array([[text]], pa.string())
        reason = captions.caption_reasons(column, self.captions)[0].as_py()
        if reason is not None:
            numbers = {"num_chars": len(text), "num_words": len(text.split())}
            limits = ("min_chars", "max_chars", "min_words", "max_words")
            return reason, numbers | {name: getattr(self.captions, name) for name in limits}
        if not self.matched(text):
            return schema.NO_QUERY, {"queries": []}
        wanted = self.captions.languages
        if wanted and languages.language_reasons(column, self.captions)[0].as_py() is not None:
            score = languages.score(text, wanted)
            least = self.captions.min_language_score
            said = {"languages": [*wanted], "language_score": score, "min_language_score": least}
            return languages.OTHER_LANGUAGE, said
        return None, {}

    def reason(
        self, row: Mapping[str, Any], num_pictures: int
    ) -> tuple[str | None, dict[str, Any]]:
        """Why a pair falls before hosts and queries are limited, if it does."""
        reason, numbers = self.text_reason(row[schema.CAPTION])
        if reason is None and num_pictures > self.captions.max_repeats:
            numbers = {"num_pictures": num_pictures, "max_repeats": self.captions.max_repeats}
            return captions.REPEATED_CAPTION, numbers
        return reason, numbers

    def limit_reason(
        self, row: Mapping[str, Any], *, is_crowded: bool
    ) -> tuple[str, dict[str, Any]]:
        """Why a pair falls that nothing else was wrong with."""
        if is_crowded:
            limit = {"max_pictures_per_host": self.max_pictures_per_host}
            return schema.OVER_HOST_LIMIT, {"host": urls.host(row[schema.URL]), **limit}
        queries = self.counts.of(self.matched(row[schema.CAPTION]))
        return schema.OVER_QUERY_LIMIT, {"queries": queries}

    def matched(self, text: str) -> list[int]:
        """Ids of the queries that a caption contains."""
        return self.matcher.match(pa.chunked_array([[text]], pa.string()))[0].as_py()


def _tables(source: SourceConfig) -> Iterator[pa.Table]:
    """The candidates, a part at a time."""
    for part in sources.plan(source):
        yield sources.read(source, part).table


def _meant(asked: Asked, source: SourceConfig) -> dict[str, dict[str, Any]]:
    """The candidates that are meant, by uid."""
    found: dict[str, dict[str, Any]] = {}
    ((column, _, value),) = asked.filters()
    for table in _tables(source):
        meant = table.select(schema.CANDIDATE.names).filter(pc.field(column) == value)
        for row in meant.to_pylist():
            found.setdefault(row[schema.UID], row)
    return found


def _addresses(
    texts: Collection[str], source: SourceConfig, at_most: int | None = None
) -> dict[str, set[str]]:
    """Ids of the addresses on which each caption stands; no more than ``at_most`` of each."""
    found: dict[str, set[str]] = {text: set() for text in texts}
    wanted = pa.array(sorted(found), pa.string())
    for table in _tables(source):
        same = pc.field(schema.CAPTION).isin(wanted)
        for row in table.select([schema.CAPTION, schema.URL_ID]).filter(same).to_pylist():
            known = found[row[schema.CAPTION]]
            if at_most is None or len(known) < at_most:
                known.add(row[schema.URL_ID])
    return found


def _crowded(rows: Sequence[Mapping[str, Any]], source: SourceConfig, rules: _Rules) -> set[str]:
    """Ids of the pictures, of those that are asked for, that are beyond the limit of their host."""
    asked = {row[schema.URL] for row in rows if not row[schema.URL].startswith(urls.LOCAL)}
    limit = rules.max_pictures_per_host
    if limit is None or not asked:
        return set()
    pairs = _of_hosts({urls.host(url) for url in asked}, source, rules)
    most = rules.captions.max_repeats
    texts = _addresses(pairs.column(schema.CAPTION).unique().to_pylist(), source, most + 1)
    usable = pa.array([text for text, known in texts.items() if len(known) <= most], pa.string())
    pairs = pairs.filter(pc.field(schema.CAPTION).isin(usable))
    beyond = pairs.column(schema.URL_ID).filter(hosts.beyond_limit(pairs, limit))
    return set(beyond.to_pylist()) & {urls.url_id(url) for url in asked}


def _of_hosts(names: Collection[str], source: SourceConfig, rules: _Rules) -> pa.Table:
    """All pairs of some hosts whose captions do not fall by themselves."""
    parts = [schema.CANDIDATE.empty_table().select(HOST_COLUMNS)]
    for table in _tables(source):
        coded = urls.sites(table.column(schema.URL))
        sites = coded.dictionary.to_pylist()
        mine = [not site.startswith(urls.LOCAL) and urls.host(site) in names for site in sites]
        own = table.select(HOST_COLUMNS).filter(pa.array(mine, pa.bool_()).take(coded.indices))
        texts = own.column(schema.CAPTION).unique().to_pylist()
        good = [text for text in texts if rules.text_reason(text)[0] is None]
        parts.append(own.filter(pc.field(schema.CAPTION).isin(pa.array(good, pa.string()))))
    return pa.concat_tables(parts)
