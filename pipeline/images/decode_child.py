"""The process in which pictures of strangers are decoded, started by ``decoder``.

It reads frames from standard input (whether to encode, length, body) and answers each on standard
output (lengths, JSON, picture): the picture as the pool keeps it, or its RGB values row by row. The
kernel bounds what one picture may do: a timer of CPU time kills the process with SIGPROF, wherever
it is, and a limit of its address space makes allocations fail. It ends when its input ends, or
after some idle seconds.
"""

import json
import os
import resource
import select
import signal
import struct
import sys
import time
from typing import IO, Any

from PIL import Image

from pipeline.images.config import DecodeConfig
from pipeline.images.decode import Opened, Picture, decode, guarded, open_received
from pipeline.images.dedup import signature
from pipeline.images.resize import Size

REQUEST = struct.Struct(">?Q")
"""Whether the picture shall be encoded, and the length of its body."""
ANSWER = struct.Struct(">IQ")
"""Lengths of the JSON and of the picture, 0 where there is none."""
IDLE_S = 30.0
BYTES_PER_PIXEL = 32
"""What any of the formats needs per pixel of its header, on the way from file to file: an animated
WebP holds five to six copies of four channels."""
SPARE_BYTES = 256 << 20
"""For the body, the picture that is kept, and what allocators round up."""


def main() -> None:
    """Answer requests until there are no more."""
    config = DecodeConfig.model_validate_json(sys.argv[1])
    _prepare(config)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while select.select([requests], [], [], IDLE_S)[0]:
        header = requests.read(REQUEST.size)
        if len(header) < REQUEST.size:
            return
        is_encoded, num_bytes = REQUEST.unpack(header)
        body = requests.read(num_bytes)
        started_s = time.thread_time()  # the process's own clock stands between ticks, once timed
        signal.setitimer(signal.ITIMER_PROF, config.cpu_deadline_s)
        found, content = _examined(body, config, is_encoded=is_encoded)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(answers, {**found, "cpu_s": time.thread_time() - started_s}, content)


def _prepare(config: DecodeConfig) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends us
    if config.downscale in ("area", "bilinear") or not config.resize_only_if_bigger:
        import cv2  # before memory is measured

        cv2.setNumThreads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _address_space() + BYTES_PER_PIXEL * config.max_pixels + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _address_space() -> int:
    """Bytes of address space that this process uses now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _examined(
    body: bytes, config: DecodeConfig, *, is_encoded: bool
) -> tuple[dict[str, Any], bytes]:
    found = guarded(lambda: _kept(body, config) if is_encoded else _open(body, config))
    return ({"drop_reason": found}, b"") if isinstance(found, str) else found


def _kept(body: bytes, config: DecodeConfig) -> tuple[dict[str, Any], bytes] | str:
    picture = decode(body, config)
    if not isinstance(picture, Picture):
        return picture
    original = Size(picture.original_width, picture.original_height)
    return _described(picture.image, original), picture.encoded


def _open(body: bytes, config: DecodeConfig) -> tuple[dict[str, Any], bytes] | str:
    opened = open_received(body, config)
    if not isinstance(opened, Opened):
        return opened
    return _described(opened.image, opened.original), opened.image.tobytes()


def _described(image: Image.Image, original: Size) -> dict[str, Any]:
    signed = signature(image)
    return {
        "width": image.width,
        "height": image.height,
        "original_width": original.width,
        "original_height": original.height,
        "pixel_sha256": signed.pixel_sha256,
        "phash": signed.phash_hex,
        "thumbnail": signed.thumbnail.hex(),
    }


def _answer(answers: IO[bytes], found: dict[str, Any], content: bytes) -> None:
    header = json.dumps(found).encode()
    answers.write(ANSWER.pack(len(header), len(content)) + header)
    answers.write(content)
    answers.flush()


if __name__ == "__main__":
    main()
