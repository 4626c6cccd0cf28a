"""What every address of the small web answers: a function of the seed, the host and the path.

Nothing is stored: a picture is drawn and encoded when it is asked for, to the same bytes each time.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pipeline.demo import pages
from pipeline.demo.config import SmallWebConfig
from pipeline.demo.plan import (
    Pair,
    Picture,
    expected_counts,
    page_hosts,
    picture_host,
    plan_pairs,
    redirects_of,
)
from pipeline.demo.shapes import Scene, render
from pipeline.draws import hash64
from pipeline.errors import ConfigError

MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_BOMB_PX = 12_000
_NEAR_PX = 256
_BANNER_PX = (960, 160)
_SORRY = b"<!doctype html><html><head><title>Sorry</title></head><body>Not here.</body></html>\n"
_NOAI = ("noai", "noai, noimageai")


@dataclass(frozen=True)
class Response:
    """What a server sends, after waiting ``delay_s`` seconds."""

    status: int
    headers: dict[str, str]
    body: bytes
    delay_s: float = field(default=0.0)


class SmallWeb:
    """The small web of one configuration; ``pairs`` and ``pages`` hold its whole truth."""

    def __init__(self, config: SmallWebConfig) -> None:
        """Plan every page and picture; about 1 s for 6,000 pairs."""
        self.config = config
        first = page_hosts(config.num_hosts)
        self.hosts: tuple[str, ...] = tuple(sorted({*first, *(picture_host(h) for h in first)}))
        self.pairs: tuple[Pair, ...] = tuple(plan_pairs(config))
        self.pages: tuple[pages.Page, ...] = pages.plan_pages(list(self.pairs))
        self._by_url = {pair.url: pair for pair in reversed(self.pairs)}
        self._pages = {(page.host, page.path): page for page in self.pages}
        self._pictures: dict[tuple[str, str], Picture] = {}
        self._redirects: dict[tuple[str, str], str] = {}
        for pair in self.pairs:
            if pair.picture is not None:
                self._pictures[pair.picture.host, pair.picture.path] = pair.picture
            self._redirects |= redirects_of(pair, self.hosts)
        refused = (p for p in self._pictures.values() if p.kind == "robots_refused")
        self._refusing = {picture.host for picture in refused}

    def respond(self, host: str, path: str) -> Response:
        """Answer one request; ``path`` includes the query string."""
        address = (host, path)
        if address in self._pictures:
            return self._picture(self._pictures[address])
        if address in self._redirects:
            return Response(302, {"Location": self._redirects[address]}, b"")
        if address in self._pages:
            page = self._pages[address]
            return Response(200, page.headers, pages.page_html(page).encode())
        if path == "/robots.txt" and host in self.hosts:
            return self._robots(host)
        return Response(404, {"Content-Type": "text/html"}, _SORRY)

    def _robots(self, host: str) -> Response:
        """Hosts with a refused path say so; of the others half have no robots.txt."""
        if host not in self._refusing and hash64("robots", host) % 2:
            return Response(404, {"Content-Type": "text/html"}, _SORRY)
        text = pages.robots_txt(refuses=host in self._refusing)
        return Response(200, {"Content-Type": "text/plain"}, text.encode())

    def _picture(self, picture: Picture) -> Response:
        page_headers = {"Content-Type": "text/html"}
        if picture.kind in ("dead_link", "server_error"):
            return Response(404 if picture.kind == "dead_link" else 500, page_headers, _SORRY)
        if picture.kind == "wrong_type":
            return Response(200, page_headers, _SORRY)
        headers = {"Content-Type": MEDIA_TYPES[picture.encoding]}
        if picture.kind == "noai_header":
            headers["X-Robots-Tag"] = _NOAI[picture.seed % 2]
        delay_s = self.config.slow_s if picture.kind == "slow" else 0.0
        return Response(200, headers, body_of(picture), delay_s)

    def truth(self, url: str) -> tuple[str, Scene | None]:
        """The kind of the first pair with this address, and what its picture shows, if any."""
        pair = self._by_url[url]
        return pair.kind, pair.picture.scene if pair.picture else None

    def expected_counts(self) -> dict[str, int]:
        """Pairs of every kind (``plan.DROP_REASONS`` says what becomes of each)."""
        return expected_counts(self.config)


def write_warc(web: SmallWeb, path: Path) -> None:
    """Write all pages of the web as one gzip WARC, byte for byte the same each time."""
    pages.write_warc(web.pages, web.config.seed, path)


def body_of(picture: Picture) -> bytes:
    """Draw and encode a picture; about 5 ms of one core."""
    if picture.kind == "mislabelled":
        return _SORRY
    if picture.kind == "bomb":
        return _encoded(Image.new("1", (_BOMB_PX, _BOMB_PX)), "png")
    if picture.kind == "icon":
        side_px = 16 + picture.seed % 17
        return _encoded(render(picture.scene, side_px), picture.encoding)
    image = render(picture.scene)
    if picture.kind == "banner":
        image = image.resize(_BANNER_PX)
    if picture.kind == "near_copy":
        shrunk = picture.seed % 2 == 0
        image = image.resize((_NEAR_PX, _NEAR_PX)) if shrunk else image
        return _encoded(image, "jpg", quality=90 if shrunk else 60)
    body = _encoded(image, picture.encoding)
    return body[: len(body) // 2] if picture.kind == "truncated" else body


def _encoded(image: Image.Image, encoding: str, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    if encoding == "jpg":
        image.save(buffer, "JPEG", quality=quality)
    elif encoding == "png":
        image.save(buffer, "PNG", compress_level=1)
    elif encoding == "webp":
        image.save(buffer, "WEBP", quality=85, method=0)
    else:
        raise ConfigError(f"encoding={encoding}: the small web writes {', '.join(MEDIA_TYPES)}")
    return buffer.getvalue()
