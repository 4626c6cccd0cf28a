"""Makes WAT files from HTML pages, in the form that Common Crawl's extractor writes.

What stands where follows ia-web-commons (``ExtractingParseObserver``, ``HTTPResponseResource``) and
published records: numbers are strings, ``IMG@/src`` carries ``alt`` and ``title`` alone, the root
element's language is a meta named ``HTML@/lang``, ``data:`` values end at their comma, and of every
page there is a record for its request, its response and the crawler's own metadata.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

DATE = "2024-05-25T12:00:00Z"
CAPTURE_DATE = "2024-05-18T01:58:10Z"
MAX_DATA_CHARS = 128


@dataclass(frozen=True)
class HtmlPage:
    """A page as a server sent it."""

    url: str
    html: str
    status: int = 200
    headers: Mapping[str, str | list[str]] = field(default_factory=dict)


class _Extractor(HTMLParser):
    """Head and links of a page, in the order of its elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.head: dict[str, Any] = {}
        self.links: list[dict[str, str]] = []
        self._anchors: list[dict[str, str]] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in values:
            self._anchors.append(_link("A@/href", values["href"], values, ("target", "title")))
        elif tag == "img":
            if "src" in values:
                self.links.append(_link("IMG@/src", values["src"], values, ("alt", "title")))
        elif tag == "link" and "href" in values:
            found = _link("LINK@/href", values["href"], values, ("rel", "type"))
            self.head.setdefault("Link", []).append(found)
        elif tag == "script" and "src" in values:
            found = _link("SCRIPT@/src", values["src"], values, ("type",))
            self.head.setdefault("Scripts", []).append(found)
        else:
            self._other(tag, values)

    def _other(self, tag: str, values: dict[str, str]) -> None:
        if tag == "base" and "href" in values:
            self.head["Base"] = values["href"]
        elif tag == "title":
            self._in_title = True
        elif tag == "html":
            for name in ("lang", "xml:lang"):
                if name in values:
                    self._meta({"name": f"HTML@/{name}", "content": values[name]})
        elif tag == "meta":
            names = ("name", "rel", "content", "http-equiv", "property")
            found = {name: values[name] for name in names if name in values}
            if len(found) > 1:
                self._meta(found)

    def _meta(self, found: dict[str, str]) -> None:
        self.head.setdefault("Metas", []).append(found)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag == "a" and self._anchors:
            self.links.append(self._anchors.pop())

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.head["Title"] = data.strip()
        elif self._anchors and data.strip():
            self._anchors[-1]["text"] = data.strip()[:MAX_DATA_CHARS]


def _link(path: str, url: str, values: dict[str, str], more: tuple[str, ...]) -> dict[str, str]:
    if url.startswith("data:"):
        url = url[: url.find(",", 0, MAX_DATA_CHARS) + 1] or url[:MAX_DATA_CHARS]
    return {"path": path, "url": url} | {name: values[name] for name in more if name in values}


def envelope(page: HtmlPage) -> dict[str, Any]:
    """The JSON of a response's record."""
    extractor = _Extractor()
    extractor.feed(page.html)
    html: dict[str, Any] = {"Head": extractor.head} if extractor.head else {}
    if extractor.links:
        html["Links"] = extractor.links
    headers = {"Content-Type": "text/html; charset=utf-8", "Server": "nginx", **page.headers}
    return _record(
        page.url,
        "response",
        {
            "Actual-Content-Type": "application/http; msgtype=response",
            "HTTP-Response-Metadata": {
                "Response-Message": {
                    "Status": str(page.status),
                    "Version": "HTTP/1.1",
                    "Reason": "OK",
                },
                "Headers-Length": "317",
                "Headers": headers,
                "HTML-Metadata": html,
                "Entity-Length": str(len(page.html.encode())),
                "Entity-Digest": "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ",
                "Entity-Trailing-Slop-Length": "0",
            },
            "Trailing-Slop-Length": "4",
        },
    )


def beside(page: HtmlPage) -> list[dict[str, Any]]:
    """The JSON of the records that stand around a response: its request, the crawler's metadata."""
    request = {
        "Actual-Content-Type": "application/http; msgtype=request",
        "HTTP-Request-Metadata": {
            "Headers": {
                "User-Agent": "CCBot/2.0 (https://commoncrawl.org/faq/)",
                "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                "Accept-Encoding": "br,gzip",
                "Connection": "Keep-Alive",
            },
            "Request-Message": {"Path": "/", "Version": "HTTP/1.1", "Method": "GET"},
            "Entity-Digest": "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ",
        },
        "Trailing-Slop-Length": "4",
    }
    fields = {
        "Actual-Content-Type": "application/metadata-fields",
        "WARC-Metadata-Metadata": {
            "Metadata-Records": [
                {"Name": "fetchTimeMs", "Value": "123"},
                {"Name": "charset-detected", "Value": "UTF-8"},
            ]
        },
        "Trailing-Slop-Length": "0",
    }
    return [_record(page.url, "request", request), _record(page.url, "metadata", fields)]


def _record(url: str, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "Container": {
            "Filename": "CC-MAIN-20240518005810-20240518035810-00000.warc.gz",
            "Compressed": True,
            "Offset": "949",
            "Gzip-Metadata": {
                "Inflated-Length": "25358",
                "Footer-Length": "8",
                "Inflated-CRC": "536467295",
                "Deflate-Length": "5952",
                "Header-Length": "10",
            },
        },
        "Envelope": {
            "Format": "WARC",
            "WARC-Header-Length": "647",
            "WARC-Header-Metadata": {
                "WARC-Type": kind,
                "WARC-Date": CAPTURE_DATE,
                "WARC-Record-ID": "<urn:uuid:2cd3845f-df52-4a79-b668-3a96d50e5fed>",
                "Content-Length": "24707",
                "Content-Type": f"application/http; msgtype={kind}",
                "WARC-Warcinfo-ID": "<urn:uuid:ebb601fe-1e84-4e78-8104-902709383f99>",
                "WARC-Concurrent-To": "<urn:uuid:43771f4f-1f87-468e-baab-6fc750ef35d1>",
                "WARC-IP-Address": "128.199.40.232",
                "WARC-Target-URI": url,
                "WARC-Payload-Digest": "sha1:CYIY4H7KRQJBLBBRZLT4NSUPM4NG27KO",
                "WARC-Block-Digest": "sha1:U45OUWTVGO5ZPCXRAP5JJMF4OB4VXRQ5",
                "WARC-Identified-Payload-Type": "text/html",
            },
            "Block-Digest": "sha1:U45OUWTVGO5ZPCXRAP5JJMF4OB4VXRQ5",
            "Payload-Metadata": payload,
        },
    }


def packed(content: Mapping[str, Any] | bytes, url: str = "", date: str = DATE) -> bytes:
    """One record of a WAT file, as a gzip member."""
    payload = content
    if not isinstance(payload, bytes):
        payload = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    lines = [
        "WARC/1.0",
        "WARC-Type: metadata",
        f"WARC-Target-URI: {url}",
        f"WARC-Date: {date}",
        "WARC-Record-ID: <urn:uuid:a0102236-c2f0-4ef1-aca1-b53c7c30dcdc>",
        "WARC-Refers-To: <urn:uuid:2cd3845f-df52-4a79-b668-3a96d50e5fed>",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    return gzip.compress(head + payload + b"\r\n\r\n", compresslevel=6, mtime=0)


def write(path: Path, pages: Iterable[HtmlPage], date: str = DATE) -> Path:
    """Write a ``.wat.gz`` with three records per page."""
    with path.open("wb") as file:
        for page in pages:
            request, fields = beside(page)
            for content in (request, envelope(page), fields):
                file.write(packed(content, page.url, date))
    return path
