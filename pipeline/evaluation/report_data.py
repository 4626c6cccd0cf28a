"""What a report is made of: plain data, so that any job can assemble one.

Every section may be absent: its field is None or empty, and ``missing[section]`` says why. Section
names are those of ``SECTIONS``. Pictures are encoded bytes (PNG, JPEG or WebP), small ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.curation.pilot import Pilot
from pipeline.evaluation.judges import Confusion
from pipeline.evaluation.metrics import Estimate

SECTIONS = {
    "pilot": "What the whole run would give",
    "scores": "Does it draw what was asked?",
    "lines": "Curves",
    "sheets": "Pictures of what was measured",
    "limits": "Known limits",
    "gallery": "Generated pictures and their nearest training pictures",
    "losses": "Training",
    "funnel": "From candidates to samples",
    "queries": "Queries before and after balancing",
    "thumbnails": "What was kept and what was dropped",
    "clusters": "Duplicates and the pictures that stayed",
    "costs": "Time and memory",
}
"""Section name → heading, in reading order."""


@dataclass(frozen=True)
class Headline:
    """One large number at the top of the report."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Funnel:
    """Where candidates (pairs) went: ``candidates = kept + sum(dropped)``."""

    candidates: int
    kept: int
    dropped: dict[str, int]
    """Pairs per ``drop_reason``."""
    num_samples: int | None
    """Pictures behind the kept pairs, which may hold several captions; None before the crawl."""


@dataclass(frozen=True)
class QueryCount:
    """Pairs of one query."""

    query: str
    source: str
    matched: int
    """Pairs that contain it, before balancing."""
    owned: int | None
    """Kept pairs that it owns; None where nobody owns a pair."""
    kept: int
    """Kept pairs that contain it."""
    in_shards: int | None
    """Of these the ones whose pictures were kept; None before the crawl."""


@dataclass(frozen=True)
class QueryYields:
    """What the queries found and keep."""

    facts: Mapping[str, Any]
    """``queries.yields.facts``."""
    before: list[float]
    """Pairs of each query that found any, falling."""
    after: list[float]
    """Likewise after balancing, falling, as many."""
    most_frequent: list[QueryCount]


@dataclass(frozen=True)
class Thumbnail:
    """A small picture with a line of text."""

    image: bytes
    caption: str


@dataclass(frozen=True)
class Duplicates:
    """A group of pictures that count as the same."""

    num_pictures: int
    members: list[Thumbnail]
    """The first ones, from the leader on, which alone was kept."""


@dataclass(frozen=True)
class DuplicateGroups:
    """All groups of at least two pictures, and the largest of them."""

    num_groups: int
    num_pictures: int
    shown: list[Duplicates]
    """Largest first."""


@dataclass(frozen=True)
class Curve:
    """One stage's loss over training."""

    stage: str
    samples_seen: list[float]
    loss: list[float]
    note: str = ""


@dataclass(frozen=True)
class Neighbour:
    """A training picture close to a generated one."""

    image: bytes
    cosine: float
    """Cosine of the two CLIP embeddings, in [-1, 1]."""
    caption: str = ""


@dataclass(frozen=True)
class ShownPicture:
    """A generated picture, what was asked for, what a judge read, and its neighbours."""

    image: bytes
    prompt: str
    reading: str = ""
    """What the judge read, empty without a judge."""
    is_right: bool | None = None
    """Whether the reading agrees with the prompt; None without a judge or a truth."""
    nearest: list[Neighbour] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """A row of the table of scores."""

    label: str
    estimate: Estimate
    note: str = ""
    """What the number means, which bound it should keep."""
    is_share: bool = True
    """A share is written in percent and drawn on a 0–1 axis."""
    chance: float | None = None
    """What guessing would give."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores that belong together."""

    title: str
    note: str
    scores: list[Score]


@dataclass(frozen=True)
class Lines:
    """Estimates over a number, one or two lines."""

    title: str
    x_label: str
    x: list[float]
    series: dict[str, list[Estimate]]
    """By name, an estimate per value of x."""


@dataclass(frozen=True)
class Limit:
    """Something that a model cannot do, or may not be able to do."""

    about: str
    told: str
    """What was found, or how to find out."""
    is_measured: bool


@dataclass(frozen=True)
class NamedConfusion:
    """A confusion matrix with a title."""

    title: str
    confusion: Confusion


@dataclass(frozen=True)
class StageCost:
    """What one stage took."""

    stage: str
    wall_s: float
    peak_pss_bytes: int | None = None
    """Largest sum of PSS over the process tree while the stage ran."""
    state: str = "done"
    """``done`` or ``skipped`` (finished earlier; the time is of the run that made it)."""
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows."""

    title: str
    subtitle: str
    facts: list[tuple[str, str]]
    """Label and value of facts about the run: when, where, seed, commit, identity."""
    headlines: list[Headline] = field(default_factory=list)
    score_tables: list[ScoreTable] = field(default_factory=list)
    confusions: list[NamedConfusion] = field(default_factory=list)
    lines: list[Lines] = field(default_factory=list)
    sheets: list[Thumbnail] = field(default_factory=list)
    """Sheets of pictures, shown at their full width."""
    limits: list[Limit] = field(default_factory=list)
    gallery: list[ShownPicture] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    pilot: Pilot | None = None
    """Of a run on a sample; absent, without a reason, where the run was on everything."""
    funnel: Funnel | None = None
    queries: QueryYields | None = None
    kept: list[Thumbnail] = field(default_factory=list)
    dropped: dict[str, list[Thumbnail]] = field(default_factory=dict)
    """Thumbnails per ``drop_reason``."""
    duplicates: DuplicateGroups | None = None
    costs: list[StageCost] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a section is absent, by section name."""
