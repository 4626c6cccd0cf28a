"""Buckets as a file system: paths are ``bucket/key``, folders what keys share up to a ``/``.

Objects appear whole or not at all (`uploads`); nothing is renamed, and no listing is remembered.
"""

import errno
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from pipeline.stores.uploads import Upload

PIECE_BYTES = 16 << 20
"""Bytes that one request reads."""
READERS = 4
"""Requests at once that read one object."""


class BucketFileSystem(AbstractFileSystem):
    """All buckets of one kind, as fsspec wants them; how they are asked, subclasses say."""

    # What a kind of bucket must know. Each raises FileNotFoundError, ConfigError or StorageError.

    def size_of(self, path: str) -> int:
        """Bytes of an object."""
        raise NotImplementedError

    def pages(self, path: str, *, flat: bool, limit: int) -> Iterator[tuple[list[str], list[Any]]]:
        """What is below a folder, a page at a time: folders (their paths), and (path, size).

        Args:
            path: The folder.
            flat: All objects below it instead of what is directly in it.
            limit: So many at most on a page.
        """
        raise NotImplementedError

    def range_of(self, path: str, start: int, end: int) -> bytes:
        """Bytes of an object from ``start`` up to ``end``, as far as it has them."""
        raise NotImplementedError

    def new_object(self, path: str) -> Upload:
        """A new object."""
        raise NotImplementedError

    def read_version(self, path: str) -> tuple[bytes, str]:
        """A small object and the name of this version of it."""
        raise NotImplementedError

    def put_if(self, path: str, value: bytes, version: str | None) -> str:
        """``put_over`` without its doubt; FileNotFoundError where the version was removed."""
        raise NotImplementedError

    def rm_file(self, path: str) -> None:
        """Delete an object, if it is there."""
        raise NotImplementedError

    def abort_uploads(self, path: str, *, below: bool = True) -> int:
        """Abort the uploads in a folder, or also below it, that nobody ends any more."""
        raise NotImplementedError

    # What there is.

    def info(self, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - fsspec's
        """Name, size and type of an object or of a folder that holds some.

        Raises:
            FileNotFoundError: There is neither.
        """
        path = str(self._strip_protocol(path))
        if "/" in path:
            with suppress(FileNotFoundError):  # then it may be a folder
                return _object(path, self.size_of(path))
        for folders, objects in self.pages(path, flat=True, limit=1):
            if folders or objects:
                return _folder(path)
        raise FileNotFoundError(errno.ENOENT, "no such object", self.unstrip_protocol(path))

    def exists(self, path: str, **options: Any) -> bool:  # noqa: ANN401 - fsspec's
        """Whether there is an object or a folder; a store that does not answer is no No."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:  # noqa: ANN401
        """Objects and folders directly below a folder; an object itself."""
        path, found = str(self._strip_protocol(path)), []
        for folders, objects in self.pages(path, flat=False, limit=1000):
            found += map(_folder, folders)
            found += _objects(objects)
        if not found:
            found = [self.info(path)]
        return found if detail else [each["name"] for each in found]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,  # noqa: ANN401 - fsspec's
    ) -> Any:  # noqa: ANN401 - fsspec's
        """All objects below a folder, by few requests where folders are not asked for."""
        if withdirs or maxdepth is not None:
            return super().find(path, maxdepth, withdirs, detail, **options)
        pages = self.pages(str(self._strip_protocol(path)), flat=True, limit=1000)
        found = {each["name"]: each for _, objects in pages for each in _objects(objects)}
        return found if detail else sorted(found)

    # What is read.

    def cat_file(
        self,
        path: str,
        start: int | None = None,
        end: int | None = None,
        **options: Any,  # noqa: ANN401 - fsspec's
    ) -> bytes:
        """The content of an object, or its bytes from ``start`` up to ``end``."""
        path = str(self._strip_protocol(path))
        if start is None and end is None:
            return b"".join(self.pieces(path))
        if start is None or end is None or min(start, end) < 0:
            start, end, _ = slice(start, end).indices(self.size_of(path))
        return self.range_of(path, start, end) if start < end else b""

    def get_file(
        self,
        rpath: str,
        lpath: Any,  # noqa: ANN401 - fsspec's
        *arguments: Any,  # noqa: ANN401 - fsspec's
        **options: Any,  # noqa: ANN401 - fsspec's
    ) -> None:
        """Copy an object to a local file."""
        with Path(lpath).open("wb") as file:
            for piece in self.pieces(str(self._strip_protocol(rpath))):
                file.write(piece)

    def pieces(self, path: str, num_bytes: int | None = None) -> Iterator[bytes]:
        """The content of an object in order, read ahead by a few requests at once.

        Args:
            path: The object.
            num_bytes: Its length, where that is known. Of a longer one a byte more is read, for
                whoever compares the two.
        """
        start = 0
        if num_bytes is None:
            first = self.range_of(path, 0, PIECE_BYTES)
            yield first
            if len(first) < PIECE_BYTES:
                return
            start, num_bytes = PIECE_BYTES, self.size_of(path)
        coming = deque[Future[bytes]]()
        threads = ThreadPoolExecutor(READERS, thread_name_prefix="read-object")
        try:
            for at in range(start, num_bytes + 1, PIECE_BYTES):
                end = min(at + PIECE_BYTES, num_bytes + 1)
                coming.append(threads.submit(self.range_of, path, at, end))
                if len(coming) > READERS:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:  # after a failure nothing more is asked for
            threads.shutdown(cancel_futures=True)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = "default",  # noqa: ANN401 - fsspec's
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - fsspec's
    ) -> Any:  # noqa: ANN401 - two kinds of file
        if mode == "wb":
            return self.new_object(path)
        return _Reader(self, path, mode, block_size, cache_options=cache_options, **options)

    # What is written.

    def pipe_file(
        self,
        path: str,
        value: bytes,
        mode: str = "overwrite",
        **options: Any,  # noqa: ANN401 - fsspec's
    ) -> None:
        """Publish an object; with ``mode="create"`` only where there is none.

        Raises:
            FileExistsError: There is one.
        """
        path = str(self._strip_protocol(path))
        if mode == "create":
            self.put_over(path, value, None)
            return
        with self.new_object(path) as file:
            file.write(value)

    def put_over(self, path: str, value: bytes, version: str | None) -> str:
        """Put a small object over the version that was read, or (None) where none is.

        Returns:
            The name of the new version.

        Raises:
            FileExistsError: Somebody else has written, or removed it, since.
        """
        try:
            return self.put_if(path, value, version)
        except (FileExistsError, FileNotFoundError) as error:
            # The condition holds no longer where an earlier attempt succeeded unheard.
            try:
                content, own = self.read_version(path)
            except FileNotFoundError:
                content, own = b"", ""
            if content == value:
                return own
            raise FileExistsError(errno.EEXIST, "written by somebody else", path) from error

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: ANN401
        """Delete an object, or all below a folder.

        One by one: S3's request for many carries a checksum that some stores do not know.
        """
        if not recursive:
            self.rm_file(path)
            return
        with ThreadPoolExecutor(READERS, thread_name_prefix="delete-objects") as threads:
            list(threads.map(self.rm_file, self.find(path)))

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:  # noqa: ANN401
        """Nothing: a folder is there as soon as something is in it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing, likewise."""


def _objects(found: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Without what some tools leave in the place of a folder."""
    return [_object(path, size) for path, size in found if not path.endswith("/")]


def _object(path: str, size: int) -> dict[str, Any]:
    return {"name": path, "size": size, "type": "file"}


def _folder(path: str) -> dict[str, Any]:
    return {"name": path.rstrip("/"), "size": 0, "type": "directory"}


class _Reader(AbstractBufferedFile):
    """A seekable object; fsspec reads ahead."""
