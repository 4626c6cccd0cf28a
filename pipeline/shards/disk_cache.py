"""Files of an object store kept on a node's own disk, within a limit, for all its workers.

A file is kept under its hash, so that runs and data sets share what is the same. Whoever writes
holds a lock on the folder: he first makes room among the files that were used longest ago, then
writes beside the final name and renames. What a killed process left half-written has no final name,
and the next writer removes it. The hash is compared at every reading.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.errors import DataError, StorageError

_KEPT = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class DiskCache:
    """A folder of this node."""

    path: str
    max_bytes: int
    """Of all files kept in it; a larger one is never kept, others' files are left alone."""

    def read(self, uri: str, sha256: str) -> bytes:
        """The content of a file, from this disk where it is here.

        Args:
            uri: Where it comes from.
            sha256: Of its content.

        Raises:
            DataError: What lies at ``uri`` is nothing, another file, or a damaged one.
        """
        kept = Path(self.path, sha256)
        content = _content(kept)
        if content is not None and _is(content, sha256):
            return content
        content = _checked(uri, sha256)
        if len(content) <= self.max_bytes:
            with suppress(StorageError, OSError):  # a full or foreign disk keeps nothing
                self._keep(kept, content)
        return content

    def _keep(self, kept: Path, content: bytes) -> None:
        with self._lock():
            self._make_room(len(content))
            storage.write_bytes(str(kept), content)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Alone in the folder; the lock of a killed process is gone with it."""
        folder = Path(self.path)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, num_bytes: int) -> None:
        storage.remove_temporary(self.path, below=False)
        files = [entry for entry in os.scandir(self.path) if _KEPT.fullmatch(entry.name)]
        used = {entry.path: entry.stat() for entry in files}
        total = sum(stat.st_size for stat in used.values())
        for path in sorted(used, key=lambda path: used[path].st_mtime_ns):
            if total + num_bytes <= self.max_bytes:
                break
            os.unlink(path)
            total -= used[path].st_size


def _content(kept: Path) -> bytes | None:
    """A kept file, marked as used now; None where it is not, or no longer, there."""
    try:
        os.utime(kept)
        return kept.read_bytes()
    except OSError:
        return None


def _is(content: bytes, sha256: str) -> bool:
    return hashlib.sha256(content).hexdigest() == sha256


def read_verified(uri: str, sha256: str, cache: DiskCache | None = None) -> bytes:
    """A whole file whose hash is the expected one.

    Args:
        uri: Where it lies.
        sha256: What the manifest says of it.
        cache: Where copies of files that lie elsewhere are kept; none are by default.

    Raises:
        DataError: It is missing, another file, or a damaged one.
    """
    if cache is not None and not storage.is_local(uri):
        return cache.read(uri, sha256)
    return _checked(uri, sha256)


def _checked(uri: str, sha256: str) -> bytes:
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise DataError(
            f"{uri}: the file is missing; restore it, or delete its stage's folder and run again"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataError(
            f"{uri}: sha256 {digest[:12]}… is not the manifest's {sha256[:12]}…; the file was "
            "changed or damaged: delete its stage's folder and run again"
        )
    return content
