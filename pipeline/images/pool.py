"""Crawl, decode, filter and store the pictures of one partition: one fused step.

Kept pictures go into one file, one after the other as they arrive; a table says where each lies.
Pixels never leave the process.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
from PIL import Image

from pipeline.images import filters
from pipeline.images.config import CrawlConfig, DecodeConfig, FilterConfig
from pipeline.images.crawl import crawl
from pipeline.images.decode import Picture, decode
from pipeline.images.dedup import Signature, signature
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
    ]
)
"""One row per address: what happened on the network. Facts of one crawl, outside every hash."""


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


OnReject = Callable[[str, str, Image.Image], None]
"""Called with key, drop reason and picture when a decoded picture falls."""


class PoolWriter:
    """Decodes and filters bodies as they arrive and appends what is kept to a file."""

    def __init__(
        self,
        file: IO[bytes],
        decode_config: DecodeConfig,
        filter_config: FilterConfig,
        on_reject: OnReject,
    ) -> None:
        """Append to ``file``, which someone else opens and publishes."""
        self._file, self._decode, self._filters = file, decode_config, filter_config
        self._on_reject = on_reject
        self._offset = 0

    def __call__(self, fetched: Fetched) -> PoolRow:
        """Take one fetched address to its end."""
        reason, picture = fetched.drop_reason, None
        if fetched.body is not None:
            found = self._checked(fetched.key, fetched.body)
            if isinstance(found, str):
                reason = found
            else:
                picture = self._append(fetched.body, found)
        return PoolRow(fetched.key, reason, picture, {**fetched.log_row(), "drop_reason": reason})

    def _checked(self, key: str, body: bytes) -> Picture | str:
        found = decode(body, self._decode)
        if isinstance(found, str):
            return found
        reason = filters.picture_reason(found.original_width, found.original_height, self._filters)
        if reason is None:
            return found
        self._on_reject(key, reason, found.image)
        return reason

    def _append(self, body: bytes, picture: Picture) -> PooledPicture:
        self._file.write(picture.encoded)
        pooled = PooledPicture(
            sha256=hashlib.sha256(body).hexdigest(),
            width=picture.image.width,
            height=picture.image.height,
            original_width=picture.original_width,
            original_height=picture.original_height,
            offset=self._offset,
            length=len(picture.encoded),
            signature=signature(picture.image),
        )
        self._offset += pooled.length
        return pooled


def fill_pool(
    targets: Sequence[Target], crawl_config: CrawlConfig, writer: PoolWriter
) -> list[PoolRow]:
    """Crawl a partition into an open pool file; rows in the order of ``targets``."""
    return crawl(targets, crawl_config, writer)
