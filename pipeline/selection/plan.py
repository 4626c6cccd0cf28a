"""What every task of scoring is told."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float16

from pipeline import storage
from pipeline.results import Result
from pipeline.selection.config import ScoreConfig
from pipeline.shards import manifest

SCORES = "scores"
"""Folder of the score tables."""


@dataclass(frozen=True)
class ScorePlan:
    """All that a task's work depends on."""

    config: ScoreConfig
    curated: Result
    embedded: Result
    clip: Result | None
    """None where no evaluation set needs it."""
    uri: str
    """Folder of the stage."""

    @property
    def folder(self) -> str:
        """Working files, and the records of steps."""
        return storage.join(self.uri, "work")

    def work(self, kind: str, index: int, ending: str = "parquet") -> str:
        """A working table: ``work/<kind>/<index>.parquet``."""
        return storage.join(self.folder, kind, f"{index:05d}.{ending}")

    def scores_name(self, shard: int) -> str:
        """The score table of a shard, within the stage's folder."""
        tar = self.curated.content[manifest.SHARDS][shard]["name"]
        return f"{SCORES}/{manifest.parquet_name(tar)}"

    def scores_uri(self, shard: int) -> str:
        """Where the score table of a shard lies."""
        return storage.join(self.uri, self.scores_name(shard))

    @property
    def counts(self) -> list[int]:
        """Samples per shard."""
        return [int(entry["num_samples"]) for entry in self.curated.content[manifest.SHARDS]]

    @property
    def dim(self) -> int:
        """Dimensions of the embeddings."""
        return int(self.embedded.content["dim"])

    @property
    def reads_vectors(self) -> bool:
        """Whether a score needs the embeddings, and not only what `embed` said of them."""
        config = self.config
        return bool(config.heads or config.evaluation_sets or config.semantic)

    @property
    def counted_columns(self) -> tuple[str, ...]:
        """Columns that have a histogram."""
        overlap = ("overlap_cosine", "overlap_bits") if self.config.evaluation_sets else ()
        return ("side_px", "similarity", *self.config.numeric_columns(), *overlap)

    def write_vectors(self, shard: int, z_img: Float16[np.ndarray, " row dim"]) -> None:
        """Keep the embeddings of a shard as they lie in memory: reading Parquet again is slow."""
        storage.write_bytes(self.work("vectors", shard, "f16"), z_img.tobytes())

    def read_vectors(self, shard: int) -> Float16[np.ndarray, " row dim"]:
        """What ``write_vectors`` kept."""
        content = storage.read_bytes(self.work("vectors", shard, "f16"))
        return np.frombuffer(content, np.float16).reshape(-1, self.dim)

    def vectors(self, embedded: pa.Table) -> Float16[np.ndarray, " row dim"]:
        """The raw image embeddings of a table with ``z_img``."""
        flat = embedded["z_img"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.ascontiguousarray(flat, np.float16).reshape(-1, self.dim)
