import asyncio
import contextlib
import io
import socket
import threading
import time

import pytest
from aiohttp import web
from PIL import Image

from pipeline.images.config import CrawlConfig
from pipeline.images.crawl import crawl
from pipeline.images.fetch import Target

AGENT = "TestBot/1.0 (+https://test.example/bot)"


def picture_bytes():
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = picture_bytes()


class World:
    """A web of many hosts on one loopback port; notes every request."""

    def __init__(self):
        self.requests = []
        self.running, self.most = 0, 0
        self.flaky = 0
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)
        self.loop.close()

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
        self.ready.set()
        await self.stop.wait()
        raw.close()
        await runner.cleanup()

    async def raw(self, reader, writer):
        """Does what aiohttp's server would never do; robots.txt is empty."""
        request = await reader.readuntil(b"\r\n\r\n")
        if b"/robots.txt" in request:
            writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif b"/short" in request:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 9999\r\n\r\n"
            writer.write(head + PICTURE)
        elif b"/endless" in request:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8\xff")
            with contextlib.suppress(ConnectionError):  # the crawler hangs up, as it should
                while True:
                    writer.write(bytes(8192))
                    await writer.drain()
        elif b"/garbage" in request:
            writer.write(b"this is no HTTP\r\n\r\n")
        writer.close()

    async def answer(self, request):
        host, path = request.host, request.path
        self.requests.append((host, path, request.headers["User-Agent"]))
        if path == "/robots.txt":
            return self.robots(host)
        handler = getattr(self, "do_" + path.strip("/").split(".")[0].split("/")[0])
        return await handler(request)

    def robots(self, host):
        if host == "closed.example":
            return web.Response(text="User-agent: *\nDisallow: /\n")
        if host == "broken.example":
            return web.Response(status=503)
        if host == "moved.example":
            raise web.HTTPFound("http://closed.example/robots.txt")
        return web.Response(status=404)

    def seen(self, path):
        return [each for each in self.requests if each[1] == path]

    async def do_good(self, request):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        return web.Response(body=PICTURE, content_type="image/jpeg", headers={"ETag": '"v1"'})

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
        response = web.Response(body=PICTURE + bytes(3_000_000), content_type="image/jpeg")
        response.enable_compression(web.ContentCoding.gzip)
        return response

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

    async def do_noai(self, request):
        headers = {"X-Robots-Tag": "noai, noimageai"}
        return web.Response(body=PICTURE, content_type="image/jpeg", headers=headers)

    async def do_reserved(self, request):
        headers = {"tdm-reservation": "1"}
        return web.Response(body=PICTURE, content_type="image/jpeg", headers=headers)

    async def do_hop(self, request):
        left = int(request.path.split("/")[2])
        raise web.HTTPFound(f"/hop/{left - 1}" if left > 1 else "/good.jpg")

    async def do_loop(self, request):
        raise web.HTTPFound(request.path)

    async def do_inside(self, request):
        raise web.HTTPFound("http://10.0.0.1/secret.jpg")

    async def do_file(self, request):
        raise web.HTTPFound("file:///etc/hostname")

    async def do_closed(self, request):
        raise web.HTTPFound("http://closed.example/good.jpg")

    async def do_flaky(self, request):
        self.flaky += 1
        if self.flaky < 3:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return web.Response(body=PICTURE, content_type="image/jpeg")

    async def do_busy(self, request):
        return web.Response(status=429)

    async def do_later(self, request):
        return web.Response(status=503, headers={"Retry-After": "86400"})


@pytest.fixture(scope="module")
def world():
    with World() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(world):
    world.requests.clear()
    world.flaky = world.most = 0


def config(world, **fields):
    execution = {
        "resolve": {
            "raw.example": f"127.0.0.1:{world.raw_port}",
            "*.example": f"127.0.0.1:{world.port}",
        }
    }
    defaults = {
        "deadline_s": 1.0,
        "max_bytes": 50_000,
        "per_host_delay_s": 0.0,
        "num_retries": 2,
        "backoff_s": 0.01,
        "execution": execution,
    }
    return CrawlConfig(user_agent=AGENT, **(defaults | fields))


def fetch(world, *urls, **fields):
    targets = [Target(f"{index:032x}", url) for index, url in enumerate(urls)]
    return crawl(targets, config(world, **fields), lambda fetched: fetched)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.example/page.jpg", "wrong_content_type"),
        ("http://a.example/lie.jpg", "wrong_content_type"),
        ("http://a.example/svg.svg", "wrong_content_type"),
        ("http://a.example/gone.jpg", "http_error"),
        ("http://a.example/empty.jpg", "http_error"),
        ("http://a.example/busy.jpg", "http_error"),
        ("http://a.example/later.jpg", "http_error"),
        ("http://a.example/big.jpg", "too_many_bytes"),
        ("http://a.example/stream.jpg", "too_many_bytes"),
        ("http://a.example/bomb.jpg", "too_many_bytes"),
        ("http://a.example/slow.jpg", "timeout"),
        ("http://a.example/drip.jpg", "timeout"),
        ("http://a.example/noai.jpg", "opted_out_image"),
        ("http://a.example/reserved.jpg", "opted_out_image"),
        ("http://a.example/loop.jpg", "too_many_redirects"),
        ("http://a.example/hop/6", "too_many_redirects"),
        ("http://a.example/inside.jpg", "refused_address"),
        ("http://a.example/file.jpg", "invalid_url"),
        ("http://a.example/closed.jpg", "robots_disallowed"),
        ("http://closed.example/good.jpg", "robots_disallowed"),
        ("http://moved.example/good.jpg", "robots_disallowed"),
        ("http://broken.example/good.jpg", "robots_disallowed"),
        ("http://raw.example/short.jpg", "connection_error"),
        ("http://raw.example/garbage.jpg", "connection_error"),
        ("http://raw.example/nothing.jpg", "connection_error"),
        ("http://raw.example/endless.jpg", "too_many_bytes"),
        ("http://127.0.0.1:1/a.jpg", "refused_address"),
        ("http://127.1/a.jpg", "refused_address"),
        ("ftp://a.example/a.jpg", "invalid_url"),
        ("http://no-such-name.invalid/a.jpg", "dns_error"),
    ],
)
def test_each_fault_ends_in_its_own_reason_within_its_deadline(world, url, reason):
    before = time.monotonic()
    (found,) = fetch(world, url)
    assert found.drop_reason == reason
    assert found.body is None
    assert time.monotonic() - before < 4


def test_a_good_picture_comes_with_what_was_learned_on_the_way(world):
    (found,) = fetch(world, "http://a.example/good.jpg")
    assert found.body == PICTURE
    assert (found.drop_reason, found.status, found.etag, found.attempts) == (None, 200, '"v1"', 1)
    row = found.log_row()
    assert "body" not in row
    assert row["num_bytes"] == len(PICTURE)


def test_an_untyped_picture_is_told_by_its_first_bytes(world):
    assert fetch(world, "http://a.example/untyped")[0].body == PICTURE


def test_redirects_are_followed_up_to_the_limit(world):
    (found,) = fetch(world, "http://a.example/hop/5")
    assert found.body == PICTURE
    assert found.final_url == "http://a.example/good.jpg"


def test_what_may_pass_is_tried_again_and_nothing_else(world):
    flaky, gone, busy = fetch(
        world, *(f"http://a.example/{name}.jpg" for name in ("flaky", "gone", "busy"))
    )
    assert (flaky.body, flaky.attempts) == (PICTURE, 3)
    assert gone.attempts == 1
    assert busy.attempts == 3
    assert fetch(world, "http://a.example/later.jpg")[0].attempts == 1


def test_every_request_names_us_and_robots_txt_is_asked_for_once(world):
    fetch(world, *(f"http://a.example/good/{index}.jpg" for index in range(12)))
    assert {agent for *_, agent in world.requests} == {AGENT}
    assert len(world.seen("/robots.txt")) == 1


def test_nothing_is_asked_of_a_site_that_forbids_it(world):
    fetch(world, "http://closed.example/good.jpg", "http://a.example/closed.jpg")
    assert {path for host, path, _ in world.requests if host == "closed.example"} == {"/robots.txt"}


def test_one_host_never_sees_more_requests_at_once_than_allowed(world):
    urls = [f"http://a.example/good/{index}.jpg" for index in range(20)]
    fetch(world, *urls, per_host_concurrency=3)
    assert world.most == 3


def test_transfers_over_all_hosts_are_bounded(world):
    urls = [f"http://h{index % 10}.example/good/{index}.jpg" for index in range(40)]
    execution = config(world).execution.model_copy(update={"max_transfers": 4})
    found = fetch(world, *urls, execution=execution)
    assert world.most <= 4
    assert all(each.body == PICTURE for each in found)


def test_outcomes_come_back_in_the_order_of_the_targets(world):
    urls = [f"http://h{index % 3}.example/good/{index}.jpg" for index in range(9)]
    urls.insert(4, "http://a.example/slow.jpg")
    assert [found.url for found in fetch(world, *urls)] == urls


def test_a_private_host_is_reached_only_when_allowed(world):
    url = f"http://127.0.0.1:{world.port}/good.jpg"
    assert fetch(world, url)[0].drop_reason == "refused_address"
    assert world.requests == []
    allowed = fetch(world, url, allow_private_hosts=(f"127.0.0.1:{world.port}",))
    assert allowed[0].body == PICTURE


def test_a_dead_port_is_a_connection_error_and_robots_are_not_asked_again(world):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    execution = {"resolve": {"dead.example": f"127.0.0.1:{port}"}}
    found = fetch(world, *(f"http://dead.example/{i}.jpg" for i in range(3)), execution=execution)
    assert [each.drop_reason for each in found] == ["connection_error"] * 3
