"""Buckets that speak S3, in the cloud or on premises."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.stores.files import BucketFileSystem
from pipeline.stores.s3_requests import client, code_of, patiently, split
from pipeline.stores.uploads import Upload


class S3FileSystem(BucketFileSystem):
    """All buckets of one endpoint."""

    protocol = ("s3", "s3a")

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - fsspec's
        """Ask nothing yet."""
        super().__init__(**options)
        self.client = client(os.getpid())

    def size_of(self, path: str) -> int:
        """Bytes of an object."""
        return patiently(path, lambda: self.client.head_object(**split(path)))["ContentLength"]

    def pages(self, path: str, *, flat: bool, limit: int) -> Iterator[tuple[list[str], list[Any]]]:
        """Folders and objects below a folder."""
        asked = {**_folder(path), "MaxKeys": limit} | ({} if flat else {"Delimiter": "/"})
        bucket = asked["Bucket"]
        while True:
            page = patiently(path, lambda: self.client.list_objects_v2(**asked))
            folders = [f"{bucket}/{found['Prefix']}" for found in page.get("CommonPrefixes", ())]
            objects = [(f"{bucket}/{o['Key']}", o["Size"]) for o in page.get("Contents", ())]
            yield folders, objects
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def range_of(self, path: str, start: int, end: int) -> bytes:
        """Bytes of an object."""
        asked = {**split(path), "Range": f"bytes={start}-{end - 1}"}

        def get() -> bytes:
            try:
                return self.client.get_object(**asked)["Body"].read()
            except ClientError as error:
                if code_of(error) == "InvalidRange":  # what an empty object has instead of bytes
                    return b""
                raise

        return patiently(path, get)

    def new_object(self, path: str) -> Upload:
        """A new object."""
        return _Upload(self.client, path)

    def read_version(self, path: str) -> tuple[bytes, str]:
        """A small object and its entity tag."""

        def get() -> tuple[bytes, str]:
            answer = self.client.get_object(**split(path))
            return answer["Body"].read(), answer["ETag"].strip('"')  # stores compare it bare

        return patiently(path, get)

    def put_if(self, path: str, value: bytes, version: str | None) -> str:
        """Put under S3's condition on entity tags."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        asked = {**split(path), "Body": value, **condition}
        return patiently(path, lambda: self.client.put_object(**asked))["ETag"].strip('"')

    def rm_file(self, path: str) -> None:
        """Delete an object, if it is there."""
        path = str(self._strip_protocol(path))
        patiently(path, lambda: self.client.delete_object(**split(path)))

    def abort_uploads(self, path: str, *, below: bool = True) -> int:
        """Abort the uploads in a folder, or also below it, that nobody ends any more."""
        asked = _folder(path) | ({} if below else {"Delimiter": "/"})
        pages = self.client.get_paginator("list_multipart_uploads").paginate(**asked)
        found = patiently(path, lambda: [u for page in pages for u in page.get("Uploads", ())])
        for upload in found:
            of = {name: upload[name] for name in ("Key", "UploadId")} | {"Bucket": asked["Bucket"]}
            with suppress(FileNotFoundError):
                patiently(path, partial(self.client.abort_multipart_upload, **of))
        return len(found)


def _folder(path: str) -> dict[str, Any]:
    """Bucket and prefix of what lies in a folder."""
    where = split(path)
    return {"Bucket": where["Bucket"], "Prefix": where["Key"] and where["Key"] + "/"}


class _Upload(Upload):
    """An object in parts of a multipart upload."""

    def __init__(self, client: Any, path: str) -> None:  # noqa: ANN401 - boto3's
        super().__init__(path)
        self._client, self._where = client, split(path)
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []

    def _put(self, content: bytes) -> None:
        self._ask("put_object", Body=content)

    def _send(self, content: bytes) -> None:
        if not self._upload_id:
            self._upload_id = self._ask("create_multipart_upload")["UploadId"]
        number = len(self._parts) + 1
        of = {"UploadId": self._upload_id, "PartNumber": number}
        sent = self._ask("upload_part", **of, Body=content)
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    def _join(self) -> None:
        parts = {"Parts": self._parts}
        try:
            self._ask("complete_multipart_upload", UploadId=self._upload_id, MultipartUpload=parts)
        except FileNotFoundError:
            # No such upload any more: it may be that an earlier attempt succeeded unheard.
            if not self._is_there():
                raise

    def _is_there(self) -> bool:
        try:
            return self._ask("head_object")["ContentLength"] == self._num_bytes
        except FileNotFoundError:
            return False

    def _abort(self) -> None:
        if self._upload_id:
            # Asked once: where the store is away, whoever works here next aborts what is left.
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**self._where, UploadId=self._upload_id)

    def _ask(self, request: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - boto3's
        call = getattr(self._client, request)
        return patiently(self.name, lambda: call(**self._where, **more))
