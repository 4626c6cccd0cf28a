"""Reading a WAT file against a plain FastWARC + json loop that yields the same pairs.

The file is made here, in the extractor's form (``tests/wat_records.py``): per page three records,
60 links and 10 pictures. The peer parses every document with ``json``, joins with ``urljoin``,
makes addresses canonical and obeys opt-outs by our own functions, and collects tuples. Ours does
that and more: ids, language, damage, an Arrow table. Both are counted in pairs per CPU second of
one core: ``python -m tests.benchmarks.wat_extraction``.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
from fastwarc.warc import ArchiveIterator, WarcRecordType

from pipeline.candidates import archives, common_crawl, opt_outs, urls
from pipeline.candidates.config import WatConfig
from pipeline.candidates.rows import clean_caption
from tests import wat_records
from tests.benchmarks.paired import compare, finish

AT_LEAST = 1.5
NUM_LINKS, NUM_PICTURES, NUM_METAS = 60, 10, 12
OPT_OUT_EVERY = 50
"""One page of so many refuses."""

Pair = tuple[str, str, str | None]


def main() -> int:
    """Compare on a file of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=4000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wat-") as folder:
        path = Path(folder) / "a.warc.wat.gz"
        wat_records.write(path, _pages(arguments.pages))
        return finish([_compare(path)])


def _compare(path: Path) -> dict:
    config = WatConfig(type="wat", path=str(path))
    (partition,) = common_crawl.plan(config)

    def ours() -> list[Pair]:
        table = common_crawl.read(config, partition).table
        columns = (table.column(name).to_pylist() for name in ("url", "caption", "page_url"))
        return list(zip(*columns, strict=True))

    pairs = ours()
    assert pairs == list(_plain_loop(path)), "the two sides yield different pairs"
    unpack_s = _cpu_s(lambda: sum(1 for _ in archives.records(str(path), _KIND, [])))
    read_s = _cpu_s(lambda: common_crawl.read(config, partition))
    return compare(
        "wat_extraction",
        lambda: len(pairs) / _cpu_s(lambda: common_crawl.read(config, partition)),
        lambda: len(pairs) / _cpu_s(lambda: list(_plain_loop(path))),
        unit="pairs/s/core",
        at_least=AT_LEAST,
        peer_named={
            "command": "_plain_loop in tests/benchmarks/wat_extraction.py",
            "version": f"fastwarc {version('fastwarc')}, json of {sys.version.split()[0]}",
            "input_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "num_pairs": len(pairs),
        },
        unpacking_share_of_ours=unpack_s / read_s,
        mb_per_s=path.stat().st_size / 1e6 / read_s,
    )


_KIND = WarcRecordType.metadata


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _plain_loop(path: Path) -> Iterator[Pair]:
    with path.open("rb") as file:
        for record in ArchiveIterator(file, record_types=_KIND, parse_http=False):
            envelope = json.loads(record.reader.read())["Envelope"]
            response = envelope["Payload-Metadata"].get("HTTP-Response-Metadata")
            if response is None or response["Response-Message"]["Status"] != "200":
                continue
            page, html = (
                envelope["WARC-Header-Metadata"]["WARC-Target-URI"],
                response.get("HTML-Metadata", {}),
            )
            head = html.get("Head", {})
            if _refuses(response["Headers"], head.get("Metas", ())):
                continue
            yield from _pairs(page, urljoin(page, head.get("Base", "")), html.get("Links", ()))


def _refuses(headers: dict, metas: list[dict]) -> bool:
    robots = [headers[name] for name in headers if name.lower() == opt_outs.ROBOTS_HEADER]
    return opt_outs.header_opts_out(robots) or any(
        opt_outs.meta_opts_out(meta.get("name", ""), meta.get("content", "")) for meta in metas
    )


def _pairs(page: str, base: str, links: list[dict]) -> Iterator[Pair]:
    page_url = urls.canonical(page)
    for link in links:
        if link["path"] == "IMG@/src":
            address = urls.canonical(urljoin(base, link["url"].strip()))
            caption = clean_caption(link.get("alt") or link.get("title"))
            if address and caption:
                yield address, caption, page_url


def _pages(num: int) -> Iterator[wat_records.HtmlPage]:
    """Pages as blogs and shops have them: navigation, pictures with and without a text."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["".join(rng.choice(letters, rng.integers(2, 11))) for _ in range(5000)]
    accented = [word + "é" if rng.random() < 0.05 else word for word in vocabulary]

    def words(num: int, mark: str = " ") -> str:
        source = accented if mark == " " else vocabulary
        return mark.join(source[index] for index in rng.integers(0, len(source), num))

    for number in range(num):
        site = f"https://www.{words(1, '-')}.com"
        metas = "".join(
            f'<meta property="og:{words(1, "-")}" content="{words(8)}">' for _ in range(NUM_METAS)
        )
        robots = "noai" if number % OPT_OUT_EVERY == 0 else "index, follow"
        elements = [_anchor(site, words, rng.random()) for _ in range(NUM_LINKS)]
        elements += [_image(site, words, *rng.random(2)) for _ in range(NUM_PICTURES)]
        rng.shuffle(elements)
        yield wat_records.HtmlPage(
            f"{site}/{words(4, '-')}/",
            f'<html lang="en"><head><title>{words(8)}</title><meta name="robots" '
            f'content="{robots}">{metas}</head><body>{"".join(elements)}</body></html>',
        )


def _anchor(site: str, words: Callable[..., str], draw: float) -> str:
    if draw < 0.6:
        return f'<a href="{site}/{words(6, "-")}/" title="{words(4)}">{words(5)}</a>'
    return f'<a href="/{words(3, "-")}">{words(3)}</a>'


def _image(site: str, words: Callable[..., str], draw: float, alt_draw: float) -> str:
    if draw < 0.1:
        address = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    elif draw < 0.3:
        address = f"//cdn{site.removeprefix('https://www')}/{words(2, '-')}.jpg?w=300&amp;h=200"
    elif draw < 0.45:
        address = f"/images/{words(2, '-')}.png"
    else:
        address = f"{site}/wp-content/uploads/2023/10/{words(3, '-')}-300x200.jpg"
    return f'<img src="{address}" alt="{words(5) if alt_draw < 0.6 else ""}">'


if __name__ == "__main__":
    sys.exit(main())
