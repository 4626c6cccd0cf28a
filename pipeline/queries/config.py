"""Which texts a run wants, and how many pairs of each."""

from typing import Annotated, Literal

from pydantic import Field

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


QuerySource = Annotated[CaptionsSource | ListSource | WordnetSource, Field(discriminator="type")]


class QueriesConfig(StrictModel):
    """The query list of a run."""

    sources: tuple[QuerySource, ...] = Field(min_length=1)
    """Admitted in this order until ``limit`` is reached; inside a source by weight, then text."""
    limit: int = Field(default=MAX_QUERIES, ge=1, le=MAX_QUERIES)
    """Queries in the list at most; CLIP's list holds 500,000."""
    profile: Profile
    """How captions are compared with queries: ``literal`` (the published, case-sensitive rule) or
    ``normalised`` (case, entities and spaces folded, Unicode word boundaries)."""


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
