"""Responses of a web archive (WARC) → the pictures of their HTML pages.

Of one ``<img>`` one address is taken, because it shows one picture: ``data-src`` where a script
loads the picture later, else ``src``, else the first of ``srcset``; ``data:`` values stand
in for it and are passed over. The text is ``alt``, or ``title`` where ``alt`` is empty, or the
``<figcaption>`` of the nearest ``<figure>`` around it where both are. The language is the ``lang``
of the nearest element that has one. The HTML parser unescapes entities once.

Pages are not written for us, some are written against us: after the parser every element is visited
once at most, and what many pictures share (a language, a caption, a base) is bounded in length.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fastwarc.warc import WarcRecord, WarcRecordType
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import ElementNode, HTMLTree

from pipeline.candidates import archives, opt_outs
from pipeline.candidates.pages import Page, Picture, language_tag

HTML_TYPES = ("text/html", "application/xhtml+xml")
MAX_PAGE_BYTES = archives.MAX_RECORD_BYTES
"""A packed body is unpacked up to here."""
MAX_CAPTION_CHARS = 4096
"""A longer ``<figcaption>`` is a text of its own."""
UNPACKINGS = ("all", "content", "transfer", "none")
WIDER = {
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "iso8859-11": "cp874",
}
"""Python's names of the charsets that browsers mean by these (WHATWG Encoding §4.2)."""


def pages(path: str, damage: list[str]) -> Iterator[Page]:
    """The HTML pages of an archive, in order; ``damage`` receives a line per damaged place."""
    for record in archives.records(path, WarcRecordType.response, damage):
        page = _page(record)
        if page is not None:
            yield page


def _page(record: WarcRecord) -> Page | None:
    """The page in a response, or None where it is no successful HTML response."""
    response = _response(record.reader.read())
    if response is None:
        return None
    headers, content, charset = response
    address = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    robots = [v for n, v in headers if n.lower() == opt_outs.ROBOTS_HEADER]
    return read_page(address, _text(content, charset), robots)


def _response(
    message: bytes,
) -> tuple[tuple[tuple[str, str], ...], bytes, str] | None:
    """Headers, body and charset of a successful HTML response.

    Many archives unpack bodies and keep the headers that say how they were packed. A body that
    does not fit its headers is therefore taken with fewer of them. Each attempt has a record of
    its own: where one fails, FastWARC leaves the record without a reader, and the archive's own
    iterator could not go on from there.
    """
    for unpacking in UNPACKINGS:
        record = WarcRecord()
        record.set_bytes_content(message)
        record.is_http = True
        try:
            record.parse_http(auto_decode=unpacking)
            headers = record.http_headers
            if headers is None or headers.status_code != 200 or record.reader is None:
                return None
            if (record.http_content_type or HTML_TYPES[0]).lower() not in HTML_TYPES:
                return None
            return headers.items(), record.reader.read(MAX_PAGE_BYTES), record.http_charset or ""
        except OSError:  # broken headers, or a body that is not packed as they say
            continue
    return None


def _text(content: bytes, declared: str) -> str:
    """A page's text as browsers read it; what its charset cannot hold becomes U+FFFD.

    Args:
        content: Its bytes.
        declared: Charset of its Content-Type header, perhaps in quotes, perhaps no charset at all.
    """
    charset = map_encoding_to_html5(declared.strip("\"' "), fallback_utf8=False)
    if charset is None:
        charset = "utf-8" if _is_utf8(content) else detect_encoding(content, from_html_meta=True)
    # Markup in UTF-16 has a zero in every character; without any, the name is a mistake.
    if charset is None or (charset.startswith("utf-16") and b"\0" not in content):
        charset = "utf-8"
    # A further encoding to fall back on would turn a whole page for one bad byte.
    charset = WIDER.get(charset, charset)
    return bytes_to_str(content, charset, errors="replace", fallback_encodings=())


def _is_utf8(content: bytes) -> bool:
    """Whether bytes are UTF-8; no other charset's texts happen to be, but for ASCII's disguises."""
    if b"\0" in content or b"\x1b" in content:  # UTF-16 and ISO-2022-JP
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Place:
    """What an element has from itself or from those around it."""

    language: str | None = None
    figure: ElementNode | None = None
    caption: ElementNode | None = None
    """The outermost ``<figcaption>``: those inside it are parts of its text."""


def read_page(url: str, html: str, robots: list[str]) -> Page:
    """What a page shows and says of itself.

    Args:
        url: Address of the page.
        html: Its source.
        robots: Values of its X-Robots-Tag lines.
    """
    found: dict[str, list[ElementNode]] = {"base": [], "meta": [], "figcaption": [], "img": []}
    document = HTMLTree.parse(html).document
    if document is not None:
        for element in document.query_selector_all(",".join(found)).values():
            found.get(element.tag or "", []).append(element)
    hrefs = [href for base in found["base"] if (href := _attribute(base, "href"))]
    places: dict[ElementNode, _Place] = {}
    captions = _captions(found["figcaption"], places)
    pictures = [
        picture
        for image in found["img"]
        if (picture := _picture(image, _place(image, places), captions))
    ]
    refuses = opt_outs.header_opts_out(robots) or any(map(_meta_opts_out, found["meta"]))
    return Page(url, hrefs[0] if hrefs else "", pictures, refuses)


def _attribute(element: ElementNode, name: str) -> str:
    return (element.getattr(name) or "").strip()


def _picture(image: ElementNode, place: _Place, captions: dict[ElementNode, str]) -> Picture | None:
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
    text = _attribute(image, "alt") or _attribute(image, "title")
    if not text and place.figure is not None:
        text = captions.get(place.figure, "")
    return Picture((real or ["data:"])[0], text, place.language)


def _captions(
    elements: list[ElementNode], places: dict[ElementNode, _Place]
) -> dict[ElementNode, str]:
    """The text of each figure's first caption."""
    captions: dict[ElementNode, str] = {}
    for element in elements:
        place = _place(element, places)
        if place.caption is element and place.figure is not None and place.figure not in captions:
            text = " ".join((element.text or "").split())
            captions[place.figure] = text if len(text) <= MAX_CAPTION_CHARS else ""
    return captions


def _place(element: ElementNode, places: dict[ElementNode, _Place]) -> _Place:
    """Where an element stands; ``places`` remembers every one on the way to the root."""
    way: list[ElementNode] = []
    node: ElementNode | None = element
    while node is not None and node not in places:
        way.append(node)
        node = node.parent_element
    place = _Place() if node is None else places[node]
    for inner in reversed(way):
        place = places[inner] = _inside(place, inner)
    return place


def _inside(place: _Place, element: ElementNode) -> _Place:
    """The place of an element whose parent stands at this place."""
    if element.tag == "figure":
        place = replace(place, figure=element)
    elif element.tag == "figcaption" and place.caption is None:
        place = replace(place, caption=element)
    for name in ("lang", "xml:lang"):
        if element.hasattr(name):
            return replace(place, language=language_tag(_attribute(element, name)))
    return place


def _meta_opts_out(meta: ElementNode) -> bool:
    return opt_outs.meta_opts_out(_attribute(meta, "name"), _attribute(meta, "content"))
