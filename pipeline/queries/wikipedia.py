r"""Articles of Wikipedia's ``pages-articles`` dumps.

Reads ``.xml`` and ``.xml.bz2``, parts such as ``….xml-p1p41242.bz2``, multistream or not, as
https://dumps.wikimedia.org publishes them (MediaWiki's export format 0.6 and later, where a page
states its namespace). An article is a page of namespace 0 that is no redirect and holds wikitext;
of several revisions the last counts. The XML is cut by its tags instead of parsed: a dump escapes
every ``<`` of its texts, so ``<page>`` and ``</text>`` are what they seem.

A page belongs to the partition in which its ``<page>`` begins, so any partitioning gives the same
articles. A dump without ``</mediawiki>`` at its end was cut off, even between two streams.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import unescape

from pipeline import storage
from pipeline.candidates import files
from pipeline.queries.dump_files import Chunk, DumpRange
from pipeline.queries.wikitext import Namespaces

ENDINGS = (".xml", ".bz2")
INDEX_MARK = "-index"
"""In the names of the index files that lie beside multistream dumps."""
MAX_PAGE_BYTES = 64 << 20
"""A longer page is no article but damage; MediaWiki's own limit is 2 MiB per text."""
HEAD_BYTES = 1 << 20
REST_BYTES = 64
"""Kept of bytes without a page: the beginning of a tag, or the dump's end."""

ARTICLES, REDIRECTS, OTHER_NAMESPACES, NO_WIKITEXT = (
    "articles", "redirects", "other_namespaces", "no_wikitext",
)  # fmt: skip

_PAGE, _PAGE_END, _END = b"<page>", b"</page>", b"</mediawiki>"
_NAMESPACE = re.compile(rb'<namespace key="(-?\d+)"[^>]*>([^<]+)</namespace>')
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#x[\da-fA-F]{1,6}|amp|lt|gt|quot|apos);")
_MEDIA, _FILE, _CATEGORY = -2, 6, 14


@dataclass
class Reading:
    """What was met in a partition beside its articles."""

    pages: Counter[str] = field(default_factory=Counter)
    """Pages by what they are: articles, redirects, other_namespaces, no_wikitext."""
    damage: list[str] = field(default_factory=list)
    """One line per damaged place."""


def dump_paths(path: str) -> list[str]:
    """The dumps behind a path, sorted by name, without their index files.

    Raises:
        ConfigError: Nothing is there, or nothing readable.
    """
    found = [storage.absolute(each) for each in files.expand(path, ENDINGS)]
    return [each for each in found if INDEX_MARK not in files.base_name(each)]


def plan(path: str, partition_bytes: int) -> list[dict[str, Any]]:
    """Partitions of all dumps behind a path: byte ranges of about equal length."""
    rows = []
    for dump in dump_paths(path):
        size = storage.size_of(dump)
        num = max(1, size // partition_bytes)
        ends = [size * index // num for index in range(num + 1)]
        rows += [{"path": dump, "start": start, "end": end} for start, end in pairwise(ends)]
    return rows


def namespaces(path: str) -> Namespaces:
    """The link prefixes that a dump's head states, with the ones that every wiki has."""
    head = b""
    for chunk in DumpRange(path, 0, 1, []).chunks():
        head += chunk.content
        if _PAGE in head or len(head) > HEAD_BYTES:
            break
    named = [(int(key), html.unescape(name.decode())) for key, name in _NAMESPACE.findall(head)]
    return Namespaces().extended(
        [name for key, name in named if key in (_MEDIA, _FILE, _CATEGORY)],
        [name for key, name in named if key not in (_MEDIA, _FILE, _CATEGORY)],
    )


def articles(row: dict[str, Any], reading: Reading) -> Iterator[str]:
    """The wikitext of a partition's articles, in order.

    Args:
        row: One row of ``plan``.
        reading: Receives the numbers of pages and the damage.
    """
    part = DumpRange(row["path"], row["start"], row["end"], reading.damage)
    for page in _pages(part):
        kind, text = _article(page)
        reading.pages[kind] += 1
        if kind == ARTICLES:
            yield text


def _pages(part: DumpRange) -> Iterator[bytes]:
    """Every page that begins in a partition, from its tag up to its end tag."""
    buffer, num_own, chunk = b"", 0, None
    for chunk in part.chunks():
        if chunk.follows_gap:
            buffer, num_own = b"", 0
        buffer += chunk.content
        num_own = len(buffer) if chunk.is_own else num_own
        position = 0
        while 0 <= (first := buffer.find(_PAGE, position)) < num_own:
            last = buffer.find(_PAGE_END, first)
            if last < 0:
                break
            yield buffer[first:last]
            position = last + len(_PAGE_END)
        is_open = 0 <= first < num_own
        if not chunk.is_own and not is_open:
            return
        if is_open and len(buffer) - first > MAX_PAGE_BYTES:
            part.damage.append(f"{part.name}: a page of over {MAX_PAGE_BYTES} bytes is left out")
            position, is_open = len(buffer), False
        start = first if is_open else max(position, len(buffer) - REST_BYTES)
        buffer, num_own = buffer[start:], max(0, num_own - start)
    if not part.damage and _is_cut(part, chunk, buffer):
        part.note(storage.size_of(part.path), "the file ends without </mediawiki>; it is cut off")


def _is_cut(part: DumpRange, last: Chunk | None, rest: bytes) -> bool:
    """Whether the dump's end should be here and is not; a part of its tag may lie elsewhere."""
    if last is None:
        return part.start == 0
    ended = rest.rstrip()
    return last.is_own and not ended.endswith(_END) and not (ended and _END.endswith(ended))


def _article(page: bytes) -> tuple[str, str]:
    """What a page is, and its wikitext if it is an article."""
    revision = page.rfind(b"<revision>")
    if page.find(b"<ns>0</ns>", 0, revision) < 0:
        return OTHER_NAMESPACES, ""
    if page.find(b"<redirect ", 0, revision) >= 0:
        return REDIRECTS, ""
    start = page.find(b"<text", revision)
    model = page.find(b"<model>", revision, start)
    if model >= 0 and not page.startswith(b"<model>wikitext<", model):
        return NO_WIKITEXT, ""
    text = _content(page, start)
    return (REDIRECTS, "") if text[:64].lstrip()[:9].upper() == "#REDIRECT" else (ARTICLES, text)


def _content(page: bytes, start: int) -> str:
    """The text of a ``<text>`` element, unescaped once; empty where it was deleted."""
    first = page.find(b">", start) + 1
    last = page.find(b"</text>", first)
    if start < 0 or page[first - 2 : first] == b"/>" or last < 0:
        return ""
    text = page[first:last].decode("utf-8", errors="replace")
    if "&#" in text:
        return _REFERENCE.sub(lambda reference: html.unescape(reference[0]), text)
    return unescape(text, {"&quot;": '"'})
