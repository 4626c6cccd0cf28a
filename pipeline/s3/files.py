"""Buckets as a file system: paths are ``bucket/key``, folders what keys share up to a ``/``.

Objects appear whole or not at all (`upload`); nothing is renamed, and no listing is remembered.
"""

import errno
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from pipeline.s3.requests import client, code_of, patiently, split
from pipeline.s3.upload import Upload

PIECE_BYTES = 16 << 20
"""Bytes that one request reads."""
READERS = 4
"""Requests at once that read one object."""


class S3FileSystem(AbstractFileSystem):
    """All buckets of one endpoint, as fsspec wants them."""

    protocol = ("s3", "s3a")

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - fsspec's
        """Ask nothing yet."""
        super().__init__(**options)
        self.client = client(os.getpid())

    # What there is.

    def info(self, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - fsspec's
        """Name, size and type of an object or of a folder that holds some.

        Raises:
            FileNotFoundError: There is neither.
        """
        path = str(self._strip_protocol(path))
        if "/" in path:
            with suppress(FileNotFoundError):  # then it may be a folder
                found = patiently(path, lambda: self.client.head_object(**split(path)))
                return {"name": path, "size": found["ContentLength"], "type": "file"}
        if next(self._pages(path, limit=1), {}).get("KeyCount"):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(errno.ENOENT, "no such object", f"s3://{path}")

    def exists(self, path: str, **options: Any) -> bool:  # noqa: ANN401 - fsspec's
        """Whether there is an object or a folder; a store that does not answer is no No."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:  # noqa: ANN401
        """Objects and folders directly below a folder; an object itself."""
        path = str(self._strip_protocol(path))
        bucket, found = path.partition("/")[0], []
        for page in self._pages(path, delimiter="/"):
            for folder in page.get("CommonPrefixes", ()):
                name = f"{bucket}/{folder['Prefix'].rstrip('/')}"
                found.append({"name": name, "size": 0, "type": "directory"})
            found += _objects(bucket, page)
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
        path = str(self._strip_protocol(path))
        bucket = path.partition("/")[0]
        found = {e["name"]: e for page in self._pages(path) for e in _objects(bucket, page)}
        return found if detail else sorted(found)

    def _pages(self, path: str, delimiter: str = "", limit: int = 1000) -> Iterator[dict[str, Any]]:
        """Answers to "what is below this folder"."""
        where = split(path)
        prefix = where["Key"] and where["Key"] + "/"
        asked = {"Bucket": where["Bucket"], "Prefix": prefix, "MaxKeys": limit}
        asked |= {"Delimiter": delimiter} if delimiter else {}
        while True:
            page = patiently(path, lambda: self.client.list_objects_v2(**asked))
            yield page
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

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
            return b"".join(self._pieces(path))
        if start is None or end is None or min(start, end) < 0:
            start, end, _ = slice(start, end).indices(self.info(path)["size"])
        return self._range(path, start, end)[0]

    def get_file(
        self,
        rpath: str,
        lpath: Any,  # noqa: ANN401 - fsspec's
        *arguments: Any,  # noqa: ANN401 - fsspec's
        **options: Any,  # noqa: ANN401 - fsspec's
    ) -> None:
        """Copy an object to a local file."""
        with Path(lpath).open("wb") as file:
            for piece in self._pieces(str(self._strip_protocol(rpath))):
                file.write(piece)

    def _pieces(self, path: str) -> Iterator[bytes]:
        """The content of an object in order, read ahead by a few requests at once."""
        first, size = self._range(path, 0, PIECE_BYTES)
        yield first
        if size <= PIECE_BYTES:
            return
        coming: deque[Future[tuple[bytes, int]]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="read-object") as threads:
            for start in range(PIECE_BYTES, size, PIECE_BYTES):
                end = min(start + PIECE_BYTES, size)
                coming.append(threads.submit(self._range, path, start, end))
                if len(coming) > READERS:
                    yield coming.popleft().result()[0]
            for piece in coming:
                yield piece.result()[0]

    def _range(self, path: str, start: int, end: int) -> tuple[bytes, int]:
        """Bytes of an object, as far as it has them, and its length."""
        if end <= start:
            return b"", 0
        asked = {**split(path), "Range": f"bytes={start}-{end - 1}"}

        def get() -> tuple[bytes, int]:
            try:
                answer = self.client.get_object(**asked)
            except ClientError as error:
                if code_of(error) == "InvalidRange":  # what an empty object has instead of bytes
                    return b"", 0
                raise
            length = answer.get("ContentRange", "").rpartition("/")[2]
            content = answer["Body"].read()
            return content, int(length or len(content))

        return patiently(path, get)

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
            return Upload(self.client, path)
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
        with Upload(self.client, path) as file:
            file.write(value)

    def read_version(self, path: str) -> tuple[bytes, str]:
        """A small object and the name of this version of it."""

        def get() -> tuple[bytes, str]:
            answer = self.client.get_object(**split(path))
            return answer["Body"].read(), answer["ETag"].strip('"')  # stores compare it bare

        return patiently(path, get)

    def put_over(self, path: str, value: bytes, version: str | None) -> str:
        """Put a small object over the version that was read, or (None) where none is.

        Returns:
            The name of the new version.

        Raises:
            FileExistsError: Somebody else has written, or removed it, since.
        """
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            put = patiently(
                path, lambda: self.client.put_object(**split(path), Body=value, **condition)
            )
            return put["ETag"].strip('"')
        except (FileExistsError, FileNotFoundError) as error:
            # The condition holds no longer where an earlier attempt succeeded unheard.
            try:
                content, own = self.read_version(path)
            except FileNotFoundError:
                content, own = b"", ""
            if content == value:
                return own
            raise FileExistsError(errno.EEXIST, "written by somebody else", path) from error

    def rm_file(self, path: str) -> None:
        """Delete an object, if it is there."""
        path = str(self._strip_protocol(path))
        patiently(path, lambda: self.client.delete_object(**split(path)))

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: ANN401
        """Delete an object, or all below a folder.

        One by one: a request for many at once carries a checksum that some stores do not know.
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

    def abort_uploads(self, path: str, *, below: bool = True) -> int:
        """Abort the uploads in a folder, or also below it, that nobody ends any more."""
        where = split(path)
        asked = {"Bucket": where["Bucket"], "Prefix": where["Key"] and where["Key"] + "/"}
        asked |= {} if below else {"Delimiter": "/"}
        pages = self.client.get_paginator("list_multipart_uploads").paginate(**asked)
        found = patiently(path, lambda: [u for page in pages for u in page.get("Uploads", ())])
        for upload in found:
            of = {name: upload[name] for name in ("Key", "UploadId")} | {"Bucket": where["Bucket"]}
            with suppress(FileNotFoundError):
                patiently(path, partial(self.client.abort_multipart_upload, **of))
        return len(found)


def _objects(bucket: str, page: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": f"{bucket}/{found['Key']}", "size": found["Size"], "type": "file"}
        for found in page.get("Contents", ())
        if not found["Key"].endswith("/")  # what some tools leave in the place of a folder
    ]


class _Reader(AbstractBufferedFile):
    """A seekable object; fsspec reads ahead."""
