"""A curator's sheet: everything that was asked of a run, as contact sheets, plots and counts.

One pass over the score tables counts and draws, one over the embeddings searches; then the shards
of the chosen samples are read for captions and pictures, one at a time.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.candidates import schema
from pipeline.curation.trace import rejects
from pipeline.errors import ConfigError
from pipeline.images.decode import open_rgb
from pipeline.images.rejects import thumbnail
from pipeline.looking.asked import Asked
from pipeline.looking.distributions import Distribution, measure
from pipeline.looking.pick import Part, Parts, Place, say_outcomes
from pipeline.looking.scores import KEPT, Scored
from pipeline.queries import yields
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.writer import read_table

SHOWN_PX = 128
"""Pictures come from the smallest view of at least this side, or else from the shards."""
DESCRIBED = ["key", "url", "captions"]


@dataclass(frozen=True)
class Sample:
    """A sample as it is shown."""

    key: str
    url: str
    captions: list[str]
    image: bytes | None
    scores: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    """Per profile: ``kept``, or the drop reason."""
    cosine: float | None = None
    """To what was searched for."""


@dataclass(frozen=True)
class Group:
    """Samples that are shown together."""

    title: str
    note: str
    count: int
    """Of all samples that this is about."""
    samples: list[Sample]


@dataclass(frozen=True)
class Sheet:
    """What a curator gets."""

    name: str
    """Of the run."""
    num_samples: int
    profiles: dict[str, int]
    """Kept samples per profile."""
    groups: list[Group]
    sweeps: list[Distribution]


def look(name: str, results: Mapping[str, Result], asked: Asked) -> Sheet:
    """Answer everything that was asked.

    Args:
        name: Of the run.
        results: Its finished stages by name.
        asked: What to look at.

    Raises:
        ConfigError: A score, query, reason or profile does not exist, or the run is not so far.
    """
    scored = Scored(results)
    if asked.profile is not None:
        scored.require_profile(asked.profile)
    profiles = scored.profiles if asked.profile is None else [asked.profile]
    fallen, parts = _parts(results, scored, asked, profiles)
    if parts:
        for shard in scored:
            for part in parts:
                part.add(shard)
    found = _searched(results, scored, asked)
    describe = _Describer(scored, profiles)
    wanted = [place for part in parts for place in part.drawn.things()]
    wanted += [hit.place for _, hits in found for hit in hits]
    known = describe.all(wanted)
    groups = [_search_group(title, hits, known, scored) for title, hits in found]
    groups += [_part_group(part, known) for part in parts]
    kept = {profile: scored.num_outcomes(profile)[KEPT] for profile in profiles}
    sweeps = measure(scored, profiles) if asked.sweeps else []
    return Sheet(name, scored.num_samples, kept, [*groups, *fallen], sweeps)


def _parts(
    results: Mapping[str, Result], scored: Scored, asked: Asked, profiles: Sequence[str]
) -> tuple[list[Group], list[Part]]:
    make = Parts(scored, asked.number, asked.seed, profiles)
    parts = [make.anything()] if asked.anything else []
    parts += [make.query(query, _query_id(results, query)) for query in asked.queries]
    groups: list[Group] = []
    for reason in asked.reasons:
        of = [name for name in profiles if reason in scored.num_outcomes(name)]
        parts += [make.reason(profile, reason) for profile in of]
        groups += [] if of else [_fallen(results, scored, reason, asked)]
    parts += [make.band(band) for band in asked.bands]
    parts += [part for near in asked.nears for part in make.near(near)]
    return groups, parts


def _query_id(results: Mapping[str, Result], query: str) -> int:
    curated = results["curate"]
    uri = storage.join(curated.uri, yields.FILE)
    if not storage.exists(uri):
        raise ConfigError(f"--query {query!r}: shards that were adopted have no queries")
    number = read_table(uri, [schema.QUERY])[schema.QUERY].to_pylist()
    if query not in number:
        raise ConfigError(f"--query {query!r} is not among the {len(number):,} queries of this run")
    return number.index(query)


def _fallen(results: Mapping[str, Result], scored: Scored, reason: str, asked: Asked) -> Group:
    """Pairs that fell before there was a sample: those that were kept to be looked at."""
    curated = results["curate"]
    dropped = curated.content["funnel"]["dropped"]
    if reason in dropped:
        samples = [
            Sample(row["key"], row["url"], [row["caption"]], _read(row["picture"]))
            for row in rejects(curated, reason, asked.seed, asked.number)
        ]
        note = (
            f"{dropped[reason]:,} pairs fell before there was a sample; {len(samples)} of those "
            "that were kept to look at"
        )
        return Group(f"Dropped: {reason.replace('_', ' ')}", note, dropped[reason], samples)
    selection = {name for profile in scored.profiles for name in scored.num_outcomes(profile)}
    there = ", ".join(sorted(selection - {KEPT} | set(dropped))) or "none"
    raise ConfigError(f"--reason {reason}: nothing fell for that reason; there are: {there}")


def _read(picture: str | None) -> bytes | None:
    return None if picture is None else storage.read_bytes(picture)


def _searched(
    results: Mapping[str, Result], scored: Scored, asked: Asked
) -> list[tuple[str, list[Any]]]:
    """A title and hits per text and picture."""
    if not asked.texts and not asked.pictures:
        return []
    from pipeline.looking.search import QueryEncoder, nearest

    encoder = QueryEncoder(results, scored)
    assert scored.embedded is not None  # the encoder has seen the stage
    titles = [f"Nearest to “{text}”" for text in asked.texts]
    titles += [f"Nearest to {os.path.basename(path)}" for path in asked.pictures]
    vectors = [encoder.text(text) for text in asked.texts]
    vectors += [encoder.picture(path) for path in asked.pictures]
    queries = np.stack(vectors).astype(np.float32)
    found = nearest(scored.embedded, len(scored.dataset.shards), queries, asked.number)
    return list(zip(titles, found, strict=True))


def _search_group(
    title: str, hits: Sequence[Any], known: Mapping[Place, Sample], scored: Scored
) -> Group:
    samples = [
        Sample(**{**vars(known[hit.place]), "cosine": hit.cosine})  # frozen: made anew
        for hit in hits
    ]
    note = f"the nearest {len(hits):,} of {scored.num_samples:,} samples by cosine, exact"
    return Group(title, note, scored.num_samples, samples)


def _part_group(part: Part, known: Mapping[Place, Sample]) -> Group:
    samples = [known[place] for place in part.drawn.things()]
    if part.sort_by is not None:
        samples.sort(key=lambda sample: (sample.scores[str(part.sort_by)], sample.key))
    said = [f"{part.count:,} samples", say_outcomes(part.outcomes), part.note]
    return Group(part.title, "; ".join(each for each in said if each), part.count, samples)


class _Describer:
    """Captions, scores, outcomes and pictures of chosen samples, each shard read once."""

    def __init__(self, scored: Scored, profiles: Sequence[str]) -> None:
        self._scored, self._profiles = scored, profiles
        views = scored.dataset.views_px
        self._view_px = min((side for side in views if side >= SHOWN_PX), default=None)

    def all(self, places: Sequence[Place]) -> dict[Place, Sample]:
        found: dict[Place, Sample] = {}
        for shard in sorted({place.shard for place in places}):
            found |= self._of_shard(shard, {place.key for place in places if place.shard == shard})
        return found

    def _of_shard(self, number: int, keys: set[str]) -> dict[Place, Sample]:
        dataset, shard = self._scored.dataset, self._scored.shard(number)
        images = dataset.pictures(number, self._view_px, keys)
        rows = dataset.rows(number, DESCRIBED).to_pylist()
        place_of = {key: place for place, key in enumerate(shard.keys)}
        values = {column: shard.values(column) for column in self._scored.columns}
        outcomes = {name: shard.outcomes[name].to_pylist() for name in self._profiles}
        found = {}
        for row in rows:
            if row["key"] not in keys:
                continue
            place = place_of[row["key"]]
            found[Place(number, row["key"])] = Sample(
                key=row["key"],
                url=row["url"],
                captions=row["captions"],
                image=_small(dataset, images[row["key"]], self._view_px),
                scores=_present({name: float(value[place]) for name, value in values.items()}),
                outcomes={name: each[place] for name, each in outcomes.items()},
            )
        return found


def _present(scores: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _small(dataset: CuratedDataset, encoded: bytes, view_px: int | None) -> bytes:
    opened = dataset.open_picture(encoded) if view_px is None else open_rgb(encoded)
    return thumbnail(opened)
