"""Makes WARC files from HTML pages, as Common Crawl writes them."""

import gzip
from pathlib import Path

PAGE = "http://site.example/blog/post.html"


def record(html, *, url=PAGE, status="200 OK", headers=(), kind="text/html; charset=utf-8"):
    """One response record; ``html`` is bytes where its encoding matters."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers]
    body = html if isinstance(html, bytes) else html.encode()
    payload = "\r\n".join([*lines, "", ""]).encode() + body
    warc = [
        "WARC/1.0",
        "WARC-Type: response",
        "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>",
        "WARC-Date: 2024-01-01T00:00:00Z",
        f"WARC-Target-URI: {url}",
        "Content-Type: application/http; msgtype=response",
        f"Content-Length: {len(payload)}",
    ]
    return "\r\n".join([*warc, "", ""]).encode() + payload + b"\r\n\r\n"


def archive(folder: Path, *records: bytes, name="a.warc.gz", cut=0) -> Path:
    """A file of these records, each a gzip member where the name ends in ``.gz``."""
    packed = [gzip.compress(r, mtime=0) if name.endswith(".gz") else r for r in records]
    content = b"".join(packed)
    (folder / name).write_bytes(content[: len(content) - cut])
    return folder / name
