"""Keep-lists: which samples of which shards a training reads, and in which split.

One Parquet per profile with one row group per shard, in the order of the dataset's shards and of
the rows within them. The counts per shard lie in the stage's manifest, so that the order of
samples needs manifests alone; the rows of a shard are read when its lane comes to it.

A sample's ``weight`` multiplies its loss; it moves no position, so that weighting costs the order
nothing. Where every weight is 1 the manifest says nothing of weights.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64, UInt8

from pipeline import draws, storage
from pipeline.errors import DataError
from pipeline.results import Result
from pipeline.shards import removals
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.removals import NONE, REMOVED, Removals
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
        ("weight", pa.float32()),
    ]
)
"""``weight``: how much a kept sample shall count, 1.0 unless a profile reweights; its mean over the
kept samples of a list is 1."""
MEAN_WEIGHT = "mean_weight"
"""In a list's entry, where some weight is not 1: mean weight of the kept samples of each split."""


def split_of(cluster: str, config: SplitConfig) -> str:
    """The split of a duplicate cluster: near-duplicates never end on two sides.

    Args:
        cluster: ``url_id`` of the cluster's leader.
        config: Seed and shares.
    """
    return SPLITS[int(splits_of([cluster], config)[0])]


def splits_of(clusters: Sequence[str], config: SplitConfig) -> UInt8[np.ndarray, " cluster"]:
    """``split_of`` of each cluster, as an index into ``SPLITS``."""
    draw = split_draws(clusters, config)
    found = np.full(len(draw), SPLITS.index("train"), np.uint8)
    found[draw < config.test_share + config.validation_share] = SPLITS.index("validation")
    found[draw < config.test_share] = SPLITS.index("test")
    return found


def split_draws(clusters: Sequence[str], config: SplitConfig) -> Float64[np.ndarray, " cluster"]:
    """The number in [0, 1) that decides on each cluster's split; the highest are for training."""
    hashes = draws.hash64_each(clusters, config.seed, "split")
    return (hashes >> np.uint64(11)).astype(np.float64) / float(1 << 53)


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

    def keys(self, shard: int, split: str, offsets: Sequence[int] | None = None) -> list[str]:
        """Keys of one shard's kept samples of one split, in row order.

        Args:
            shard: Number of the shard.
            split: ``train``, ``validation`` or ``test``.
            offsets: The only samples that are wanted, in this order; all by default.

        Raises:
            DataError: The file does not hold what the manifest counts.
        """
        keys = self.rows(shard, split, ["key"])["key"]
        return (keys if offsets is None else keys.take(pa.array(offsets))).to_pylist()

    @property
    def has_weights(self) -> bool:
        """Whether some sample weighs more or less than another."""
        return MEAN_WEIGHT in self.entry

    def weights(self, rows: pa.Table, split: str) -> Float64[np.ndarray, " sample"]:
        """Weights of rows of one split, scaled so that their mean over the whole split is 1.

        Args:
            rows: Of ``rows``.
            split: The split they belong to.

        Raises:
            DataError: Every sample of the split has the weight 0.
        """
        if not self.has_weights:
            return np.ones(rows.num_rows)
        mean = float(self.entry[MEAN_WEIGHT][split])
        if mean <= 0:
            raise DataError(
                f"{self.uri}: the weights of its {split} samples are all 0, so that nothing could "
                "be learned from them; correct them and run select again"
            )
        return rows["weight"].to_numpy().astype(np.float64) / mean

    def rows(self, shard: int, split: str, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
        """Rows of one shard's kept samples of one split, as of `SCHEMA`.

        Args:
            shard: Number of the shard.
            split: ``train``, ``validation`` or ``test``.
            columns: Names to read; all by default.

        Raises:
            DataError: The file does not hold what the manifest counts.
        """
        expected = self.entry["shards"][shard]
        counted = int(expected[f"num_kept_{split}"])
        if counted == 0:
            return SCHEMA.empty_table().select([*columns])
        rows = self.table(shard, {*columns, "shard", "kept", "split"})
        found = [rows[name].unique().to_pylist() for name in ("kept", "split")]
        all_chosen = found == [[True], [split]]
        chosen = pc.field("kept") & (pc.field("split") == split)
        kept = rows if all_chosen else rows.filter(chosen)
        names = set(rows["shard"].unique().to_pylist())
        if kept.num_rows != counted or names != {expected["name"]}:
            raise DataError(
                f"{self.uri}: row group {shard} holds {kept.num_rows} {split} samples of {names}, "
                f"its manifest counts {counted} of {expected['name']}; run select again"
            )
        return kept.select([*columns])

    def table(self, shard: int, columns: Collection[str] = SCHEMA.names) -> pa.Table:
        """All rows of one shard, dropped ones too, in row order."""
        if not self.entry["shards"][shard]["num_samples"]:
            return SCHEMA.empty_table().select([*columns])
        with storage.open_for_read(self.uri) as file:
            opened = pq.ParquetFile(file, metadata=_footer(self.uri, self.entry["sha256"]))
            group = int(self._row_groups[shard])
            return opened.read_row_group(group, [*columns], use_threads=False)

    @cached_property
    def _row_groups(self) -> Int64[np.ndarray, " shard"]:
        """Number of each shard's row group; Parquet keeps none without rows."""
        filled = [shard["num_samples"] > 0 for shard in self.entry["shards"]]
        return np.cumsum(filled, dtype=np.int64) - 1

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


@lru_cache(maxsize=8)
def _footer(uri: str, sha256: str) -> pq.FileMetaData:
    """Where the columns of each row group lie; parsed once, for it grows with the shards.

    Args:
        uri: The list.
        sha256: Of its content; another list may come to lie there.
    """
    with storage.open_for_read(uri) as file:
        return pq.read_metadata(file)


def write_keep_list(uri: str, names: Sequence[str], tables: Iterable[pa.Table]) -> dict[str, Any]:
    """Publish a keep-list and return its manifest entry.

    Args:
        uri: Destination file.
        names: Shard name per table.
        tables: Rows of each shard, of `SCHEMA`.
    """
    shards, weights = [], _Weights()
    with storage.open_for_publish(uri) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        for name, table in zip(names, tables, strict=True):
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            shards.append({"name": name, "num_samples": table.num_rows, **_counts(table)})
            weights.add(name, table)
    return {
        "sha256": storage.sha256_of(uri),
        "num_bytes": storage.size_of(uri),
        "shards": shards,
        **weights.entry(),
    }


class _Weights:
    """What the manifest says of the weights: nothing where all are 1."""

    def __init__(self) -> None:
        self._sums, self._counts = dict.fromkeys(SPLITS, 0.0), dict.fromkeys(SPLITS, 0)
        self._all_one = True

    def add(self, name: str, table: pa.Table) -> None:
        """Count a shard's rows.

        Raises:
            DataError: A weight is negative, infinite or missing.
        """
        weights = table["weight"].to_numpy()
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise DataError(f"{name}: a weight is negative or no number; weights are 0 or more")
        self._all_one &= bool((weights == 1).all())
        kept, splits = table["kept"].to_numpy(), table["split"].to_numpy(zero_copy_only=False)
        for split in SPLITS:
            chosen = weights[kept & (splits == split)]
            self._sums[split] += float(chosen.sum(dtype=np.float64))
            self._counts[split] += len(chosen)

    def entry(self) -> dict[str, Any]:
        if self._all_one:
            return {}
        means = {split: self._sums[split] / max(1, self._counts[split]) for split in SPLITS}
        return {MEAN_WEIGHT: means}


def _counts(table: pa.Table) -> dict[str, int]:
    kept = table["split"].filter(table["kept"]).value_counts().to_pylist()
    counts = {each["values"]: each["counts"] for each in kept}
    return {f"num_kept_{split}": counts.get(split, 0) for split in SPLITS}


def keep_list(selected: Result, profile: str) -> KeepList:
    """A published keep-list by its profile's name."""
    entry = selected.content["profiles"][profile]
    return KeepList(storage.join(selected.uri, entry["name"]), entry)


def keep_everything(
    curated: CuratedDataset, config: SplitConfig, uri: str, removed: Removals = NONE
) -> KeepList:
    """A keep-list of all samples with their splits, before there are embeddings to select by.

    CLIP trains on it; `split_of` gives each cluster the same split as in every later keep-list.

    Args:
        curated: The dataset.
        config: Seed and shares of the splits.
        uri: Destination file.
        removed: What must not be held all the same.
    """
    names = [entry["name"] for entry in curated.shards]
    columns_read = [*removals.COLUMNS, "cluster"] if removed else ["key", "cluster"]

    def rows(shard: int) -> pa.Table:
        table = curated.rows(shard, columns_read)
        count = table.num_rows
        gone = removed.mask(table) if removed else np.zeros(count, bool)
        columns = {
            "shard": pa.array([names[shard]] * count, pa.string()),
            "key": table["key"],
            "kept": pa.array(~gone),
            "split": pa.array(SPLITS).take(
                pa.array(splits_of(table["cluster"].to_pylist(), config))
            ),
            "drop_reason": pa.array([REMOVED if each else None for each in gone], pa.string()),
            "similarity": pa.nulls(count, pa.float32()),
            "weight": pa.array(np.ones(count, np.float32)),
        }
        return pa.table(columns, schema=SCHEMA)

    entry = write_keep_list(uri, names, (rows(shard) for shard in range(len(names))))
    return KeepList(uri, entry)
