"""Decodes pictures of strangers in a child process that can be killed, and outlives it.

One child serves one picture at a time and is used again; where a picture exceeds its CPU time or
brings the decoder down, the child is gone, the picture has its drop reason and the next one finds a
new child. What comes back is plain data of known length, never a pickled object, and the child has
none of this process's environment: no credentials are there to be taken.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from PIL import Image

from pipeline.images import decode_child
from pipeline.images.config import DecodeConfig
from pipeline.images.dedup import Signature

DECODE_TIMEOUT = "decode_timeout"
DECODE_CRASH = "decode_crash"
NUM_TRIES = 2
"""A child that somebody else killed says nothing about the picture; two in a row do."""


@dataclass(frozen=True)
class Decoded:
    """A picture as the pool keeps it, and what is known of it."""

    encoded: bytes
    """A JPEG."""
    width: int
    """Of the kept picture, in pixels."""
    height: int
    original_width: int
    """Of the received picture, upright."""
    original_height: int
    signature: Signature


@dataclass(frozen=True)
class DecodedPixels:
    """A received picture, upright and RGB, in the size in which it is kept; never encoded."""

    image: Image.Image
    signature: Signature


class Decoder:
    """Decodes one picture at a time, from whichever thread; a context manager."""

    def __init__(self, config: DecodeConfig) -> None:
        """Start nothing yet: the first picture does."""
        self.config = config
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.cpu_s = 0.0
        """CPU time of the children's decoding so far, which this process's own does not contain."""

    def __enter__(self) -> "Decoder":
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the child."""
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return None if self._child is None else self._child.pid

    def decode(self, body: bytes) -> Decoded | str:
        """Decode a received body and encode it for the pool.

        Returns:
            The picture, or its drop reason: one of ``decode.decode``'s, ``decode_timeout`` where it
            took more than ``cpu_deadline_s``, ``decode_crash`` where the decoder died of it.

        Raises:
            RuntimeError: The child does not work at all.
        """
        answer = self._answered(body, is_encoded=True)
        return answer if isinstance(answer, str) else _decoded(*answer)

    def pixels(self, body: bytes) -> DecodedPixels | str:
        """Decode a received body to pixels, which come through a pipe as they are.

        Returns:
            The picture, or its drop reason, as ``decode``; one of ``decode.open_received``'s.

        Raises:
            RuntimeError: The child does not work at all.
        """
        answer = self._answered(body, is_encoded=False)
        if isinstance(answer, str):
            return answer
        found, content = answer
        image = Image.frombytes("RGB", (found["width"], found["height"]), content)
        return DecodedPixels(image, _signature(found))

    def _answered(self, body: bytes, *, is_encoded: bool) -> tuple[dict[str, Any], bytes] | str:
        """What the child says of a picture, or a drop reason."""
        with self._lock:
            crashes = 0
            while crashes < NUM_TRIES:
                answer = self._ask(body, is_encoded=is_encoded)
                if not isinstance(answer, int):
                    found, _ = answer
                    self.cpu_s += found["cpu_s"]
                    return found.get("drop_reason") or answer
                if answer == -signal.SIGPROF:
                    self.cpu_s += self.config.cpu_deadline_s
                    return DECODE_TIMEOUT
                if answer > 0:
                    raise RuntimeError(
                        f"the process that decodes pictures ended with exit code {answer}, which "
                        "no picture can cause; its own error stands above in this log"
                    )
                crashes += answer < 0  # at 0 it was idle for long
            return DECODE_CRASH

    def close(self) -> None:
        """End the child; a later picture starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _ask(self, body: bytes, *, is_encoded: bool) -> tuple[dict[str, Any], bytes] | int:
        """The child's answer, or the code with which it ended before it gave one."""
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        lengths = decode_child.ANSWER
        try:
            child.stdin.write(decode_child.REQUEST.pack(is_encoded, len(body)))
            child.stdin.write(body)
            child.stdin.flush()
        except BrokenPipeError:
            return self._ended(child)
        start = child.stdout.read(lengths.size)
        if len(start) == lengths.size:
            header_length, length = lengths.unpack(start)
            header, content = child.stdout.read(header_length), child.stdout.read(length)
            if len(header) == header_length and len(content) == length:
                return json.loads(header), content
        return self._ended(child)

    def _ended(self, child: subprocess.Popen[bytes]) -> int:
        """Bury a child that has closed its end of the pipes, as only its death does."""
        self._child = None
        child.communicate()
        return child.returncode

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "ignore", "-m", decode_child.__name__]
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        return subprocess.Popen(
            [*command, self.config.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )


def _decoded(found: Mapping[str, Any], encoded: bytes) -> Decoded:
    return Decoded(
        encoded,
        found["width"],
        found["height"],
        found["original_width"],
        found["original_height"],
        _signature(found),
    )


def _signature(found: Mapping[str, Any]) -> Signature:
    thumbnail = bytes.fromhex(found["thumbnail"])
    return Signature(found["pixel_sha256"], int(found["phash"], 16), thumbnail)


_shared: list[Decoder] = []


@atexit.register
def _close_shared() -> None:
    for decoder in _shared:
        decoder.close()


def shared(config: DecodeConfig) -> Decoder:
    """This process's decoder for these settings: its child is ready for the next partition too.

    The child ends with this process, or after ``decode_child.IDLE_S`` without work.
    """
    if not _shared or _shared[0].config != config:
        _close_shared()
        _shared[:] = [Decoder(config)]
    return _shared[0]
