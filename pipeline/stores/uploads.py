"""A new object, whole or not at all: one request, or parts that the last request joins."""

import io
from abc import ABC, abstractmethod
from typing import Any

from pipeline.failpoints import failpoint

PART_BYTES = 32 << 20
"""Of an upload. S3 takes 10,000 parts, so an object may have 312 GiB there."""


class Upload(io.RawIOBase, ABC):
    """A new object, there as soon as ``close`` returns; never where the block ends by an error."""

    mode = "wb"

    def __init__(self, path: str) -> None:
        """Ask nothing yet."""
        self.name = path
        self._buffer, self._num_bytes = bytearray(), 0
        self._num_parts = 0

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
            self._next_part(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return size

    def close(self) -> None:
        """Publish the object."""
        if self.closed:
            return
        try:
            self._publish(bytes(self._buffer))
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
        if self._num_parts:
            self._abort()

    def __exit__(self, kind: Any, *rest: Any) -> None:  # noqa: ANN401 - Python's own
        """Publish, or after an error discard."""
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        """A writer that was forgotten published nothing."""
        super().close()

    def _next_part(self, content: bytes) -> None:
        self._num_parts += 1
        failpoint("upload.before_part")
        self._send(content)

    def _publish(self, rest: bytes) -> None:
        if not self._num_parts:
            self._put(rest)
            return
        if rest:
            self._next_part(rest)
        failpoint("upload.before_complete")
        self._join()

    @abstractmethod
    def _put(self, content: bytes) -> None:
        """Publish a small object by one request."""

    @abstractmethod
    def _send(self, content: bytes) -> None:
        """Send the next part; the first one begins the upload, the last one may be shorter."""

    @abstractmethod
    def _join(self) -> None:
        """Make an object of all parts."""

    @abstractmethod
    def _abort(self) -> None:
        """Forget the parts; where the store is away they stay, and no object."""
