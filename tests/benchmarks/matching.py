"""Matching against pyahocorasick running the published rule: same captions, lists and core.

Two lists of 500,000 queries: ``words`` is WordNet's names filled up with a dictionary; ``phrases``
has the word sequences of half of the captions between the two, so that many queries match. The peer
pads with spaces, wraps the seven marks and keeps case, takes its captions as Python strings and
stops at a set of ids per caption; ours starts and ends with Arrow columns. The ids must be equal.

Needs ``apt-get install wordnet-base wamerican-insane`` and a table of captions:
``python -m tests.benchmarks.matching --captions captions.parquet --column TEXT``.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.candidates.rows import clean_caption
from pipeline.queries import wordnet
from pipeline.queries.matching import SEVEN_MARKS, Matcher
from tests.benchmarks.paired import compare, finish

PEER = "pyahocorasick==2.3.1"
NUM_QUERIES = 500_000
LONGEST_PHRASE = 3
PASSES = 8
"""Times that one side of a pair goes over the captions."""
AT_LEAST = 2.0


def main() -> int:
    """Compare for both lists; also tells the rate of the profile that the peer has not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", required=True, help="Parquet of captions")
    parser.add_argument("--column", default="TEXT")
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    parser.add_argument("--words", default="/usr/share/dict/american-english-insane")
    arguments = parser.parse_args()
    for path in (arguments.captions, arguments.wordnet, arguments.words):
        if not Path(path).exists():
            parser.error(f"{path} does not exist; see --help and the head of this file")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    captions = read_captions(arguments.captions, arguments.column)
    names = sorted(wordnet.synset_names(arguments.wordnet))
    words = Path(arguments.words).read_text(encoding="utf-8").split()
    lists = {"words": _filled(names, words), "phrases": _filled(names, _phrases(captions), words)}
    python = peer_python(PEER)
    return finish([_compare(name, queries, captions, python) for name, queries in lists.items()])


def read_captions(path: str, column: str) -> list[str]:
    """The captions of a Parquet file as candidates have them."""
    return [clean_caption(text) for text in pq.read_table(path).column(column).to_pylist()]


def peer_python(*requirements: str) -> str:
    """The interpreter of an environment that holds the peer alone; made where there is none."""
    name = "-".join(requirements).replace("==", "-")
    folder = Path(tempfile.gettempdir()) / f"peer-{name}"
    python = str(folder / "bin" / "python")
    if not (folder / "complete").exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", "-p", sys.executable, folder], check=True)
        subprocess.run([*uv, "pip", "install", "-q", "-p", python, *requirements], check=True)
        (folder / "complete").touch()
    return python


def _filled(*sources: list[str]) -> list[str]:
    """The first distinct queries of the sources, in order."""
    distinct = dict.fromkeys(chain.from_iterable(sources))
    return sorted(islice(distinct, NUM_QUERIES))


def _phrases(captions: list[str]) -> list[str]:
    """Sequences of one to three words of every second caption; those with a mark never match."""
    found = []
    for caption in captions[::2]:
        words = caption.split()
        for length in range(1, LONGEST_PHRASE + 1):
            for first in range(len(words) - length + 1):
                phrase = " ".join(words[first : first + length])
                if not any(mark in phrase for mark in SEVEN_MARKS):
                    found.append(phrase)
    return found


def _compare(name: str, queries: list[str], captions: list[str], python: str) -> dict:
    column = pa.array(captions, pa.string())
    started = time.perf_counter()
    matcher = Matcher(queries, "literal")
    build_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory(prefix="matching-") as folder:
        content = json.dumps({"queries": queries, "captions": captions}).encode()
        Path(folder, "input.json").write_bytes(content)
        command = [python, str(Path(__file__).with_name("matching_peer.py")), folder, str(PASSES)]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert peer.stdin is not None
        assert peer.stdout is not None
        told = json.loads(peer.stdout.readline())
        ids = matcher.match(column)
        if ids.to_pylist() != json.loads(Path(folder, "ids.json").read_bytes()):
            raise AssertionError(f"list {name}: our ids are not the peer's")

        def peer_rate() -> float:
            peer.stdin.write("\n")
            peer.stdin.flush()
            return float(peer.stdout.readline())

        found = compare(
            f"matching, list {name}",
            lambda: _rate(matcher, column),
            peer_rate,
            unit="captions/s",
            at_least=AT_LEAST,
            peer_named={
                "command": "tests/benchmarks/matching_peer.py",
                "version": PEER,
                "queries": len(queries),
                "captions": len(captions),
                "input_sha256": hashlib.sha256(content).hexdigest(),
            },
            build_s=build_s,
            peer_build_s=told["build_s"],
            matches_per_caption=len(ids.flatten()) / len(captions),
        )
        peer.stdin.close()
        peer.wait(60)
    normalised = Matcher(queries, "normalised")
    rates = sorted(_rate(normalised, column) for _ in range(5))
    return found | {"normalised_captions_per_s": rates[2]}


def _rate(matcher: Matcher, column: pa.Array) -> float:
    started = time.perf_counter()
    for _ in range(PASSES):
        matcher.match(column)
    return PASSES * len(column) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
