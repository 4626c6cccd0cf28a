"""Titles of a wiki's articles and how often they were read, from Wikimedia's page-view files.

Lines are ``domain title views bytes`` (hourly files of pageviews, pagecounts-raw and -all-sites;
``en`` is the English Wikipedia's desktop site, ``en.m`` its mobile one) or ``wiki title page_id
access views hours`` (daily files of pageview_complete, where the wiki is ``en.wikipedia``).
Documentation: https://wikitech.wikimedia.org/wiki/Analytics/Data_Lake/Traffic/Pageviews.

Titles are percent-decoded, underscores become spaces. Left out are, by reason:

================  ================================================================================
reason            meaning
================  ================================================================================
below_min_views   fewer views in all files together
namespace         a colon with a word right behind it, as in ``Talk:Cat``; a colon and a space are
                  an article's own: ``Alien: Covenant``
main_page         the wiki's main page
undecodable       no UTF-8
================  ================================================================================
"""

import bz2
import gzip
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from pipeline import storage
from pipeline.candidates import files
from pipeline.queries.config import PageViewsSource

BELOW_MIN_VIEWS = "below_min_views"
NAMESPACE = "namespace"
MAIN_PAGE = "main_page"
UNDECODABLE = "undecodable"

VIEWS_FIELD = {4: 2, 6: 4}
"""Which field of a line holds the views, by the number of its fields."""

_NAMESPACE = re.compile(r"[^:]+:[^\s_]")


@dataclass
class Reading:
    """What was met in a file beside its titles."""

    num_lines: int = 0
    """Lines of the wanted projects."""
    malformed_lines: int = 0
    """Those of them that are no line of page views."""
    damage: list[str] = field(default_factory=list)
    """One line per damaged place: file name, byte, cause."""


def view_paths(source: PageViewsSource) -> list[str]:
    """All files of a source, sorted by name.

    Raises:
        ConfigError: Nothing is behind a path.
    """
    found = {file for path in source.paths for file in files.expand(path, files.ANY_ENDING)}
    return sorted({storage.absolute(each) for each in found if not _is_folder(each)})


def views(path: str, projects: tuple[str, ...], reading: Reading) -> Iterator[tuple[str, int]]:
    """Decoded titles of a file with their views, a title once per line that names it.

    Args:
        path: A file, plain, ``.gz`` or ``.bz2``.
        projects: First fields of the lines that count.
        reading: Receives the number of lines and the damage.
    """
    beginnings = tuple(f"{project} ".encode() for project in projects)
    with storage.open_for_read(path) as file:
        for number, line in enumerate(io.BufferedReader(_lines(file, path, reading.damage))):
            if number == 0 and _parsed(line) is None:
                reading.damage.append(f"{files.base_name(path)}: byte 0: no line of page views")
            if not line.startswith(beginnings):
                continue
            reading.num_lines += 1
            found = _parsed(line)
            if found is None:
                reading.malformed_lines += 1
            else:
                yield found


def judge(table: pa.Table, source: PageViewsSource) -> tuple[pa.Table, Counter[str]]:
    """The titles that may become queries, and how many may not, by reason."""
    rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
    reasons = [_why_not(title, num_views, source) for title, num_views in rows]
    kept = table.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
    return kept, Counter(reason for reason in reasons if reason is not None)


def _is_folder(path: str) -> bool:
    """A glob finds folders too; object stores have none."""
    return storage.is_local(path) and storage.local_path(path).is_dir()


def _lines(file: IO[bytes], path: str, damage: list[str]) -> files.WholeLines:
    name = files.base_name(path)
    # read1 hands out what precedes a break; read would lose it with the error.
    ending = path.lower().rsplit(".", 1)[-1]
    if ending == "gz":
        return files.WholeLines(gzip.GzipFile(fileobj=file).read1, name, damage)
    if ending == "bz2":
        return files.WholeLines(bz2.BZ2File(file).read1, name, damage)
    return files.WholeLines(file.read, name, damage)


def _parsed(line: bytes) -> tuple[str, int] | None:
    fields = line.split()
    place = VIEWS_FIELD.get(len(fields))
    if place is None or not fields[place].isdigit():
        return None
    return _title(fields[1]), int(fields[place])


def _title(written: bytes) -> str:
    content = unquote_to_bytes(written) if b"%" in written else written
    text = content.decode("utf-8", errors="replace")
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.replace("_", " ").split())


def _why_not(title: str, num_views: int, source: PageViewsSource) -> str | None:
    if num_views < source.min_views:
        return BELOW_MIN_VIEWS
    if "\ufffd" in title:
        return UNDECODABLE
    if title == source.main_page:
        return MAIN_PAGE
    return NAMESPACE if _NAMESPACE.match(title) else None
