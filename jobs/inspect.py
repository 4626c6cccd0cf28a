"""Look into what a run did: ways of single samples, search, samples of any part, bounds.

The way of an address, a pair or a sample, every decision with its numbers; the pairs of a query;
random rejects of each drop reason: one JSON object per line.

    python -m jobs.inspect --config run.yaml --url http://a.example/cat.jpg
    python -m jobs.inspect --config run.yaml --key 0123456789abcdef0123456789abcdef
    python -m jobs.inspect --config run.yaml --query circle
    python -m jobs.inspect --config run.yaml --rejects near_duplicate

Contact sheets, in any combination; the text goes to the terminal, the pictures to --output:

    nearest pictures   --search-text "a red circle" --search-picture cat.jpg
    random samples     --sample 40
    of a query         --sample 40 --query circle
    of a drop reason   --sample 40 --reason low_similarity
    of a score band    --sample 40 --score similarity --band 0.2:0.25 --band 0.25:0.3
    around a bound     --near similarity=0.28 --change 0.02
    every bound        --sweeps

    python -m jobs.inspect --config run.yaml --search-text "a red circle" --output sheet.html
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.command import show_job

if TYPE_CHECKING:
    from pipeline.looking.asked import Asked
    from pipeline.run_file import RunFile

ALL = "all"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to look at, and how much of it."""
    ways = parser.add_argument_group("the way of one").add_mutually_exclusive_group()
    ways.add_argument("--url", help="what became of an address")
    ways.add_argument("--uid", help="what became of a pair")
    ways.add_argument("--key", help="what became of a sample")
    ways.add_argument(
        "--rejects", nargs="?", const=ALL, metavar="REASON", help="rejects of one or every reason"
    )
    sheet = parser.add_argument_group("contact sheets; options with * may be repeated")
    for name, metavar, text in (
        ("--search-text", "TEXT", "* pictures nearest to a text by the run's CLIP, exact"),
        ("--search-picture", "FILE", "* pictures nearest to a picture"),
        ("--query", "QUERY", "* pairs of a query of the list; with --sample its pictures"),
        ("--reason", "REASON", "* with --sample: what fell for a drop reason"),
        ("--band", "LOW:HIGH", "* with --sample and --score: a band of the score"),
        ("--near", "SCORE=BOUND", "* what falls or passes if a bound moves by --change"),
    ):
        sheet.add_argument(name, action="append", default=[], metavar=metavar, help=text)
    sheet.add_argument(
        "--sample", type=int, metavar="N", dest="draw", help="random samples of each part"
    )
    sheet.add_argument("--score", metavar="SCORE", help="score of the bands")
    sheet.add_argument("--change", type=float, metavar="D", help="how far the bounds would move")
    sheet.add_argument(
        "--sweeps", action="store_true", help="kept samples over every bound of every score"
    )
    sheet.add_argument("--profile", metavar="NAME", help="one keep-list (default: all)")
    sheet.add_argument("--output", metavar="FILE.html", help="one HTML file with all pictures")
    parser.add_argument(
        "--limit", type=int, default=20, help="pairs or pictures to show (default: 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default: 0)")


def show(run: "RunFile", options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The answer to what was asked."""
    from pipeline.chain.plan import finished, recorded
    from pipeline.chain.stages import source_of

    ways = {"url": options.url, "uid": options.uid, "key": options.key}
    asked = _asked(options, is_way=any(ways.values()) or options.rejects is not None)
    if asked is not None:
        return _sheet(run, asked, options.output)
    if options.query:
        from pipeline.curation.pairs import of_query

        balanced = finished(run, "balance")
        return (row for q in options.query for row in of_query(balanced, q, options.limit))
    from pipeline.curation.trace import rejects, trace

    if options.rejects is not None:
        reason = None if options.rejects == ALL else options.rejects
        return rejects(finished(run, "curate"), reason, options.seed, options.limit)
    source = None if run.candidates is None else source_of(run)
    return trace(recorded(run), source, **ways)


def _asked(options: argparse.Namespace, *, is_way: bool) -> "Asked | None":
    """The sheet that is wanted; None where something else is."""
    from pipeline.looking.asked import from_options

    return from_options(vars(options), is_way=is_way)


def _sheet(run: "RunFile", asked: "Asked", output: str | None) -> Iterator[dict[str, Any]]:
    """Text to standard error, the page to its file, objects to whoever reads standard output."""
    from pipeline.chain.plan import recorded
    from pipeline.looking import answer, sheet, sheet_page

    found = sheet.look(run.name, recorded(run), asked)
    sys.stderr.write(answer.text(found) + "\n")
    if output is not None:
        sys.stderr.write(f"\n{sheet_page.write(found, output)}\n")
    return iter(()) if sys.stdout.isatty() else answer.rows(found)


if __name__ == "__main__":
    sys.exit(show_job(__doc__ or "", show, add_options))
