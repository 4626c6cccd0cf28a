"""Records of a web archive, plain or gzip; a file that ends early or breaks is named.

FastWARC tells the two apart by the first bytes. It reports neither a record shorter than it
declares, nor one cut off in its header, nor a gzip member without its end, nor a file without any.
"""

import io
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from pipeline import storage
from pipeline.candidates import files

MAX_RECORD_BYTES = 32 << 20
"""Longer records are no web pages; they are passed over unread."""
CHUNK_BYTES = 1 << 20
GZIP = b"\x1f\x8b\x08"
"""The first bytes of a member."""
RECORD_ENDS = (b"\r\n\r\n", b"\n\n")
NUM_END_BYTES = 4


def records(path: str, kind: WarcRecordType, damage: list[str]) -> Iterator[WarcRecord]:
    """The records of one kind, in order, each read to its end.

    A record's content must be read as it is: a failed ``parse_http`` would end the iteration.

    Args:
        path: An archive.
        kind: Which records.
        damage: Receives a line per damaged place: file name, offset of the record, cause.
    """
    name, last = files.base_name(path), 0
    with storage.open_for_read(path) as file:
        try:
            for record in _of_kind(file, kind):
                last = record.stream_pos
                declared = record.content_length
                record.freeze()
                if record.content_length < declared:
                    damage.append(
                        f"{name}: record at byte {last} declares {declared} bytes and holds "
                        f"{record.content_length}; the file is cut off"
                    )
                yield record
        except (OSError, EOFError) as error:
            if not files.is_damage(error):
                raise
            damage.append(f"{name}: unreadable after the record at byte {last}: {error}")
        if not damage:
            cause = _unnoticed(file, last)
            damage += [f"{name}: {cause}"] if cause else []


def _of_kind(file: Any, kind: WarcRecordType) -> Iterable[WarcRecord]:  # noqa: ANN401 - any file
    return ArchiveIterator(
        file, record_types=kind, parse_http=False, max_content_length=MAX_RECORD_BYTES
    )


def _unnoticed(file: Any, last: int) -> str:  # noqa: ANN401 - any binary file object
    """What is wrong with a file that was read to its end without an error; empty if nothing is."""
    file.seek(0)
    if next(iter(ArchiveIterator(file, parse_http=False)), None) is None:
        return "holds no record"
    # Positions are the members' only where each record is a member of its own.
    start = last if _starts_gzip(file, last) else 0
    try:
        content_end = _gzip_end(file, start) if _starts_gzip(file, 0) else _end(file)
    except (EOFError, zlib.error):
        return f"the gzip data after byte {start} has no end; it is cut off"
    if not content_end.endswith(RECORD_ENDS):
        return f"the last record, at byte {last} or after it, has no end; it is cut off"
    return ""


def _starts_gzip(file: Any, offset: int) -> bool:  # noqa: ANN401 - any binary file object
    file.seek(offset)
    return file.read(len(GZIP)) == GZIP


def _end(file: Any) -> bytes:  # noqa: ANN401 - any binary file object
    file.seek(0, io.SEEK_END)
    file.seek(max(file.tell() - NUM_END_BYTES, 0))
    return file.read()


def _gzip_end(file: Any, offset: int) -> bytes:  # noqa: ANN401 - any binary file object
    """The last bytes of what is packed from an offset to the file's end.

    Raises:
        EOFError: The last member has no end.
        zlib.error: It is broken, or something else follows it.
    """
    file.seek(offset)
    member, inside, end = zlib.decompressobj(wbits=31), False, b""
    while data := file.read(CHUNK_BYTES):
        while data:
            end = (end + member.decompress(data)[-NUM_END_BYTES:])[-NUM_END_BYTES:]
            inside, data = not member.eof, member.unused_data
            if member.eof:
                member = zlib.decompressobj(wbits=31)
    if inside:
        raise EOFError
    return end
