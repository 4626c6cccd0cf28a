"""The score table beside each shard: its schema and its reader.

One Parquet per shard, rows in the shard's order: ``key``, ``cluster``, ``url``, ``side_px`` (the
shorter side of the stored picture), ``similarity`` (cosine of picture and best caption),
``queries``; one float32 column per head and per carried column; then the nearest picture of the
evaluation sets:
``overlap_set`` and ``overlap_cosine`` of the one with the closest embedding, ``overlap_bits``, the
lowest distance of perceptual hashes over all of them (null where there are no sets). Semantic
duplicates lie in one table of pairs of *global rows*: rows are numbered through the shards in the
manifest's order. Of a pair, ``a`` is the lower number; which survives is decided when selecting.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from pipeline import storage
from pipeline.errors import DataError
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.disk_cache import read_verified
from pipeline.shards.writer import read_table

PAIRS = "semantic_pairs.parquet"
PAIR = pa.schema([("a", pa.uint64()), ("b", pa.uint64()), ("cosine", pa.float32())])
"""Two global rows, ``a < b``, and the cosine of their embeddings; sorted by ``a`` and ``b``."""


def schema(columns: Sequence[str]) -> pa.Schema:
    """Columns of a score table.

    Args:
        columns: Names of heads and carried columns.
    """
    return pa.schema(
        [
            ("key", pa.string()),
            ("cluster", pa.string()),
            ("url", pa.string()),
            ("side_px", pa.int32()),
            ("similarity", pa.float32()),
            ("queries", pa.list_(pa.uint32())),
            *((name, pa.float32()) for name in columns),
            ("overlap_set", pa.string()),
            ("overlap_cosine", pa.float32()),
            ("overlap_bits", pa.int16()),
        ]
    )


class ScoredDataset:
    """What `score` published, joined with the data set it belongs to."""

    def __init__(self, result: Result, curated: CuratedDataset) -> None:
        """Check that the scores are of these shards.

        Raises:
            DataError: They are of another data set.
        """
        self.uri = result.uri
        self.entries: list[Mapping[str, Any]] = result.content["scores"]
        """``name, sha256, num_samples, shard, shard_sha256`` of each table."""
        self.columns = tuple(result.content["columns"])
        """Names of heads and carried columns."""
        self.histograms: Mapping[str, Mapping[str, Any]] = result.content["histograms"]
        """Of every numeric column, as ``selection.histograms`` writes them."""
        self.semantic: Mapping[str, Any] | None = result.content["semantic"]
        """Facts about the pairs; None where none were looked for."""
        self._verified: set[int] = set()
        expected = [(entry["name"], entry["sha256"]) for entry in curated.shards]
        found = [(entry["shard"], entry["shard_sha256"]) for entry in self.entries]
        if expected != found:
            raise DataError(
                f"{result.uri} scores other shards than {curated.uri} holds; run score again on "
                "this data set"
            )

    @property
    def counts(self) -> list[int]:
        """Samples per shard."""
        return [int(entry["num_samples"]) for entry in self.entries]

    def first_rows(self) -> Int64[np.ndarray, " bound"]:
        """Global row of each shard's first sample and, last, the number of samples."""
        return np.cumsum([0, *self.counts], dtype=np.int64)

    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one shard's table, in the shard's order.

        Raises:
            DataError: The file is not the one the manifest names.
        """
        entry = self.entries[shard]
        uri = storage.join(self.uri, entry["name"])
        names = None if columns is None else [*columns]
        if shard in self._verified:  # then only the columns are read
            return read_table(uri, names)
        content = read_verified(uri, entry["sha256"])
        self._verified.add(shard)
        return pq.read_table(io.BytesIO(content), columns=names, use_threads=False)

    def pairs(
        self, min_cosine: float
    ) -> Iterator[
        tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"], Float32[np.ndarray, " pair"]]
    ]:
        """Pairs of global rows and their cosines, from a cosine on; a part in memory at a time.

        Raises:
            DataError: The file is not the one the manifest names.
        """
        assert self.semantic is not None
        uri = storage.join(self.uri, self.semantic["name"])
        found = storage.sha256_of(uri)
        if found != self.semantic["sha256"]:
            raise DataError(
                f"{uri}: sha256 {found[:12]}… is not the manifest's "
                f"{self.semantic['sha256'][:12]}…; delete its stage's folder and run again"
            )
        with storage.open_for_read(uri) as file:
            for batch in pq.ParquetFile(file).iter_batches(1 << 20):
                cosine = batch["cosine"].to_numpy()
                close = cosine >= np.float32(min_cosine)
                a, b = (batch[name].to_numpy().astype(np.int64)[close] for name in "ab")
                yield a, b, cosine[close]
