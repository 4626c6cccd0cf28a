"""Raw (address, caption) columns become candidates; what falls is counted by its reason."""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.candidates import schema, urls


@dataclass(frozen=True)
class RawRows:
    """Columns as a source gave them, all of one length."""

    urls: Sequence[str | None]
    captions: Sequence[str | None]
    page_urls: Sequence[str | None] | None = None
    """None where the source has no such column."""
    licences: Sequence[str | None] | None = None
    carried: pa.Table | None = None
    """Further columns, same number of rows; None where nothing is carried."""
    url_prefix: str = ""
    """Written before every address that is no http(s) address itself."""
    is_local: bool = False
    """Whether the addresses are paths inside the source's folder, after ``url_prefix``."""


@dataclass(frozen=True)
class Candidates:
    """What reading one partition gave."""

    table: pa.Table
    """``schema.CANDIDATE`` and carried columns."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows per drop reason; with the table's rows it is every row that was read."""
    damage: list[str] = field(default_factory=list)
    """One line per unreadable file, row group or record: file name, place, cause."""


def build(raw: RawRows, sample: float = 1.0) -> Candidates:
    """Make addresses and captions canonical, give ids, and drop what is no candidate.

    Args:
        raw: Columns as a source gave them.
        sample: Share of the addresses that are used.
    """
    kept: list[int] = []
    addresses: list[str] = []
    ids: list[str] = []
    captions: list[str] = []
    dropped: Counter[str] = Counter()
    # Ids are hex digits of a hash, so their order as text is their order as numbers.
    end_of_sample = f"{int(sample * (1 << 64)):016x}" if sample < 1 else "g"
    for index, (url, caption) in enumerate(zip(raw.urls, raw.captions, strict=True)):
        address = _address(url, raw) if url else None
        text = clean_caption(caption)
        if address is None:
            dropped[schema.INVALID_URL] += 1
        elif not text:
            dropped[schema.EMPTY_CAPTION] += 1
        elif (url_id := urls.url_id(address)) >= end_of_sample:
            dropped[schema.NOT_IN_SAMPLE] += 1
        else:
            kept.append(index)
            addresses.append(address)
            ids.append(url_id)
            captions.append(text)
    table = _table(addresses, ids, captions, kept, raw)
    return Candidates(table, dict(dropped))


def clean_caption(caption: str | None) -> str:
    """White space stripped at both ends, Unicode NFC; empty where there is no caption."""
    if not caption or caption.isascii():
        return caption.strip() if caption else ""
    return unicodedata.normalize("NFC", well_formed(caption)).strip()


def well_formed(text: str) -> str:
    """Text that UTF-8 can write: JSON may hold half a character, which becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def empty(carried: pa.Schema | None = None) -> pa.Table:
    """A table of candidates without rows."""
    return pa.schema([*schema.CANDIDATE, *(carried or [])]).empty_table()


def _address(url: str, raw: RawRows) -> str | None:
    if raw.is_local:
        return urls.local(posixpath.join(raw.url_prefix, url))
    if not raw.url_prefix or url.lstrip().lower().startswith(("http://", "https://")):
        return urls.canonical(url)
    return urls.canonical(raw.url_prefix + url)


def _table(
    addresses: list[str], ids: list[str], captions: list[str], kept: list[int], raw: RawRows
) -> pa.Table:
    uids = [urls.uid(*pair) for pair in zip(ids, captions, strict=True)]
    columns: list[Sequence[str | None]] = [addresses, ids, uids, captions]
    for values in (raw.page_urls, raw.licences):
        columns.append([None] * len(kept) if values is None else [values[i] for i in kept])
    table = pa.Table.from_arrays(
        [pa.array(column, pa.string()) for column in columns], schema=schema.CANDIDATE
    )
    if raw.carried is not None:
        rows = raw.carried.take(pa.array(kept, pa.int64()))
        for name in rows.column_names:
            table = table.append_column(rows.schema.field(name), rows.column(name))
    return table
