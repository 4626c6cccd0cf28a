"""A web of many hosts on loopback that does what hosts on the web do: well, badly, on purpose.

Names below ``.example`` are led to it by ``resolve``; ``raw.example`` speaks bare TCP.
"""

import asyncio
import contextlib
import functools
import gzip
import io
import socket
import struct
import threading
import time
import zlib

from aiohttp import web
from PIL import Image

from pipeline.images.config import CrawlConfig
from pipeline.images.crawl import crawl
from pipeline.images.fetch import Target
from tests.name_server import NameServer

AGENT = "TestBot/1.0 (+https://test.example/bot)"
MAX_BYTES = 50_000
DEADLINE_S = 1.0
BOMB_BYTES = 100_000_000


def picture_bytes(colour=(200, 30, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = picture_bytes()
OTHER_PICTURE = picture_bytes((30, 200, 30))
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


@functools.cache
def bomb():
    """A picture's first bytes and zeros without end, in a few hundred kilobytes of gzip."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [packer.compress(PICTURE)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(BOMB_BYTES >> 20)]
    return b"".join([*parts, packer.flush()])


class FaultServer:
    """Notes every request: host, path, agent, time, and the validator it carried."""

    def __init__(self):
        self.requests = []
        self.running, self.most = 0, 0
        self.counts = {}
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.names = NameServer()

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)
        self.loop.close()

    def reset(self):
        self.requests.clear()
        self.counts.clear()
        self.names.reset()
        self.most = 0

    def _run(self):
        self.loop.run_until_complete(self._serve())

    async def _serve(self):
        self.stop = asyncio.Event()
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await web.SockSite(runner, listener).start()
        raw = await asyncio.start_server(self.raw, "127.0.0.1", 0)
        self.raw_port = raw.sockets[0].getsockname()[1]
        await self.names.start()
        self.ready.set()
        await self.stop.wait()
        raw.close()
        self.names.transport.close()
        await runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def config(self, **fields):
        execution = {
            "nameservers": [f"127.0.0.1:{self.names.port}"],
            "resolve": {
                "raw.example": f"127.0.0.1:{self.raw_port}",
                "*.example": f"127.0.0.1:{self.port}",
            },
        }
        defaults = {
            "deadline_s": DEADLINE_S,
            "max_bytes": MAX_BYTES,
            "per_host_delay_s": 0.0,
            "num_retries": 2,
            "backoff_s": 0.01,
            "execution": execution | fields.pop("execution", {}),
        }
        return CrawlConfig(user_agent=AGENT, **(defaults | fields))

    def fetch(self, *urls, **fields):
        """The outcome of each address; keyword arguments are settings of the crawl."""
        targets = [Target(f"{index:032x}", url) for index, url in enumerate(urls)]
        return self.fetch_targets(targets, **fields)

    def fetch_targets(self, targets, num_partitions=1, **fields):
        return crawl(targets, self.config(**fields), lambda fetched: fetched, num_partitions)

    def seen(self, path):
        return [each for each in self.requests if each["path"] == path]

    def asked_of(self, host):
        return [each["path"] for each in self.requests if each["host"] == host]

    async def answer(self, request):
        host, path = request.host, request.path
        self.requests.append(
            {
                "host": host,
                "path": path,
                "agent": request.headers["User-Agent"],
                "etag": request.headers.get("If-None-Match"),
                "time_s": time.time(),
            }
        )
        self.counts[host, path] = self.counts.get((host, path), 0) + 1
        if path == "/robots.txt":
            return self.robots(host)
        if path == "/.well-known/tdmrep.json":
            return self.tdmrep(host)
        handler = getattr(self, "do_" + path.strip("/").split(".")[0].split("/")[0])
        return await handler(request)

    def robots(self, host):
        texts = {
            "closed.example": "User-agent: *\nDisallow: /\n",
            "named.example": "User-agent: testbot\nDisallow: /\n\nUser-agent: *\nAllow: /\n",
            "others.example": "User-agent: otherbot\nDisallow: /\n",
            "calm.example": "User-agent: *\nCrawl-delay: 0.2\n",
            "endless.example": "User-agent: *\nCrawl-delay: 1e9\n",
            "large.example": "User-agent: *\n" + "# padding\n" * 200_000 + "Disallow: /\n",
        }
        if host in texts:
            return web.Response(text=texts[host])
        if host == "broken.example":
            return web.Response(status=503)
        if host == "limited.example":
            return web.Response(status=429, headers={"Retry-After": "3600"})
        if host == "forbidden.example":
            return web.Response(status=403)
        if host == "moved.example":
            raise web.HTTPFound("http://closed.example/robots.txt")
        return web.Response(status=404)

    def tdmrep(self, host):
        rules = {
            "reserved.example": [{"location": "/", "tdm-reservation": 1}],
            "partly.example": [
                {"location": "/good/free", "tdm-reservation": 0},
                {"location": "/good*", "tdm-reservation": 1},
            ],
        }
        if host in rules:
            return web.json_response(rules[host])
        if host == "odd.example":
            return web.Response(text='{"location": "/"}', content_type="application/json")
        return web.Response(status=404)

    async def do_good(self, request):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        return web.Response(body=PICTURE, content_type="image/jpeg", headers={"ETag": '"v1"'})

    async def do_tagged(self, request):
        if request.headers.get("If-None-Match") == '"v1"':
            return web.Response(status=304, headers={"ETag": '"v1"'})
        return await self.do_good(request)

    async def do_changed(self, request):
        headers = {"ETag": '"v2"'}
        return web.Response(body=OTHER_PICTURE, content_type="image/jpeg", headers=headers)

    async def do_colour(self, request):
        """A picture of its own for each number: ``/colour/3.jpg``; it never changes."""
        number = int(request.path.split("/")[2].split(".")[0])
        body = picture_bytes((number * 37 % 256, number * 91 % 256, 90))
        return web.Response(body=body, content_type="image/jpeg")

    async def do_changing(self, request):
        """Other bytes at every request."""
        count = self.counts[request.host, request.path]
        body = picture_bytes((count % 256, 30, 30))
        return web.Response(body=body, content_type="image/jpeg")

    async def do_untyped(self, request):
        return web.Response(body=PICTURE, content_type="application/octet-stream")

    async def do_page(self, request):
        return web.Response(text="<html>", content_type="text/html")

    async def do_lie(self, request):
        return web.Response(text="<html>", content_type="image/jpeg")

    async def do_svg(self, request):
        return web.Response(text="<svg/>", content_type="image/svg+xml")

    async def do_gone(self, request):
        return web.Response(status=410)

    async def do_empty(self, request):
        return web.Response(status=204)

    async def do_big(self, request):
        return web.Response(body=PICTURE + bytes(100_000), content_type="image/jpeg")

    async def do_stream(self, request):
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        await response.prepare(request)
        await response.write(PICTURE + bytes(100_000))
        return response

    async def do_bomb(self, request):
        headers = {"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
        return web.Response(body=bomb(), headers=headers)

    async def do_zipped(self, request):
        headers = {"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
        return web.Response(body=gzip.compress(PICTURE), headers=headers)

    async def do_slow(self, request):
        await asyncio.sleep(5)
        return web.Response(body=PICTURE, content_type="image/jpeg")

    async def do_drip(self, request):
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        await response.prepare(request)
        for byte in PICTURE:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.1)
        return response

    def tagged(self, name, value):
        return web.Response(body=PICTURE, content_type="image/jpeg", headers={name: value})

    async def do_noai(self, request):
        return self.tagged("X-Robots-Tag", "noai, noimageai")

    async def do_ours(self, request):
        return self.tagged("X-Robots-Tag", "testbot: noindex, nofollow")

    async def do_theirs(self, request):
        return self.tagged("X-Robots-Tag", "otherbot: noai")

    async def do_reserved(self, request):
        return self.tagged("tdm-reservation", "1")

    async def do_hop(self, request):
        left = int(request.path.split("/")[2])
        raise web.HTTPFound(f"/hop/{left - 1}" if left > 1 else "/good.jpg")

    async def do_loop(self, request):
        raise web.HTTPFound(request.path)

    async def do_to(self, request):
        return web.Response(status=302, headers={"Location": request.query["url"]})

    async def do_moved(self, request):
        """A redirect that opts out itself."""
        return web.Response(status=302, headers={"Location": "/good.jpg", "X-Robots-Tag": "noai"})

    async def do_umlaut(self, request):
        return web.Response(status=302, headers={"Location": "http://b\u00fccher.example/good.jpg"})

    async def do_flaky(self, request):
        if self.counts[request.host, request.path] < 3:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return web.Response(body=PICTURE, content_type="image/jpeg")

    async def do_failing(self, request):
        """Fails as often as its address says: ``/failing/3.jpg``."""
        times = int(request.path.split("/")[2].split(".")[0])
        if self.counts[request.host, request.path] <= times:
            return web.Response(status=500)
        return web.Response(body=PICTURE, content_type="image/jpeg")

    async def do_error(self, request):
        return web.Response(status=500)

    async def do_busy(self, request):
        return web.Response(status=429)

    async def do_soon(self, request):
        if self.counts[request.host, request.path] == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(body=PICTURE, content_type="image/jpeg")

    async def do_later(self, request):
        return web.Response(status=503, headers={"Retry-After": "86400"})

    async def raw(self, reader, writer):
        """Does what aiohttp's server would never do; the site has no files of its own."""
        ends = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ends):
            request = await reader.readuntil(b"\r\n\r\n")
            path = request.split(b" ", 2)[1].decode()
            name = path.strip("/").partition(".")[0]
            handler = getattr(self, f"raw_{name}", self.raw_missing)
            try:
                await handler(writer)
            finally:
                writer.close()

    async def raw_missing(self, writer):
        writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async def raw_nothing(self, writer):
        pass

    async def raw_short(self, writer):
        writer.write(OK_HEAD + b"Content-Length: 9999\r\n\r\n" + PICTURE)

    async def raw_long(self, writer):
        """More bytes than the header says."""
        length = f"Content-Length: {len(PICTURE)}\r\nConnection: close\r\n\r\n".encode()
        writer.write(OK_HEAD + length + PICTURE + b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1000))

    async def raw_negative(self, writer):
        writer.write(OK_HEAD + b"Content-Length: -1\r\n\r\n" + PICTURE)

    async def raw_chunk(self, writer):
        """A chunk that is cut."""
        writer.write(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n" + PICTURE)

    async def raw_badzip(self, writer):
        writer.write(OK_HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + PICTURE)

    async def raw_endless(self, writer):
        writer.write(OK_HEAD + b"\r\n" + PICTURE)
        while True:
            writer.write(bytes(8192))
            await writer.drain()

    async def raw_header(self, writer):
        """A header without end."""
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Padding: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async def raw_silent(self, writer):
        await asyncio.sleep(5)

    async def raw_garbage(self, writer):
        writer.write(b"this is no HTTP\r\n\r\n")

    async def raw_oddtag(self, writer):
        """Header values that are no text."""
        tag = b'ETag: "\xff\xfe"\r\nX-Robots-Tag: \xff\r\nConnection: close\r\n\r\n'
        writer.write(OK_HEAD + tag + PICTURE)

    async def raw_oddplace(self, writer):
        head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n"
        writer.write(head + b"Location: http://a.example/\xff.jpg\r\n\r\n")

    async def raw_reset(self, writer):
        self._reset(writer)

    async def raw_resetting(self, writer):
        writer.write(OK_HEAD + b"Content-Length: 9999\r\n\r\n" + PICTURE)
        await writer.drain()
        await asyncio.sleep(0.05)
        self._reset(writer)

    @staticmethod
    def _reset(writer):
        """Closes with RST in place of FIN."""
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


class Listener:
    """A port that must never be contacted."""

    def __init__(self, host="127.0.0.1", port=0):
        self.contacts = 0
        self._socket = socket.create_server((host, port))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.contacts += 1
                connection.close()
