"""How fast one core turns Wikipedia's wikitext into counts of words and of pairs of words.

There is no peer that gives the same counts, so the rates are absolute, against a bar of 5 MB/s.
Counted are bytes of wikitext in UTF-8, per second of this process on one core, from the wikitext to
its visible words (``text``), to the counts (``count``), and from the packed multistream dump to the
counts (``dump``, told without a bar: bzip2 alone takes a quarter of it). The articles are made by
``tests/wikipedia_dump.py``, with about the share of markup of the English Wikipedia's; ``--dump``
names a real dump instead.
"""

import argparse
import bz2
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pipeline.queries import wikipedia
from pipeline.queries.wikitext import Namespaces, plain_text
from pipeline.queries.words import WordCounter
from tests.benchmarks.paired import TOLERANCE, finish, lower_bound
from tests.wikipedia_dump import Page, long_article, write_multistream

AT_LEAST_MB_PER_S = 5.0
RUNS = 7
NUM_PAGES = 2000
"""A task of a real run reads ten times as much: what a task costs at its end counts less there."""
NUM_BUCKETS = 128
MAX_BYTES = 12_000_000
"""Of a given dump, so much wikitext is read."""


def main() -> int:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dump", help="a .xml or .xml.bz2 dump; made articles by default")
    parser.add_argument("--profile", choices=("literal", "normalised"), default="normalised")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wikipedia-") as folder:
        texts = list(_real(arguments.dump) if arguments.dump else _made())
        pages = [Page(f"Page {number}", text) for number, text in enumerate(texts)]
        dump = write_multistream(Path(folder, "a-multistream.xml.bz2"), pages, per_stream=100)
        num_bytes = sum(len(text.encode()) for text in texts)
        described = {
            "input_sha256": hashlib.sha256("".join(texts).encode()).hexdigest(),
            "mb_of_wikitext": num_bytes / 1e6,
            "num_words": _count(texts, arguments.profile),
            "profile": arguments.profile,
        }
        sides: dict[str, Callable[[], object]] = {
            "text": lambda: _text(texts),
            "count": lambda: _count(texts, arguments.profile),
            "dump": lambda: _count(_articles(dump), arguments.profile),
            "bzip2 alone": lambda: bz2.decompress(dump.read_bytes()),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for run in range(RUNS):
            for name, side in sides.items():
                started = time.perf_counter()
                side()
                rates[name].append(num_bytes / 1e6 / (time.perf_counter() - started))
            found = ", ".join(f"{name} {each[-1]:.2f}" for name, each in rates.items())
            print(f"run {run + 1}: {found} MB/s", file=sys.stderr, flush=True)
    for name in ("dump", "bzip2 alone"):
        described[f"{name} MB/s"] = float(np.median(rates[name]))
    return finish([_result(name, rates[name], described) for name in ("text", "count")])


def _result(name: str, rates: list[float], described: dict) -> dict:
    ratios = np.array(rates) / AT_LEAST_MB_PER_S
    low90 = lower_bound(ratios)
    return {
        "benchmark": f"wikipedia {name}",
        "ours": float(np.median(rates)),
        "peer": AT_LEAST_MB_PER_S,
        "unit": "MB/s per core",
        "ratio": float(np.median(ratios)),
        "low90": low90,
        "at_least": 1.0,
        "runs": len(rates),
        "ok": low90 >= 1.0 - TOLERANCE,
        "peer_is": {"command": "none: the bar itself"},
        **described,
    }


def _text(texts: Iterable[str]) -> int:
    namespaces = Namespaces()
    return sum(len(plain_text(text, namespaces)) for text in texts)


def _count(texts: Iterable[str], profile: str) -> int:
    counter = WordCounter(profile, with_bigrams=True)  # type: ignore[arg-type]
    namespaces = Namespaces()
    for text in texts:
        counter.add(plain_text(text, namespaces))
    counter.take(NUM_BUCKETS)
    return counter.num_words


def _articles(dump: Path) -> Iterable[str]:
    for row in wikipedia.plan(str(dump), 1 << 40):
        yield from wikipedia.articles(row, wikipedia.Reading())


def _made() -> Iterable[str]:
    rng = random.Random(0)
    return (long_article(rng) for _ in range(NUM_PAGES))


def _real(dump: str) -> Iterable[str]:
    num_bytes = 0
    for row in wikipedia.plan(dump, 1 << 40):
        for text in wikipedia.articles(row, wikipedia.Reading()):
            num_bytes += len(text.encode())
            if num_bytes > MAX_BYTES:
                return
            yield text


if __name__ == "__main__":
    sys.exit(main())
