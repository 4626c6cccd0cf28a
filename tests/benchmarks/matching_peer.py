"""The published rule on pyahocorasick, in an interpreter of its own: one rate per line asked for.

``python matching_peer.py <folder> <passes>`` reads ``input.json`` there, writes ``ids.json``, tells
its build time, and then measures once per line of its standard input.
"""

import json
import sys
import time
from pathlib import Path

import ahocorasick


def main(folder: Path, passes: int) -> None:
    """Build, prove, and answer until the input ends."""
    given = json.loads((folder / "input.json").read_bytes())
    captions = given["captions"]
    started = time.perf_counter()
    automaton = ahocorasick.Automaton()
    for index, query in enumerate(given["queries"]):
        automaton.add_word(f" {query} ", index)
    automaton.make_automaton()
    build_s = time.perf_counter() - started
    (folder / "ids.json").write_text(json.dumps([sorted(match(automaton, c)) for c in captions]))
    print(json.dumps({"build_s": build_s}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(passes):
            for caption in captions:
                match(automaton, caption)
        print(passes * len(captions) / (time.perf_counter() - started), flush=True)


def match(automaton: ahocorasick.Automaton, caption: str) -> set[int]:
    """Ids of the queries in a caption."""
    for mark in ",.;:?!`":
        if mark in caption:
            caption = caption.replace(mark, f" {mark} ")
    caption = caption.replace("\t", " ").replace("\n", " ").replace("\r", " ")
    return {index for _, index in automaton.iter(f" {caption} ")}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
