"""What a report is made of: plain data, so that any job can assemble one.

Every section may be absent: its field is None or empty, and ``missing[section]`` says why. Section
names are those of ``SECTIONS``. Pictures are encoded bytes (PNG, JPEG or WebP), small ones.
"""

from dataclasses import dataclass, field

from pipeline.evaluation.judges import Confusion
from pipeline.evaluation.metrics import Estimate

SECTIONS = {
    "scores": "Does it draw what was asked?",
    "gallery": "Generated pictures and their nearest training pictures",
    "losses": "Training",
    "funnel": "From candidates to samples",
    "queries": "Queries before and after balancing",
    "thumbnails": "What was kept and what was dropped",
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
    num_samples: int
    """Pictures behind the kept pairs; a picture may hold several captions."""


@dataclass(frozen=True)
class QueryCount:
    """Matched pairs of one query."""

    query: str
    before: int
    after: int


@dataclass(frozen=True)
class Thumbnail:
    """A small picture with a line of text."""

    image: bytes
    caption: str


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
    gallery: list[ShownPicture] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    funnel: Funnel | None = None
    queries: list[QueryCount] = field(default_factory=list)
    kept: list[Thumbnail] = field(default_factory=list)
    dropped: dict[str, list[Thumbnail]] = field(default_factory=dict)
    """Thumbnails per ``drop_reason``."""
    costs: list[StageCost] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a section is absent, by section name."""
