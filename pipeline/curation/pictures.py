"""What curation does with one bucket's pictures: crawl into a pool, judge, write shards.

The tasks follow the rules of ``match.py``: files named by the bucket alone, a small manifest.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage
from pipeline.candidates import schema
from pipeline.curation.config import CurateConfig
from pipeline.curation.limits import PAIRS
from pipeline.curation.match import Manifest
from pipeline.errors import DataError
from pipeline.images import dedup
from pipeline.images.decode import open_rgb
from pipeline.images.fetch import Target
from pipeline.images.pool import CRAWL_LOG, PooledPicture, PoolRow, PoolWriter, fill_pool
from pipeline.images.rejects import Rejects
from pipeline.queries import balancing
from pipeline.shards.assemble import PoolSample, write_shards
from pipeline.shards.writer import SAMPLE, publish_table, read_table
from pipeline.steps import result

Pair = dict[str, Any]

POOL_ONLY = (
    pa.field("caption_queries", pa.list_(pa.list_(pa.uint32())), nullable=False),
    pa.field("pixel_sha256", pa.string(), nullable=False),
    pa.field("thumbnail", pa.binary(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("length", pa.int64(), nullable=False),
)
"""Columns of the pool's table that no shard has; ``cluster`` is the one it lacks."""
OWN_COLUMNS = frozenset(SAMPLE.names) | {field.name for field in POOL_ONLY}
"""A column of these names that a source carries is kept as ``source_…``."""

VERDICTS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string()),
    ]
)
"""What the search for duplicates said of each picture of a bucket, in the pool's order."""


@dataclass(frozen=True)
class PicturePlan:
    """All that a bucket's work depends on."""

    config: CurateConfig
    balanced_uri: str
    """Folder of the finished balance stage."""
    files: list[dict[str, Any]]
    """Its files of pairs, one per bucket: ``name``, ``sha256``."""
    uri: str
    """Folder of the stage."""

    @property
    def num_buckets(self) -> int:
        """Parts of the crawl."""
        return len(self.files)

    @property
    def folder(self) -> str:
        """Working files, and the records of steps."""
        return storage.join(self.uri, "work")

    def file(self, name: str) -> str:
        """A working file or folder."""
        return storage.join(self.folder, name)

    def work(self, kind: str, index: int | str) -> str:
        """A working table: ``work/<kind>/<index>.parquet``."""
        name = index if isinstance(index, str) else f"{index:05d}"
        return storage.join(self.folder, kind, f"{name}.parquet")

    def rejects(self) -> Rejects:
        """An empty collection of rejected pairs."""
        return Rejects(self.config.shards.rejects_per_reason)

    def pairs(self, bucket: int) -> pa.Table:
        """The balanced pairs of a bucket.

        Raises:
            DataError: The file is not the one that the balance stage wrote.
        """
        entry = self.files[bucket]
        uri = storage.join(self.balanced_uri, PAIRS, entry["name"])
        content = storage.read_bytes(uri)
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DataError(
                f"{uri} is not the file that its manifest names; delete the folder "
                f"{self.balanced_uri} and run again"
            )
        return pq.read_table(pa.BufferReader(content))


def crawl_bucket(plan: PicturePlan, bucket: int) -> Manifest:
    """Pairs of one bucket → fetch, decode, filter → pool; one fused step."""
    config, rejects = plan.config, plan.rejects()
    table = plan.pairs(bucket)
    by_picture: dict[str, list[Pair]] = {}
    for pair in table.to_pylist():
        by_picture.setdefault(pair[schema.URL_ID], []).append(pair)
    targets = [Target(key, found[0][schema.URL]) for key, found in by_picture.items()]

    def on_reject(key: str, reason: str, image: Image.Image) -> None:
        for pair in by_picture[key]:
            rejects.offer(reason, pair, image)

    # A name of its own: should this task run twice at once, table and pool file still agree.
    pool_uri = storage.join(plan.uri, "pool", f"{bucket:05d}-{uuid.uuid4().hex[:8]}.bin")
    with storage.open_for_publish(pool_uri) as file:
        writer = PoolWriter(file, config.decode, config.filters, on_reject)
        rows = fill_pool(targets, config.crawl, writer)
    kept = _kept_rows(rows, by_picture, rejects)
    pool = pa.Table.from_pylist(kept, schema=_pool_schema(table.schema))
    publish_table(plan.work("pool", bucket), pool)
    log = pa.Table.from_pylist([row.log for row in rows], schema=CRAWL_LOG)
    publish_table(storage.join(plan.uri, "crawl_log", f"{bucket:05d}.parquet"), log)
    publish_table(plan.work("rejects", f"crawl-{bucket:05d}"), rejects.table())
    return {
        "kept": sum(len(row["uids"]) for row in kept),
        "dropped": dict(rejects.dropped),
        "pool_uri": pool_uri,
    }


def judge(plan: PicturePlan) -> Manifest:
    """Metadata of all pools → which pictures lead, and where each bucket's shards begin."""
    columns = ["key", "sha256", "pixel_sha256", "phash", "thumbnail", "uids"]
    columns += ["original_width", "original_height"]
    tables = [read_table(plan.work("pool", bucket), columns) for bucket in range(plan.num_buckets)]
    entries = [[_entry(row) for row in table.to_pylist()] for table in tables]
    verdicts = dedup.group([entry for each in entries for entry in each], plan.config.dedup)
    first_shard, num_shards = [], 0
    for bucket, each in enumerate(entries):
        rows = [{"key": entry.key, **vars(verdicts[entry.key])} for entry in each]
        publish_table(plan.work("verdicts", bucket), pa.Table.from_pylist(rows, schema=VERDICTS))
        num_kept = sum(row["drop_reason"] is None for row in rows)
        first_shard.append(num_shards)
        num_shards += -(-num_kept // plan.config.shards.samples_per_shard)
    return {"dropped": {}, "first_shard": first_shard}


def write_bucket(plan: PicturePlan, bucket: int) -> Manifest:
    """Pool pictures that lead their duplicate group → shards and views."""
    shards, rejects = plan.config.shards, plan.rejects()
    table = read_table(plan.work("pool", bucket))
    verdicts = read_table(plan.work("verdicts", bucket)).to_pylist()
    rows = list(zip(table.to_pylist(), verdicts, strict=True))
    leaders = [(row, verdict) for row, verdict in rows if verdict["drop_reason"] is None]
    with storage.open_for_read(result(plan.folder, "crawl", bucket)["pool_uri"]) as pool:
        for row, verdict in rows:
            if verdict["drop_reason"] is not None:
                _drop_duplicate(row, verdict["drop_reason"], pool, rejects)
        written = write_shards(
            plan.uri,
            [_pool_sample(row, verdict["cluster"]) for row, verdict in leaders],
            pool,
            schema=sample_schema(table.schema),
            first_index=result(plan.folder, "judge", 0)["first_shard"][bucket],
            samples_per_shard=shards.samples_per_shard,
            views_px=shards.views_px,
        )
    publish_table(plan.work("rejects", f"write-{bucket:05d}"), rejects.table())
    kept = [query_ids for row, _ in leaders for query_ids in row["caption_queries"]]
    counts = balancing.count(pa.array(kept, pa.list_(pa.uint32())))
    publish_table(plan.work("after", bucket), counts)
    return {
        "kept": len(kept),
        "num_samples": len(leaders),
        "dropped": dict(rejects.dropped),
        "shards": [each.shard.as_json() for each in written],
        "views": [{side: view.as_json() for side, view in each.views.items()} for each in written],
    }


def sample_schema(pool: pa.Schema) -> pa.Schema:
    """The columns of a shard's table: the fixed ones, then what the source carried along."""
    return pa.schema([*SAMPLE, *(field for field in pool if field.name not in OWN_COLUMNS)])


def _pool_schema(matched: pa.Schema) -> pa.Schema:
    fixed = [field for field in SAMPLE if field.name != "cluster"]
    carried = [field for field in matched if field.name not in schema.MATCHED.names]
    renamed = [field.with_name(_carried_name(field.name)) for field in carried]
    return pa.schema([*fixed, *renamed, *POOL_ONLY])


def _carried_name(name: str) -> str:
    """The name under which a sample keeps a carried column: ``width`` is its own already."""
    return f"source_{name}" if name in OWN_COLUMNS else name


def _kept_rows(
    rows: Sequence[PoolRow], by_picture: dict[str, list[Pair]], rejects: Rejects
) -> list[dict[str, Any]]:
    """Rows of the pool's table; the pairs of every other address are dropped."""
    kept = []
    for row in rows:
        found = by_picture[row.key]
        if row.picture is not None:
            kept.append(_pool_row(found, row.picture))
            continue
        for pair in found:
            rejects.drop(str(row.drop_reason), pair)
    return kept


def _pool_row(found: list[Pair], picture: PooledPicture) -> dict[str, Any]:
    """One picture with all its pairs, in the order of uids."""
    return {
        **{
            _carried_name(name): value
            for name, value in found[0].items()
            if name not in schema.MATCHED.names
        },
        "key": found[0][schema.URL_ID],
        "url": found[0][schema.URL],
        "captions": [pair[schema.CAPTION] for pair in found],
        "uids": [pair[schema.UID] for pair in found],
        "queries": sorted({query for pair in found for query in pair[schema.QUERY_IDS]}),
        "caption_queries": [pair[schema.QUERY_IDS] for pair in found],
        "page_url": _first(found, schema.PAGE_URL),
        "licence": _first(found, schema.LICENCE),
        "phash": picture.signature.phash_hex,
        "pixel_sha256": picture.signature.pixel_sha256,
        "thumbnail": picture.signature.thumbnail,
        **{name: value for name, value in vars(picture).items() if name != "signature"},
    }


def _first(found: list[Pair], column: str) -> str | None:
    return next((pair[column] for pair in found if pair[column] is not None), None)


def _entry(row: dict[str, Any]) -> dedup.Entry:
    return dedup.Entry(
        key=row["key"],
        sha256=row["sha256"],
        pixel_sha256=row["pixel_sha256"],
        phash=int(row["phash"], 16),
        thumbnail=row["thumbnail"],
        side_px=max(row["original_width"], row["original_height"]),
        uid=row["uids"][0],
    )


def _pool_sample(row: dict[str, Any], cluster: str) -> PoolSample:
    hidden = {field.name for field in POOL_ONLY}
    metadata = {name: value for name, value in row.items() if name not in hidden}
    return PoolSample({**metadata, "cluster": cluster}, row["offset"], row["length"])


def _drop_duplicate(row: dict[str, Any], reason: str, pool: IO[bytes], rejects: Rejects) -> None:
    for uid, caption in zip(row["uids"], row["captions"], strict=True):
        image = None
        if rejects.wants(reason, uid):
            pool.seek(row["offset"])
            image = open_rgb(pool.read(row["length"]))
        pair = {"uid": uid, "url_id": row["key"], "url": row["url"], "caption": caption}
        rejects.drop(reason, pair, image)
