"""A new object, whole or not at all: one put, or parts that are joined by the last request."""

import io
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.failpoints import failpoint
from pipeline.s3.requests import patiently, split

PART_BYTES = 32 << 20
"""Of an upload; S3 takes 10,000 parts, so an object may have 312 GiB."""


class Upload(io.RawIOBase):
    """A new object, there as soon as ``close`` returns; never where the block ends by an error."""

    mode = "wb"

    def __init__(self, client: Any, path: str) -> None:  # noqa: ANN401 - boto3's
        """Ask nothing yet."""
        self.name = path
        self._client, self._path, self._where = client, path, split(path)
        self._buffer, self._num_bytes = bytearray(), 0
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._num_bytes

    def write(self, data: Any) -> int:  # noqa: ANN401 - whatever has bytes
        """Append; full parts are sent."""
        size = memoryview(data).nbytes
        self._buffer += data
        self._num_bytes += size
        while len(self._buffer) >= PART_BYTES:
            self._send_part(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return size

    def close(self) -> None:
        """Publish the object."""
        if self.closed:
            return
        try:
            self._publish()
        except BaseException:
            self.discard()
            raise
        super().close()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self.closed:
            return
        super().close()
        self._buffer.clear()
        if self._upload_id:
            # Asked once: where the store is away, whoever works here next aborts what is left.
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**self._where, UploadId=self._upload_id)

    def __exit__(self, kind: Any, *rest: Any) -> None:  # noqa: ANN401 - Python's own
        """Publish, or after an error discard."""
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        """A writer that was forgotten published nothing."""
        super().close()

    def _send_part(self, content: bytes) -> None:
        if not self._upload_id:
            started = self._ask("create_multipart_upload")
            self._upload_id = started["UploadId"]
        number = len(self._parts) + 1
        failpoint("upload.before_part")
        of = {"UploadId": self._upload_id, "PartNumber": number}
        sent = self._ask("upload_part", **of, Body=content)
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    def _publish(self) -> None:
        content = bytes(self._buffer)
        if not self._upload_id:
            self._ask("put_object", Body=content)
            return
        if content:
            self._send_part(content)
        failpoint("upload.before_complete")
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

    def _ask(self, request: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - boto3's
        call = getattr(self._client, request)
        return patiently(self._path, lambda: call(**self._where, **more))
