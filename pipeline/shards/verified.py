"""Tars that are what their manifest says, open on this machine.

Tar readers lose samples in silence when a shard was cut or a header was damaged; so a shard is
used only after its length and its sha256 were compared with its entry.
"""

import hashlib
import io
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import accumulate
from typing import Any

from pipeline import storage
from pipeline.errors import DataError
from pipeline.shards.disk_cache import DiskCache

IN_MEMORY_BYTES = 256 << 20
"""A tar of a store up to this length is held in memory, a longer one on the local disk."""
BUFFER_BYTES = 1 << 17
OpenFile = io.BufferedReader | io.BufferedRandom


@contextmanager
def verified(
    uri: str, entry: Mapping[str, Any], cache: DiskCache | None = None
) -> Iterator[OpenFile]:
    """A tar that is what the manifest says of it, at its beginning: a store sends it once.

    Of a store it is held while the block lasts: in memory up to ``IN_MEMORY_BYTES``.

    Args:
        uri: The tar.
        entry: What the manifest says of it.
        cache: Where copies of files of stores are kept; none are by default.

    Raises:
        DataError: The tar is missing, cut or changed.
    """
    remedy = "restore the file, or delete the stage's folder and run it again"
    with ExitStack() as stack:
        try:
            file, found = stack.enter_context(_hashed(uri, entry, cache))
        except FileNotFoundError as error:
            raise DataError(f"{uri}: the shard is missing; {remedy}") from error
        size = file.seek(0, io.SEEK_END)
        if size != entry["num_bytes"]:
            raise DataError(
                f"{uri}: {size} bytes, its manifest says {entry['num_bytes']}: the shard was cut "
                f"or changed; {remedy}"
            )
        if found != entry["sha256"]:
            raise DataError(
                f"{uri}: sha256 {found[:16]}…, its manifest says {entry['sha256'][:16]}…: the "
                f"shard is damaged or was changed; {remedy}"
            )
        file.seek(0)
        yield file


@contextmanager
def _hashed(
    uri: str, entry: Mapping[str, Any], cache: DiskCache | None
) -> Iterator[tuple[OpenFile, str]]:
    """A file of this machine, or what a store sends as one, and its sha256."""
    num_bytes = entry["num_bytes"]
    if storage.is_local(uri):
        with storage.open_for_read(uri) as file:
            yield file, hashlib.file_digest(file, "sha256").hexdigest()
        return
    if cache is not None:
        yield _as_file([cache.read(uri, entry["sha256"])]), entry["sha256"]
        return
    digest = hashlib.sha256()
    if num_bytes <= IN_MEMORY_BYTES:
        held = []
        for piece in storage.pieces(uri, num_bytes):
            digest.update(piece)
            held.append(piece)
        yield _as_file(held), digest.hexdigest()
        return
    with tempfile.TemporaryFile(prefix="shard-") as file:
        with closing(storage.pieces(uri, num_bytes)) as pieces:  # also where the disk is full
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        yield file, digest.hexdigest()


def _as_file(pieces: Sequence[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Pieces(pieces), BUFFER_BYTES)


class _Pieces(io.RawIOBase):
    """Pieces of a file as they came: joining them would take nearly as long as their hash."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._ends = list(accumulate(map(len, pieces)))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        whole = self._ends[-1] if self._ends else 0
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: whole}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable bytes
        number = bisect_right(self._ends, self._at)
        if number == len(self._ends):
            return 0
        piece, end = self._pieces[number], self._ends[number]
        start = len(piece) - (end - self._at)
        num_bytes = min(len(buffer), end - self._at)
        buffer[:num_bytes] = memoryview(piece)[start : start + num_bytes]
        self._at += num_bytes
        return num_bytes
