"""Extracts of a web archive (WAT) → the pictures of their HTML pages.

A WAT file holds one JSON document per record of its archive (``Envelope``: whose record it is;
``Payload-Metadata.HTTP-Response-Metadata``: ``Headers``, ``HTML-Metadata.Head`` with ``Base`` and
``Metas``, ``HTML-Metadata.Links``). Of an ``<img>`` it has ``{"path": "IMG@/src", "url": …}`` and
``alt`` and ``title`` where the page has them, entities unescaped; the root element's language is
the meta ``HTML@/lang``. A name that comes twice, such as a header, has a list for a value.

Parsing every document whole costs more than unpacking it, and nearly all of it is links of other
kinds. So the few values that matter are searched and parsed where they stand, by ``MARKS`` that no
page can write. A quotation mark inside a JSON string is always escaped, so the last one of a mark
ends a name, and what follows is that name's value. A page decides many values, and the names of its
headers, ``Metas`` among them; but all of those have a text for a value, or a list of texts. A name
that has an object, or a list of objects, is the extractor's own. Of the names inside such an
object none is searched: it is parsed. The beginning of a link is ``{"path":"IMG@/src"``, where a
brace before a quotation mark opens an object, and the only object whose names a page decides is
``Headers``. A document whose headers have that path, or that is written otherwise (spaces, another
order of a link's names), is parsed whole.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastwarc.warc import WarcRecordType

from pipeline.candidates import archives, files, opt_outs
from pipeline.candidates.pages import Page, Picture, language_tag

PATH = "IMG@/src"
LINK = f'{{"path":"{PATH}"'
MARKS = [
    URI_MARK := '"WARC-Header-Metadata":{',
    MESSAGE_MARK := '"Response-Message":{',
    HEADERS_MARK := '"Headers":{',
    HEAD_MARK := '"Head":{',
    METAS_MARK := '"Metas":[{',
]
LANGUAGE_METAS = ("HTML@/lang", "HTML@/xml:lang")
ENTITIES_UNTIL = "2019-06"
"""Extracts made before this month hold raw entities; those from CC-MAIN-2019-26 on do not."""

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class _Response:
    """The values of a document that matter; of any type, for nobody has checked them."""

    url: Any
    message: Any
    headers: Any
    base: Any
    metas: Any
    links: list[Any]


def pages(path: str, damage: list[str]) -> Iterator[Page]:
    """The pages of an extract that show pictures, in order; ``damage`` gets a line per place."""
    for record in archives.records(path, WarcRecordType.metadata, damage):
        content = record.reader.read()
        if b'"IMG@' not in content:  # requests, pages without pictures, the crawler's own notes
            continue
        try:
            page = read_page(content)
        except ValueError as error:
            where = f"{files.base_name(path)}: record at byte {record.stream_pos}"
            damage.append(f"{where} holds no document: {error}")
            continue
        if page is not None:
            made = record.headers.get("WARC-Date") or ENTITIES_UNTIL
            yield _unescaped(page) if made < ENTITIES_UNTIL else page


def read_page(document: bytes) -> Page | None:
    """The page of one document; None where it is no successful response.

    Raises:
        ValueError: It is no JSON, or no UTF-8.
    """
    text = document.decode()
    found = _searched(text) or _parsed(text)
    if not isinstance(found.url, str) or _of(found.message, "Status") not in ("200", 200):
        return None
    metas = [meta for meta in _list(found.metas) if isinstance(meta, dict) and "name" in meta]
    refuses = opt_outs.header_opts_out(_robots(found.headers)) or _meta_opts_out(metas)
    language = _language(metas)
    pictures = [
        Picture(address, _text(link, "alt") or _text(link, "title"), language)
        for link in found.links
        if (address := _text(link, "url"))
    ]
    base = found.base.strip() if isinstance(found.base, str) else ""
    return Page(found.url.strip("<>"), base, pictures, refuses)


def _searched(text: str) -> _Response | None:
    """The values of a document, found without parsing the rest; None where it is not compact."""
    links = []
    place = text.find(LINK)
    while place >= 0:
        link, end = _decode(text, place)
        links.append(link)
        place = text.find(LINK, end)
    if not links or len(links) != text.count(f'"{PATH}"'):
        return None
    headers = _value(text, HEADERS_MARK, "{")
    if _of(headers, "path") == PATH:
        return None
    # Only the object around it tells a base from a header of that name; few pages have either.
    base = _of(_value(text, HEAD_MARK, "{"), "Base") if '"Base":"' in text else None
    return _Response(
        url=_of(_value(text, URI_MARK, "{"), "WARC-Target-URI"),
        message=_value(text, MESSAGE_MARK, "{"),
        headers=headers,
        base=base,
        metas=_value(text, METAS_MARK, "[{"),
        links=links,
    )


def _value(text: str, mark: str, opening: str) -> Any:  # noqa: ANN401 - any JSON value
    """The value that begins with the last characters of a mark; None where the mark is missing."""
    place = text.find(mark)
    return None if place < 0 else _decode(text, place + len(mark) - len(opening))[0]


def _parsed(text: str) -> _Response:
    """The same values, from the places where the format has them."""
    envelope = _of(json.loads(text), "Envelope")
    response = _of(_of(envelope, "Payload-Metadata"), "HTTP-Response-Metadata")
    page = _of(response, "HTML-Metadata")
    head = _of(page, "Head")
    return _Response(
        url=_of(_of(envelope, "WARC-Header-Metadata"), "WARC-Target-URI"),
        message=_of(response, "Response-Message"),
        headers=_of(response, "Headers"),
        base=_of(head, "Base"),
        metas=_of(head, "Metas"),
        links=[link for link in _list(_of(page, "Links")) if _of(link, "path") == PATH],
    )


def _of(value: Any, name: str) -> Any:  # noqa: ANN401 - any JSON value
    return value.get(name) if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
    """A value that may be there once, several times, or not at all."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(found: dict[str, Any], name: str) -> str:
    """A string without outer white space; of a repeated name the first, empty where it is none."""
    value = found.get(name)
    if isinstance(value, list) and value:
        value = value[0]
    return value.strip() if isinstance(value, str) else ""


def _robots(headers: Any) -> list[str]:  # noqa: ANN401 - any JSON value
    """Values of X-Robots-Tag, in any spelling of its name."""
    if not isinstance(headers, dict):
        return []
    found = [headers[name] for name in headers if name.lower() == opt_outs.ROBOTS_HEADER]
    return [value for each in found for value in _list(each) if isinstance(value, str)]


def _meta_opts_out(metas: list[dict[str, Any]]) -> bool:
    return any(opt_outs.meta_opts_out(_text(m, "name"), _text(m, "content")) for m in metas)


def _language(metas: list[dict[str, Any]]) -> str | None:
    found = [_text(meta, "content") for meta in metas if meta["name"] in LANGUAGE_METAS]
    return language_tag(next(filter(None, found), ""))


def _unescaped(page: Page) -> Page:
    pictures = [
        Picture(_unescape(address), _unescape(text), language)
        for address, text, language in page.pictures
    ]
    return Page(page.url, _unescape(page.base), pictures, page.opts_out)


def _unescape(text: str) -> str:
    """Entities that are whole, once: ``?a=1&copy=2`` stays what it is."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text
