"""The data card: what a finished data set is, where it comes from, what fell, in its own numbers.

Everything is read from the manifests and tables of a run, nothing is written by hand, so that the
card of another run of the same settings says the same. It is made when it is asked for, not with
every run: it reads every caption, and of a data set that is about to be given away the newest
removals and opt-outs count.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.looking import card_content, card_origin, html, markdown
from pipeline.looking.distributions import Distribution, measure
from pipeline.looking.page import Page, Section, Text
from pipeline.looking.scores import Scored
from pipeline.looking.tally import IN_SHARDS, Tally, opt_outs, removals, tally
from pipeline.results import CIRCUMSTANCE, Result, read_index, read_result, stage_places

CARD = "card"
REMOVALS = "removals"
"""Folder of a run's ledger of removals."""
DATA_STAGES = ("queries", "balance", "curate", "clip", "embed", "score", "select")
"""Stages that say what a data set is; those after them use it."""


@dataclass(frozen=True)
class Run:
    """A finished run as the card sees it."""

    name: str
    config: Mapping[str, Any]
    """The semantic settings, by section."""
    source: str
    """Name of the file or folder that the run started from; empty where it has none."""
    results: Mapping[str, Result]
    scored: Scored
    tally: Tally
    distributions: list[Distribution]
    opt_outs: Counter[str]
    """Addresses that the ledger remembers, per reason."""
    removals: Counter[str]
    """Entries of the ledger, per kind."""
    circumstances: Mapping[str, Mapping[str, Any]]
    """Per stage: times, commit."""

    @property
    def is_adopted(self) -> bool:
        """Whether somebody else made the shards."""
        return bool(self.config.get("adopt"))


def read_run(run_uri: str, source: str, opt_out_ledger: str) -> Run:
    """Read everything that a card says.

    Args:
        run_uri: Output folder of a run.
        source: The file or folder that the run started from; its last part is told.
        opt_out_ledger: Folder of the ledger of opt-outs, which need not exist.

    Raises:
        ConfigError: The folder holds no run, or no finished data set.
    """
    index = read_index(run_uri)
    found = {name: read_result(uri) for name, uri in stage_places(run_uri).items()}
    results = {name: found[name] for name in DATA_STAGES if found.get(name) is not None}
    known = {name: result for name, result in results.items() if result is not None}
    if "curate" not in known:
        raise ConfigError(
            f"{run_uri} holds no finished data set; run jobs.curate, then embed and select"
        )
    scored = Scored(known)
    return Run(
        name=index["name"],
        config=index["config"],
        source=source.rstrip("/").rsplit("/", 1)[-1],
        results=known,
        scored=scored,
        tally=tally(scored, known.get("balance")),
        distributions=measure(scored),
        opt_outs=opt_outs(opt_out_ledger),
        removals=removals(storage.join(run_uri, REMOVALS)),
        circumstances={name: _circumstance(result) for name, result in known.items()},
    )


def write_card(run: Run, folder: str) -> list[str]:
    """Write ``card.html`` and ``card.md``; returns their places.

    Args:
        run: What ``read_run`` gave.
        folder: Where they go.
    """
    made = page(run)
    places = {f"{CARD}.html": html.render(made), f"{CARD}.md": markdown.render(made)}
    for name, content in places.items():
        storage.write_bytes(storage.join(folder, name), content.encode())
    return [storage.join(folder, name) for name in places]


def page(run: Run) -> Page:
    """The card."""
    curated = run.results["curate"].content
    captions = run.tally.words[IN_SHARDS].num_captions
    facts = [
        ("Samples in the shards", f"{curated['num_samples']:,}"),
        ("Captions", f"{captions:,}"),
        ("Shards", f"{len(curated['shards']):,}"),
        ("Bytes", f"{sum(entry['num_bytes'] for entry in curated['shards']):,}"),
        *((f"Kept by {name}", f"{count:,}") for name, count in card_content.num_kept(run).items()),
        ("Last change", _date(run.circumstances[list(run.results)[-1]].get("ended_s"))),
    ]
    sections = [*card_origin.sections(run), *card_content.sections(run), _versions(run), _LIMITS]
    return Page(
        title=f"Data card of {run.name}",
        subtitle="Pictures with captions. Every number here is read from the run's own manifests "
        "and tables; nothing is written by hand.",
        facts=facts,
        sections=sections,
    )


def _versions(run: Run) -> Section:
    rows = [
        [
            name,
            result.manifest["identity"][:12],
            result.manifest_hash[:16],
            ", ".join(result.manifest["inputs"]),
            str(run.circumstances[name].get("commit", ""))[:12],
            _date(run.circumstances[name].get("ended_s")),
        ]
        for name, result in run.results.items()
    ]
    heading = ["stage", "identity", "manifest (sha256)", "made from", "commit", "finished"]
    note = (
        "A stage's identity follows from its settings and from the manifests of what it was made "
        "from: the same identity is the same data. jobs.verify compares the files with these "
        "manifests."
    )
    return Section("versions", "Versions", [Text(note), card_origin.table(heading, rows)])


_LIMITS = Section(
    "limits",
    "What this card does not say",
    [
        Text(
            "Licences are as the sources state them; nobody has checked them. What the pictures "
            "show is known from captions and scores alone. Words for people are counted in "
            "English, and say nothing of who is to be seen. Languages are told by a model and "
            "for a sample of the captions. Scores are of the models named by the stages, with "
            "their errors."
        )
    ],
)


def _circumstance(result: Result) -> dict[str, Any]:
    uri = storage.join(result.uri, CIRCUMSTANCE)
    return storage.read_json(uri) if storage.exists(uri) else {}


def _date(unix_s: float | None) -> str:
    if unix_s is None:
        return "unknown"
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
