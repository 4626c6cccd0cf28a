"""Keep-lists: which samples of which shards a training reads, and in which split.

One Parquet per profile with one row group per shard, in the order of the dataset's shards and of
the rows within them. The counts per shard lie in the stage's manifest, so that the order of
samples needs manifests alone; the rows of a shard are read when its lane comes to it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import draws, storage
from pipeline.errors import DataError
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.select_config import SplitConfig

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),
        ("kept", pa.bool_()),
        ("split", pa.string()),
        ("drop_reason", pa.string()),
        ("similarity", pa.float32()),
    ]
)


def split_of(cluster: str, config: SplitConfig) -> str:
    """The split of a duplicate cluster: near-duplicates never end on two sides.

    Args:
        cluster: ``url_id`` of the cluster's leader.
        config: Seed and shares.
    """
    draw = draws.uniform(config.seed, "split", cluster)
    if draw < config.test_share:
        return "test"
    if draw < config.test_share + config.validation_share:
        return "validation"
    return "train"


@dataclass(frozen=True)
class KeepList:
    """A published keep-list."""

    uri: str
    """The Parquet file."""
    entry: Mapping[str, Any]
    """Its entry in the manifest: ``sha256, num_bytes, shards``."""

    def counts(self, split: str) -> list[int]:
        """Kept samples per shard of one split, in the shards' order."""
        return [int(shard[f"num_kept_{split}"]) for shard in self.entry["shards"]]

    def keys(self, shard: int, split: str) -> list[str]:
        """Keys of one shard's kept samples of one split, in row order.

        Raises:
            DataError: The file does not hold what the manifest counts.
        """
        expected = self.entry["shards"][shard]
        counted = int(expected[f"num_kept_{split}"])
        if counted == 0:
            return []
        with storage.open_for_read(self.uri) as file:
            rows = pq.ParquetFile(file).read_row_group(self._row_group(shard))
        kept = rows.filter(pc.field("kept") & (pc.field("split") == split))
        names = set(rows["shard"].to_pylist())
        if kept.num_rows != counted or names - {expected["name"]}:
            raise DataError(
                f"{self.uri}: row group {shard} holds {kept.num_rows} {split} samples of {names}, "
                f"its manifest counts {counted} of {expected['name']}; run select again"
            )
        return kept["key"].to_pylist()

    def _row_group(self, shard: int) -> int:
        # Parquet keeps no row group without rows.
        return sum(1 for before in self.entry["shards"][:shard] if before["num_samples"])

    def verify(self) -> None:
        """Compare the file with its hash.

        Raises:
            DataError: It is not the file the manifest names.
        """
        digest = storage.sha256_of(self.uri)
        if digest != self.entry["sha256"]:
            raise DataError(
                f"{self.uri}: sha256 {digest[:12]}… is not the manifest's "
                f"{self.entry['sha256'][:12]}…; run select again"
            )


def write_keep_list(uri: str, names: Sequence[str], tables: Iterable[pa.Table]) -> dict[str, Any]:
    """Publish a keep-list and return its manifest entry.

    Args:
        uri: Destination file.
        names: Shard name per table.
        tables: Rows of each shard, of `SCHEMA`.
    """
    shards = []
    with storage.open_for_publish(uri) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        for name, table in zip(names, tables, strict=True):
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            shards.append({"name": name, "num_samples": table.num_rows, **_counts(table)})
    content = storage.read_bytes(uri)
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_bytes": len(content),
        "shards": shards,
    }


def _counts(table: pa.Table) -> dict[str, int]:
    kept = table.filter(table["kept"])["split"].to_pylist()
    return {f"num_kept_{split}": kept.count(split) for split in SPLITS}


def keep_everything(curated: CuratedDataset, config: SplitConfig, uri: str) -> KeepList:
    """A keep-list of all samples with their splits, before there are embeddings to select by.

    CLIP trains on it; `split_of` gives each cluster the same split as in every later keep-list.
    """
    names = [entry["name"] for entry in curated.shards]

    def rows(shard: int) -> pa.Table:
        table = curated.rows(shard, ["key", "cluster"])
        count = table.num_rows
        columns = {
            "shard": pa.array([names[shard]] * count, pa.string()),
            "key": table["key"],
            "kept": pa.array([True] * count, pa.bool_()),
            "split": [split_of(cluster, config) for cluster in table["cluster"].to_pylist()],
            "drop_reason": pa.nulls(count, pa.string()),
            "similarity": pa.nulls(count, pa.float32()),
        }
        return pa.table(columns, schema=SCHEMA)

    entry = write_keep_list(uri, names, (rows(shard) for shard in range(len(names))))
    return KeepList(uri, entry)
