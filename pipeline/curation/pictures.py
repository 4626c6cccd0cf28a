"""What curation does with pictures of the pool: judge, write shards. ``crawling`` fills it.

The tasks follow the rules of ``match.py``: files named by the bucket alone, a small manifest.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage
from pipeline.candidates import schema
from pipeline.curation import clusters, memory, passes
from pipeline.curation.config import CurateConfig
from pipeline.curation.limits import PAIRS
from pipeline.curation.match import Manifest
from pipeline.curation.passes import JoinedFiles, Pools
from pipeline.errors import DataError
from pipeline.images import dedup
from pipeline.images.decode import open_rgb
from pipeline.images.rejects import Rejects, thumbnail
from pipeline.queries import balancing
from pipeline.shards.assemble import PoolSample, write_shards
from pipeline.shards.manifest import merge_counts
from pipeline.shards.writer import SAMPLE, carried_name, publish_table, read_table
from pipeline.steps import result

Pair = dict[str, Any]

REJECTED = "rejected"
"""In what a step returns: name of its table of rejected pairs."""

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

    def remembered(self, number: int) -> str:
        """What a portion of the remembered tables says to each bucket."""
        return self.file(f"remembered/{number:05d}.arrow")

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


def judge(plan: PicturePlan) -> Manifest:
    """Metadata of all pools → which pictures lead, and where each bucket's shards begin."""
    tables = [pool_table(plan, bucket, [*dedup.COLUMNS]) for bucket in range(plan.num_buckets)]
    entries = [[dedup.entry(row) for row in table.to_pylist()] for table in tables]
    verdicts = dedup.group([entry for each in entries for entry in each], plan.config.dedup)
    first_shard, num_shards = [], 0
    for bucket, each in enumerate(entries):
        rows = [{"key": entry.key, **vars(verdicts[entry.key])} for entry in each]
        publish_table(plan.work("verdicts", bucket), pa.Table.from_pylist(rows, schema=VERDICTS))
        num_kept = sum(row["drop_reason"] is None for row in rows)
        first_shard.append(num_shards)
        num_shards += -(-num_kept // plan.config.shards.samples_per_shard)
    publish_table(
        plan.work("clusters", clusters.LARGEST),
        clusters.largest([entry for each in entries for entry in each], verdicts),
    )
    return {"dropped": {}, "first_shard": first_shard, "clusters": clusters.sizes(verdicts)}


def write_bucket(plan: PicturePlan, bucket: int) -> Manifest:
    """Pool pictures that lead their duplicate group → shards and views."""
    shards, rejects = plan.config.shards, plan.rejects()
    pools = Pools(plan.folder, bucket)
    table = pool_table(plan, bucket)
    verdicts = read_table(plan.work("verdicts", bucket)).to_pylist()
    rows = list(zip(table.to_pylist(), verdicts, strict=True))
    leaders = [(row, verdict) for row, verdict in rows if verdict["drop_reason"] is None]
    with pools.opened() as pool:
        for row, verdict in rows:
            if verdict["drop_reason"] is not None:
                drop_picture(row, verdict["drop_reason"], partial(pool_image, row, pool), rejects)
        _publish_clusters(plan, bucket, table, pool)
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
    log = storage.join(plan.uri, memory.CRAWL_LOG_FOLDER, f"{bucket:05d}.parquet")
    publish_table(log, passes.merged_log(pools.logs()))
    kept = [query_ids for row, _ in leaders for query_ids in row["caption_queries"]]
    counts = balancing.count(pa.array(kept, pa.list_(pa.uint32())))
    publish_table(plan.work("after", bucket), counts)
    return {
        "kept": len(kept),
        "num_samples": len(leaders),
        REJECTED: f"write-{bucket:05d}",
        "dropped": dict(rejects.dropped),
        "shards": [each.shard.as_json() for each in written],
        "views": [{side: view.as_json() for side, view in each.views.items()} for each in written],
        "licences": merge_counts(each.licences for each in written),
    }


def sample_schema(pool: pa.Schema) -> pa.Schema:
    """The columns of a shard's table: the fixed ones, then what the source carried along."""
    return pa.schema([*SAMPLE, *(field for field in pool if field.name not in OWN_COLUMNS)])


def pool_schema(matched: pa.Schema) -> pa.Schema:
    """The columns of a pool's table, from those of the balanced pairs."""
    fixed = [field for field in SAMPLE if field.name != "cluster"]
    carried = [field for field in matched if field.name not in schema.MATCHED.names]
    renamed = [field.with_name(carried_name(field.name, OWN_COLUMNS)) for field in carried]
    return pa.schema([*fixed, *renamed, *POOL_ONLY])


def _pool_sample(row: dict[str, Any], cluster: str) -> PoolSample:
    hidden = {field.name for field in POOL_ONLY}
    metadata = {name: value for name, value in row.items() if name not in hidden}
    return PoolSample({**metadata, "cluster": cluster}, row["offset"], row["length"])


def pool_table(plan: PicturePlan, bucket: int, columns: list[str] | None = None) -> pa.Table:
    """The table of a bucket's pools, with what enrichers added."""
    if plan.config.enrichers:
        return read_table(plan.work("enriched", bucket), columns)
    return Pools(plan.folder, bucket).table(columns)


def _publish_clusters(plan: PicturePlan, bucket: int, table: pa.Table, pool: JoinedFiles) -> None:
    """This bucket's part of the largest duplicate groups, with pictures to look at."""
    largest = read_table(plan.work("clusters", clusters.LARGEST))
    rows = {row["key"]: row for row in table.select(["key", "offset", "length"]).to_pylist()}
    mine = [row for row in largest.to_pylist() if row["key"] in rows]
    shown = [{**row, "thumbnail": thumbnail(pool_image(rows[row["key"]], pool))} for row in mine]
    publish_table(plan.work("clusters", bucket), pa.Table.from_pylist(shown, clusters.SHOWN))


def pool_image(row: dict[str, Any], pool: JoinedFiles) -> Image.Image:
    """Decode a picture of the pool; ``row`` says where it lies."""
    pool.seek(row["offset"])
    return open_rgb(pool.read(row["length"]))


def drop_picture(
    row: dict[str, Any], reason: str, image: Callable[[], Image.Image], rejects: Rejects
) -> None:
    """Drop all pairs of a picture of the pool; ``image`` is called where it is kept to look at."""
    for uid, caption in zip(row["uids"], row["captions"], strict=True):
        shown = image() if rejects.wants(reason, uid) else None
        pair = {"uid": uid, "url_id": row["key"], "url": row["url"], "caption": caption}
        rejects.drop(reason, pair, shown)
