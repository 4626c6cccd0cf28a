"""Read curated data sets: nothing is used before it was checked, unpickled or extracted ever.

``open_dataset`` is the public way in; ``read_shard`` gives the raw samples of one tar.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from PIL import Image

from pipeline import storage
from pipeline.errors import DataError
from pipeline.images.decode import open_rgb
from pipeline.results import INDEX, stage_places
from pipeline.shards import manifest

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif"})
TEXTS = frozenset({"txt", "json"})
KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
MAX_MEMBER_BYTES = 1 << 28


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
        value = json.loads(self.members.get("json", b"{}"))
        if not isinstance(value, dict):
            raise DataError(f"{self.key}.json is no JSON object")
        return value

    def captions(self) -> tuple[str, ...]:
        """All captions; where the metadata lists none, the text member alone."""
        listed = tuple(self.metadata().get("captions") or ())
        return listed or (self.members["txt"].decode("utf-8", "replace"),)


@dataclass(frozen=True)
class DatasetSample:
    """One sample, decoded."""

    key: str
    image: Image.Image
    """RGB."""
    captions: tuple[str, ...]
    metadata: dict[str, Any]


def read_shard(uri: str, entry: Mapping[str, Any]) -> Iterator[RawSample]:
    """The samples of one shard, in file order, after the whole file was verified.

    Args:
        uri: The tar.
        entry: What the manifest says of it.

    Raises:
        DataError: The file is not what its entry says, or holds what no shard may hold.
    """
    manifest.verify_shard(uri, entry)
    num_samples = 0
    with storage.open_for_read(uri) as file:
        for sample in read_tar(file, uri):
            num_samples += 1
            yield sample
    if num_samples != entry["num_samples"]:
        raise DataError(
            f"{uri}: {num_samples} samples, its manifest says {entry['num_samples']}; "
            "curate the data set again"
        )


def read_tar(file: IO[bytes], name: str) -> Iterator[RawSample]:
    """The samples of an open tar that somebody has verified; ``name`` is for messages.

    Raises:
        DataError: A link, a device, a path, a name twice, or a sample without picture or caption.
    """
    members: dict[str, bytes] = {}
    current, seen = "", set()
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                key, extension = _checked_name(info, name)
                if key != current:
                    if members:
                        yield _sample(current, members, name)
                    if key in seen:
                        raise DataError(f"{name}: key {key} appears in two places or twice")
                    seen.add(key)
                    current, members = key, {}
                if extension in members:
                    raise DataError(f"{name}: member {info.name} appears twice")
                if extension in PICTURES or extension in TEXTS:
                    members[extension] = _content(tar, info)
    except tarfile.TarError as error:
        raise DataError(f"{name}: not a readable tar: {error}") from error
    if members:
        yield _sample(current, members, name)


def _checked_name(info: tarfile.TarInfo, name: str) -> tuple[str, str]:
    key, _, extension = info.name.partition(".")
    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
    if not plain or not KEY.fullmatch(key):
        raise DataError(f"{name}: member {info.name!r} is no plain file of a shard")
    if info.size > MAX_MEMBER_BYTES:
        raise DataError(f"{name}: member {info.name!r} has {info.size} bytes")
    return key, extension.lower()


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    reader = tar.extractfile(info)
    assert reader is not None  # a regular file
    return reader.read()


def _sample(key: str, members: dict[str, bytes], name: str) -> RawSample:
    num_pictures = len(PICTURES & members.keys())
    if num_pictures != 1 or not TEXTS & members.keys():
        raise DataError(
            f"{name}: sample {key} has {num_pictures} pictures and "
            f"{len(TEXTS & members.keys())} texts; expected one picture and a txt or json"
        )
    return RawSample(key, members)


class Dataset:
    """A curated data set. Iterating gives its samples, shard by shard, each shard verified."""

    def __init__(self, stage_uri: str, view_px: int | None = None) -> None:
        """Open a finished curate stage; ``view_px`` reads square views instead of pictures."""
        result = manifest.read_manifest(stage_uri)
        self._folder = manifest.folder(stage_uri, view_px)
        self.entries = manifest.entries(result.content, view_px)
        self.funnel: dict[str, Any] = result.content["funnel"]
        """``candidates`` = ``kept`` + the sum of ``dropped``, in pairs."""

    def __len__(self) -> int:
        """Number of samples (pictures)."""
        return sum(int(entry["num_samples"]) for entry in self.entries)

    def __iter__(self) -> Iterator[DatasetSample]:
        """All samples in file order."""
        for entry in self.entries:
            for raw in read_shard(storage.join(self._folder, entry["name"]), entry):
                yield DatasetSample(raw.key, open_rgb(raw.image), raw.captions(), raw.metadata())


def open_dataset(uri: str, view_px: int | None = None) -> Dataset:
    """Open a curated data set.

    Args:
        uri: Output folder of a run, or the folder of its finished curate stage.
        view_px: Side of the square views to read; None reads the pictures themselves.

    Raises:
        DataError: The folder holds no finished data set, or no views of that side.
    """
    if storage.exists(storage.join(uri, INDEX)):
        uri = stage_places(uri).get("curate", uri)
    return Dataset(uri, view_px)
