"""The embedding file beside each shard: its schema, its writer and its reader.

One Parquet per shard, rows in the shard's order. ``z_img`` and ``z_txt`` are raw, un-normalised
and float16; lists are in caption order. The file's metadata names the CLIP and the shard it
was computed from, and a mismatch is refused. Dimension names: ``sample``, ``caption``, ``dim``.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float16, Float32, Int64, UInt16
from safetensors.numpy import load

from pipeline import storage
from pipeline.errors import DataError
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.disk_cache import read_verified
from pipeline.shards.writer import read_table

CLIP_FINGERPRINT = b"clip_sha256"
SHARD_FINGERPRINT = b"shard_sha256"
STATISTICS = "statistics.json"
PCA = "pca.safetensors"


def schema(dim: int, clip_sha256: str, shard_sha256: str) -> pa.Schema:
    """Columns of an embedding file and the names of what it was made from.

    Args:
        dim: Dimensions of the joint embedding.
        clip_sha256: Hash of CLIP's weights file.
        shard_sha256: Hash of the shard's tar.
    """
    vector = pa.list_(pa.float16(), dim)
    return pa.schema(
        [
            ("key", pa.string()),
            ("z_img", vector),
            ("uids", pa.list_(pa.string())),
            ("z_txt", pa.list_(vector)),
            ("text_tokens", pa.list_(pa.list_(pa.uint16()))),
            # Cosine of z_img and z_txt per caption, so that thresholds read no vectors.
            ("similarity", pa.list_(pa.float32())),
        ],
        metadata={
            CLIP_FINGERPRINT: clip_sha256.encode(),
            SHARD_FINGERPRINT: shard_sha256.encode(),
        },
    )


@dataclass(frozen=True)
class ShardEmbeddings:
    """Everything computed for one shard."""

    keys: list[str]
    uids: list[list[str]]
    text_tokens: list[list[list[int]]]
    z_img: Float16[np.ndarray, " sample dim"]
    z_txt: Float16[np.ndarray, " caption dim"]
    """All captions of all samples, one after another."""

    def table(self, clip_sha256: str, shard_sha256: str) -> pa.Table:
        """The rows of the shard's file."""
        dim = self.z_img.shape[1]
        bounds = np.cumsum([0, *map(len, self.uids)])
        offsets = pa.array(bounds, pa.int32())
        owner = np.repeat(np.arange(len(self.keys)), np.diff(bounds))
        similarity = cosine(self.z_img[owner], self.z_txt)
        columns = [
            pa.array(self.keys, pa.string()),
            _vectors(self.z_img, dim),
            pa.array(self.uids, pa.list_(pa.string())),
            pa.ListArray.from_arrays(offsets, _vectors(self.z_txt, dim)),
            pa.array(self.text_tokens, pa.list_(pa.list_(pa.uint16()))),
            pa.ListArray.from_arrays(offsets, pa.array(similarity, pa.float32())),
        ]
        return pa.Table.from_arrays(columns, schema=schema(dim, clip_sha256, shard_sha256))


def _vectors(rows: Float16[np.ndarray, " row dim"], dim: int) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), pa.float16()), dim)


def cosine(
    first: Float16[np.ndarray, " row dim"], second: Float16[np.ndarray, " row dim"]
) -> Float32[np.ndarray, " row"]:
    """Cosine of two sets of vectors, row by row, in float32."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(norms, np.float32(1e-12))


def unit(rows: Float16[np.ndarray, " row dim"]) -> Float32[np.ndarray, " row dim"]:
    """Vectors of length one, in float32."""
    values = rows.astype(np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", values, values))
    values /= np.maximum(norms, np.float32(1e-12))[:, None]
    return values


@dataclass(frozen=True)
class EmbeddedShard:
    """Chosen rows of one shard's embeddings, ready to be handed out."""

    z_img: Float16[np.ndarray, " sample dim"]
    z_txt: Float16[np.ndarray, " caption dim"]
    bounds: Int64[np.ndarray, " bound"]
    """Captions of chosen row i are ``bounds[i]`` to ``bounds[i + 1]``."""
    tokens: UInt16[np.ndarray, " token"]
    token_bounds: Int64[np.ndarray, " caption_bound"]
    """Ids of caption c are ``token_bounds[c]`` to ``token_bounds[c + 1]``."""

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return self.z_img.nbytes + self.z_txt.nbytes + self.tokens.nbytes

    def of(
        self, row: int
    ) -> tuple[
        tuple[Int64[np.ndarray, " _"], ...],
        Float32[np.ndarray, " dim"],
        tuple[Float32[np.ndarray, " dim"], ...],
    ]:
        """Token ids per caption, z_img and z_txt per caption of one chosen row."""
        captions = range(int(self.bounds[row]), int(self.bounds[row + 1]))
        tokens = tuple(
            self.tokens[self.token_bounds[c] : self.token_bounds[c + 1]].astype(np.int64)
            for c in captions
        )
        z_txt = tuple(self.z_txt[c].astype(np.float32) for c in captions)
        return tokens, self.z_img[row].astype(np.float32), z_txt


class EmbeddedDataset:
    """What `embed` published, joined with the dataset it belongs to."""

    def __init__(self, result: Result, curated: CuratedDataset) -> None:
        """Check that the embeddings were made from these shards.

        Raises:
            DataError: They belong to another dataset.
        """
        self.result, self._cache = result, curated.cache
        self.dim = int(result.content["dim"])
        self._entries: list[Mapping[str, Any]] = result.content["shards"]
        self._clip_sha256 = str(result.content["clip_sha256"])
        expected = [(entry["name"], entry["sha256"]) for entry in curated.shards]
        found = [(entry["shard"], entry["shard_sha256"]) for entry in self._entries]
        if expected != found:
            raise DataError(
                f"{result.uri} embeds other shards than {curated.uri} holds; "
                "run embed again on this dataset"
            )

    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one shard's file, in the shard's order.

        Raises:
            DataError: The file is damaged, or names another CLIP or shard than the manifest.
        """
        entry = self._entries[shard]
        uri = storage.join(self.result.uri, entry["name"])
        content = read_verified(uri, entry["sha256"], self._cache)
        table = pq.read_table(io.BytesIO(content), columns=None if columns is None else [*columns])
        metadata = table.schema.metadata or {}
        expected = {CLIP_FINGERPRINT: self._clip_sha256, SHARD_FINGERPRINT: entry["shard_sha256"]}
        for name, value in expected.items():
            if metadata.get(name) != value.encode():
                raise DataError(
                    f"{uri}: {name.decode()} is {metadata.get(name)}, expected {value}; embed again"
                )
        return table

    def z_img(self, shard: int) -> Float16[np.ndarray, " sample dim"]:
        """Raw image embeddings of one shard, in its order.

        Raises:
            DataError: The file is damaged, or names another CLIP or shard than the manifest.
        """
        return self.images(shard)[1]

    def images(self, shard: int) -> tuple[list[str], Float16[np.ndarray, " sample dim"]]:
        """Keys and raw z_img of one shard, in its order."""
        table = self.table(shard, ["key", "z_img"])
        return table["key"].to_pylist(), self._vectors(table["z_img"].combine_chunks())

    def shard(self, shard: int, keys: Sequence[str]) -> EmbeddedShard:
        """The embeddings of some samples of a shard, in the order of ``keys``.

        Raises:
            DataError: A key has no row.
        """
        table = self.table(shard, ["key", "z_img", "z_txt", "text_tokens"])
        row_of = {key: row for row, key in enumerate(table["key"].to_pylist())}
        missing = [key for key in keys if key not in row_of]
        if missing:
            name = self._entries[shard]["name"]
            raise DataError(f"{name} has no embedding of {len(missing)} keys, first {missing[0]}")
        chosen = table.take([row_of[key] for key in keys]).combine_chunks()
        z_txt = chosen["z_txt"].combine_chunks()
        tokens = chosen["text_tokens"].combine_chunks().flatten()
        return EmbeddedShard(
            z_img=self._vectors(chosen["z_img"].combine_chunks()),
            z_txt=self._vectors(z_txt.flatten()),
            bounds=_bounds(z_txt),
            tokens=tokens.flatten().to_numpy(zero_copy_only=False).astype(np.uint16),
            token_bounds=_bounds(tokens),
        )

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of raw z_img per dimension, over all rows."""
        uri = storage.join(self.result.uri, STATISTICS)
        statistics = json.loads(read_verified(uri, self.result.content["statistics_sha256"]))
        return tuple(statistics["mean"]), tuple(statistics["std"])

    def pca(self) -> dict[str, Float32[np.ndarray, " ..."]]:
        """Principal components of raw z_img: ``mean``, ``components`` (rows), ``variance``."""
        uri = storage.join(self.result.uri, PCA)
        return load(read_verified(uri, self.result.content["pca_sha256"]))

    def _vectors(self, array: pa.Array) -> Float16[np.ndarray, " row dim"]:
        return _rows(array, self.dim)


def read_z_img(uri: str, dim: int) -> Float16[np.ndarray, " sample dim"]:
    """The image embeddings of one file that was just written, in its order."""
    return _rows(read_table(uri, ["z_img"])["z_img"].combine_chunks(), dim)


def _rows(array: pa.Array, dim: int) -> Float16[np.ndarray, " row dim"]:
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat, np.float16).reshape(-1, dim)


def _bounds(lists: pa.Array) -> Int64[np.ndarray, " bound"]:
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]
