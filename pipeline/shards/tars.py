"""Our own tars: nothing is used before it was checked, unpickled or extracted ever.

What every reader of tars needs stands here too: their members, and JSON that nobody has checked.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import IO, Any

from pipeline.errors import DataError
from pipeline.shards.verified import verified

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif"})
TEXTS = frozenset({"txt", "json"})
KNOWN = PICTURES | TEXTS
KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
OCTAL = re.compile(rb"[0-7]{11}")
MAX_MEMBER_BYTES = 1 << 28
Member = tuple[str, str, bytes]
"""Key, extension and content, which may be left out where nobody knows the extension."""


@dataclass(frozen=True)
class RawSample:
    """One sample as it lies in a tar: one picture, and texts."""

    key: str
    members: dict[str, bytes]
    """Content by extension, such as ``jpg``, ``txt``, ``json``."""

    @property
    def extension(self) -> str:
        """Format of the picture."""
        return next(name for name in self.members if name in PICTURES)

    @property
    def image(self) -> bytes:
        """The encoded picture."""
        return self.members[self.extension]

    def metadata(self) -> dict[str, Any]:
        """The content of ``{key}.json``; empty where there is none."""
        return json_object(self.members.get("json", b"{}"), f"{self.key}.json")

    def captions(self) -> tuple[str, ...]:
        """All captions; where the metadata lists none, the text member alone."""
        listed = tuple(self.metadata().get("captions") or ())
        return listed or (self.members["txt"].decode("utf-8", "replace"),)


class _Bounded:
    """A tar's file, of which no header can ask for more bytes than a member may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > MAX_MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset < 0:
            raise tarfile.ReadError(f"a member at byte {offset}")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def opened(file: IO[bytes], name: str, remedy: str) -> Iterator[tarfile.TarFile]:
    """A tar to be read member by member.

    Args:
        file: Uncompressed; at its beginning.
        name: For messages.
        remedy: Likewise.

    Raises:
        DataError: It is cut or damaged, or a header holds what the standard library stumbles over:
            numbers that are none, more of them than a number may have, extensions of extensions.
    """
    try:
        with tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:  # type: ignore[arg-type]
            yield tar
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{name}: cut or damaged ({error}); {remedy}") from error


def content(tar: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> bytes:
    """The content of a regular file of a tar.

    Raises:
        DataError: The tar ends before it.
    """
    reader = tar.extractfile(info)
    assert reader is not None  # a regular file
    found = reader.read()
    if len(found) != info.size:
        raise DataError(f"{name}: cut inside member {info.name!r}; fetch this shard again")
    return found


def json_object(text: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object that nobody has checked.

    Raises:
        DataError: It is cut, damaged, nested without end, or no object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is no JSON: {error}; restore it, or delete it") from error
    if not isinstance(value, dict):
        raise DataError(f"{name} holds a {type(value).__name__}, no JSON object; restore it")
    return value


def read_shard(uri: str, entry: Mapping[str, Any]) -> Iterator[RawSample]:
    """The samples of one shard, in file order, after the whole file was verified.

    Args:
        uri: The tar.
        entry: What the manifest says of it.

    Raises:
        DataError: The file is not what its entry says, or holds what no shard may hold.
    """
    num_samples = 0
    with verified(uri, entry) as file:
        for sample in _samples(own_members(file, uri), uri):
            num_samples += 1
            yield sample
    if num_samples != entry["num_samples"]:
        raise DataError(
            f"{uri}: {num_samples} samples, its manifest says {entry['num_samples']}; "
            "curate the data set again"
        )


def own_pictures(file: io.BufferedIOBase, uri: str) -> Iterator[tuple[str, bytes]]:
    """Key and picture of each sample of a tar that `writer` wrote; see ``own_members``."""
    for key, extension, member in own_members(file, uri):
        if extension in PICTURES:
            yield key, member


def own_members(file: io.BufferedIOBase, uri: str) -> Iterator[Member]:
    """The members of a tar that `writer` wrote and whose hash was compared.

    Plain headers need a hundredth of the time that the standard library takes for any header.

    Args:
        file: The whole tar; at its beginning.
        uri: For messages.

    Raises:
        DataError: A header is not as `writer` writes it, or the file is cut.
    """
    position = 0
    while (header := file.read(tarfile.BLOCKSIZE))[:1] != b"\0":
        name, size = header[:100].rstrip(b"\0").decode("ascii", "replace"), header[124:135]
        key, _, extension = name.partition(".")
        plain = header[156:158] == b"0\0" and header[257:262] == b"ustar" and OCTAL.fullmatch(size)
        length = int(size, 8) if plain else MAX_MEMBER_BYTES + 1
        if length > MAX_MEMBER_BYTES or not KEY.fullmatch(key):
            raise DataError(f"{uri}: byte {position} begins no plain member; write it again")
        content, padding = file.read(length), -length % tarfile.BLOCKSIZE
        if len(content) + len(file.read(padding)) != length + padding:
            raise DataError(f"{uri}: cut inside the member at byte {position}; write it again")
        yield key, extension, content
        position += tarfile.BLOCKSIZE + length + padding


def read_tar(file: IO[bytes], name: str) -> Iterator[RawSample]:
    """The samples of an open tar that somebody has verified; ``name`` is for messages.

    Raises:
        DataError: A link, a device, a path, a name twice, or a sample without picture or caption.
    """
    with opened(file, name, "restore the file") as tar:
        yield from _samples(_members(tar, name), name)


def _members(tar: tarfile.TarFile, name: str) -> Iterator[Member]:
    for info in tar:
        key, extension = _checked_name(info, name)
        yield key, extension, content(tar, info, name) if extension in KNOWN else b""


def _samples(members: Iterable[Member], name: str) -> Iterator[RawSample]:
    """Members that follow each other under one key make a sample."""
    seen: set[str] = set()
    for key, group in groupby(members, itemgetter(0)):
        if key in seen:
            raise DataError(f"{name}: key {key} appears in two places or twice")
        seen.add(key)
        found: dict[str, bytes] = {}
        for _, extension, member in group:
            if extension in found:
                raise DataError(f"{name}: member {key}.{extension} appears twice")
            if extension in KNOWN:
                found[extension] = member
        if found:
            yield _sample(key, found, name)


def _checked_name(info: tarfile.TarInfo, name: str) -> tuple[str, str]:
    key, _, extension = info.name.partition(".")
    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
    if not plain or not KEY.fullmatch(key):
        raise DataError(f"{name}: member {info.name!r} is no plain file of a shard")
    if info.size > MAX_MEMBER_BYTES:
        raise DataError(f"{name}: member {info.name!r} has {info.size} bytes")
    return key, extension.lower()


def _sample(key: str, members: dict[str, bytes], name: str) -> RawSample:
    num_pictures = len(PICTURES & members.keys())
    if num_pictures != 1 or not TEXTS & members.keys():
        raise DataError(
            f"{name}: sample {key} has {num_pictures} pictures and "
            f"{len(TEXTS & members.keys())} texts; expected one picture and a txt or json"
        )
    return RawSample(key, members)
