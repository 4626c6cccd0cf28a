"""The HTML of the small web, as people write it, and the same pages as a Common Crawl WARC."""

import html
import posixpath
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastwarc.stream_io import GzipWriter
from fastwarc.warc import WarcRecord, WarcRecordType

from pipeline.demo.plan import Pair, pairs_by_host
from pipeline.draws import hash64, uniform

PAIRS_PER_PAGE = 24
DATE = "2026-01-01T00:00:00Z"
_BLANK = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_OPT_OUTS = ("meta", "header")


@dataclass(frozen=True)
class Page:
    """One HTML page; ``opt_out`` is empty, or says how it opts out: ``meta`` or ``header``.

    ``base`` is the value of its ``<base href>``, empty where it has none.
    """

    host: str
    path: str
    pairs: tuple[Pair, ...]
    opt_out: str
    base: str

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{self.host}{self.path}"

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers the page is sent with."""
        headers = {"Content-Type": "text/html; charset=utf-8"}
        return headers | ({"X-Robots-Tag": "noai"} if self.opt_out == "header" else {})


def plan_pages(pairs: list[Pair]) -> tuple[Page, ...]:
    """Spread all pairs over pages of their hosts; pairs that opt out get pages of their own."""
    pages = []
    for host, group in pairs_by_host(pairs).items():
        for opted_out in (False, True):
            chosen = [pair for pair in group if (pair.kind == "noai_page") == opted_out]
            for start in range(0, len(chosen), PAIRS_PER_PAGE):
                part = tuple(chosen[start : start + PAIRS_PER_PAGE])
                pages.append(_page(host, len(pages), part, opted_out))
    return tuple(pages)


def _page(host: str, number: int, pairs: tuple[Pair, ...], opted_out: bool) -> Page:
    opt_out = _OPT_OUTS[number % len(_OPT_OUTS)] if opted_out else ""
    base = f"http://{host}/pictures/" if number % 4 == 3 else ""
    return Page(host, f"/albums/{number:04d}.html", pairs, opt_out, base)


def page_html(page: Page) -> str:
    """Write a page: its own head, and one ``<img>`` per pair in one of several usual forms."""
    head = ['<meta charset="utf-8">', f"<title>Album {page.path[8:12]}</title>"]
    if page.opt_out == "meta":
        head.append('<meta name="robots" content="noai, noimageai">')
    if page.base:
        head.append(f'<base href="{page.base}">')
    figures = "\n".join(f"<p>{_tag(pair, page)}</p>" for pair in page.pairs)
    return (
        f"<!doctype html>\n<html><head>{''.join(head)}</head>\n<body>\n{figures}\n</body></html>\n"
    )


def _tag(pair: Pair, page: Page) -> str:
    """One ``<img>``: plain, with a title, lazily loaded by srcset, or with srcset beside src."""
    address = html.escape(_written(pair, page))
    text = _entities(pair)
    lot = uniform("form", pair.url, pair.caption, page.path)
    if lot < 0.06:
        return f'<img src="{_BLANK}" srcset="{address} 320w" alt="{text}">'
    if lot < 0.12:
        return f'<img src="{address}" srcset="{address} 1x" alt="{text}">'
    if lot < 0.30 and text:  # a crawler takes the title where the alt is empty
        return f'<img alt="{text}" title="see album {page.path[8:12]}" src="{address}" width=320>'
    return f'<img src="{address}" alt="{text}">'


def _written(pair: Pair, page: Page) -> str:
    """How the page writes the address: in full, from the root, or from the page or its base."""
    root = f"http://{page.host}"
    if not pair.url.startswith(root + "/"):
        return pair.url
    path = pair.url.removeprefix(root)
    form = hash64("address", pair.url, page.path) % 3
    if form == 0:
        return pair.url
    if form == 1:
        return path
    start = page.base.removeprefix(root) if page.base else page.path
    plain, question, query = path.partition("?")
    return posixpath.relpath(plain, posixpath.dirname(start)) + question + query


def _entities(pair: Pair) -> str:
    """The caption as an attribute; one in ten writes its first letter as a character reference."""
    text = html.escape(pair.caption)
    if text and hash64("entity", pair.url) % 10 == 0:
        return f"&#{ord(text[0])};{text[1:]}"
    return text


def robots_txt(refuses: bool) -> str:
    """A host's robots.txt."""
    rule = "Disallow: /private/" if refuses else "Disallow:"
    return f"# the small web\nUser-agent: *\n{rule}\n"


def write_warc(pages: Sequence[Page], seed: int, path: Path) -> None:
    """Write pages as a gzip WARC in Common Crawl's form; the same bytes for the same pages.

    One ``warcinfo`` and one ``response`` record per page, each in a gzip member of its own.
    """
    writer = GzipWriter(str(path))
    _write(writer, WarcRecordType.warcinfo, f"info/{seed}", {}, b"software: small web\r\n")
    for page in pages:
        fields = {
            "WARC-Target-URI": page.url,
            "WARC-IP-Address": "127.0.0.1",
            "Content-Type": "application/http; msgtype=response",
        }
        _write(writer, WarcRecordType.response, f"{seed}/{page.url}", fields, _response(page))
    writer.close()


def _response(page: Page) -> bytes:
    body = page_html(page).encode()
    headers = page.headers | {"Content-Length": str(len(body))}
    return b"\r\n".join([b"HTTP/1.1 200 OK", *_lines(headers.items()), b"", body])


def _lines(headers: Iterable[tuple[str, str]]) -> list[bytes]:
    return [f"{name}: {value}".encode() for name, value in headers]


def _write(
    writer: GzipWriter, kind: WarcRecordType, name: str, fields: dict[str, str], content: bytes
) -> None:
    record = WarcRecord()
    urn = uuid.uuid5(uuid.NAMESPACE_URL, name).urn.removeprefix("urn:")
    record.init_headers(kind, record_urn=urn.encode())
    record.headers["WARC-Date"] = DATE
    for field, value in fields.items():
        record.headers[field] = value
    record.set_bytes_content(content)
    record.write(writer, checksum_data=True)
    writer.finish()
