"""Files at URIs (local, ``s3://``, ``gs://``, what else fsspec opens): whole, or not there at all.

A file gets its final name only when its bytes are complete: locally by a temporary name, fsync
and rename; on object stores by one put, or by the last request of an upload in parts (``stores``).
A folder is complete when its manifest, always written last, is there (``results.py``).
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fsspec

from pipeline.errors import StorageError
from pipeline.failpoints import failpoint

TEMPORARY_MARK = ".tmp-"
PIECE_BYTES = 16 << 20
"""Of files that do not lie in a bucket."""
BUCKETS = ("s3://", "gs://")
"""Stores that results are written to."""
for _scheme in ("s3", "s3a"):
    fsspec.register_implementation(_scheme, "pipeline.stores.s3.S3FileSystem", clobber=True)
for _scheme in ("gs", "gcs"):
    fsspec.register_implementation(_scheme, "pipeline.stores.gcs.GCSFileSystem", clobber=True)


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine's file system."""
    return "://" not in uri or uri.startswith("file://")


def in_bucket(uri: str) -> bool:
    """Whether the URI is a place in a bucket that results may be written to."""
    return uri.startswith(BUCKETS)


def local_path(uri: str) -> Path:
    """The local path behind a local URI.

    Raises:
        StorageError: The URI points to an object store.
    """
    if not is_local(uri):
        raise StorageError(f"{uri} is no local path; copy it to local disk first")
    return Path(uri.removeprefix("file://"))


def absolute(uri: str) -> str:
    """The same place, named so that a process in another working directory finds it."""
    return str(local_path(uri).absolute()) if is_local(uri) else uri


def place_for_results(uri: str) -> str:
    """The same as ``absolute``, for a folder that is written to.

    Raises:
        ValueError: Results cannot be written there.
    """
    bucket, _, folder = uri.partition("://")[2].partition("/")
    if not is_local(uri) and not (in_bucket(uri) and bucket and folder):
        raise ValueError(
            "results are written to a local folder, to s3://<bucket>/<folder> or to "
            "gs://<bucket>/<folder>"
        )
    return absolute(uri)


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    if is_local(uri):
        return local_path(uri).exists()
    filesystem, path = fsspec.core.url_to_fs(uri)
    return bool(filesystem.exists(path))


def list_names(uri: str) -> list[str]:
    """Sorted names directly below a folder; empty where there is none. Temporary files left out."""
    if is_local(uri):
        path = local_path(uri)
        names = os.listdir(path) if path.is_dir() else []
    else:
        filesystem, path = fsspec.core.url_to_fs(uri)
        try:
            found = filesystem.ls(path, detail=False)
        except FileNotFoundError:
            found = []
        names = [name.rstrip("/").rsplit("/", 1)[-1] for name in found]
    return sorted(name for name in names if TEMPORARY_MARK not in name)


def read_bytes(uri: str) -> bytes:
    """The whole content of a file."""
    if in_bucket(uri):
        return b"".join(pieces(uri))
    with open_for_read(uri) as file:
        return file.read()


def pieces(uri: str, num_bytes: int | None = None) -> Generator[bytes, None, None]:
    """The content of a file in order; a bucket is asked for the next ones ahead.

    Args:
        uri: The file.
        num_bytes: Its length where that is known, which saves asking a bucket for it. Of a longer
            file at least one byte more comes.
    """
    if in_bucket(uri):
        filesystem, path = fsspec.core.url_to_fs(uri)
        yield from filesystem.pieces(path, num_bytes)
        return
    with open_for_read(uri) as file:
        yield from iter(partial(file.read, PIECE_BYTES), b"")


def open_for_read(uri: str) -> Any:  # noqa: ANN401 - fsspec's files share no type with open's
    """A seekable binary file."""
    if is_local(uri):
        return local_path(uri).open("rb")
    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem.open(path, "rb")


def read_json(uri: str) -> Any:  # noqa: ANN401 - JSON is any
    """Parse a JSON file."""
    return json.loads(read_bytes(uri))


def write_bytes(uri: str, content: bytes) -> None:
    """Publish a file atomically; an existing one is replaced whole."""
    with open_for_publish(uri) as file:
        file.write(content)


def write_json(uri: str, value: Any) -> None:  # noqa: ANN401 - JSON is any
    """Publish a JSON file atomically, as ``as_json``."""
    write_bytes(uri, as_json(value))


def as_json(value: Any) -> bytes:  # noqa: ANN401 - JSON is any
    """Sorted keys, two spaces, a final line end."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


@contextmanager
def open_for_publish(uri: str) -> Iterator[Any]:
    """A binary file that gets its final name when the block ends without an error."""
    if not is_local(uri):
        filesystem, path = fsspec.core.url_to_fs(uri)
        failpoint("storage.before_put")
        # Not fsspec.open: it would publish what a failing block has written.
        with filesystem.open(path, "wb") as file:
            yield file
        failpoint("storage.after_put")
        return
    with temporary_path(uri) as temporary, temporary.open("wb") as file:
        failpoint("storage.before_write")
        yield file
        file.flush()
        os.fsync(file.fileno())
        failpoint("storage.after_write")


@contextmanager
def temporary_path(uri: str) -> Iterator[Path]:
    """A local path for a library to write to; published as ``uri`` when the block ends."""
    if not is_local(uri):
        with tempfile.TemporaryDirectory(prefix="publish-") as folder:
            path = Path(folder) / uri.rsplit("/", 1)[-1]
            yield path
            publish_file(path, uri)
        return
    final = local_path(uri)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: libraries choose the format by it.
        name = f"{final.stem}{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}{final.suffix}"
        temporary = final.with_name(name)
        try:
            yield temporary
            failpoint("storage.before_rename")
            os.replace(temporary, final)
            failpoint("storage.after_rename")
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, uri) from error


def publish_file(source: Path, uri: str) -> None:
    """Copy a finished local file to its final place."""
    with source.open("rb") as reader, open_for_publish(uri) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A file as one of this machine, under its own name, for as long as the block lasts."""
    if is_local(uri):
        yield local_path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="copy-") as folder:
        copied = Path(folder) / uri.rsplit("/", 1)[-1]
        fetch_file(uri, copied)
        yield copied


def fetch_file(uri: str, target: Path) -> None:
    """Copy a file of a store to a local path."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.get_file(path, str(target))


def read_version(uri: str) -> tuple[bytes, str | None]:
    """A small file, and the name of this version of it where the store has one."""
    if not in_bucket(uri):
        return read_bytes(uri), None
    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem.read_version(path)


def write_over(uri: str, content: bytes, version: str | None) -> str | None:
    """Publish a small file over the version that was read; returns the name of the new one.

    Args:
        uri: The file.
        content: What it shall hold.
        version: As ``read_version`` named it; None where nothing was. Bound to it in buckets
            alone: elsewhere an existing file is replaced.

    Raises:
        FileExistsError: Somebody else has written since.
    """
    if not in_bucket(uri):
        write_bytes(uri, content)
        return None
    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem.put_over(path, content, version)


def for_arrow(uri: str) -> tuple[str, Any]:
    """Path and pyarrow file system of a place; None for a local one, which Arrow knows itself."""
    if is_local(uri):
        return uri, None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = fsspec.core.url_to_fs(uri)
    return path, PyFileSystem(FSSpecHandler(filesystem))


def sha256_of(uri: str) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    if in_bucket(uri):
        digest = hashlib.sha256()
        for piece in pieces(uri):
            digest.update(piece)
        return digest.hexdigest()
    with open_for_read(uri) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(uri: str) -> int:
    """Length of a file in bytes."""
    if is_local(uri):
        return local_path(uri).stat().st_size
    filesystem, path = fsspec.core.url_to_fs(uri)
    return int(filesystem.size(path))


def contained(root: str, inside: str) -> str | None:
    """The URI of a regular file below a folder.

    Args:
        root: The folder.
        inside: A path relative to it, from data that nobody has checked.

    Returns:
        None where a link leads out of the folder, where no file can have such a name, and where
        there is something else, such as a pipe. A file that does not exist has its URI.
    """
    uri = join(root, inside)
    if not is_local(root):
        return uri
    try:
        path = local_path(uri).resolve()
        if not path.is_relative_to(local_path(root).resolve()):
            return None
        return str(path) if path.is_file() or not path.exists() else None
    except (ValueError, RuntimeError, OSError):  # a NUL, a loop of links, a name too long
        return None


def remove_temporary(uri: str, *, below: bool = True) -> int:
    """Delete what a killed process left half-written in a folder; returns how many files.

    Args:
        uri: A folder to which nobody writes now.
        below: In the folders below it too.
    """
    if in_bucket(uri):
        filesystem, path = fsspec.core.url_to_fs(uri)
        return filesystem.abort_uploads(path, below=below)
    if not is_local(uri):
        return 0
    pattern = f"*{TEMPORARY_MARK}*"
    found = local_path(uri).rglob(pattern) if below else local_path(uri).glob(pattern)
    leftovers = [path for path in found if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def remove_file(uri: str) -> None:
    """Delete a file, if it is there."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    if filesystem.exists(path):
        filesystem.rm_file(path)


def remove_folder(uri: str) -> None:
    """Delete a folder with all that is in it, if it is there."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def explained(error: OSError, uri: str) -> StorageError | OSError:
    """Name path, bytes and remedy for a full disk; other errors stay what they are."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    existing = next(p for p in (local_path(uri), *local_path(uri).parents) if p.exists())
    free = shutil.disk_usage(existing).free
    return StorageError(f"{uri}: the disk is full ({free} bytes free); free space and run again")
