"""Seeded kills: of the whole tiny chain at failpoints, or of its curation at random moments.

``python -m tests.chaos --num 3 --seed 1`` draws three failpoints, a minute or two each; ``--all``
takes every one once. ``--moments 20`` kills the curation at twenty moments, job, worker and node in
turn, about 40 s each; ``--training 10`` does so to a training of 300 steps, and goes on with other
numbers of workers too; ``--node`` kills a node of a small cluster in the middle of ``curate``.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.chaos.kills import Outcome, draw, points, strike, undisturbed
from tests.chaos.moments import draw_moments, strike_at, undisturbed_curation
from tests.chaos.training import draw_training_kills, strike_training, undisturbed_training


def main() -> int:
    """Run the kills; 0 where every one was survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every failpoint once")
    parser.add_argument("--num", type=int, default=3, help="so many kills (default 3)")
    parser.add_argument("--moments", type=int, help="so many random moments of the curation")
    parser.add_argument("--training", type=int, help="so many random moments of a training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--node", action="store_true", help="a node of a cluster, and no failpoint")
    arguments = parser.parse_args()
    if arguments.moments:
        kills = draw_moments(arguments.seed, arguments.moments)
        return run(arguments.seed, kills, undisturbed_curation, strike_at)
    if arguments.training:
        kills = draw_training_kills(arguments.seed, arguments.training)
        return run(arguments.seed, kills, undisturbed_training, strike_training)
    if arguments.node:
        return pytest.main(["-q", str(Path(__file__).with_name("test_node.py"))])
    kills = draw(arguments.seed, len(points()) if arguments.all else arguments.num)
    return run(arguments.seed, kills, undisturbed, strike)


def run(seed: int, kills: Sequence, undisturbed: Callable, strike: Callable[..., Outcome]) -> int:
    """Every kill against one undisturbed run, told as it goes."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {seed}, {len(kills)} kills", file=sys.stderr)
    expected = undisturbed(folder / "undisturbed")
    outcomes = []
    for number, kill in enumerate(kills):
        outcome = strike(kill, folder / str(number), expected)
        outcomes.append(outcome)
        verdict = outcome.difference or "survived"
        line = f"{kill!s:<36} {outcome.calls} calls, {outcome.seconds:.0f} s: {verdict}"
        print(line, file=sys.stderr, flush=True)
        if not outcome.difference:
            shutil.rmtree(folder / str(number))
    survived = sum(not outcome.difference for outcome in outcomes)
    summary = {"seed": seed, "kills": len(kills), "survived": survived}
    print(json.dumps({**summary, "outcomes": [asdict(outcome) for outcome in outcomes]}))
    return 0 if survived == len(kills) else 1


if __name__ == "__main__":
    sys.exit(main())
