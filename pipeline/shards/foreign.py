"""Other people's tars: read as they are, with every loss named.

Common readers return fewer samples in silence where a tar was cut between two members or where one
header byte flipped. Here a tar counts as whole only if its end mark stands where its last member
ends and nothing but zeros follows. Members are told apart as webdataset does: the key is the path
up to the first dot of the file's name, the extension what follows. Pictures and texts are read,
everything else is passed over; nothing is unpickled and nothing extracted.
"""

import hashlib
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from pipeline import storage
from pipeline.errors import DataError
from pipeline.results import SCHEMA_VERSION
from pipeline.shards import tars
from pipeline.shards.tars import KEY, MAX_MEMBER_BYTES, PICTURES, TEXTS
from pipeline.shards.verified import verified

NO_PICTURE = "no_picture"
SEVERAL_PICTURES = "several_pictures"
REPEATED_KEY = "repeated_key"
REPEATED_MEMBER = "repeated_member"
UNREADABLE_JSON = "unreadable_json"
REMEDY = "fetch this shard again, or raise adopt.max_damaged_share to leave it out"


@dataclass(frozen=True)
class ForeignSample:
    """One sample as somebody wrote it."""

    key: str
    """As it stands in the tar."""
    members: Mapping[str, bytes]
    """Pictures and texts by extension."""
    drop_reason: str | None
    """What is wrong with its members, or None."""

    @property
    def image(self) -> bytes:
        """The encoded picture of a sample without a drop reason."""
        return next(self.members[name] for name in self.members if name in PICTURES)

    def fields(self) -> dict[str, Any]:
        """The object of the ``json`` member; empty where there is none that can be read."""
        try:
            return tars.json_object(self.members.get("json", b"{}"), self.key)
        except DataError:
            return {}


def read_foreign(file: IO[bytes], name: str) -> Iterator[ForeignSample]:
    """The samples of an open tar, in file order; ``name`` is for messages.

    Raises:
        DataError: The tar is cut or damaged, or holds a link, a device or a path that leads out.
    """
    seen: set[str] = set()
    key, members, repeated = "", {}, False
    for stored, extension, content in _members(file, name):
        if stored != key:
            if key:
                yield _sample(key, members, repeated, seen)
            key, members, repeated = stored, {}, False
        if extension in members:
            repeated = True
        if extension in PICTURES or extension in TEXTS:
            members[extension] = content
    if key:
        yield _sample(key, members, repeated, seen)


def dataset_key(stored: str, shard: str, *, with_shard: bool) -> str:
    """The key of a sample in the adopted data set: as stored where that is plain, else its hash.

    Args:
        stored: Key in the tar, perhaps with folders.
        shard: Name of the tar.
        with_shard: Whether the tar's name stands before it.
    """
    key = f"{shard.removesuffix('.tar')}-{stored}" if with_shard else stored
    if KEY.fullmatch(key):
        return key
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def read_adopted(
    uri: str, entry: Mapping[str, Any], keys: Collection[str], *, with_shard: bool
) -> Iterator[tuple[str, bytes]]:
    """Key and encoded picture of an adopted tar's samples, in file order, after it was verified.

    Args:
        uri: The tar.
        entry: What the manifest says of it.
        keys: The samples of the data set; others were dropped when the tar was adopted.
        with_shard: Whether keys hold the tar's name.

    Raises:
        DataError: The tar is not what its entry says, or lacks a sample.
    """
    num_found = 0
    with verified(uri, entry) as file:
        for sample in read_foreign(file, uri):
            key = dataset_key(sample.key, entry["name"], with_shard=with_shard)
            if sample.drop_reason is None and key in keys:
                num_found += 1
                yield key, sample.image
    if num_found != entry["num_samples"]:
        raise DataError(
            f"{uri}: {num_found} samples of the data set, its manifest says "
            f"{entry['num_samples']}; adopt it again"
        )


def beside(uri: str, ending: str) -> str:
    """A file beside a tar: ``00000.tar``, ``_stats.json`` → ``00000_stats.json``."""
    return uri.removesuffix(".tar") + ending


def identify(uri: str) -> dict[str, Any]:
    """Name, length and sha256 of a tar, which no manifest beside it may contradict.

    Raises:
        DataError: The tar is not the one for which a manifest was written beside it, or nobody
            can read that manifest.
    """
    name = uri.rsplit("/", 1)[-1]
    found = {
        "name": name,
        "num_bytes": storage.size_of(uri),
        "sha256": storage.sha256_of(uri),
    }
    place = beside(uri, ".manifest.json")
    if storage.exists(place):
        stated = tars.json_object(storage.read_bytes(place), place)
        changed = [field for field in found if stated.get(field) != found[field]]
        if changed:
            raise DataError(
                f"{uri}: {' and '.join(changed)} differ from {place}: the tar was cut, damaged or "
                "replaced since it was adopted; restore it, or delete that manifest if the new "
                "tar is meant"
            )
    return found


def manifest_of(facts: Mapping[str, Any], num_samples: int) -> dict[str, Any]:
    """What is written beside a tar: facts of the tar alone, none of who adopted it."""
    return {"schema_version": SCHEMA_VERSION, **facts, "num_samples": num_samples}


def check_stated_count(uri: str, num_samples: int) -> None:
    """Compare with the number of samples that img2dataset's own statistics state, if there are any.

    Raises:
        DataError: They differ, or nobody can read the statistics.
    """
    place = beside(uri, "_stats.json")
    if not storage.exists(place):
        return
    stated = tars.json_object(storage.read_bytes(place), place).get("successes")
    if stated is not None and stated != num_samples:
        raise DataError(
            f"{uri}: {num_samples} samples, {place} says {stated}: samples were lost; fetch this "
            "shard again, or delete the statistics if they belong to another file"
        )


def _members(file: IO[bytes], name: str) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and content of every plain member; the content of others stays unread."""
    with tars.opened(file, name, REMEDY) as tar:
        while (info := tar.next()) is not None:
            found = _key(info, name)
            if found is not None:
                key, extension = found
                is_read = extension in PICTURES or extension in TEXTS
                yield key, extension, tars.content(tar, info, name) if is_read else b""
        end = tar.offset
    _check_end(file, end, name)


def _key(info: tarfile.TarInfo, name: str) -> tuple[str, str] | None:
    """Key and extension of a member; None for folders and hidden files."""
    path = re.sub(r"\A(\./)+", "", info.name)
    folder, _, base = path.rpartition("/")
    if info.isdir() or base.startswith("."):
        return None
    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
    if not plain or path.startswith("/") or ".." in folder.split("/") or "\\" in path:
        raise DataError(f"{name}: member {info.name!r} is no plain file inside the tar")
    if info.size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{name}: member {info.name!r} has {info.size} bytes, at most {MAX_MEMBER_BYTES}"
        )
    stem, _, extension = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension.lower()


def _check_end(file: IO[bytes], end: int, name: str) -> None:
    """The standard library stops in silence at a damaged header and at a cut alike."""
    file.seek(end)
    rest = file.read(tarfile.BLOCKSIZE)
    if len(rest) < tarfile.BLOCKSIZE:
        raise DataError(
            f"{name}: no end mark after byte {end}: the tar was cut between two members; fetch "
            "this shard again"
        )
    while rest:
        if rest.count(0) != len(rest):
            raise DataError(
                f"{name}: no header and no end at byte {end}: a header is damaged, or tars were "
                "joined; fetch this shard again"
            )
        rest = file.read(1 << 20)


def _sample(
    key: str, members: Mapping[str, bytes], repeated: bool, seen: set[str]
) -> ForeignSample:
    reason = _drop_reason(members)
    if key in seen:
        reason = REPEATED_KEY
    elif repeated:
        reason = REPEATED_MEMBER
    seen.add(key)
    return ForeignSample(key, members, reason)


def _drop_reason(members: Mapping[str, bytes]) -> str | None:
    num_pictures = len(PICTURES & members.keys())
    if num_pictures != 1:
        return SEVERAL_PICTURES if num_pictures else NO_PICTURE
    try:
        tars.json_object(members.get("json", b"{}"), "")
    except DataError:
        return UNREADABLE_JSON
    return None
