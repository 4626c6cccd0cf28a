"""Which texts a run wants, and how many pairs of each."""

from typing import Annotated, Literal, TypeVar

from pydantic import Field

from pipeline.candidates.config import SourceExecution
from pipeline.config import StrictModel

MAX_QUERIES = 500_000

Profile = Literal["literal", "normalised"]


class CaptionsSource(StrictModel):
    """Word sequences that the candidates' own captions hold often enough."""

    type: Literal["captions"]
    max_words: int = Field(ge=1, le=5)
    """Longest word sequence."""
    min_count: int = Field(ge=1)
    """Captions that must hold a word sequence for it to become a query."""


class ListSource(StrictModel):
    """A ready-made list of queries."""

    type: Literal["list"]
    path: str = Field(min_length=1)
    """``.json`` (an array of strings), ``.txt`` (one query per line) or ``.parquet`` (a column
    ``query``, optionally ``weight``); the first two also as ``.gz``."""


class WordnetSource(StrictModel):
    """The names of WordNet's synsets."""

    type: Literal["wordnet"]
    path: str = Field(min_length=1)
    """Folder with WordNet's database files (``data.noun``, ``data.verb``, ...)."""


class NumbersSource(StrictModel):
    """The numbers from 0, written in digits: MetaCLIP's list begins with ``0`` to ``99``."""

    type: Literal["numbers"]
    below: int = Field(default=100, ge=1, le=10_000)
    """The first number that is left out."""


class DumpSource(StrictModel):
    """What sources have that are many large files."""

    execution: SourceExecution = SourceExecution()


class WikipediaWordsSource(DumpSource):
    """The frequent words of Wikipedia's articles."""

    type: Literal["wikipedia_words"]
    path: str = Field(min_length=1)
    """``pages-articles`` dumps, ``.xml`` or ``.xml.bz2``, multistream or not: a file, a folder or
    a glob, local or s3:// or gs://. Sources with the same path read it once."""
    min_count: int = Field(default=100, ge=1)
    """Times that a word must stand in the articles; 100 in CLIP's and MetaCLIP's lists."""


class PmiRule(StrictModel):
    """Pointwise mutual information: the literal rule of CLIP's and MetaCLIP's lists."""

    type: Literal["pmi"]
    min_bits: float = Field(default=30.0, gt=0)
    """Least information of a pair. No pair of N words can have more than log2(N) bits: 30 cannot
    be reached below 2^30 words (about 1.07 billion), and above it by pairs of very rare words."""
    min_count: int = Field(default=1, ge=1)
    """Times that a pair must stand in the articles."""


class NpmiRule(StrictModel):
    """Pointwise mutual information over its largest value: the same in a corpus of any size."""

    type: Literal["npmi"]
    min_npmi: float = Field(gt=-1, le=1)
    """Least value: 0 for words that meet by chance, 1 for words that never stand apart."""
    min_count: int = Field(ge=1)
    """Times that a pair must stand in the articles."""


BigramRule = Annotated[PmiRule | NpmiRule, Field(discriminator="type")]


class WikipediaBigramsSource(DumpSource):
    """The pairs of neighbouring words in Wikipedia's articles that belong together."""

    type: Literal["wikipedia_bigrams"]
    path: str = Field(min_length=1)
    """As in ``wikipedia_words``."""
    rule: BigramRule
    """When two words belong together."""


class PageViewsSource(DumpSource):
    """Titles of a wiki's articles that are read often enough."""

    type: Literal["page_views"]
    paths: tuple[str, ...] = Field(min_length=1)
    """Hourly or daily page-view files of Wikimedia, plain, ``.gz`` or ``.bz2``: files, folders or
    globs, local or s3:// or gs://."""
    projects: tuple[str, ...] = Field(min_length=1)
    """Names of one wiki in those files, counted together, such as ``en`` and ``en.m``."""
    min_views: int = Field(ge=1)
    """Views in all files together."""
    min_views_per_file: int = Field(default=1, ge=1)
    """Files with fewer views of a title do not count for it."""
    main_page: str = "Main Page"
    """Title of the wiki's main page, which is left out."""


QuerySource = Annotated[
    CaptionsSource
    | ListSource
    | NumbersSource
    | WordnetSource
    | WikipediaWordsSource
    | WikipediaBigramsSource
    | PageViewsSource,
    Field(discriminator="type"),
]


class QueriesExecution(StrictModel):
    """How sources are counted; no field here changes what comes out."""

    partition_bytes: int = Field(default=64 << 20, ge=1024)
    """Bytes of a dump, as the file lies there, that one task reads, about."""
    num_buckets: int = Field(default=128, ge=1, le=4096)
    """Parts into which counts are cut by hash; a task that adds them up holds one part at least."""
    max_entries: int = Field(default=4_000_000, ge=1)
    """Different entries that a task holds in memory before it puts them on disk, about 50 to 100
    bytes each."""


_ORDERS: dict[str, dict[str, int]] = {
    "listed": {},
    "clip": {"wikipedia_words": 1, "wikipedia_bigrams": 2, "page_views": 3, "wordnet": 4},
    "metaclip": {
        "numbers": 1, "wordnet": 2, "wikipedia_words": 3, "wikipedia_bigrams": 4, "page_views": 5,
    },
}  # fmt: skip


class QueriesConfig(StrictModel):
    """The query list of a run."""

    sources: tuple[QuerySource, ...] = Field(min_length=1)
    """Admitted in their order until ``limit`` is reached; inside a source by weight, then text."""
    order: Literal["listed", "clip", "metaclip"] = "listed"
    """``listed``: as they stand here. ``clip``: words, bigrams, titles, WordNet. ``metaclip``:
    numbers, WordNet, words, bigrams, titles. Sources of other types come first in the latter two,
    since a curator who adds some wants them."""
    limit: int = Field(default=MAX_QUERIES, ge=1, le=MAX_QUERIES)
    """Queries in the list at most; CLIP's list holds 500,000."""
    profile: Profile
    """How captions are compared with queries: ``literal`` (the published, case-sensitive rule) or
    ``normalised`` (case, entities and spaces folded, Unicode word boundaries)."""
    execution: QueriesExecution = QueriesExecution()

    def reads_captions(self) -> bool:
        """Whether the list depends on the candidates."""
        return any(source.type == "captions" for source in self.sources)

    def named_sources(self) -> dict[str, QuerySource]:
        """The sources in the order in which they are admitted: ``0-captions``, ``1-list``, ..."""
        rank = _ORDERS[self.order]
        ordered = sorted(self.sources, key=lambda source: rank.get(source.type, 0))
        return {f"{place}-{source.type}": source for place, source in enumerate(ordered)}

    def for_sample(self, share: float) -> "QueriesConfig":
        """The same settings for a share of the candidates: numbers of captions shrink with it.

        Raises:
            ValueError: Less than one caption would make a query.
        """
        for source in self.sources:
            if isinstance(source, CaptionsSource) and share < 1 and source.min_count * share < 1:
                raise ValueError(
                    f"a sample of {share:g} leaves {source.min_count * share:.2g} of the "
                    f"{source.min_count} captions that make a query, so every word would be one; "
                    f"use a sample of {1 / source.min_count:.2g} or more, or another source"
                )
        sources = [
            source.model_copy(update={"min_count": max(1, round(source.min_count * share))})
            if isinstance(source, CaptionsSource)
            else source
            for source in self.sources
        ]
        return self.model_copy(update={"sources": tuple(sources)})


Limits = TypeVar("Limits", bound="BalanceConfig")


class BalanceConfig(StrictModel):
    """How many pairs each query keeps."""

    mode: Literal["sample", "cap"]
    """``sample``: every query keeps each of its pairs with probability limit / count, and one
    query suffices (the published rule). ``cap``: every pair belongs to its rarest query, and no
    query owns more than the limit."""
    per_query_limit: int = Field(ge=1)
    """Pairs per query; about 20,000 in CLIP's corpus."""
    oversampling: float = Field(default=1.0, ge=1.0)
    """Factor on ``per_query_limit`` before the crawl, for the pairs that the crawl will lose."""
    seed: int = Field(ge=0)
    """Seed of the draws; another one keeps other pairs."""

    def for_sample(self: Limits, share: float) -> Limits:
        """The same settings for a share of the candidates: the limit shrinks with it.

        Raises:
            ValueError: Less than one pair per query would be left.
        """
        limit = self.per_query_limit * self.oversampling
        if share < 1 and limit * share < 1:
            raise ValueError(
                f"a sample of {share:g} leaves {limit * share:.2g} of the {limit:g} pairs that a "
                f"query may keep, which balances nothing; use a sample of {1 / limit:.2g} or more"
            )
        return self.model_copy(update={"oversampling": self.oversampling * share})
