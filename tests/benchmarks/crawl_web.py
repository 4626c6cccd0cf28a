"""A web of many hosts on loopback for the crawl's benchmarks, served from a process of its own.

Any path ``/<number>.jpg`` is a picture, any robots.txt has rules that forbid something else,
``/sent.json`` tells when pictures were sent since it was asked last, all else is missing;
every answer comes after the same delay, whatever host is asked for. Connections are kept alive for
whoever keeps them.
"""

import asyncio
import hashlib
import json
import multiprocessing
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

LATENCY_S = 0.02
SIDES_PX = (384, 1024)
NUM_SCENES = 8
"""Pictures are cut out of so many larger scenes."""
QUALITY = 85
ROBOTS = b"User-agent: *\nDisallow: /admin/\nDisallow: /search\nAllow: /\n"
FALLOFF = 1.25
"""Amplitudes of a scene fall with this power of the frequency: about 0.25 bytes per pixel."""


def write_pictures(folder: Path, num: int) -> None:
    """``<number>.jpg``: distinct JPEGs whose sides lie between 384 and 1,024 px."""
    scenes = [_scene(seed) for seed in range(min(num, NUM_SCENES))]
    for number in range(num):
        rng = np.random.default_rng([1, number])
        width, height = (int(side) for side in rng.integers(SIDES_PX[0], SIDES_PX[1] + 1, 2))
        left, top = (int(rng.integers(0, SIDES_PX[1] * 2 - side)) for side in (width, height))
        scene = scenes[number % len(scenes)].crop((left, top, left + width, top + height))
        scene.save(folder / f"{number}.jpg", quality=QUALITY)


def _scene(seed: int) -> Image.Image:
    """Noise with the spectrum of photographs, most of it common to the three channels."""
    rng, side = np.random.default_rng([0, seed]), SIDES_PX[1] * 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    amplitude = np.maximum(frequency, 1) ** -FALLOFF

    def field() -> np.ndarray:
        phases = np.exp(2j * np.pi * rng.random(amplitude.shape))
        return np.fft.irfft2(amplitude * phases, (side, side))

    common = field()
    scene = np.stack([common + 0.3 * field() for _ in range(3)], axis=-1)
    scene = 120 + 50 * (scene - scene.mean()) / scene.std()
    return Image.fromarray(scene.clip(0, 255).astype(np.uint8))


def input_sha256(folder: Path, num: int) -> str:
    """Hash of all pictures, in order."""
    digest = hashlib.sha256()
    for number in range(num):
        digest.update((folder / f"{number}.jpg").read_bytes())
    return digest.hexdigest()


@contextmanager
def serving(folder: Path, num: int, latency_s: float = LATENCY_S) -> Iterator[int]:
    """Serve pictures while the block runs, each answer after ``latency_s``; the port."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(folder, num, latency_s, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join(10)


def sent_since(port: int) -> list[float]:
    """When pictures were sent, by the server's clock, since this was called last."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/sent.json") as answer:
        return json.load(answer)


def _serve(folder: Path, num: int, latency_s: float, told: Connection) -> None:
    answers = [_answer(200, (folder / f"{n}.jpg").read_bytes(), "image/jpeg") for n in range(num)]
    sent: list[float] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Protocol(answers, latency_s, sent), "127.0.0.1", 0, backlog=4096
        )
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def _answer(status: int, body: bytes, kind: str) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


ROBOTS_ANSWER = _answer(200, ROBOTS, "text/plain")
MISSING = _answer(404, b"", "text/plain")


class _Protocol(asyncio.Protocol):
    """Just enough HTTP: a GET without a body, answered after the delay."""

    def __init__(self, answers: Sequence[bytes], latency_s: float, sent: list[float]) -> None:
        self._answers, self._latency_s, self._received = answers, latency_s, b""
        self._sent = sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            request, _, self._received = self._received.partition(b"\r\n\r\n")
            path = request.split(b" ", 2)[1]
            closes = b"connection: close" in request.lower()
            asyncio.get_running_loop().call_later(self._latency_s, self._send, path, closes)

    def _send(self, path: bytes, closes: bool) -> None:
        if self._transport.is_closing():
            return
        name = path.rpartition(b"/")[2]
        if name == b"robots.txt":
            self._transport.write(ROBOTS_ANSWER)
        elif name.endswith(b".jpg"):
            self._sent.append(time.monotonic())
            self._transport.write(self._answers[int(name[:-4])])
        elif name == b"sent.json":
            self._transport.write(_answer(200, json.dumps(self._sent).encode(), "application/json"))
            self._sent.clear()
        else:
            self._transport.write(MISSING)
        if closes:
            self._transport.close()
