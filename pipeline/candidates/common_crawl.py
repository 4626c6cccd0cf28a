"""Common Crawl's files → candidates: every ``<img>`` of every page, with its text and its page.

Two kinds hold the same pages: web archives (WARC, ``html_pages``) and extracts of them (WAT,
``wat_pages``). Addresses are made absolute against ``<base>`` and the page. A page that opts out
(``opt_outs``) gives nothing, before any request is sent. A file that ends early or breaks gives
what lies before the break and is named.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from pipeline.candidates import files, html_pages, rows, schema, urls, wat_pages
from pipeline.candidates.config import WarcConfig, WatConfig
from pipeline.candidates.pages import Page
from pipeline.candidates.rows import Candidates, RawRows

ROWS_PER_TABLE = 20_000
ENDINGS = {"warc": (".warc.gz", ".warc"), "wat": (".wat.gz", ".wat")}
READERS: dict[str, Callable[[str, list[str]], Iterator[Page]]] = {
    "warc": html_pages.pages,
    "wat": wat_pages.pages,
}
LANGUAGE = pa.schema([pa.field(schema.LANGUAGE, pa.string())])


def plan(config: WarcConfig | WatConfig) -> list[dict[str, Any]]:
    """One partition per file: sorted by name, or in the order of a list.

    Raises:
        ConfigError: There is no such file, or the list names files of another kind.
    """
    endings = ENDINGS[config.type]
    if files.is_list(config.path):
        paths = files.listed(config.path, config.prefix, endings)
    else:
        paths = files.expand(config.path, endings)
    return [{"type": config.type, "path": path} for path in paths]


def read(config: WarcConfig | WatConfig, partition: dict[str, Any]) -> Candidates:
    """The candidates of one file; what is cut off or broken is named in ``damage``."""
    damage: list[str] = []
    dropped: Counter[str] = Counter()
    tables = [rows.empty(LANGUAGE)]
    pages = READERS[config.type](str(partition["path"]), damage)
    for raw in _raw_rows(_willing(pages, dropped)):
        found = rows.build(raw, config.sample)
        tables.append(found.table)
        dropped.update(found.dropped)
    return Candidates(pa.concat_tables(tables).combine_chunks(), dict(dropped), damage)


def _willing(pages: Iterable[Page], dropped: Counter[str]) -> Iterator[Page]:
    """The pages that do not opt out."""
    for page in pages:
        if not page.opts_out:
            yield page
        elif page.pictures:
            dropped[schema.OPTED_OUT_PAGE] += len(page.pictures)


def _raw_rows(pages: Iterable[Page]) -> Iterator[RawRows]:
    """Rows of many pages together: a table per page would cost more than its rows."""
    addresses: list[str | None] = []
    texts: list[str] = []
    page_urls: list[str | None] = []
    languages: list[str | None] = []
    for page in pages:
        page_url = urls.canonical(page.url)
        join = urls.joiner(_base(page) if page_url else "")
        for address, text, language in page.pictures:
            addresses.append(join(address))
            texts.append(text)
            languages.append(language)
        page_urls += [page_url] * len(page.pictures)
        if len(addresses) >= ROWS_PER_TABLE:
            yield _as_raw(addresses, texts, page_urls, languages)
            addresses, texts, page_urls, languages = [], [], [], []
    yield _as_raw(addresses, texts, page_urls, languages)


def _base(page: Page) -> str:
    """What relative addresses refer to; nothing where that is too long to be an address."""
    if len(page.base) > urls.MAX_URL_CHARS:
        return ""
    return (urls.joiner(page.url)(page.base) if page.base else None) or page.url


def _as_raw(
    addresses: list[str | None],
    texts: list[str],
    page_urls: list[str | None],
    languages: list[str | None],
) -> RawRows:
    carried = pa.table([pa.array(languages, pa.string())], schema=LANGUAGE)
    return RawRows(addresses, texts, page_urls=page_urls, carried=carried)
