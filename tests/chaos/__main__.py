"""Seeded kills: of the whole tiny chain at failpoints, or of its curation at random moments.

``python -m tests.chaos --num 3 --seed 1`` draws three failpoints, a minute or two each; ``--all``
takes every one once. ``--moments 20`` kills the curation at twenty moments, job, worker and node in
turn, about 40 s each; ``--training 10`` does so to a training of 300 steps, and goes on with other
numbers of workers too; ``--node`` kills a node of a small cluster in the middle of ``curate``.

``--table`` runs the tests of every row of ``matrix.yaml`` and three seeded kills of the curation
(``--num``), and prints what was tried and what held, as Markdown; ``--rows 1-4,secrets`` are some
rows. ``--soak 1h`` kills curation and training in turn until the time is over.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.chaos import matrix
from tests.chaos.kills import Outcome, draw, points, strike, undisturbed
from tests.chaos.moments import draw_moments, strike_at, undisturbed_curation
from tests.chaos.training import draw_training_kills, strike_training, undisturbed_training

SECONDS = {"s": 1, "m": 60, "h": 3600}
ENDLESS = 10_000


def main() -> int:
    """Run the kills; 0 where every one was survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="every failpoint once")
    parser.add_argument("--num", type=int, default=3, help="so many kills (default 3)")
    parser.add_argument("--moments", type=int, help="so many random moments of the curation")
    parser.add_argument("--training", type=int, help="so many random moments of a training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--node", action="store_true", help="nodes of a cluster, and no failpoint")
    parser.add_argument("--table", action="store_true", help="every row of the table of faults")
    parser.add_argument("--rows", help="of the table: names with commas, faults, security, 5-9")
    parser.add_argument("--soak", type=_seconds, help="random kills for so long: 90s, 10m, 1h")
    arguments = parser.parse_args()
    if arguments.table:
        return table(matrix.chosen(arguments.rows), arguments.seed, arguments.num)
    if arguments.soak:
        return soak(arguments.seed, arguments.soak)
    if arguments.moments:
        kills = draw_moments(arguments.seed, arguments.moments)
        return report(arguments.seed, run(kills, undisturbed_curation, strike_at))
    if arguments.training:
        kills = draw_training_kills(arguments.seed, arguments.training)
        return report(arguments.seed, run(kills, undisturbed_training, strike_training))
    if arguments.node:
        return pytest.main(["-q", str(Path(__file__).with_name("test_node.py"))])
    kills = draw(arguments.seed, len(points()) if arguments.all else arguments.num)
    return report(arguments.seed, run(kills, undisturbed, strike))


def run(
    kills: Iterable, undisturbed: Callable, strike: Callable[..., Outcome]
) -> Iterator[Outcome]:
    """Every kill against one undisturbed run, told as it goes."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    expected = undisturbed(folder / "undisturbed")
    for number, kill in enumerate(kills):
        outcome = strike(kill, folder / str(number), expected)
        verdict = outcome.difference or "survived"
        line = f"{kill!s:<36} {outcome.calls} calls, {outcome.seconds:.0f} s: {verdict}"
        print(line, file=sys.stderr, flush=True)
        if not outcome.difference:
            shutil.rmtree(folder / str(number))
        yield outcome


def report(seed: int, outcomes: Iterable[Outcome]) -> int:
    """What became of all, as one line of JSON."""
    print(f"seed {seed}", file=sys.stderr)
    found = list(outcomes)
    survived = sum(not outcome.difference for outcome in found)
    summary = {"seed": seed, "kills": len(found), "survived": survived}
    print(json.dumps({**summary, "outcomes": [asdict(outcome) for outcome in found]}))
    return 0 if survived == len(found) > 0 else 1


def soak(seed: int, seconds: float) -> int:
    """Curation and training are killed in turn, and compared, until the time is over."""
    ends = time.monotonic() + seconds
    kinds = [
        run(draw_moments(seed, ENDLESS), undisturbed_curation, strike_at),
        run(draw_training_kills(seed, ENDLESS), undisturbed_training, strike_training),
    ]

    def outcomes() -> Iterator[Outcome]:
        number = 0
        while time.monotonic() < ends:
            yield next(kinds[number % 2])
            number += 1

    return report(seed, outcomes())


def table(rows: list[matrix.Row], seed: int, num: int) -> int:
    """The rows' tests and kills, as Markdown; 0 where all held."""
    print(f"seed {seed}", file=sys.stderr)
    struck = {row.kills for row in rows if row.kills}
    moments = [each for each in draw_moments(seed, num) if each.victim in struck]
    outcomes: dict[str, list[Outcome]] = {}
    if moments:
        for moment, outcome in zip(
            moments, run(moments, undisturbed_curation, strike_at), strict=True
        ):
            outcomes.setdefault(moment.victim, []).append(outcome)
    counts = matrix.run_tests(rows)
    print(matrix.markdown(rows, counts, outcomes))
    missed = matrix.misses(counts, [each for found in outcomes.values() for each in found])
    for miss in missed:
        print(f"did not hold: {miss}", file=sys.stderr)
    return 1 if missed else 0


def _seconds(text: str) -> float:
    try:
        return float(text[:-1]) * SECONDS[text[-1:]]
    except (KeyError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text}: expected 90s, 10m or 1h") from error


if __name__ == "__main__":
    sys.exit(main())
