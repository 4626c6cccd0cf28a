"""The groups of duplicates that people look at: the largest ones, with their first pictures."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.images.dedup import Entry, Verdict, order

NUM_CLUSTERS = 12
NUM_MEMBERS = 6
"""Pictures shown of one group, its leader included."""
FILE = "clusters.parquet"
LARGEST = "largest"

MEMBER = pa.schema(
    [
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string()),
        pa.field("num_bits", pa.int64(), nullable=False),
    ]
)
"""A picture of one of the largest groups: the key of its leader, how many pictures the group has,
the picture's place in it (0 leads), its own key, why it fell (null where it leads) and in how many
bits its perceptual hash differs from the leader's."""
SHOWN = MEMBER.append(pa.field("thumbnail", pa.binary(), nullable=False))
"""Likewise with a JPEG: rows of ``clusters.parquet``, largest group first."""


def sizes(verdicts: Mapping[str, Verdict]) -> dict[str, int]:
    """How many groups of at least two there are, how many pictures they hold, the largest."""
    found = [size for size in _sizes(verdicts).values() if size > 1]
    return {
        "num_clusters": len(found),
        "num_pictures": sum(found),
        "largest": max(found, default=0),
    }


def largest(entries: Sequence[Entry], verdicts: Mapping[str, Verdict]) -> pa.Table:
    """The first pictures of the largest groups, as ``MEMBER``; groups of one are none.

    Args:
        entries: All pictures, in any order.
        verdicts: What ``dedup.group`` said of them.
    """
    ranked = sorted((-size, key) for key, size in _sizes(verdicts).items() if size > 1)
    chosen = {key: -size for size, key in ranked[:NUM_CLUSTERS]}
    members: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=order):
        cluster = verdicts[entry.key].cluster
        if cluster in chosen and len(members[cluster]) < NUM_MEMBERS:
            members[cluster].append(entry)
    rows = [
        _row(place, entry, members[cluster][0], verdicts[entry.key], size)
        for cluster, size in chosen.items()
        for place, entry in enumerate(members[cluster])
    ]
    return pa.Table.from_pylist(rows, schema=MEMBER)


def merge(tables: Sequence[pa.Table]) -> pa.Table:
    """The parts of all buckets, largest group first, each from its leader on."""
    keys = [("size", "descending"), ("cluster", "ascending"), ("place", "ascending")]
    return pa.concat_tables([SHOWN.empty_table(), *tables]).sort_by(keys)


def _sizes(verdicts: Mapping[str, Verdict]) -> Counter[str]:
    return Counter(verdict.cluster for verdict in verdicts.values())


def _row(place: int, entry: Entry, leader: Entry, verdict: Verdict, size: int) -> dict[str, Any]:
    return {
        "cluster": verdict.cluster,
        "size": size,
        "place": place,
        "key": entry.key,
        "drop_reason": verdict.drop_reason,
        "num_bits": (entry.phash ^ leader.phash).bit_count(),
    }
