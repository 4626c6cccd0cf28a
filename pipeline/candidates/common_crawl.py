"""Web archives (WARC) → candidates: every ``<img>`` of every page, with its text and its page.

Of one ``<img>`` one address is taken, because it shows one picture: ``data-src`` where a script
loads the picture later, else ``src``, else the first of ``srcset``; ``data:`` values stand
in for it and are passed over. The text is ``alt``, or ``title`` where ``alt`` is empty.
Addresses are made absolute against ``<base>`` and the page; the HTML parser unescapes entities
once. A page that opts out (``opt_outs``) gives nothing, before any request is sent.

A file that ends early or breaks gives what lies before the break and is named. FastWARC alone
reports neither a record shorter than it declares nor a gzip member without its end.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import pyarrow as pa
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import ElementNode, HTMLTree

from pipeline import storage
from pipeline.candidates import files, opt_outs, rows, schema, urls
from pipeline.candidates.config import WarcConfig
from pipeline.candidates.rows import Candidates, RawRows

ENDINGS = (".warc.gz", ".warc")
MAX_RECORD_BYTES = 32 << 20
"""Longer records are no web pages; they are passed over unread."""
HTML_TYPES = ("text/html", "application/xhtml+xml")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Page:
    """One HTML response of an archive."""

    url: str
    html: str
    robots_headers: tuple[str, ...]
    """Values of its X-Robots-Tag lines."""


def plan(config: WarcConfig) -> list[dict[str, Any]]:
    """One partition per archive, sorted by name."""
    return [{"type": "warc", "path": path} for path in files.expand(config.path, ENDINGS)]


def read(config: WarcConfig, partition: dict[str, Any]) -> Candidates:
    """The candidates of one archive; what is cut off or broken is named in ``damage``."""
    del config  # the partition says it all
    damage: list[str] = []
    tables: list[pa.Table] = []
    dropped: Counter[str] = Counter()
    for page in pages(str(partition["path"]), damage):
        found = candidates_of(page)
        tables.append(found.table)
        dropped.update(found.dropped)
    table = pa.concat_tables([rows.empty(), *tables]).combine_chunks()
    return Candidates(table, dict(dropped), damage)


def candidates_of(page: Page) -> Candidates:
    """The candidates of one page; all of them fall where the page opts out."""
    tree = HTMLTree.parse(page.html)
    pairs = [pair for image in _elements(tree, "img") if (pair := _pair(image)) is not None]
    if opt_outs.header_opts_out(page.robots_headers) or _meta_opts_out(tree):
        return Candidates(rows.empty(), {schema.OPTED_OUT_PAGE: len(pairs)} if pairs else {})
    base = _base(tree, page.url)
    return rows.build(
        RawRows(
            urls=[_joined(base, address) for address, _ in pairs],
            captions=[text for _, text in pairs],
            page_urls=[urls.canonical(page.url)] * len(pairs),
        )
    )


def pages(path: str, damage: list[str]) -> Iterator[Page]:
    """The HTML pages of an archive, in order.

    Args:
        path: A ``.warc`` or ``.warc.gz`` file.
        damage: Receives a line per damaged place: file name, offset of the record, cause.
    """
    name, last = files.base_name(path), 0
    with storage.open_for_read(path) as file:
        try:
            for record in _responses(file):
                last = record.stream_pos
                declared = record.content_length
                record.freeze()
                if record.content_length < declared:
                    damage.append(
                        f"{name}: record at byte {last} declares {declared} bytes and holds "
                        f"{record.content_length}; the file is cut off"
                    )
                page = _page(record)
                if page is not None:
                    yield page
        except (OSError, EOFError) as error:
            if not files.is_damage(error):
                raise
            damage.append(f"{name}: unreadable after the record at byte {last}: {error}")
        if not damage and path.lower().endswith(".gz") and not _gzip_ends(file, last):
            damage.append(f"{name}: the gzip data after byte {last} has no end; it is cut off")


def _responses(file: Any) -> Iterable[WarcRecord]:  # noqa: ANN401 - any binary file object
    return ArchiveIterator(
        file,
        record_types=WarcRecordType.response,
        parse_http=False,
        max_content_length=MAX_RECORD_BYTES,
    )


def _page(record: WarcRecord) -> Page | None:
    """The page in a response, or None where it is no successful HTML response."""
    address = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    try:
        record.parse_http(auto_decode="all")
        headers = record.http_headers
        if headers is None or headers.status_code != 200 or record.reader is None:
            return None
        if (record.http_content_type or HTML_TYPES[0]).lower() not in HTML_TYPES:
            return None
        content = record.reader.read()
    except OSError:  # one response with broken headers or a broken encoding is no page
        return None
    charset = record.http_charset or detect_encoding(content, from_html_meta=True)
    robots = tuple(v for n, v in headers.items() if n.lower() == opt_outs.ROBOTS_HEADER)
    return Page(address, bytes_to_str(content, charset or "utf-8"), robots)


def _gzip_ends(file: Any, offset: int) -> bool:  # noqa: ANN401 - any binary file object
    """Whether the gzip members from a byte offset to the file's end are complete."""
    file.seek(offset)
    member, inside = zlib.decompressobj(wbits=31), False
    while data := file.read(CHUNK_BYTES):
        while data:
            try:
                member.decompress(data)
            except zlib.error:
                return False
            inside, data = not member.eof, member.unused_data
            if member.eof:
                member = zlib.decompressobj(wbits=31)
    return not inside


def _elements(tree: HTMLTree, tag: str) -> list[ElementNode]:
    document = tree.document
    return [] if document is None else list(document.get_elements_by_tag_name(tag))


def _attribute(element: ElementNode, name: str) -> str:
    return (element.getattr(name) or "").strip()


def _pair(image: ElementNode) -> tuple[str, str] | None:
    """Address as written and text of an ``<img>``; None where it has no address at all."""
    first_of_set = _attribute(image, "srcset").split(None, 1)[:1]
    addresses = (
        _attribute(image, "data-src"),
        _attribute(image, "src"),
        first_of_set[0].rstrip(",") if first_of_set else "",
    )
    written = [address for address in addresses if address]
    if not written:
        return None
    real = [address for address in written if address[:5].lower() != "data:"]
    return (real or ["data:"])[0], _attribute(image, "alt") or _attribute(image, "title")


def _meta_opts_out(tree: HTMLTree) -> bool:
    return any(
        opt_outs.meta_opts_out(_attribute(meta, "name"), _attribute(meta, "content"))
        for meta in _elements(tree, "meta")
    )


def _base(tree: HTMLTree, page_url: str) -> str:
    """The address that relative ones refer to: the first ``<base href>``, else the page."""
    written = [href for base in _elements(tree, "base") if (href := _attribute(base, "href"))]
    return (_joined(page_url, written[0]) or page_url) if written else page_url


def _joined(base: str, address: str) -> str | None:
    try:
        return urljoin(base, address)
    except ValueError:  # an unclosed bracket in the host
        return None
