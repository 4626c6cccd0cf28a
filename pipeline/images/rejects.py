"""A few rejected pairs per drop reason, kept for people to look at.

Of every reason the pairs with the smallest uids are kept: whichever partition met them, and in
whatever order, the same ones are left after merging.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

THUMBNAIL_PX = 128
REJECT = pa.schema(
    [
        pa.field("drop_reason", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("thumbnail", pa.binary()),
    ]
)
"""``thumbnail``: a JPEG, null where the pair fell before there was a picture."""


class Rejects:
    """Counts rejected pairs and keeps at most ``limit`` of them per reason."""

    def __init__(self, limit: int) -> None:
        """Keep ``limit`` pairs per reason."""
        self._limit = limit
        self.dropped: Counter[str] = Counter()
        """Pairs per reason, all of them."""
        self._kept: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)

    def drop(
        self, drop_reason: str, pair: Mapping[str, Any], image: Image.Image | None = None
    ) -> None:
        """Count a pair (``uid, url_id, url, caption``) and offer it for keeping."""
        self.dropped[drop_reason] += 1
        self.offer(drop_reason, pair, image)

    def drop_table(self, drop_reason: str, pairs: pa.Table) -> None:
        """Count the rows (``uid, url_id, url, caption``) and offer those of smallest uid."""
        if not pairs.num_rows:
            return
        self.dropped[drop_reason] += pairs.num_rows
        uids = pairs.column("uid").unique()
        options = pc.SelectKOptions(self._limit, [("uid", "ascending")])
        smallest = pc.call_function("select_k_unstable", [pa.table({"uid": uids})], options)
        chosen = pc.SetLookupOptions(value_set=uids.take(smallest))
        mask = pc.call_function("is_in", [pairs.column("uid")], chosen)
        for pair in pairs.filter(mask).to_pylist():
            self.offer(drop_reason, pair)

    def offer(
        self, drop_reason: str, pair: Mapping[str, Any], image: Image.Image | None = None
    ) -> None:
        """Keep a pair if its uid is small enough; a pair that is kept already stays as it is."""
        if not self.wants(drop_reason, pair["uid"]):
            return
        kept = self._kept[drop_reason]
        kept[pair["uid"]] = {
            "drop_reason": drop_reason,
            "uid": pair["uid"],
            "key": pair["url_id"],
            "url": pair["url"],
            "caption": pair["caption"],
            "thumbnail": None if image is None else thumbnail(image),
        }
        if len(kept) > self._limit:
            del kept[max(kept)]

    def wants(self, drop_reason: str, uid: str) -> bool:
        """Whether a pair with this uid would be kept."""
        kept = self._kept[drop_reason]
        if uid in kept:
            return False
        return len(kept) < self._limit or bool(kept and uid < max(kept))

    def table(self) -> pa.Table:
        """All kept pairs, sorted by reason and uid."""
        rows = [
            self._kept[reason][uid]
            for reason in sorted(self._kept)
            for uid in sorted(self._kept[reason])
        ]
        return pa.Table.from_pylist(rows, schema=REJECT)


def merge(tables: Iterable[pa.Table], limit: int) -> pa.Table:
    """The pairs that are left of several tables, at most ``limit`` per reason."""
    kept: list[dict[str, Any]] = []
    for table in tables:
        distinct = {_order(row): row for row in [*table.to_pylist(), *kept]}
        rows = sorted(distinct.values(), key=_order)
        by_reason = groupby(rows, key=lambda row: row["drop_reason"])
        kept = [row for _, same in by_reason for row in islice(same, limit)]
    return pa.Table.from_pylist(kept, schema=REJECT)


def _order(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["drop_reason"], row["uid"]


def thumbnail(image: Image.Image) -> bytes:
    """A small JPEG of an RGB picture, for people."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
