"""Write shards in img2dataset's layout, byte for byte the same from the same samples.

``NNNNN.tar`` holds ``{key}.jpg`` (small views: ``.png``), ``{key}.txt`` (the first caption) and
``{key}.json`` per sample, in the order of keys; beside it lie ``NNNNN.parquet`` with the same
metadata and ``NNNNN_stats.json``. Headers are plain USTAR with fixed times, owners and modes.
"""

import hashlib
import io
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.identity import canonical_json
from pipeline.results import SCHEMA_VERSION
from pipeline.shards.manifest import ShardEntry, licences, stats_name

SAMPLE = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("uids", pa.list_(pa.string()), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("original_width", pa.int32(), nullable=False),
        pa.field("original_height", pa.int32(), nullable=False),
        pa.field("phash", pa.string(), nullable=False),
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("queries", pa.list_(pa.uint32()), nullable=False),
        pa.field("page_url", pa.string()),
        pa.field("licence", pa.string()),
    ]
)
"""Metadata of a sample: rows of ``NNNNN.parquet`` and content of ``{key}.json``. ``key`` is the
url_id; captions and uids run in the order of uids; ``sha256`` is of the bytes as received; sizes in
pixels, ``original_`` as received and upright; ``cluster`` is the key of the duplicate group's
leader; ``queries`` are the ids of the queries that its captions contain, ascending."""

REJECTS_INDEX = "index.parquet"
RECORD = 10_240
"""A tar's length is a multiple of this."""


@dataclass(frozen=True)
class Texts:
    """The members of a sample beside its picture."""

    key: str
    caption: bytes
    """Content of ``{key}.txt``."""
    metadata: bytes
    """Content of ``{key}.json``."""


def texts(metadata: Mapping[str, Any]) -> Texts:
    """Key, first caption and JSON of a sample; ``metadata`` has every column of ``SAMPLE``."""
    caption = str(metadata["captions"][0])
    return Texts(str(metadata["key"]), caption.encode(), canonical_json(_as_json(metadata)))


def carried_name(name: str, taken: Collection[str]) -> str:
    """The name under which a sample keeps a foreign column: ``width`` is its own already."""
    return f"source_{name}" if name in taken else name


class _HashingFile:
    """Counts and hashes what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self.num_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class TarShardWriter:
    """Writes the members of one tar, one sample after the other."""

    def __init__(self, file: IO[bytes], *, ascending: bool = True) -> None:
        """Write to a binary file that someone else opens and publishes.

        Args:
            file: The file.
            ascending: Whether keys come in ascending order; else in an order that somebody else
                chose, each once.
        """
        self._sink = _HashingFile(file)
        self._num_samples = 0
        self._last_key = ""
        self._keys: set[str] | None = None if ascending else set()

    def add(self, sample: Texts, image: bytes, extension: str) -> None:
        """Append a sample; no key comes twice.

        Args:
            sample: Key and texts.
            image: Encoded picture.
            extension: ``jpg`` or ``png``; one for all samples of a tar.
        """
        key = sample.key
        assert "." not in key, key
        self._check_order(key)
        self._member(f"{key}.{extension}", image)
        self._member(f"{key}.txt", sample.caption)
        self._member(f"{key}.json", sample.metadata)
        self._num_samples += 1

    def close(self, name: str, parquet_sha256: str) -> ShardEntry:
        """End the tar; the entry describes it."""
        end = 2 * tarfile.BLOCKSIZE
        self._sink.write(bytes(end + -(self._sink.num_bytes + end) % RECORD))
        sink = self._sink
        return ShardEntry(name, self._num_samples, sink.num_bytes, sink.sha256, parquet_sha256)

    def _check_order(self, key: str) -> None:
        if self._keys is None:
            assert key > self._last_key, f"{key} after {self._last_key}"
            self._last_key = key
        else:
            assert key not in self._keys, f"{key} twice"
            self._keys.add(key)

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(content), 0o644, 0
        self._sink.write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
        self._sink.write(content)
        self._sink.write(bytes(-len(content) % tarfile.BLOCKSIZE))


def _as_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON cannot say (dates, bytes of carried columns) as text."""
    plain = (str, int, float, bool, list, dict)
    return {
        name: value if value is None or isinstance(value, plain) else str(value)
        for name, value in metadata.items()
    }


def publish_table(uri: str, table: pa.Table, *, delta: bool = False) -> str:
    """Publish a table as Parquet, the same bytes for the same rows; returns its sha256.

    Args:
        uri: The file.
        table: The rows.
        delta: For tables of integers alone, rising ones above all: differences are stored, which
            takes a quarter of the space and half of the time to read.
    """
    buffer = io.BytesIO()
    encoding = {"use_dictionary": False, "column_encoding": "DELTA_BINARY_PACKED"} if delta else {}
    pq.write_table(table, buffer, compression="zstd", **encoding)
    content = buffer.getvalue()
    storage.write_bytes(uri, content)
    return hashlib.sha256(content).hexdigest()


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file that ``publish_table`` wrote."""
    with storage.open_for_read(uri) as file:
        return pq.ParquetFile(file).read(columns=columns)


def write_stats(
    folder_uri: str,
    entry: ShardEntry,
    table: pa.Table,
    known: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Publish ``NNNNN_stats.json``: the shard's own manifest, with img2dataset's names for counts.

    Args:
        folder_uri: Where the shard's table lies.
        entry: What the data set's manifest says of the shard.
        table: Its rows.
        known: What else shall be said: the data set's lineage, samples that were dropped.
    """
    stats = {
        **known,
        "schema_version": SCHEMA_VERSION,
        "count": entry.num_samples,
        "successes": entry.num_samples,
        "licences": licences(table),
        **entry.as_json(),
    }
    storage.write_json(storage.join(folder_uri, stats_name(entry.name)), stats)


def publish_rejects(uri: str, table: pa.Table) -> None:
    """Publish a stage's rejects: ``<reason>/<key>.jpg``, and ``index.parquet`` of all.

    Args:
        uri: Folder for them.
        table: Rows of ``images.rejects.REJECT``.
    """
    for row in table.to_pylist():
        if row["thumbnail"] is not None:
            picture = storage.join(uri, row["drop_reason"], f"{row['key']}.jpg")
            storage.write_bytes(picture, row["thumbnail"])
    publish_table(storage.join(uri, REJECTS_INDEX), table.drop_columns(["thumbnail"]))
