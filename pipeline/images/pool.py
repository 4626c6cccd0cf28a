"""Crawl, decode, filter and store the pictures of one partition: one fused step.

Kept pictures go into one file, one after the other as they arrive; a table says where each lies.
Pixels never leave this process and the child that decodes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from pipeline.images import filters
from pipeline.images.block_list import BlockList
from pipeline.images.config import CrawlConfig, FilterConfig
from pipeline.images.crawl import crawl
from pipeline.images.decoder import Decoded, Decoder
from pipeline.images.dedup import Signature
from pipeline.images.fetch import Fetched, Target

CRAWL_LOG = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string()),
        pa.field("status", pa.int32()),
        pa.field("final_url", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("started_s", pa.float64(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("num_bytes", pa.int64()),
        pa.field("transient", pa.bool_(), nullable=False),
        pa.field("retry_at_s", pa.float64()),
        pa.field("sha256", pa.string()),
    ]
)
"""One row per address: what happened on the network (``fetch.Fetched`` says what each column
means). Facts of one crawl, outside every hash; a later crawl reads them."""


@dataclass(frozen=True)
class PooledPicture:
    """A kept picture's place in the pool file, and what is known of it."""

    sha256: str
    """Of the bytes as received."""
    width: int
    """Of the picture in the pool."""
    height: int
    original_width: int
    """Of the received picture, upright."""
    original_height: int
    offset: int
    """First byte in the pool file."""
    length: int
    signature: Signature


@dataclass(frozen=True)
class PoolRow:
    """What became of one address."""

    key: str
    drop_reason: str | None
    picture: PooledPicture | None
    log: dict[str, Any]
    """A row of ``CRAWL_LOG``."""


OnReject = Callable[[str, str, bytes], None]
"""Called with key, drop reason and the picture as the pool would keep it (a JPEG) when a decoded
picture falls; never with one that a block list names."""


class PoolWriter:
    """Decodes and filters bodies as they arrive and appends what is kept to a file."""

    def __init__(
        self,
        file: IO[bytes],
        decoder: Decoder,
        filter_config: FilterConfig,
        block_list: BlockList,
        on_reject: OnReject,
    ) -> None:
        """Append to ``file``, which someone else opens and publishes."""
        self._file, self._decoder, self._filters = file, decoder, filter_config
        self._blocked, self._on_reject = block_list, on_reject
        self._offset = 0

    def __call__(self, fetched: Fetched) -> PoolRow:
        """Take one fetched address to its end."""
        reason, picture = fetched.drop_reason, None
        if fetched.body is not None:
            sha256 = fetched.sha256
            assert sha256 is not None  # a body is hashed where it arrives
            found = self._checked(fetched.key, fetched.body, sha256)
            if isinstance(found, str):
                reason = found
            else:
                picture = self._append(sha256, found)
        return PoolRow(fetched.key, reason, picture, {**fetched.log_row(), "drop_reason": reason})

    def _checked(self, key: str, body: bytes, sha256: str) -> Decoded | str:
        reason = filters.bytes_reason(len(body), self._filters)
        reason = reason or self._blocked.bytes_reason(body, sha256)
        found = reason or self._decoder.decode(body)
        if isinstance(found, str):
            return found
        if (reason := self._blocked.picture_reason(found.signature.phash)) is not None:
            return reason  # before any filter that would keep it for inspection
        reason = filters.picture_reason(found.original_width, found.original_height, self._filters)
        if reason is None:
            return found
        self._on_reject(key, reason, found.encoded)
        return reason

    def _append(self, sha256: str, picture: Decoded) -> PooledPicture:
        self._file.write(picture.encoded)
        pooled = PooledPicture(
            sha256=sha256,
            width=picture.width,
            height=picture.height,
            original_width=picture.original_width,
            original_height=picture.original_height,
            offset=self._offset,
            length=len(picture.encoded),
            signature=picture.signature,
        )
        self._offset += pooled.length
        return pooled


def fill_pool(
    targets: Sequence[Target],
    crawl_config: CrawlConfig,
    writer: PoolWriter,
    num_partitions: int = 1,
) -> list[PoolRow]:
    """Crawl one of the partitions into an open pool file; rows in the order of ``targets``."""
    return crawl(targets, crawl_config, writer, num_partitions)
