r"""One form per address, ids made of it, and the registered domain that owns a host.

Two spellings of one address must be fetched once. The canonical form follows RFC 3986 §6.2.2 and
§6.2.3 (case, percent-encoding, dot segments, empty path, default port) and, where browsers read
an address differently (backslashes, white space inside), the WHATWG URL standard:

======================================================  ==========================================
address                                                 canonical form
======================================================  ==========================================
``HTTP://Example.COM:80``                               ``http://example.com/``
``https://example.com/a/./b/../c.jpg#top``              ``https://example.com/a/c.jpg``
``http://example.com/%7euser/a%2fb c.jpg``              ``http://example.com/~user/a%2Fb%20c.jpg``
``http://bücher.example/ä.jpg``                         ``http://xn--bcher-kva.example/%C3%A4.jpg``
``http:\\example.com\a.jpg``                            ``http://example.com/a.jpg``
``http://example.com/a.jpg?B=%7e&a``                    ``http://example.com/a.jpg?B=~&a``
``ftp://…``, ``http://user@example.com/``,              refused: no http(s), user information,
``http://0x7f.1/``, ``http://a.com:99999/``             an odd IPv4 spelling, no such port
======================================================  ==========================================

The suffix list is the one that ships in tldextract's wheel; nothing is ever fetched.
"""

import hashlib
import ipaddress
import posixpath
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote, unquote, urljoin

import idna
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tldextract
from jaxtyping import Int64

from pipeline.draws import hash64

MAX_URL_CHARS = 8192
LOCAL = "file:///"
DEFAULT_PORTS = {"http": "80", "https": "443"}

_SPLIT = re.compile(r"(https?):[/\\]{2}([^/\\?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?\Z", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::([0-9]{0,5}))?\Z")
_ASCII_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"[0-9]+\Z|0x[0-9a-f]*\Z")
_WHITE_SPACE_INSIDE = re.compile(r"[\t\n\r]")
_OUTER = "".join(map(chr, range(0x21)))
_UNRESERVED = r"A-Za-z0-9._~\-"
_PLAIN = re.compile(
    rf"https?://([a-z0-9.-]+)/[{_UNRESERVED}!$&'()*+,;=:@/]*(?:\?[{_UNRESERVED}!$&'()*+,;=:@/?]*)?\Z"
)
_BASE = re.compile(r"(https?:)(//[^/?#\\\s]+)(/[^?#\\\s]*)?(?:[?#]\S*)?\Z", re.IGNORECASE)
_PATH_TO_CHANGE = re.compile(rf"%[0-9A-Fa-f]{{2}}|[^{_UNRESERVED}!$&'()*+,;=:@/]")
_QUERY_TO_CHANGE = re.compile(rf"%[0-9A-Fa-f]{{2}}|[^{_UNRESERVED}!$&'()*+,;=:@/?]")
_IS_UNRESERVED = re.compile(rf"[{_UNRESERVED}]\Z")

_extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def canonical(url: str) -> str | None:
    """The one form of an absolute http(s) address; None where it is none we may contact."""
    if _is_canonical(url):
        return url
    url = _WHITE_SPACE_INSIDE.sub("", url.strip(_OUTER))
    parts = _SPLIT.match(url) if len(url) <= MAX_URL_CHARS else None
    if parts is None:
        return None
    scheme, authority = parts[1].lower(), _AUTHORITY.match(parts[2])
    if authority is None:
        return None
    host, port = _canonical_host(authority[1]), (authority[2] or "").lstrip("0")
    if host is None or (authority[2] and not 1 <= int(authority[2]) <= 65535):
        return None
    try:
        path = _PATH_TO_CHANGE.sub(_percent, parts[3].replace("\\", "/"))
        query = "" if parts[4] is None else "?" + _QUERY_TO_CHANGE.sub(_percent, parts[4])
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
        return None
    where = host if port in ("", DEFAULT_PORTS[scheme]) else f"{host}:{port}"
    return f"{scheme}://{where}{_without_dot_segments(path)}{query}"


def local(path: str) -> str | None:
    """The address of a file in a source's own folder; None where the path leads out of it.

    ``birds/100%.jpg`` has the address ``file:///birds/100%25.jpg``, wherever the folder lies, so
    that its id stays the same when the folder moves. Tables of addresses cannot name such files:
    ``canonical`` refuses every scheme but http and https.

    Args:
        path: Relative to the folder.
    """
    inside = posixpath.normpath(path)
    if inside.startswith(("/", "../")) or inside in (".", ".."):
        return None
    try:
        return LOCAL + quote(inside)
    except UnicodeEncodeError:  # a name that is no UTF-8
        return None


def local_path(url: str) -> str | None:
    """The path behind a ``local`` address, relative to its folder; None for other addresses."""
    return unquote(url.removeprefix(LOCAL)) if url.startswith(LOCAL) else None


def _is_canonical(url: str) -> bool:
    """Whether an address is one of the many whose canonical form is seen at a glance."""
    plain = _PLAIN.match(url) if len(url) <= MAX_URL_CHARS else None
    return plain is not None and "/." not in url and _canonical_host(plain[1]) == plain[1]


def joiner(base: str) -> Callable[[str], str | None]:
    """A function that makes the addresses of one page absolute; it gives None where it cannot.

    What nearly all addresses look like is put together here, at a tenth of ``urljoin``'s cost;
    dot segments stay, for ``canonical`` resolves them.

    Args:
        base: The address that relative ones refer to.
    """
    parts = _BASE.match(base)
    if parts is None:
        return lambda address: _joined(base, address)
    scheme, origin = parts[1], parts[1] + parts[2]
    folder = f"{origin}{(parts[3] or '/').rpartition('/')[0]}/"

    def join(address: str) -> str | None:
        if address.startswith(("http://", "https://")):
            return address
        start = address[:1]
        if start == "/":
            if address[1:2] != "/":
                return origin + address
            if address[2:3] != "/":
                return scheme + address
        elif start not in "?#;\\" and ":" not in address:
            return folder + address
        return _joined(base, address)

    return join


def _joined(base: str, address: str) -> str | None:
    try:
        return urljoin(base, address)
    except ValueError:  # an unclosed bracket in the host
        return None


def url_id(url: str) -> str:
    """The id of a canonical address: 32 hex digits of blake2b-128."""
    return hashlib.blake2b(url.encode(), digest_size=16).hexdigest()


def uid(picture: str, caption: str) -> str:
    """The id of a pair: 32 hex digits of blake2b-128.

    Args:
        picture: ``url_id`` of the address.
        caption: The caption in Unicode NFC.
    """
    return hashlib.blake2b(f"{picture}\n{caption}".encode(), digest_size=16).hexdigest()


def host(url: str) -> str:
    """The host of a canonical address, IPv6 addresses in brackets."""
    authority = url.split("/", 3)[2]
    return authority if authority.endswith("]") else re.sub(r":[0-9]+\Z", "", authority)


def registered_domain(url: str) -> str:
    """The name under a public suffix that owns the host; the host itself where it has none.

    ``https://img.shop.example.co.uk/a.jpg`` belongs to ``example.co.uk``.

    Args:
        url: A canonical address.
    """
    return domain_of_host(host(url))


def bucket(url: str, num_buckets: int) -> int:
    """The crawl partition of an address: all addresses of one registered domain share it.

    Files of a folder have no owner who would have to be spared; they are spread.

    Args:
        url: A canonical address.
        num_buckets: Number of partitions, at least 1.
    """
    owner = url if url.startswith(LOCAL) else registered_domain(url)
    return hash64("bucket", owner) % num_buckets


def buckets(addresses: pa.ChunkedArray, num_buckets: int) -> Int64[np.ndarray, " url"]:
    """``bucket`` of each canonical address of a column without nulls; works once per host."""
    coded = sites(addresses)
    found = [bucket(site, num_buckets) for site in coded.dictionary.to_pylist()]
    return np.array(found, np.int64)[coded.indices.to_numpy()]


def sites(addresses: pa.ChunkedArray) -> pa.DictionaryArray:
    """Scheme, host and port of each canonical address of a column, each once, with a final slash.

    Files of a folder have no site: their address stands whole.
    """
    options = pc.ReplaceSubstringOptions(r"^(https?://[^/]*/).*$", r"\1")
    column = addresses.combine_chunks()
    return pc.call_function("replace_substring_regex", [column], options).dictionary_encode()


@lru_cache(maxsize=1 << 16)
def domain_of_host(name: str) -> str:
    """``registered_domain`` of a host's name."""
    return _extract(name).top_domain_under_public_suffix or name


@lru_cache(maxsize=1 << 16)
def _canonical_host(text: str) -> str | None:
    if text.startswith("["):
        return _canonical_ipv6(text[1:-1])
    name = text.lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            return None
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_ASCII_LABEL.match(label) for label in labels):
        return None
    if _NUMBER.match(labels[-1]):
        return _canonical_ipv4(name)
    return name


def _canonical_ipv4(text: str) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:  # 0x7f.1, 2130706433 and 127.1 hide an address; refused, not guessed
        return None


def _canonical_ipv6(text: str) -> str | None:
    try:
        return f"[{ipaddress.IPv6Address(text)}]"
    except ValueError:
        return None


def _percent(match: re.Match[str]) -> str:
    """One percent-encoded octet or one character that may not stand as it is."""
    text = match[0]
    if len(text) == 1:
        return "".join(f"%{octet:02X}" for octet in text.encode())
    character = chr(int(text[1:], 16))
    return character if _IS_UNRESERVED.match(character) else text.upper()


def _without_dot_segments(path: str) -> str:
    """RFC 3986 §5.2.4 for an absolute or empty path."""
    if "/." not in path:
        return path or "/"
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
