"""The bytes of a dump by partition: plain files, or bzip2 in one stream or in many.

A partition is a range of the file's bytes, so that planning reads nothing. In a bzip2 file every
stream belongs to the partition in which it begins; its beginning is found by its ten first bytes,
so the index that comes with a multistream dump is not needed. A file of one stream is therefore
read by its first partition alone. What lies behind a partition's end is handed out too, marked as
not its own, because a page may begin in one partition and end in the next.
"""

import bz2
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from pipeline import storage
from pipeline.candidates.files import base_name

CHUNK_BYTES = 1 << 16
"""Compressed bytes read at once, counted from a stream's beginning: what a damaged stream gives
does not depend on the partition."""
PLAIN_CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 900_000
"""A bzip2 block holds at most so many bytes (before the run-length step), under one checksum."""

_STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)")
_STREAM_BYTES = 10


class Chunk(NamedTuple):
    """Some bytes of a dump, not compressed."""

    content: bytes
    is_own: bool
    """Whether they begin before the partition's end."""
    follows_gap: bool
    """Whether what stood before them is lost."""


@dataclass
class DumpRange:
    """A partition of a dump."""

    path: str
    start: int
    end: int
    """Bytes of the file, as it lies there."""
    damage: list[str]
    """Receives a line per damaged place of this partition: file name, byte, cause."""

    def __post_init__(self) -> None:
        """The name for messages, which do not depend on where a file lies."""
        self.name = base_name(self.path)

    def chunks(self) -> Iterator[Chunk]:
        """The partition's bytes, then the file's further ones."""
        with storage.open_for_read(self.path) as file:
            if self.path.lower().endswith(".bz2"):
                yield from self._unpacked(file)
            else:
                yield from self._plain(file)

    def _plain(self, file: IO[bytes]) -> Iterator[Chunk]:
        position = self.start
        file.seek(position)
        while content := file.read(min(PLAIN_CHUNK_BYTES, max(self.end - position, CHUNK_BYTES))):
            num_own = max(0, self.end - position)
            for part, is_own in ((content[:num_own], True), (content[num_own:], False)):
                if part:
                    yield Chunk(part, is_own, False)
            position += len(content)

    def _unpacked(self, file: IO[bytes]) -> Iterator[Chunk]:
        position = self._next_stream(file, self.start)
        gap = self.start == 0 and position != 0
        if gap:
            self.note(0, "no bzip2 stream begins here")
        while position is not None:
            stream, is_own = _Stream(file, position), position < self.end
            for content in stream.contents():
                yield Chunk(content, is_own, gap)
                gap = False
            if stream.cause and not is_own:
                return
            if stream.cause:
                self.note(position, f"the bzip2 stream that begins here {stream.cause}")
                gap = True
            position = self._after(file, stream)
            gap = gap or position != stream.end

    def _after(self, file: IO[bytes], stream: "_Stream") -> int | None:
        """Where the next stream begins; None at the file's end or behind the partition's damage."""
        if stream.cause:
            return self._next_stream(file, stream.start + 1)
        file.seek(stream.end)
        beginning = file.read(_STREAM_BYTES)
        if not beginning or _STREAM.match(beginning):
            return stream.end if beginning else None
        if stream.start < self.end:
            self.note(stream.end, "what follows here is no bzip2 stream")
        return self._next_stream(file, stream.end + 1)

    def _next_stream(self, file: IO[bytes], position: int) -> int | None:
        """The first beginning of a stream in the partition, from ``position`` on."""
        while position < self.end:
            file.seek(position)
            wanted = min(PLAIN_CHUNK_BYTES, self.end - position)
            content = file.read(wanted + _STREAM_BYTES - 1)
            found = _STREAM.search(content)
            if found:
                return position + found.start()
            position += wanted
        return None

    def note(self, position: int, cause: str) -> None:
        """Record a damaged place."""
        self.damage.append(f"{self.name}: byte {position}: {cause}")


class _Stream:
    """One bzip2 stream, read up to where it ends or breaks."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file, self.start, self.end = file, start, start
        self.cause = ""

    def contents(self) -> Iterator[bytes]:
        """What the stream holds; the last block is handed out once its checksum holds."""
        unpacker, held = bz2.BZ2Decompressor(), b""
        self._file.seek(self.start)
        while not unpacker.eof:
            packed = self._file.read(CHUNK_BYTES)
            self.end += len(packed)
            if not packed:
                self.cause = f"is cut off: the file ends at byte {self.end}"
                break
            try:
                held += unpacker.decompress(packed)
            except OSError as error:
                self.cause = f"is damaged before byte {self.end}: {error}"
                # Only a block's end tells whether its bytes were right.
                held = held[:-BLOCK_BYTES]
                break
            if len(held) > 2 * BLOCK_BYTES:
                yield held[:-BLOCK_BYTES]
                held = held[-BLOCK_BYTES:]
        self.end -= len(unpacker.unused_data)
        yield held
