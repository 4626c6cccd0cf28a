"""What the card counts in the tables of a finished run: one pass over pairs, one over the shards.

Domains are held by name, hence memory grows with their number; all else is of fixed size.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.candidates import languages, schema, urls
from pipeline.curation.limits import PAIRS
from pipeline.looking import terms
from pipeline.looking.drawn import Drawn
from pipeline.looking.scores import (
    OVERLAP_BITS,
    OVERLAP_COSINE,
    OVERLAP_SET,
    Mask,
    Scored,
    ScoredShard,
)
from pipeline.results import Result
from pipeline.shards.manifest import UNKNOWN_LICENCE
from pipeline.shards.writer import read_table

NUM_CAPTIONS = 2_000
"""Captions whose language is told: their shares are known to about 2 %."""
MIN_PROBABILITY = 0.5
"""Below it a caption's language counts as uncertain."""
UNCERTAIN = "uncertain"
NO_ADDRESS, LOCAL_FILES = "(no address)", "(files of a folder)"
BALANCED, IN_SHARDS = "balanced pairs", "in the shards"
BITS, COSINES = (0, 4, 8), (0.95, 0.9)


def kept_by(profile: str) -> str:
    """The name of a profile's column."""
    return f"kept by {profile}"


@dataclass
class Words:
    """Captions of one stage, and how many of them name which group of people."""

    num_captions: int = 0
    of_group: Counter[str] = field(default_factory=Counter)

    def add(self, holds: Mapping[str, Mask], of: Mask) -> None:
        """Count those captions for which ``of`` is true."""
        self.num_captions += int(np.count_nonzero(of))
        for group, mask in holds.items():
            self.of_group[group] += int(np.count_nonzero(mask & of))


@dataclass
class Tally:
    """Counts over all samples of a run."""

    domains: dict[str, Counter[str]] = field(default_factory=dict)
    """Samples per registered domain: ``IN_SHARDS`` and per profile."""
    licences: dict[str, Counter[str]] = field(default_factory=dict)
    """Likewise per licence."""
    words: dict[str, Words] = field(default_factory=dict)
    """Per stage, in order: ``BALANCED`` where there are pairs, ``IN_SHARDS``, each profile."""
    languages: Counter[str] = field(default_factory=Counter)
    """Of a sample of the captions that at least one profile keeps."""
    num_captions_kept: int = 0
    overlaps: dict[str, Counter[str]] = field(default_factory=dict)
    """Per evaluation set: samples nearest to it by how near they are."""


def tally(scored: Scored, balanced: Result | None) -> Tally:
    """Count everything.

    Args:
        scored: The run.
        balanced: Its finished balance stage; None where shards were adopted.
    """
    found = Tally()
    if balanced is not None:
        found.words[BALANCED] = Words()
        for captions in _balanced_captions(balanced):
            found.words[BALANCED].add(terms.holds(captions), np.ones(len(captions), bool))
    names = {IN_SHARDS: None, **{kept_by(profile): profile for profile in scored.profiles}}
    for name in names:
        found.words[name] = Words()
        found.domains[name], found.licences[name] = Counter(), Counter()
    spoken: Drawn[str] = Drawn(NUM_CAPTIONS, 0, "language")
    owners: dict[str, str] = {}
    for shard in scored:
        rows = scored.dataset.rows(shard.number, ["key", "url", "licence", "captions"])
        masks = {
            name: np.ones(rows.num_rows, bool) if profile is None else shard.is_kept(profile)
            for name, profile in names.items()
        }
        _add_sources(found, rows, masks, owners)
        _add_captions(found, rows, masks, spoken)
        _add_overlaps(found, shard)
    found.languages = Counter(map(_language, spoken.things()))
    found.num_captions_kept = spoken.offered
    return found


def _balanced_captions(balanced: Result) -> Iterator[pa.ChunkedArray]:
    for entry in balanced.content[PAIRS]:
        uri = storage.join(balanced.uri, PAIRS, entry["name"])
        yield read_table(uri, [schema.CAPTION])[schema.CAPTION]


def _add_sources(
    found: Tally, rows: pa.Table, masks: Mapping[str, Mask], owners: dict[str, str]
) -> None:
    domains = pa.array([_domain(url, owners) for url in rows["url"].to_pylist()], pa.string())
    licences = rows["licence"].fill_null(UNKNOWN_LICENCE)
    for name, mask in masks.items():
        found.domains[name].update(_counted(domains, mask))
        found.licences[name].update(_counted(licences, mask))


def _counted(values: pa.Array | pa.ChunkedArray, mask: Mask) -> dict[str, int]:
    counts = values.filter(pa.array(mask)).value_counts().to_pylist()
    return {each["values"]: each["counts"] for each in counts}


def _domain(url: str, owners: dict[str, str]) -> str:
    """The registered domain of an address; ``owners`` remembers those of sites."""
    if url.startswith(urls.LOCAL):
        return LOCAL_FILES
    if not url.startswith(("http://", "https://")):
        return NO_ADDRESS
    site = "/".join(url.split("/", 3)[:3])
    if site not in owners:
        owners[site] = urls.registered_domain(f"{site}/") or NO_ADDRESS
    return owners[site]


def _add_captions(
    found: Tally, rows: pa.Table, masks: Mapping[str, Mask], spoken: Drawn[str]
) -> None:
    lists = rows["captions"].combine_chunks()
    captions = pa.chunked_array([lists.flatten()])
    owner = pc.call_function("list_parent_indices", [lists]).to_numpy()
    holds = terms.holds(captions)
    for name, mask in masks.items():
        found.words[name].add(holds, mask[owner])
    profiles = [mask for name, mask in masks.items() if name != IN_SHARDS]
    kept = np.logical_or.reduce(profiles) if profiles else masks[IN_SHARDS]
    keys = rows["key"].to_pylist()
    chosen = np.flatnonzero(kept[owner])
    texts = captions.take(pa.array(chosen)).to_pylist()
    names = [f"{keys[each]} {text}" for each, text in zip(owner[chosen], texts, strict=True)]
    spoken.offer(names, texts)


def _language(caption: str) -> str:
    code, probability = languages.most_likely(caption)
    return code if probability >= MIN_PROBABILITY else UNCERTAIN


def _add_overlaps(found: Tally, shard: ScoredShard) -> None:
    if OVERLAP_SET not in shard.table.column_names:
        return
    sets = shard.table[OVERLAP_SET].to_pylist()
    bits, cosines = shard.values(OVERLAP_BITS), shard.values(OVERLAP_COSINE)
    for place, name in enumerate(sets):
        if name is None:
            continue
        counts = found.overlaps.setdefault(name, Counter())
        counts["samples"] += 1
        counts.update(f"bits {most}" for most in BITS if bits[place] <= most)
        counts.update(f"cosine {least}" for least in COSINES if cosines[place] >= least)


def opt_outs(ledger: str) -> Counter[str]:
    """Addresses that a ledger of opt-outs remembers, per reason."""
    return _rows_by(ledger, "drop_reason")


def removals(ledger: str) -> Counter[str]:
    """Entries of a ledger of removals, per kind."""
    return _rows_by(ledger, "kind")


def _rows_by(folder: str, column: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for name in storage.list_names(folder):
        if name.endswith(".parquet"):
            counted = read_table(storage.join(folder, name), [column])[column].value_counts()
            found.update({each["values"]: each["counts"] for each in counted.to_pylist()})
    return found


def dropped_when(results: Mapping[str, Result]) -> list[tuple[str, str, int]]:
    """Stage, reason and pairs of all that fell before there was a sample."""
    balanced, curated = (results.get(name) for name in ("balance", "curate"))
    before: Mapping[str, int] = balanced.content["funnel"]["dropped"] if balanced else {}
    rows = [("balance", reason, int(count)) for reason, count in before.items()]
    if curated is not None:
        after: Mapping[str, Any] = curated.content["funnel"]["dropped"]
        left = {reason: int(n) - int(before.get(reason, 0)) for reason, n in after.items()}
        rows += [("curate", reason, count) for reason, count in left.items() if count]
    return rows


def head_and_tail(counts: Sequence[int], heads: Sequence[int]) -> list[tuple[int, float]]:
    """How large a share the first of falling counts hold together: number and share."""
    total = sum(counts) or 1
    falling = sorted(counts, reverse=True)
    return [(head, sum(falling[:head]) / total) for head in heads if head < len(falling)]
